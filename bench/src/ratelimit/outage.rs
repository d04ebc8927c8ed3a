//! A server that does not answer: how long a check takes whose failure policy decides.

use crate::{
    Plan,
    figures::{Rounds, ms, quantile},
    load,
    report::{Bound, Report, Table},
};
use anyhow::{Context as _, Result, ensure};
use coordinator_core::{Config, redis::Connection};
use coordinator_harness::RedisServer;
use coordinator_ratelimit::{FailurePolicy, Quota, RateLimiter, Source};
use std::time::{Duration, Instant};

pub(crate) const TITLE: &str = "Failure policy while the server is paused";

const BUDGET: Duration = Duration::from_millis(50);
/// So many fail before a limiter's breaker opens.
const FAILURES: usize = 3;
const LIMITERS: usize = 40;
const TASKS: usize = 16;
const WAITING: &str = "waiting for an answer";
const OPEN: &str = "with the breaker open";

pub(crate) async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let server = RedisServer::start().await?;
    let quota = Quota::sliding_window(1_000_000, Duration::from_mins(1))
        .with_failure_policy(FailurePolicy::Closed)
        .with_budget(BUDGET);
    let mut rows = [WAITING, OPEN].map(|name| (name, vec![Rounds::default(); 3]));
    for _ in 0..plan.rounds {
        // A connection of its own: what the last outage taught the other one is forgotten.
        let connection = Connection::connect(Config::from_url(&server.url())?).await?;
        let limits = RateLimiter::redis(&connection);
        let decision = limits.check("outage", &quota).await?;
        ensure!(decision.source == Source::Redis, "all is well at first");
        server.pause()?;
        let waiting = waiting(&limits, &quota).await;
        let open = match &waiting {
            Ok(_) => open(plan, &limits, &quota).await,
            Err(_) => Ok(Vec::new()),
        };
        server.resume()?;
        for ((_, figures), mut samples) in rows.iter_mut().zip([waiting?, open?]) {
            figures[0].0.push(ms(quantile(&mut samples, 500)));
            figures[1].0.push(ms(quantile(&mut samples, 990)));
            figures[2].0.push(ms(samples.last().copied().context("some checks")?));
        }
    }
    let table = Table {
        title: TITLE,
        about: "`FailurePolicy::Closed` with a budget of 50 ms; the server is stopped with \
                SIGSTOP. First 40 limiters whose breakers are closed ask three times each, all \
                at once, then 16 tasks of one limiter ask every millisecond. Times in ms.",
        columns: vec![("p50", 3), ("p99", 3), ("longest", 3)],
        rows: rows.into(),
    };
    for name in [WAITING, OPEN] {
        let value = table.figure(name, "p99").cloned();
        let goal = format!("p99 in ms at a budget of 50, {name}");
        report.goal(goal, value, Bound::AtMost(ms(BUDGET) + 5.0));
    }
    report.add(table);
    Ok(())
}

/// Each call waits for its whole budget.
async fn waiting(limits: &RateLimiter, quota: &Quota) -> Result<Vec<Duration>> {
    let tasks: Vec<_> = (0..LIMITERS)
        .map(|_| {
            let (limits, quota) = (limits.without_fast_deny(), quota.clone());
            tokio::spawn(async move {
                let mut samples = Vec::new();
                for _ in 0..FAILURES {
                    let asked = Instant::now();
                    fallen_back(&limits, &quota).await?;
                    samples.push(asked.elapsed());
                }
                anyhow::Ok(samples)
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    Ok(all)
}

/// Nearly all are answered at once; now and then one looks whether the server is back.
async fn open(plan: &Plan, limits: &RateLimiter, quota: &Quota) -> Result<Vec<Duration>> {
    for _ in 0..FAILURES {
        fallen_back(limits, quota).await?;
    }
    let (limits, quota) = (limits.clone(), quota.clone());
    let run = load::drive(TASKS, plan.time, move || {
        let (limits, quota) = (limits.clone(), quota.clone());
        async move {
            let asked = Instant::now();
            fallen_back(&limits, &quota).await?;
            let took = asked.elapsed();
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(took)
        }
    });
    Ok(run.await?.0)
}

async fn fallen_back(limits: &RateLimiter, quota: &Quota) -> Result<()> {
    let decision = limits.check("outage", quota).await?;
    ensure!(decision.source == Source::Fallback && !decision.allowed, "nobody can answer");
    Ok(())
}
