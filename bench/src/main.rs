//! Parts of this workspace beside a bare client and other crates: one run, one table.
//!
//! Rounds of all contenders take turns, so that whatever else the machine does hits all alike,
//! and what is judged are ratios within a round. `cargo xtask bench` builds and starts it.

#![expect(clippy::disallowed_methods, reason = "a benchmark times real work on tasks of its own")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints what it measured")]

mod cache;
mod contended;
mod events;
mod figures;
mod handoff;
mod load;
mod machine;
mod peers;
mod ratelimit;
mod renewal;
mod report;
mod sessions;
mod uncontended;
mod wire;

use anyhow::{Context as _, Result};
use clap::Parser;
use coordinator_harness::RedisServer;
use report::Report;
use std::{path::PathBuf, process::ExitCode, time::Duration};

/// Measures over a private redis-server and prints the figures as Markdown.
#[derive(Debug, Parser)]
struct Cli {
    /// What to measure
    #[arg(value_enum, default_value = "locks")]
    part: Part,
    /// How long each contender runs in each round
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// How many rounds each contender runs
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Writes every figure of every round as one JSON document
    #[arg(long)]
    json: Option<PathBuf>,
    /// Measures only scenarios whose title holds this
    #[arg(long)]
    only: Option<String>,
    /// Takes the larger sizes, where there are some: minutes more
    #[arg(long)]
    long: bool,
    /// Holds locks at this server and prints what that costs; for the process that measures it
    #[arg(long, hide = true)]
    hold_at: Option<String>,
    /// Stalls readers at this server and prints what that costs; for the process that measures it
    #[arg(long, hide = true)]
    stall_at: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Locks,
    Ratelimit,
    Sessions,
    Events,
    Cache,
}

/// What every scenario is told.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    url: String,
    rounds: usize,
    time: Duration,
    /// Whether to take the larger sizes.
    long: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    if let Some(url) = &cli.hold_at {
        renewal::hold(url).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(url) = &cli.stall_at {
        events::stall(url).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let server = RedisServer::start().await?;
    let plan = Plan {
        url: server.url(),
        rounds: cli.rounds.max(1),
        time: Duration::from_secs(cli.seconds.max(1)),
        long: cli.long,
    };
    let mut report = Report::new(machine::Machine::look(&server).await?);
    let wanted = |title: &str| cli.only.as_ref().is_none_or(|part| title.contains(part));
    match cli.part {
        Part::Locks => locks(&plan, wanted, &server, &mut report).await?,
        Part::Ratelimit => ratelimit::run(&plan, wanted, &server, &mut report).await?,
        Part::Sessions => sessions::run(&plan, wanted, &server, &mut report).await?,
        Part::Events => events::run(&plan, wanted, &server, &mut report).await?,
        Part::Cache => cache::run(&plan, wanted, &server, &mut report).await?,
    }
    println!("{}", report.markdown());
    if let Some(path) = &cli.json {
        let json = serde_json::to_string_pretty(&report.json())?;
        std::fs::write(path, json + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn locks(
    plan: &Plan,
    wanted: impl Fn(&str) -> bool,
    server: &RedisServer,
    report: &mut Report,
) -> Result<()> {
    if wanted(uncontended::TITLE) {
        uncontended::run(plan, report).await?;
    }
    for scene in contended::SCENES.iter().filter(|scene| wanted(scene.title)) {
        contended::run(plan, scene, server, report).await?;
    }
    if wanted(handoff::TITLE) {
        handoff::run(plan, report).await?;
    }
    if wanted(renewal::TITLE) {
        renewal::run(plan, report).await?;
    }
    Ok(())
}
