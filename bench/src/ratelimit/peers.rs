//! Limiters of others beside ours, on a hot key: how fast, how large, how right.

use super::{
    client::Bare,
    over::{self, Admission},
};
use crate::{
    Plan,
    figures::{Rounds, quantile, us},
    load, peers as locks,
    report::{Bound, Report, Table},
    wire,
};
use anyhow::{Context as _, Result, ensure};
use coordinator_core::{Config, redis::Connection};
use coordinator_harness::RedisServer;
use coordinator_ratelimit::{Precision, Quota, RateLimiter};
use futures::future::BoxFuture;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use trypema::{
    RateLimit, RateLimitDecision, RateLimiterBuilder as _, WindowSize,
    redis::{RedisKey, RedisRateLimiterProvider},
};

pub(crate) const TITLE: &str = "Limiters side by side, 16 tasks on one key";

const TASKS: usize = 16;
const SLICE: Duration = Duration::from_millis(100);
const RATE: &str = "admissions per second";
const OVER: &str = "over-admitted";
const OURS: &str = "ours";
const EXACT: &str = "ours, exact";
const TRYPEMA: &str = "trypema 2.2";
const CHECK_FIRST: &str = include_str!("check_first.lua");
const THEN_COUNT: &str = include_str!("then_count.lua");
/// High enough to admit everything.
const HIGH: (u64, Duration) = (10_000_000, Duration::from_mins(1));
/// Low enough to deny most.
const LOW: (u64, Duration) = (1_000, Duration::from_secs(1));
/// Who is denied asks again after that.
const PAUSE: Duration = Duration::from_millis(1);

/// Its 0.12 to 0.14 refer to what only their disk storage has, and that needs RocksDB and libclang.
const UNBUILT: &str = "limitador 0.14: does not compile with its Redis storage alone";

const PEERS: [(&str, Way); 7] = [
    (OURS, Way::Ours(Precision::Auto)),
    (EXACT, Way::Ours(Precision::Exact)),
    ("ours, GCRA", Way::OursGcra),
    (TRYPEMA, Way::Trypema),
    ("limitador's two steps, bare", Way::TwoSteps),
    ("GCRA script", Way::Gcra),
    ("naive zset", Way::Naive),
];

#[derive(Debug, Clone, Copy)]
enum Way {
    Ours(Precision),
    OursGcra,
    Trypema,
    /// As the crate limitador does it.
    TwoSteps,
    Gcra,
    Naive,
}

/// One limit of one limiter.
trait Limit: Send + Sync {
    fn admits(&self) -> BoxFuture<'_, Result<bool>>;
}

struct Ours(RateLimiter, String, Quota);

impl Limit for Ours {
    fn admits(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async { Ok(self.0.check(&self.1, &self.2).await?.allowed) })
    }
}

struct Trypema(Arc<RedisRateLimiterProvider>, RedisKey, RateLimit);

impl Limit for Trypema {
    fn admits(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async {
            let decision = self.0.absolute().inc(&self.1, &self.2, 1).await?;
            Ok(matches!(decision, RateLimitDecision::Allowed))
        })
    }
}

struct TwoSteps {
    check: Bare,
    count: Bare,
    limit: u64,
}

impl Limit for TwoSteps {
    fn admits(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async {
            let fits = self.check.first().await? < self.limit;
            if fits {
                self.count.first().await?;
            }
            Ok(fits)
        })
    }
}

impl Limit for Bare {
    fn admits(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async { Ok(self.first().await? == 1) })
    }
}

impl Way {
    async fn open(
        self,
        plan: &Plan,
        server: &RedisServer,
        key: &str,
        (limit, window): (u64, Duration),
    ) -> Result<Arc<dyn Limit>> {
        let (seconds, us) = (window.as_secs(), u64::try_from(window.as_micros())?);
        let bare = async |source: &str, keys: &[&str], args: &[u64]| {
            let call = wire::script(server, source, keys, args).await?;
            Bare::new(locks::client(&plan.url, Config::COMMAND_TIMEOUT).await?, &call)
        };
        Ok(match self {
            Self::Ours(_) | Self::OursGcra => {
                let connection = Connection::connect(Config::from_url(&plan.url)?).await?;
                let quota = match self {
                    Self::Ours(precision) => {
                        Quota::sliding_window(limit, window).with_precision(precision)
                    }
                    _ => Quota::gcra(limit, window, limit),
                };
                Arc::new(Ours(RateLimiter::redis(&connection), key.to_owned(), quota))
            }
            Self::Trypema => {
                let manager =
                    redis::Client::open(plan.url.as_str())?.get_connection_manager().await?;
                let provider = RedisRateLimiterProvider::builder(manager)
                    .window_size(WindowSize::seconds(seconds)?)
                    .build()?;
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                let rate = RateLimit::per_second(limit as f64 / seconds as f64)?;
                Arc::new(Trypema(provider, RedisKey::try_from(key.replace(':', "-"))?, rate))
            }
            Self::TwoSteps => {
                let check = bare(CHECK_FIRST, &[key], &[]).await?;
                let count = bare(THEN_COUNT, &[key, "counters"], &[seconds]).await?;
                Arc::new(TwoSteps { check, count, limit })
            }
            Self::Gcra => Arc::new(bare(super::GCRA, &[key], &[limit, us / limit]).await?),
            Self::Naive => Arc::new(bare(super::NAIVE, &[key], &[limit, us]).await?),
        })
    }
}

pub(crate) async fn run(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let mut rows = PEERS.map(|(name, _)| (name, vec![Rounds::default(); 6]));
    let mut high = Vec::new();
    for (name, way) in PEERS {
        high.push(way.open(plan, server, &format!("high:{name}"), HIGH).await?);
    }
    for round in 0..plan.rounds {
        let speeds = speeds(plan, server, &high).await?;
        for (((name, way), (_, figures)), speed) in PEERS.into_iter().zip(&mut rows).zip(speeds) {
            server.command(&["FLUSHALL"]).await?.ok()?;
            let limit = way.open(plan, server, &format!("low:{name}"), LOW).await?;
            let waves = waves(&limit, &phases(plan.time * 2, round)).await;
            let right = rightness(server, waves.with_context(|| name)?).await?;
            for (figure, value) in figures.iter_mut().zip(speed.into_iter().chain(right)) {
                figure.0.push(value);
            }
        }
    }
    let mut rows = Vec::from(rows);
    rows.push((UNBUILT, vec![Rounds::default(); 6]));
    let table = Table {
        title: TITLE,
        about: "First a limit of 10,000,000 per minute, which admits all: rate, and times in µs; \
                they take turns every 100 ms. Then 1,000 per second under a load that comes and \
                goes: floods, trickles and quiet, the same for all; who is denied asks again \
                after 1 ms. Over-admitted are the units that had to be refused for no second, \
                wherever it begins, to hold more than 1,000; each surely was one too many. Bytes \
                are of all keys then, but for the records of violations, which ours keep for many \
                subjects together.",
        columns: vec![
            (RATE, 0),
            ("p50", 0),
            ("p99", 0),
            ("bytes", 0),
            (OVER, 0),
            ("of so many", 0),
        ],
        rows,
    };
    let speed = table.figure(OURS, RATE).zip(table.figure(TRYPEMA, RATE));
    let speed = speed.map(|(ours, trypema)| ours.over(trypema));
    report.goal("admissions per second over trypema's", speed, Bound::AtLeast(1.0));
    for ours in [OURS, EXACT] {
        let over = table.figure(ours, OVER).cloned();
        report.goal(format!("over-admitted units: {ours}"), over, Bound::AtMost(0.0));
    }
    report.add(table);
    Ok(())
}

/// Rate, p50 and p99 of each.
async fn speeds(
    plan: &Plan,
    server: &RedisServer,
    limits: &[Arc<dyn Limit>],
) -> Result<Vec<[f64; 3]>> {
    server.command(&["FLUSHALL"]).await?.ok()?;
    let mut sides = vec![(Vec::new(), Duration::ZERO); limits.len()];
    for _ in 0..plan.time.as_millis() / SLICE.as_millis() {
        for (limit, (samples, time)) in limits.iter().zip(&mut sides) {
            let limit = limit.clone();
            let (more, took) = load::drive(TASKS, SLICE, move || {
                let limit = limit.clone();
                async move {
                    let asked = Instant::now();
                    ensure!(limit.admits().await?, "the limit is high enough");
                    Ok(asked.elapsed())
                }
            })
            .await?;
            samples.extend(more);
            *time += took;
        }
    }
    let figures = sides.iter_mut().map(|(samples, time)| {
        let rate = load::rate(samples.len(), *time);
        [rate, us(quantile(samples, 500)), us(quantile(samples, 990))]
    });
    Ok(figures.collect())
}

/// Bytes, over-admitted units, and admitted ones.
async fn rightness(server: &RedisServer, admissions: Vec<Admission>) -> Result<[f64; 3]> {
    let records = [":violations", ":top", ":latest"];
    let keys = wire::bytes(server).await?;
    let keys = keys.iter().filter(|(key, _)| !records.iter().any(|end| key.ends_with(end)));
    let bytes: i64 = keys.map(|(_, bytes)| bytes).sum();
    let count = admissions.len();
    let over = over::admitted(admissions, usize::try_from(LOW.0)?, LOW.1);
    let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    Ok([f64::from(u32::try_from(bytes)?), number(over), number(count)])
}

/// How long each phase lasts, and how long a task pauses after an admission; none in a flood, and
/// nobody calls while it is quiet.
type Phase = (Duration, Option<Duration>);

/// Drawn by the round, so that all meet the same; it ends with a flood.
fn phases(time: Duration, round: usize) -> Vec<Phase> {
    let mut random = StdRng::seed_from_u64(round as u64);
    let (mut phases, mut all) = (Vec::new(), Duration::ZERO);
    while all < time {
        let length = Duration::from_millis(random.random_range(100..600));
        phases.push(match random.random_range(0..3) {
            0 => (length, Some(Duration::ZERO)),
            1 => (length, Some(Duration::from_millis(50))),
            _ => (length, None),
        });
        all += length;
    }
    phases.push((Duration::from_millis(300), Some(Duration::ZERO)));
    phases
}

/// What is admitted in these phases.
async fn waves(limit: &Arc<dyn Limit>, phases: &[Phase]) -> Result<Vec<Admission>> {
    let (mut all, start) = (Vec::new(), Instant::now());
    for (length, pause) in phases {
        let Some(pause) = *pause else {
            tokio::time::sleep(*length).await;
            continue;
        };
        let limit = limit.clone();
        let (admissions, _) = load::drive(TASKS, *length, move || {
            let limit = limit.clone();
            async move {
                let sent = start.elapsed();
                let admitted = limit.admits().await?;
                let received = start.elapsed();
                let pause = if admitted { pause } else { pause.max(PAUSE) };
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                Ok(admitted.then_some(Admission { sent, received }))
            }
        })
        .await?;
        all.extend(admissions.into_iter().flatten());
    }
    Ok(all)
}
