//! Owners of several locks: entering again, and waiting in a circle, on every backend.

use crate::{
    locks::{background, take, waited_for},
    stage::{Stage, on_every_backend},
};
use coordinator_harness::eventually;
use coordinator_locks::{Blocked, Guard, Locks, Outcome, Owner, Release};
use std::time::Duration;
use tokio::task::JoinHandle;

const SECOND: Duration = Duration::from_secs(1);

on_every_backend! {
    an_owner_enters_its_lock_again
    the_last_guard_gives_the_lock_up
    tasks_of_an_owner_share_what_one_of_them_acquires
    a_lost_lock_is_not_entered_again
    a_detached_lock_is_given_up_by_no_other_guard
    two_owners_wait_for_each_other
    ten_owners_wait_in_a_circle
    the_youngest_wait_is_given_up
    a_circle_that_a_grant_closes_is_found
    an_owner_that_waits_for_its_own_name_is_told
    without_owners_nobody_is_accused
    whoever_gave_up_waiting_accuses_nobody
    waiting_in_line_is_no_circle
    whoever_was_accused_may_try_again
}

/// Waits until so many wait for a lock, and lets a moment pass: which wait began last is told by
/// the clocks of several servers, in a cluster.
async fn waited(x: &Stage, name: &str, waiters: u64) {
    waited_for(&x.locks, name, waiters).await;
    x.elapse(SECOND / 10).await;
}

fn owner(locks: &Locks, name: &str) -> Owner {
    locks.owner(name).expect("a name")
}

async fn holds(owner: &Owner, name: &str) -> Guard {
    owner.acquire(name).await.expect("an answer").acquired().expect("a free lock")
}

fn waits(owner: &Owner, name: &str) -> JoinHandle<Outcome> {
    let lock = owner.named(name).with_wait(SECOND * 60);
    background(async move { lock.acquire().await.expect("an answer") })
}

async fn proceeds(waiting: JoinHandle<Outcome>) {
    drop(waiting.await.expect("no panic").acquired().expect("proceeds"));
}

/// The circle that somebody is told of who waits in it.
async fn cycle(x: &Stage, waiting: JoinHandle<Outcome>) -> Vec<Blocked> {
    // A circle is looked at twice, with a pause between.
    eventually(SECOND * 10, "somebody is accused", async || {
        x.elapse(SECOND / 100).await;
        waiting.is_finished()
    })
    .await;
    match waiting.await.expect("no panic") {
        Outcome::Deadlock { cycle } => cycle,
        other => panic!("no deadlock: {other:?}"),
    }
}

fn told(cycle: &[Blocked]) -> Vec<[&str; 3]> {
    cycle.iter().map(|blocked| [&*blocked.owner, &*blocked.lock, &*blocked.holder]).collect()
}

async fn an_owner_enters_its_lock_again(x: Stage) {
    let job = owner(&x.locks, "job");
    let outer = holds(&job, "a").await;
    let inner = job.named("a").try_acquire().await.expect("an answer").expect("is its own");
    assert_eq!((inner.fence(), inner.id()), (outer.fence(), outer.id()));
    // Whoever else asks in its name does not hold it.
    assert!(owner(&x.peer, "job").named("a").try_acquire().await.expect("an answer").is_none());
    assert!(x.locks.try_acquire("a").await.expect("an answer").is_none());
}

async fn the_last_guard_gives_the_lock_up(x: Stage) {
    let job = owner(&x.locks, "job");
    let (one, two, three) =
        (holds(&job, "a").await, holds(&job, "a").await, holds(&job, "a").await);
    assert_eq!(one.release().await.expect("an answer"), Release::StillHeld);
    drop(two);
    assert!(three.is_valid());
    assert!(x.peer.try_acquire("a").await.expect("an answer").is_none());
    assert_eq!(three.release().await.expect("an answer"), Release::Released);
    assert!(x.peer.try_acquire("a").await.expect("an answer").is_some());
}

async fn tasks_of_an_owner_share_what_one_of_them_acquires(x: Stage) {
    let guard = take(&x.peer, "a").await;
    let job = owner(&x.locks, "job");
    let waiting = [waits(&job, "a"), waits(&job, "a"), waits(&job, "a")];
    waited(&x, "a", 1).await;
    guard.release().await.expect("an answer");
    let mut guards = Vec::new();
    for waiting in waiting {
        guards.push(waiting.await.expect("no panic").acquired().expect("a share"));
    }
    assert!(guards.iter().all(|guard| guard.fence() == guards[0].fence()));
    drop(guards);
    drop(take(&x.peer, "a").await);
}

async fn a_lost_lock_is_not_entered_again(x: Stage) {
    let job = owner(&x.locks, "job");
    let lock = job.named("a").with_watchdog(false).with_ttl(SECOND * 5);
    let old = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    x.elapse(SECOND * 5).await;
    let new = holds(&job, "a").await;
    assert!(new.fence() > old.fence() && new.is_valid() && !old.is_valid());
    drop(old);
    assert_eq!(new.release().await.expect("an answer"), Release::Released);
}

async fn a_detached_lock_is_given_up_by_no_other_guard(x: Stage) {
    let job = owner(&x.locks, "job");
    let (one, two) = (holds(&job, "a").await, holds(&job, "a").await);
    let detached = one.detach();
    drop(two);
    assert!(x.locks.close(SECOND * 5).await);
    assert!(x.peer.try_acquire("a").await.expect("an answer").is_none());
    let released = x.peer.release("a", &detached.token).await.expect("an answer");
    assert_eq!(released, Release::Released);
}

async fn two_owners_wait_for_each_other(x: Stage) {
    let (one, two) = (owner(&x.locks, "one"), owner(&x.peer, "two"));
    let (a, b) = (holds(&one, "a").await, holds(&two, "b").await);
    let waiting = waits(&one, "b");
    waited(&x, "b", 1).await;
    let found = cycle(&x, waits(&two, "a")).await;
    assert_eq!(told(&found), [["two", "a", "one"], ["one", "b", "two"]]);
    // Whoever was accused gives way, and the other proceeds.
    b.release().await.expect("an answer");
    let b = waiting.await.expect("no panic").acquired().expect("proceeds");
    b.release().await.expect("an answer");
    a.release().await.expect("an answer");
}

async fn ten_owners_wait_in_a_circle(x: Stage) {
    let name = |number: usize| format!("n{}", number % 10);
    let owners: Vec<_> = (0..10)
        .map(|number| {
            let locks = if number % 2 == 0 { &x.locks } else { &x.peer };
            owner(locks, &format!("o{number}"))
        })
        .collect();
    let mut guards = Vec::new();
    for (number, owner) in owners.iter().enumerate() {
        guards.push(holds(owner, &name(number)).await);
    }
    let mut waiting = Vec::new();
    for (number, owner) in owners.iter().enumerate().take(9) {
        waiting.push(waits(owner, &name(number + 1)));
        waited(&x, &name(number + 1), 1).await;
    }
    let found = cycle(&x, waits(&owners[9], &name(10))).await;
    assert_eq!(found.len(), 10, "{found:?}");
    assert_eq!(found[0].owner, "o9");
    assert!(found.windows(2).all(|pair| pair[0].holder == pair[1].owner), "{found:?}");
    assert_eq!(found[9].holder, "o9");
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    // One after the other proceeds.
    drop(guards.pop());
    while let Some(waiting) = waiting.pop() {
        proceeds(waiting).await;
        drop(guards.pop());
    }
}

async fn the_youngest_wait_is_given_up(x: Stage) {
    let owners = ["one", "two", "three"].map(|name| owner(&x.locks, name));
    let mut guards = Vec::new();
    for (owner, name) in owners.iter().zip(["a", "b", "c"]) {
        guards.push(holds(owner, name).await);
    }
    let first = waits(&owners[0], "b");
    waited(&x, "b", 1).await;
    x.elapse(SECOND / 10).await;
    let second = waits(&owners[1], "c");
    waited(&x, "c", 1).await;
    x.elapse(SECOND / 10).await;
    let found = cycle(&x, waits(&owners[2], "a")).await;
    assert_eq!(told(&found), [["three", "a", "one"], ["one", "b", "two"], ["two", "c", "three"]]);
    // The others look once a second, and accuse nobody: the circle is open.
    x.elapse(SECOND * 2).await;
    assert!(!first.is_finished() && !second.is_finished());
    drop(guards);
    proceeds(first).await;
    proceeds(second).await;
}

async fn a_circle_that_a_grant_closes_is_found(x: Stage) {
    // No wait closes it: `two` gets what `one` waits for while it waits itself, in another task.
    let (one, two) = (owner(&x.locks, "one"), owner(&x.peer, "two"));
    let a = holds(&one, "a").await;
    let b = take(&x.peer, "b").await;
    let early = waits(&two, "b");
    waited(&x, "b", 1).await;
    let late = waits(&one, "b");
    waited(&x, "b", 2).await;
    let inner = waits(&two, "a");
    waited(&x, "a", 1).await;
    b.release().await.expect("an answer");
    let b = early.await.expect("no panic").acquired().expect("was first");
    // Who began to wait last finds it at its next look.
    x.elapse(SECOND * 2).await;
    let found = cycle(&x, inner).await;
    assert_eq!(told(&found), [["two", "a", "one"], ["one", "b", "two"]]);
    assert!(!late.is_finished());
    drop((a, b));
    proceeds(late).await;
}

async fn an_owner_that_waits_for_its_own_name_is_told(x: Stage) {
    let _outer = holds(&owner(&x.locks, "job"), "a").await;
    let found = cycle(&x, waits(&owner(&x.peer, "job"), "a")).await;
    assert_eq!(told(&found), [["job", "a", "job"]]);
}

async fn without_owners_nobody_is_accused(x: Stage) {
    let one = owner(&x.locks, "one");
    let (a, b) = (holds(&one, "a").await, take(&x.peer, "b").await);
    let waiting = waits(&one, "b");
    waited(&x, "b", 1).await;
    let outcome = x.peer.named("a").with_wait(SECOND * 5);
    let outcome = background(async move { outcome.acquire().await.expect("an answer") });
    waited(&x, "a", 1).await;
    x.elapse(SECOND * 5).await;
    let outcome = outcome.await.expect("no panic");
    assert!(matches!(outcome, Outcome::TimedOut { .. }), "{outcome:?}");
    drop((a, b));
    proceeds(waiting).await;
}

async fn whoever_gave_up_waiting_accuses_nobody(x: Stage) {
    let (one, two) = (owner(&x.locks, "one"), owner(&x.peer, "two"));
    let (a, b) = (holds(&one, "a").await, holds(&two, "b").await);
    let lock = one.named("b").with_wait(SECOND * 5);
    let timed_out = background(async move { lock.acquire().await.expect("an answer") });
    waited(&x, "b", 1).await;
    x.elapse(SECOND * 5).await;
    let timed_out = timed_out.await.expect("no panic");
    assert!(matches!(timed_out, Outcome::TimedOut { .. }), "{timed_out:?}");
    let waiting = waits(&two, "a");
    waited(&x, "a", 1).await;
    x.elapse(SECOND * 2).await;
    assert!(!waiting.is_finished(), "{:?}", waiting.await);
    drop((a, b));
    proceeds(waiting).await;
}

async fn waiting_in_line_is_no_circle(x: Stage) {
    // All in one order, several deep: everybody proceeds.
    let names = ["a", "b", "c", "d"];
    let one = owner(&x.locks, "one");
    let mut guards = Vec::new();
    for name in names {
        guards.push(holds(&one, name).await);
    }
    let mut waiting = Vec::new();
    for (number, locks) in [&x.locks, &x.peer, &x.locks, &x.peer].into_iter().enumerate() {
        let owner = owner(locks, &format!("w{number}"));
        waiting.push(background(async move {
            let mut guards = Vec::new();
            for name in &names[number..] {
                let lock = owner.named(name).with_wait(SECOND * 60);
                guards.push(lock.acquire().await.expect("an answer").acquired().expect("a turn"));
            }
        }));
        waited(&x, names[number], 1).await;
    }
    x.elapse(SECOND * 2).await;
    drop(guards);
    for waiting in waiting {
        waiting.await.expect("nobody is accused");
    }
}

async fn whoever_was_accused_may_try_again(x: Stage) {
    let (one, two) = (owner(&x.locks, "one"), owner(&x.peer, "two"));
    let (a, b) = (holds(&one, "a").await, holds(&two, "b").await);
    let waiting = waits(&one, "b");
    waited(&x, "b", 1).await;
    cycle(&x, waits(&two, "a")).await;
    b.release().await.expect("an answer");
    let again = waits(&two, "a");
    waited(&x, "a", 1).await;
    let b = waiting.await.expect("no panic").acquired().expect("proceeds");
    drop((a, b));
    proceeds(again).await;
}
