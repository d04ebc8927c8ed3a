//! Sessions that are exported, restored and moved elsewhere.

use super::{MINUTE, SECOND, Stage, created, revoked, standing};
use coordinator_core::{Error, ErrorKind, clock::ManualClock, key::Name};
use coordinator_sessions::{
    Filter, KeyRing, Lookup, NewSession, Patch, RestoreMode, Restored, Rotation, Sessions, Store,
    Token,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const MODES: [RestoreMode; 3] = [RestoreMode::Skip, RestoreMode::NewerWins, RestoreMode::Overwrite];

on_every_backend! {
    what_was_exported_is_restored_elsewhere
    more_sessions_than_a_page_are_exported_once_each
    an_export_holds_no_secret
    what_was_ended_stays_so_in_every_mode
    what_was_revoked_as_a_whole_does_not_come_back
    what_comes_from_a_clock_ahead_is_revoked_none_the_less
    who_gives_way_is_as_the_mode_says
    every_flipped_byte_is_refused
    what_is_cut_off_or_missing_is_noticed
    sessions_move_from_memory_to_a_file_and_on
    what_is_ended_there_between_two_migrations_is_ended_here
}

async fn exported(sessions: &Sessions, filter: &Filter) -> String {
    let mut file = Vec::new();
    let count = sessions.export_to(filter, &mut file).await.expect("it is exported");
    let text = String::from_utf8(file).expect("text");
    assert_eq!(text.lines().count(), usize::try_from(count).expect("few") + 2, "{text}");
    text
}

async fn restored(sessions: &Sessions, text: &str, mode: RestoreMode) -> Restored {
    sessions.restore(text.as_bytes(), mode).await.expect("it is restored")
}

async fn refused(sessions: &Sessions, text: &[u8]) -> Error {
    let error = sessions.restore(text, RestoreMode::Skip).await.expect_err("it is not whole");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
    error
}

async fn count(sessions: &Sessions) -> u64 {
    sessions.count(&Filter::all()).await.expect("a count")
}

/// What a session is, but for when it was read.
async fn told(sessions: &Sessions, token: &Token) -> String {
    let session = sessions.peek(token).await.expect("an answer").live().expect("it lives");
    let fields = session.data().fields();
    let fields: BTreeMap<_, _> = fields
        .map(|field| (field, session.get::<String>(field).expect("a value").expect("it is set")))
        .collect();
    format!(
        "{} {:?} {:?} {:?} {} {} {:?} {:?} {:?} {:?} {fields:?}",
        session.reference(),
        session.user(),
        session.company(),
        session.crew(),
        session.version(),
        session.schema(),
        session.created_at(),
        session.last_activity(),
        session.idle_timeout(),
        session.absolute_timeout(),
    )
}

async fn what_was_exported_is_restored_elsewhere(stage: Stage) {
    let mut tokens = Vec::new();
    for number in 0..40 {
        let user = format!("user {{{}}}", number % 7);
        let new = match number % 4 {
            0 => NewSession::anonymous(),
            1 => NewSession::user(&user),
            2 => NewSession::user(&user).company("acme:%").crew("night"),
            _ => NewSession::anonymous().company("acme:%").with_idle_timeout(number * MINUTE),
        };
        let new = new.set("number", &number.to_string()).expect("a value");
        tokens.push(created(&stage.sessions, new.set("é", "\0\"").expect("a value")).await);
    }
    let patch = Patch::new().set("more", "pears").expect("a value");
    let patched = stage.sessions.patch(&tokens[1], patch).await.expect("an answer");
    assert!(patched.is_live());
    stage.elapse(SECOND).await;
    // None of these is in it.
    let ended = created(&stage.sessions, NewSession::user("ann")).await;
    stage.sessions.invalidate(&ended, "logout").await.expect("an answer");
    let whole = created(&stage.sessions, NewSession::user("bob")).await;
    stage.sessions.revoke_user("bob", "left").await.expect("an answer");
    let after = created(&stage.sessions, NewSession::user("bob")).await;
    tokens.push(after);
    let short = NewSession::anonymous().with_idle_timeout(SECOND);
    let expired = created(&stage.sessions, short).await;
    stage.elapse(3 * MINUTE).await;

    let text = exported(&stage.peer, &Filter::all()).await;
    let other = stage.elsewhere().await;
    let first = restored(&other, &text, RestoreMode::Skip).await;
    assert_eq!((first.restored, first.seen()), (41, 41));
    assert_eq!((count(&stage.peer).await, count(&other).await), (41, 41));
    for token in &tokens {
        assert_eq!(told(&other, token).await, told(&stage.peer, token).await);
        assert!(other.load(token).await.expect("an answer").is_live());
    }
    for gone in [&ended, &whole, &expired] {
        assert_eq!(standing(&other, gone).await, Lookup::Absent);
    }
    for filter in [Filter::user("user {1}"), Filter::company("acme:%"), Filter::crew("night")] {
        let counts = (stage.peer.count(&filter).await, other.count(&filter).await);
        assert_eq!(counts.0.expect("a count"), counts.1.expect("a count"));
        let part = exported(&stage.peer, &filter).await;
        assert!(part.lines().skip(1).all(|line| text.contains(line) || line.contains("count")));
    }
    for mode in [RestoreMode::Skip, RestoreMode::NewerWins] {
        let again = restored(&other, &text, mode).await;
        assert_eq!((again.skipped, again.seen()), (41, 41));
    }
    let found = other.verify().await.expect("it is compared");
    assert_eq!((found.sessions, found.orphans, found.missing), (41, 0, 0));
    assert!(other.history(Duration::from_hours(1)).await.expect("they are read").is_empty());
}

async fn more_sessions_than_a_page_are_exported_once_each(stage: Stage) {
    let mut tokens = Vec::new();
    for _ in 0..230 {
        tokens.push(created(&stage.sessions, NewSession::user("ann")).await);
    }
    stage.elapse(5 * MINUTE).await;
    let mut export = stage.peer.export(&Filter::user("ann")).expect("a filter");
    let mut lines = Vec::new();
    while let Some(line) = export.next_line().await.expect("a line") {
        lines.push(line);
        // Who is used meanwhile goes to the end of the list.
        if lines.len() == 50 {
            for token in &tokens {
                assert!(stage.peer.load(token).await.expect("an answer").is_live());
            }
        }
    }
    assert_eq!((lines.len(), export.count()), (232, 230));
    let other = stage.elsewhere().await;
    let mut seen = Vec::new();
    let progress = |so_far: &Restored| seen.push(so_far.seen());
    let text = lines.join("\n");
    let done = other.restore_telling(text.as_bytes(), RestoreMode::Skip, progress).await;
    assert_eq!(done.expect("it is restored").restored, 230);
    assert!(seen.is_sorted() && seen.len() > 100 && seen.last() == Some(&230), "{seen:?}");
}

async fn an_export_holds_no_secret(stage: Stage) {
    let ring = || KeyRing::new(1, [7; 32]);
    let sessions = stage.sessions.clone().with_encryption(ring());
    let new = NewSession::user("ann").set("card", "4000 1234").expect("a value");
    let token = created(&sessions, new).await;
    let plain = NewSession::user("ann").set("theme", "dark").expect("a value");
    created(&stage.sessions, plain).await;
    let text = exported(&stage.peer, &Filter::all()).await;
    let revealed = token.reveal();
    let secret = &revealed[revealed.len() - 43..];
    assert!(!text.contains(secret));
    // Encrypted values stay so, whoever exports them: its base64 at no alignment.
    assert!(text.contains("ZGFya"), "dark, in base64: {text}");
    for part in ["NDAwMCAxMj", "QwMDAgMTIz", "0MDAwIDEyM"] {
        assert!(!text.contains(part));
    }
    let other = stage.elsewhere().await;
    assert_eq!(restored(&other, &text, RestoreMode::Skip).await.restored, 2);
    let session = other.clone().with_encryption(ring()).load(&token).await.expect("an answer");
    let card = session.live().expect("it lives").get::<String>("card").expect("a value");
    assert_eq!(card.as_deref(), Some("4000 1234"));
    // What a line holds lets nobody in.
    let line: serde_json::Value =
        serde_json::from_str(text.lines().nth(1).expect("a line")).expect("an object");
    let (id, shard) = (line["id"].as_str().expect("text"), &line["shard"]);
    let digest = line["digest"].as_str().expect("text");
    let forged = Token::parse(&format!("v1.{shard}.{id}{digest}")).expect("a token by its form");
    assert_eq!(standing(&other, &forged).await, Lookup::Absent);
}

async fn what_was_ended_stays_so_in_every_mode(stage: Stage) {
    let sessions = &stage.sessions;
    let ended = created(sessions, NewSession::user("ann")).await;
    let of_user = created(sessions, NewSession::user("bob")).await;
    let of_company = created(sessions, NewSession::user("cleo").company("acme")).await;
    let replayed = created(sessions, NewSession::user("dan")).await;
    let expired = created(sessions, NewSession::anonymous().with_idle_timeout(SECOND)).await;
    let moved = created(sessions, NewSession::user("fay")).await;
    let kept = created(sessions, NewSession::user("eve")).await;
    let text = exported(&stage.peer, &Filter::all()).await;

    sessions.invalidate(&ended, "logout").await.expect("an answer");
    sessions.revoke_user("bob", "left").await.expect("an answer");
    sessions.revoke_company("acme", "closed").await.expect("an answer");
    sessions.rotate(&replayed, Rotation::new()).await.expect("an answer");
    let shard = |user: &str| Name::new(user).expect("a name").shard(64);
    assert_ne!(shard("fay"), shard("gus"));
    let login = sessions.rotate(&moved, Rotation::new().user("gus")).await.expect("an answer");
    let at = login.live().expect("it lives").token().expect("a token");
    stage.elapse(2 * MINUTE).await;
    assert_eq!(standing(&stage.peer, &replayed).await, revoked("replayed"));
    assert_eq!(sessions.reap().await.expect("reaped"), 1);
    for mode in MODES {
        let done = restored(&stage.peer, &text, mode).await;
        assert_eq!((done.ended, done.seen()), (6, 7), "{mode:?} {done:?}");
        assert_eq!(done.restored + done.skipped, 1);
        assert_eq!(standing(&stage.peer, &ended).await, revoked("logout"));
        assert_eq!(standing(&stage.peer, &of_user).await, revoked("left"));
        assert_eq!(standing(&stage.peer, &of_company).await, revoked("closed"));
        assert_eq!(standing(&stage.peer, &replayed).await, revoked("replayed"));
        assert_eq!(standing(&stage.peer, &expired).await, Lookup::Expired);
        assert_eq!(standing(&stage.peer, &at).await, Lookup::Live(()));
        assert_eq!(standing(&stage.peer, &kept).await, Lookup::Live(()));
        assert_eq!(count(&stage.peer).await, 2);
    }
    assert_eq!(standing(&stage.peer, &moved).await, revoked("replayed"), "its grace is over");
}

async fn what_was_revoked_as_a_whole_does_not_come_back(stage: Stage) {
    let (ann, bob, acme) = (
        created(&stage.sessions, NewSession::user("ann")).await,
        created(&stage.sessions, NewSession::user("bob")).await,
        created(&stage.sessions, NewSession::user("bob").company("acme")).await,
    );
    let text = exported(&stage.peer, &Filter::all()).await;
    let other = stage.elsewhere().await;
    // There are no sessions of theirs there: from now on there are not to be any of before.
    other.revoke_user("ann", "left").await.expect("an answer");
    other.revoke_company("acme", "closed").await.expect("an answer");
    for mode in MODES {
        let done = restored(&other, &text, mode).await;
        assert_eq!((done.revoked, done.restored + done.skipped), (2, 1), "{mode:?}");
        assert!(!standing(&other, &ann).await.is_live());
        assert!(!standing(&other, &acme).await.is_live());
        assert_eq!(standing(&other, &bob).await, Lookup::Live(()));
    }
    // Too late, too: it would have expired in the meantime.
    stage.elapse(Duration::from_hours(13)).await;
    let done = restored(&stage.elsewhere().await, &text, RestoreMode::Skip).await;
    assert_eq!((done.expired, done.seen()), (3, 3));
}

async fn what_comes_from_a_clock_ahead_is_revoked_none_the_less(stage: Stage) {
    let clock = ManualClock::new();
    clock.set_unix_time(stage.time().unix_time() + Duration::from_hours(1));
    let ahead = Sessions::embedded_with_clock(Arc::new(clock)).with_reaping(None);
    ahead.revoke_user("ann", "an epoch").await.expect("an answer");
    ahead.revoke_company("acme", "an epoch").await.expect("an answer");
    let ann = created(&ahead, NewSession::user("ann")).await;
    let acme = created(&ahead, NewSession::user("bob").company("acme")).await;
    assert_eq!(stage.sessions.migrate_from(&ahead).await.expect("they move").restored, 2);
    assert_eq!(standing(&stage.peer, &ann).await, Lookup::Live(()));
    assert_eq!(stage.peer.revoke_user("ann", "left").await.expect("an answer"), 1);
    assert_eq!(standing(&stage.peer, &ann).await, revoked("left"));
    assert_eq!(stage.peer.revoke_company("acme", "closed").await.expect("an answer"), 1);
    assert_eq!(standing(&stage.peer, &acme).await, revoked("closed"));
}

async fn who_gives_way_is_as_the_mode_says(stage: Stage) {
    use RestoreMode::{NewerWins, Overwrite, Skip};
    let cart = |value: &str| Patch::new().set("cart", value).expect("a value");
    let new = NewSession::user("ann").set("cart", "pears").expect("a value");
    let token = created(&stage.sessions, new).await;
    let before = exported(&stage.peer, &Filter::all()).await;
    let patched = stage.sessions.patch(&token, cart("plums")).await.expect("an answer");
    assert!(patched.is_live());
    let after = exported(&stage.peer, &Filter::all()).await;
    stage.elapse(5 * MINUTE).await;
    assert!(stage.sessions.load(&token).await.expect("an answer").is_live());
    let used = exported(&stage.peer, &Filter::all()).await;
    let other = stage.elsewhere().await;
    let is = async |value: &str| told(&other, &token).await.contains(value);
    for (text, mode, made, cart) in [
        (&before, Skip, 1, "pears"),
        (&after, Skip, 0, "pears"),
        (&after, NewerWins, 1, "plums"),
        (&before, NewerWins, 0, "plums"),
        (&before, Overwrite, 1, "pears"),
        (&before, Overwrite, 1, "pears"),
        (&after, NewerWins, 1, "plums"),
        (&after, NewerWins, 0, "plums"),
        // It was only used since.
        (&used, NewerWins, 1, "plums"),
        (&after, NewerWins, 0, "plums"),
    ] {
        let done = restored(&other, text, mode).await;
        assert_eq!((done.restored, done.seen()), (made, 1), "{mode:?} {cart}");
        assert!(is(cart).await, "{mode:?} {cart}");
    }
    assert_eq!(told(&other, &token).await, told(&stage.peer, &token).await);
    assert_eq!(count(&other).await, 1);
    // One that has another user meanwhile is in that user's list alone.
    let login = other.rotate(&token, Rotation::new().company("acme")).await.expect("an answer");
    let login = login.live().expect("it lives").token().expect("a token");
    let local = other.clone().with_local_cache(MINUTE);
    assert!(local.load(&login).await.expect("an answer").is_live());
    restored(&local, &before, Overwrite).await;
    assert!(!local.load(&login).await.expect("an answer").is_live(), "seen at once");
    assert_eq!(other.count(&Filter::company("acme")).await.expect("a count"), 0);
    assert!(is("pears").await);
}

async fn every_flipped_byte_is_refused(stage: Stage) {
    for user in ["ann", "bob", "cleo"] {
        created(&stage.sessions, NewSession::user(user).set("a", "x").expect("a value")).await;
    }
    let text = exported(&stage.peer, &Filter::all()).await;
    let other = stage.elsewhere().await;
    for at in (0..text.len()).step_by(3) {
        let mut flipped = text.clone().into_bytes();
        flipped[at] ^= 1 << (at % 8);
        let error = refused(&other, &flipped).await;
        let line = text[..at].matches('\n').count() + 1;
        assert!(error.chain().contains(&format!("line {line}: ")), "{at}: {}", error.chain());
    }
    // Nothing of the line, nor of what follows, is written; what stands before it is.
    let other = stage.elsewhere().await;
    let third = text.match_indices("\"shard\"").nth(1).expect("a second session").0;
    let flipped = format!("{}\"SHARD\"{}", &text[..third], &text[third + 7..]);
    let error = refused(&other, flipped.as_bytes()).await;
    assert!(error.chain().contains("line 3: it is not what was written"), "{}", error.chain());
    assert_eq!(count(&other).await, 1);
    let done = restored(&other, &text, RestoreMode::Skip).await;
    assert_eq!((done.skipped, done.restored), (1, 2));
}

async fn what_is_cut_off_or_missing_is_noticed(stage: Stage) {
    for user in ["ann", "bob", "cleo"] {
        created(&stage.sessions, NewSession::user(user)).await;
    }
    let text = exported(&stage.peer, &Filter::all()).await;
    let lines: Vec<&str> = text.lines().collect();
    let other = stage.elsewhere().await;
    for keep in 0..lines.len() {
        let cut = lines[..keep].join("\n");
        let error = refused(&other, cut.as_bytes()).await;
        let why = format!("line {}: the last line is missing", keep + 1);
        assert!(error.chain().contains(&why), "{}", error.chain());
        let whole = keep.saturating_sub(1);
        assert_eq!(count(&other).await, u64::try_from(whole).expect("few"), "kept {keep}");
    }
    for cut in [1, text.len() / 2, text.len() - 2] {
        refused(&other, &text.as_bytes()[..cut]).await;
    }
    for (wrong, why) in [
        (
            [lines[0], lines[2], lines[3], lines[4]].join("\n"),
            "line 4: lines before it are missing",
        ),
        (lines[1..].join("\n"), "line 1: it has another shape"),
        ([lines[0], lines[4]].join("\n"), "line 2: lines before it are missing"),
        (format!("{text}{}", lines[1]), "line 6: something stands behind the last line"),
        (format!("{text}\n"), "line 6: something stands behind the last line"),
        (text.replace('\n', "\n\n"), "line 2: it is not what was written"),
        ("some text".to_owned(), "line 1: it is not what was written"),
    ] {
        let error = refused(&other, wrong.as_bytes()).await;
        assert!(error.chain().contains(why), "{}", error.chain());
    }
    // Whether the last line has a line break does not matter.
    let done = restored(&other, text.trim_end(), RestoreMode::Skip).await;
    assert_eq!((done.skipped, done.seen()), (3, 3));
}

async fn sessions_move_from_memory_to_a_file_and_on(stage: Stage) {
    let store = |store: Store| store.with_clock(stage.time());
    let sessions = |store: &Store| Sessions::embedded_in(store).with_reaping(None);
    let memory = sessions(&store(Store::memory()));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sessions.redb");
    let mut tokens = Vec::new();
    for number in 0..60 {
        let user = format!("user {}", number % 20);
        let new = if number % 3 == 0 { NewSession::anonymous() } else { NewSession::user(&user) };
        let new = new.set("number", &number.to_string()).expect("a value");
        tokens.push(created(&memory, new).await);
    }
    let before = told(&memory, &tokens[7]).await;
    {
        let file = sessions(&store(Store::file(&path).expect("a file")));
        let done = file.migrate_from(&memory).await.expect("they move");
        assert_eq!((done.restored, done.seen()), (60, 60));
    }
    // The file is closed and opened again in between.
    let file = sessions(&store(Store::file(&path).expect("a file")));
    for (round, (restored, skipped)) in [(60, 0), (0, 60)].into_iter().enumerate() {
        let done = stage.sessions.migrate_from(&file).await.expect("they move");
        assert_eq!((done.restored, done.skipped), (restored, skipped), "round {round}");
    }
    assert_eq!(told(&stage.peer, &tokens[7]).await, before);
    for token in &tokens {
        assert!(stage.peer.load(token).await.expect("an answer").is_live());
    }
    // What is changed, created and ended on either side until the last run.
    let patch = |value: &str| Patch::new().set("number", value).expect("a value");
    assert!(file.patch(&tokens[1], patch("there")).await.expect("an answer").is_live());
    assert!(stage.peer.patch(&tokens[2], patch("here")).await.expect("an answer").is_live());
    stage.peer.invalidate(&tokens[4], "logout").await.expect("an answer");
    tokens.push(created(&file, NewSession::user("late")).await);
    let done = stage.sessions.migrate_from(&file).await.expect("they move");
    assert_eq!((done.restored, done.ended, done.seen()), (2, 1, 61));
    assert!(told(&stage.peer, &tokens[1]).await.contains("there"));
    assert!(told(&stage.peer, &tokens[2]).await.contains("here"));
    assert_eq!(standing(&stage.peer, &tokens[4]).await, revoked("logout"));
    assert_eq!(standing(&stage.peer, &tokens[60]).await, Lookup::Live(()));
    assert_eq!(count(&stage.peer).await, 60);
}

async fn what_is_ended_there_between_two_migrations_is_ended_here(stage: Stage) {
    let (old, new) = (&stage.sessions, stage.elsewhere().await);
    let logged_out = created(old, NewSession::user("ann")).await;
    let left = created(old, NewSession::user("bob").company("acme")).await;
    let stays = created(old, NewSession::user("cleo")).await;
    assert_eq!(new.migrate_from(old).await.expect("migrated").restored, 3);
    old.invalidate(&logged_out, "logout").await.expect("an answer");
    old.revoke_company("acme", "sold").await.expect("an answer");
    let later = created(old, NewSession::user("ann")).await;
    for _ in 0..2 {
        new.migrate_from(old).await.expect("migrated");
        assert_eq!(standing(&new, &logged_out).await, revoked("logout"));
        assert_eq!(standing(&new, &left).await, revoked("sold"));
        for token in [&stays, &later] {
            assert_eq!(standing(&new, token).await, Lookup::Live(()));
        }
    }
}
