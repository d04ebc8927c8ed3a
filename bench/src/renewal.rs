//! What it costs to hold many locks: the processor time of a process of its own that does nothing
//! but renew them.

use crate::{
    Plan,
    figures::Rounds,
    report::{Bound, Report, Table},
};
use anyhow::{Context as _, Result, ensure};
use coordinator_core::{Config, redis::Connection};
use coordinator_locks::Locks;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

pub(crate) const TITLE: &str = "Renewing 10,000 held locks";

const LOCKS: usize = 10_000;
const TTL: Duration = Duration::from_secs(30);
/// Each lock is renewed once in a window.
const WINDOW: Duration = Duration::from_secs(10);
const WINDOWS: usize = 3;
const NAME: &str = "ours, ttl 30 s";

/// Starts this program anew as the holder, and reads what it says of itself.
pub(crate) async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let mut holder = tokio::process::Command::new(std::env::current_exe()?);
    holder.args(["--hold-at", &plan.url]).kill_on_drop(true);
    let output = holder.stderr(std::process::Stdio::inherit()).output().await?;
    ensure!(output.status.success(), "the holder ended with {}", output.status);
    let said = String::from_utf8(output.stdout)?;
    let percent = said.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    let figures = Rounds(percent);
    let goal = "processor time of renewing 10,000 locks, % of a core";
    report.goal(goal, Some(figures.clone()), Bound::AtMost(3.0));
    report.add(Table {
        title: TITLE,
        about: "A process of its own holds them and does nothing else; each window of 10 s renews \
                each lock once.",
        columns: vec![("% of a core", 2)],
        rows: vec![(NAME, vec![figures])],
    });
    Ok(())
}

/// Holds the locks and prints, for each window, which share of a core this process used.
pub(crate) async fn hold(url: &str) -> Result<()> {
    let connection = Connection::connect(Config::from_url(url)?).await?;
    let locks = Locks::redis(&connection);
    let guards: Vec<_> = stream::iter(0..LOCKS)
        .map(|number| {
            let lock = locks.named(&format!("renewal:{number}")).with_ttl(TTL);
            async move { anyhow::Ok(lock.acquire().await?.acquired()?) }
        })
        .buffer_unordered(64)
        .try_collect()
        .await?;
    let mut said = Vec::new();
    for _ in 0..WINDOWS {
        let (start, before) = (Instant::now(), processor_time());
        tokio::time::sleep(WINDOW).await;
        let used = processor_time().checked_sub(before).context("time runs forward")?;
        said.push(format!("{:.3}", 100.0 * used.as_secs_f64() / start.elapsed().as_secs_f64()));
    }
    // Leases of 30 s that were never renewed would have ended by now.
    let valid = guards.iter().filter(|guard| guard.is_valid()).count();
    let held = locks.list().await?.len();
    ensure!(valid == LOCKS && held == LOCKS, "{valid} leases are valid, {held} locks are held");
    println!("{}", said.join(" "));
    Ok(())
}

/// User and system time of this process.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanos)
}
