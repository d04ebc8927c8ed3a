//! Faults of the server and of the link, with the outcome that locks promise.

mod breaker;
mod cache;
mod clocks;
mod crowd;
mod deadlock;
mod events;
mod failover;
mod limits;
mod outage;
mod processes;
mod queue;
mod refusals;
mod replies;
mod sessions;
mod waking;

use crate::{stage::config, topology::server};
use coordinator_core::redis::Connection;
use coordinator_harness::{Proxy, RedisServer, eventually};
use coordinator_locks::{Guard, Locks};
use std::{
    future::Future,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

const SECOND: Duration = Duration::from_secs(1);
/// Short enough that a lost answer is soon asked for again.
const TIMEOUT: Duration = Duration::from_millis(300);

async fn connect(url: &str) -> Connection {
    let config = config(url).with_command_timeout(TIMEOUT).with_connect_timeout(SECOND);
    Connection::connect(config).await.expect("a connection")
}

/// A server, a proxy before it, locks through the proxy, and locks that see the truth.
struct Scene {
    server: RedisServer,
    proxy: Proxy,
    locks: Locks,
    truth: Locks,
}

async fn scene() -> Scene {
    scene_over(server().await).await
}

async fn scene_over(server: RedisServer) -> Scene {
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let ours = connect(&proxy.url()).await;
    let prefix = ours.keyspace().prefix().to_owned();
    let theirs = config(&server.url()).with_prefix(&prefix).expect("a prefix");
    let theirs = Connection::connect(theirs).await.expect("a connection");
    // The scripts are known: a first EVALSHA would be two commands.
    for script in coordinator_locks::SCRIPTS {
        server.command(&["SCRIPT", "LOAD", script.source()]).await.expect("a script");
    }
    Scene { locks: Locks::redis(&ours), truth: Locks::redis(&theirs), server, proxy }
}

fn sha(step: &str) -> &'static str {
    let script = coordinator_locks::SCRIPTS.iter().find(|script| script.name() == step);
    script.expect("a script of that name").hash()
}

fn background<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    #[expect(clippy::disallowed_methods, reason = "tests own their tasks")]
    tokio::spawn(work)
}

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "measures real deadlines")]
    Instant::now()
}

/// Says what was measured to whoever runs a test with `--nocapture`.
fn figures(what: &str) {
    #[expect(clippy::print_stderr, reason = "figures are for people; nothing reads them")]
    {
        eprintln!("{what}");
    }
}

async fn take(locks: &Locks, name: &str) -> Guard {
    locks.acquire(name).await.expect("an answer").acquired().expect("a free lock")
}

/// Waits until some process waits for a lock.
async fn waited_for(locks: &Locks, name: &str) {
    eventually(SECOND * 10, "somebody waits", async || {
        let held = locks.show(name).await.expect("an answer");
        held.is_some_and(|held| held.waiters > 0)
    })
    .await;
}
