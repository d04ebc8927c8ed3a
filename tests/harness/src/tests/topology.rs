//! Cluster and Sentinel: ready when they say so, and able to fail over.

use std::time::Duration;

use crate::{Cluster, RedisServer, Sentinel, eventually};

const SOON: Duration = Duration::from_secs(20);

/// Writes and waits for a replica, on one connection: `WAIT` looks at its own writes only.
async fn written_twice(server: &RedisServer, key: &str) -> anyhow::Result<bool> {
    let mut connection = server.connect().await?;
    let set = connection.command(&["SET", key, "1"]).await?;
    Ok(set.is_ok() && connection.command(&["WAIT", "1", "5000"]).await?.as_int() == Some(1))
}

#[tokio::test]
async fn a_cluster_serves_all_slots_at_once_and_survives_a_master() {
    let cluster = Cluster::start(3, 1).await.unwrap();
    assert_eq!(cluster.nodes().len(), 6);
    assert_eq!(cluster.url().matches("127.0.0.1:").count(), 6);
    let mut owners = std::collections::HashSet::new();
    for key in ["a", "b", "c", "d", "e", "f"] {
        let owner = cluster.owner_of(key).await.unwrap();
        owners.insert(owner.port());
        assert!(written_twice(owner, key).await.unwrap());
    }
    assert_eq!(owners.len(), 3);

    let old = cluster.owner_of("a").await.unwrap();
    old.kill().await;
    eventually(SOON, "the replica takes over", async || {
        let Ok(owner) = cluster.owner_of("a").await else {
            return false;
        };
        owner.port() != old.port()
            && owner.command(&["SET", "a", "2"]).await.is_ok_and(|answer| answer.is_ok())
    })
    .await;
    old.start_again().await.unwrap();
    eventually(SOON, "the old master comes back as a replica", async || {
        // Whoever demotes a server also ends its clients' connections.
        let Ok(role) = old.command(&["ROLE"]).await else {
            return false;
        };
        role.as_array().unwrap()[0].as_str() == Some("slave")
    })
    .await;
}

#[tokio::test]
async fn a_slot_is_moved_with_its_keys() {
    let cluster = Cluster::start(2, 0).await.unwrap();
    let (from, word) = (cluster.owner_of("{x}a").await.unwrap(), "1");
    let to = cluster.masters().iter().find(|node| node.port() != from.port()).unwrap();
    for key in ["{x}a", "{x}b"] {
        assert!(from.command(&["SET", key, word]).await.unwrap().is_ok());
    }
    let moving = cluster.begin_move("{x}a", to).await.unwrap();
    moving.carry(&["{x}a".to_owned()]).await.unwrap();
    let asked = async |keys: &[&str]| {
        let words = [&["EXISTS"], keys].concat();
        match from.command(&words).await.unwrap() {
            crate::Resp::Error(text) => text,
            answer => format!("{answer:?}"),
        }
    };
    assert!(asked(&["{x}a"]).await.starts_with("ASK "));
    // Before 7.0 the old node sends on whoever misses any key there.
    let both = if from.version() < (7, 0, 0) { "ASK " } else { "TRYAGAIN " };
    assert!(asked(&["{x}a", "{x}b"]).await.starts_with(both));
    moving.finish().await.unwrap();
    assert!(asked(&["{x}b"]).await.starts_with("MOVED "));
    assert_eq!(cluster.owner_of("{x}a").await.unwrap().port(), to.port());
    assert_eq!(to.command(&["EXISTS", "{x}a", "{x}b"]).await.unwrap().as_int(), Some(2));
}

#[tokio::test]
async fn a_cluster_without_replicas_forms() {
    let cluster = Cluster::start(3, 0).await.unwrap();
    assert_eq!(cluster.masters().len(), cluster.nodes().len());
    let owner = cluster.owner_of("x").await.unwrap();
    assert!(owner.command(&["SET", "x", "1"]).await.unwrap().is_ok());
}

#[tokio::test]
async fn sentinels_know_everybody_and_fail_over_on_demand() {
    let all = Sentinel::start(1, 3).await.unwrap();
    assert!(all.url().ends_with("/main"));
    eventually(SOON, "the master and its replica take a write", async || {
        let Some(master) = all.current_master().await else {
            return false;
        };
        written_twice(master, "a").await.unwrap_or(false)
    })
    .await;
    let old = all.master().port();
    all.failover().await.unwrap();
    assert_ne!(all.master().port(), old);
    assert_eq!(all.replicas()[0].port(), old);
    assert_eq!(all.master().command(&["GET", "a"]).await.unwrap().as_str(), Some("1"));
}

#[tokio::test]
async fn sentinels_replace_a_killed_master_that_returns_as_a_replica() {
    let all = Sentinel::start(2, 3).await.unwrap();
    let old = all.master();
    old.kill().await;
    eventually(SOON, "a replica is promoted", async || {
        all.current_master().await.is_some_and(|master| master.port() != old.port())
    })
    .await;
    assert!(all.master().command(&["SET", "a", "1"]).await.unwrap().is_ok());
    old.start_again().await.unwrap();
    eventually(SOON, "the old master is demoted", async || {
        // Whoever demotes a server also ends its clients' connections.
        let Ok(role) = old.command(&["ROLE"]).await else {
            return false;
        };
        role.as_array().unwrap()[0].as_str() == Some("slave")
    })
    .await;
}
