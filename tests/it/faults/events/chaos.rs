//! Everything at once, for a while: no event is lost, told twice, or out of order.

use super::{SOON, Scene, scene};
use crate::faults::{background, figures, now};
use coordinator_events::{Cursor, Events, Item, Position, Published};
use coordinator_harness::{Proxy, RedisServer, rng};
use rand::seq::SliceRandom as _;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Set for the long runs of `xtask test --long`.
const LONG: &str = "COORDINATOR_LONG";

const SCOPES: u32 = 50;
const SUBSCRIBERS: u32 = 200;
const FAULT_EVERY: Duration = Duration::from_millis(300);

/// Publishes numbers of a scope, each until it is published, until it is told to stop; the cursor
/// that each number was acknowledged with, where one was.
async fn publisher(
    events: Events,
    scope: String,
    pause: Duration,
    stop: Arc<AtomicBool>,
) -> Vec<Option<Cursor>> {
    let mut acknowledged = Vec::new();
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let number = acknowledged.len();
        let key = format!("{scope}:{number}");
        loop {
            match events.publish(&scope, "n", &number).idempotent(&key).await {
                Ok(Published::New(cursor)) => acknowledged.push(Some(cursor)),
                Ok(Published::Duplicate(_)) => acknowledged.push(None),
                Ok(other) => panic!("{other:?}"),
                Err(error) => {
                    assert!(error.is_retryable(), "{}", error.chain());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
            }
            break;
        }
    }
    acknowledged
}

/// Reads a scope from its beginning; everything, in the order in which it came.
async fn reader(
    events: Events,
    scope: String,
    wanted: Arc<AtomicU64>,
    resumes: bool,
) -> Result<Vec<(Cursor, usize)>, String> {
    let mut seen: Vec<(Cursor, usize)> = Vec::new();
    let mut position = Position::Earliest;
    loop {
        let mut subscription = loop {
            match events.subscribe(&scope).from(position).open::<usize>().await {
                Ok(subscription) => break subscription,
                Err(error) if error.is_retryable() => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(error.chain()),
            }
        };
        loop {
            if seen.len() as u64 >= wanted.load(Ordering::Relaxed) {
                return Ok(seen);
            }
            let next = tokio::time::timeout(Duration::from_millis(100), subscription.next());
            match next.await {
                Ok(Some(Item::Event(event))) => seen.push((event.cursor(), event.data)),
                Ok(other) => return Err(format!("{scope}: {other:?}")),
                Err(_) => {}
            }
            // Some leave and come again, as browsers do.
            if resumes && seen.len() % 97 == 96 {
                position = Position::After(subscription.cursor());
                break;
            }
        }
    }
}

/// How many links there ever were to a server.
async fn links(server: &RedisServer) -> u64 {
    let answer = server.command(&["INFO", "stats"]).await.expect("an answer");
    let stats = answer.as_str().expect("text");
    let links = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    links.expect("it counts them").trim().parse().expect("a number")
}

/// Something goes wrong; what.
async fn inflict(server: &RedisServer, proxy: &Proxy, fault: u32) -> &'static str {
    match fault {
        0 => {
            server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.expect("an answer");
            "subscribers killed"
        }
        1 => {
            server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await.expect("an answer");
            "clients killed"
        }
        2 => {
            proxy.cut_all();
            "links cut"
        }
        3 => {
            proxy.black_hole(true);
            tokio::time::sleep(FAULT_EVERY / 2).await;
            proxy.black_hole(false);
            "black hole"
        }
        4 => {
            server.command(&["SCRIPT", "FLUSH"]).await.expect("an answer");
            "scripts flushed"
        }
        5 => {
            // Whoever has so much as one message to read is cut off.
            for limit in ["pubsub 1 0 0", "pubsub 33554432 8388608 60"] {
                let set = ["CONFIG", "SET", "client-output-buffer-limit", limit];
                server.command(&set).await.expect("an answer").ok().expect("it is set");
                tokio::time::sleep(FAULT_EVERY / 6).await;
            }
            "output buffers overflow"
        }
        _ => {
            proxy.drop_messages(true);
            tokio::time::sleep(FAULT_EVERY / 2).await;
            proxy.drop_messages(false);
            "messages dropped"
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_twice_or_out_of_order_whatever_is_killed() {
    let long = std::env::var_os(LONG).is_some();
    let (seconds, rate) = if long { (60, 5000) } else { (10, 2000) };
    let Scene { server, proxy, events, truth } = scene().await;
    let keep = (1_000_000, Duration::from_mins(10));
    let events = events.with_retention(keep.0, keep.1).with_local_ring(256, 1 << 20);
    let stop = Arc::new(AtomicBool::new(false));
    let wanted: Vec<_> = (0..SCOPES).map(|_| Arc::new(AtomicU64::new(u64::MAX))).collect();
    let readers: Vec<_> = (0..SUBSCRIBERS)
        .map(|number| {
            let scope = number % SCOPES;
            let wanted = wanted[scope as usize].clone();
            let resumes = number >= SUBSCRIBERS / 2;
            background(reader(events.clone(), format!("s{scope}"), wanted, resumes))
        })
        .collect();
    let pause = Duration::from_secs(1) * SCOPES / rate;
    let publishers: Vec<_> = (0..SCOPES)
        .map(|scope| {
            background(publisher(events.clone(), format!("s{scope}"), pause, stop.clone()))
        })
        .collect();
    let (mut random, mut faults) = (rng(), HashMap::<&str, u32>::new());
    let mut turn = Vec::new();
    let links = links(&server).await;
    let began = now();
    let mut ticks = tokio::time::interval(FAULT_EVERY);
    while began.elapsed() < Duration::from_secs(seconds) {
        ticks.tick().await;
        // Each in its turn, and the turns in any order.
        if turn.is_empty() {
            turn = (0..7).collect();
            turn.shuffle(&mut random);
        }
        let fault = inflict(&server, &proxy, turn.pop().expect("one of seven")).await;
        *faults.entry(fault).or_default() += 1;
    }
    stop.store(true, Ordering::Relaxed);
    let mut published = 0;
    let mut truths = Vec::new();
    for (scope, publisher) in publishers.into_iter().enumerate() {
        let acknowledged = publisher.await.expect("no panic");
        published += acknowledged.len();
        wanted[scope].store(acknowledged.len() as u64, Ordering::Relaxed);
        // What is on the server, each number once and in the order of publishing.
        let position = Position::Earliest;
        let all = truth.subscribe(&format!("s{scope}")).from(position).open::<usize>().await;
        let mut all = all.expect("it opens");
        let mut there = Vec::new();
        for (number, cursor) in acknowledged.iter().enumerate() {
            match all.next().await {
                Some(Item::Event(event)) => {
                    assert_eq!(event.data, number, "scope {scope}");
                    assert!(cursor.is_none_or(|cursor| cursor == event.cursor()));
                    there.push((event.cursor(), event.data));
                }
                other => panic!("scope {scope}: {other:?}"),
            }
        }
        truths.push(there);
    }
    for (number, reader) in readers.into_iter().enumerate() {
        let scope = number % SCOPES as usize;
        let seen = tokio::time::timeout(SOON, reader).await.expect("in time").expect("no panic");
        let seen = seen.expect("no gap and no end");
        assert!(seen == truths[scope], "reader {number} saw something else");
    }
    let made = self::links(&server).await - links;
    figures(&format!("{published} events in {seconds} s among {faults:?}; {made} links made"));
    // A run in which nothing happened shows nothing.
    assert!(u64::from(faults.values().sum::<u32>()) >= seconds * 2, "{faults:?}");
    let bites = ["subscribers killed", "clients killed", "links cut", "output buffers overflow"];
    let kills: u32 = bites.iter().map(|fault| faults[fault]).sum();
    assert!(made >= u64::from(kills), "{made} links were made after {kills} kills");
    assert!(faults.len() == 7 && faults["scripts flushed"] > 0, "{faults:?}");
    // Beside other tests a machine may have no time for the rest; alone it has.
    let most = seconds * u64::from(rate);
    let enough = if long { most * 9 / 10 } else { most / 2 };
    assert!(published as u64 >= enough, "only {published}");
    drop(events);
    // Links that a black hole swallowed are still open on the server's side.
    proxy.cut_all();
    let mut left = Vec::new();
    let silent = async {
        loop {
            left = server.channels().await.expect("an answer");
            if left.is_empty() {
                return;
            }
            tokio::time::sleep(FAULT_EVERY).await;
        }
    };
    if tokio::time::timeout(SOON, silent).await.is_err() {
        let clients = server.command(&["CLIENT", "LIST"]).await.expect("an answer");
        panic!("somebody still listens to {left:?}: {}", clients.as_str().unwrap_or_default());
    }
}
