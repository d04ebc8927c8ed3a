//! From the call that releases a lock to the moment at which the one who waits for it has it.

use crate::{
    Plan,
    figures::{Rounds, ms, quantile},
    peers::{self, Peer, Turns},
    report::{Bound, Report, Table},
};
use anyhow::{Context as _, Result};
use coordinator_core::Config;
use fred::interfaces::{ClientLike as _, EventInterface as _, PubsubInterface as _};
use std::time::{Duration, Instant};

pub(crate) const TITLE: &str = "Hand-off to one waiter";

const FLOOR: &str = "a message by pub/sub";
const ONE: &str = "ours, one process";
const TWO: &str = "ours, two clients";

/// Name, contender, clients.
const WAYS: [(&str, Peer, usize); 5] = [
    (ONE, peers::OURS, 1),
    (TWO, peers::OURS, 2),
    (peers::BATON.name, peers::BATON, 2),
    (peers::RSLOCK.name, peers::RSLOCK, 2),
    (peers::POLL.name, peers::POLL, 2),
];

/// So many hand-offs are left out: in each client's first wait it opens what it listens on.
const WARM_UP: u32 = 4;

/// In this time the waiter surely waits; drawn at random, so that it is in step with nobody who
/// polls.
fn pause() -> Duration {
    Duration::from_micros(rand::random_range(10_000..20_000))
}

pub(crate) async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let mut floor = Floor::open(&plan.url).await?;
    let mut rows = vec![(FLOOR, vec![Rounds::default(); 2])];
    rows.extend(WAYS.map(|(name, _, _)| (name, vec![Rounds::default(); 2])));
    let mut all = vec![Vec::new(); rows.len()];
    for round in 0..plan.rounds {
        let end = || Instant::now() + plan.time;
        let mut samples = vec![floor.measure(end()).await?];
        for (name, peer, clients) in WAYS {
            let key = format!("hand-off:{name}:{round}");
            let turns = peer.open(&plan.url, &key, 2, clients).await?;
            samples.push(measure(turns, end()).await.with_context(|| name)?);
        }
        for ((samples, (_, figures)), all) in samples.iter_mut().zip(&mut rows).zip(&mut all) {
            figures[0].0.push(ms(quantile(samples, 500)));
            all.append(samples);
        }
    }
    // One round has too few for a p99, so it is that of all rounds together.
    for ((_, figures), all) in rows.iter_mut().zip(&mut all) {
        figures[1].0.push(ms(quantile(all, 990)));
    }
    let table = Table {
        title: TITLE,
        about: "Two take turns; the one who waits has waited for 10 to 20 ms. The first four \
                of a round, in which clients open what they listen on, are left out. Times in \
                ms; the p99 is that of all rounds together.",
        columns: vec![("p50", 3), ("p99", 3)],
        rows,
    };
    for name in [ONE, TWO] {
        for (column, bound) in [("p50", 1.0), ("p99", 5.0)] {
            let value = table.figure(name, column).cloned();
            report.goal(format!("hand-off {column} in ms: {name}"), value, Bound::AtMost(bound));
        }
    }
    report.add(table);
    Ok(())
}

async fn measure(mut turns: Vec<Box<dyn Turns>>, end: Instant) -> Result<Vec<Duration>> {
    let (mut waiter, mut holder) =
        (turns.pop().context("two contenders")?, turns.pop().context("two contenders")?);
    holder.acquire().await?;
    let mut samples = Vec::new();
    let mut first = WARM_UP;
    while Instant::now() < end {
        let waiting = tokio::spawn(async move {
            let got = waiter.acquire().await.map(|()| Instant::now());
            (waiter, got)
        });
        tokio::time::sleep(pause()).await;
        let released = Instant::now();
        holder.release().await?;
        let (next, got) = waiting.await?;
        let took = got?.saturating_duration_since(released);
        if first == 0 {
            samples.push(took);
        }
        first = first.saturating_sub(1);
        waiter = std::mem::replace(&mut holder, next);
    }
    holder.release().await?;
    Ok(samples)
}

/// The least that waking another client by a message can take.
struct Floor {
    publisher: peers::Client,
    listener: peers::Client,
}

impl Floor {
    async fn open(url: &str) -> Result<Self> {
        let publisher = peers::client(url, Config::COMMAND_TIMEOUT).await?;
        let listener = peers::client(url, Config::COMMAND_TIMEOUT).await?;
        listener.subscribe("floor").await?;
        let _: () = listener.ping(None).await?;
        Ok(Self { publisher, listener })
    }

    async fn measure(&mut self, end: Instant) -> Result<Vec<Duration>> {
        let mut samples = Vec::new();
        while Instant::now() < end {
            let mut messages = self.listener.message_rx();
            let heard = tokio::spawn(async move { messages.recv().await.map(|_| Instant::now()) });
            tokio::time::sleep(pause()).await;
            let sent = Instant::now();
            let _: i64 = self.publisher.publish("floor", "x").await?;
            samples.push(heard.await??.saturating_duration_since(sent));
        }
        Ok(samples)
    }
}
