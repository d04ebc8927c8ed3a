//! `cargo xtask test --all`: the integration suite on every topology and server, and the table of
//! what ran. What could not run is a line of its own, never a pass.

use super::servers::{self, Server};
use super::tally::Sum;
use super::{Args, Ran, cargo_test};
use anyhow::Result;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// What the suite reads the topology from.
const TOPOLOGY: &str = "COORDINATOR_TOPOLOGY";
/// What the harness reads the server's binary from.
const BINARY: &str = "COORDINATOR_REDIS_SERVER";

/// What is run on a server.
struct Suite {
    name: &'static str,
    topology: &'static str,
    targets: &'static [&'static str],
    flags: &'static [&'static str],
    note: &'static str,
}

const IT: &[&str] = &["--workspace", "--test", "it", "--no-fail-fast"];
/// Embedded has no topology. The fault tests start single servers, Sentinels and clusters of their
/// own, and a proxy that must read what passes: they run where the server or its user differs.
const CASES: &[&str] = &["--skip", "embedded::", "--skip", "faults::"];
/// A case waits for its six servers more than it computes.
const CASES_APART: &[&str] = &["--skip", "embedded::", "--skip", "faults::", "--test-threads", "6"];
const CASES_AND_FAULTS: &[&str] = &["--skip", "embedded::"];
const NO_FAULTS: &str = "without the fault tests";

const UNITS: Suite = Suite {
    name: "unit tests",
    topology: "single",
    targets: &[
        "--workspace",
        "--exclude",
        "coordinator-harness",
        "--exclude",
        "coordinator-checkers",
        "--lib",
        "--no-fail-fast",
    ],
    flags: &[],
    note: "of the crates that speak to a server",
};

const SINGLE: Suite =
    Suite { name: "single", topology: "single", targets: IT, flags: CASES_AND_FAULTS, note: "" };

const ARRANGED: [Suite; 5] = [
    Suite {
        name: "Sentinel: 1 master, 2 replicas, 3 Sentinels",
        topology: "sentinel",
        targets: IT,
        flags: CASES_APART,
        note: NO_FAULTS,
    },
    Suite {
        name: "Cluster: 3 masters, 3 replicas",
        topology: "cluster",
        targets: IT,
        flags: CASES_APART,
        note: NO_FAULTS,
    },
    Suite { name: "TLS", topology: "tls", targets: IT, flags: CASES, note: NO_FAULTS },
    Suite {
        name: "least-privilege ACL",
        topology: "acl",
        targets: IT,
        flags: CASES_AND_FAULTS,
        note: "",
    },
    Suite { name: "RESP2", topology: "resp2", targets: IT, flags: CASES_AND_FAULTS, note: "" },
];

/// Runs all of them after `base`, which ran everything on the usual server.
pub(super) fn run(args: &Args, base: &Ran) -> Result<bool> {
    let mut table = Table::default();
    let usual = "redis-server";
    table.ran(usual, "everything, single", base, "");
    for suite in &ARRANGED {
        table.run(args, usual, None, suite, &[], suite.note)?;
    }
    for server in &servers::ALL {
        let binary = match (server.install)() {
            Ok(binary) => binary,
            Err(error) => {
                table.not_run(server.name, "everything", format!("{error:#}"));
                continue;
            }
        };
        table.run_on(args, server, &binary)?;
    }
    println!("\n{table}");
    Ok(table.held())
}

#[derive(Debug)]
enum Outcome {
    Ran { sum: Sum, held: bool, took: Duration, note: &'static str },
    NotRun(String),
}

/// A row per suite and server.
#[derive(Debug, Default)]
struct Table {
    rows: Vec<(&'static str, &'static str, Outcome)>,
}

impl Table {
    fn run_on(&mut self, args: &Args, server: &Server, binary: &Path) -> Result<()> {
        let (skips, note) = match server.without_tls {
            // The name's end keeps the tests of configuration and errors in.
            Some(_) => (&["--skip", "security::tls_"][..], "without TLS"),
            None => (&[][..], UNITS.note),
        };
        self.run(args, server.name, Some(binary), &UNITS, skips, note)?;
        self.run(args, server.name, Some(binary), &SINGLE, &[], SINGLE.note)?;
        for suite in &ARRANGED {
            match server.without_tls {
                Some(reason) if suite.topology == "tls" => {
                    self.not_run(server.name, suite.name, reason.to_owned());
                }
                _ => self.run(args, server.name, Some(binary), suite, &[], suite.note)?,
            }
        }
        Ok(())
    }

    fn run(
        &mut self,
        args: &Args,
        server: &'static str,
        binary: Option<&Path>,
        suite: &Suite,
        skips: &[&str],
        note: &'static str,
    ) -> Result<()> {
        println!("\n== {server}: {}", suite.name);
        let flags: Vec<_> = suite.flags.iter().chain(skips).copied().collect();
        let ran = cargo_test(args, suite.targets, &flags, |command| {
            command.env(TOPOLOGY, suite.topology);
            if let Some(binary) = binary {
                command.env(BINARY, binary);
            }
        })?;
        self.ran(server, suite.name, &ran, note);
        Ok(())
    }

    fn ran(&mut self, server: &'static str, what: &'static str, ran: &Ran, note: &'static str) {
        let sum = ran.tally.total();
        if ran.held() && sum.passed == 0 {
            return self.not_run(server, what, "no test matched".to_owned());
        }
        let outcome = Outcome::Ran { sum, held: ran.held(), took: ran.took, note };
        self.rows.push((server, what, outcome));
    }

    fn not_run(&mut self, server: &'static str, what: &'static str, reason: String) {
        self.rows.push((server, what, Outcome::NotRun(reason)));
    }

    fn held(&self) -> bool {
        self.rows.iter().all(|(_, _, outcome)| match outcome {
            Outcome::Ran { held, .. } => *held,
            Outcome::NotRun(_) => true,
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<13} {:<44} passed failed seconds", "server", "suite")?;
        let mut total = Sum::default();
        for (server, what, outcome) in &self.rows {
            if let Outcome::Ran { sum, held, took, note } = outcome {
                total.add(*sum);
                let seconds = took.as_secs_f64();
                let (passed, failed) = (sum.passed, sum.failed);
                // A run can fail outside any test.
                let verdict = if *held { "" } else { "FAILED " };
                let row = format!(
                    "{server:<13} {what:<44} {passed:>6} {failed:>6} {seconds:>7.1}  \
                     {verdict}{note}"
                );
                writeln!(f, "{}", row.trim_end())?;
            }
        }
        let mut not_run = 0;
        for (server, what, outcome) in &self.rows {
            if let Outcome::NotRun(reason) = outcome {
                not_run += 1;
                writeln!(f, "not run: {server}, {what}: {reason}")?;
            }
        }
        write!(f, "{} passed, {} failed", total.passed, total.failed)?;
        if not_run > 0 {
            write!(f, "; {not_run} suites not run")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(passed: u64, failed: u64, held: bool) -> Outcome {
        let sum = Sum { passed, failed, ignored: 0 };
        Outcome::Ran { sum, held, took: Duration::from_millis(1500), note: "" }
    }

    #[test]
    fn what_did_not_run_is_told_and_counts_as_no_pass() {
        let mut table = Table::default();
        table.rows.push(("one", "single", row(7, 0, true)));
        table.not_run("two", "everything", "no network".to_owned());
        assert!(table.held());
        let text = table.to_string();
        assert!(text.contains("not run: two, everything: no network"), "{text}");
        assert!(text.ends_with("7 passed, 0 failed; 1 suites not run"), "{text}");
        table.rows.push(("two", "TLS", row(1, 1, false)));
        assert!(!table.held());
        assert!(table.to_string().contains("FAILED"));
    }

    #[test]
    fn a_run_that_fails_outside_any_test_is_red() {
        let mut table = Table::default();
        table.rows.push(("one", "single", row(0, 0, false)));
        assert!(!table.held());
    }
}
