//! Options at their ends, and what is on its way while something changes.

use super::{MINUTE, Stage, created, standing};
use coordinator_sessions::{Lookup, NewSession, Rotation, Sessions};
use std::time::Duration;

on_every_backend! {
    options_without_an_end_are_as_long_as_a_session_lives
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
