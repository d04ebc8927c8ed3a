//! Ten thousand readers that come again at once, as browsers do after an outage: what that asks of
//! the server.

use crate::{
    Plan,
    figures::{Rounds, ms},
    report::{Bound, Report, Table},
    wire,
};
use anyhow::{Result, bail, ensure};
use coordinator_core::{Config, redis::Connection};
use coordinator_events::{Cursor, Events, Position, RawItem};
use coordinator_harness::RedisServer;
use rand::RngExt as _;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

pub(crate) const TITLE: &str = "10,000 readers of 50 scopes come again at once";

const READERS: usize = 10_000;
const SCOPES: usize = 50;
/// How many events a scope has, and how many of them a reader lacks at most.
const EVENTS: usize = 200;
const BEHIND: usize = 100;
const COMMANDS: &str = "commands per scope";
const SAME: &str = "to the same process";
const ANEW: &str = "to a process just started";
/// What clients send; what runs inside a script is no round trip, and probes are not counted.
const SENT: [&str; 7] =
    ["evalsha", "eval", "script|load", "ssubscribe", "sunsubscribe", "subscribe", "unsubscribe"];
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) async fn run(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    server.command(&["FLUSHALL"]).await?.ok()?;
    let same = open(plan).await?;
    // Somebody stays, so that the process goes on listening.
    let mut kept = Vec::new();
    for scope in 0..SCOPES {
        kept.push(same.subscribe(&format!("s{scope}")).open_raw().await?);
    }
    let data = super::data();
    let mut cursors = Vec::new();
    for scope in 0..SCOPES {
        let mut of = Vec::new();
        for _ in 0..EVENTS {
            let published = same.publish(&format!("s{scope}"), "step", &data).await?;
            of.extend(published.cursor());
        }
        cursors.push(of);
    }
    // Whoever stays has all of it.
    for (kept, cursors) in kept.iter_mut().zip(&cursors) {
        let wanted = cursors.last().copied();
        while Some(kept.cursor()) != wanted {
            ensure!(kept.next().await.is_some(), "it stays");
        }
    }
    let mut rows = [SAME, ANEW].map(|name| (name, vec![Rounds::default(); 3]));
    for _ in 0..plan.rounds {
        let figures = storm(server, &same, &cursors).await?;
        push(&mut rows[0].1, figures);
        let anew = open(plan).await?;
        let figures = storm(server, &anew, &cursors).await?;
        push(&mut rows[1].1, figures);
    }
    let table = Table {
        title: TITLE,
        about: "200 readers of each scope, each behind by 1 to 100 of its 200 events, open their \
                subscriptions at once and read to the end. To a process where somebody listens to \
                each scope already, and to one that has just connected. Commands are those that \
                clients send, as the server counts them.",
        columns: vec![(COMMANDS, 2), ("commands", 0), ("until all have all, ms", 0)],
        rows: rows.into(),
    };
    for row in [SAME, ANEW] {
        let value = table.figure(row, COMMANDS).cloned();
        report.goal(format!("commands per scope of a storm, {row}"), value, Bound::AtMost(10.0));
    }
    report.add(table);
    drop(kept);
    server.command(&["FLUSHALL"]).await?.ok()?;
    Ok(())
}

fn push(row: &mut [Rounds], figures: [f64; 3]) {
    for (figure, value) in row.iter_mut().zip(figures) {
        figure.0.push(value);
    }
}

async fn open(plan: &Plan) -> Result<Events> {
    let connection = Connection::connect(Config::from_url(&plan.url)?).await?;
    Ok(Events::redis(&connection))
}

async fn storm(server: &RedisServer, events: &Events, cursors: &[Vec<Cursor>]) -> Result<[f64; 3]> {
    let before = wire::ran(server, &SENT).await?.calls;
    let start = Instant::now();
    let mut readers = JoinSet::new();
    for number in 0..READERS {
        let scope = number % SCOPES;
        let behind = rand::rng().random_range(1..=BEHIND);
        let (at, last) = (cursors[scope][EVENTS - 1 - behind], cursors[scope][EVENTS - 1]);
        let subscribe = events.subscribe(&format!("s{scope}")).from(Position::After(at));
        readers.spawn(async move {
            let mut reader = subscribe.open_raw().await?;
            let mut count = 0;
            while reader.cursor() != last {
                match tokio::time::timeout(PATIENCE, reader.next()).await? {
                    Some(RawItem::Event(_)) => count += 1,
                    other => bail!("{other:?}"),
                }
            }
            ensure!(count == behind, "{count} events instead of {behind}");
            Ok(reader)
        });
    }
    let mut all = Vec::new();
    while let Some(reader) = readers.join_next().await {
        all.push(reader??);
    }
    let time = start.elapsed();
    let commands = wire::ran(server, &SENT).await?.calls - before;
    #[expect(clippy::cast_precision_loss, reason = "fifty")]
    let scopes = SCOPES as f64;
    Ok([commands / scopes, commands, ms(time)])
}
