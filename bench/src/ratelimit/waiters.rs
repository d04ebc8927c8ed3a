//! A crowd that waits for one limit: how often the server is asked.

use crate::{
    Plan,
    figures::Rounds,
    report::{Bound, Report, Table},
    wire,
};
use anyhow::{Result, ensure};
use coordinator_core::{Config, redis::Connection};
use coordinator_harness::RedisServer;
use coordinator_ratelimit::{Quota, RateLimiter};
use std::time::{Duration, Instant};

pub(crate) const TITLE: &str = "1,000 tasks in until_ready";

const WAITERS: u32 = 1_000;
const COLUMN: &str = "calls per grant";

pub(crate) async fn run(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let rows = [
        ("ours, 100 per 200 ms", Quota::sliding_window(100, Duration::from_millis(200))),
        ("ours, 200 per 200 ms, granular", Quota::sliding_window(200, Duration::from_millis(200))),
        ("ours, GCRA, 500 per s", Quota::gcra(500, Duration::from_secs(1), 1)),
    ];
    let mut rows = rows.map(|(name, quota)| (name, quota, vec![Rounds::default(); 2]));
    for round in 0..plan.rounds {
        for (name, quota, figures) in &mut rows {
            let connection = Connection::connect(Config::from_url(&plan.url)?).await?;
            let limits = RateLimiter::redis(&connection);
            let subject = format!("waiters:{round}");
            let scripts = ["evalsha", "eval"];
            let (before, start) = (wire::ran(server, &scripts).await?, Instant::now());
            let tasks: Vec<_> = (0..WAITERS)
                .map(|_| {
                    let (limits, quota, subject) = (limits.clone(), quota.clone(), subject.clone());
                    tokio::spawn(async move {
                        limits.until_ready(&subject, &quota, Duration::from_mins(1)).await
                    })
                })
                .collect();
            for task in tasks {
                ensure!(task.await??.allowed, "{name}: a grant within a minute");
            }
            let calls = wire::ran(server, &scripts).await?.calls - before.calls;
            figures[0].0.push(calls / f64::from(WAITERS));
            figures[1].0.push(start.elapsed().as_secs_f64());
        }
    }
    let table = Table {
        title: TITLE,
        about: "All of one process, all at once, a cost of 1 each.",
        columns: vec![(COLUMN, 2), ("seconds until all had theirs", 2)],
        rows: rows.map(|(name, _, figures)| (name, figures)).into(),
    };
    for (name, _) in &table.rows {
        let value = table.figure(name, COLUMN).cloned();
        report.goal(format!("calls per grant: {name}"), value, Bound::AtMost(1.2));
    }
    report.add(table);
    Ok(())
}
