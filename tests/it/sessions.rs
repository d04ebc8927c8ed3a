//! Sessions: what they promise, on every backend, through the public API.

use crate::topology::Servers;
use coordinator_core::{
    ErrorKind,
    clock::{Clock, ManualClock, SystemClock},
    redis::Connection,
};
use coordinator_harness::fresh_prefix;
use coordinator_sessions::{
    CapPolicy, Created, Filter, KeyRing, Lookup, NewSession, Page, Patch, Rotated, Rotation,
    SessionEventKind, Sessions, Store, Token, Updated,
};
use futures::future::join_all;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

/// Sessions on one backend, and a second client of the same ones.
struct Stage {
    sessions: Sessions,
    /// What another process would be.
    peer: Sessions,
    clock: ManualClock,
    servers: Option<Servers>,
    _folder: Option<tempfile::TempDir>,
}

impl Stage {
    fn over(store: &Store, clock: ManualClock, folder: Option<tempfile::TempDir>) -> Self {
        let store = store.clone().with_clock(Arc::new(clock.clone()));
        let sessions = || Sessions::embedded_in(&store).with_reaping(None);
        let (sessions, peer) = (sessions(), sessions());
        Self { sessions, peer, clock, servers: None, _folder: folder }
    }

    fn memory() -> Self {
        Self::over(&Store::memory(), ManualClock::new(), None)
    }

    fn file() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::file(folder.path().join("sessions.redb")).expect("a file");
        Self::over(&store, ManualClock::new(), Some(folder))
    }

    async fn redis() -> Self {
        let servers = Servers::start().await;
        let clock = ManualClock::new();
        let config = servers.config().clone().with_clock(Arc::new(clock.clone()));
        let connect = || Connection::connect(config.clone());
        let sessions = Sessions::redis(&connect().await.expect("a connection")).with_reaping(None);
        let peer = Sessions::redis(&connect().await.expect("a connection")).with_reaping(None);
        Self { sessions, peer, clock, servers: Some(servers), _folder: None }
    }

    /// Lets time pass, for the server and for its clients.
    async fn elapse(&self, by: Duration) {
        if let Some(servers) = &self.servers {
            servers.advance(by).await;
        }
        self.clock.advance(by);
    }

    /// Other sessions, on the same time: under another prefix, or in another store.
    async fn elsewhere(&self) -> Sessions {
        let clock = Arc::new(self.clock.clone());
        let Some(servers) = &self.servers else {
            return Sessions::embedded_with_clock(clock).with_reaping(None);
        };
        let prefix = format!("{}-{}", servers.config().keyspace().prefix(), fresh_prefix());
        let config = servers.config().clone().with_prefix(&prefix).expect("a prefix");
        let connection = Connection::connect(config.with_clock(clock)).await;
        Sessions::redis(&connection.expect("a connection")).with_reaping(None)
    }

    /// The time of these sessions, as good as it is known.
    fn time(&self) -> Arc<dyn Clock> {
        match &self.servers {
            Some(_) => Arc::new(SystemClock),
            None => Arc::new(self.clock.clone()),
        }
    }

    /// The same sessions with other options.
    fn with(self, change: impl Fn(Sessions) -> Sessions) -> Self {
        Self { sessions: change(self.sessions), peer: change(self.peer), ..self }
    }
}

macro_rules! on_every_backend {
    ($($case:ident)*) => {
        mod embedded {
            $(#[tokio::test] async fn $case() { super::$case(super::Stage::memory()).await; })*
        }
        mod embedded_file {
            $(#[tokio::test] async fn $case() { super::$case(super::Stage::file()).await; })*
        }
        mod redis {
            $(#[tokio::test] async fn $case() { super::$case(super::Stage::redis().await).await; })*
        }
    };
}

mod edges;
mod export;
mod legacy;
mod typed;

on_every_backend! {
    a_session_is_shared_and_found_by_its_token_alone
    whoever_guesses_finds_nothing
    a_session_that_was_ended_stays_so
    fields_changed_by_many_all_survive
    an_update_loses_nothing
    parallel_rotations_come_to_one_token
    a_login_with_a_replaced_token_is_a_login
    a_token_used_after_its_grace_ends_the_session
    a_login_leaves_a_planted_token_outside
    a_session_that_becomes_a_users_keeps_what_is_in_it
    an_idle_session_ends_in_time_and_a_used_one_does_not
    a_session_ends_at_its_absolute_timeout
    all_sessions_of_a_user_are_ended
    all_sessions_of_a_company_are_ended
    a_user_never_has_more_sessions_than_may_be
    the_oldest_session_makes_room
    every_session_is_listed_and_counted
    a_session_is_ended_by_its_reference
    what_happens_is_told_once
    encrypted_values_are_read_with_the_ring_alone
    a_local_copy_is_never_older_than_allowed
    timeouts_can_be_changed
}

async fn created(sessions: &Sessions, new: NewSession) -> Token {
    let session = sessions.create(new).await.expect("an answer").session().expect("it is created");
    session.token().expect("a new session has one").clone()
}

/// What the token finds, without counting as activity.
async fn standing(sessions: &Sessions, token: &Token) -> Lookup<()> {
    sessions.peek(token).await.expect("an answer").map(|_| ())
}

fn revoked(reason: &str) -> Lookup<()> {
    Lookup::Revoked { reason: reason.to_owned() }
}

async fn a_session_is_shared_and_found_by_its_token_alone(stage: Stage) {
    let new = NewSession::user("ann:{1}").company("acme").crew("night");
    let new = new.set("theme", "dark").expect("a value").metadata(&[1, 2]).expect("a value");
    let token = created(&stage.sessions, new).await;
    let sent = Token::parse(&token.reveal()).expect("it is read back");
    let session = stage.peer.load(&sent).await.expect("an answer").live().expect("it lives");
    assert_eq!(session.user(), Some("ann:{1}"));
    assert_eq!((session.company(), session.crew()), (Some("acme"), Some("night")));
    assert_eq!(session.get::<String>("theme").expect("a value").as_deref(), Some("dark"));
    assert_eq!(session.metadata::<Vec<u8>>().expect("a value"), Some(vec![1, 2]));
    assert_eq!(session.get::<String>("none").expect("no value"), None);
    assert_eq!(session.version(), 1);
    assert!(session.token().is_none(), "the token is given out once");
}

async fn whoever_guesses_finds_nothing(stage: Stage) {
    let token = created(&stage.sessions, NewSession::user("ann")).await;
    let other = created(&stage.sessions, NewSession::user("ann")).await;
    // The id of one, the secret of another.
    let (text, wrong) = (token.reveal(), other.reveal());
    let (head, tail) = (&text[..text.len() - 43], &wrong[wrong.len() - 43..]);
    let forged = Token::parse(&format!("{head}{tail}")).expect("a token by its form");
    let absent = stage.sessions.load(&forged).await.expect("an answer");
    assert!(matches!(absent, Lookup::Absent));
    let patch = Patch::new().set("a", &1).expect("a value");
    let absent = stage.sessions.patch(&forged, patch).await.expect("an answer");
    assert!(matches!(absent, Lookup::Absent));
    let absent = stage.sessions.invalidate(&forged, "guess").await.expect("an answer");
    assert_eq!(absent, Lookup::Absent);
    assert_eq!(stage.sessions.count(&Filter::all()).await.expect("a count"), 2);
    assert_eq!(standing(&stage.sessions, &token).await, Lookup::Live(()));
}

async fn a_session_that_was_ended_stays_so(stage: Stage) {
    let token = created(&stage.sessions, NewSession::user("ann")).await;
    let lived = stage.sessions.invalidate(&token, "logout").await.expect("an answer");
    assert_eq!(lived, Lookup::Live(()));
    let (one, other) = (&stage.sessions, &stage.peer);
    let patch = Patch::new().set("a", &1).expect("a value");
    assert!(!other.patch(&token, patch).await.expect("an answer").is_live());
    assert!(!one.rotate(&token, Rotation::new()).await.expect("an answer").is_live());
    assert!(!one.extend(&token, Some(MINUTE), None).await.expect("an answer").is_live());
    let updated = other.update(&token, |data| data.set("a", &1)).await.expect("an answer");
    assert!(!updated.is_live());
    assert_eq!(standing(other, &token).await, revoked("logout"));
    assert_eq!(other.invalidate(&token, "again").await.expect("an answer"), revoked("logout"));
    stage.elapse(Duration::from_hours(11)).await;
    assert_eq!(standing(other, &token).await, revoked("logout"));
}

async fn fields_changed_by_many_all_survive(stage: Stage) {
    let token = created(&stage.sessions, NewSession::user("ann")).await;
    let writers = (0..50).map(|writer| {
        let sessions = if writer % 2 == 0 { &stage.sessions } else { &stage.peer };
        let patch = Patch::new().set(&format!("field {writer}"), &writer).expect("a value");
        sessions.patch(&token, patch)
    });
    for written in join_all(writers).await {
        assert!(matches!(written, Ok(Lookup::Live(Updated::Done { .. }))), "{written:?}");
    }
    let session = stage.peer.load(&token).await.expect("an answer").live().expect("it lives");
    assert_eq!(session.data().fields().count(), 50);
    assert_eq!(session.version(), 51);
}

async fn an_update_loses_nothing(stage: Stage) {
    let token = created(&stage.sessions, NewSession::user("ann")).await;
    let writers = (0..50).map(|writer| {
        let sessions = if writer % 2 == 0 { &stage.sessions } else { &stage.peer };
        let token = &token;
        async move {
            for _ in 0..4 {
                let updated = sessions
                    .update(token, |data| {
                        data.set("count", &(data.get::<u64>("count")?.unwrap_or(0) + 1))
                    })
                    .await;
                assert!(matches!(updated, Ok(Lookup::Live(Updated::Done { .. }))), "{updated:?}");
            }
        }
    });
    // Whoever met a conflict pauses on this clock.
    let ticks = async {
        loop {
            stage.clock.advance(Duration::from_millis(1));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    futures::future::select(Box::pin(join_all(writers)), Box::pin(ticks)).await;
    let session = stage.peer.load(&token).await.expect("an answer").live().expect("it lives");
    assert_eq!(session.get::<u64>("count").expect("a number"), Some(200));
    let unchanged = stage.peer.update(&token, |_| Ok(())).await.expect("an answer");
    assert_eq!(unchanged, Lookup::Live(Updated::Unchanged));
}

async fn parallel_rotations_come_to_one_token(stage: Stage) {
    let token = created(&stage.sessions, NewSession::user("ann")).await;
    let rotations = (0..40).map(|caller| {
        let sessions = if caller % 2 == 0 { &stage.sessions } else { &stage.peer };
        sessions.rotate(&token, Rotation::new())
    });
    let mut tokens = BTreeSet::new();
    for rotated in join_all(rotations).await {
        let rotated = rotated.expect("an answer").live().expect("it lives");
        tokens.insert(rotated.token().expect("a token").reveal());
    }
    assert_eq!(tokens.len(), 1, "one successor");
    let next = Token::parse(tokens.first().expect("one")).expect("a token");
    assert_ne!(next, token);
    // Within the grace the old one finds the session, and is told the new one.
    let found = stage.peer.load(&token).await.expect("an answer").live().expect("it lives");
    assert_eq!(found.token(), Some(&next));
    let found = stage.peer.load(&next).await.expect("an answer").live().expect("it lives");
    assert_eq!(found.token(), None);
    assert_eq!(stage.sessions.count(&Filter::user("ann")).await.expect("a count"), 1);
}

async fn a_login_with_a_replaced_token_is_a_login(stage: Stage) {
    let token = created(&stage.sessions, NewSession::user("ann").company("acme")).await;
    let refreshed = stage.peer.rotate(&token, Rotation::new()).await.expect("an answer");
    let refreshed = refreshed.live().expect("it lives").token().expect("a token");
    let mut tokens = BTreeSet::new();
    for token in [&token, &refreshed] {
        let login = stage.sessions.rotate(token, Rotation::new().user("bob")).await;
        let login = login.expect("an answer").live().expect("it lives").token().expect("a token");
        assert_ne!(login, refreshed);
        let found = stage.peer.load(&login).await.expect("an answer").live().expect("it lives");
        assert_eq!((found.user(), found.company()), (Some("bob"), Some("acme")));
        tokens.insert(login.reveal());
    }
    assert_eq!(tokens.len(), 1, "once");
    assert_eq!(stage.peer.count(&Filter::all()).await.expect("a count"), 1);
}

async fn a_token_used_after_its_grace_ends_the_session(stage: Stage) {
    let token = created(&stage.sessions, NewSession::user("ann")).await;
    let rotated = stage.sessions.rotate(&token, Rotation::new()).await.expect("an answer");
    let next = rotated.live().expect("it lives").token().expect("a token");
    stage.elapse(Sessions::ROTATION_GRACE - SECOND).await;
    assert_eq!(standing(&stage.peer, &token).await, Lookup::Live(()));
    stage.elapse(SECOND).await;
    assert_eq!(standing(&stage.peer, &next).await, Lookup::Live(()));
    assert_eq!(standing(&stage.peer, &token).await, revoked("replayed"));
    assert_eq!(standing(&stage.peer, &next).await, revoked("replayed"));
}

async fn a_login_leaves_a_planted_token_outside(stage: Stage) {
    let (one, other) = (&stage.sessions, &stage.peer);
    let guest = NewSession::anonymous().set("cart", &["pear"]).expect("a value");
    let planted = created(one, guest).await;
    let login = one.login(Some(&planted), NewSession::user("ann")).await.expect("an answer");
    let ann = login.session().expect("it is created");
    assert_eq!(ann.get::<Vec<String>>("cart").expect("a value"), Some(vec!["pear".to_owned()]));
    let token = ann.token().expect("a token");
    assert_eq!(standing(other, token).await, Lookup::Live(()));
    // Whoever planted it is told of no other, and cannot end the new one either.
    for _ in 0..2 {
        assert_eq!(standing(other, &planted).await, revoked("replaced"));
        assert!(!other.rotate(&planted, Rotation::new()).await.expect("an answer").is_live());
    }
    assert_eq!(standing(other, token).await, Lookup::Live(()));
    // Another user's data does not come along, and without a session there is nothing to take.
    let bob = other.login(Some(token), NewSession::user("bob")).await.expect("an answer");
    let bob = bob.session().expect("it is created");
    assert_eq!(bob.get::<Vec<String>>("cart").expect("no value"), None);
    assert_eq!(standing(one, token).await, revoked("replaced"));
    let cleo = other.login(Some(&planted), NewSession::user("cleo")).await.expect("an answer");
    assert_eq!(cleo.session().expect("it is created").user(), Some("cleo"));
}

async fn a_session_that_becomes_a_users_keeps_what_is_in_it(stage: Stage) {
    for user in ["ann", "bob", "cleo", "dan"] {
        let new = NewSession::anonymous().set("cart", &["pear"]).expect("a value");
        let before = created(&stage.sessions, new).await;
        let found = stage.sessions.load(&before).await.expect("an answer").live();
        let reference = found.expect("it lives").reference().clone();
        let login = Rotation::new().user(user).company("acme");
        let rotated = stage.sessions.rotate(&before, login).await.expect("an answer");
        let after = rotated.live().expect("it lives").token().expect("a token");
        let session = stage.peer.load(&after).await.expect("an answer").live().expect("it lives");
        assert_eq!((session.user(), session.company()), (Some(user), Some("acme")));
        assert_eq!(session.get::<Vec<String>>("cart").expect("a value"), Some(vec!["pear".into()]));
        assert_eq!(session.reference(), &reference);
        // A request that was on its way with the old one.
        let found = stage.peer.load(&before).await.expect("an answer").live().expect("it lives");
        assert_eq!(found.token(), Some(&after));
        assert_eq!(stage.peer.count(&Filter::user(user)).await.expect("a count"), 1);
        // And with one that comes far too late.
        stage.elapse(Sessions::ROTATION_GRACE).await;
        assert_eq!(standing(&stage.peer, &before).await, revoked("replayed"));
        assert_eq!(standing(&stage.peer, &after).await, revoked("replayed"));
    }
    assert_eq!(stage.peer.count(&Filter::all()).await.expect("a count"), 0);
}

async fn an_idle_session_ends_in_time_and_a_used_one_does_not(stage: Stage) {
    let stage = stage.with(|s| s.with_idle_timeout(10 * MINUTE).with_touch_throttle(MINUTE));
    let idle = created(&stage.sessions, NewSession::user("ann")).await;
    let used = created(&stage.sessions, NewSession::user("ann")).await;
    for _ in 0..3 {
        stage.elapse(4 * MINUTE).await;
        assert!(stage.peer.load(&used).await.expect("an answer").is_live());
    }
    // Never early, and at most a throttle late: twelve minutes have passed.
    assert_eq!(standing(&stage.peer, &idle).await, Lookup::Expired);
    stage.elapse(10 * MINUTE - SECOND).await;
    assert!(stage.peer.peek(&used).await.expect("an answer").is_live());
    stage.elapse(MINUTE + 2 * SECOND).await;
    assert_eq!(standing(&stage.peer, &used).await, Lookup::Expired);
}

async fn a_session_ends_at_its_absolute_timeout(stage: Stage) {
    let timeouts =
        |s: Sessions| s.with_idle_timeout(10 * MINUTE).with_absolute_timeout(25 * MINUTE);
    let stage = stage.with(timeouts);
    let token = created(&stage.sessions, NewSession::user("ann")).await;
    for _ in 0..3 {
        stage.elapse(8 * MINUTE).await;
        assert!(stage.peer.load(&token).await.expect("an answer").is_live());
    }
    stage.elapse(MINUTE + SECOND).await;
    assert_eq!(standing(&stage.peer, &token).await, Lookup::Expired);
}

async fn all_sessions_of_a_user_are_ended(stage: Stage) {
    let (one, other) = (&stage.sessions, &stage.peer);
    let mut tokens = Vec::new();
    for _ in 0..7 {
        tokens.push(created(one, NewSession::user("ann")).await);
    }
    let bystander = created(one, NewSession::user("bob")).await;
    assert_eq!(other.revoke_user("ann", "password changed").await.expect("an answer"), 7);
    for token in &tokens {
        assert_eq!(standing(one, token).await, revoked("password changed"));
    }
    assert_eq!(standing(one, &bystander).await, Lookup::Live(()));
    assert_eq!(one.count(&Filter::user("ann")).await.expect("a count"), 0);
    let after = created(one, NewSession::user("ann")).await;
    assert_eq!(standing(other, &after).await, Lookup::Live(()));
    assert_eq!(other.revoke_user("nobody", "x").await.expect("an answer"), 0);
    let long = other.revoke_user("ann", &"x".repeat(300)).await.expect_err("too long a reason");
    assert_eq!(long.kind(), ErrorKind::Misuse);
}

async fn all_sessions_of_a_company_are_ended(stage: Stage) {
    let (one, other) = (&stage.sessions, &stage.peer);
    let mut tokens = Vec::new();
    for user in 0..20 {
        let new = NewSession::user(&format!("user {user}")).company("acme");
        tokens.push(created(one, new).await);
    }
    let bystander = created(one, NewSession::user("user 1").company("other")).await;
    assert_eq!(other.count(&Filter::company("acme")).await.expect("a count"), 20);
    assert_eq!(other.revoke_company("acme", "left").await.expect("an answer"), 20);
    for token in &tokens {
        assert_eq!(standing(one, token).await, revoked("left"));
    }
    assert_eq!(standing(one, &bystander).await, Lookup::Live(()));
    assert_eq!(other.count(&Filter::all()).await.expect("a count"), 1);
    let after = created(one, NewSession::user("user 1").company("acme")).await;
    assert_eq!(standing(other, &after).await, Lookup::Live(()));
}

async fn a_user_never_has_more_sessions_than_may_be(stage: Stage) {
    let stage = stage.with(|s| s.with_cap(5, CapPolicy::Reject));
    let logins = (0..60).map(|login| {
        let sessions = if login % 2 == 0 { &stage.sessions } else { &stage.peer };
        sessions.create(NewSession::user("ann"))
    });
    let made = join_all(logins).await;
    let made = made.into_iter().map(|made| made.expect("an answer"));
    let (live, full): (Vec<_>, Vec<_>) = made.partition(|made| matches!(made, Created::Session(_)));
    assert_eq!((live.len(), full.len()), (5, 55));
    assert_eq!(stage.peer.count(&Filter::user("ann")).await.expect("a count"), 5);
    // Nor by becoming hers.
    let token = created(&stage.sessions, NewSession::anonymous()).await;
    let login = stage.sessions.rotate(&token, Rotation::new().user("ann")).await;
    let Ok(Lookup::Live(Rotated::Full { live: 5 })) = login else { panic!("{login:?}") };
    assert_eq!(standing(&stage.peer, &token).await, Lookup::Live(()));
}

async fn the_oldest_session_makes_room(stage: Stage) {
    let stage = stage.with(|s| s.with_cap(2, CapPolicy::EvictOldest));
    let first = created(&stage.sessions, NewSession::user("ann")).await;
    stage.elapse(SECOND).await;
    let second = created(&stage.sessions, NewSession::user("ann")).await;
    stage.elapse(MINUTE).await;
    assert!(stage.peer.load(&first).await.expect("an answer").is_live());
    let third = created(&stage.peer, NewSession::user("ann")).await;
    assert_eq!(standing(&stage.sessions, &first).await, revoked("cap"));
    let least = stage.with(|s| s.with_cap(2, CapPolicy::EvictLeastRecent));
    least.elapse(MINUTE).await;
    assert!(least.peer.load(&second).await.expect("an answer").is_live());
    created(&least.peer, NewSession::user("ann")).await;
    assert_eq!(standing(&least.sessions, &third).await, revoked("cap"));
    assert_eq!(standing(&least.sessions, &second).await, Lookup::Live(()));
}

async fn every_session_is_listed_and_counted(stage: Stage) {
    let mut all = BTreeSet::new();
    for user in 0..30 {
        let new = NewSession::user(&format!("user {}", user % 10)).crew("night");
        let made = stage.sessions.create(new).await.expect("an answer").session().expect("made");
        all.insert(made.reference().clone());
    }
    for filter in [Filter::all(), Filter::crew("night")] {
        let (mut seen, mut page, mut pages) = (BTreeSet::new(), Page::first(4), 0);
        loop {
            let listed = stage.peer.list(&filter, &page).await.expect("a page");
            assert!(listed.sessions.len() <= 4);
            for session in &listed.sessions {
                assert!(session.token().is_none());
                assert!(seen.insert(session.reference().clone()), "listed twice");
            }
            pages += 1;
            match listed.next {
                Some(next) => page = page.after(next),
                None => break,
            }
        }
        assert_eq!(seen, all);
        assert!(pages >= 8);
        assert_eq!(stage.peer.count(&filter).await.expect("a count"), 30);
    }
    let of_one = stage.peer.list(&Filter::user("user 3"), &Page::first(100)).await.expect("a page");
    assert_eq!((of_one.sessions.len(), of_one.next), (3, None));
    let wrong = Page::first(1).after("guess".to_owned());
    let error = stage.peer.list(&Filter::all(), &wrong).await.expect_err("no cursor");
    assert_eq!(error.kind(), ErrorKind::Misuse);
    let found = stage.peer.verify().await.expect("it is compared");
    assert_eq!((found.sessions, found.orphans, found.missing), (30, 0, 0));
}

async fn a_session_is_ended_by_its_reference(stage: Stage) {
    let (kept, ended) = (
        created(&stage.sessions, NewSession::user("ann")).await,
        created(&stage.sessions, NewSession::user("ann")).await,
    );
    let found = stage.peer.peek(&ended).await.expect("an answer").live().expect("it lives");
    let reference = found.reference();
    assert!(!stage.peer.revoke("bob", reference, "lost").await.expect("an answer"));
    assert!(stage.peer.revoke("ann", reference, "lost").await.expect("an answer"));
    assert!(!stage.peer.revoke("ann", reference, "lost").await.expect("an answer"));
    assert_eq!(standing(&stage.sessions, &ended).await, revoked("lost"));
    assert_eq!(standing(&stage.sessions, &kept).await, Lookup::Live(()));
}

async fn what_happens_is_told_once(stage: Stage) {
    let mut events = stage.peer.events().await.expect("it is heard");
    let token = created(&stage.sessions, NewSession::user("ann").company("acme")).await;
    let rotated = stage.sessions.rotate(&token, Rotation::new()).await.expect("an answer");
    let next = rotated.live().expect("it lives").token().expect("a token");
    stage.sessions.invalidate(&next, "logout").await.expect("an answer");
    created(&stage.sessions, NewSession::user("ann")).await;
    stage.elapse(Sessions::ABSOLUTE_TIMEOUT + SECOND).await;
    let (one, other) = futures::join!(stage.sessions.reap(), stage.peer.reap());
    assert_eq!(one.expect("reaped") + other.expect("reaped"), 1);
    let mut told = Vec::new();
    for _ in 0..5 {
        let event = tokio::time::timeout(Duration::from_secs(20), events.next());
        let event = event.await.expect("it is told");
        assert_eq!(event.user.as_deref(), Some("ann"));
        told.push((event.kind, event.reason));
    }
    let why = |reason: &str| Some(reason.to_owned());
    assert_eq!(
        told,
        [
            (SessionEventKind::Created, None),
            (SessionEventKind::Rotated, None),
            (SessionEventKind::Invalidated, why("logout")),
            (SessionEventKind::Created, None),
            (SessionEventKind::Expired, None),
        ]
    );
    let history = stage.sessions.history(Duration::from_hours(24)).await.expect("they are read");
    assert_eq!(history.len(), 5, "and nothing else: {history:?}");
}

async fn encrypted_values_are_read_with_the_ring_alone(stage: Stage) {
    let old = stage.sessions.clone().with_encryption(KeyRing::new(1, [1; 32]));
    let new = NewSession::user("ann").set("secret", "pears").expect("a value");
    let token = created(&old, new).await;
    let ring = KeyRing::new(2, [2; 32]).with_older(1, [1; 32]);
    let rotated = stage.peer.clone().with_encryption(ring);
    let session = rotated.load(&token).await.expect("an answer").live().expect("it lives");
    assert_eq!(session.get::<String>("secret").expect("a value").as_deref(), Some("pears"));
    // Through a rotation, too: the values are bound to the session, not to its token.
    let next = rotated.rotate(&token, Rotation::new().user("bob")).await.expect("an answer");
    let next = next.live().expect("it lives").token().expect("a token");
    let session = rotated.load(&next).await.expect("an answer").live().expect("it lives");
    assert_eq!(session.get::<String>("secret").expect("a value").as_deref(), Some("pears"));
    let without = stage.peer.load(&next).await.expect("an answer").live().expect("it lives");
    assert_eq!(without.get::<String>("secret").expect_err("sealed").kind(), ErrorKind::Misuse);
    let wrong = stage.peer.clone().with_encryption(KeyRing::new(2, [3; 32]));
    let session = wrong.load(&next).await.expect("an answer").live().expect("it lives");
    assert_eq!(session.get::<String>("secret").expect_err("sealed").kind(), ErrorKind::Corrupt);
}

async fn a_local_copy_is_never_older_than_allowed(stage: Stage) {
    let local = stage.sessions.clone().with_local_cache(5 * SECOND);
    let token = created(&stage.peer, NewSession::user("ann")).await;
    assert!(local.load(&token).await.expect("an answer").is_live());
    stage.peer.invalidate(&token, "logout").await.expect("an answer");
    stage.elapse(5 * SECOND - Duration::from_millis(1)).await;
    assert!(local.load(&token).await.expect("an answer").is_live(), "it may be as old");
    stage.elapse(Duration::from_millis(1)).await;
    assert!(!local.load(&token).await.expect("an answer").is_live());
    // What this client changes it sees at once.
    let token = created(&stage.peer, NewSession::user("ann")).await;
    assert!(local.load(&token).await.expect("an answer").is_live());
    local.invalidate(&token, "logout").await.expect("an answer");
    assert!(!local.load(&token).await.expect("an answer").is_live());
    let token = created(&stage.peer, NewSession::user("ann")).await;
    assert!(local.load(&token).await.expect("an answer").is_live());
    local.revoke_user("ann", "all").await.expect("an answer");
    assert!(!local.load(&token).await.expect("an answer").is_live());
}

async fn timeouts_can_be_changed(stage: Stage) {
    let token = created(&stage.sessions, NewSession::user("ann")).await;
    let longer = stage.sessions.extend(&token, Some(Duration::from_hours(48)), None).await;
    let left = longer.expect("an answer").live().expect("it lives");
    assert!(left <= Sessions::ABSOLUTE_TIMEOUT, "the absolute timeout stays: {left:?}");
    let wrong = stage.sessions.extend(&token, Some(MINUTE), Some(SECOND)).await;
    assert_eq!(wrong.expect_err("shorter than the idle one").kind(), ErrorKind::Misuse);
    let (idle, absolute) = (Duration::from_hours(48), Duration::from_hours(96));
    let extended = stage.peer.extend(&token, Some(idle), Some(absolute)).await.expect("an answer");
    assert!(extended.live().expect("it lives") >= idle);
    stage.elapse(Duration::from_hours(47)).await;
    assert_eq!(standing(&stage.peer, &token).await, Lookup::Live(()));
    let shorter = stage.peer.extend(&token, Some(SECOND), None).await.expect("an answer");
    assert!(shorter.is_live());
    stage.elapse(2 * MINUTE).await;
    assert_eq!(standing(&stage.peer, &token).await, Lookup::Expired);
}
