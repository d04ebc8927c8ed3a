//! What is absent, over, ended, unreachable and broken are five things; and where something is
//! broken, nothing is written.

use super::{
    Kept, PATIENCE, SECOND, Scene, created, dump, live, revoked, scene, shard_of, standing,
};
use coordinator_core::{Error, ErrorKind, key::Name};
use coordinator_harness::{RedisServer, Resp, eventually};
use coordinator_sessions::{
    CapPolicy, Filter, Lookup, NewSession, Page, Patch, RestoreMode, Rotation, SessionEventKind,
    Sessions, Token,
};
use std::time::Duration;

const MINUTE: Duration = Duration::from_mins(1);

/// The one key of this kind, such as `:s:`.
async fn key(server: &RedisServer, kind: &str) -> String {
    let pattern = format!("*{kind}*");
    let keys = server.command(&["KEYS", &pattern]).await.expect("keys");
    let keys = keys.as_array().expect("keys");
    assert_eq!(keys.len(), 1, "{kind}: {keys:?}");
    keys[0].as_str().expect("text").to_owned()
}

async fn run<A: AsRef<[u8]>>(server: &RedisServer, command: &[A]) -> Resp {
    server.command(command).await.expect("an answer").ok().expect("no error")
}

/// The token of a session that is not the one that it names.
fn forged(token: &Token, other: &Token) -> Token {
    let (text, wrong) = (token.reveal(), other.reveal());
    let (head, tail) = (&text[..text.len() - 43], &wrong[wrong.len() - 43..]);
    Token::parse(&format!("{head}{tail}")).expect("a token by its form")
}

#[tokio::test]
async fn absent_expired_revoked_down_and_corrupt_are_five_things() {
    let Scene { server, proxy: _proxy, sessions, truth } = scene().await;
    let idle = NewSession::user("ann").with_idle_timeout(MINUTE);
    let expired = created(&truth, idle).await;
    server.advance_clock(MINUTE * 5).await.expect("another time");
    let ended = created(&truth, NewSession::user("ann")).await;
    truth.invalidate(&ended, "logout").await.expect("an answer");
    let broken = created(&truth, NewSession::user("ann")).await;
    let well = created(&truth, NewSession::user("ann")).await;
    let absent = forged(&well, &broken);
    truth.reap().await.expect("reaped");
    let id = &broken.reveal()[broken.reveal().len() - 59..][..16].to_owned();
    let hash = key(&server, &format!(":s:{id}")).await;
    run(&server, &["HSET", &hash, "a", "short"]).await;

    let of = async |token: &Token| sessions.load(token).await.map(|found| found.map(|_| ()));
    assert_eq!(of(&absent).await.expect("an answer"), Lookup::Absent);
    assert_eq!(of(&expired).await.expect("an answer"), Lookup::Expired);
    assert_eq!(of(&ended).await.expect("an answer"), revoked("logout"));
    assert_eq!(of(&well).await.expect("an answer"), Lookup::Live(()));
    let error = of(&broken).await.expect_err("it is broken");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
    server.kill().await;
    eventually(PATIENCE, "it is known to be down", async || {
        let error = of(&well).await.expect_err("nobody is there");
        assert!(error.is_retryable(), "{}", error.chain());
        error.kind() == ErrorKind::Unavailable
    })
    .await;
    for token in [&absent, &expired, &ended, &well, &broken] {
        let error = of(token).await.expect_err("nobody is there");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    }
}

/// A server whose clock stands, with one session that was touched long ago, rotated once.
async fn still() -> (Scene, Token) {
    let scene = scene().await;
    scene.server.stop_clock().await.expect("its clock stops");
    let new = NewSession::user("ann").company("acme").crew("night").set("a", &1).expect("a value");
    let token = created(&scene.truth, new).await;
    // Whoever comes now touches it.
    scene.server.advance_clock(MINUTE * 5).await.expect("another time");
    (scene, token)
}

#[tokio::test]
async fn a_flipped_byte_of_a_name_or_a_field_is_told_and_nothing_is_written() {
    let (scene, token) = still().await;
    let (server, truth) = (&scene.server, &scene.truth);
    let hash = key(server, ":s:").await;
    let get = async |field: &str| match run(server, &["HGET", &hash, field]).await {
        Resp::Bulk(Some(bytes)) => bytes,
        other => panic!("{other:?}"),
    };
    let (anchor, value) = (get("a").await, get("d:a").await);
    let set = async |field: &str, bytes: &[u8]| {
        run(server, &[b"HSET", hash.as_bytes(), field.as_bytes(), bytes]).await;
    };
    // Its times, its epochs and its names.
    let mut told = 0;
    for at in 0..anchor.len() {
        let mut flipped = anchor.clone();
        flipped[at] ^= 4;
        set("a", &flipped).await;
        let before = dump(server).await;
        for what in ["load", "patch", "update", "extend", "rotate", "login", "invalidate"] {
            let error = one(truth, &token, what).await;
            let error = error.unwrap_or_else(|| panic!("byte {at}: {what} is fine"));
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {}", error.chain());
            is_same(&dump(server).await, &before, &format!("byte {at}: {what}"));
            told += 1;
        }
    }
    assert!(told > 100, "INVALID: {told}");
    set("a", &anchor).await;
    for at in 0..value.len() {
        let mut flipped = value.clone();
        flipped[at] ^= 4;
        set("d:a", &flipped).await;
        let session = live(truth, &token).await;
        let error = session.get::<u64>("a").expect_err("it is broken");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {}", error.chain());
        let before = dump(server).await;
        let more = |data: &mut coordinator_sessions::Data| {
            let a = data.get::<u64>("a")?.unwrap_or(0);
            data.set("a", &(a + 1))
        };
        let error = truth.update(&token, more).await.expect_err("it is broken");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {}", error.chain());
        is_same(&dump(server).await, &before, &format!("byte {at}"));
    }
    // A flipped digest lets nobody in.
    set("d:a", &value).await;
    let mut digest = get("k").await;
    digest[7] ^= 4;
    set("k", &digest).await;
    assert_eq!(standing(truth, &token).await, Lookup::Absent);
}

/// Nothing was written; else only what was is told.
fn is_same(after: &[Kept], before: &[Kept], what: &str) {
    let only = |some: &[Kept], others: &[Kept]| {
        let news = some.iter().filter(|key| !others.contains(key));
        news.map(|kept| format!("{}: {:?}, {}", kept.key, kept.shown, kept.ttl_ms))
            .collect::<Vec<_>>()
    };
    let (gone, come) = (only(before, after), only(after, before));
    assert!(gone.is_empty() && come.is_empty(), "{what}: {gone:#?} became {come:#?}");
}

/// Puts everything back.
async fn restore(server: &RedisServer, keys: &[Kept]) {
    for Kept { key, dump, ttl_ms, .. } in keys {
        let ttl = ttl_ms.max(&0).to_string();
        let command = [b"RESTORE", key.as_bytes(), ttl.as_bytes(), dump];
        run(server, &command).await;
    }
}

#[tokio::test]
async fn a_key_of_another_type_is_an_error_and_changes_nothing() {
    let (scene, token) = still().await;
    let (server, truth) = (&scene.server, &scene.truth);
    // So that all kinds of keys are there.
    let rotated = truth.rotate(&token, Rotation::new()).await.expect("an answer");
    let token = rotated.live().expect("it lives").token().expect("a token");
    truth.revoke_user("ann's twin", "left").await.expect("an answer");
    server.advance_clock(MINUTE * 5).await.expect("another time");
    let whole = dump(server).await;
    let hash = key(server, ":s:").await;
    let base = hash.split(":s:").next().expect("a base");
    let id = hash.split(":s:").nth(1).expect("an id");
    assert!(hash.contains(&format!("{{s{}}}", shard_of(&token))));
    let mut errors = 0;
    for kind in
        ["s:ID", "t:ID", "w:ID", "x", "u:ann", "co:acme", "crew:night", "g:ann", "gc:acme", "ev"]
    {
        let wrong = format!("{base}:{}", kind.replace("ID", id));
        for other in ["a string", "a list"] {
            let of_token = [
                "load",
                "patch",
                "update",
                "extend",
                "rotate",
                "login",
                "create",
                "create, capped",
                "invalidate",
                "revoke",
                "reap",
            ];
            // One at a time, each beginning with the same.
            for only in of_token {
                run(server, &["FLUSHALL"]).await;
                restore(server, &whole).await;
                run(server, &["DEL", &wrong]).await;
                match other {
                    "a string" => run(server, &["SET", &wrong, "x"]).await,
                    _ => run(server, &["RPUSH", &wrong, "x"]).await,
                };
                let mut before = dump(server).await;
                let error = one(truth, &token, only).await;
                if let Some(error) = error {
                    errors += 1;
                    let told = (error.kind(), error.chain());
                    assert!(
                        matches!(told.0, ErrorKind::Corrupt | ErrorKind::Rejected),
                        "{kind} is {other}, {only}: {told:?}"
                    );
                    let mut after = dump(server).await;
                    if only == "revoke" {
                        // They have ended, and are cleared up later.
                        let epoch = |keys: &mut Vec<Kept>| {
                            keys.retain(|kept| !kept.key.ends_with(":g:ann"));
                        };
                        epoch(&mut after);
                        epoch(&mut before);
                    }
                    is_same(&after, &before, &format!("{kind} is {other}, {only}: {told:?}"));
                }
            }
        }
    }
    assert!(errors > 80, "INVALID: {errors}");
}

/// One of everything.
async fn one(sessions: &Sessions, token: &Token, only: &str) -> Option<Error> {
    let patch = Patch::new().set("a", &2).and_then(|patch| patch.set("new", &1));
    let more = |data: &mut coordinator_sessions::Data| data.set("a", &3);
    let capped = sessions.clone().with_cap(5, CapPolicy::EvictOldest);
    let new = NewSession::user("ann").company("acme").crew("night");
    match only {
        "load" => sessions.load(token).await.err(),
        "patch" => sessions.patch(token, patch.expect("values")).await.err(),
        "update" => sessions.update(token, more).await.err(),
        "extend" => sessions.extend(token, Some(MINUTE), None).await.err(),
        "rotate" => sessions.rotate(token, Rotation::new()).await.err(),
        "login" => sessions.rotate(token, Rotation::new().company("b")).await.err(),
        "create" => sessions.create(new).await.err(),
        "create, capped" => capped.create(new).await.err(),
        "invalidate" => sessions.invalidate(token, "logout").await.err(),
        "revoke" => sessions.revoke_user("ann", "left").await.err(),
        "reap" => sessions.reap().await.err(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_broken_session_is_in_nobodys_way() {
    let (scene, broken) = still().await;
    let (server, truth) = (&scene.server, &scene.truth);
    let hash = key(server, ":s:").await;
    let well = created(truth, NewSession::user("ann")).await;
    for command in [&["HSET", &hash, "a", "short"][..], &["SET", &hash, "text"]] {
        run(server, command).await;
        let capped = truth.clone().with_cap(2, CapPolicy::Reject);
        let one = created(&capped, NewSession::user("ann")).await;
        truth.invalidate(&one, "logout").await.expect("an answer");
    }
    run(server, &["DEL", &hash]).await;
    run(server, &["HSET", &hash, "a", "short", "m", "short", "k", "short"]).await;
    assert_eq!(truth.load(&broken).await.expect_err("it is").kind(), ErrorKind::Corrupt);
    server.advance_clock(MINUTE * 40).await.expect("another time");
    assert_eq!(truth.reap().await.expect("reaped"), 2);
    assert_eq!(standing(truth, &well).await, Lookup::Expired);
    let told = truth.history(Duration::from_hours(2)).await.expect("it is read");
    let mut told: Vec<_> = told
        .into_iter()
        .filter(|event| event.kind == SessionEventKind::Expired)
        .map(|event| event.reason)
        .collect();
    told.sort();
    assert_eq!(told, [None, Some("vanished".to_owned())]);
}

#[tokio::test]
async fn a_broken_session_is_in_no_lists_and_no_exports_way() {
    let (scene, broken) = still().await;
    let (server, truth) = (&scene.server, &scene.truth);
    let hash = key(server, ":s:").await;
    let whole = live(truth, &broken).await.reference().clone();
    let others = [
        created(truth, NewSession::user("ann")).await,
        created(truth, NewSession::user("bob").company("acme")).await,
        created(truth, NewSession::user("ann").company("acme")).await,
    ];
    let anchor = match run(server, &["HGET", &hash, "a"]).await {
        Resp::Bulk(Some(bytes)) => bytes,
        other => panic!("{other:?}"),
    };
    let mut flipped = anchor.clone();
    flipped[7] ^= 1;
    run(server, &[b"HSET", hash.as_bytes(), b"a", &flipped]).await;

    for (filter, readable) in [
        (Filter::all(), 3),
        (Filter::user("ann"), 2),
        (Filter::company("acme"), 2),
        (Filter::crew("night"), 0),
    ] {
        for limit in [1, 2, 100] {
            let (mut page, mut met, mut told) = (Page::first(limit), 0, 0);
            loop {
                let listed = truth.list(&filter, &page).await.expect("a list");
                (met, told) = (met + listed.sessions.len(), told + listed.unreadable);
                match listed.next {
                    Some(next) => page = page.after(next),
                    None => break,
                }
            }
            assert_eq!((met, told), (readable, 1), "{filter:?} by {limit}");
        }
        let mut export = truth.export(&filter).expect("an export");
        let mut lines = 0;
        while export.next_line().await.expect("a line").is_some() {
            lines += 1;
        }
        assert_eq!((lines, export.unreadable()), (readable + 2, 1), "{filter:?}");
    }
    let found = truth.repair().await.expect("verified");
    assert_eq!((found.sessions, found.orphans, found.unreadable), (3, 0, 1));
    let mut file = Vec::new();
    assert_eq!(truth.export_to(&Filter::all(), &mut file).await.expect("an export"), 3);
    let elsewhere = Sessions::embedded();
    let back = elsewhere.restore(&file[..], RestoreMode::Skip).await.expect("it is whole");
    assert_eq!(back.seen(), 3);
    // It is ended by nobody while it is broken, and others are.
    let error = truth.revoke("ann", &whole, "lost").await.expect_err("it cannot be read");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
    let other = live(truth, &others[0]).await.reference().clone();
    assert!(truth.revoke("ann", &other, "lost").await.expect("it is found"));
    assert_eq!(standing(truth, &others[0]).await, revoked("lost"));
    run(server, &[b"HSET", hash.as_bytes(), b"a", &anchor]).await;
    assert!(truth.revoke("ann", &whole, "lost").await.expect("it is found"));
}

/// A user whose sessions are behind all that is asked at once with the first shard.
fn far_away() -> String {
    let mut users = (0..).map(|number| format!("user {number}"));
    let far = |user: &String| Name::new(user).expect("a name").shard(64) > 40;
    users.find(far).expect("users are everywhere")
}

#[tokio::test]
async fn a_broken_shard_is_in_no_others_way() {
    let Scene { server, proxy: _proxy, sessions: _, truth } = scene().await;
    let user = far_away();
    let idle = NewSession::user(&user).with_idle_timeout(MINUTE);
    let expires = created(&truth, idle).await;
    let ends = created(&truth, NewSession::user(&user).company("acme")).await;
    let index = key(&server, ":x").await;
    let (base, _) = index.rsplit_once("{s").expect("a shard");
    run(&server, &["SET", &format!("{base}{{s0}}:x"), "text"]).await;
    run(&server, &["RPUSH", &format!("{base}{{s0}}:gc:acme"), "a list"]).await;
    server.advance_clock(MINUTE * 5).await.expect("another time");

    let error = truth.reap().await.expect_err("the first shard is broken");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
    let stats = truth.count(&Filter::user(&user)).await.expect("a count");
    assert_eq!(stats, 1);
    let left = run(&server, &["ZCARD", &index]).await;
    assert_eq!(left.as_int(), Some(1), "the one that expired was reaped");
    assert_eq!(standing(&truth, &expires).await, Lookup::Expired);

    let error = truth.revoke_company("acme", "sold").await.expect_err("so is its epoch");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
    assert_eq!(standing(&truth, &ends).await, revoked("sold"));
    let left = run(&server, &["ZCARD", &index]).await;
    assert_eq!(left.as_int(), Some(0), "it was cleared up");
}

#[tokio::test]
async fn a_broken_index_is_in_no_reapers_way() {
    let (scene, mine) = still().await;
    let (server, truth) = (&scene.server, &scene.truth);
    let of_broken = NewSession::user("ann").company("broken");
    let (expires, other) =
        (created(truth, of_broken).await, created(truth, NewSession::user("ann")).await);
    let index = key(server, ":u:ann").await;
    run(server, &["SET", &index, "text"]).await;
    let epoch = index.replace(":u:ann", ":gc:broken");
    run(server, &["SET", &epoch, "text"]).await;
    server.advance_clock(MINUTE * 40).await.expect("another time");
    assert_eq!(truth.reap().await.expect("reaped"), 3);
    for token in [&mine, &expires, &other] {
        assert_eq!(standing(truth, token).await, Lookup::Expired);
    }
}

#[tokio::test]
async fn a_broken_session_is_in_no_revocations_way() {
    let (scene, broken) = still().await;
    let (server, truth) = (&scene.server, &scene.truth);
    let hash = key(server, ":s:").await;
    run(server, &["HSET", &hash, "a", "short"]).await;
    let well = created(truth, NewSession::user("ann").company("acme")).await;
    assert_eq!(truth.revoke_user("ann", "left").await.expect("they ended"), 1);
    assert_eq!(standing(truth, &well).await, revoked("left"));
    assert_eq!(truth.revoke_company("acme", "sold").await.expect("they ended"), 0);
    assert_eq!(truth.load(&broken).await.expect_err("it is").kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn with_memory_full_sessions_are_found_and_ended_and_none_is_changed() {
    let (scene, token) = still().await;
    let (server, truth) = (&scene.server, &scene.truth);
    let other = created(truth, NewSession::user("ann")).await;
    let before = dump(server).await;
    run(server, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let patch = Patch::new().set("a", &2).expect("a value");
    let told = [
        truth.create(NewSession::user("ann")).await.err(),
        truth.patch(&token, patch).await.err(),
        truth.rotate(&token, Rotation::new()).await.err(),
        truth.rotate(&token, Rotation::new().user("bob")).await.err(),
        truth.extend(&token, Some(MINUTE), None).await.err(),
    ];
    for error in told {
        let error = error.expect("it is full");
        assert_eq!(error.kind(), ErrorKind::Rejected, "{}", error.chain());
    }
    is_same(&dump(server).await, &before, "full");
    assert!(truth.peek(&token).await.expect("an answer").is_live());
    let ended = truth.invalidate(&other, "logout").await.expect("an answer");
    assert_eq!(ended, Lookup::Live(()));
    assert_eq!(standing(truth, &other).await, revoked("logout"));
    run(server, &["CONFIG", "SET", "maxmemory", "0"]).await;
    eventually(PATIENCE, "it is changed again", async || {
        truth.extend(&token, Some(SECOND), None).await.is_ok()
    })
    .await;
}
