//! Faults of the server, of the link and of other processes, with the outcome that caches promise.

mod burst;
mod cluster;
mod leases;
mod many;
mod member;
mod messages;
mod near;
mod outage;
mod races;
mod trips;
mod versions;

use super::{SECOND, background, connect, figures, now, processes};
use crate::topology::{builder, config};
use coordinator_cache::{Cache, CacheBuilder, Caches, Near, SCRIPTS};
use coordinator_core::redis::Connection;
use coordinator_harness::{Proxy, RedisServer, eventually};
use std::time::Duration;

pub(super) use member::serve;

const SOON: Duration = Duration::from_secs(20);

/// Whether `cargo xtask test --long` asks. Then this runs alone, and optimised: only then is it
/// said how soon things come.
fn long() -> bool {
    std::env::var_os("COORDINATOR_LONG").is_some()
}

/// A server, a proxy before it, caches through the proxy, and caches that nothing disturbs.
struct Scene {
    server: RedisServer,
    proxy: Proxy,
    caches: Caches,
    truth: Caches,
}

async fn scene() -> Scene {
    let server = builder().start().await.expect("a server");
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let ours = connect(&proxy.url()).await;
    let prefix = ours.keyspace().prefix().to_owned();
    Scene { caches: Caches::redis(&ours), truth: over(&server.url(), &prefix).await, server, proxy }
}

/// Another instance.
async fn over(url: &str, prefix: &str) -> Caches {
    let config = config(url).with_prefix(prefix).expect("a prefix");
    Caches::redis(&Connection::connect(config).await.expect("a connection"))
}

/// An instance with more patience than work for a million keys takes.
async fn patient(url: &str) -> Caches {
    let config = config(url).with_command_timeout(SECOND * 60);
    Caches::redis(&Connection::connect(config).await.expect("a connection"))
}

fn near(caches: &Caches) -> Cache<u64> {
    build(caches.cache("n").with_near(Near::entries(10_000)))
}

fn build<T>(builder: CacheBuilder<T>) -> Cache<T>
where
    T: serde::Serialize + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    builder.with_early_refresh(0.0).build().expect("a cache")
}

async fn read(cache: &Cache<u64>, key: &str) -> Option<u64> {
    cache.get(key).await.ok().flatten().filter(|hit| !hit.is_stale()).map(|hit| *hit)
}

/// Waits until a value is given from what is kept near.
async fn kept(cache: &Cache<u64>, key: &str, value: u64) {
    eventually(SOON, "it is kept near", async || {
        let before = cache.stats().near_hits;
        read(cache, key).await == Some(value) && cache.stats().near_hits > before
    })
    .await;
}

/// The only key on the server that ends so.
async fn key_at(server: &RedisServer, end: &str) -> String {
    let keys = server.command(&["KEYS", &format!("*{end}")]).await.expect("an answer");
    let keys = keys.as_array().expect("keys");
    assert_eq!(keys.len(), 1, "{end}: {keys:?}");
    keys[0].as_str().expect("a text").to_owned()
}

async fn set(server: &RedisServer, key: &str, value: &str) {
    let answer = server.command(&["CONFIG", "SET", key, value]).await.expect("an answer");
    answer.ok().expect("a setting");
}

/// Has the server know all scripts: a first EVALSHA would be two commands.
async fn warm(server: &RedisServer) {
    for script in SCRIPTS {
        let load = server.command(&["SCRIPT", "LOAD", script.source()]).await;
        load.expect("an answer").ok().expect("a script");
    }
}

fn sha(step: &str) -> &'static str {
    let script = SCRIPTS.iter().find(|script| script.name() == step);
    script.expect("a script of that name").hash()
}

/// The entry that so many in a hundred are not above.
fn percentile(times: &mut [Duration], part: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * part / 100]
}
