//! What a check costs beside its script alone, through the same client library.

use crate::{
    Plan,
    figures::{Rounds, quantile, us},
    load, peers,
    report::{Bound, Report, Table},
    wire::{self, Call},
};
use anyhow::{Context as _, Result, ensure};
use coordinator_core::{Config, redis::Connection};
use coordinator_harness::RedisServer;
use coordinator_ratelimit::{Quota, RateLimiter};
use fred::{
    interfaces::LuaInterface as _,
    types::{Key, Value},
};
use std::time::{Duration, Instant};

pub(crate) const TITLE: &str = "A check beside its bare EVALSHA";

/// The two take turns so often.
const SLICE: Duration = Duration::from_millis(50);
const RATE: &str = "checks per second";

/// A script with its keys and arguments, ready to be sent by the bare client.
#[derive(Clone)]
pub(crate) struct Bare {
    client: peers::Client,
    hash: String,
    keys: Vec<Key>,
    args: Vec<Value>,
}

impl Bare {
    pub(crate) fn new(client: peers::Client, call: &Call) -> Result<Self> {
        let keys = wire::keys(call)?;
        let args = &call[3 + keys.len()..];
        Ok(Self {
            client,
            hash: call[1].clone(),
            keys: keys.iter().map(Key::from).collect(),
            args: args.iter().map(|arg| Value::from(arg.as_str())).collect(),
        })
    }

    /// Runs it; the first number of its answer.
    pub(crate) async fn first(&self) -> Result<u64> {
        let (hash, keys) = (self.hash.as_str(), self.keys.clone());
        let answer: Value = self.client.evalsha(hash, keys, self.args.clone()).await?;
        let Value::Array(fields) = answer else { anyhow::bail!("not an array") };
        fields.first().and_then(Value::as_u64).context("a number")
    }
}

/// How one side did in one round.
#[derive(Default)]
struct Side {
    samples: Vec<Duration>,
    /// Of each slice: the median of many is not moved by what else the machine does now and then.
    rates: Rounds,
}

pub(crate) async fn run(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let connection = Connection::connect(Config::from_url(&plan.url)?).await?;
    let limits = RateLimiter::redis(&connection).without_fast_deny();
    let quota = Quota::sliding_window(100_000_000, Duration::from_mins(1));
    for _ in 0..2 {
        limits.check("client", &quota).await?;
    }
    let call = wire::sent(server, limits.check("client", &quota)).await?;
    let bare = Bare::new(peers::client(&plan.url, Config::COMMAND_TIMEOUT).await?, &call)?;

    let names = [["bare, 1 task", "ours, 1 task"], ["bare, 64 tasks", "ours, 64 tasks"]];
    let mut rows: Vec<_> =
        names.iter().flatten().map(|name| (*name, vec![Rounds::default(); 3])).collect();
    for _ in 0..plan.rounds {
        for (pair, tasks) in rows.chunks_mut(2).zip([1, 64]) {
            let mut sides = [Side::default(), Side::default()];
            let slices = plan.time.as_millis() / SLICE.as_millis();
            for slice in 0..2 * slices {
                // Bare, ours, ours, bare, and so on: nobody always comes second.
                let ours = slice % 4 == 1 || slice % 4 == 2;
                let (samples, time) = if ours {
                    let (limits, quota) = (limits.clone(), quota.clone());
                    load::drive(tasks, SLICE, move || {
                        let (limits, quota) = (limits.clone(), quota.clone());
                        async move {
                            let asked = Instant::now();
                            let decision = limits.check("client", &quota).await?;
                            ensure!(decision.allowed, "the limit is high enough");
                            Ok(asked.elapsed())
                        }
                    })
                    .await?
                } else {
                    let bare = bare.clone();
                    load::drive(tasks, SLICE, move || {
                        let bare = bare.clone();
                        async move {
                            let asked = Instant::now();
                            ensure!(bare.first().await? == 1, "the limit is high enough");
                            Ok(asked.elapsed())
                        }
                    })
                    .await?
                };
                let side = &mut sides[usize::from(ours)];
                side.rates.0.push(load::rate(samples.len(), time));
                side.samples.extend(samples);
            }
            for ((_, figures), side) in pair.iter_mut().zip(&mut sides) {
                figures[0].0.push(side.rates.median());
                figures[1].0.push(us(quantile(&mut side.samples, 500)));
                figures[2].0.push(us(quantile(&mut side.samples, 990)));
            }
        }
    }
    let table = Table {
        title: TITLE,
        about: "One key; `check` without fast deny, and EVALSHA of the same script with the same \
                keys, arguments and timeout by fred alone, which these limits use too. They take \
                turns every 50 ms, and a round's rate is the median of these. Times in µs.",
        columns: vec![(RATE, 0), ("p50", 0), ("p99", 0)],
        rows,
    };
    for [bare, ours] in names {
        let ratio = table.figure(ours, RATE).zip(table.figure(bare, RATE));
        let ratio = ratio.map(|(ours, bare)| ours.over(bare));
        let goal = format!("checks per second over a bare EVALSHA's: {ours}");
        report.goal(goal, ratio, Bound::AtLeast(0.95));
    }
    report.add(table);
    Ok(())
}
