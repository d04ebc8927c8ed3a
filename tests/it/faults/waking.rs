//! Wake-ups that get lost, and how many there are.

use super::{SECOND, Scene, background, now, scene, take, waited_for};
use coordinator_core::redis::Connection;
use coordinator_harness::eventually;
use coordinator_locks::Locks;
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use tokio::task::JoinHandle;

#[tokio::test]
async fn with_every_wake_up_dropped_waiters_look_by_themselves() {
    let Scene { proxy, locks, truth, server: _server } = scene().await;
    proxy.drop_messages(true);
    for _ in 0..3 {
        let guard = take(&truth, "a").await;
        let waiter = locks.clone();
        let waiting = background(async move { take(&waiter, "a").await });
        waited_for(&truth, "a").await;
        let before = now();
        guard.release().await.expect("an answer");
        let next = waiting.await.expect("no panic");
        assert!(before.elapsed() < SECOND * 3 / 2, "{:?}", before.elapsed());
        next.release().await.expect("an answer");
    }
}

#[tokio::test]
async fn a_subscriber_killed_a_hundred_times_stalls_nobody() {
    let Scene { server, locks, truth, proxy: _proxy, .. } = scene().await;
    let count = Arc::new(AtomicU32::new(0));
    let workers: Vec<_> = [&locks, &truth, &locks, &truth]
        .map(|locks| {
            let (locks, count) = (locks.clone(), count.clone());
            background(async move {
                while count.load(Ordering::Relaxed) < 1_000_000 {
                    let outcome = locks.acquire("a").await.expect("an answer");
                    let guard = outcome.acquired().expect("within ten seconds");
                    count.fetch_add(1, Ordering::Relaxed);
                    let _ = guard.release().await;
                }
            })
        })
        .into_iter()
        .collect();
    let mut killed = 0;
    while killed < 100 {
        // Whoever has given up needs no subscriber to be killed, and this would never end.
        assert!(!workers.iter().any(JoinHandle::is_finished), "a worker had to give up");
        let before = count.load(Ordering::Relaxed);
        let kill = server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.expect("an answer");
        killed += kill.as_int().unwrap_or(0);
        // Never longer than a look by oneself takes.
        eventually(SECOND * 3, "work goes on", async || count.load(Ordering::Relaxed) > before + 2)
            .await;
    }
    count.store(1_000_000, Ordering::Relaxed);
    for worker in workers {
        worker.await.expect("no panic");
    }
}

#[tokio::test]
async fn waiting_costs_a_process_a_few_heartbeats_however_many_wait() {
    let Scene { server, locks, truth, proxy: _proxy, .. } = scene().await;
    let guard = take(&truth, "a").await;
    let waiters: Vec<_> = (0..200)
        .map(|_| {
            let locks = locks.clone();
            background(async move { take(&locks, "a").await.release().await.expect("an answer") })
        })
        .collect();
    waited_for(&truth, "a").await;
    let before = server.calls_of("evalsha").await;
    let second = now();
    while second.elapsed() < SECOND {
        tokio::task::yield_now().await;
    }
    let beats = server.calls_of("evalsha").await - before;
    // Five, and one for the log.
    assert!(beats <= 6, "{beats} commands in a second of waiting");
    let before = server.calls_of("evalsha").await;
    guard.release().await.expect("an answer");
    for waiter in waiters {
        waiter.await.expect("no panic");
    }
    // A release and an acquire for each, and little more.
    let commands = server.calls_of("evalsha").await - before;
    assert!(commands <= 200 * 2 + 40, "{commands} commands for 200 hand-offs");
}

#[tokio::test]
async fn idle_channels_are_given_up() {
    let Scene { server, locks, truth, proxy: _proxy, .. } = scene().await;
    for number in 0..20 {
        let name = format!("n{number}");
        let guard = take(&truth, &name).await;
        let waiter = locks.clone();
        let waiting = background(async move { take(&waiter, &name).await });
        waited_for(&truth, guard.name()).await;
        guard.release().await.expect("an answer");
        waiting.await.expect("no panic").release().await.expect("an answer");
    }
    eventually(SECOND * 10, "nobody listens", async || {
        server.channels().await.expect("an answer").is_empty()
    })
    .await;
}

#[tokio::test]
async fn where_channels_are_forbidden_waiters_look_more_often() {
    let Scene { server, truth, proxy: _proxy, .. } = scene().await;
    let held = take(&truth, "a").await;
    let listed = server.command(&["KEYS", "*:lock:a"]).await.expect("an answer");
    let key = listed.as_array().expect("keys")[0].as_str().expect("text").to_owned();
    let prefix = key.split(":1:").next().expect("a prefix").to_owned();
    let keys = format!("~{prefix}:*");
    let rules = ["ACL", "SETUSER", "app", "on", ">pw", &keys, "resetchannels", "+@all"];
    server.command(&rules).await.expect("an answer").ok().expect("a user");
    let url = server.url().replace("redis://", "redis://app:pw@");
    let config = crate::stage::config(&url).with_prefix(&prefix).expect("a prefix");
    let deaf = Locks::redis(&Connection::connect(config).await.expect("a connection"));
    let waiting = background(async move { take(&deaf, "a").await });
    let before = server.calls_of("evalsha").await;
    eventually(SECOND * 10, "it looks", async || server.calls_of("evalsha").await > before + 2)
        .await;
    held.release().await.expect("an answer");
    waiting.await.expect("no panic").release().await.expect("an answer");
}

#[tokio::test]
async fn a_release_in_the_same_process_needs_no_message() {
    let Scene { proxy, locks, server: _server, truth: _truth } = scene().await;
    proxy.drop_messages(true);
    for _ in 0..3 {
        let guard = take(&locks, "a").await;
        let waiter = locks.clone();
        let waiting = background(async move { take(&waiter, "a").await });
        waited_for(&locks, "a").await;
        let before = now();
        guard.release().await.expect("an answer");
        waiting.await.expect("no panic").release().await.expect("an answer");
        assert!(before.elapsed() < SECOND / 4, "{:?}", before.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_process_starves_among_many() {
    let Scene { server, locks, proxy: _proxy, .. } = scene().await;
    let config = crate::stage::config(&server.url());
    let mut workers = Vec::new();
    for _ in 0..16 {
        let connection = Connection::connect(config.clone()).await.expect("a connection");
        let client = Locks::redis(&connection);
        workers.push(background(async move {
            let mut longest = std::time::Duration::ZERO;
            for _ in 0..40 {
                let before = now();
                let guard = take(&client, "a").await;
                longest = longest.max(before.elapsed());
                tokio::time::sleep(SECOND / 1000).await;
                guard.release().await.expect("an answer");
            }
            longest
        }));
    }
    let began = now();
    let mut longest = std::time::Duration::ZERO;
    for worker in workers {
        longest = longest.max(worker.await.expect("no panic"));
    }
    // Forty turns each: where waiters are woken in a fixed order, the last waits most of the time.
    assert!(longest < began.elapsed() / 2, "{longest:?} of {:?}", began.elapsed());
    drop(locks);
}

#[tokio::test]
async fn who_was_alone_again_waits_for_nobody() {
    let Scene { server: _server, locks, truth, proxy: _proxy } = scene().await;
    let guard = take(&truth, "a").await;
    let waiter = locks.clone();
    let waiting = background(async move { take(&waiter, "a").await });
    waited_for(&truth, "a").await;
    guard.release().await.expect("an answer");
    let guard = waiting.await.expect("no panic");
    guard.release().await.expect("an answer");
    // Less than the moment for which a claim is left to a holder of the same process.
    let mut shortest = SECOND;
    for _ in 0..5 {
        let before = now();
        take(&locks, "a").await.release().await.expect("an answer");
        shortest = shortest.min(before.elapsed());
    }
    assert!(shortest < SECOND / 100, "{shortest:?}");
}
