//! Circles of owners: none that is not there is found, all that are, and soon.

use super::{SECOND, Scene, background, figures, now, scene, sha, take, waited_for};
use crate::topology::{builder, config, server};
use coordinator_core::{Config, redis::Connection};
use coordinator_harness::{Proxy, RedisServer, Rule, eventually, seed};
use coordinator_locks::{Blocked, Guard, Locks, Outcome, Owner};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

const MINUTE: Duration = Duration::from_mins(1);
const OWNERS: usize = 4;
const NAMES: usize = 3;
/// Runs at a time, each with names of its own.
const LANES: u64 = 32;

/// How many runs: as many as a short suite has time for, or `cargo xtask test --long`'s.
fn runs() -> u64 {
    if std::env::var_os("COORDINATOR_LONG").is_some() { 100_000 } else { 2_000 }
}

/// What the runs came to.
#[derive(Debug, Default)]
struct Tally {
    granted: AtomicU64,
    timed_out: AtomicU64,
    deadlocks: AtomicU64,
}

impl Tally {
    fn counts(&self) -> [u64; 3] {
        [&self.granted, &self.timed_out, &self.deadlocks].map(|count| count.load(Ordering::Relaxed))
    }
}

/// Who waits for what and who holds what, as the owners themselves say it: a wait stands from
/// before it is asked for until after its end, a lock from its grant until its release.
#[derive(Debug, Default)]
struct Truth {
    waits: HashMap<String, String>,
    holds: HashMap<String, String>,
}

/// A circle leads from the accused back to itself, through waits and holders that were there.
fn check(truth: &Truth, accused: &str, lock: &str, cycle: &[Blocked]) {
    let first = cycle.first().expect("a circle of somebody");
    assert_eq!((&*first.owner, &*first.lock), (accused, lock), "{cycle:?}");
    for (at, blocked) in cycle.iter().enumerate() {
        let next = &cycle[(at + 1) % cycle.len()];
        assert_eq!(blocked.holder, next.owner, "{cycle:?}");
        assert!(cycle[..at].iter().all(|other| other.owner != blocked.owner), "{cycle:?}");
        assert_eq!(truth.waits.get(&blocked.owner), Some(&blocked.lock), "{cycle:?} {truth:?}");
        assert_eq!(truth.holds.get(&blocked.lock), Some(&blocked.holder), "{cycle:?} {truth:?}");
    }
}

/// One owner in a run: what it takes in which order, and for how long it waits.
struct Plan {
    owner: Owner,
    names: Vec<String>,
    wait: Duration,
    hold: Duration,
    /// Whether it goes on without what it did not get.
    goes_on: bool,
}

impl Plan {
    fn draw(owner: Owner, lane: u64, ascending: bool, rng: &mut StdRng) -> Self {
        let mut numbers: Vec<_> = (0..NAMES).filter(|_| rng.random_bool(0.7)).collect();
        if !ascending {
            for at in (1..numbers.len()).rev() {
                numbers.swap(at, rng.random_range(0..=at));
            }
        }
        let wait = Duration::from_millis(rng.random_range(1..60));
        Self {
            owner,
            names: numbers.into_iter().map(|number| format!("l{lane}-{number}")).collect(),
            // Where circles are possible none of them shall end by itself.
            wait: if ascending { wait } else { MINUTE },
            hold: Duration::from_micros(rng.random_range(0..2000)),
            goes_on: rng.random_bool(0.5),
        }
    }

    /// Writes down what an attempt came to.
    fn note(
        &self,
        name: &str,
        outcome: Outcome,
        truth: &Mutex<Truth>,
        tally: &Tally,
    ) -> Option<Guard> {
        let me = self.owner.name();
        let mut truth = truth.lock().expect("unpoisoned");
        let (count, guard) = match outcome {
            Outcome::Acquired(guard) => {
                truth.holds.insert(name.to_owned(), me.to_owned());
                (&tally.granted, Some(guard))
            }
            Outcome::Deadlock { cycle } => {
                check(&truth, me, name, &cycle);
                (&tally.deadlocks, None)
            }
            _ => (&tally.timed_out, None),
        };
        truth.waits.remove(me);
        count.fetch_add(1, Ordering::Relaxed);
        guard
    }

    async fn carry_out(self, truth: &Mutex<Truth>, tally: &Tally) {
        let me = self.owner.name();
        let mut guards: Vec<Guard> = Vec::new();
        for name in &self.names {
            truth.lock().expect("unpoisoned").waits.insert(me.to_owned(), name.clone());
            let outcome = self.owner.named(name).with_wait(self.wait).acquire().await;
            let guard = self.note(name, outcome.expect("an answer"), truth, tally);
            let refused = guard.is_none();
            guards.extend(guard);
            if refused && !self.goes_on {
                break;
            }
            tokio::time::sleep(self.hold).await;
        }
        for guard in guards {
            // Whoever comes next may say so before this returns.
            truth.lock().expect("unpoisoned").holds.remove(guard.name());
            guard.release().await.expect("an answer");
        }
    }
}

/// Owners who each take some of the same locks, so many times and each at its own pace: what one
/// reads of another is often over.
async fn play(clients: Vec<Locks>, runs: u64, ascending: bool) -> [u64; 3] {
    let tally = Arc::new(Tally::default());
    let mut owners = Vec::new();
    for lane in 0..LANES {
        let truth = Arc::new(Mutex::new(Truth::default()));
        for number in 0..OWNERS {
            let locks = clients[number % clients.len()].clone();
            let (truth, tally) = (truth.clone(), tally.clone());
            let mut rng = StdRng::seed_from_u64(seed() ^ (lane * 1000 + number as u64));
            owners.push(background(async move {
                for run in 0..runs / LANES + u64::from(lane < runs % LANES) {
                    let owner = locks.owner(&format!("l{lane}-o{number}")).expect("a name");
                    let plan = Plan::draw(owner, lane, ascending, &mut rng);
                    let done = plan.carry_out(&truth, &tally);
                    let done = tokio::time::timeout(MINUTE / 2, done).await;
                    assert!(done.is_ok(), "run {run} of lane {lane} hangs: {truth:?}");
                }
            }));
        }
    }
    for owner in owners {
        owner.await.expect("no panic");
    }
    let counts = tally.counts();
    figures(&format!(
        "{runs} runs, ascending {ascending}: granted, timed out, deadlocks {counts:?}"
    ));
    counts
}

fn embedded() -> Vec<Locks> {
    let locks = Locks::embedded();
    vec![locks.peer(), locks.peer(), locks]
}

/// Some runs last for minutes. That the machine stops for a second or two meanwhile shall not
/// decide about what they look for, which is accusations.
fn patient(url: &str) -> Config {
    config(url).with_command_timeout(SECOND * 10)
}

async fn clients(server: &RedisServer, count: usize) -> Vec<Locks> {
    clients_with_prefix(server, count).await.0
}

async fn clients_with_prefix(server: &RedisServer, count: usize) -> (Vec<Locks>, String) {
    let config = patient(&server.url());
    let (mut clients, mut prefix) = (Vec::new(), String::new());
    for _ in 0..count {
        let connection = Connection::connect(config.clone()).await.expect("a connection");
        connection.keyspace().prefix().clone_into(&mut prefix);
        clients.push(Locks::redis(&connection));
    }
    (clients, prefix)
}

fn nobody_was_accused([granted, timed_out, deadlocks]: [u64; 3]) {
    assert!(granted > runs() && timed_out > runs() / 20, "too little contention to prove anything");
    assert_eq!(deadlocks, 0, "somebody was accused of a circle that cannot be");
}

fn somebody_was_accused([granted, _, deadlocks]: [u64; 3]) {
    assert!(granted > 0 && deadlocks > 0, "no circle came about: nothing is proved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_owners_in_one_order_accuse_nobody() {
    nobody_was_accused(play(embedded(), runs(), true).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_in_one_order_accuse_nobody() {
    let server = server().await;
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let (mut all, prefix) = clients_with_prefix(&server, OWNERS - 1).await;
    // One sees everything late, and most of it is over by then.
    proxy.delay_replies(SECOND / 200);
    let config = patient(&proxy.url()).with_prefix(&prefix).expect("a prefix");
    all.push(Locks::redis(&Connection::connect(config).await.expect("a connection")));
    nobody_was_accused(play(all, runs(), true).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_owners_in_any_order_all_come_to_an_end() {
    somebody_was_accused(play(embedded(), runs() / 10, false).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_in_any_order_all_come_to_an_end() {
    let server = server().await;
    // Two of the owners are in one process.
    somebody_was_accused(play(clients(&server, OWNERS - 1).await, runs() / 10, false).await);
}

async fn holds(owner: &Owner, name: &str) -> Guard {
    owner.acquire(name).await.expect("an answer").acquired().expect("a free lock")
}

/// How long it takes from the wait that closes a circle of so many owners until it is found.
async fn found_after(clients: &[Locks], size: usize) -> Duration {
    let name = |number: usize| format!("c{}", number % size);
    let owners: Vec<_> = (0..size)
        .map(|number| clients[number].owner(&format!("o{number}")).expect("a name"))
        .collect();
    let mut guards = Vec::new();
    for (number, owner) in owners.iter().enumerate() {
        guards.push(holds(owner, &name(number)).await);
    }
    let mut waiting = Vec::new();
    for (number, owner) in owners.iter().enumerate().take(size - 1) {
        let lock = owner.named(&name(number + 1)).with_wait(MINUTE);
        waiting.push(background(async move { lock.acquire().await.expect("an answer") }));
        waited_for(&clients[0], &name(number + 1)).await;
    }
    let began = now();
    let outcome = owners[size - 1].named(&name(size)).with_wait(MINUTE).acquire().await;
    let elapsed = began.elapsed();
    match outcome.expect("an answer") {
        Outcome::Deadlock { cycle } => assert_eq!(cycle.len(), size, "{cycle:?}"),
        other => panic!("no deadlock: {other:?}"),
    }
    // One after the other proceeds.
    guards.pop();
    while let Some(next) = waiting.pop() {
        drop(next.await.expect("no panic").acquired().expect("proceeds"));
        guards.pop();
    }
    elapsed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn circles_of_two_three_and_ten_are_found() {
    let server = server().await;
    let clients = clients(&server, 10).await;
    for size in [2, 3, 10] {
        // How soon is measured where nothing else runs: in the tests of locks.
        let elapsed = found_after(&clients, size).await;
        figures(&format!("a circle of {size} is found after {elapsed:?}"));
    }
}

#[tokio::test]
async fn the_wait_of_a_dead_owner_accuses_nobody_and_its_lock_is_inherited() {
    let server = builder().with_clock_shim().start().await.expect("a server");
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let (mut living, prefix) = clients_with_prefix(&server, 1).await;
    let living = living.remove(0);
    let config = config(&proxy.url()).with_prefix(&prefix).expect("a prefix");
    let dying = Locks::redis(&Connection::connect(config).await.expect("a connection"));
    let (one, two) = (living.owner("one").expect("a name"), dying.owner("two").expect("a name"));
    let a = holds(&one, "a").await;
    let lock = two.named("b").with_ttl(SECOND * 8);
    let _b = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    let lock = two.named("a").with_wait(MINUTE);
    let dead = background(async move { lock.acquire().await });
    waited_for(&living, "a").await;
    let waits = async || {
        let keys = server.command(&["KEYS", "*:waits:two"]).await.expect("an answer");
        keys.as_array().expect("keys").len()
    };
    eventually(SECOND * 10, "it is written down", async || waits().await == 1).await;
    proxy.black_hole(true);
    server.advance_clock(SECOND * 3 + SECOND / 10).await.expect("another time");
    assert_eq!(waits().await, 0, "a wait outlives its lease");
    // Its lock stands in the way yet, and then no more.
    let lock = one.named("b").with_wait(MINUTE);
    let waiting = background(async move { lock.acquire().await.expect("an answer") });
    waited_for(&living, "b").await;
    let looks = server.calls_of("evalsha").await;
    eventually(SECOND * 10, "it has looked for circles", async || {
        server.calls_of("evalsha").await > looks + 12
    })
    .await;
    assert!(!waiting.is_finished(), "{:?}", waiting.await);
    server.advance_clock(SECOND * 8).await.expect("another time");
    let b = waiting.await.expect("no panic").acquired().expect("nobody is accused");
    assert!(b.is_valid() && a.is_valid());
    dead.abort();
}

#[tokio::test]
async fn whoever_has_not_heard_of_its_grant_does_not_accuse_itself() {
    let Scene { server: _server, proxy, locks, truth } = scene().await;
    let guard = take(&locks, "a").await;
    let lock = locks.owner("job").expect("a name").named("a").with_wait(MINUTE);
    let waiting = background(async move { lock.acquire().await.expect("an answer") });
    waited_for(&truth, "a").await;
    // The release grants it the lock; the answer gets lost, and so do the heartbeats that could
    // tell of it.
    let deaf = Rule::script(sha("locks.heartbeat")).replace("*1\r\n$4\r\nPING\r\n");
    let deaf = proxy.rule(deaf);
    let lost = proxy.rule(Rule::script(sha("locks.release")).nth(1).on_reply().cut());
    guard.release().await.expect("an answer");
    assert_eq!(lost.hits(), 1, "the answer was not lost");
    eventually(SECOND * 10, "it holds the lock", async || {
        let held = truth.show("a").await.expect("an answer");
        held.is_some_and(|held| held.holder.owner.as_deref() == Some("job"))
    })
    .await;
    let looks = proxy.rule(Rule::script(sha("locks.wait_for")));
    let looked = async || looks.hits() >= 2 || waiting.is_finished();
    eventually(SECOND * 10, "it looks twice for circles", looked).await;
    assert!(deaf.hits() > 0 && !waiting.is_finished(), "{:?}", waiting.await);
    deaf.remove();
    assert!(waiting.await.expect("no panic").acquired().is_ok(), "it was granted the lock");
}

/// An owner comes upon a circle that opens while it looks again, at the reading that is held.
async fn a_circle_opens(reading: usize) {
    let Scene { server: _server, proxy, locks, truth } = scene().await;
    let (one, two) = (locks.owner("one").expect("a name"), truth.owner("two").expect("a name"));
    let (a, b) = (holds(&one, "a").await, holds(&two, "b").await);
    // Whoever is no owner comes before the one that looks.
    let next = background(async move { take(&truth, "b").await });
    waited_for(&locks, "b").await;
    let lock = two.named("a").with_wait(MINUTE);
    let waiting = background(async move { lock.acquire().await.expect("an answer") });
    waited_for(&locks, "a").await;
    // The walk asks for one wait, and each reading for two.
    let held = proxy.rule(Rule::script(sha("locks.waits_of")).nth(reading * 2).hold());
    let looks = proxy.rule(Rule::script(sha("locks.wait_for")));
    let lock = one.named("b").with_wait(MINUTE);
    let looking = background(async move { lock.acquire().await.expect("an answer") });
    let met = async || held.hits() > 0 || looking.is_finished();
    eventually(SECOND * 10, "it reads", met).await;
    b.release().await.expect("an answer");
    let next = next.await.expect("no panic");
    held.let_go();
    let looked = async || looks.hits() >= 2 || looking.is_finished();
    eventually(SECOND * 10, "it goes on looking", looked).await;
    assert!(!looking.is_finished(), "reading {reading}: {:?}", looking.await);
    next.release().await.expect("an answer");
    drop(looking.await.expect("no panic").acquired().expect("its turn"));
    a.release().await.expect("an answer");
    drop(waiting.await.expect("no panic").acquired().expect("its turn"));
}

#[tokio::test]
async fn a_circle_that_opens_meanwhile_accuses_nobody() {
    for reading in [1, 2] {
        a_circle_opens(reading).await;
    }
}

#[tokio::test]
async fn a_circle_behind_another_waiter_of_the_process_is_found() {
    let Scene { server: _server, proxy: _proxy, locks, truth } = scene().await;
    let (one, two) = (locks.owner("one").expect("a name"), truth.owner("two").expect("a name"));
    let (_a, b) = (holds(&one, "a").await, holds(&two, "b").await);
    let before = background(async move { take(&locks, "b").await });
    waited_for(&truth, "b").await;
    let lock = one.named("b").with_wait(MINUTE);
    let waiting = background(async move { lock.acquire().await.expect("an answer") });
    eventually(SECOND * 10, "both stand in the queue", async || {
        truth.waiters("b", 9).await.expect("an answer").len() == 2
    })
    .await;
    let outcome = two.named("a").acquire().await.expect("an answer");
    assert!(matches!(&outcome, Outcome::Deadlock { cycle } if cycle.len() == 2), "{outcome:?}");
    b.release().await.expect("an answer");
    before.await.expect("no panic").release().await.expect("an answer");
    drop(waiting.await.expect("no panic").acquired().expect("its turn"));
}

/// Whether `job` waits, and the queue knows that it hears of its turn: then it has nothing left to
/// ask, and an attempt that has begun may last for as long as a command.
const WAITS_AND_HEARS: &str = "local hears = 0
    for _, key in ipairs(redis.call('KEYS', '*:stand:a')) do
        for _, record in ipairs(redis.call('HVALS', key)) do
            if string.sub(record, 49, 49) == '1' then hears = 1 end
        end
    end
    return #redis.call('KEYS', '*:waits:job') * hears";

#[tokio::test]
async fn an_owners_wait_ends_with_its_deadline_on_a_silent_link() {
    let server = server().await;
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let (truth, prefix) = clients_with_prefix(&server, 1).await;
    // With the usual timeout, which is longer than what the wait may last beyond its deadline.
    let config = config(&proxy.url()).with_prefix(&prefix).expect("a prefix");
    let locks = Locks::redis(&Connection::connect(config).await.expect("a connection"));
    let held = take(&truth[0], "a").await;
    let lock = locks.owner("job").expect("a name").named("a").with_wait(SECOND);
    let waiting = background(async move {
        let before = now();
        let outcome = lock.acquire().await;
        (outcome, before.elapsed())
    });
    eventually(SECOND, "the wait is in the registry, and hears", async || {
        let known = server.command(&["EVAL", WAITS_AND_HEARS, "0"]).await.expect("an answer");
        known.as_int() == Some(1)
    })
    .await;
    proxy.black_hole(true);
    let (outcome, took) = waiting.await.expect("no panic");
    assert!(!matches!(outcome, Ok(Outcome::Acquired(_))), "{outcome:?}");
    assert!(took < SECOND * 2, "{took:?}");
    held.release().await.expect("an answer");
}
