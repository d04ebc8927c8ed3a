//! A server whose clock is set: what holders, waiters and fences make of it.

use super::{SECOND, Scene, scene_over, take};
use crate::topology::builder;
use coordinator_harness::eventually;
use coordinator_locks::{Guard, Locks, LossReason, Release};
use std::time::Duration;

const TTL: Duration = Duration::from_secs(10);

async fn scene() -> Scene {
    scene_over(builder().with_clock_shim().start().await.expect("a server")).await
}

async fn ten_seconds(locks: &Locks, name: &str, watchdog: bool) -> Guard {
    let lock = locks.named(name).with_ttl(TTL).with_watchdog(watchdog);
    lock.acquire().await.expect("an answer").acquired().expect("a free lock")
}

#[tokio::test]
async fn a_clock_set_back_prolongs_a_lock_and_its_holder_stays_safe() {
    let Scene { server, locks, truth, proxy: _proxy } = scene().await;
    let kept = ten_seconds(&locks, "kept", true).await;
    let lock = locks.named("brief").with_ttl(SECOND * 2).with_watchdog(false);
    let brief = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    server.set_clock_offset_ms(-7_200_000).await.expect("a shift");
    // By the server's clock the locks last two hours longer.
    let left = truth.show("brief").await.expect("an answer").expect("is held").ttl;
    assert!(left > Duration::from_secs(7_000), "{left:?}");
    // By their own clocks holders end when they promised to, and before the server lets go.
    let told = tokio::time::timeout(SECOND * 3, brief.lost()).await.expect("is told");
    assert_eq!(told, LossReason::Expired);
    assert!(truth.try_acquire("brief").await.expect("an answer").is_none());
    let first = kept.deadline();
    eventually(SECOND * 6, "the watchdog goes on", async || kept.deadline() > first).await;
    assert!(truth.try_acquire("kept").await.expect("an answer").is_none());
    // What is given up is free at once, and fences do not follow the clock back.
    let fence = kept.fence();
    assert_eq!(kept.release().await.expect("an answer"), Release::Released);
    let next = take(&truth, "kept").await;
    assert!(next.fence() > fence);
    assert_eq!(next.release().await.expect("an answer"), Release::Released);
    assert!(truth.force_release("brief", "its clock was set").await.expect("an answer").is_some());
    assert!(take(&truth, "brief").await.fence() > brief.fence());
}

#[tokio::test]
async fn a_clock_set_forward_ends_locks_and_their_holders_are_told() {
    let Scene { server, locks, truth, proxy: _proxy } = scene().await;
    let vanished = ten_seconds(&locks, "vanished", true).await;
    let stolen = ten_seconds(&locks, "stolen", true).await;
    server.set_clock_offset_ms(3_600_000).await.expect("a shift");
    let thief = take(&truth, "stolen").await;
    assert!(thief.fence() > stolen.fence());
    // At the next renewal, long before the lease ends by the holder's own clock.
    let limit = TTL / 2;
    let told = tokio::time::timeout(limit, vanished.lost()).await.expect("is told");
    assert_eq!(told, LossReason::Vanished);
    let told = tokio::time::timeout(limit, stolen.lost()).await.expect("is told");
    assert_eq!(told, LossReason::Stolen);
    assert_eq!(stolen.release().await.expect("an answer"), Release::AlreadyGone);
    assert!(thief.is_valid());
    let next = take(&locks, "vanished").await;
    assert!(next.fence() > vanished.fence());
    // Healed, the clock is an hour behind the last fence: fences go on from there.
    server.set_clock_offset_ms(0).await.expect("a shift");
    let fence = thief.fence();
    thief.release().await.expect("an answer");
    assert!(take(&truth, "stolen").await.fence() > fence);
}
