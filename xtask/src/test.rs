//! `cargo xtask test`: setup, then every test of the workspace in one build, and one sum.
//! It starts no server itself; the tests' own harness does.

use crate::{process, setup};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Write};

/// What `cargo xtask test` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seeds what the tests draw at random, so that a failure can be run again
    #[arg(long)]
    seed: Option<u64>,
    /// Names the topologies too that this suite cannot run yet
    #[arg(long)]
    all: bool,
    /// Goes to the test binaries as it stands: name filters and libtest's own flags
    #[arg(last = true)]
    filter: Vec<String>,
}

/// What the harness reads the seed from.
const SEED: &str = "SEED";

const NOT_RUN: [(&str, &str); 5] = [
    ("Sentinel", "core's own tests use one; the suite of the parts does not run on it yet"),
    ("Cluster", "core's own tests use one; the suite of the parts does not run on it yet"),
    ("TLS", "core's own tests use it; the suite of the parts does not run on it yet"),
    (
        "least-privilege ACL",
        "core and locks have a test each; the whole suite does not run under it yet",
    ),
    ("Valkey and older Redis", "no other server's binary is installed by setup"),
];

/// Runs the suite and ends with `N passed, N failed`.
pub(crate) fn run(args: &Args) -> Result<bool> {
    setup::run()?;
    let mut command = process::cargo(&["test", "--workspace", "--no-fail-fast", "--"]);
    command.args(&args.filter);
    if let Some(seed) = args.seed {
        println!("{SEED}={seed}");
        command.env(SEED, seed.to_string());
    }
    // One pipe for both, so that a binary's name and its result stay in order.
    let (reader, writer) = std::io::pipe().context("no pipe")?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().context("cannot start cargo test")?;
    drop(command); // and with it our ends of the pipe, or reading would never end
    let tally = follow(BufReader::new(reader), &mut std::io::stdout().lock())?;
    let status = child.wait()?;

    println!();
    if args.all {
        for (topology, reason) in NOT_RUN {
            println!("not run: {topology}: {reason}");
        }
    }
    if tally.total().passed == 0 && status.success() {
        println!("no test matched: that is no success");
    } else if !status.success() && tally.total().failed == 0 {
        println!("cargo test failed outside any test: see above");
    }
    println!("{tally}");
    Ok(status.success() && tally.total().failed == 0 && tally.total().passed > 0)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Unit,
    Doc,
    Integration,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sum {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// What has run so far, by kind.
#[derive(Debug, Default)]
struct Tally {
    sums: BTreeMap<Kind, Sum>,
    /// The binary that has started and not yet given its result.
    open: Option<Kind>,
}

impl Tally {
    fn read(&mut self, line: &str) {
        if let Some(kind) = started(line) {
            self.close();
            self.open = Some(kind);
        } else if let Some(sum) = result(line)
            && let Some(kind) = self.open.take()
        {
            self.sums.entry(kind).or_default().add(sum);
        }
    }

    /// A binary that ended without a result crashed: that counts as a failure.
    fn close(&mut self) {
        if let Some(kind) = self.open.take() {
            self.sums.entry(kind).or_default().failed += 1;
        }
    }

    fn total(&self) -> Sum {
        let mut total = Sum::default();
        self.sums.values().for_each(|sum| total.add(*sum));
        total
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, sum) in &self.sums {
            let name = format!("{kind:?}").to_lowercase();
            write!(f, "{name}: {} passed, {} failed", sum.passed, sum.failed)?;
            if sum.ignored > 0 {
                write!(f, ", {} not run", sum.ignored)?;
            }
            writeln!(f)?;
        }
        let total = self.total();
        write!(f, "{} passed, {} failed", total.passed, total.failed)
    }
}

/// Copies the output through while it comes, and adds it up.
fn follow(mut from: impl BufRead, to: &mut impl Write) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        to.write_all(&line)?;
        to.flush()?;
        tally.read(&String::from_utf8_lossy(&line));
        line.clear();
    }
    tally.close();
    Ok(tally)
}

/// The kind of the binary that cargo says it now runs.
fn started(line: &str) -> Option<Kind> {
    let line = line.trim();
    if line.starts_with("Doc-tests ") {
        return Some(Kind::Doc);
    }
    let target = line.strip_prefix("Running ")?;
    target.ends_with(')').then_some(())?;
    Some(if target.starts_with("unittests ") { Kind::Unit } else { Kind::Integration })
}

/// The figures of libtest's closing line.
fn result(line: &str) -> Option<Sum> {
    let (_, figures) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut sum = Sum::default();
    for figure in figures.split(';') {
        match figure.trim().split_once(' ') {
            Some((n, "passed")) => sum.passed = n.parse().ok()?,
            Some((n, "failed")) => sum.failed = n.parse().ok()?,
            Some((n, "ignored")) => sum.ignored = n.parse().ok()?,
            _ => {}
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
     Running unittests src/lib.rs (target/debug/deps/core-1)
running 3 tests
test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s
     Running it/main.rs (target/debug/deps/it-1)
test result: ok. 40 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s
   Doc-tests coordinator
test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s
";

    #[test]
    fn results_add_up_by_kind_and_pass_through() {
        let mut copy = Vec::new();
        let tally = follow(OUTPUT.as_bytes(), &mut copy).unwrap();
        assert_eq!(copy, OUTPUT.as_bytes());
        assert_eq!(
            tally.to_string(),
            "unit: 2 passed, 1 failed\ndoc: 5 passed, 0 failed\n\
             integration: 40 passed, 0 failed, 1 not run\n47 passed, 1 failed"
        );
    }

    #[test]
    fn a_binary_that_dies_without_a_result_counts_as_failed() {
        let crashed = "     Running it/main.rs (target/debug/deps/it-1)\nrunning 9 tests\n";
        let tally = follow(crashed.as_bytes(), &mut Vec::new()).unwrap();
        assert_eq!(tally.total(), Sum { passed: 0, failed: 1, ignored: 0 });
        let tally = follow(format!("{crashed}{OUTPUT}").as_bytes(), &mut Vec::new()).unwrap();
        assert_eq!(tally.total(), Sum { passed: 47, failed: 2, ignored: 1 });
    }

    #[test]
    fn nothing_run_is_nothing_passed() {
        let tally = follow("error: could not compile".as_bytes(), &mut Vec::new()).unwrap();
        assert_eq!(tally.to_string(), "0 passed, 0 failed");
    }
}
