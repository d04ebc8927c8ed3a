//! Servers that stop, die, forget, or lose their scripts.

use super::{SECOND, Scene, background, connect, scene, scene_over, take, waited_for};
use crate::topology::{builder, cluster, sentinel, server};
use coordinator_checkers::fenced_register::{FencedRegister, Verdict};
use coordinator_core::redis::Connection;
use coordinator_harness::{RedisServer, eventually};
use coordinator_locks::{Locks, LossReason, Outcome};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

/// A counter that each holder reads, thinks about, and writes back with its fence.
#[derive(Default)]
struct Account {
    register: Mutex<FencedRegister>,
    balance: Mutex<u64>,
}

impl Account {
    fn read(&self) -> u64 {
        *self.balance.lock().expect("unpoisoned")
    }

    fn write(&self, value: u64, fence: u64, owner: &str) -> bool {
        let mut balance = self.balance.lock().expect("unpoisoned");
        match self.register.lock().expect("unpoisoned").write(fence, owner) {
            Verdict::Accepted => *balance = value,
            Verdict::Stale { .. } => return false,
            Verdict::Violation { owner } => panic!("{owner} wrote with the same fence"),
        }
        true
    }
}

/// Increments under the lock until so many writes were accepted; retries through any outage.
async fn work(locks: Locks, account: Arc<Account>, increments: u32) {
    let lock = locks.named("account").with_ttl(SECOND);
    let mut done = 0;
    while done < increments {
        let Ok(Outcome::Acquired(guard)) = lock.acquire().await else { continue };
        let lease = guard.lease().clone();
        let written = guard.run(async {
            let value = account.read();
            tokio::task::yield_now().await;
            account.write(value + 1, lease.fence().get(), lease.id())
        });
        if written.await == Ok(true) {
            done += 1;
        }
        // An error is left to the background worker.
        let _ = guard.release().await;
    }
}

async fn increments_survive(clients: Vec<Locks>, each: u32, fault: impl AsyncFnOnce()) {
    let account = Arc::new(Account::default());
    let workers: Vec<_> = clients
        .iter()
        .map(|locks| background(work(locks.clone(), account.clone(), each)))
        .collect();
    fault().await;
    for worker in workers {
        tokio::time::timeout(SECOND * 60, worker).await.expect("in time").expect("no panic");
    }
    let expected = u64::from(each) * clients.len() as u64;
    assert_eq!(account.read(), expected, "an increment was lost or written twice");
}

async fn clients(server: &RedisServer, count: usize) -> Vec<Locks> {
    let first = connect(&server.url()).await;
    let mut clients = vec![Locks::redis(&first)];
    for _ in 1..count {
        let other = Connection::connect(first.config().clone()).await.expect("a connection");
        clients.push(Locks::redis(&other));
    }
    clients
}

#[tokio::test]
async fn a_server_killed_under_load_loses_no_increment() {
    let server = server().await;
    let clients = clients(&server, 4).await;
    increments_survive(clients, 60, async || {
        for _ in 0..3 {
            eventually(SECOND * 20, "work goes on", async || server.calls_of("evalsha").await > 20)
                .await;
            // It comes back empty: only the clock and what the clients saw keep fences rising.
            server.restart().await.expect("a restart");
        }
    })
    .await;
}

#[tokio::test]
async fn scripts_flushed_all_the_time_hold_up_nobody() {
    let server = server().await;
    let clients = clients(&server, 4).await;
    let flushing = async {
        loop {
            server.command(&["SCRIPT", "FLUSH"]).await.expect("a flush");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = increments_survive(clients, 200, async || {}) => {}
        () = flushing => {}
    }
    assert!(server.calls_of("eval").await > 0, "the fault did not bite");
}

#[tokio::test]
async fn a_server_stopped_for_longer_than_the_ttl_is_told_by_the_holders_own_clock() {
    let Scene { server, locks, truth, proxy: _proxy, .. } = scene().await;
    let lock = locks.named("a").with_ttl(SECOND);
    let guard = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    let deadline = guard.deadline();
    server.pause().expect("a pause");
    let reason = tokio::time::timeout(SECOND * 2, guard.lost()).await.expect("by the deadline");
    assert_eq!(reason, LossReason::Unreachable);
    assert!(!guard.is_valid() && guard.deadline() < deadline);
    server.resume().expect("a resume");
    eventually(SECOND * 10, "the server answers", async || truth.list().await.is_ok()).await;
    let next = take(&truth, "a").await;
    assert!(next.fence() > guard.fence());
    drop(guard);
    assert!(locks.close(SECOND * 10).await);
    assert!(next.is_valid());
    assert!(truth.show("a").await.expect("an answer").is_some(), "the stale guard's drop took it");
}

#[tokio::test]
async fn after_a_flush_every_new_fence_exceeds_all_old_ones() {
    let Scene { server, locks, truth, proxy: _proxy, .. } = scene().await;
    let mut guards = Vec::new();
    for number in 0..8 {
        let lock = locks.named(&format!("n{number}")).with_ttl(SECOND * 3);
        guards.push(lock.acquire().await.expect("an answer").acquired().expect("a free lock"));
    }
    server.command(&["FLUSHALL"]).await.expect("a flush");
    let highest = guards.iter().map(coordinator_locks::Guard::fence).max();
    let mut successors = Vec::new();
    for number in 0..8 {
        let next = take(&truth, &format!("n{number}")).await;
        assert!(Some(next.fence()) > highest);
        successors.push(next);
    }
    for (guard, next) in guards.iter().zip(&successors) {
        let told = tokio::time::timeout(SECOND * 4, guard.lost()).await;
        assert_eq!(told.expect("is told"), LossReason::Stolen);
        assert!(next.is_valid());
    }
}

#[tokio::test]
async fn fences_rise_after_a_flush_even_if_the_clock_was_set_back() {
    let server = builder().with_clock_shim().start().await.expect("a server");
    let Scene { server, locks, proxy: _proxy, .. } = scene_over(server).await;
    let old = take(&locks, "a").await;
    server.set_clock_offset_ms(-7_200_000).await.expect("a shift");
    server.command(&["FLUSHALL"]).await.expect("a flush");
    // The same process remembers; a new one is what is declared not to be guaranteed.
    let new = take(&locks, "a").await;
    assert!(new.fence() > old.fence());
}

#[tokio::test]
async fn fences_rise_across_a_failover() {
    let sentinel = sentinel(1, 1).await;
    let connection = connect(&sentinel.url()).await;
    let locks = Locks::redis(&connection);
    let mut last = None;
    for _ in 0..5 {
        let guard = take(&locks, "a").await;
        assert!(Some(guard.fence()) > last);
        last = Some(guard.fence());
        guard.release().await.expect("an answer");
    }
    let old = sentinel.current_master().await.expect("a master").port();
    sentinel.failover().await.expect("a failover");
    let mut next = None;
    eventually(SECOND * 20, "the new master grants locks", async || {
        let new = sentinel.current_master().await.map(RedisServer::port);
        if new.is_none_or(|new| new == old) {
            return false;
        }
        next = locks.try_acquire("a").await.ok().flatten();
        next.is_some()
    })
    .await;
    assert!(next.map(|guard| guard.fence()) > last);
}

#[tokio::test]
async fn locks_are_handed_over_in_a_cluster() {
    let cluster = cluster(3, 0).await;
    let first = connect(&cluster.url()).await;
    let other = Connection::connect(first.config().clone()).await.expect("a connection");
    let (locks, peer) = (Locks::redis(&first), Locks::redis(&other));
    // Names of many shards, on all three masters.
    for number in 0..24 {
        let name = format!("n{number}");
        let guard = take(&locks, &name).await;
        let (waiter, waited) = (peer.clone(), name.clone());
        let waiting = background(async move { take(&waiter, &waited).await });
        waited_for(&locks, &name).await;
        guard.release().await.expect("an answer");
        let next = waiting.await.expect("no panic");
        assert!(next.is_valid());
        // Held on by its token alone.
        let _ = next.detach();
    }
    assert_eq!(locks.list().await.expect("an answer").len(), 24);
}
