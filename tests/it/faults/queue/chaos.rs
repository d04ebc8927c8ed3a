//! Everything at once: fair waiters and others, holders that die and waiters that give up, links
//! that are killed, answers that are lost and scripts that are forgotten.

use super::{MINUTE, locks_of};
use crate::{
    faults::{SECOND, TIMEOUT, background, figures, now},
    topology::{config, server},
};
use coordinator_checkers::{
    fenced_register::{FencedRegister, Verdict},
    lease_overlap::{Interval, overlaps},
};
use coordinator_core::redis::Connection;
use coordinator_harness::{Proxy, RedisServer, Rule, eventually, seed};
use coordinator_locks::{Guard, Lock, Locks, Outcome};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

const NAMES: [&str; 2] = ["a", "b"];
/// How long a dead holder stands in the way.
const TTL: Duration = Duration::from_millis(500);
const ROUNDS: usize = 40;

/// What all workers write to.
struct Witness {
    began: Instant,
    registers: [Mutex<FencedRegister>; 2],
    intervals: Mutex<Vec<Interval>>,
    served: AtomicU32,
    died: AtomicU32,
    gave_up: AtomicU32,
    failed: AtomicU32,
    stop: AtomicBool,
}

impl Witness {
    fn new() -> Self {
        Self {
            began: now(),
            registers: Default::default(),
            intervals: Mutex::default(),
            served: AtomicU32::new(0),
            died: AtomicU32::new(0),
            gave_up: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            stop: AtomicBool::new(false),
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_nanos()).expect("a short run")
    }

    /// Works with a lock for a while, and releases it unless its holder dies meanwhile.
    async fn hold(&self, name: usize, owner: &str, guard: Guard, rng: &mut StdRng) {
        let start = now();
        let verdict = self.write(name, owner, &guard);
        assert_eq!(verdict, None, "{owner} at {}", guard.name());
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..3000))).await;
        let verdict = self.write(name, owner, &guard);
        assert_eq!(verdict, None, "{owner} at {}", guard.name());
        let interval = Interval {
            name: guard.name().to_owned(),
            owner: owner.to_owned(),
            start: self.nanos(start),
            end: self.nanos(now()),
        };
        // Else it has ended before, nobody knows when.
        if guard.is_valid() {
            self.intervals.lock().expect("unpoisoned").push(interval);
        }
        self.served.fetch_add(1, Ordering::Relaxed);
        if rng.random_bool(0.01) {
            self.died.fetch_add(1, Ordering::Relaxed);
            guard.detach();
        } else if rng.random_bool(0.1) {
            drop(guard);
        } else {
            let _ = guard.release().await;
        }
    }

    /// Writes under the guard's fence. Whoever was overtaken must have lost its lease by now.
    fn write(&self, name: usize, owner: &str, guard: &Guard) -> Option<Verdict> {
        let fence = guard.fence().get();
        let verdict = self.registers[name].lock().expect("unpoisoned").write(fence, owner);
        match verdict {
            Verdict::Accepted => None,
            Verdict::Stale { .. } if !guard.is_valid() => None,
            verdict => Some(verdict),
        }
    }

    async fn work(&self, locks: Locks, number: u64) {
        let mut rng = StdRng::seed_from_u64(seed() ^ (number + 1));
        let mut turn = 0;
        while !self.stop.load(Ordering::Relaxed) {
            turn += 1;
            let name = rng.random_range(0..NAMES.len());
            let lock = wishes(&locks, NAMES[name], &mut rng);
            let patience = Duration::from_millis(rng.random_range(1..60));
            let answer = match rng.random_range(0..10) {
                // It goes away without a word, at whatever point it is.
                0 | 1 => tokio::time::timeout(patience, lock.acquire()).await.ok(),
                2 | 3 => Some(lock.with_wait(patience).acquire().await),
                _ => Some(lock.acquire().await),
            };
            match answer {
                Some(Ok(Outcome::Acquired(guard))) => {
                    self.hold(name, &format!("{number}-{turn}"), guard, &mut rng).await;
                }
                Some(Err(error)) => {
                    assert!(error.is_retryable(), "{}", error.chain());
                    self.failed.fetch_add(1, Ordering::Relaxed);
                }
                _ => {
                    self.gave_up.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        // Whoever lives gets the lock in the end.
        for name in NAMES {
            let outcome = locks.named(name).with_wait(MINUTE).acquire().await;
            let guard = outcome.expect("an answer").acquired().expect("its turn");
            guard.release().await.expect("an answer");
        }
    }
}

fn wishes(locks: &Locks, name: &str, rng: &mut StdRng) -> Lock {
    let lock = locks.named(name).with_ttl(TTL).with_wait(MINUTE).with_fair(rng.random_bool(0.5));
    lock.with_priority(u8::from(rng.random_bool(0.1)))
}

/// One fault; whether it met anybody.
async fn strike(server: &RedisServer, proxy: &Proxy, kind: usize, rng: &mut StdRng) -> bool {
    match kind {
        0 | 1 => {
            let links = ["pubsub", "normal"][kind];
            let kill = ["CLIENT", "KILL", "TYPE", links];
            server.command(&kill).await.expect("an answer").as_int().is_some_and(|n| n > 0)
        }
        2 => server.command(&["SCRIPT", "FLUSH"]).await.expect("an answer").is_ok(),
        _ => {
            let rule = Rule::command("EVALSHA").nth(rng.random_range(1..20)).on_reply();
            let lost = proxy.rule(if kind == 3 { rule.cut() } else { rule.drop_frame() });
            lost.wait_hit().await;
            lost.remove();
            true
        }
    }
}

/// The keys of queues and of the registry.
async fn left_over(server: &RedisServer) -> Vec<String> {
    let listed = server.command(&["KEYS", "*"]).await.expect("an answer");
    let keys = listed.as_array().expect("keys").iter();
    let keys = keys.map(|key| key.as_str().expect("text").to_owned());
    let of_waiters =
        |key: &String| [":queue:", ":stand:", ":waits:"].iter().any(|part| key.contains(part));
    keys.filter(of_waiters).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_chaos_one_holds_the_lock_and_everybody_alive_gets_it() {
    let server = server().await;
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let (truth, prefix) = locks_of(&server).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        let config = config(&proxy.url()).with_prefix(&prefix).expect("a prefix");
        let config = config.with_command_timeout(TIMEOUT).with_connect_timeout(SECOND);
        clients.push(Locks::redis(&Connection::connect(config).await.expect("a connection")));
    }
    let witness = Arc::new(Witness::new());
    let mut workers = Vec::new();
    for (number, locks) in (0..24).zip(clients.iter().cycle()) {
        let (witness, locks) = (witness.clone(), locks.clone());
        workers.push(background(async move { witness.work(locks, number).await }));
    }
    let mut rng = StdRng::seed_from_u64(seed());
    let mut met = [0; 5];
    for round in 0..ROUNDS {
        let kind = if round < met.len() { round } else { rng.random_range(0..met.len()) };
        met[kind] += u32::from(strike(&server, &proxy, kind, &mut rng).await);
        let before = witness.served.load(Ordering::Relaxed);
        eventually(SECOND * 10, "work goes on", async || {
            assert!(!workers.iter().any(tokio::task::JoinHandle::is_finished), "a worker ended");
            witness.served.load(Ordering::Relaxed) > before + 10
        })
        .await;
    }
    witness.stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.expect("no panic");
    }
    let count = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
    let counts = [&witness.served, &witness.died, &witness.gave_up, &witness.failed].map(count);
    figures(&format!("served, died, gave up, failed: {counts:?}; faults by kind: {met:?}"));
    assert!(counts[0] > 400 && counts[1] > 0 && counts[2] > 0, "nothing was tried: {counts:?}");
    assert!(met.iter().all(|met| *met > 0), "a fault did not bite: {met:?}");
    let overlaps = overlaps(&witness.intervals.lock().expect("unpoisoned"));
    assert!(overlaps.is_empty(), "{overlaps:?}");
    for name in NAMES {
        eventually(SECOND * 20, "nobody waits", async || {
            truth.waiters(name, 99).await.expect("an answer").is_empty()
        })
        .await;
    }
    let mut left = Vec::new();
    eventually(SECOND * 20, "no queue is left", async || {
        left = left_over(&server).await;
        left.is_empty()
    })
    .await;
}
