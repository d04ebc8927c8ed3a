//! The queue under fire: waiters that die, many that wait, turns that are fair, memory that is
//! full, a server that forgets.

mod chaos;

use super::{SECOND, Scene, background, figures, now, scene, sha, take};
use crate::topology::{builder, config, server};
use coordinator_core::{
    BoxFuture, ErrorKind,
    clock::{self, Clock, SystemClock},
    redis::Connection,
};
use coordinator_harness::{Proxy, RedisServer, Rule, eventually};
use coordinator_locks::{Lock, Locks, Outcome};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::{JoinHandle, JoinSet};

const MINUTE: Duration = Duration::from_mins(1);

/// A client of its own, as another process would be.
async fn client(url: &str, prefix: &str) -> Locks {
    client_with_clock(url, prefix, Arc::new(SystemClock)).await
}

async fn client_with_clock(url: &str, prefix: &str, clock: Arc<dyn Clock>) -> Locks {
    let config = config(url).with_prefix(prefix).expect("a prefix").with_clock(clock);
    Locks::redis(&Connection::connect(config).await.expect("a connection"))
}

/// A wall clock that is an hour ahead, or behind.
#[derive(Debug)]
struct HourOff {
    ahead: bool,
}

impl Clock for HourOff {
    fn now(&self) -> clock::Instant {
        SystemClock.now()
    }

    fn unix_time(&self) -> Duration {
        let (true_time, hour) = (SystemClock.unix_time(), Duration::from_hours(1));
        if self.ahead { true_time + hour } else { true_time - hour }
    }

    fn sleep_until(&self, deadline: clock::Instant) -> BoxFuture<'static, ()> {
        SystemClock.sleep_until(deadline)
    }
}

async fn clients(url: &str, prefix: &str, count: usize) -> Vec<Locks> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(client(url, prefix).await);
    }
    clients
}

/// Locks at a server that knows their scripts, and the prefix of their keys.
async fn locks_of(server: &RedisServer) -> (Locks, String) {
    let connection = Connection::connect(config(&server.url())).await.expect("a connection");
    for script in coordinator_locks::SCRIPTS {
        server.command(&["SCRIPT", "LOAD", script.source()]).await.expect("a script");
    }
    (Locks::redis(&connection), connection.keyspace().prefix().to_owned())
}

/// Waits until so many stand in the queue of `a`.
async fn queued(truth: &Locks, count: usize) {
    eventually(SECOND * 20, "they stand in the queue", async || {
        truth.waiters("a", 9999).await.expect("an answer").len() == count
    })
    .await;
}

/// Who was served, and when.
#[derive(Default, Clone)]
struct Roll(Arc<Mutex<Vec<(usize, Instant)>>>);

impl Roll {
    /// One more waiter for `a`, which stands in the queue when this returns.
    async fn join(&self, truth: &Locks, lock: Lock, number: usize) -> JoinHandle<()> {
        let before = truth.waiters("a", 9999).await.expect("an answer").len();
        let roll = self.0.clone();
        let waiting = background(async move {
            let outcome = lock.with_wait(MINUTE).acquire().await.expect("an answer");
            let guard = outcome.acquired().expect("its turn");
            roll.lock().expect("unpoisoned").push((number, now()));
            guard.release().await.expect("an answer");
        });
        queued(truth, before + 1).await;
        waiting
    }

    fn served(&self) -> Vec<usize> {
        self.0.lock().expect("unpoisoned").iter().map(|(number, _)| *number).collect()
    }
}

/// Waits until so many clients hear of their turns.
async fn listening(server: &RedisServer, clients: usize) {
    eventually(SECOND * 10, "so many hear of their turns", async || {
        server.channels().await.expect("an answer").len() == clients
    })
    .await;
}

/// Forty that live and ten that die, first ones and last ones among them, none with the true time:
/// how long after a release the first of the living was served, and the last. All were served in
/// order.
async fn fifty_of_whom_ten_die(
    die: impl AsyncFnOnce(&Proxy, &RedisServer),
) -> (Duration, Duration) {
    const DEAD: [usize; 10] = [0, 1, 2, 3, 9, 10, 20, 30, 40, 49];
    let server = server().await;
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let (truth, prefix) = locks_of(&server).await;
    let held = take(&truth, "a").await;
    let roll = Roll::default();
    let (mut living, mut dead) = (Vec::new(), JoinSet::new());
    // To close a client takes its time, and others wait for the thread meanwhile.
    let mut open = Vec::new();
    for number in 0..50 {
        let dies = DEAD.contains(&number);
        let url = if dies { proxy.url() } else { server.url() };
        let clock = Arc::new(HourOff { ahead: number % 2 == 0 });
        let locks = client_with_clock(&url, &prefix, clock).await;
        let lock = locks.named("a").with_fair(true);
        open.push(lock.clone());
        let waiting = roll.join(&truth, lock, number).await;
        if dies {
            dead.spawn(waiting);
        } else {
            living.push(waiting);
        }
    }
    listening(&server, 50).await;
    die(&proxy, &server).await;
    let released = now();
    held.release().await.expect("an answer");
    for waiting in living {
        waiting.await.expect("no panic");
    }
    let expected: Vec<_> = (0..50).filter(|number| !DEAD.contains(number)).collect();
    assert_eq!(roll.served(), expected);
    let roll = roll.0.lock().expect("unpoisoned");
    let after = |entry: Option<&(usize, Instant)>| entry.expect("was served").1 - released;
    (after(roll.first()), after(roll.last()))
}

#[tokio::test]
async fn ten_machines_without_power_delay_the_living_by_one_turn_in_all() {
    let (first, last) = fifty_of_whom_ten_die(async |proxy, _| proxy.black_hole(true)).await;
    figures(&format!("first after {first:?}, all after {last:?}"));
    assert!(first <= SECOND, "the first of the living waited for {first:?}");
    // Fifty milliseconds a hand-off are for a machine under load.
    let sum = SECOND + SECOND / 20 * 40;
    assert!(last <= sum, "the last of the living waited for {last:?}");
}

#[tokio::test]
async fn clients_whose_links_are_closed_delay_nobody() {
    let closed = async |proxy: &Proxy, server: &RedisServer| {
        proxy.refuse(true);
        // Until the server has noticed, it takes them for machines without power.
        listening(server, 40).await;
    };
    let (first, last) = fifty_of_whom_ten_die(closed).await;
    figures(&format!("first after {first:?}, all after {last:?}"));
    // Less than one turn is kept.
    assert!(first <= SECOND / 2, "the first of the living waited for {first:?}");
    assert!(last <= SECOND / 2 + SECOND / 20 * 40, "the last of the living waited for {last:?}");
}

/// Twenty clients that wait for `a`, so often in all.
async fn waiting(clients: &[Locks], truth: &Locks, total: usize, fair: bool) -> Duration {
    let held = take(truth, "a").await;
    let mut waiting = JoinSet::new();
    for number in 0..total {
        let lock = clients[number % clients.len()].named("a").with_fair(fair).with_wait(MINUTE);
        waiting.spawn(async move {
            let guard = lock.acquire().await.expect("an answer").acquired().expect("its turn");
            guard.release().await.expect("an answer");
        });
    }
    queued(truth, if fair { total } else { clients.len() }).await;
    let began = now();
    held.release().await.expect("an answer");
    while let Some(served) = waiting.join_next().await {
        served.expect("no panic");
    }
    began.elapsed()
}

/// What the clients send for each acquisition when a thousand wait in twenty clients: what comes
/// with time, which is heartbeats and the connections' own, and everything else.
async fn commands_for_a_thousand(fair: bool) -> (f64, f64) {
    let server = server().await;
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let (truth, prefix) = locks_of(&server).await;
    let clients = clients(&proxy.url(), &prefix, 20).await;
    // Each has a link for its subscriptions and has looked at the server's set-up.
    waiting(&clients, &truth, 20, fair).await;
    let beat = sha("locks.heartbeat").as_bytes();
    let with_time = proxy.rule(Rule::matching(move |args| {
        args[0].eq_ignore_ascii_case(b"PING") || args.get(1).is_some_and(|arg| arg == beat)
    }));
    let all = proxy.rule(Rule::any());
    let elapsed = waiting(&clients, &truth, 1000, fair).await;
    let each = |count: usize| f64::from(u32::try_from(count).expect("not so many")) / 1000.0;
    let (others, with_time) = (each(all.hits() - with_time.hits()), each(with_time.hits()));
    figures(&format!(
        "fair {fair}: {others} commands for each, {with_time} with time, {elapsed:?} in all"
    ));
    (others, with_time)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_processes_take_turns_a_thousand_waiters_cost_three_commands_each() {
    let (others, with_time) = commands_for_a_thousand(false).await;
    // To stand in the queue, to take the lock and to release it; and here and there a look in vain,
    // when a heartbeat tells of a turn as well.
    assert!(others <= 3.05, "{others} commands");
    assert!(with_time <= 0.5, "{with_time} commands with time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_order_of_arrival_a_thousand_waiters_cost_less_than_three_commands_each() {
    let (others, with_time) = commands_for_a_thousand(true).await;
    assert!(others + with_time <= 3.0, "{others} commands, {with_time} with time");
}

/// How often each of several workers was served until all of them together were so many times.
async fn shares(truth: &Locks, locks: Vec<Lock>, queue: usize, total: u32) -> Vec<u32> {
    let held = take(truth, "a").await;
    let sum = Arc::new(AtomicU32::new(0));
    let work = |lock: Lock| {
        let sum = sum.clone();
        background(async move {
            let lock = lock.with_wait(MINUTE);
            let mut share = 0;
            loop {
                let guard = lock.acquire().await.expect("an answer").acquired().expect("its turn");
                let counts = sum.fetch_add(1, Ordering::Relaxed) < total;
                guard.release().await.expect("an answer");
                if !counts {
                    return share;
                }
                share += 1;
            }
        })
    };
    let workers: Vec<_> = locks.into_iter().map(work).collect();
    queued(truth, queue).await;
    held.release().await.expect("an answer");
    let mut shares = Vec::new();
    for worker in workers {
        shares.push(worker.await.expect("no panic"));
    }
    shares
}

fn ratio(shares: &[u32]) -> f64 {
    figures(&format!("{shares:?}"));
    let least = shares.iter().min().expect("shares");
    f64::from(*least) / f64::from(*shares.iter().max().expect("shares"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fair_tasks_of_one_process_have_equal_shares() {
    let server = server().await;
    let (truth, prefix) = locks_of(&server).await;
    let locks = client(&server.url(), &prefix).await;
    let all = (0..16).map(|_| locks.named("a").with_fair(true)).collect();
    let ratio = ratio(&shares(&truth, all, 16, 1600).await);
    assert!(ratio >= 0.77, "{ratio}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fair_tasks_of_many_processes_have_equal_shares() {
    let server = server().await;
    let (truth, prefix) = locks_of(&server).await;
    let clients = clients(&server.url(), &prefix, 16).await;
    let all = clients.iter().map(|locks| locks.named("a").with_fair(true)).collect();
    let ratio = ratio(&shares(&truth, all, 16, 1600).await);
    assert!(ratio >= 0.77, "{ratio}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_and_their_tasks_starve_nobody() {
    let server = server().await;
    let (truth, prefix) = locks_of(&server).await;
    let clients = clients(&server.url(), &prefix, 4).await;
    let all = (0..16).map(|number| clients[number % 4].named("a")).collect();
    let ratio = ratio(&shares(&truth, all, 4, 1600).await);
    assert!(ratio >= 0.5, "{ratio}");
}

async fn set(server: &RedisServer, key: &str, value: &str) {
    let answer = server.command(&["CONFIG", "SET", key, value]).await.expect("an answer");
    answer.ok().expect("a setting");
}

#[tokio::test]
async fn with_memory_full_waiters_keep_their_places_and_turns_pass_on() {
    let server = builder().with_clock_shim().start().await.expect("a server");
    let (truth, prefix) = locks_of(&server).await;
    let held = take(&truth, "a").await;
    let others = clients(&server.url(), &prefix, 2).await;
    let roll = Roll::default();
    let mut waiting = Vec::new();
    // One where the lock is released, and others elsewhere.
    for (number, locks) in [&others[0], &truth, &others[1]].into_iter().enumerate() {
        waiting.push(roll.join(&truth, locks.named("a").with_fair(true), number).await);
    }
    set(&server, "maxmemory", "1").await;
    // Whoever was not heard of for ten seconds of the server's is gone.
    for _ in 0..3 {
        server.advance_clock(SECOND * 6).await.expect("another time");
        let before = server.calls_of("evalsha").await;
        eventually(SECOND * 10, "all said that they live", async || {
            queued(&truth, 3).await;
            // Each client has its own rhythm, and these looks count as well.
            server.calls_of("evalsha").await > before + 20
        })
        .await;
    }
    let new = client(&server.url(), &prefix).await;
    for lock in [new.named("a").with_wait(SECOND * 5), new.named("b")] {
        let before = now();
        let error = lock.acquire().await.expect_err("is full");
        assert_eq!(error.kind(), ErrorKind::Rejected, "{}", error.chain());
        assert!(before.elapsed() < SECOND, "{:?}", before.elapsed());
    }
    let released = now();
    held.release().await.expect("an answer");
    for waiting in waiting {
        waiting.await.expect("no panic");
    }
    assert!(released.elapsed() < SECOND, "three turns took {:?}", released.elapsed());
    assert_eq!(roll.served(), [0, 1, 2]);
}

/// Forgets everything but one lock.
const FORGET: &str = "local lock, ttl = redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])
    redis.call('FLUSHALL') redis.call('SET', KEYS[1], lock, 'PX', ttl) return 1";

#[tokio::test]
async fn a_server_that_forgot_the_queue_is_told_who_came_first() {
    let server = server().await;
    let (truth, prefix) = locks_of(&server).await;
    let held = take(&truth, "a").await;
    let clients = clients(&server.url(), &prefix, 8).await;
    let roll = Roll::default();
    let mut waiting = Vec::new();
    for (number, locks) in clients.iter().enumerate() {
        waiting.push(roll.join(&truth, locks.named("a").with_fair(true), number).await);
    }
    let listed = server.command(&["KEYS", "*:lock:a"]).await.expect("an answer");
    let key = listed.as_array().expect("keys")[0].as_str().expect("text").to_owned();
    for _ in 0..3 {
        let forgot = server.command(&["EVAL", FORGET, "1", &key]).await.expect("an answer");
        forgot.ok().expect("all is forgotten");
        assert!(truth.waiters("a", 9).await.expect("an answer").len() < 8, "nothing is forgotten");
        queued(&truth, 8).await;
    }
    held.release().await.expect("an answer");
    for waiting in waiting {
        waiting.await.expect("no panic");
    }
    assert_eq!(roll.served(), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn a_server_that_forgot_everything_serves_whoever_waits_with_newer_fences() {
    let server = server().await;
    let (truth, prefix) = locks_of(&server).await;
    let held = take(&truth, "a").await;
    let clients = clients(&server.url(), &prefix, 8).await;
    let fences = Arc::new(Mutex::new(vec![held.fence()]));
    let mut waiting = JoinSet::new();
    for locks in &clients {
        let lock = locks.named("a").with_fair(true).with_wait(MINUTE);
        let fences = fences.clone();
        waiting.spawn(async move {
            let outcome = lock.acquire().await.expect("an answer");
            let Outcome::Acquired(guard) = outcome else { panic!("not served: {outcome:?}") };
            fences.lock().expect("unpoisoned").push(guard.fence());
            guard.release().await.expect("an answer");
        });
    }
    queued(&truth, 8).await;
    let before = now();
    server.command(&["FLUSHALL"]).await.expect("an answer").ok().expect("all is forgotten");
    while let Some(served) = waiting.join_next().await {
        served.expect("no panic");
    }
    assert!(before.elapsed() < SECOND * 2, "{:?}", before.elapsed());
    let fences = fences.lock().expect("unpoisoned");
    assert!(fences.is_sorted_by(|one, next| one < next) && fences.len() == 9, "{fences:?}");
}

#[tokio::test]
async fn a_place_that_was_given_up_in_an_outage_is_left_after_it() {
    let Scene { server: _server, proxy, locks, truth } = scene().await;
    let held = take(&truth, "a").await;
    let stands = async |waiters: usize| {
        eventually(SECOND * 5, "it stands in the queue", async || {
            truth.waiters("a", 9).await.expect("an answer").len() == waiters
        })
        .await;
    };
    let short = locks.named("a").with_fair(true).with_ttl(SECOND / 2).with_wait(SECOND);
    let short = background(async move { short.acquire().await });
    stands(1).await;
    // Keeps its client alive, and in the queue.
    let long = locks.named("a").with_fair(true).with_wait(SECOND * 30);
    let long = background(async move { long.acquire().await });
    stands(2).await;
    proxy.black_hole(true);
    assert!(!matches!(short.await.expect("no panic"), Ok(Outcome::Acquired(_))));
    // Longer than its ttl and every timeout.
    let began = now();
    while began.elapsed() < SECOND * 4 {
        tokio::task::yield_now().await;
    }
    proxy.black_hole(false);
    eventually(SECOND * 10, "only the other waits", async || {
        truth.show("a").await.expect("an answer").is_some_and(|held| held.waiters == 1)
    })
    .await;
    held.release().await.expect("an answer");
    let next = long.await.expect("no panic").expect("an answer").acquired().expect("its turn");
    next.release().await.expect("an answer");
}
