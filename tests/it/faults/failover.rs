//! Masters that die, hang, are replaced or cut off, and slots that move: locks go on within some
//! seconds, fences rise, and holders of what was lost are told.

use super::{SECOND, background, connect, now, take, waited_for};
use crate::{
    stage::config,
    topology::{cluster, sentinel},
};
use coordinator_checkers::fenced_register::{FencedRegister, Verdict};
use coordinator_core::{ErrorKind, redis::Connection};
use coordinator_harness::{Cluster, RedisServer, eventually};
use coordinator_locks::{Guard, Locks, LossReason, Release};
use std::time::Duration;

/// Far above what any of this takes; how long it took is asserted apart.
const SOON: Duration = Duration::from_secs(20);
/// A manual failover is given up by the server after 5 s.
const GIVEN_UP: Duration = Duration::from_secs(6);
/// A failover takes the Sentinels one to three seconds, and a client one more to find it.
const SOME_SECONDS: Duration = Duration::from_secs(10);

async fn through(url: &str, prefix: &str) -> Locks {
    let config = config(url).with_prefix(prefix).expect("a prefix");
    Locks::redis(&Connection::connect(config).await.expect("a connection"))
}

async fn allow(server: &RedisServer, rules: &[&str]) {
    let command = [&["ACL", "SETUSER", "default"], rules].concat();
    server.command(&command).await.expect("an answer").ok().expect("a rule");
}

async fn has(server: &RedisServer, name: &str) -> bool {
    let keys = server.command(&["KEYS", &format!("*:lock:{name}")]).await.expect("an answer");
    keys.as_array().is_some_and(|keys| !keys.is_empty())
}

async fn is_replica(server: &RedisServer) -> bool {
    let Ok(role) = server.command(&["ROLE"]).await else {
        return false;
    };
    role.as_array().is_some_and(|role| role[0].as_str() == Some("slave"))
}

/// Acquires a name as soon as anybody grants it.
async fn take_soon(locks: &Locks, name: &str) -> Guard {
    let mut taken = None;
    eventually(SOON, "somebody grants locks", async || {
        taken = locks.try_acquire(name).await.ok().flatten();
        taken.is_some()
    })
    .await;
    taken.expect("was taken")
}

#[tokio::test]
async fn two_masters_grant_with_fences_in_the_order_of_their_grants() {
    let all = sentinel(1, 3).await;
    let old = all.current_master().await.expect("a master");
    // Cut off from the Sentinels: they cannot demote it.
    allow(old, &["-replicaof", "-slaveof"]).await;
    let connection = connect(&old.url()).await;
    let prefix = connection.keyspace().prefix().to_owned();
    let pinned = Locks::redis(&connection);
    all.failover().await.expect("a failover");
    let current = through(&all.url(), &prefix).await;

    let lock = pinned.named("a").with_ttl(SECOND * 4);
    let before = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    let after = take(&current, "a").await;
    assert!(before.is_valid() && after.is_valid(), "both believe that they hold it");
    assert!(before.fence() < after.fence());
    let mut register = FencedRegister::default();
    assert_eq!(register.write(before.fence().get(), before.id()), Verdict::Accepted);
    assert_eq!(register.write(after.fence().get(), after.id()), Verdict::Accepted);
    let late = register.write(before.fence().get(), before.id());
    assert_eq!(late, Verdict::Stale { seen: after.fence().get() });
    let mut last = after.fence();
    for round in 0..20 {
        let locks = if round % 2 == 0 { &pinned } else { &current };
        let guard = take(locks, "b").await;
        assert!(guard.fence() > last, "round {round}");
        last = guard.fence();
        guard.release().await.expect("an answer");
    }

    allow(old, &["+replicaof", "+slaveof"]).await;
    // Those of Redis 6.2 look every ten seconds, and more than once.
    eventually(SOON * 6, "the old master is demoted", async || is_replica(old).await).await;
    let told = tokio::time::timeout(SECOND * 5, before.lost()).await;
    told.expect("is told by its own clock at the latest");
    assert!(after.is_valid());
    assert_eq!(after.release().await.expect("an answer"), Release::Released);
}

/// Takes the master away while one lock is on the replicas and another is not.
async fn without_its_master(
    stop: impl AsyncFnOnce(&RedisServer),
    back: impl AsyncFnOnce(&RedisServer),
) {
    let all = sentinel(2, 3).await;
    let locks = Locks::redis(&connect(&all.url()).await);
    let kept = take(&locks, "kept").await;
    for replica in all.replicas() {
        eventually(SOON, "the replicas have it", async || has(replica, "kept").await).await;
    }
    let old = all.current_master().await.expect("a master");
    allow(old, &["-psync", "-sync", "-replconf"]).await;
    old.command(&["CLIENT", "KILL", "TYPE", "replica"]).await.expect("an answer");
    let lost = locks.named("lost").with_ttl(SECOND * 20).acquire().await.expect("an answer");
    let lost = lost.acquired().expect("a free lock");
    for replica in all.replicas() {
        assert!(!has(replica, "lost").await, "nothing would be lost");
    }

    let began = now();
    stop(old).await;
    let next = take_soon(&locks, "next").await;
    assert!(began.elapsed() < SOME_SECONDS, "{:?}", began.elapsed());
    assert!(next.fence() > lost.fence());
    // Renewed at a third of its ttl, when there is a master again.
    let told = tokio::time::timeout(SOME_SECONDS, lost.lost()).await.expect("is told");
    assert_eq!(told, LossReason::Vanished);
    assert!(take(&locks, "lost").await.fence() > lost.fence());
    assert!(kept.is_valid());
    assert!(locks.try_acquire("kept").await.expect("an answer").is_none());
    assert_eq!(kept.release().await.expect("an answer"), Release::Released);

    // It comes back as a master, until the Sentinels find the time to demote it.
    back(old).await;
    let mut last = next.fence();
    for _ in 0..20 {
        let again = take_soon(&locks, "kept").await;
        assert!(again.fence() > last);
        last = again.fence();
        again.release().await.expect("an answer");
        // The old master knows nothing of it.
        assert!(locks.try_acquire("next").await.expect("an answer").is_none());
    }
}

#[tokio::test]
async fn a_killed_master_is_replaced_and_holders_of_what_it_lost_are_told() {
    let stop = async |master: &RedisServer| master.kill().await;
    without_its_master(stop, async |master: &RedisServer| {
        master.start_again().await.expect("a start");
    })
    .await;
}

#[tokio::test]
async fn a_hanging_master_is_replaced_and_holders_of_what_it_lost_are_told() {
    let stop = async |master: &RedisServer| master.pause().expect("a pause");
    without_its_master(stop, async |master: &RedisServer| {
        master.resume().expect("a resume");
        allow(master, &["+psync", "+sync", "+replconf"]).await;
    })
    .await;
}

/// Takes one master of a cluster out while locks are held on all of them.
async fn with_another_owner(replace: impl AsyncFnOnce(&RedisServer, &RedisServer)) {
    let all = cluster(3, 1).await;
    let connection = connect(&all.url()).await;
    let prefix = connection.keyspace().prefix().to_owned();
    let locks = Locks::redis(&connection);
    let mut held = Vec::new();
    for number in 0..12 {
        held.push(take(&locks, &format!("n{number}")).await);
    }
    let (old, replica) = (&all.masters()[0], &all.nodes()[3]);
    let keys = old.command(&["KEYS", "*:lock:*"]).await.expect("an answer");
    let there = keys.as_array().expect("keys").len();
    assert!(there > 0, "no lock lives on the master that goes");
    eventually(SOON, "its replica has them", async || {
        let keys = replica.command(&["KEYS", "*:lock:*"]).await.expect("an answer");
        keys.as_array().is_some_and(|keys| keys.len() == there)
    })
    .await;

    replace(old, replica).await;
    let began = now();
    for guard in held {
        let (name, fence) = (guard.name().to_owned(), guard.fence());
        eventually(SOON, "it is still held", async || {
            locks.try_acquire(&name).await.is_ok_and(|free| free.is_none())
        })
        .await;
        assert!(guard.is_valid(), "{name}");
        assert_eq!(guard.release().await.expect("an answer"), Release::Released, "{name}");
        // A process that knows nothing of earlier fences.
        let other = through(&all.url(), &prefix).await;
        assert!(take_soon(&other, &name).await.fence() > fence, "{name}");
    }
    assert!(began.elapsed() < SOME_SECONDS, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_killed_master_of_a_cluster_is_replaced() {
    with_another_owner(async |master, _| master.kill().await).await;
}

async fn taken_over(word: &'static [&'static str]) {
    with_another_owner(async |_, replica| {
        let command = [&["CLUSTER", "FAILOVER"], word].concat();
        // A busy cluster may refuse a failover, or give it up after 5 s for want of votes: an
        // operator asks again. What is looked at here is what follows.
        let mut asked = None::<std::time::Instant>;
        eventually(SOON, "the replica rules", async || {
            if asked.is_none_or(|asked| asked.elapsed() > GIVEN_UP) {
                let answer = replica.command(&command).await.expect("an answer");
                asked = answer.ok().is_ok().then(now);
            }
            !is_replica(replica).await
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_manual_failover_of_a_cluster_is_followed() {
    taken_over(&[]).await;
}

#[tokio::test]
async fn a_takeover_in_a_cluster_is_followed() {
    taken_over(&["TAKEOVER"]).await;
}

#[tokio::test]
async fn whoever_comes_while_a_cluster_is_down_waits_for_it_a_while() {
    let all = cluster(3, 0).await;
    for node in all.nodes() {
        node.command(&["CLUSTER", "DELSLOTS", "0"]).await.expect("an answer").ok().expect("gone");
    }
    let config = config(&all.url()).with_connect_timeout(SECOND);
    let down = Connection::connect(config).await.expect_err("it is down");
    assert_eq!(down.kind(), ErrorKind::Unavailable);
    assert!(down.chain().contains("the cluster was not up within 1500 ms"), "{}", down.chain());

    let config = crate::stage::config(&all.url()).with_connect_timeout(SOON);
    let asked = async || {
        let mut asked = 0;
        for node in all.nodes() {
            let answer = node.command(&["INFO", "commandstats"]).await.expect("an answer");
            let stats = answer.as_str().expect("text");
            let calls = stats.split("cmdstat_cluster").find_map(|stat| {
                stat.strip_prefix("|info:calls=").or(stat.strip_prefix(":calls="))
            });
            let calls = calls.and_then(|calls| calls.split(',').next()?.parse::<u64>().ok());
            asked += calls.unwrap_or(0);
        }
        asked
    };
    let before = asked().await;
    let connecting = background(Connection::connect(config));
    eventually(SOON, "it asks how the cluster is", async || asked().await > before).await;
    assert!(!connecting.is_finished());
    let first = &all.nodes()[0];
    first.command(&["CLUSTER", "ADDSLOTS", "0"]).await.expect("an answer").ok().expect("back");
    let connection = connecting.await.expect("no panic").expect("a connection");
    drop(take(&Locks::redis(&connection), "a").await);
}

/// The key of a held lock.
async fn key_of(all: &Cluster, name: &str) -> String {
    for node in all.masters() {
        let keys = node.command(&["KEYS", &format!("*:lock:{name}")]).await.expect("an answer");
        if let Some(key) = keys.as_array().and_then(|keys| keys.first()?.as_str()) {
            return key.to_owned();
        }
    }
    panic!("{name} is held nowhere")
}

#[tokio::test]
async fn a_waiter_is_woken_and_a_holder_renewed_across_a_moving_slot() {
    let all = cluster(3, 0).await;
    let first = connect(&all.url()).await;
    let other = Connection::connect(first.config().clone()).await.expect("a connection");
    let (locks, peer) = (Locks::redis(&first), Locks::redis(&other));
    let lock = locks.named("a").with_ttl(SECOND * 6);
    let guard = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    let waiter = peer.clone();
    let waiting = background(async move {
        let lock = waiter.named("a").with_wait(SECOND * 30);
        lock.acquire().await.expect("an answer").acquired().expect("its turn")
    });
    waited_for(&locks, "a").await;

    let key = key_of(&all, "a").await;
    let from = all.owner_of(&key).await.expect("an owner");
    let to = all.masters().iter().find(|node| node.port() != from.port()).expect("another");
    let moving = all.begin_move(&key, to).await.expect("a move");
    // The lock has gone, what belongs to it has not.
    moving.carry(&[key]).await.expect("it is carried");
    let error = locks.try_acquire("a").await.expect_err("is neither here nor there");
    assert!(error.is_retryable(), "{}", error.chain());
    assert!(!waiting.is_finished() && guard.is_valid());
    moving.finish().await.expect("its end");
    let carried = guard.deadline();
    eventually(SOON, "the watchdog goes on", async || guard.deadline() > carried).await;
    // The new owner knows of no listener until the subscription is asserted there.
    waited_for(&locks, "a").await;
    let before = now();
    guard.release().await.expect("an answer");
    let next = waiting.await.expect("no panic");
    // A message is quicker than a look of its own, which comes each second.
    assert!(before.elapsed() < SECOND * 3 / 2, "{:?}", before.elapsed());
    assert_eq!(next.release().await.expect("an answer"), Release::Released);
}
