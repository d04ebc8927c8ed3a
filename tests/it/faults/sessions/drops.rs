//! Callers that walk away at any await, and replies that get lost: what they asked for is done or
//! not, wholly, and whoever comes after them on the same link hears what is meant for them.

use super::{
    PATIENCE, Scene, created, live, revoked, scene, sha, shard_of, standing, user_elsewhere,
};
use coordinator_core::ErrorKind;
use coordinator_harness::{Rule, eventually};
use coordinator_sessions::{
    Filter, Lookup, NewSession, Patch, Rotated, Rotation, Sessions, Token, Updated,
};
use futures::future::join_all;
use std::{
    future::{Future, poll_fn},
    task::Poll,
};

/// Polls a future so many times and drops it then, at once or when it would be polled again; what
/// it came to, if it was done by then.
pub(super) async fn cut_short<F: Future>(
    future: F,
    polls: usize,
    at_once: bool,
) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if left == 0 && at_once => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Others whose sessions are looked up on the same link, all at once.
struct Bystanders(Vec<(String, Token)>);

impl Bystanders {
    async fn new(sessions: &Sessions) -> Self {
        let all = (0..6).map(|number| async move {
            let user = format!("bystander {number}");
            let token = created(sessions, NewSession::user(&user)).await;
            (user, token)
        });
        Self(join_all(all).await)
    }

    /// Each hears of its own session; what was sent before is through then.
    async fn are_served(&self, sessions: &Sessions, what: &str) {
        let loads = self.0.iter().map(async |(user, token)| {
            let session = live(sessions, token).await;
            assert_eq!(session.user(), Some(user.as_str()), "{what}: another's reply");
        });
        join_all(loads).await;
    }
}

/// What is done and dropped.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Create,
    Patch,
    Update,
    Rotate,
    Invalidate,
}

fn both(number: u64) -> Patch {
    let patch = Patch::new().set("a", &number).and_then(|patch| patch.set("b", &number));
    patch.expect("values")
}

/// Does it, as far as it gets; whether that was to the end.
async fn begin(
    sessions: &Sessions,
    deed: Deed,
    token: &Token,
    polls: usize,
    at_once: bool,
) -> bool {
    match deed {
        Deed::Create => {
            let new = NewSession::user("made").set("a", &1).expect("a value");
            cut_short(sessions.create(new), polls, at_once).await.is_some()
        }
        Deed::Patch => cut_short(sessions.patch(token, both(1)), polls, at_once).await.is_some(),
        Deed::Update => {
            let update = sessions.update(token, |data| {
                data.set("a", &1)?;
                data.set("b", &1)
            });
            cut_short(update, polls, at_once).await.is_some()
        }
        Deed::Rotate => {
            cut_short(sessions.rotate(token, Rotation::new()), polls, at_once).await.is_some()
        }
        Deed::Invalidate => {
            cut_short(sessions.invalidate(token, "drop"), polls, at_once).await.is_some()
        }
    }
}

/// The session is as it was before, or as it is afterwards; whether afterwards.
async fn is_before_or_after(truth: &Sessions, deed: Deed, token: &Token, what: &str) -> bool {
    let found = truth.load(token).await.expect("an answer");
    match (deed, found) {
        (Deed::Create, Lookup::Live(_)) => {
            let made = truth.count(&Filter::user("made")).await.expect("a count");
            let page = coordinator_sessions::Page::first(10);
            let listed = truth.list(&Filter::user("made"), &page).await.expect("a page");
            for session in &listed.sessions {
                assert_eq!(session.get::<u64>("a").expect("a value"), Some(1), "{what}");
            }
            assert!(made <= 1 && listed.sessions.len() as u64 == made, "{what}: {made}");
            truth.revoke_user("made", "over").await.expect("an answer");
            made == 1
        }
        (Deed::Patch | Deed::Update, Lookup::Live(session)) => {
            let value = |field| session.get::<u64>(field).expect("a value");
            assert_eq!(value("a"), value("b"), "{what}: half of it");
            assert_eq!(session.version(), 1 + u64::from(value("a").is_some()), "{what}");
            value("a").is_some()
        }
        (Deed::Rotate, Lookup::Live(session)) => {
            assert_eq!(session.version(), 1 + u64::from(session.token().is_some()), "{what}");
            if let Some(next) = session.token() {
                live(truth, next).await;
            }
            session.token().is_some()
        }
        (Deed::Invalidate, Lookup::Live(_)) => false,
        (Deed::Invalidate, Lookup::Revoked { reason }) if reason == "drop" => true,
        (_, found) => panic!("{what}: {found:?}"),
    }
}

#[tokio::test]
async fn whatever_is_dropped_is_done_or_not_and_poisons_nothing() {
    let Scene { server: _server, proxy: _proxy, sessions, truth } = scene().await;
    let bystanders = Bystanders::new(&truth).await;
    for deed in [Deed::Create, Deed::Patch, Deed::Update, Deed::Rotate, Deed::Invalidate] {
        for at_once in [true, false] {
            let (mut before, mut after) = (0, 0);
            for polls in 0.. {
                let what = format!("{deed:?}, {polls} polls, at once {at_once}");
                let token = created(&truth, NewSession::user("ann")).await;
                let done = begin(&sessions, deed, &token, polls, at_once).await;
                bystanders.are_served(&sessions, &what).await;
                if is_before_or_after(&truth, deed, &token, &what).await {
                    after += 1;
                } else {
                    before += 1;
                }
                truth.invalidate(&token, "over").await.expect("an answer");
                if done {
                    break;
                }
            }
            assert!(before > 0 && after > 0, "INVALID: {deed:?}, {before} before, {after} after");
        }
    }
    let compared = truth.verify().await.expect("it is compared");
    assert_eq!((compared.sessions, compared.orphans, compared.missing), (6, 0, 0));
}

#[tokio::test]
async fn a_thousand_drops_on_one_link_leave_every_reply_with_its_caller() {
    use rand::{RngExt as _, SeedableRng as _};
    let Scene { server: _server, proxy: _proxy, sessions, truth } = scene().await;
    let bystanders = Bystanders::new(&truth).await;
    let mut random = rand::rngs::StdRng::seed_from_u64(coordinator_harness::seed());
    let token = created(&truth, NewSession::user("ann")).await;
    for _ in 0..100 {
        let drops = (0..10).map(|_| (random.random_range(0..4), random.random_bool(0.5)));
        let drops = drops.collect::<Vec<_>>().into_iter().map(async |(polls, at_once)| {
            cut_short(sessions.load(&token), polls, at_once).await;
        });
        futures::join!(join_all(drops), bystanders.are_served(&sessions, "a thousand drops"));
    }
}

/// Has the reply of a step lost once, by one way or another.
async fn lose(scene: &Scene, step: &str, cuts: bool) -> coordinator_harness::RuleHandle {
    eventually(PATIENCE, "the link is back", async || {
        scene.sessions.count(&Filter::all()).await.is_ok()
    })
    .await;
    let rule = Rule::script(sha(step)).nth(1).on_reply();
    scene.proxy.rule(if cuts { rule.cut() } else { rule.drop_frame() })
}

/// Asks again until there is an answer; the first is known to be lost.
async fn again<T>(mut ask: impl AsyncFnMut() -> coordinator_core::Result<T>) -> T {
    let first = ask().await.err().expect("its reply is lost");
    assert_eq!(first.kind(), ErrorKind::Indeterminate, "{}", first.chain());
    let mut answer = None;
    eventually(PATIENCE, "an answer comes", async || {
        match ask().await {
            Ok(told) => answer = Some(told),
            Err(error) => assert!(error.is_retryable(), "{}", error.chain()),
        }
        answer.is_some()
    })
    .await;
    answer.expect("an answer")
}

#[tokio::test]
async fn what_is_asked_again_because_its_reply_was_lost_is_done_once() {
    let scene = scene().await;
    let Scene { sessions, truth, .. } = &scene;
    // One that nobody has the token of counts for its user until it expires.
    lose(&scene, "sessions.create", true).await;
    again(async || sessions.create(NewSession::user("made")).await).await;
    let made = truth.count(&Filter::user("made")).await.expect("a count");
    assert_eq!(made, 2, "the lost one and the one that was told of");

    for cuts in [true, false] {
        let token = created(truth, NewSession::user("ann")).await;
        lose(&scene, "sessions.patch", cuts).await;
        let patched = again(async || sessions.patch(&token, both(1)).await).await;
        assert!(matches!(patched, Lookup::Live(Updated::Done { version: 3, .. })), "{patched:?}");
        let session = live(truth, &token).await;
        assert_eq!((session.version(), session.data().fields().count()), (3, 2));

        lose(&scene, "sessions.rotate", cuts).await;
        let rotated = again(async || sessions.rotate(&token, Rotation::new()).await).await;
        let Lookup::Live(Rotated::Done(next)) = rotated else { panic!("{rotated:?}") };
        let session = live(truth, &next).await;
        assert_eq!((session.version(), session.token()), (4, None), "it was rotated once");

        let login = Rotation::new().user(&user_elsewhere(shard_of(&next)));
        lose(&scene, "sessions.depart", true).await;
        let rotated = again(async || sessions.rotate(&next, login.clone()).await).await;
        let Lookup::Live(Rotated::Done(next)) = rotated else { panic!("{rotated:?}") };
        assert_eq!(live(truth, &next).await.version(), 5, "it moved once");
        assert_eq!(truth.count(&Filter::user("ann")).await.expect("a count"), 0);

        lose(&scene, "sessions.invalidate", true).await;
        let ended = again(async || sessions.invalidate(&next, "logout").await).await;
        assert_eq!(ended, revoked("logout"), "the first did it");
        // Replaced twice, and the session is elsewhere: all the same it lets nobody in.
        assert!(!standing(truth, &token).await.is_live());
    }
}
