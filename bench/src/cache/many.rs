//! A thousand values at once beside MGET.

use super::{stores, values::Crew};
use crate::{
    Plan,
    figures::{Rounds, ms},
    peers,
    report::{Report, Table},
};
use anyhow::{Result, ensure};
use bytes::Bytes;
use coordinator_cache::{Cache, Caches};
use coordinator_core::{Config, redis::Connection};
use coordinator_harness::RedisServer;
use fred::interfaces::KeysInterface as _;
use std::time::Instant;

pub(crate) const TITLE: &str = "1,000 values at once beside MGET";

const KEYS: u64 = 1000;

struct Both {
    bare: peers::Client,
    ours: Cache<Crew>,
    keys: Vec<String>,
}

impl Both {
    async fn open(plan: &Plan) -> Result<Self> {
        let connection = Connection::connect(Config::from_url(&plan.url)?).await?;
        let ours = Caches::redis(&connection).cache("crews").build()?;
        let bare = peers::client(&plan.url, Config::COMMAND_TIMEOUT).await?;
        let (by_hand, mut keys) = (stores::BARE.open(&plan.url).await?, Vec::new());
        for id in 0..KEYS {
            let (key, crew) = (format!("crew:{id}"), Crew::packed(id, 256)?);
            ours.set(&key, &crew).await?;
            by_hand.set(&key, &crew).await?;
            keys.push(key);
        }
        Ok(Self { bare, ours, keys })
    }

    async fn bare(&self) -> Result<usize> {
        let read: Vec<Option<Bytes>> = self.bare.mget(self.keys.clone()).await?;
        let decoded = read.iter().flatten().map(|bytes| stores::decoded(bytes));
        Ok(decoded.collect::<Result<Vec<_>>>()?.len())
    }

    async fn ours(&self) -> Result<usize> {
        Ok(self.ours.get_many(&self.keys).await?.iter().flatten().count())
    }
}

impl Drop for Both {
    fn drop(&mut self) {
        peers::farewell(&self.bare);
    }
}

pub(crate) async fn run(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    server.command(&["FLUSHALL"]).await?.ok()?;
    let both = Both::open(plan).await?;
    let mut rows = [
        ("MGET and decode, fred", vec![Rounds::default(); 2]),
        ("ours, get_many", vec![Rounds::default(); 2]),
    ];
    for _ in 0..plan.rounds {
        let mut took = [Rounds::default(), Rounds::default()];
        let start = Instant::now();
        while start.elapsed() < 2 * plan.time {
            let asked = Instant::now();
            ensure!(both.bare().await? == both.keys.len(), "all are there");
            took[0].0.push(ms(asked.elapsed()));
            let asked = Instant::now();
            ensure!(both.ours().await? == both.keys.len(), "all are there");
            took[1].0.push(ms(asked.elapsed()));
        }
        for ((_, figures), took) in rows.iter_mut().zip(&took) {
            figures[0].0.push(took.median());
        }
        let ratio = took[1].median() / took[0].median();
        rows[0].1[1].0.push(1.0);
        rows[1].1[1].0.push(ratio);
    }
    report.add(Table {
        title: TITLE,
        about: "Values of 256 B, one call after the other, in turns; a round's figure is the \
                median of its calls. Ours sends scripts of 256 keys at once, since a client may \
                take what MGET answers for a message (docs/decisions/0001-fred.md). cached and \
                multi-tier-cache read one key at a time.",
        columns: vec![("ms per call", 2), ("over MGET's", 2)],
        rows: rows.into(),
    });
    Ok(())
}
