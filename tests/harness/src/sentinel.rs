//! A master with replicas, watched by Sentinels, on loopback.
//!
//! Its timings are as short as is stable, so that a failover takes about a second. It does not fake
//! anything: Sentinel decides, this waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use tokio::time::{sleep, timeout};

use crate::cluster::{run, until};
use crate::{Builder, RedisServer};

/// The name under which the Sentinels know the master.
const SERVICE: &str = "main";

/// How long the Sentinels may take to agree.
const AGREE: Duration = Duration::from_secs(30);

/// A watched master with its replicas. Dropping it kills all of them.
#[derive(Debug)]
pub struct Sentinel {
    servers: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
    /// The position of the master as last seen.
    master: AtomicUsize,
}

impl Sentinel {
    /// Starts a master, its replicas and the Sentinels; waits until the replicas are in step and
    /// every Sentinel knows all of them and each other.
    ///
    /// The service is called `main`, a majority decides, the master counts as down after 500 ms of
    /// silence, and a failover may take 2 s; before Redis 7.0 it is 2 s and 10 s.
    ///
    /// # Errors
    /// If a server does not start or they do not agree within 30 s.
    ///
    /// # Cancel safety
    /// Cancel safe: all servers are killed.
    pub async fn start(replicas: usize, sentinels: usize) -> Result<Self> {
        Self::start_with(replicas, sentinels, &RedisServer::builder()).await
    }

    /// The same with a master and replicas that are configured beforehand; what is set there wins.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// # Cancel safety
    /// Cancel safe: all servers are killed.
    pub async fn start_with(replicas: usize, sentinels: usize, server: &Builder) -> Result<Self> {
        ensure!(sentinels > 0, "somebody must watch");
        let builder = || server.clone().config_first("repl-ping-replica-period", "1");
        let mut servers = vec![builder().start().await?];
        let port = servers[0].port();
        let of = format!("127.0.0.1 {port}");
        let replica = || builder().config_first("replicaof", &of).start();
        servers.extend(try_join_all((0..replicas).map(|_| replica())).await?);
        for replica in &servers[1..] {
            let in_step = until(replica, async |replica| {
                let info = run(replica, &["INFO", "replication"]).await?;
                Ok(info.as_str().is_some_and(|info| info.contains("master_link_status:up")))
            });
            timeout(AGREE, in_step).await.context("a replica did not get in step")??;
        }
        // Before 7.0 Sentinels ping and tell each other more slowly: with less patience they take a
        // master that was just promoted for dead, and replace one after the other.
        let (silence, patience) =
            if servers[0].version() < (7, 0, 0) { (2_000, 10_000) } else { (500, 2_000) };
        let watch = async || {
            let mut builder = RedisServer::builder();
            builder.sentinel = true;
            let quorum = sentinels / 2 + 1;
            let sentinel = builder
                .config("sentinel", &format!("monitor {SERVICE} 127.0.0.1 {port} {quorum}"))
                .config("sentinel", &format!("down-after-milliseconds {SERVICE} {silence}"))
                .config("sentinel", &format!("failover-timeout {SERVICE} {patience}"))
                .config("sentinel", &format!("parallel-syncs {SERVICE} 8"))
                .start()
                .await?;
            // Since 7.0 the built-in periods of 1 to 10 s can be shortened; older ones are slower.
            // Not PING-PERIOD: a replica whose INFO is older than five of those is not promoted,
            // and once the master is down INFO is asked for once a second, whatever was set.
            let command = "SENTINEL DEBUG INFO-PERIOD 200 PUBLISH-PERIOD 200 ASK-PERIOD 200";
            let _ = sentinel.command(&command.split(' ').collect::<Vec<_>>()).await?;
            anyhow::Ok(sentinel)
        };
        let sentinels = try_join_all((0..sentinels).map(|_| watch())).await?;
        let all = Self { servers, sentinels, master: AtomicUsize::new(0) };
        timeout(AGREE, all.settle()).await.context("the Sentinels did not agree")??;
        Ok(all)
    }

    /// Waits until every living Sentinel knows every replica and every other Sentinel.
    async fn settle(&self) -> Result<()> {
        let replicas = i64::try_from(self.servers.len() - 1)?;
        let others = i64::try_from(self.sentinels.len() - 1)?;
        for sentinel in &self.sentinels {
            until(sentinel, async |sentinel| {
                let state = run(sentinel, &["SENTINEL", "MASTER", SERVICE]).await?;
                let state = state.as_array().context("SENTINEL MASTER is an array")?;
                let field = |name: &str| {
                    let mut pairs = state.chunks_exact(2);
                    pairs.find(|pair| pair[0].as_str() == Some(name))?[1].as_int()
                };
                Ok(field("num-slaves") == Some(replicas)
                    && field("num-other-sentinels") == Some(others))
            })
            .await?;
        }
        Ok(())
    }

    /// `redis-sentinel://127.0.0.1:PORT,127.0.0.1:PORT,…/main`, all Sentinels.
    #[must_use]
    pub fn url(&self) -> String {
        let all: Vec<String> = self.sentinels.iter().map(|s| s.addr().to_string()).collect();
        format!("redis-sentinel://{}/{SERVICE}", all.join(","))
    }

    /// The master as last seen: at the start, by [`failover`](Self::failover) or by
    /// [`current_master`](Self::current_master).
    #[must_use]
    pub fn master(&self) -> &RedisServer {
        &self.servers[self.master.load(Ordering::SeqCst)]
    }

    /// All servers but [`master`](Self::master), dead ones too.
    #[must_use]
    pub fn replicas(&self) -> Vec<&RedisServer> {
        let master = self.master.load(Ordering::SeqCst);
        let others = self.servers.iter().enumerate().filter(|(i, _)| *i != master);
        others.map(|(_, server)| server).collect()
    }

    /// The servers as they were started: first the first master. Failovers do not change this.
    #[must_use]
    pub fn servers(&self) -> &[RedisServer] {
        &self.servers
    }

    /// The Sentinels.
    #[must_use]
    pub fn sentinels(&self) -> &[RedisServer] {
        &self.sentinels
    }

    /// The server that all living Sentinels take for the master, and that itself agrees; `None`
    /// while they differ. What [`master`](Self::master) tells follows.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn current_master(&self) -> Option<&RedisServer> {
        let mut ports = Vec::new();
        for sentinel in self.sentinels.iter().filter(|sentinel| sentinel.pid().is_some()) {
            let addr = run(sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]).await;
            ports.push(addr.ok()?.as_array()?.get(1)?.as_int()?);
        }
        let port = *ports.first()?;
        if ports.iter().any(|other| *other != port) {
            return None;
        }
        let i = self.servers.iter().position(|server| i64::from(server.port()) == port)?;
        let role = run(&self.servers[i], &["ROLE"]).await.ok()?;
        if role.as_array()?.first()?.as_str()? != "master" {
            return None;
        }
        self.master.store(i, Ordering::SeqCst);
        Some(&self.servers[i])
    }

    /// Has the Sentinels promote a replica although the master is well, and waits until all of them
    /// and the new master agree. The old master may take itself for one some seconds longer: that
    /// is Sentinel's own split brain, and worth testing.
    ///
    /// # Errors
    /// If there is no replica to promote, or they do not agree within 30 s.
    ///
    /// # Cancel safety
    /// Not cancel safe: the failover may be under way.
    pub async fn failover(&self) -> Result<()> {
        let promote = async {
            // A busy machine may have made the Sentinels fail over by themselves.
            let before = loop {
                match self.current_master().await {
                    Some(master) => break master.port(),
                    None => sleep(Duration::from_millis(20)).await,
                }
            };
            loop {
                let mut alive = self.sentinels.iter().filter(|sentinel| sentinel.pid().is_some());
                let sentinel = alive.next().context("no Sentinel is alive")?;
                // NOGOODSLAVE while its picture of the replicas is too old, INPROG during another.
                if run(sentinel, &["SENTINEL", "FAILOVER", SERVICE]).await.is_ok() {
                    break;
                }
                sleep(Duration::from_millis(100)).await;
            }
            while self.current_master().await.is_none_or(|master| master.port() == before) {
                sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        match timeout(AGREE, promote).await {
            Ok(done) => done,
            Err(_) => bail!("no failover within {AGREE:?}"),
        }
    }
}
