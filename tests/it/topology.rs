//! The servers that the suite runs on: one server, or what `COORDINATOR_TOPOLOGY` names.
//!
//! It starts them and writes the configuration that reaches them. Which binary is started is the
//! harness's affair (`COORDINATOR_REDIS_SERVER`).

use coordinator_core::{
    Config,
    config::{Credentials, Protocol, Tls},
};
use coordinator_harness::{Builder, Cluster, RedisServer, Sentinel, TlsFiles, fresh_prefix};
use futures::future::try_join_all;
use std::time::Duration;
use tempfile::TempDir;

/// The rules of least privilege; `docs/keys.md` has the same.
pub(crate) const LEAST: &str = "resetkeys ~app:* resetchannels &app:* -@all +@read +@write \
    +@pubsub +@connection +eval +evalsha +script|load +script|exists +time -@dangerous";
/// What a cluster wants besides; `asking` is part of `@connection` since Redis 7.0.
pub(crate) const IN_A_CLUSTER: &str = "+cluster|slots +cluster|info +asking";
/// What Sentinel's servers want besides.
pub(crate) const BEHIND_SENTINEL: &str = "+role";

/// How the servers are arranged and spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topology {
    Single,
    Sentinel,
    Cluster,
    Tls,
    /// A user of least privilege.
    Acl,
    /// The older version of the protocol.
    Resp2,
}

/// The one place that reads the choice.
fn chosen() -> Topology {
    match std::env::var("COORDINATOR_TOPOLOGY").as_deref() {
        Err(std::env::VarError::NotPresent) | Ok("single") => Topology::Single,
        Ok("sentinel") => Topology::Sentinel,
        Ok("cluster") => Topology::Cluster,
        Ok("tls") => Topology::Tls,
        Ok("acl") => Topology::Acl,
        Ok("resp2") => Topology::Resp2,
        other => panic!(
            "COORDINATOR_TOPOLOGY is single, sentinel, cluster, tls, acl or resp2, not {other:?}"
        ),
    }
}

/// A server to be started, with the user that [`config`] will be.
pub(crate) fn builder() -> Builder {
    with_user("")
}

fn with_user(more: &str) -> Builder {
    let builder = RedisServer::builder();
    match chosen() {
        Topology::Acl => builder.config("user", &format!("app on >pw {LEAST} {more}")),
        _ => builder,
    }
}

/// A running server of [`builder`]'s.
pub(crate) async fn server() -> RedisServer {
    builder().start().await.expect("a server")
}

/// A node of a cluster to be started, with [`config`]'s user.
pub(crate) fn node() -> Builder {
    with_user(IN_A_CLUSTER)
}

/// A cluster of [`node`]s.
pub(crate) async fn cluster(masters: usize, replicas_per_master: usize) -> Cluster {
    Cluster::start_with(masters, replicas_per_master, &node()).await.expect("a cluster")
}

/// A watched master with replicas that have [`config`]'s user.
pub(crate) async fn sentinel(replicas: usize, sentinels: usize) -> Sentinel {
    let server = with_user(BEHIND_SENTINEL);
    Sentinel::start_with(replicas, sentinels, &server).await.expect("a watched master")
}

/// A configuration with a prefix of its own.
pub(crate) fn config(url: &str) -> Config {
    let config = Config::from_url(url).expect("a URL");
    let prefix = fresh_prefix();
    let (config, prefix) = match chosen() {
        Topology::Resp2 => (config.with_protocol(Protocol::Resp2), prefix),
        Topology::Acl if matches!(config.credentials(), Credentials::None) => {
            let login = Credentials::fixed(Some("app"), "pw");
            (config.with_credentials(login), format!("app:{prefix}"))
        }
        _ => (config, prefix),
    };
    config.with_prefix(&prefix).expect("a prefix")
}

/// The servers of one case, whose clocks it moves.
pub(crate) struct Servers {
    config: Config,
    running: Running,
}

enum Running {
    One(RedisServer),
    /// The folder holds the certificates.
    Secured(RedisServer, #[expect(dead_code, reason = "is removed when dropped")] TempDir),
    Watched(Sentinel),
    Clustered(Cluster),
}

impl Servers {
    pub(crate) async fn start() -> Self {
        let builder = builder().with_clock_shim();
        let (config, running) = match chosen() {
            Topology::Single | Topology::Acl | Topology::Resp2 => {
                let server = builder.start().await.expect("a server");
                (config(&server.url()), Running::One(server))
            }
            Topology::Tls => {
                let folder = tempfile::tempdir().expect("a folder");
                let files = TlsFiles::generate(folder.path()).expect("certificates");
                let server = builder.with_tls(&files).start().await.expect("a server");
                let tls = Tls {
                    ca: Some(files.ca),
                    cert: Some(files.client.cert),
                    key: Some(files.client.key),
                    sni: None,
                };
                (config(&server.url()).with_tls(tls), Running::Secured(server, folder))
            }
            Topology::Sentinel => {
                let all = Sentinel::start_with(2, 3, &builder).await.expect("a watched master");
                (config(&all.url()), Running::Watched(all))
            }
            Topology::Cluster => {
                let all = Cluster::start_with(3, 1, &builder).await.expect("a cluster");
                // The nodes measure each other's silence by the clock that the cases move.
                let patience = ["CONFIG", "SET", "cluster-node-timeout", "86400000"];
                for node in all.nodes() {
                    let set = node.command(&patience).await.expect("an answer");
                    set.ok().expect("a longer timeout");
                }
                (config(&all.url()), Running::Clustered(all))
            }
        };
        let all = Self { config, running };
        // A slow machine must not decide what a case sees.
        let stopped = try_join_all(all.servers().iter().map(RedisServer::stop_clock)).await;
        stopped.expect("the servers' clocks stop");
        all
    }

    /// Every server that keeps locks.
    fn servers(&self) -> &[RedisServer] {
        match &self.running {
            Running::One(server) | Running::Secured(server, _) => std::slice::from_ref(server),
            Running::Watched(all) => all.servers(),
            Running::Clustered(all) => all.nodes(),
        }
    }

    /// How to reach them.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Moves the clock of every server that keeps locks.
    pub(crate) async fn advance(&self, by: Duration) {
        let servers = self.servers().iter();
        let moved = try_join_all(servers.map(|server| server.advance_clock(by))).await;
        moved.expect("the servers' clocks move");
    }
}

#[test]
fn the_documented_access_rules_are_those_of_the_tests() {
    let docs = include_str!("../../docs/keys.md");
    for rules in [LEAST, IN_A_CLUSTER, BEHIND_SENTINEL] {
        assert!(docs.contains(rules), "docs/keys.md does not tell: {rules}");
    }
}
