//! A server that refuses to track keys: changes are heard of by messages, and whoever runs it is
//! told.

use super::{SECOND, SOON, build, figures, kept, near, near::staleness, percentile};
use coordinator_cache::{Cache, Caches, Hearing};
use coordinator_core::{Config, config::Credentials, redis::Connection};
use coordinator_harness::{Proxy, RedisServer, eventually, fresh_prefix};
use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};
use tracing_subscriber::fmt::MakeWriter;

/// What was logged.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("unpoisoned").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A user that may do everything but have keys tracked.
async fn connect(url: &str, prefix: &str) -> Caches {
    let login = Credentials::fixed(Some("deaf"), "pw");
    let config = Config::from_url(url).expect("a URL").with_credentials(login);
    let config = config.with_prefix(prefix).expect("a prefix");
    let config = config.with_command_timeout(SECOND / 2).with_connect_timeout(SECOND);
    Caches::redis(&Connection::connect(config).await.expect("a connection"))
}

/// A server, a proxy before it, an instance through that, and another.
async fn deaf() -> (RedisServer, Proxy, Cache<u64>, Cache<u64>) {
    let server = RedisServer::start().await.expect("a server");
    let refused = if server.version() < (7, 0, 0) { "-client" } else { "-client|tracking" };
    let user = ["ACL", "SETUSER", "deaf", "on", ">pw", "~*", "&*", "+@all", refused];
    server.command(&user).await.expect("an answer").ok().expect("a user");
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let prefix = fresh_prefix();
    let ours = near(&connect(&proxy.url(), &prefix).await);
    let theirs = build(connect(&server.url(), &prefix).await.cache("n"));
    (server, proxy, ours, theirs)
}

#[tokio::test]
async fn without_tracking_changes_are_heard_of_by_messages_and_that_is_said() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).finish();
    // Of this thread, on which all of this runs.
    let _said = tracing::subscriber::set_default(subscriber);
    let (server, proxy, ours, theirs) = deaf().await;
    theirs.set("a", &0).await.expect("stored");
    kept(&ours, "a", 0).await;
    assert_eq!(ours.stats().hearing, Hearing::Messages);
    let warnings = || {
        let log = String::from_utf8_lossy(&log.0.lock().expect("unpoisoned")).into_owned();
        let is_told = |line: &&str| line.contains("WARN") && line.contains("refuses to track keys");
        log.lines().filter(is_told).count()
    };
    assert_eq!(warnings(), 1);
    let mut times = Vec::new();
    for round in 1..=200 {
        kept(&ours, "a", 2 * round - 2).await;
        times.push(staleness(&ours, &theirs, 2 * round - 1).await);
        theirs.set("a", &(2 * round)).await.expect("stored");
    }
    let at = [50, 99, 100].map(|part| percentile(&mut times, part));
    figures(&format!("heard by messages: p50 {:?}, p99 {:?}, max {:?}", at[0], at[1], at[2]));
    assert!(at[2] <= Caches::STALENESS, "{times:?}");
    // What nobody changes is kept while others change.
    theirs.set("calm", &5).await.expect("stored");
    for (number, fault) in ["cut", "killed", "refused for a while"].into_iter().enumerate() {
        let value = 1000 + 2 * number as u64;
        theirs.set("a", &value).await.expect("stored");
        kept(&ours, "a", value).await;
        kept(&ours, "calm", 5).await;
        let far = ours.stats().far_hits;
        match fault {
            "cut" => proxy.cut_all(),
            "killed" => {
                let kill = ["CLIENT", "KILL", "TYPE", "pubsub"];
                server.command(&kill).await.expect("an answer");
            }
            _ => proxy.refuse(true),
        }
        let stale = staleness(&ours, &theirs, value + 1).await;
        proxy.refuse(false);
        kept(&ours, "a", value + 1).await;
        kept(&ours, "calm", 5).await;
        figures(&format!("{fault}: the old value is given for {stale:?}"));
        assert!(stale <= Caches::STALENESS, "{fault}: {stale:?}");
        // "a" once, and the other once: all that was near is forgotten.
        assert!(ours.stats().far_hits >= far + 2, "{fault}: nothing was forgotten");
    }
    assert_eq!(ours.stats().hearing, Hearing::Messages);
    eventually(SOON, "it hears", async || {
        staleness(&ours, &theirs, 2000).await < Duration::from_millis(500)
    })
    .await;
}
