//! Ours beside what others offer: how fast, and what is lost while connections are killed.

use super::channels::{Channel, Listener, OURS, PEERS, Peer};
use crate::{
    Plan,
    figures::{Rounds, ms, quantile},
    load,
    report::{Bound, Report, Table},
};
use anyhow::{Context as _, Result};
use coordinator_harness::RedisServer;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

pub(crate) const SPEED: &str = "Side by side, 16 tasks publish and one listens";
pub(crate) const KILLS: &str = "Side by side, connections killed every 300 ms";

const TASKS: u64 = 16;
/// How often each publishes among kills: a thousand a second in all.
const PACE: Duration = Duration::from_millis(16);
const KILL: Duration = Duration::from_millis(300);
const AMONG_KILLS: Duration = Duration::from_secs(10);
const AMONG_MANY: Duration = Duration::from_mins(1);
/// Whoever has not come so long after another does not come: among kills, and without.
const QUIET: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(1)];
/// One attempt to publish.
const PATIENCE: Duration = Duration::from_secs(2);
/// What goes ahead, until the listener has it: some only listen a while after they say so.
const AHEAD: u64 = u64::MAX;

const LOST: &str = "acknowledged and lost";
const TWICE: &str = "received twice";

/// What became of it all.
#[derive(Debug, Default)]
struct Run {
    acknowledged: Vec<u64>,
    /// How often each came.
    came: HashMap<u64, u32>,
    samples: Vec<Duration>,
    time: Duration,
}

impl Run {
    fn figures(&mut self) -> [f64; 6] {
        let lost = self.acknowledged.iter().filter(|number| !self.came.contains_key(number));
        let twice = self.came.values().filter(|times| **times > 1);
        [
            load::rate(self.acknowledged.len(), self.time),
            ms(quantile(&mut self.samples, 500)),
            ms(quantile(&mut self.samples, 990)),
            ms(self.samples.last().copied().unwrap_or_default()),
            count(lost.count()),
            count(twice.count()),
        ]
    }
}

fn count(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

pub(crate) async fn speed(plan: &Plan, report: &mut Report) -> Result<()> {
    eprintln!("{SPEED}");
    let server = RedisServer::start().await?;
    let mut rows = PEERS.map(|peer| (peer.name, vec![Rounds::default(); 6]));
    for round in 0..plan.rounds {
        for (peer, (_, figures)) in PEERS.iter().zip(&mut rows) {
            let name = format!("speed-{round}");
            let mut ran = run(*peer, &server, &name, plan.time, None).await?;
            for (figure, value) in figures.iter_mut().zip(ran.figures()) {
                figure.0.push(value);
            }
            server.command(&["FLUSHALL"]).await?.ok()?;
        }
    }
    report.add(Table {
        title: SPEED,
        about: "Texts of about 256 B, each task one after the other; the latency is from before \
                the publish until the listener has it. Ours with an idempotency key for each, and \
                a live topic of ours, which keeps nothing and counts what is lost; PUBLISH with \
                fred's SubscriberClient, its receiver with room for 65,536; PUBLISH with redis-rs' \
                ConnectionManager; and SeaStreamer's producer and real-time consumer on a stream, \
                which batches publishes and trims nothing. Times in ms.",
        columns: columns("acknowledged per second"),
        rows: rows.into(),
    });
    Ok(())
}

pub(crate) async fn kills(plan: &Plan, report: &mut Report) -> Result<()> {
    eprintln!("{KILLS}");
    let server = Arc::new(RedisServer::start().await?);
    let mut rows = PEERS.map(|peer| (peer.name, vec![Rounds::default(); 6]));
    let (time, rounds) =
        if plan.long { (AMONG_MANY, plan.rounds) } else { (AMONG_KILLS, plan.rounds.min(2)) };
    for round in 0..rounds {
        for (peer, (_, figures)) in PEERS.iter().zip(&mut rows) {
            let name = format!("kills-{round}");
            let mut ran = run(*peer, &server, &name, time, Some(KILL)).await?;
            for (figure, value) in figures.iter_mut().zip(ran.figures()) {
                figure.0.push(value);
            }
            server.command(&["FLUSHALL"]).await?.ok()?;
        }
    }
    let table = Table {
        title: KILLS,
        about: "The same at 1,000 a second for ten seconds (a minute with `--long`), and every \
                300 ms all connections that listen are killed, or all that do not, in turn. What \
                is not acknowledged is published again until it is. Those that are not there 5 s \
                after the last one are lost.",
        columns: columns("acknowledged per second"),
        rows: rows.into(),
    };
    for column in [LOST, TWICE] {
        let value = table.figure(OURS, column).cloned();
        report.goal(format!("{column}, ours, connections killed"), value, Bound::AtMost(0.0));
    }
    report.add(table);
    Ok(())
}

fn columns(rate: &'static str) -> Vec<(&'static str, usize)> {
    vec![(rate, 0), ("p50", 2), ("p99", 2), ("longest", 1), (LOST, 0), (TWICE, 0)]
}

/// A text by its number and when it was sent, about as long as everywhere.
fn text(number: u64, at: Duration) -> String {
    format!("{number} {} {}", at.as_nanos(), "x".repeat(220))
}

fn read(text: &str) -> Option<(u64, Duration)> {
    let mut parts = text.split(' ');
    let (number, at) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((number, Duration::from_nanos(at)))
}

/// Waits until the listener hears what is published.
async fn ready(channel: &dyn Channel, listener: &mut dyn Listener) -> Result<()> {
    for ahead in 0..100 {
        channel.publish(AHEAD - ahead, &text(AHEAD, Duration::ZERO)).await?;
        if timeout(Duration::from_millis(100), listener.next()).await.is_ok() {
            return Ok(());
        }
    }
    anyhow::bail!("nothing is heard")
}

async fn run(
    peer: Peer,
    server: &RedisServer,
    name: &str,
    time: Duration,
    kills: Option<Duration>,
) -> Result<Run> {
    let channel: Arc<dyn Channel> = peer.open(&server.url(), name).await?.into();
    let mut listener = channel.listen().await?;
    ready(&*channel, &mut *listener).await.with_context(|| peer.name)?;
    let start = Instant::now();
    let done = Arc::new(AtomicBool::new(false));
    let quiet = if kills.is_some() { QUIET[0] } else { QUIET[1] };
    let heard = {
        let done = done.clone();
        tokio::spawn(async move {
            let mut run = Run::default();
            loop {
                match timeout(quiet, listener.next()).await {
                    Ok(item) => {
                        let Some((number, at)) = item?.as_deref().and_then(read) else { continue };
                        if number != AHEAD {
                            let times = run.came.entry(number).or_default();
                            *times += 1;
                            if *times == 1 {
                                run.samples.push(start.elapsed().saturating_sub(at));
                            }
                        }
                    }
                    Err(_) if done.load(Ordering::Acquire) => return anyhow::Ok(run),
                    Err(_) => {}
                }
            }
        })
    };
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (channel, next) = (channel.clone(), next.clone());
        tasks.spawn(async move {
            let mut acknowledged = Vec::new();
            let mut ticks = interval(PACE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            while start.elapsed() < time {
                if kills.is_some() {
                    ticks.tick().await;
                }
                let number = next.fetch_add(1, Ordering::Relaxed);
                let text = text(number, start.elapsed());
                loop {
                    match timeout(PATIENCE, channel.publish(number, &text)).await {
                        Ok(Ok(())) => break,
                        Ok(Err(_)) if kills.is_some() => {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        Ok(Err(error)) => return Err(error),
                        Err(_) => {}
                    }
                }
                acknowledged.push(number);
            }
            Ok(acknowledged)
        });
    }
    if let Some(every) = kills {
        let mut ticks = interval(every);
        for kind in ["pubsub", "normal"].into_iter().cycle() {
            ticks.tick().await;
            if start.elapsed() >= time {
                break;
            }
            server.command(&["CLIENT", "KILL", "TYPE", kind]).await?.ok()?;
        }
    }
    let mut acknowledged = Vec::new();
    while let Some(task) = tasks.join_next().await {
        acknowledged.extend(task??);
    }
    let took = start.elapsed();
    done.store(true, Ordering::Release);
    let run = heard.await??;
    Ok(Run { acknowledged, time: took, ..run })
}
