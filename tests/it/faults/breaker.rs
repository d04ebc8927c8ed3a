//! Locks behind an open breaker: what is held stays held, and who waits gets its turn soon after.

use super::{SECOND, background, connect, now, take};
use crate::topology::server;
use coordinator_core::health::BreakerState;
use coordinator_harness::{Proxy, eventually};
use coordinator_locks::Locks;
use std::time::Duration;

#[tokio::test]
async fn a_lease_that_outlasts_the_outage_is_renewed_soon_after_it() {
    let server = server().await;
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let connection = connect(&proxy.url()).await;
    let locks = Locks::redis(&connection);
    let lock = locks.named("a").with_ttl(SECOND * 12);
    let guard = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    proxy.black_hole(true);
    eventually(SECOND * 10, "the breaker opens", async || {
        connection.breaker() != BreakerState::Closed
    })
    .await;
    // The renewal that was due is refused unsent by now.
    eventually(SECOND * 10, "a renewal is overdue", async || guard.remaining() < SECOND * 7).await;
    let deadline = guard.deadline();
    proxy.black_hole(false);
    let healed = now();
    eventually(SECOND * 5, "the lease is prolonged", async || guard.deadline() > deadline).await;
    // A second until the breaker closes, and the watchdog's pause between two attempts.
    assert!(healed.elapsed() < SECOND * 2, "{:?}", healed.elapsed());
    assert!(guard.is_valid());
}

#[tokio::test]
async fn who_waits_through_an_outage_gets_the_lock_soon_after_it() {
    let server = server().await;
    let connection = connect(&server.url()).await;
    let locks = Locks::redis(&connection);
    drop(take(&locks, "warm").await);
    server.kill().await;
    let waiting = {
        let lock = locks.named("a").with_wait(SECOND * 30);
        background(async move { lock.acquire().await })
    };
    eventually(SECOND * 10, "the breaker opens", async || {
        connection.breaker() != BreakerState::Closed
    })
    .await;
    // Long enough for the waiter to be between two of its most patient attempts.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(!waiting.is_finished());
    server.start_again().await.expect("a restart");
    let back = now();
    let outcome = waiting.await.expect("no panic").expect("an answer");
    let guard = outcome.acquired().expect("a free lock");
    // A second until the breaker closes, and the waiter's pause between two attempts.
    assert!(back.elapsed() < SECOND * 2, "{:?}", back.elapsed());
    assert!(guard.is_valid());
}

#[tokio::test]
async fn an_attempt_refused_by_the_breaker_leaves_nothing_to_clean_up() {
    let server = server().await;
    let connection = connect(&server.url()).await;
    let locks = Locks::redis(&connection);
    drop(take(&locks, "warm").await);
    assert!(locks.close(SECOND * 5).await);
    let locks = Locks::redis(&connection);
    server.kill().await;
    eventually(SECOND * 10, "the breaker opens", async || {
        connection.breaker() != BreakerState::Closed
    })
    .await;
    let before = now();
    locks.try_acquire("a").await.expect_err("is down");
    // Nothing was sent, so nothing has to be given up before it may close.
    assert!(locks.close(SECOND).await);
    assert!(before.elapsed() < SECOND / 2, "{:?}", before.elapsed());
}
