//! Readers that stand still while the scope goes on: what that costs in memory. A process of its
//! own measures it, so that nothing else is in the figure.

use crate::{
    Plan,
    figures::Rounds,
    report::{Bound, Report, Table},
};
use anyhow::{Context as _, Result, ensure};
use coordinator_core::{Config, redis::Connection};
use coordinator_events::{Events, RawItem, RawSubscription};
use coordinator_harness::RedisServer;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::{env, fs, process::Stdio, time::Duration};

pub(crate) const TITLE: &str = "Memory of 1,000 stalled readers";

const READERS: usize = 1_000;
const EVENTS: usize = 100_000;
/// So many fill the ring, and what the allocator keeps.
const FULL: usize = 10_000;
const ROW: &str = "1,000 stalled, 100,000 events of 256 B";
const GROWTH: &str = "growth, MiB";

pub(crate) async fn run(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let mut rows = vec![(ROW, vec![Rounds::default(); 3])];
    for _ in 0..plan.rounds.min(3) {
        server.command(&["FLUSHALL"]).await?.ok()?;
        let mut process = tokio::process::Command::new(env::current_exe()?);
        process.args(["events", "--stall-at", &plan.url]).stderr(Stdio::inherit());
        let output = process.output().await?;
        ensure!(output.status.success(), "the process with the readers failed");
        let said = String::from_utf8(output.stdout)?;
        let sizes = said.split_whitespace().map(|size| Ok(size.parse::<f64>()? / 1024.0));
        let sizes = sizes.collect::<Result<Vec<_>>>()?;
        let [before, after] = sizes[..] else { anyhow::bail!("two sizes in {said:?}") };
        for (figure, value) in rows[0].1.iter_mut().zip([before, after, after - before]) {
            figure.0.push(value);
        }
    }
    server.command(&["FLUSHALL"]).await?.ok()?;
    let table = Table {
        title: TITLE,
        about: "A process with 1,000 subscriptions to one scope that are never asked for anything, \
                one that reads along, and 64 publishes at once: its resident memory once \
                10,000 events have filled the ring, and after 100,000 more. Then one of the \
                stalled is asked again, and goes on.",
        columns: vec![("before, MiB", 1), ("after, MiB", 1), (GROWTH, 1)],
        rows,
    };
    let value = table.figure(ROW, GROWTH).cloned();
    report.goal("growth with 1,000 stalled readers, MiB", value, Bound::AtMost(16.0));
    report.add(table);
    Ok(())
}

/// What the process of its own does.
pub(crate) async fn stall(url: &str) -> Result<()> {
    let connection = Connection::connect(Config::from_url(url)?).await?;
    let events = Events::redis(&connection).with_retention(200_000, Duration::from_hours(1));
    let mut stalled = Vec::new();
    for _ in 0..READERS {
        stalled.push(events.subscribe("stalled").open_raw().await?);
    }
    let mut reader = events.subscribe("stalled").open_raw().await?;
    let (ran, read) = tokio::join!(publish(&events, FULL), follow(&mut reader, FULL));
    ran.and(read)?;
    let before = resident()?;
    let (ran, read) = tokio::join!(publish(&events, EVENTS), follow(&mut reader, EVENTS));
    ran.and(read)?;
    let after = resident()?;
    let first = stalled[0].next().await;
    ensure!(matches!(first, Some(RawItem::Event(_))), "it goes on: {first:?}");
    println!("{before} {after}");
    Ok(())
}

/// Publishes so many.
async fn publish(events: &Events, count: usize) -> Result<()> {
    let data = super::data();
    let published = stream::iter(0..count)
        .map(|_| {
            let publish = events.publish("stalled", "step", &data);
            async move { anyhow::Ok(publish.await?.cursor().map(drop)) }
        })
        .buffer_unordered(64)
        .try_fold(0, async |count, _| Ok(count + 1));
    ensure!(published.await? == count, "all are published");
    Ok(())
}

/// Reads so many events, and no gap.
async fn follow(reader: &mut RawSubscription, count: usize) -> Result<()> {
    for _ in 0..count {
        let item = tokio::time::timeout(Duration::from_secs(30), reader.next()).await?;
        ensure!(matches!(item, Some(RawItem::Event(_))), "an event, not {item:?}");
    }
    Ok(())
}

/// In KiB.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let size = line.and_then(|line| line.split_whitespace().next());
    Ok(size.context("a resident size")?.parse()?)
}
