//! A cluster's nodes all tell of changes, whoever of them rules a slot, and while slots move.

use super::{SOON, figures, kept, near, now, over, read};
use crate::topology::{cluster, config};
use coordinator_cache::{Cache, Caches, Hearing, Invalidated};
use coordinator_core::key::Name;
use coordinator_harness::{Cluster, RedisServer, eventually};
use futures::future::join_all;
use std::time::Duration;

const KEYS: usize = 300;

/// Keys, kept near by one instance and changed by another.
struct Stage {
    keys: Vec<String>,
    ours: Cache<u64>,
    theirs: Cache<u64>,
    value: u64,
}

impl Stage {
    async fn on(all: &Cluster) -> Self {
        let prefix = config(&all.url()).keyspace().prefix().to_owned();
        let (ours, theirs) =
            (near(&over(&all.url(), &prefix).await), near(&over(&all.url(), &prefix).await));
        Self { keys: (0..KEYS).map(|key| key.to_string()).collect(), ours, theirs, value: 0 }
    }

    /// How late a change may be heard of.
    fn bound(&self) -> Duration {
        if self.ours.stats().hearing == Hearing::Messages { SOON } else { Caches::STALENESS }
    }

    /// Each has a new value, which is kept near.
    async fn keep(&mut self) {
        self.value += 1;
        for key in &self.keys {
            // An end that is still queued would be the end of this one, too.
            eventually(SOON, "it is stored", async || {
                self.theirs.set(key, &self.value).await.is_ok()
                    && read(&self.theirs, key).await == Some(self.value)
            })
            .await;
        }
        for key in &self.keys {
            kept(&self.ours, key, self.value).await;
        }
    }

    /// Ends all of them; the keys whose end is queued.
    async fn end(&self) -> Vec<&String> {
        let ended = join_all(self.keys.iter().map(async |key| {
            let ended = self.theirs.invalidate(key).await.expect("an answer");
            (ended == Invalidated::Queued).then_some(key)
        }));
        ended.await.into_iter().flatten().collect()
    }

    /// Waits until none but those left out is given.
    async fn gone(&self, what: &str, bound: Duration, but: &[&String]) {
        let began = now();
        let asked: Vec<_> = self.keys.iter().filter(|key| !but.contains(key)).collect();
        let mut gone = 0;
        let look = eventually(bound, "all of them are gone", async || {
            let read = join_all(asked.iter().map(|key| read(&self.ours, key))).await;
            gone = read.iter().filter(|read| read.is_none()).count();
            gone == asked.len()
        });
        look.await;
        figures(&format!("{what}: {gone} of {} gone after {:?}", asked.len(), began.elapsed()));
    }

    /// All that is near is ended by another, and gone.
    async fn heard(&mut self, what: &str) {
        self.keep().await;
        assert_eq!(self.end().await, [""; 0], "{what}: nothing is queued");
        self.gone(what, self.bound(), &[]).await;
    }

    /// The same while something becomes of the cluster.
    async fn through(&mut self, what: &str, fault: impl AsyncFnOnce()) {
        self.keep().await;
        let (queued, ()) = futures::join!(self.end(), fault());
        self.gone(&format!("{what}, ended meanwhile"), self.bound(), &queued).await;
        // The others are ended when their servers answer.
        self.gone(&format!("{what}, {} of them queued", queued.len()), SOON, &[]).await;
        self.heard(&format!("after {what}")).await;
    }
}

async fn rules(server: &RedisServer) -> bool {
    let role = server.command(&["ROLE"]).await;
    role.is_ok_and(|role| role.as_array().is_some_and(|role| role[0].as_str() == Some("master")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_of_a_cluster_is_heard_whoever_rules() {
    let all = cluster(3, 1).await;
    let mut stage = Stage::on(&all).await;
    stage.heard("three masters").await;
    let replica = &all.nodes()[3];
    stage
        .through("a failover", async || {
            let failover = replica.command(&["CLUSTER", "FAILOVER"]).await;
            failover.expect("an answer").ok().expect("a failover");
            eventually(SOON, "the replica rules", async || rules(replica).await).await;
        })
        .await;
    let replica = &all.nodes()[4];
    stage
        .through("a killed master", async || {
            all.nodes()[1].kill().await;
            eventually(SOON, "its replica rules", async || rules(replica).await).await;
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_of_a_cluster_is_heard_while_slots_move() {
    let all = cluster(3, 0).await;
    let mut stage = Stage::on(&all).await;
    stage.heard("before any move").await;
    for round in 0..3 {
        stage.keep().await;
        let key = key_of(&all, &stage.keys[round]).await;
        let from = all.owner_of(&key).await.expect("an owner");
        let to = all.masters().iter().find(|node| node.port() != from.port()).expect("another");
        let moving = all.begin_move(&key, to).await.expect("a move");
        moving.carry(&[key]).await.expect("it is carried");
        let queued = stage.end().await;
        let what = format!("move {round}");
        stage
            .gone(&format!("{what}, a slot half here and half there"), stage.bound(), &queued)
            .await;
        assert!(queued.len() < KEYS / 10, "one slot of many moves: {queued:?}");
        moving.finish().await.expect("its end");
        let all_gone = format!("{what}, {} were queued", queued.len());
        drop(queued);
        stage.gone(&all_gone, SOON, &[]).await;
        stage.heard(&format!("after {what}")).await;
    }
}

/// Where a value is kept.
async fn key_of(all: &Cluster, key: &str) -> String {
    let encoded = Name::new(key).expect("a name").encoded().to_owned();
    for node in all.masters() {
        let keys = node.command(&["KEYS", &format!("*:val:n:{encoded}")]).await.expect("an answer");
        if let Some(key) = keys.as_array().and_then(|keys| keys.first()?.as_str()) {
            return key.to_owned();
        }
    }
    panic!("{key} is nowhere")
}
