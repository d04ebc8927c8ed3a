//! What a durable publish costs: the server's time for its script, and the way to it beside that
//! script alone, through the same client library.

use super::flood;
use crate::{
    Plan,
    figures::{Rounds, quantile, us},
    load, peers,
    report::{Bound, Report, Table},
    sessions::bare::{Bare, Fresh},
    wire,
};
use anyhow::{Context as _, Result, ensure};
use coordinator_core::{Config, redis::Connection};
use coordinator_events::{Events, Published};
use coordinator_harness::RedisServer;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) const SERVER: &str = "Server time of a durable publish";
pub(crate) const CLIENT: &str = "A durable publish beside its bare EVALSHA";

const COLUMN: &str = "server time per call, µs";
const OURS: &str = "ours";
const HEARD: &str = "ours, to a process that listens";
const APPEND: &str = "XADD, in a script";
const TELL: &str = "XADD and SPUBLISH, in a script";
const SHORT: usize = 10;
const CALLS: usize = 3_000;
/// From there on old events go as new ones come.
const FULL: usize = 12_000;

/// The two take turns so often.
const SLICE: Duration = Duration::from_millis(50);
const RATE: &str = "publishes per second";
const NAMES: [[&str; 2]; 2] =
    [["bare, 1 task", "ours, 1 task"], ["bare, 64 tasks", "ours, 64 tasks"]];

/// A script of the least that a durable publish has to do.
async fn floor(server: &RedisServer, key: &str, tells: bool) -> Result<Vec<Vec<u8>>> {
    let mut source = "local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', 10000, '*', 'e', \
                      ARGV[1])\n"
        .to_owned();
    if tells {
        source += "redis.call('SPUBLISH', KEYS[1], ARGV[1])\n";
    }
    source += "return id";
    let hash = server.command(&["SCRIPT", "LOAD", &source]).await?.ok()?;
    let hash = hash.as_str().context("a hash is text")?.to_owned();
    let parts = ["EVALSHA".to_owned(), hash, "1".to_owned(), key.to_owned(), "x".repeat(329)];
    Ok(parts.into_iter().map(String::into_bytes).collect())
}

pub(crate) async fn server(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{SERVER}");
    let connection = Connection::connect(Config::from_url(&plan.url)?).await?;
    let events = Events::redis(&connection);
    let mut heard = events.subscribe("heard").open_raw().await?;
    let listener = tokio::spawn(async move { while heard.next().await.is_some() {} });
    let calls = [
        (OURS, flood::recorded(server, &events, "alone").await?),
        (HEARD, flood::recorded(server, &events, "heard").await?),
        (APPEND, floor(server, "append", false).await?),
        (TELL, floor(server, "tell", true).await?),
    ];
    let mut raw = server.connect().await?;
    for (_, call) in &calls {
        wire::repeat(&mut raw, call, FULL, wire::is_id).await?;
    }
    let mut rows: Vec<_> = calls.iter().map(|(name, _)| (*name, vec![Rounds::default()])).collect();
    for _ in 0..plan.rounds {
        let mut best = vec![f64::INFINITY; calls.len()];
        for _ in 0..SHORT {
            for ((name, call), best) in calls.iter().zip(&mut best) {
                raw.command(&["CONFIG", "RESETSTAT"]).await?.ok()?;
                wire::repeat(&mut raw, call, CALLS, wire::is_id).await.with_context(|| *name)?;
                let ran = wire::ran(server, &["evalsha"]).await?;
                // The listener looks at the stream now and then, too.
                ensure!(ran.calls >= 3_000.0, "{} calls were counted", ran.calls);
                *best = best.min(ran.us / ran.calls);
            }
        }
        for ((_, figures), best) in rows.iter_mut().zip(best) {
            figures[0].0.push(best);
        }
    }
    listener.abort();
    let table = Table {
        title: SERVER,
        about: "From `INFO commandstats`: usec per call of EVALSHA, which is the whole script and \
                all that it calls, reading and answering the request left out. Data of 256 B, \
                which are 329 B with their attributes, checksum and nonce; a stream of 10,000 \
                events, from which old ones go. One connection sends, 50 calls at once; short \
                rounds of 3,000 calls of each take turns, and a round's figure is the best of ten.",
        columns: vec![(COLUMN, 2)],
        rows,
    };
    let value = table.figure(OURS, COLUMN).cloned();
    report.goal("server time of a durable publish of 256 B, µs", value, Bound::AtMost(4.5));
    report.add(table);
    Ok(())
}

/// How one side did in one round.
#[derive(Default)]
struct Side {
    samples: Vec<Duration>,
    /// Of each slice: the median of many is not moved by what else the machine does now and then.
    rates: Rounds,
}

pub(crate) async fn client(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{CLIENT}");
    let connection = Connection::connect(Config::from_url(&plan.url)?).await?;
    let events = Events::redis(&connection);
    let data: Arc<str> = super::data().into();
    for _ in 0..2 {
        let _ = events.publish("client", "step", &data).await?;
    }
    let work = async {
        let _ = events.publish("client", "step", &data).await?;
        Ok(())
    };
    let client = peers::client(&plan.url, Config::COMMAND_TIMEOUT).await?;
    let bare = Arc::new(Bare::record(client, server, Fresh::Nothing, work).await?.1);

    let mut rows: Vec<_> =
        NAMES.iter().flatten().map(|name| (*name, vec![Rounds::default(); 3])).collect();
    for _ in 0..plan.rounds {
        for (pair, tasks) in rows.chunks_mut(2).zip([1, 64]) {
            let mut sides = [Side::default(), Side::default()];
            let slices = plan.time.as_millis() / SLICE.as_millis();
            for slice in 0..2 * slices {
                // Bare, ours, ours, bare, and so on: nobody always comes second.
                let ours = slice % 4 == 1 || slice % 4 == 2;
                let (samples, time) = if ours {
                    let (events, data) = (events.clone(), data.clone());
                    load::drive(tasks, SLICE, move || {
                        let (events, data) = (events.clone(), data.clone());
                        async move {
                            let asked = Instant::now();
                            let published = events.publish("client", "step", &data).await?;
                            ensure!(matches!(published, Published::New(_)), "it is published");
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
                            ensure!(bare.done().await?, "it is published");
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
        title: CLIENT,
        about: "Data of 256 B, one scope. The bare client sends EVALSHA of the same script with \
                the keys and arguments that the library sent, recorded with MONITOR, and the same \
                timeout: it makes no envelope. They take turns every 50 ms, and a round's rate is \
                the median of these. Times in µs.",
        columns: vec![(RATE, 0), ("p50", 0), ("p99", 0)],
        rows,
    };
    for [bare, ours] in NAMES {
        let ratio = table.figure(ours, RATE).zip(table.figure(bare, RATE));
        let ratio = ratio.map(|(ours, bare)| ours.over(bare));
        let goal = format!("publishes per second over a bare EVALSHA's: {ours}");
        report.goal(goal, ratio, Bound::AtLeast(0.95));
    }
    report.add(table);
    Ok(())
}
