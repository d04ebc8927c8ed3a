//! Reads what cargo and libtest print, and adds it up. It runs nothing.

use anyhow::Result;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, Write};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Unit,
    Doc,
    Integration,
}

/// Tests by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sum {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) ignored: u64,
}

impl Sum {
    pub(super) fn add(&mut self, other: Sum) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// What has run so far, by kind.
#[derive(Debug, Default)]
pub(super) struct Tally {
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

    pub(super) fn total(&self) -> Sum {
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
pub(super) fn follow(mut from: impl BufRead, to: &mut impl Write) -> Result<Tally> {
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
