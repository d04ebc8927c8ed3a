//! A Redis Cluster on loopback.
//!
//! It is put together by commands rather than by `redis-cli --cluster create`, which asks questions
//! and takes longer. Resharding and failing over are for the tests themselves, by commands to the
//! nodes.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use tokio::time::{sleep, timeout};

use crate::{Builder, RedisServer, Resp};

/// How long a cluster may take to agree. Redis itself waits 2 s before it says `ok`.
const AGREE: Duration = Duration::from_secs(30);

const SLOTS: usize = 16_384;

/// A running cluster. Dropping it kills all nodes.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<RedisServer>,
    masters: usize,
}

impl Cluster {
    /// Starts a cluster with even slots, and waits until every node says `cluster_state:ok` and
    /// every replica is in step with its master.
    ///
    /// A node counts as failed after 1 s of silence. Replica `i` belongs to master `i % masters`.
    ///
    /// # Errors
    /// If a node does not start or they do not agree within 30 s.
    ///
    /// # Cancel safety
    /// Cancel safe: all nodes are killed.
    pub async fn start(masters: usize, replicas_per_master: usize) -> Result<Self> {
        Self::start_with(masters, replicas_per_master, &RedisServer::builder()).await
    }

    /// The same with nodes that are configured beforehand; what is set there wins.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// # Cancel safety
    /// Cancel safe: all nodes are killed.
    pub async fn start_with(
        masters: usize,
        replicas_per_master: usize,
        node: &Builder,
    ) -> Result<Self> {
        ensure!(masters > 0, "a cluster needs a master");
        let node = node
            .clone()
            .config_first("cluster-enabled", "yes")
            .config_first("cluster-config-file", "nodes.conf")
            .config_first("cluster-node-timeout", "1000")
            .config_first("cluster-replica-validity-factor", "0")
            .config_first("repl-ping-replica-period", "1");
        let count = masters * (1 + replicas_per_master);
        let nodes = try_join_all((0..count).map(|_| node.clone().start())).await?;
        let cluster = Self { nodes, masters };
        match timeout(AGREE, cluster.form()).await {
            Ok(formed) => formed?,
            Err(_) => bail!("the cluster did not agree within {AGREE:?}"),
        }
        Ok(cluster)
    }

    async fn form(&self) -> Result<()> {
        for (i, node) in self.nodes.iter().enumerate() {
            // Distinct from the start, so that no election is needed to tell them apart.
            run(node, &["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()]).await?;
        }
        let first = &self.nodes[0];
        for node in &self.nodes[1..] {
            run(first, &["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string()]).await?;
        }
        for (i, node) in self.nodes[..self.masters].iter().enumerate() {
            let slots = SLOTS * i / self.masters..SLOTS * (i + 1) / self.masters;
            // Not ADDSLOTSRANGE, which 6.2 does not know.
            let mut args = vec!["CLUSTER".to_owned(), "ADDSLOTS".to_owned()];
            args.extend(slots.map(|slot| slot.to_string()));
            run(node, &args).await?;
        }
        for node in &self.nodes {
            until(node, async |node| {
                let known = run(node, &["CLUSTER", "NODES"]).await?;
                let known = known.as_str().context("CLUSTER NODES is text")?.to_owned();
                Ok(known.lines().count() == self.nodes.len() && !known.contains("handshake"))
            })
            .await?;
        }
        for (i, node) in self.nodes[self.masters..].iter().enumerate() {
            let master = id(&self.nodes[i % self.masters]).await?;
            run(node, &["CLUSTER", "REPLICATE", &master]).await?;
        }
        // A node that does not yet know who is whose replica would tell clients wrongly.
        let replicas = self.nodes.len() - self.masters;
        for node in &self.nodes {
            until(node, async |node| {
                let known = run(node, &["CLUSTER", "NODES"]).await?;
                let known = known.as_str().context("CLUSTER NODES is text")?;
                Ok(known.lines().filter(|line| line.contains("slave")).count() == replicas)
            })
            .await?;
        }
        for (i, node) in self.nodes.iter().enumerate() {
            until(node, async |node| {
                let role = run(node, &["INFO", "replication"]).await?;
                let wanted = if i < self.masters { "role:master" } else { "master_link_status:up" };
                let has = |text| role.as_str().is_some_and(|role| role.contains(text));
                Ok(is_ok(node).await? && has(wanted))
            })
            .await?;
        }
        // Under load one may take another for failed while the rest still agree.
        for node in self.nodes.iter().rev() {
            until(node, async |node| is_ok(node).await).await?;
        }
        Ok(())
    }

    /// All nodes: first those that were started as masters, then the replicas.
    #[must_use]
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// The nodes that were started as masters; failovers do not change this.
    #[must_use]
    pub fn masters(&self) -> &[RedisServer] {
        &self.nodes[..self.masters]
    }

    /// `redis-cluster://127.0.0.1:PORT,127.0.0.1:PORT,…`, all nodes.
    #[must_use]
    pub fn url(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(|node| node.addr().to_string()).collect();
        format!("redis-cluster://{}", nodes.join(","))
    }

    /// The live node that owns the slot of `key` at present, in the eyes of the first live node.
    ///
    /// # Errors
    /// If no node answers, or none of ours owns the slot.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn owner_of(&self, key: &str) -> Result<&RedisServer> {
        for asked in self.nodes.iter().filter(|node| node.pid().is_some()) {
            let Ok(slot) = run(asked, &["CLUSTER", "KEYSLOT", key]).await else {
                continue;
            };
            let slot = slot.as_int().context("a slot is a number")?;
            let ranges = run(asked, &["CLUSTER", "SLOTS"]).await?;
            for range in ranges.as_array().context("CLUSTER SLOTS is an array")? {
                let Some([from, to, owner, ..]) = range.as_array() else {
                    continue;
                };
                if (from.as_int()..=to.as_int()).contains(&Some(slot)) {
                    let port = owner.as_array().and_then(|owner| owner.get(1)?.as_int());
                    let mut nodes = self.nodes.iter();
                    let found = nodes.find(|node| Some(i64::from(node.port())) == port);
                    return found.context("the owner is not one of our nodes");
                }
            }
        }
        bail!("no live node knows the owner of {key}")
    }
}

/// A slot on its way from one node to another; see [`Cluster::begin_move`].
#[derive(Debug)]
pub struct Move<'a> {
    cluster: &'a Cluster,
    slot: String,
    from: &'a RedisServer,
    to: &'a RedisServer,
}

impl Cluster {
    /// Begins to move the slot of `key`: a key that is no longer at the old node is asked for at
    /// the new one (ASK), and a script whose keys are at both is told to try again (TRYAGAIN).
    ///
    /// # Errors
    /// If a node does not answer or refuses.
    ///
    /// # Cancel safety
    /// Not cancel safe: the move may be half begun.
    pub async fn begin_move<'a>(&'a self, key: &str, to: &'a RedisServer) -> Result<Move<'a>> {
        let from = self.owner_of(key).await?;
        let slot = run(from, &["CLUSTER", "KEYSLOT", key]).await?;
        let slot = slot.as_int().context("a slot is a number")?.to_string();
        let (giver, taker) = (id(from).await?, id(to).await?);
        run(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &giver]).await?;
        run(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &taker]).await?;
        Ok(Move { cluster: self, slot, from, to })
    }
}

impl Move<'_> {
    /// Carries keys over.
    ///
    /// # Errors
    /// If a node does not answer or refuses.
    ///
    /// # Cancel safety
    /// Not cancel safe: the keys may be here or there.
    pub async fn carry(&self, keys: &[String]) -> Result<()> {
        let port = self.to.port().to_string();
        let mut command = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        command.extend(keys.iter().map(String::as_str));
        run(self.from, &command).await?;
        Ok(())
    }

    /// Carries what is left over, gives the slot to the new node and waits until all say so.
    ///
    /// # Errors
    /// If a node does not answer or refuses.
    ///
    /// # Cancel safety
    /// Not cancel safe: the move may be half done.
    pub async fn finish(self) -> Result<()> {
        loop {
            let left = run(self.from, &["CLUSTER", "GETKEYSINSLOT", &self.slot, "100"]).await?;
            let left = left.as_array().context("keys are an array")?;
            let left: Vec<_> =
                left.iter().filter_map(|key| key.as_str().map(str::to_owned)).collect();
            if left.is_empty() {
                break;
            }
            self.carry(&left).await?;
        }
        let taker = id(self.to).await?;
        let others = self.cluster.masters().iter();
        let others = others.filter(|node| node.port() != self.to.port());
        for node in std::iter::once(self.to).chain(others) {
            run(node, &["CLUSTER", "SETSLOT", &self.slot, "NODE", &taker]).await?;
        }
        Ok(())
    }
}

async fn is_ok(node: &RedisServer) -> Result<bool> {
    let info = run(node, &["CLUSTER", "INFO"]).await?;
    Ok(info.as_str().is_some_and(|info| info.contains("cluster_state:ok")))
}

async fn id(node: &RedisServer) -> Result<String> {
    let id = run(node, &["CLUSTER", "MYID"]).await?;
    Ok(id.as_str().context("CLUSTER MYID is text")?.to_owned())
}

/// Runs a command whose error reply is an error.
pub(crate) async fn run<A: AsRef<[u8]>>(server: &RedisServer, args: &[A]) -> Result<Resp> {
    server.command(args).await?.ok()
}

/// Asks a server until it agrees; errors count as no.
pub(crate) async fn until(
    server: &RedisServer,
    condition: impl AsyncFn(&RedisServer) -> Result<bool>,
) -> Result<()> {
    while !condition(server).await.unwrap_or(false) {
        ensure!(server.pid().is_some(), "the server was killed meanwhile");
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
