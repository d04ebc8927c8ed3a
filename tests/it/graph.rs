//! Who waits for whom, as told to people who look, on every backend.

use crate::{
    locks::{background, take, waited_for},
    stage::{Stage, on_every_backend},
};
use coordinator_harness::eventually;
use coordinator_locks::{Edge, Guard, Lock, Locks, Outcome, Owner};
use std::time::Duration;
use tokio::task::JoinHandle;

const SECOND: Duration = Duration::from_secs(1);

on_every_backend! {
    where_nobody_waits_there_are_no_edges
    every_waiter_of_every_lock_is_an_edge
    a_circle_is_marked_and_nothing_beside_it
}

fn owner(locks: &Locks, name: &str) -> Owner {
    locks.owner(name).expect("a name")
}

async fn holds(owner: &Owner, name: &str) -> Guard {
    owner.acquire(name).await.expect("an answer").acquired().expect("a free lock")
}

/// One more waiter, which stands in the queue when this returns.
async fn waits(x: &Stage, lock: Lock, name: &str, waiters: u64) -> JoinHandle<Outcome> {
    // Which wait began last is told by the clocks of several servers, in a cluster.
    x.elapse(SECOND / 10).await;
    let lock = lock.with_wait(SECOND * 60);
    let waiting = background(async move { lock.acquire().await.expect("an answer") });
    waited_for(&x.locks, name, waiters).await;
    waiting
}

async fn edges(locks: &Locks) -> Vec<Edge> {
    locks.graph().await.expect("an answer")
}

/// Who waits for what, held by whom, and whether that is a circle; by owner, or `-`.
fn told(edges: &[Edge]) -> Vec<(&str, &str, &str, bool)> {
    let mut told = Vec::new();
    for edge in edges {
        let waiter = edge.waiter.owner.as_deref().unwrap_or("-");
        let holder = edge.holder.owner.as_deref().unwrap_or("-");
        told.push((waiter, &*edge.lock, holder, edge.in_cycle));
    }
    told
}

async fn where_nobody_waits_there_are_no_edges(x: Stage) {
    let _guard = take(&x.locks, "a").await;
    assert_eq!(edges(&x.peer).await, []);
}

async fn every_waiter_of_every_lock_is_an_edge(x: Stage) {
    let (one, two) = (owner(&x.locks, "one"), owner(&x.peer, "two"));
    let (b, a) = (holds(&two, "b").await, take(&x.locks, "a").await);
    let _early = waits(&x, x.peer.named("a").with_fair(true), "a", 1).await;
    let urgent = x.peer.named("a").with_priority(9).with_task("month end");
    let _urgent = waits(&x, urgent, "a", 2).await;
    let _other = waits(&x, one.named("b"), "b", 1).await;
    x.elapse(SECOND * 2).await;
    let edges = edges(&x.peer).await;
    let expected = [("-", "a", "-", false), ("-", "a", "-", false), ("one", "b", "two", false)];
    assert_eq!(told(&edges), expected);
    // The next first.
    assert_eq!(edges[0].waiter.task.as_deref(), Some("month end"));
    assert_eq!(edges[0].waiter.priority, 9);
    assert_eq!([&*edges[0].holder.id, &*edges[2].holder.id], [a.id(), b.id()]);
    assert!(edges.iter().all(|edge| edge.waiter.waited >= SECOND), "{edges:?}");
}

async fn a_circle_is_marked_and_nothing_beside_it(x: Stage) {
    let (one, two) = (owner(&x.locks, "one"), owner(&x.peer, "two"));
    let (_a, _b) = (holds(&one, "a").await, holds(&two, "b").await);
    let bystander = owner(&x.peer, "three");
    let older = waits(&x, one.named("b"), "b", 1).await;
    let _waits = waits(&x, bystander.named("a"), "a", 1).await;
    let younger = waits(&x, two.named("a").with_fair(true), "a", 2).await;
    // A circle is looked at twice before anybody is told, and our clients' clock stands still.
    let expected =
        [("three", "a", "one", false), ("two", "a", "one", true), ("one", "b", "two", true)];
    assert_eq!(told(&edges(&x.peer).await), expected);
    eventually(SECOND * 10, "the younger is told", async || {
        x.elapse(SECOND / 100).await;
        younger.is_finished()
    })
    .await;
    let outcome = younger.await.expect("no panic");
    assert!(matches!(outcome, Outcome::Deadlock { .. }), "{outcome:?}");
    let left = edges(&x.peer).await;
    assert!(left.iter().all(|edge| !edge.in_cycle), "{left:?}");
    drop(older);
}
