//! One event to ten thousand readers of one process.

use crate::{
    Plan,
    figures::{Rounds, ms, quantile},
    report::{Bound, Report, Table},
};
use anyhow::{Context as _, Result};
use coordinator_core::{Config, redis::Connection};
use coordinator_events::{Events, RawItem};
use coordinator_harness::RedisServer;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, broadcast},
    task::JoinSet,
};

pub(crate) const TITLE: &str = "One event to 10,000 readers of a process";

const READERS: usize = 10_000;
const OURS: &str = "ours";
const FLOOR: &str = "a broadcast channel in the process";
const SUBSCRIPTIONS: &str = "subscriptions at the server";
/// Longer than that no event takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who has an event already.
#[derive(Debug, Default)]
struct Roll {
    left: AtomicUsize,
    all: Notify,
}

impl Roll {
    fn here(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all.notify_one();
        }
    }

    /// From before an event is sent until the last reader has it.
    async fn time(&self, send: impl Future<Output = Result<()>>) -> Result<Duration> {
        self.left.store(READERS, Ordering::Release);
        let start = Instant::now();
        send.await?;
        tokio::time::timeout(PATIENCE, self.all.notified()).await.context("all have it")?;
        Ok(start.elapsed())
    }
}

pub(crate) async fn run(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let connection = Connection::connect(Config::from_url(&plan.url)?).await?;
    let events = Events::redis(&connection);
    let (roll, data) = (Arc::new(Roll::default()), super::data());
    let mut tasks = JoinSet::new();
    for _ in 0..READERS {
        let mut reader = events.subscribe("crowd").open_raw().await?;
        let roll = roll.clone();
        tasks.spawn(async move {
            while let Some(item) = reader.next().await {
                if matches!(item, RawItem::Event(_)) {
                    roll.here();
                }
            }
        });
    }
    let (sender, _) = broadcast::channel(16);
    let floor = Arc::new(Roll::default());
    for _ in 0..READERS {
        let (mut receiver, floor) = (sender.subscribe(), floor.clone());
        tasks.spawn(async move {
            while receiver.recv().await.is_ok() {
                floor.here();
            }
        });
    }
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    let subscriptions = {
        // Scopes of scenarios before linger.
        let channels = server.channels().await?;
        channels.iter().filter(|channel| channel.ends_with(":crowd")).count() as f64
    };
    let mut rows = [FLOOR, OURS].map(|name| (name, vec![Rounds::default(); 4]));
    for _ in 0..plan.rounds {
        let mut samples = [Vec::new(), Vec::new()];
        let start = Instant::now();
        while start.elapsed() < plan.time {
            let send = async {
                sender.send(()).context("somebody listens")?;
                Ok(())
            };
            samples[0].push(floor.time(send).await?);
            let send = async {
                let _ = events.publish("crowd", "step", &data).await?;
                Ok(())
            };
            samples[1].push(roll.time(send).await?);
        }
        for ((_, figures), (samples, count)) in
            rows.iter_mut().zip(samples.iter_mut().zip([0.0, subscriptions]))
        {
            figures[0].0.push(ms(quantile(samples, 500)));
            figures[1].0.push(ms(quantile(samples, 990)));
            figures[2].0.push(ms(samples.last().copied().context("some events")?));
            figures[3].0.push(count);
        }
    }
    tasks.shutdown().await;
    let table = Table {
        title: TITLE,
        about: "10,000 tasks, each with a subscription of its own to one scope; events of 256 B, \
                one after the other, from before the publish until the last of them has it in \
                hand. Beside it a tokio broadcast channel with as many tasks, without a server. \
                Times in ms.",
        columns: vec![("p50", 2), ("p99", 2), ("longest", 2), (SUBSCRIPTIONS, 0)],
        rows: rows.into(),
    };
    let value = table.figure(OURS, SUBSCRIPTIONS).cloned();
    report.goal("subscriptions at the server of 10,000 readers", value, Bound::AtMost(1.0));
    report.add(table);
    Ok(())
}
