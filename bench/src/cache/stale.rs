//! What is given for ever although it was ended: races of an end with a load, and of a write with a
//! fill of the near cache.

use super::{
    stores::{CACHED, NAIVE, NEAR, OURS, Peer, Store, TIERS, TRACKED},
    values::Crew,
};
use crate::{
    Plan,
    figures::Rounds,
    report::{Bound, Report, Table},
};
use anyhow::{Context as _, Result, ensure};
use coordinator_cache::Caches;
use coordinator_harness::RedisServer;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use rand::RngExt as _;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::sleep;

pub(crate) const TITLE: &str = "Stale for ever";

const KEYS: usize = 2000;
/// How many races are run at once.
const AT_ONCE: usize = 8;
/// The longest that either side of a race waits.
const SPREAD: Duration = Duration::from_millis(4);
const KINDS: [&str; 2] = ["load", "fill"];
const LOADS: &str = "of 2,000 loads";
const FILLS: &str = "of 2,000 fills";
const PEERS: [Peer; 6] = [OURS, NEAR, CACHED, TRACKED, TIERS, NAIVE];

/// Three instances of a cache.
struct Fleet {
    name: &'static str,
    /// Ends and writes.
    first: Arc<dyn Store>,
    /// Loads.
    second: Arc<dyn Store>,
    /// Reads.
    third: Arc<dyn Store>,
}

impl Fleet {
    async fn open(plan: &Plan, peer: Peer) -> Result<Self> {
        let url = &plan.url;
        let [first, second, third] =
            [peer.open(url).await?, peer.open(url).await?, peer.open(url).await?];
        Ok(Self { name: peer.name, first, second, third })
    }

    /// What stands behind the cache changes while it is read, and the key is ended.
    async fn load(&self, key: &str) -> Result<()> {
        let [before, during] = [(); 2].map(|()| rand::rng().random_range(Duration::ZERO..SPREAD));
        let behind = Arc::new(AtomicU64::new(0));
        let read = behind.clone();
        let loader = move || -> futures::future::BoxFuture<'static, Crew> {
            Box::pin(async move {
                let version = read.load(Ordering::Acquire);
                sleep(during).await;
                Crew::small(0, version)
            })
        };
        let loads = self.second.load(key, Box::new(loader));
        let ends = async {
            sleep(before).await;
            behind.store(1, Ordering::Release);
            self.first.invalidate(key).await
        };
        tokio::try_join!(loads, ends)?;
        Ok(())
    }

    /// A key is written while another instance reads it for the first time.
    async fn fill(&self, key: &str) -> Result<()> {
        self.first.set(key, &Crew::small(0, 0)).await?;
        let wait = rand::rng().random_range(Duration::ZERO..SPREAD / 4);
        let reads = async {
            sleep(wait).await;
            // Many at once, as where it is asked for much.
            for _ in 0..8 {
                self.third.get(key).await?;
            }
            Ok(())
        };
        let writes = async {
            sleep(SPREAD / 8).await;
            self.first.set(key, &Crew::small(0, 1)).await
        };
        tokio::try_join!(reads, writes)?;
        Ok(())
    }

    /// Whether any instance gives what was before.
    async fn is_stale(&self, key: &str) -> Result<bool> {
        for store in [&self.first, &self.second, &self.third] {
            if store.get(key).await? == Some(0) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Fleet {
    /// Each has keys of its own.
    fn key(&self, kind: &str, number: usize) -> String {
        format!("{}:{kind}:{number}", self.name)
    }

    async fn races(&self) -> Result<()> {
        for kind in KINDS {
            let all = stream::iter(0..KEYS).map(anyhow::Ok);
            all.try_for_each_concurrent(AT_ONCE, async |number| {
                let key = self.key(kind, number);
                if kind == "load" { self.load(&key).await } else { self.fill(&key).await }
            })
            .await?;
        }
        Ok(())
    }

    /// How many keys.
    async fn stale(&self, kind: &str) -> Result<f64> {
        let mut stale = 0.0;
        for number in 0..KEYS {
            if self.is_stale(&self.key(kind, number)).await? {
                stale += 1.0;
            }
        }
        Ok(stale)
    }
}

pub(crate) async fn run(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let mut rows = PEERS.map(|peer| (peer.name, vec![Rounds::default(); 2]));
    for _ in 0..plan.rounds {
        server.command(&["FLUSHALL"]).await?.ok()?;
        let mut fleets = Vec::new();
        for peer in PEERS {
            let fleet = Fleet::open(plan, peer).await.context(peer.name)?;
            fleet.races().await.context(peer.name)?;
            fleets.push(fleet);
        }
        // What is stale longer than anybody promises is so for ever, or until its TTL.
        sleep(Caches::STALENESS + Duration::from_secs(1)).await;
        for (fleet, (name, figures)) in fleets.iter().zip(&mut rows) {
            for (figure, kind) in figures.iter_mut().zip(KINDS) {
                figure.0.push(fleet.stale(kind).await.context(*name)?);
            }
        }
    }
    let table = Table {
        title: TITLE,
        about: "Three instances with a connection each. While one loads a key, another changes \
                what stands behind it and ends the key, both within 4 ms; and while one reads a \
                key for the first time another writes it. How many of 2,000 keys any of them \
                still gives as they were, three seconds later: with a TTL of five minutes and \
                nobody who says so, until then.",
        columns: vec![(LOADS, 0), (FILLS, 0)],
        rows: rows.into(),
    };
    let seen = table.figure(NAIVE.name, LOADS).context("it was measured")?;
    ensure!(seen.median() > 0.0, "not even {} is stale: the harness is blind", NAIVE.name);
    for peer in [OURS, NEAR] {
        for races in [LOADS, FILLS] {
            let goal = format!("stale for ever {races}: {}", peer.name);
            report.goal(goal, table.figure(peer.name, races).cloned(), Bound::AtMost(0.0));
        }
    }
    report.add(table);
    Ok(())
}
