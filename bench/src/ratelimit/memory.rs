//! How much memory one limit takes, at its largest.

use crate::{
    figures::Rounds,
    report::{Bound, Report, Table},
    wire,
};
use anyhow::{Result, ensure};
use coordinator_core::{Config, redis::Connection};
use coordinator_harness::RedisServer;
use coordinator_ratelimit::{Quota, RateLimiter};
use std::time::Duration;

pub(crate) const TITLE: &str = "Memory of a limit of 1,000,000";

const LIMIT: u64 = 1_000_000;
const WINDOW: Duration = Duration::from_mins(1);
/// A little more often than a granule ends.
const STEPS: u32 = 105;
const WINDOWS: u32 = 6;
const BYTES: &str = "bytes";

/// A server with a clock of its own: a window passes in no time.
pub(crate) async fn run(report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let server = RedisServer::builder().with_clock_shim().start().await?;
    let connection = Connection::connect(Config::from_url(&server.url())?).await?;
    let limits = RateLimiter::redis(&connection).without_fast_deny();
    let quota = Quota::sliding_window(LIMIT, WINDOW);
    let gcra = Quota::gcra(LIMIT, WINDOW, LIMIT);
    let (mut admitted, mut bytes, mut members) = (0, 0, 0);
    for _ in 0..WINDOWS * STEPS {
        let decision = limits.check_cost("memory", &quota, 9_000).await?;
        admitted += decision.taken();
        let all = wire::bytes(&server).await?;
        bytes = all
            .iter()
            .filter(|(key, _)| key.contains(":use:"))
            .map(|(_, bytes)| *bytes)
            .fold(bytes, i64::max);
        for (key, _) in &all {
            let count = server.command(&["ZCARD", key.as_str()]).await?.as_int();
            members = members.max(count.unwrap_or_default());
        }
        server.advance_clock(WINDOW / STEPS).await?;
    }
    ensure!(admitted > 5 * LIMIT, "only {admitted} were admitted");
    ensure!(members >= 100, "only {members} entries: the granules did not fill");
    limits.check_cost("memory", &gcra, 500_000).await?;
    let all = wire::bytes(&server).await?;
    let small = all.iter().filter(|(key, _)| key.contains(":g60000000:"));
    let small = small.map(|(_, bytes)| *bytes).max().unwrap_or_default();
    let figure =
        |bytes: i64| vec![Rounds(vec![f64::from(i32::try_from(bytes).unwrap_or(i32::MAX))])];
    let table = Table {
        title: TITLE,
        about: "`MEMORY USAGE` of the limit's key, the largest of 630 looks, while more than \
                5,000,000 units are admitted over six windows and every granule is in use.",
        columns: vec![(BYTES, 0)],
        rows: vec![("ours", figure(bytes)), ("ours, GCRA", figure(small))],
    };
    let value = table.figure("ours", BYTES).cloned();
    report.goal("bytes of a key at a limit of 1,000,000", value, Bound::AtMost(2048.0));
    report.add(table);
    Ok(())
}
