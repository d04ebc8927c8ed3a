//! Denials that this process repeats by itself.

use crate::{
    Plan,
    figures::Rounds,
    report::{Bound, Report, Table},
};
use anyhow::{Result, ensure};
use coordinator_core::{Config, redis::Connection};
use coordinator_harness::RedisServer;
use coordinator_ratelimit::{Quota, RateLimiter, Source};
use std::time::{Duration, Instant};

pub(crate) const TITLE: &str = "Fast deny";

/// Checks in a row; a denial is believed for a second, and this takes far less.
const CHECKS: u32 = 100_000;
const SHORT: usize = 4;
const SUBJECT: &str = "user:42";
const COLUMN: &str = "ns per check";

pub(crate) async fn run(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let connection = Connection::connect(Config::from_url(&plan.url)?).await?;
    let limits = RateLimiter::redis(&connection);
    let quota = Quota::sliding_window(1, Duration::from_hours(1));
    limits.check(SUBJECT, &quota).await?;
    let mut figures = Rounds::default();
    for _ in 0..plan.rounds {
        let mut best = f64::INFINITY;
        for _ in 0..SHORT {
            best = best.min(burst(&limits, &quota, server).await?.unwrap_or(f64::INFINITY));
        }
        ensure!(best.is_finite(), "a busy machine: no burst was over within a second");
        figures.0.push(best);
    }
    report.goal("ns per fast denial", Some(figures.clone()), Bound::AtMost(200.0));
    report.add(Table {
        title: TITLE,
        about: "`check` of a subject that is known to be denied, 100,000 in a row, the best of \
                four; every answer says that it is a fast one, and the server counts no call \
                but the one before.",
        columns: vec![(COLUMN, 0)],
        rows: vec![("ours", vec![figures])],
    });
    Ok(())
}

/// What one check took in a row of them; nothing where the denial became too old meanwhile.
async fn burst(limits: &RateLimiter, quota: &Quota, server: &RedisServer) -> Result<Option<f64>> {
    // Asked anew once what is known is too old.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = calls(server).await;
    let asked = limits.check(SUBJECT, quota).await?;
    ensure!(asked.source == Source::Redis && !asked.allowed, "{:?} answered", asked.source);
    let start = Instant::now();
    for _ in 0..CHECKS {
        let decision = limits.check(SUBJECT, quota).await?;
        ensure!(!decision.allowed, "it is full");
        if decision.source != Source::FastDeny {
            return Ok(None);
        }
    }
    let took = start.elapsed();
    let asked = calls(server).await - before;
    ensure!(asked == 1, "the server was asked {asked} times");
    Ok(Some(took.as_secs_f64() * 1e9 / f64::from(CHECKS)))
}

async fn calls(server: &RedisServer) -> u64 {
    server.calls_of("evalsha").await + server.calls_of("eval").await
}
