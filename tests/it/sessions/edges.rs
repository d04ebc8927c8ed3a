//! Options at their ends, and what is on its way while something changes.

use super::{MINUTE, SECOND, Stage, created, revoked, standing};
use coordinator_sessions::{
    CapPolicy, Lookup, NewSession, Patch, Rotation, SessionEventKind, Sessions, Updated,
};
use futures::poll;
use std::{pin::pin, time::Duration};

const HOUR: Duration = Duration::from_hours(1);

on_every_backend! {
    options_without_an_end_are_as_long_as_a_session_lives
    an_answer_on_its_way_is_not_kept_once_the_session_has_ended
    a_session_in_use_does_not_end_for_a_local_copy
    a_rotation_to_another_user_is_told_once
    a_login_has_room_where_one_was_before
    a_patch_of_nothing_is_activity
}

async fn options_without_an_end_are_as_long_as_a_session_lives(stage: Stage) {
    let stage = stage.with(|sessions| {
        sessions.with_touch_throttle(Duration::MAX).with_rotation_grace(Duration::MAX)
    });
    let before = created(&stage.sessions, NewSession::user("ann")).await;
    let rotated = stage.sessions.rotate(&before, Rotation::new()).await.expect("an answer");
    let after = rotated.live().expect("it lives").token().expect("a token");
    stage.elapse(Sessions::ABSOLUTE_TIMEOUT - MINUTE).await;
    let found = stage.peer.load(&before).await.expect("an answer").live().expect("it lives");
    assert_eq!(found.token(), Some(&after), "the grace is not over");
    stage.elapse(MINUTE).await;
    assert_eq!(standing(&stage.peer, &after).await, Lookup::Expired);
}

async fn an_answer_on_its_way_is_not_kept_once_the_session_has_ended(stage: Stage) {
    let local = stage.sessions.clone().with_local_cache(MINUTE);
    for _ in 0..20 {
        let token = created(&stage.peer, NewSession::user("ann")).await;
        let mut asked = pin!(local.load(&token));
        let answered = poll!(asked.as_mut());
        local.invalidate(&token, "logout").await.expect("an answer");
        if answered.is_pending() {
            asked.await.expect("an answer");
        }
        assert!(!local.load(&token).await.expect("an answer").is_live());
    }
}

async fn a_session_in_use_does_not_end_for_a_local_copy(stage: Stage) {
    let local = stage.sessions.clone().with_local_cache(10 * MINUTE);
    let new = NewSession::user("ann").with_idle_timeout(5 * MINUTE);
    let token = created(&stage.peer, new).await;
    for minute in 0..20 {
        assert!(local.load(&token).await.expect("an answer").is_live(), "minute {minute}");
        stage.elapse(MINUTE).await;
    }
}

async fn a_rotation_to_another_user_is_told_once(stage: Stage) {
    let mut token = created(&stage.sessions, NewSession::anonymous()).await;
    // From shard to shard, and perhaps within one.
    for number in 0..6 {
        let rotation = Rotation::new().user(&format!("user {number}"));
        let rotated = stage.sessions.rotate(&token, rotation).await.expect("an answer");
        token = rotated.live().expect("it lives").token().expect("a token");
    }
    let told = stage.peer.history(HOUR).await.expect("it is read").into_iter();
    let told = told.filter(|event| event.kind == SessionEventKind::Rotated);
    let mut users: Vec<_> = told.filter_map(|event| event.user).collect();
    users.sort();
    assert_eq!(users, ["user 0", "user 1", "user 2", "user 3", "user 4", "user 5"]);
}

async fn a_login_has_room_where_one_was_before(stage: Stage) {
    let policies = [CapPolicy::Reject, CapPolicy::EvictOldest, CapPolicy::EvictLeastRecent];
    let mut stage = stage;
    for (user, policy) in ["ann", "bob", "cleo"].into_iter().zip(policies) {
        stage = stage.with(|s| s.with_cap(2, policy));
        let phone = created(&stage.sessions, NewSession::user(user)).await;
        stage.elapse(SECOND).await;
        let mut desk = created(&stage.peer, NewSession::user(user)).await;
        for _ in 0..3 {
            stage.elapse(SECOND).await;
            let again = stage.sessions.login(Some(&desk), NewSession::user(user)).await;
            let again = again.expect("an answer").session().expect("there is room");
            assert_eq!(standing(&stage.peer, &desk).await, revoked("replaced"));
            desk = again.token().expect("a token").clone();
            assert_eq!(standing(&stage.peer, &phone).await, Lookup::Live(()), "{user}");
            assert_eq!(standing(&stage.peer, &desk).await, Lookup::Live(()), "{user}");
        }
        // From elsewhere, there is none.
        let guest = created(&stage.sessions, NewSession::anonymous()).await;
        let login = stage.sessions.login(Some(&guest), NewSession::user(user)).await;
        let login = login.expect("an answer");
        assert_eq!(login.session().is_err(), policy == CapPolicy::Reject, "{user}");
        let found = standing(&stage.peer, &guest).await;
        assert_eq!(found == Lookup::Live(()), policy == CapPolicy::Reject, "{user}");
    }
}

async fn a_patch_of_nothing_is_activity(stage: Stage) {
    let new = NewSession::user("ann").with_idle_timeout(10 * MINUTE);
    let token = created(&stage.sessions, new).await;
    for _ in 0..4 {
        stage.elapse(8 * MINUTE).await;
        let patched = stage.peer.patch(&token, Patch::new()).await.expect("an answer");
        assert_eq!(patched, Lookup::Live(Updated::Unchanged));
    }
    stage.elapse(20 * MINUTE).await;
    let patched = stage.peer.patch(&token, Patch::new()).await.expect("an answer");
    assert_eq!(patched, Lookup::Expired);
}
