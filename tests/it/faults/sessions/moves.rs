//! A session that moves to another shard, and whose mover dies at each step: whoever comes next
//! with its token carries it on, and it lives once.

use super::{
    PATIENCE, SECOND, Scene, count, created, drops::cut_short, live, revoked, scene, sha, shard_of,
    standing, user_elsewhere,
};
use coordinator_harness::{Rule, eventually};
use coordinator_sessions::{
    Filter, Lookup, NewSession, Rotated, Rotation, Session, Sessions, Token,
};

/// The steps of a login that moves, in order.
const STEPS: [&str; 5] =
    ["sessions.load", "sessions.epoch", "sessions.depart", "sessions.create", "sessions.settle"];

/// What two clients do who come with the old token at once.
#[derive(Debug, Clone, Copy)]
enum Comes {
    Loading,
    Rotating,
    Both,
}

/// A session of nobody yet, with something in it.
async fn anonymous(sessions: &Sessions) -> (Token, Rotation, String) {
    let new = NewSession::anonymous().set("cart", &["pear"]).expect("a value");
    let token = created(sessions, new).await;
    let user = user_elsewhere(shard_of(&token));
    (token, Rotation::new().user(&user).company("acme"), user)
}

async fn rotated(sessions: &Sessions, old: &Token, login: &Rotation) -> Token {
    match sessions.rotate(old, login.clone()).await.expect("an answer") {
        Lookup::Live(Rotated::Done(next)) => next,
        other => panic!("{other:?}"),
    }
}

fn is_whole(session: &Session) {
    let cart = session.get::<Vec<String>>("cart").expect("a value");
    assert_eq!(cart.as_deref(), Some(&["pear".to_owned()][..]));
}

/// Comes with the old token; the one that the session has now.
async fn come(sessions: &Sessions, old: &Token, login: &Rotation, rotates: bool) -> Token {
    if rotates {
        return rotated(sessions, old, login).await;
    }
    let session = live(sessions, old).await;
    is_whole(&session);
    session.token().unwrap_or(old).clone()
}

/// After a mover died: two clients come at once, and then there is one session, whole, and no
/// trace of another; after the grace the old token ends it.
async fn one_session_is_left(
    what: &str,
    scene: &Scene,
    old: &Token,
    (login, user): (&Rotation, &str),
    comes: Comes,
) {
    let (one, two) = (&scene.truth, scene.truth.clone());
    let (first, second) = match comes {
        Comes::Loading => (false, false),
        Comes::Rotating => (true, true),
        Comes::Both => (true, false),
    };
    let (found, other) =
        futures::join!(come(one, old, login, first), come(&two, old, login, second));
    // Who looked before it moved still has the old token, which leads to it as well.
    assert!(found == other || other == *old || found == *old, "{what}: two tokens for one session");
    let next = rotated(one, old, login).await;
    for token in [&found, &other] {
        assert!(*token == next || token == old, "{what}: another successor");
    }
    assert_eq!(count(one).await, 1, "{what}: one session");
    let of_user = one.count(&Filter::user(user)).await.expect("a count");
    assert_eq!(of_user, 1, "{what}: of its user");
    for token in [old, &next] {
        let session = live(&two, token).await;
        is_whole(&session);
        assert_eq!((session.user(), session.company()), (Some(user), Some("acme")), "{what}");
        assert_eq!(session.token(), (token == old).then_some(&next), "{what}");
    }
    let compared = one.verify().await.expect("it is compared");
    assert_eq!((compared.sessions, compared.orphans, compared.missing), (1, 0, 0), "{what}");
    let grace = Sessions::ROTATION_GRACE;
    scene.server.advance_clock(grace + SECOND).await.expect("another time");
    assert_eq!(standing(one, &next).await, Lookup::Live(()), "{what}");
    assert_eq!(standing(one, old).await, revoked("replayed"), "{what}");
    assert_eq!(standing(&two, &next).await, revoked("replayed"), "{what}");
    assert_eq!(count(one).await, 0, "{what}");
}

#[tokio::test]
async fn a_mover_that_loses_its_link_at_any_step_leaves_one_session() {
    let comes = [Comes::Loading, Comes::Rotating, Comes::Both];
    let scene = scene().await;
    for (number, step) in STEPS.into_iter().enumerate() {
        for on_reply in [false, true] {
            let comes = comes[(number + usize::from(on_reply)) % comes.len()];
            let what = format!("{step}, reply {on_reply}, {comes:?}");
            eventually(PATIENCE, "the link is back", async || {
                scene.sessions.count(&Filter::all()).await.is_ok()
            })
            .await;
            let (old, login, user) = anonymous(&scene.truth).await;
            let rule = Rule::script(sha(step)).nth(1);
            let rule = if on_reply { rule.on_reply() } else { rule.on_request() };
            let cut = scene.proxy.rule(rule.cut());
            let error = scene.sessions.rotate(&old, login.clone()).await.expect_err("it is cut");
            assert!(error.is_retryable(), "{what}: {}", error.chain());
            assert_eq!(cut.hits(), 1, "{what}: nothing was cut");
            cut.remove();
            one_session_is_left(&what, &scene, &old, (&login, &user), comes).await;
        }
    }
}

#[tokio::test]
async fn a_mover_that_is_dropped_at_any_point_leaves_one_session() {
    let scene = scene().await;
    for at_once in [true, false] {
        for polls in 0.. {
            let (old, login, user) = anonymous(&scene.truth).await;
            let bystander = created(&scene.truth, NewSession::anonymous()).await;
            let moving = scene.sessions.rotate(&old, login.clone());
            let done = cut_short(moving, polls, at_once).await;
            // What it had sent is through when this is answered.
            live(&scene.sessions, &bystander).await;
            scene.truth.invalidate(&bystander, "over").await.expect("an answer");
            let what = format!("{polls} polls, at once {at_once}");
            let comes = if polls % 2 == 0 { Comes::Loading } else { Comes::Both };
            one_session_is_left(&what, &scene, &old, (&login, &user), comes).await;
            if done.is_some() {
                assert!(polls >= STEPS.len(), "INVALID: done after {polls} polls");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_session_that_is_ended_while_it_moves_is_ended() {
    let scene = scene().await;
    for (number, step) in STEPS.into_iter().enumerate().skip(2) {
        for on_reply in [false, true] {
            for by_user in [false, true] {
                let what = format!("{step}, reply {on_reply}, by user {by_user}");
                let (old, login, user) = anonymous(&scene.truth).await;
                let rule = Rule::script(sha(step)).nth(1);
                let rule = if on_reply { rule.on_reply() } else { rule.on_request() };
                let held = scene.proxy.rule(rule.hold());
                let moving = scene.sessions.rotate(&old, login.clone());
                let ending = async {
                    held.wait_hit().await;
                    if by_user {
                        scene.truth.revoke_user(&user, "left").await.expect("an answer");
                    } else {
                        let ended = scene.truth.invalidate(&old, "left").await;
                        assert_eq!(ended.expect("an answer"), Lookup::Live(()), "{what}");
                    }
                    let alive = standing(&scene.truth, &old).await;
                    held.let_go();
                    alive
                };
                let (moved, stands) = futures::join!(moving, ending);
                held.remove();
                // At its departure it was nobody's yet; hers it never became.
                let early = by_user && number == 2 && !on_reply;
                assert_eq!(stands.is_live(), early, "{what}: {stands:?}");
                assert!(!standing(&scene.truth, &old).await.is_live(), "{what}");
                if let Ok(Lookup::Live(Rotated::Done(next))) = moved {
                    assert!(!standing(&scene.truth, &next).await.is_live(), "{what}");
                }
                assert_eq!(count(&scene.truth).await, 0, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_session_that_comes_back_to_a_shard_lives() {
    let scene = scene().await;
    let new = NewSession::user("ann").set("cart", &["pear"]).expect("a value");
    let ann = created(&scene.truth, new).await;
    let bob = user_elsewhere(shard_of(&ann));
    let mut tokens = vec![ann];
    // There and back, and there and back again.
    for user in [bob.as_str(), "ann", bob.as_str(), "ann"] {
        let last = tokens.last().expect("one");
        let next = rotated(&scene.sessions, last, &Rotation::new().user(user)).await;
        let session = live(&scene.truth, &next).await;
        is_whole(&session);
        assert_eq!(session.user(), Some(user));
        assert_eq!(count(&scene.truth).await, 1);
        tokens.push(next);
    }
    // The one before leads to it for a while, and then ends it.
    let next = tokens.pop().expect("the last");
    let found = live(&scene.truth, tokens.last().expect("one before")).await;
    assert_eq!(found.token(), Some(&next));
    scene.server.advance_clock(Sessions::ROTATION_GRACE + SECOND).await.expect("another time");
    assert_eq!(standing(&scene.truth, &next).await, Lookup::Live(()));
    for old in &tokens[..tokens.len() - 1] {
        assert!(!standing(&scene.truth, old).await.is_live());
    }
    let old = tokens.last().expect("one before");
    assert_eq!(standing(&scene.truth, old).await, revoked("replayed"));
    assert_eq!(standing(&scene.truth, &next).await, revoked("replayed"));
}
