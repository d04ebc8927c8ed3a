//! Measures the hand-off of a contended lock on a private server: from just before a release to
//! the return of the next holder's acquire. Run it with `--release` on an idle machine.
//!
//! It is no benchmark against others; that compares ratios within one run.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]

use coordinator_core::{Config, clock::Clock, clock::SystemClock, redis::Connection};
use coordinator_harness::RedisServer;
use coordinator_locks::Locks;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

const WAITERS: usize = 16;
const ROUNDS: usize = 500;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = RedisServer::start().await?;
    let config = Config::from_url(&server.url())?;
    for (text, processes) in [("one process", 1), ("sixteen clients", WAITERS)] {
        let mut clients = Vec::new();
        for _ in 0..processes {
            clients.push(Locks::redis(&Connection::connect(config.clone()).await?));
        }
        let mut waits = measure(&clients).await;
        waits.sort();
        let at = |share: usize| waits[waits.len() * share / 1000];
        println!(
            "{WAITERS} waiters, {text}: {} hand-offs, p50 {:?}, p99 {:?}, max {:?}",
            waits.len(),
            at(500),
            at(990),
            at(999),
        );
    }
    Ok(())
}

/// Each waiter takes and releases the lock again and again; who takes it tells how long ago the
/// last holder began to release it.
async fn measure(clients: &[Locks]) -> Vec<Duration> {
    let released = Arc::new(Mutex::new((usize::MAX, SystemClock.now())));
    let waits = Arc::new(Mutex::new(Vec::new()));
    let work = (0..WAITERS).map(|waiter| {
        let locks = clients[waiter % clients.len()].clone();
        let (released, waits) = (released.clone(), waits.clone());
        async move {
            for _ in 0..ROUNDS {
                let outcome = locks.acquire("contended").await.expect("the server answers");
                let guard = outcome.acquired().expect("within ten seconds");
                let now = SystemClock.now();
                let (last, since) = *released.lock().expect("unpoisoned");
                if last != waiter {
                    waits.lock().expect("unpoisoned").push(now.saturating_since(since));
                }
                // Hold it for a moment, so that the others do wait.
                tokio::time::sleep(Duration::from_millis(1)).await;
                *released.lock().expect("unpoisoned") = (waiter, SystemClock.now());
                guard.release().await.expect("the server answers");
            }
        }
    });
    futures::future::join_all(work).await;
    let mut waits = waits.lock().expect("unpoisoned");
    // The first of all waited for nobody.
    waits.drain(1..).collect()
}
