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
const SHORT: usize = 10;
const COLUMN: &str = "ns per check";

pub(crate) async fn run(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let connection = Connection::connect(Config::from_url(&plan.url)?).await?;
    let limits = RateLimiter::redis(&connection);
    let quota = Quota::sliding_window(1, Duration::from_hours(1));
    limits.check("user:42", &quota).await?;
    let mut figures = Rounds::default();
    for _ in 0..plan.rounds {
        let mut best = f64::INFINITY;
        for _ in 0..SHORT {
            // Asked anew once what is known is too old.
            tokio::time::sleep(Duration::from_millis(1_000)).await;
            limits.check("user:42", &quota).await?;
            let before = calls(server).await;
            let start = Instant::now();
            for _ in 0..CHECKS {
                let decision = limits.check("user:42", &quota).await?;
                ensure!(decision.source == Source::FastDeny, "{:?} answered", decision.source);
            }
            let took = start.elapsed();
            ensure!(calls(server).await == before, "the server was asked");
            best = best.min(took.as_secs_f64() * 1e9 / f64::from(CHECKS));
        }
        figures.0.push(best);
    }
    report.goal("ns per fast denial", Some(figures.clone()), Bound::AtMost(200.0));
    report.add(Table {
        title: TITLE,
        about: "`check` of a subject that is known to be denied, 100,000 in a row, the best of \
                ten; every answer says that it is a fast one, and the server counts no call.",
        columns: vec![(COLUMN, 0)],
        rows: vec![("ours", vec![figures])],
    });
    Ok(())
}

async fn calls(server: &RedisServer) -> u64 {
    server.calls_of("evalsha").await + server.calls_of("eval").await
}
