//! How fast a subscription takes what one connection floods it with, beside a subscriber of the
//! same client library that only counts.

use super::flood::{self, Flood};
use crate::{
    Plan,
    figures::Rounds,
    load, peers,
    report::{Bound, Report, Table},
};
use anyhow::{Result, bail};
use coordinator_core::{Config, redis::Connection};
use coordinator_events::{Events, RawItem};
use coordinator_harness::RedisServer;
use fred::interfaces::{ClientLike as _, EventInterface as _, PubsubInterface as _};
use std::time::{Duration, Instant};
use tokio::sync::broadcast::error::RecvError;

pub(crate) const TITLE: &str = "Live receiving under a flood";

const RATE: &str = "received per second";
const BARE: &str = "bare subscriber";
const OURS: &str = "ours";
/// Nothing comes any more.
const QUIET: Duration = Duration::from_millis(500);

/// What became of one flood.
#[derive(Debug, Default)]
struct Took {
    published: usize,
    received: usize,
    /// Told as missed.
    told: u64,
    time: Duration,
}

impl Took {
    fn figures(&self) -> [f64; 4] {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let part = |count: usize| 100.0 * count as f64 / self.published as f64;
        [
            load::rate(self.published, self.time),
            load::rate(self.received, self.time),
            part(self.published - self.received),
            part(usize::try_from(self.told).unwrap_or(usize::MAX)),
        ]
    }
}

pub(crate) async fn run(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let mut rows = [BARE, OURS].map(|name| (name, vec![Rounds::default(); 4]));
    for round in 0..plan.rounds {
        for turn in [round % 2, 1 - round % 2] {
            server.command(&["FLUSHALL"]).await?.ok()?;
            let took = match turn {
                0 => bare(plan, server).await?,
                _ => ours(plan, server).await?,
            };
            for (figure, value) in rows[turn].1.iter_mut().zip(took.figures()) {
                figure.0.push(value);
            }
        }
    }
    server.command(&["FLUSHALL"]).await?.ok()?;
    let table = Table {
        title: TITLE,
        about: "One connection floods one scope with the publish that the library sends, up to \
                320 on their way, for as long as a round takes; the time ends with the last event \
                in hand. The bare subscriber is fred's raw receiver with room for 65,536 messages, \
                on the same channel, and counts messages: it decodes nothing. Ours checks each \
                against the one before and its checksum, reads the attributes, and reads again \
                what did not come.",
        columns: vec![
            ("published per second", 0),
            (RATE, 0),
            ("not received, %", 2),
            ("of that told as lost, %", 2),
        ],
        rows: rows.into(),
    };
    let ratio = table.figure(OURS, RATE).zip(table.figure(BARE, RATE));
    let ratio = ratio.map(|(ours, bare)| ours.over(bare));
    report.goal("events received per second over a bare subscriber's", ratio, Bound::AtLeast(0.9));
    let missed = table.figure(OURS, "not received, %").cloned();
    report.goal("of a flood ours did not receive, %", missed, Bound::AtMost(0.0));
    report.add(table);
    Ok(())
}

async fn open(plan: &Plan) -> Result<Events> {
    let connection = Connection::connect(Config::from_url(&plan.url)?).await?;
    Ok(Events::redis(&connection).with_retention(100_000_000, Duration::from_hours(1)))
}

async fn ours(plan: &Plan, server: &RedisServer) -> Result<Took> {
    let events = open(plan).await?;
    let call = flood::recorded(server, &events, "flood").await?;
    let mut subscription = events.subscribe("flood").open_raw().await?;
    let mut flood = Flood::new(server.addr(), &call).await?;
    let begun = Instant::now();
    let receiver = tokio::spawn(async move {
        let mut took = Took::default();
        while let Ok(item) = tokio::time::timeout(QUIET, subscription.next()).await {
            match item {
                Some(RawItem::Event(_)) => took.received += 1,
                Some(RawItem::Gap(gap)) => took.told += gap.lost.count(),
                other => bail!("{other:?}"),
            }
            took.time = begun.elapsed();
        }
        Ok(took)
    });
    flood.run_for(plan.time).await?;
    Ok(Took { published: flood.published, ..receiver.await?? })
}

async fn bare(plan: &Plan, server: &RedisServer) -> Result<Took> {
    let call = flood::recorded(server, &open(plan).await?, "flood").await?;
    let client = peers::roomy(&plan.url).await?;
    let mut messages = client.message_rx();
    client.ssubscribe(flood::stream(&call)?).await?;
    let mut flood = Flood::new(server.addr(), &call).await?;
    let begun = Instant::now();
    let receiver = tokio::spawn(async move {
        let mut took = Took::default();
        while let Ok(message) = tokio::time::timeout(QUIET, messages.recv()).await {
            match message {
                Ok(_) => took.received += 1,
                Err(RecvError::Lagged(missed)) => took.told += missed,
                Err(RecvError::Closed) => bail!("the subscriber is closed"),
            }
            took.time = begun.elapsed();
        }
        Ok(took)
    });
    flood.run_for(plan.time).await?;
    let took = Took { published: flood.published, ..receiver.await?? };
    client.quit().await?;
    Ok(took)
}
