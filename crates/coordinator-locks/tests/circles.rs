//! How soon a circle of owners is found: a bound in time, so it is measured in a binary of its own,
//! which no other test runs beside. What is found is the business of `tests/it`.
#![cfg(feature = "redis")]

use coordinator_core::{
    Config,
    clock::{Clock as _, SystemClock},
    redis::Connection,
};
use coordinator_harness::{RedisServer, eventually, fresh_prefix};
use coordinator_locks::{Locks, Outcome};
use std::time::Duration;
use tokio::task::JoinSet;

const MINUTE: Duration = Duration::from_mins(1);
const BOUND: Duration = Duration::from_millis(100);

/// How long the owner that closes a circle waits until it is told.
async fn found_after(clients: &[Locks], size: usize) -> Duration {
    let name = |number: usize| format!("c{}", number % size);
    let owners: Vec<_> = (0..size)
        .map(|number| clients[number].owner(&format!("o{number}")).expect("a name"))
        .collect();
    let mut guards = Vec::new();
    for (number, owner) in owners.iter().enumerate() {
        let lock = owner.named(&name(number));
        guards.push(lock.acquire().await.expect("an answer").acquired().expect("a free lock"));
    }
    let mut waiting = JoinSet::new();
    for (number, owner) in owners.iter().enumerate().take(size - 1) {
        let lock = owner.named(&name(number + 1)).with_wait(MINUTE);
        waiting.spawn(async move {
            drop(lock.acquire().await.expect("an answer").acquired().expect("it proceeds"));
        });
        eventually(MINUTE, "somebody waits", async || {
            let held = clients[0].show(&name(number + 1)).await.expect("an answer");
            held.is_some_and(|held| held.waiters > 0)
        })
        .await;
    }
    let began = SystemClock.now();
    let outcome = owners[size - 1].named(&name(size)).with_wait(MINUTE).acquire().await;
    let elapsed = SystemClock.now().saturating_since(began);
    match outcome.expect("an answer") {
        Outcome::Deadlock { cycle } => assert_eq!(cycle.len(), size, "{cycle:?}"),
        other => panic!("no deadlock: {other:?}"),
    }
    drop(guards);
    while let Some(proceeded) = waiting.join_next().await {
        proceeded.expect("no panic");
    }
    elapsed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn circles_are_found_within_a_hundred_milliseconds() {
    let server = RedisServer::start().await.expect("a server");
    let config = Config::from_url(&server.url()).expect("a URL");
    let config = config.with_prefix(&fresh_prefix()).expect("a prefix");
    let mut clients = Vec::new();
    for _ in 0..10 {
        let connection = Connection::connect(config.clone()).await.expect("a connection");
        clients.push(Locks::redis(&connection));
    }
    for size in [2, 3, 10] {
        // The best of three: the machine has other work as well, which costs time, not steps.
        let mut best = MINUTE;
        for _ in 0..3 {
            best = best.min(found_after(&clients, size).await);
        }
        assert!(best < BOUND, "{size} owners: {best:?}");
    }
}
