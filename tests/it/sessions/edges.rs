//! Options at their ends, and what is on its way while something changes.

use super::{MINUTE, Stage, created, standing};
use coordinator_sessions::{Lookup, NewSession, Rotation, Sessions};
use futures::poll;
use std::{pin::pin, time::Duration};

on_every_backend! {
    options_without_an_end_are_as_long_as_a_session_lives
    an_answer_on_its_way_is_not_kept_once_the_session_has_ended
    a_session_in_use_does_not_end_for_a_local_copy
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
