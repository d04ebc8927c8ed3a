//! Fence 9 and the topologies: Sentinel, Cluster, socket.

use super::{ECHO, INCREMENT, config, connect, echo};
use crate::{
    ErrorKind,
    redis::{Connection, Message},
};
use coordinator_harness::{Cluster, RedisServer, Sentinel, eventually};
use std::time::Duration;

#[tokio::test]
async fn a_failover_is_followed_to_the_new_master() {
    let sentinel = Sentinel::start(1, 1).await.expect("a master with a replica");
    let connection = connect(&sentinel.url()).await;
    let key = connection.keyspace().shard("t", 0).key("n", "");
    connection.run(&INCREMENT, vec![key.clone()], vec![]).await.expect("the old master");
    let old = sentinel.current_master().await.expect("a master").port();
    sentinel.failover().await.expect("a failover");
    eventually(Duration::from_secs(20), "the new master takes writes", async || {
        let written = connection.run(&INCREMENT, vec![key.clone()], vec![]).await.is_ok();
        let new = sentinel.current_master().await.map(RedisServer::port);
        written && new.is_some_and(|new| new != old)
    })
    .await;
}

#[tokio::test]
async fn a_demoted_server_rejects_and_is_asked_again_after_its_promotion() {
    let master = RedisServer::start().await.expect("a server");
    let other = RedisServer::start().await.expect("a server");
    let connection = connect(&master.url()).await;
    let key = connection.keyspace().shard("t", 0).key("n", "");
    let port = other.port().to_string();
    master.command(&["REPLICAOF", "127.0.0.1", &port]).await.expect("a demotion");
    eventually(Duration::from_secs(10), "the refusal is named", async || {
        match connection.run(&INCREMENT, vec![key.clone()], vec![]).await {
            Ok(_) => false,
            Err(error) => error.kind() == ErrorKind::Rejected,
        }
    })
    .await;
    master.command(&["REPLICAOF", "NO", "ONE"]).await.expect("a promotion");
    eventually(Duration::from_secs(10), "writes pass again", async || {
        connection.run(&INCREMENT, vec![key.clone()], vec![]).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_cluster_serves_every_shard_and_channel() {
    let cluster = Cluster::start(3, 0).await.expect("a cluster");
    let connection = connect(&cluster.url()).await;
    for shard in 0..64 {
        let shard = connection.keyspace().shard("t", shard);
        let key = shard.key("n", "");
        connection.run(&INCREMENT, vec![key], vec![]).await.expect("a step");
        connection.subscribe(&shard.key("wake", "x")).await.expect("a subscription");
    }
    let mut tracking = connection.track(connection.keyspace().prefix()).await.expect("tracking");
    for shard in 0..64 {
        let key = connection.keyspace().shard("t", shard).key("n", "");
        connection.run(&INCREMENT, vec![key], vec![]).await.expect("a step");
    }
    // The bare client hears a third of these.
    for _ in 0..64 {
        let heard = tokio::time::timeout(Duration::from_secs(5), tracking.next()).await;
        heard.expect("every primary tells");
    }
    let keys: Vec<_> =
        (0..64).map(|shard| connection.keyspace().shard("t", shard).key("n", "")).collect();
    let places = connection.one_per_primary(&keys);
    assert_eq!(places.len(), 3);
    let probed = tracking.prober().probe(&keys).await.expect("all are heard");
    let mut own: Vec<_> = probed.iter().map(|probed| probed.key).collect();
    own.sort_unstable();
    assert_eq!(own, places);
    assert!(probed.iter().all(|probed| probed.value == Some("2".into())), "{probed:?}");
    assert_eq!(connection.health().await.version, {
        let (major, minor, patch) = cluster.nodes()[0].version();
        format!("{major}.{minor}.{patch}")
    });
}

#[tokio::test]
async fn classic_channels_of_a_cluster_are_heard_at_the_node_of_their_slot() {
    let node = RedisServer::builder().without_sharded_channels();
    let cluster = Cluster::start_with(3, 0, &node).await.expect("a cluster");
    for protocol in ["", "?protocol=resp2"] {
        let connection = connect(&(cluster.url() + protocol)).await;
        let mut listening = Vec::new();
        for n in 0..12 {
            let channel = connection.keyspace().shard("t", n).key("wake", "x");
            let subscription = connection.subscribe(&channel).await.expect("a subscription");
            let owner = cluster.owner_of(&channel).await.expect("an owner");
            let woken = owner.command(&["PUBLISH", &channel, "1"]).await.expect("an answer");
            assert_eq!(woken.as_int(), Some(1), "its own node counts it");
            listening.push(subscription);
        }
        for subscription in &mut listening {
            let heard = tokio::time::timeout(Duration::from_secs(5), subscription.next()).await;
            assert_eq!(heard.expect("in time"), Message::Payload("1".into()));
        }
        drop(listening);
        eventually(Duration::from_secs(10), "all channels are given up", async || {
            for node in cluster.nodes() {
                if !node.channels().await.expect("an answer").is_empty() {
                    return false;
                }
            }
            true
        })
        .await;
    }
}

#[tokio::test]
async fn a_slot_that_moves_harms_no_other_and_is_followed_at_once() {
    let cluster = Cluster::start(2, 0).await.expect("a cluster");
    let connection = connect(&cluster.url()).await;
    let key = connection.keyspace().shard("t", 0).key("n", "");
    let increment = async || connection.run(&INCREMENT, vec![key.clone()], vec![]).await;
    let from = cluster.owner_of(&key).await.expect("an owner");
    let to = cluster.nodes().iter().find(|node| node.port() != from.port()).expect("another");
    increment().await.expect("before the move");
    let moving = cluster.begin_move(&key, to).await.expect("a move");
    moving.carry(std::slice::from_ref(&key)).await.expect("the key is carried");
    let links = from.calls_of("hello").await + to.calls_of("hello").await;
    for round in 0..20 {
        let (refused, _) = futures::join!(
            increment(),
            futures::future::join_all((0..64).map(async |shard| {
                let shard = connection.keyspace().shard("u", shard).key("x", "");
                let text = format!("{round} {shard}");
                let args = vec![text.as_str().into()];
                let reply = connection.run(&ECHO, vec![shard], args).await.expect("unharmed");
                let mut fields = reply.fields("test.echo");
                fields.int().expect("the leading integer");
                assert_eq!(fields.text().expect("the text"), text);
            })),
        );
        let error = refused.expect_err("the key is neither here nor there");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    }
    assert_eq!(from.calls_of("hello").await + to.calls_of("hello").await, links, "a link ended");
    moving.finish().await.expect("its end");
    increment().await.expect("after the move");
    assert_eq!(to.command(&["GET", &key]).await.expect("an answer").as_int(), Some(2));
}

#[tokio::test]
async fn whoever_looks_through_all_keys_learns_that_a_slot_has_moved() {
    let cluster = Cluster::start(2, 0).await.expect("a cluster");
    let connection = connect(&cluster.url()).await;
    let keys: Vec<_> =
        (0..64).map(|shard| connection.keyspace().shard("t", shard).key("n", "")).collect();
    let layout = connection.layout().await.expect("an answer");
    assert_eq!(connection.layout().await.expect("an answer"), layout);
    // All slots of ours go to one node, and nobody tells.
    let to = cluster.owner_of(&keys[0]).await.expect("an owner");
    for key in &keys[1..] {
        if cluster.owner_of(key).await.expect("an owner").port() != to.port() {
            cluster.begin_move(key, to).await.expect("a move").finish().await.expect("its end");
        }
    }
    assert_eq!(connection.one_per_primary(&keys).len(), 2, "as it was");
    assert_ne!(connection.layout().await.expect("an answer"), layout);
    assert_eq!(connection.one_per_primary(&keys), [0]);
    let single = RedisServer::start().await.expect("a server");
    let connection = connect(&single.url()).await;
    let layout = connection.layout().await.expect("an answer");
    assert_eq!(connection.layout().await.expect("an answer"), layout);
    single.restart().await.expect("it is there again");
    eventually(Duration::from_secs(20), "it is another past", async || {
        connection.ping().await.is_ok() && connection.layout().await.is_ok_and(|now| now != layout)
    })
    .await;
}

#[tokio::test]
async fn a_subscription_that_a_moving_slot_took_away_is_asserted_anew() {
    let cluster = Cluster::start(2, 0).await.expect("a cluster");
    for protocol in ["", "?protocol=resp2"] {
        let connection = connect(&(cluster.url() + protocol)).await;
        let channel = connection.keyspace().shard("t", 0).key("wake", "x");
        let mut subscription = connection.subscribe(&channel).await.expect("a subscription");
        let from = cluster.owner_of(&channel).await.expect("an owner");
        let to = cluster.nodes().iter().find(|node| node.port() != from.port()).expect("another");
        cluster.begin_move(&channel, to).await.expect("a move").finish().await.expect("its end");
        // At most five sweeps of a second.
        let word = if to.version() < (7, 0, 0) { "PUBLISH" } else { "SPUBLISH" };
        eventually(Duration::from_secs(8), "the message is heard", async || {
            let sent = to.command(&[word, &channel, "1"]).await.expect("an answer");
            let soon = Duration::from_millis(50);
            let heard = tokio::time::timeout(soon, subscription.next()).await;
            // Counted where scripts count.
            sent.as_int() == Some(1) && heard == Ok(Message::Payload("1".into()))
        })
        .await;
        // Given up at the new node too.
        drop(subscription);
        eventually(Duration::from_secs(8), "nobody listens", async || {
            let left = from.channels().await.expect("an answer");
            left.is_empty() && to.channels().await.expect("an answer").is_empty()
        })
        .await;
    }
}

#[tokio::test]
async fn a_socket_is_as_good_as_a_port() {
    let server = RedisServer::builder().unix_socket(true).start().await.expect("a server");
    let socket = server.socket().expect("a socket");
    let url = format!("unix://{}", socket.display());
    let connection = Connection::connect(config(&url)).await.expect("a connection");
    assert_eq!(echo(&connection, "x").await, "x");
}
