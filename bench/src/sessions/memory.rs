//! How much memory a session takes with its indexes.

use super::people::{self, PAYLOAD};
use crate::{
    figures::Rounds,
    report::{Bound, Report, Table},
};
use anyhow::{Context as _, Result, ensure};
use coordinator_core::{Config, redis::Connection};
use coordinator_harness::RedisServer;
use coordinator_sessions::{Filter, Sessions};

pub(crate) const TITLE: &str = "Memory of a session";

const SESSIONS: usize = 50_000;
const BYTES: &str = "bytes per session";
const OURS: &str = "ours, with three indexes";

/// A server of its own: nobody else's keys are counted.
pub(crate) async fn run(report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let server = RedisServer::start().await?;
    let connection = Connection::connect(Config::from_url(&server.url())?).await?;
    let sessions = Sessions::redis(&connection).with_reaping(None);
    // What the server keeps of scripts and connections is there before.
    people::fill(&sessions, 0..1_000).await?;
    let empty = emptied(&server).await?;
    people::fill(&sessions, 0..SESSIONS).await?;
    ensure!(sessions.count(&Filter::all()).await? == 50_000, "all of them live");
    let told = used(&server).await? - empty;
    forget_events(&server).await?;
    let ours = used(&server).await? - empty;

    let empty = emptied(&server).await?;
    let strings = "for i = 1, ARGV[1] do redis.call('SET', 'session:' .. i .. \
                   string.rep('x', 32), ARGV[2], 'EX', 1800) end return 1";
    let (count, payload) = (SESSIONS.to_string(), people::payload());
    server.command(&["EVAL", strings, "0", &count, &payload]).await?.ok()?;
    let string = used(&server).await? - empty;

    let figure = |bytes: f64| {
        let sessions = u32::try_from(SESSIONS).unwrap_or(u32::MAX);
        vec![Rounds(vec![bytes / f64::from(sessions)])]
    };
    let table = Table {
        title: TITLE,
        about: "What 50,000 sessions add to `used_memory`, over their number: a payload of 300 B \
                each, three sessions of a user, thirty of a crew, three hundred of a company, \
                and 64 shards. Events are kept up to about 4,096 per shard, however many \
                sessions there are; so they are told apart. A string is the payload alone under \
                a key of 40 characters, with a TTL and in no index.",
        columns: vec![(BYTES, 0)],
        rows: vec![
            (OURS, figure(ours)),
            ("ours, and the event of its creation", figure(told)),
            ("a string in no index", figure(string)),
        ],
    };
    ensure!(PAYLOAD == 300, "the table says so");
    let value = table.figure(OURS, BYTES).cloned();
    report.goal("bytes per session with three indexes", value, Bound::AtMost(1433.0));
    report.add(table);
    Ok(())
}

async fn emptied(server: &RedisServer) -> Result<f64> {
    server.command(&["FLUSHALL"]).await?.ok()?;
    used(server).await
}

async fn used(server: &RedisServer) -> Result<f64> {
    let info = server.command(&["INFO", "memory"]).await?.ok()?;
    let mut lines = info.as_str().context("INFO is text")?.lines();
    let used = lines.find_map(|line| line.strip_prefix("used_memory:"));
    Ok(used.context("memory is counted")?.trim().parse()?)
}

/// Deletes the streams of events.
async fn forget_events(server: &RedisServer) -> Result<()> {
    let keys = server.command(&["KEYS", "*:ev"]).await?.ok()?;
    let mut delete = vec!["DEL"];
    delete.extend(
        keys.as_array().context("keys are an array")?.iter().filter_map(|key| key.as_str()),
    );
    ensure!(delete.len() > 1, "there are events");
    server.command(&delete).await?.ok()?;
    Ok(())
}
