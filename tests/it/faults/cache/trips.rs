//! How many round trips a batch takes: all that is asked is asked before any answer.

use super::{SECOND, SOON, background, build, figures, now, patient, warm};
use crate::topology::{cluster, server};
use coordinator_cache::Cache;
use coordinator_harness::{Cluster, Proxy, RedisServer, Rule, eventually};
use std::time::Duration;

const KEYS: usize = 1000;
/// How late answers come.
const LATE: Duration = Duration::from_millis(300);

/// Reads keys while no server is heard; how many commands each was sent by then, none after it.
async fn unheard(cache: &Cache<u64>, proxies: &[Proxy], keys: &[String]) -> Vec<usize> {
    // The scan below counts whatever reads, be it a script or not.
    let reads = || -> Vec<usize> {
        let of = |proxy: &Proxy| ["EVALSHA", "EVAL", "GET"].map(|name| proxy.commands_seen(name));
        proxies.iter().map(|proxy| of(proxy).iter().sum()).collect()
    };
    let before = reads();
    let count =
        || reads().iter().zip(&before).map(|(now, before)| now - before).collect::<Vec<_>>();
    let held: Vec<_> =
        proxies.iter().map(|proxy| proxy.rule(Rule::any().on_reply().hold())).collect();
    let (asking, asked) = (cache.clone(), keys.to_vec());
    let read = background(async move { asking.get_many(&asked).await.expect("an answer") });
    // What is to come comes within a few looks.
    let (mut last, mut same) = (Vec::new(), 0);
    eventually(SOON, "no more is asked", async || {
        let now = count();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        same > 20 && last.iter().all(|count| *count > 0)
    })
    .await;
    for held in held {
        held.remove();
    }
    let hits = read.await.expect("no panic");
    assert_eq!(hits.iter().flatten().count(), KEYS);
    assert_eq!(count(), last, "nothing is asked after the first answer");
    last
}

/// A thousand keys are there, and are read.
async fn reads(what: &str, cache: Cache<u64>, proxies: &[Proxy]) {
    let keys: Vec<String> = (0..KEYS).map(|key| key.to_string()).collect();
    let values: Vec<(&str, &u64)> = keys.iter().map(|key| (key.as_str(), &7)).collect();
    for stored in cache.set_many(&values).await {
        stored.expect("stored");
    }
    cache.get_many(&keys).await.expect("an answer");
    let commands = unheard(&cache, proxies, &keys).await;
    for proxy in proxies {
        proxy.delay_replies(LATE);
    }
    let began = now();
    cache.get_many(&keys).await.expect("an answer");
    let took = began.elapsed();
    for proxy in proxies {
        proxy.delay_replies(Duration::ZERO);
    }
    figures(&format!(
        "{what}: {KEYS} keys by {commands:?} commands, each sent before any answer; with answers \
         {LATE:?} late {took:?}"
    ));
    assert!((LATE..LATE * 2).contains(&took), "{took:?}");
}

#[tokio::test]
async fn many_keys_take_one_round_trip() {
    let server = server().await;
    warm(&server).await;
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let caches = patient(&proxy.url()).await;
    reads("one server", build(caches.cache("n")), &[proxy]).await;
}

/// A proxy before each node, which the nodes say that they are.
async fn announced(all: &Cluster) -> Vec<Proxy> {
    let mut proxies = Vec::new();
    for node in all.nodes() {
        let proxy = Proxy::start(node.addr()).await.expect("a proxy");
        for (setting, port) in [
            ("cluster-announce-bus-port", node.port() + 10_000),
            ("cluster-announce-port", proxy.port()),
        ] {
            super::set(node, setting, &port.to_string()).await;
        }
        proxies.push(proxy);
    }
    let named = async |node: &RedisServer| {
        let slots = node.command(&["CLUSTER", "SLOTS"]).await.expect("an answer");
        let told = format!("{slots:?}");
        proxies.iter().all(|proxy| told.contains(&format!("Int({})", proxy.port())))
    };
    for node in all.nodes() {
        eventually(SECOND * 20, "all names are told", async || named(node).await).await;
    }
    proxies
}

#[tokio::test]
async fn many_keys_take_one_round_trip_to_each_node() {
    let all = cluster(3, 0).await;
    if all.nodes()[0].version() < (7, 0, 0) {
        // Names that are given later are not told.
        return;
    }
    for node in all.nodes() {
        warm(node).await;
    }
    let proxies = announced(&all).await;
    let nodes: Vec<String> = proxies.iter().map(|proxy| proxy.addr().to_string()).collect();
    let caches = patient(&format!("redis-cluster://{}", nodes.join(","))).await;
    reads("a cluster of three", build(caches.cache("n")), &proxies).await;
}
