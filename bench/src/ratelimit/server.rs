//! What a call costs the server, by its own clock: `usec_per_call` of INFO commandstats.

use crate::{
    Plan,
    figures::Rounds,
    report::{Bound, Report, Table},
    wire::{self, Call},
};
use anyhow::{Context as _, Result, ensure};
use coordinator_core::{Config, redis::Connection};
use coordinator_harness::RedisServer;
use coordinator_ratelimit::{Charge, Precision, Quota, RateLimiter};
use std::time::Duration;

pub(crate) const TITLE: &str = "Server time per call";

/// Short rounds of all variants take turns; the best of so many counts.
const SHORT: usize = 10;
/// Calls in a short round.
const CALLS: usize = 3_000;
/// Calls before a short round, where a flow is to be steady.
const WARM_UP: usize = 3_000;
const LIMIT: u64 = 1_000_000;
const MINUTE: Duration = Duration::from_mins(1);
/// So short that a short round fills it.
const BRIEF: Duration = Duration::from_millis(60);
/// What is full stays full.
const HOUR: Duration = Duration::from_hours(1);
/// A limit that is full.
const FULL: u64 = 1_000;
const COLUMN: &str = "µs per call";

const NAIVE: &str = "naive zset, admits";
const OURS: &str = "ours, admits";
const EXACT: &str = "ours, exact, admits";
const NAIVE_STEADY: &str = "naive zset, steady flow";
const OURS_STEADY: &str = "ours, steady flow";
const EXACT_STEADY: &str = "ours, exact, steady flow";
const GCRA: &str = "GCRA script, admits";
const OURS_GCRA: &str = "ours, GCRA, admits";
const THREE: &str = "ours, three limits at once, admits";
const NAIVE_FULL: &str = "naive zset, denies";
const OURS_FULL: &str = "ours, denies";
const QUIET_FULL: &str = "ours, denies, unrecorded";
const GCRA_FULL: &str = "GCRA script, denies";
const OURS_GCRA_FULL: &str = "ours, GCRA, denies";
const THREE_FULL: &str = "ours, three limits at once, denies";

struct Variant {
    name: &'static str,
    call: Call,
    admits: bool,
    /// Calls before it is measured.
    warm_up: usize,
}

pub(crate) async fn run(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let variants = variants(plan, server).await?;
    let mut raw = server.connect().await?;
    let mut rows: Vec<_> =
        variants.iter().map(|variant| (variant.name, vec![Rounds::default()])).collect();
    for _ in 0..plan.rounds {
        let mut best = vec![f64::INFINITY; variants.len()];
        for _ in 0..SHORT {
            for (variant, best) in variants.iter().zip(&mut best) {
                let us = measure(server, &mut raw, variant).await;
                *best = best.min(us.with_context(|| variant.name)?);
            }
        }
        for ((_, figures), best) in rows.iter_mut().zip(best) {
            figures[0].0.push(best);
        }
    }
    let table = Table {
        title: TITLE,
        about: "From `INFO commandstats`; short rounds of 3,000 calls of each take turns, and a \
                round's figure is the best of ten. A limit of 1,000,000 per minute where it \
                admits, of 1,000 that is full where it denies. In a steady flow the window is \
                60 ms, all of it is in use, and entries leave. The naive zset knows costs of 1 \
                only, and not when there is room.",
        columns: vec![(COLUMN, 1)],
        rows,
    };
    goals(&table, report);
    report.add(table);
    Ok(())
}

fn goals(table: &Table, report: &mut Report) {
    let goals = [
        ("admits, ours over the naive zset", OURS, NAIVE, 1.6),
        ("admits, ours exact over the naive zset", EXACT, NAIVE, 1.6),
        ("admits in a steady flow, ours over the naive zset", OURS_STEADY, NAIVE_STEADY, 1.6),
        (
            "admits in a steady flow, ours exact over the naive zset",
            EXACT_STEADY,
            NAIVE_STEADY,
            1.6,
        ),
        ("denies, ours over the naive zset", OURS_FULL, NAIVE_FULL, 1.4),
        ("denies unrecorded, ours over the naive zset", QUIET_FULL, NAIVE_FULL, 1.4),
        ("admits, three limits at once over one", THREE, OURS, 3.0),
    ];
    for (what, ours, base, most) in goals {
        let ratio = table.figure(ours, COLUMN).zip(table.figure(base, COLUMN));
        let ratio = ratio.map(|(ours, base)| ours.over(base));
        report.goal(format!("server time: {what}"), ratio, Bound::AtMost(most));
    }
}

async fn measure(
    server: &RedisServer,
    raw: &mut coordinator_harness::Connection,
    variant: &Variant,
) -> Result<f64> {
    let first = i64::from(variant.admits);
    if variant.admits {
        let mut delete = vec!["DEL".to_owned()];
        delete.extend_from_slice(wire::keys(&variant.call)?);
        raw.command(&delete).await?.ok()?;
    }
    wire::repeat(raw, &variant.call, variant.warm_up, wire::leads(first)).await?;
    raw.command(&["CONFIG", "RESETSTAT"]).await?.ok()?;
    wire::repeat(raw, &variant.call, CALLS, wire::leads(first)).await?;
    let ran = wire::ran(server, &["evalsha"]).await?;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let expected = CALLS as f64;
    ensure!((ran.calls - expected).abs() < 0.5, "{} calls were counted", ran.calls);
    Ok(ran.us / ran.calls)
}

/// Each as the library sends it once epochs are known.
async fn variants(plan: &Plan, server: &RedisServer) -> Result<Vec<Variant>> {
    let connection = Connection::connect(Config::from_url(&plan.url)?).await?;
    let limits = RateLimiter::redis(&connection).without_fast_deny();
    let admits = Quota::sliding_window(LIMIT, MINUTE);
    let steady = Quota::sliding_window(LIMIT, BRIEF);
    let full = Quota::sliding_window(FULL, HOUR);
    let tenth = HOUR / 10;
    let mut all = Vec::new();
    for (name, window, warm_up) in [(NAIVE, MINUTE, 0), (NAIVE_STEADY, BRIEF, WARM_UP)] {
        let call = wire::script(server, super::NAIVE, &[name], &[LIMIT, us(window)]).await?;
        all.push(Variant { name, call, admits: true, warm_up });
    }
    let unit = us(MINUTE) / LIMIT;
    let call = wire::script(server, super::GCRA, &[GCRA], &[LIMIT, unit]).await?;
    all.push(Variant { name: GCRA, call, admits: true, warm_up: 0 });
    let naive = wire::script(server, super::NAIVE, &[NAIVE_FULL], &[FULL, us(HOUR)]).await?;
    let gcra = wire::script(server, super::GCRA, &[GCRA_FULL], &[FULL, us(tenth)]).await?;
    let mut raw = server.connect().await?;
    for (name, call) in [(NAIVE_FULL, naive), (GCRA_FULL, gcra)] {
        wire::repeat(&mut raw, &call, usize::try_from(FULL)?, wire::leads(1)).await?;
        all.push(Variant { name, call, admits: false, warm_up: 0 });
    }

    let quotas = [
        (OURS, admits.clone(), 0),
        (EXACT, admits.clone().with_precision(Precision::Exact), 0),
        (OURS_STEADY, steady.clone(), WARM_UP),
        (EXACT_STEADY, steady.with_precision(Precision::Exact), WARM_UP),
        (OURS_GCRA, Quota::gcra(LIMIT, MINUTE, LIMIT), 0),
        (OURS_FULL, full.clone(), 0),
        (QUIET_FULL, full.clone().with_violations(false), 0),
        (OURS_GCRA_FULL, Quota::gcra(1, tenth, FULL), 0),
    ];
    for (name, quota, warm_up) in quotas {
        let admits = quota.limit() == LIMIT;
        if !admits {
            limits.increment(name, &quota, FULL).await?;
        }
        for _ in 0..2 {
            limits.check(name, &quota).await?;
        }
        let call = wire::sent(server, limits.check(name, &quota)).await?;
        all.push(Variant { name, call, admits, warm_up });
    }

    for (name, third) in [(THREE, &admits), (THREE_FULL, &full)] {
        let tenant = limits.tenant(name)?;
        let quotas = [("user", &admits), ("company", &admits), ("endpoint", third)];
        let charges = quotas.map(|(subject, quota)| Charge::new(subject, quota));
        let admits = third.limit() == LIMIT;
        if !admits {
            tenant.increment("endpoint", third, FULL).await?;
        }
        for _ in 0..2 {
            tenant.check_all(&charges).await?;
        }
        let call = wire::sent(server, tenant.check_all(&charges)).await?;
        all.push(Variant { name, call, admits, warm_up: 0 });
    }
    Ok(all)
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
