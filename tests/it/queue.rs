//! Locks in the queue: who is served when, on every backend.

use crate::{
    locks::{background, take, waited_for},
    stage::{Stage, on_every_backend},
};
use coordinator_harness::eventually;
use coordinator_locks::{Lock, Locks, Outcome};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::task::JoinHandle;

const SECOND: Duration = Duration::from_secs(1);

on_every_backend! {
    fair_waiters_are_served_in_the_order_of_arrival
    processes_take_turns
    a_higher_priority_goes_first
    long_waiting_passes_priority
    nobody_passes_the_queue
    a_waiter_that_gives_up_is_skipped
    a_cancelled_waiter_is_skipped
    a_fair_waiter_inherits_from_a_dead_holder
    waiters_are_told_of_with_what_they_want
}

/// Waiters that each write down their number when it is their turn.
#[derive(Default)]
struct Roll {
    served: Arc<Mutex<Vec<usize>>>,
    waiting: Vec<JoinHandle<()>>,
}

impl Roll {
    /// One more waiter, which stands in the queue when this returns.
    async fn join(&mut self, watch: &Locks, lock: Lock, number: usize) {
        let before = watch.waiters("a", 99).await.expect("an answer").len() as u64;
        let served = self.served.clone();
        self.waiting.push(background(async move {
            let guard = lock.with_wait(SECOND * 60).acquire().await.expect("an answer");
            let guard = guard.acquired().expect("its turn");
            served.lock().expect("unpoisoned").push(number);
            guard.release().await.expect("an answer");
        }));
        waited_for(watch, "a", before + 1).await;
    }

    async fn served(self) -> Vec<usize> {
        for waiting in self.waiting {
            waiting.await.expect("no panic");
        }
        std::mem::take(&mut self.served.lock().expect("unpoisoned"))
    }
}

async fn fair_waiters_are_served_in_the_order_of_arrival(x: Stage) {
    let guard = take(&x.locks, "a").await;
    let mut roll = Roll::default();
    for number in 0..8 {
        let locks = if number % 3 == 0 { &x.locks } else { &x.peer };
        roll.join(&x.locks, locks.named("a").with_fair(true), number).await;
    }
    guard.release().await.expect("an answer");
    assert_eq!(roll.served().await, [0, 1, 2, 3, 4, 5, 6, 7]);
}

async fn processes_take_turns(x: Stage) {
    let guard = take(&x.locks, "a").await;
    let mut roll = Roll::default();
    // Three of ours wait behind one place in the queue, and one of theirs.
    roll.join(&x.locks, x.locks.named("a"), 0).await;
    for number in 1..3 {
        let served = roll.served.clone();
        let lock = x.locks.named("a").with_wait(SECOND * 60);
        roll.waiting.push(background(async move {
            let guard = lock.acquire().await.expect("an answer").acquired().expect("its turn");
            served.lock().expect("unpoisoned").push(number);
            guard.release().await.expect("an answer");
        }));
        tokio::task::yield_now().await;
    }
    roll.join(&x.locks, x.peer.named("a"), 9).await;
    guard.release().await.expect("an answer");
    assert_eq!(roll.served().await, [0, 9, 1, 2]);
}

async fn a_higher_priority_goes_first(x: Stage) {
    let guard = take(&x.locks, "a").await;
    let mut roll = Roll::default();
    for (number, priority) in [(0, 1), (1, 5), (2, 3), (3, 5), (4, 0)] {
        let locks = if number % 2 == 0 { &x.locks } else { &x.peer };
        let lock = locks.named("a").with_fair(true).with_priority(priority);
        roll.join(&x.locks, lock, number).await;
    }
    guard.release().await.expect("an answer");
    assert_eq!(roll.served().await, [1, 3, 2, 0, 4]);
}

async fn long_waiting_passes_priority(x: Stage) {
    let guard = take(&x.locks, "a").await;
    let mut roll = Roll::default();
    roll.join(&x.locks, x.peer.named("a").with_fair(true), 0).await;
    // A step of priority is worth ten seconds.
    for _ in 0..3 {
        x.elapse(SECOND * 5).await;
        eventually(SECOND * 10, "it said that it lives", async || {
            x.locks.waiters("a", 9).await.expect("an answer").len() == 1
        })
        .await;
    }
    roll.join(&x.locks, x.peer.named("a").with_priority(1), 1).await;
    roll.join(&x.locks, x.peer.named("a").with_priority(2), 2).await;
    guard.release().await.expect("an answer");
    assert_eq!(roll.served().await, [2, 0, 1]);
}

async fn nobody_passes_the_queue(x: Stage) {
    for _ in 0..20 {
        let guard = take(&x.locks, "a").await;
        let mut roll = Roll::default();
        roll.join(&x.locks, x.peer.named("a"), 0).await;
        guard.release().await.expect("an answer");
        // Whether or not the waiter has heard yet, nobody comes between.
        if let Some(guard) = x.locks.try_acquire("a").await.expect("an answer") {
            assert_eq!(*roll.served.lock().expect("unpoisoned"), [0], "passed the queue");
            guard.release().await.expect("an answer");
        }
        roll.served().await;
    }
}

async fn a_waiter_that_gives_up_is_skipped(x: Stage) {
    let guard = take(&x.locks, "a").await;
    let lock = x.peer.named("a").with_fair(true).with_wait(SECOND * 5);
    let waiting = background(async move { lock.acquire().await });
    waited_for(&x.locks, "a", 1).await;
    let mut roll = Roll::default();
    roll.join(&x.locks, x.peer.named("a").with_fair(true), 1).await;
    x.elapse(SECOND * 5).await;
    let outcome = waiting.await.expect("no panic").expect("an answer");
    assert!(matches!(outcome, Outcome::TimedOut { holder: Some(_) }), "{outcome:?}");
    guard.release().await.expect("an answer");
    assert_eq!(roll.served().await, [1]);
}

async fn a_cancelled_waiter_is_skipped(x: Stage) {
    let guard = take(&x.locks, "a").await;
    let lock = x.peer.named("a").with_fair(true);
    let waiting = background(async move { lock.acquire().await });
    waited_for(&x.locks, "a", 1).await;
    let mut roll = Roll::default();
    roll.join(&x.locks, x.peer.named("a").with_fair(true), 1).await;
    waiting.abort();
    guard.release().await.expect("an answer");
    assert_eq!(roll.served().await, [1]);
}

async fn a_fair_waiter_inherits_from_a_dead_holder(x: Stage) {
    let lock = x.locks.named("a").with_watchdog(false).with_ttl(SECOND * 5);
    let guard = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    let mut roll = Roll::default();
    for number in 0..3 {
        roll.join(&x.locks, x.peer.named("a").with_fair(true), number).await;
    }
    x.elapse(SECOND * 5).await;
    assert_eq!(roll.served().await, [0, 1, 2]);
    drop(guard);
}

async fn waiters_are_told_of_with_what_they_want(x: Stage) {
    let guard = take(&x.locks, "a").await;
    let mut roll = Roll::default();
    let lock = x.peer.named("a").with_fair(true).with_task("month end");
    roll.join(&x.locks, lock, 0).await;
    let owner = x.peer.owner("job").expect("a name");
    roll.join(&x.locks, owner.named("a").with_priority(3), 1).await;
    x.elapse(SECOND * 2).await;
    let waiters = x.locks.waiters("a", 9).await.expect("an answer");
    assert_eq!(waiters.len(), 2, "{waiters:?}");
    let of = |index: usize| {
        let waiter = &waiters[index];
        (waiter.priority, waiter.task.as_deref(), waiter.owner.as_deref(), waiter.pid)
    };
    assert_eq!(of(0), (3, None, Some("job"), std::process::id()));
    assert_eq!(of(1), (0, Some("month end"), None, std::process::id()));
    assert!(waiters.iter().all(|waiter| waiter.waited > SECOND), "{waiters:?}");
    guard.release().await.expect("an answer");
    assert_eq!(roll.served().await, [1, 0]);
}
