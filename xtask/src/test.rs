//! `cargo xtask test`: setup, then every test of the workspace in one build, and one sum.
//! It starts no server itself; the tests' own harness does.

mod servers;
mod tally;
mod topologies;

use crate::process::Stopwatch;
use crate::{process, setup};
use anyhow::{Context, Result};
use std::io::BufReader;
use std::process::Command;
use std::time::Duration;
use tally::Tally;

/// What `cargo xtask test` takes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Seeds what the tests draw at random, so that a failure can be run again
    #[arg(long)]
    seed: Option<u64>,
    /// Runs the suite on Sentinel, Cluster, TLS, access rules, RESP2, Redis 6.2 and Valkey too
    #[arg(long)]
    all: bool,
    /// Plays as many random runs as a night has time for, after the suite and its few
    #[arg(long)]
    long: bool,
    /// Follows events with a page in Chromium, after the suite; installs the browser where it may
    #[arg(long)]
    browser: bool,
    /// Goes to the test binaries as it stands: name filters and libtest's own flags
    #[arg(last = true)]
    filter: Vec<String>,
}

/// What the harness reads the seed from.
const SEED: &str = "SEED";
/// What tests that play random runs read the length of the suite from, and what to show of them.
/// They run apart: they take the whole machine, and other tests have bounds in time.
const LONG: &str = "COORDINATOR_LONG";
/// Each by its package and target, and by what stands in its name, with flags of libtest's.
const LONG_RUNS: &[(&[&str], &str)] = &[
    (&["--package", "coordinator-tests", "--test", "it"], "owners_in_"),
    (&["--package", "coordinator-ratelimit", "--lib"], "tests::oracle::"),
    (&["--package", "coordinator-tests", "--test", "it"], "faults::sessions::"),
    // How soon thousands of clients hear is no question to an unoptimised build.
    (&["--release", "--package", "coordinator-web", "--test", "sse"], "many::"),
    // Nor how many events a second get through.
    (&["--release", "--package", "coordinator-tests", "--test", "it"], "faults::events::"),
    // Nor how soon a waiter is woken, which is asked of one test at a time.
    (
        &["--release", "--package", "coordinator-tests", "--test", "it"],
        "faults::cache:: --test-threads=1",
    ),
];
/// What needs a browser, which nothing else asks for.
const BROWSER: &[&str] =
    &["--package", "coordinator-web", "--features", "browser", "--test", "browser"];

/// Runs the suite and ends with `N passed, N failed`.
pub(crate) fn run(args: &Args) -> Result<bool> {
    setup::run()?;
    if let Some(seed) = args.seed {
        println!("{SEED}={seed}");
    }
    let ran = cargo_test(args, &["--workspace", "--no-fail-fast"], &[], |_| ())?;
    println!();
    if ran.tally.total().passed == 0 && ran.ended_well {
        println!("no test matched: that is no success");
    } else if !ran.ended_well && ran.tally.total().failed == 0 {
        println!("cargo test failed outside any test: see above");
    }
    println!("{}", ran.tally);
    let mut held = ran.held() && ran.tally.total().passed > 0;
    if args.long {
        println!("\n== the long runs");
        let apart = Args { filter: Vec::new(), ..args.clone() };
        for (target, name) in LONG_RUNS {
            let flags: Vec<_> = name.split(' ').chain(["--nocapture"]).collect();
            let long = cargo_test(&apart, target, &flags, |command| {
                command.env(LONG, "1");
            })?;
            let (sum, seconds) = (long.tally.total(), long.took.as_secs_f64());
            println!("\n{name}: {} passed, {} failed, {seconds:.0} s", sum.passed, sum.failed);
            held &= long.held() && sum.passed > 0;
        }
    }
    if args.browser {
        println!("\n== a page in Chromium");
        setup::browser()?;
        let apart = Args { filter: Vec::new(), ..args.clone() };
        let browser = cargo_test(&apart, BROWSER, &[], |_| ())?;
        println!("\n{}", browser.tally);
        held &= browser.held() && browser.tally.total().passed > 0;
    }
    if args.all {
        return Ok(topologies::run(args, &ran)? && held);
    }
    Ok(held)
}

/// What one `cargo test` came to.
#[derive(Debug)]
struct Ran {
    tally: Tally,
    ended_well: bool,
    took: Duration,
}

impl Ran {
    fn held(&self) -> bool {
        self.ended_well && self.tally.total().failed == 0
    }
}

/// Runs `cargo test` with the caller's filter behind our own flags for libtest, and follows it.
fn cargo_test(
    args: &Args,
    targets: &[&str],
    flags: &[&str],
    environment: impl FnOnce(&mut Command),
) -> Result<Ran> {
    let watch = Stopwatch::start();
    let mut command = process::cargo(&["test"]);
    command.args(targets).arg("--").args(flags).args(&args.filter);
    if let Some(seed) = args.seed {
        command.env(SEED, seed.to_string());
    }
    environment(&mut command);
    // One pipe for both, so that a binary's name and its result stay in order.
    let (reader, writer) = std::io::pipe().context("no pipe")?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().context("cannot start cargo test")?;
    drop(command); // and with it our ends of the pipe, or reading would never end
    let tally = tally::follow(BufReader::new(reader), &mut std::io::stdout().lock())?;
    let ended_well = child.wait()?.success();
    Ok(Ran { tally, ended_well, took: watch.elapsed() })
}
