//! Appending to a conversation: what its past costs.

use crate::{
    Plan,
    figures::{Rounds, quantile, us},
    report::{Bound, Report, Table},
};
use anyhow::{Context as _, Result, ensure};
use coordinator_core::{Config, redis::Connection};
use coordinator_harness::RedisServer;
use coordinator_sessions::{
    Conversation, Conversations, Message,
    conversations::{APPEND_MAX, Summarised, WINDOW},
};
use std::time::{Duration, Instant};

pub(crate) const TITLE: &str = "Appending to a conversation";

const PAST: usize = 100_000;
const P50: &str = "p50";
const SHORT: &str = "20 past messages";
const LONG: &str = "100,000 past messages";
const SUMMARISED: &str = "100,000 past messages, summarised";

pub(crate) async fn run(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    server.command(&["FLUSHALL"]).await?.ok()?;
    let connection = Connection::connect(Config::from_url(&plan.url)?).await?;
    let stage = Stage::open(&Conversations::redis(&connection)).await?;
    let mut rows = [SHORT, LONG, SUMMARISED].map(|name| (name, vec![Rounds::default(); 2]));
    for _ in 0..plan.rounds {
        let mut samples = [Vec::new(), Vec::new(), Vec::new()];
        let start = Instant::now();
        while start.elapsed() < 3 * plan.time {
            for (which, samples) in samples.iter_mut().enumerate() {
                samples.push(stage.sample(which).await?);
            }
        }
        for ((_, figures), samples) in rows.iter_mut().zip(&mut samples) {
            figures[0].0.push(us(quantile(samples, 500)));
            figures[1].0.push(us(quantile(samples, 990)));
        }
    }
    let table = Table {
        title: TITLE,
        about: "One message of 200 B in one call, a window of 20: one message leaves it each \
                time. Past messages were appended before and have left, too; where none of them \
                is summarised, the last 100 are pending. The three take turns call by call, each \
                behind calls that are not measured and bring its conversation where it was. \
                Times in µs.",
        columns: vec![(P50, 1), ("p99", 0)],
        rows: rows.into(),
    };
    for long in [LONG, SUMMARISED] {
        let ratio = table.figure(long, P50).zip(table.figure(SHORT, P50));
        let ratio = ratio.map(|(long, short)| long.over(short));
        let goal = format!("append p50 over that at 20 past messages: {long}");
        report.goal(goal, ratio, Bound::AtMost(1.1));
    }
    report.add(table);
    Ok(())
}

struct Stage {
    short: Conversation,
    /// Filled before each measured append.
    other: Conversation,
    long: Conversation,
    summarised: Conversation,
    window: Vec<Message>,
}

impl Stage {
    async fn open(talks: &Conversations) -> Result<Self> {
        let many: Vec<_> = (0..APPEND_MAX).map(message).collect();
        let stage = Self {
            short: talks.open_named("short")?,
            other: talks.open_named("other")?,
            long: talks.open_named("long")?,
            summarised: talks.open_named("summarised")?,
            window: many.iter().take(WINDOW).cloned().collect(),
        };
        for long in [&stage.long, &stage.summarised] {
            for _ in 0..PAST.div_ceil(APPEND_MAX) {
                long.append(&many, None).await?.done().context("it is not paused")?;
            }
            let stats = long.stats().await?.context("it is there")?;
            ensure!(usize::try_from(stats.messages)? == PAST, "{} messages", stats.messages);
        }
        Ok(stage)
    }

    /// Brings a conversation where it was, and measures one append. What the server does just
    /// before is the same for all.
    async fn sample(&self, which: usize) -> Result<Duration> {
        let talk = match which {
            0 => {
                self.fill(&self.short).await?;
                &self.short
            }
            1 => &self.long,
            _ => {
                let pending = self.summarised.pending().await?;
                let span = pending.context("it is there")?.span;
                ensure!(span.up_to > span.after, "something has left");
                let stored = self.summarised.set_summary("They talked.", span).await?;
                ensure!(stored == Summarised::Stored, "nobody else summarises");
                &self.summarised
            }
        };
        self.fill(&self.other).await?;
        append(talk).await
    }

    /// Makes it one with a full window and nothing before.
    async fn fill(&self, talk: &Conversation) -> Result<()> {
        talk.delete().await?;
        talk.append(&self.window, None).await?.done().context("it is not paused")?;
        Ok(())
    }
}

async fn append(talk: &Conversation) -> Result<Duration> {
    let said = [message(7)];
    let asked = Instant::now();
    let appended = talk.append(&said, None).await?;
    let took = asked.elapsed();
    let appended = appended.done().context("it is not paused")?;
    ensure!(appended.evicted.len() == 1, "one left the window");
    Ok(took)
}

fn message(number: usize) -> Message {
    let text: String = "lorem ipsum ".chars().cycle().skip(number % 12).take(200).collect();
    if number.is_multiple_of(2) { Message::user(text) } else { Message::assistant(text) }
}
