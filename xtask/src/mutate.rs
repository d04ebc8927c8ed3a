//! `cargo xtask check --mutate`: breaks the scripts mechanically, one place at a time, and expects
//! the tests to turn red each time. The breaks are found by pattern, so that a new line gets its
//! own without being listed anywhere. What may survive stands, with a reason, in
//! `xtask/mutants-accepted.txt`.

mod breaks;
mod restore;

use crate::process::{Stopwatch, cargo};
use crate::tidy;
use anyhow::{Context, Result, bail, ensure};
use breaks::Mutant;
use restore::{Interrupt, Mutated};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// Which mutants to try.
#[derive(Debug, clap::Args)]
pub(crate) struct Choice {
    /// Only mutants whose description holds this
    #[arg(long, requires = "mutate")]
    only: Option<String>,
    /// At most so many
    #[arg(long, requires = "mutate")]
    limit: Option<usize>,
    /// Prints the mutants and tries none
    #[arg(long, requires = "mutate")]
    list: bool,
    /// A mutant that makes the tests hang for so many seconds is found
    #[arg(long, requires = "mutate", default_value_t = 300)]
    patience_s: u64,
}

const ACCEPTED: &str = "xtask/mutants-accepted.txt";

/// Tries each, prints a table, and fails if one survives that is not accepted.
pub(crate) fn run(args: &Choice) -> Result<bool> {
    restore::after_a_kill()?;
    let all = mutants()?;
    let accepted = accepted(&fs::read_to_string(ACCEPTED).unwrap_or_default())?;
    let wanted = |mutant: &&Mutant| {
        args.only.as_ref().is_none_or(|part| mutant.to_string().contains(part.as_str()))
    };
    let limit = args.limit.unwrap_or(usize::MAX);
    let chosen: Vec<_> = all.iter().filter(wanted).take(limit).collect();
    ensure!(!chosen.is_empty(), "no mutant matches");
    if args.list {
        for mutant in chosen {
            println!("{mutant}");
        }
        return Ok(true);
    }
    let interrupt = Interrupt::listen()?;
    let suite = Suite { interrupt: &interrupt, patience: Duration::from_secs(args.patience_s) };
    let packages: BTreeSet<_> = chosen.iter().map(|mutant| mutant.package()).collect();
    for package in packages {
        println!("{package}: the tests without any mutant");
        ensure!(suite.passes(package)?, "the tests of {package} fail without any mutant");
    }

    let mut survivors = 0;
    for (index, mutant) in chosen.iter().enumerate() {
        let watch = Stopwatch::start();
        let file = Mutated::write(&mutant.path, &mutant.text)?;
        let survived = suite.passes(mutant.package());
        file.restore()?;
        let verdict = match (survived?, accepted.contains(&mutant.to_string())) {
            (false, false) => "killed",
            (false, true) => "killed (strike it from the accepted)",
            (true, true) => "accepted",
            (true, false) => {
                survivors += 1;
                "SURVIVED"
            }
        };
        let took = watch.elapsed().as_secs_f64();
        println!("{:>3}/{} {verdict:<9} {took:>5.1} s  {mutant}", index + 1, chosen.len());
    }
    let names: BTreeSet<_> = all.iter().map(ToString::to_string).collect();
    let stale: Vec<_> = accepted.difference(&names).collect();
    for line in &stale {
        println!("{ACCEPTED} names a mutant that no longer exists: {line}");
    }
    println!("{} mutants, {survivors} survived unaccepted", chosen.len());
    Ok(survivors == 0 && stale.is_empty())
}

/// Every mutant of every script.
fn mutants() -> Result<Vec<Mutant>> {
    let scripts = tidy::load()?.into_iter().filter(tidy::Source::is_script);
    Ok(scripts.flat_map(|script| breaks::of(&script.path, &script.text)).collect())
}

/// The list's descriptions: `description ## reason` per line, `#` begins a comment.
fn accepted(list: &str) -> Result<BTreeSet<String>> {
    let lines = list.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| match line.split_once(" ## ") {
            Some((mutant, reason)) if !reason.trim().is_empty() => Ok(mutant.trim().to_owned()),
            _ => bail!("{ACCEPTED}: no ` ## reason` in: {line}"),
        })
        .collect()
}

/// The tests that should notice: the crate's own, then the integration tests of its name.
struct Suite<'a> {
    interrupt: &'a Interrupt,
    patience: Duration,
}

impl Suite<'_> {
    fn passes(&self, package: &str) -> Result<bool> {
        let part = package.trim_start_matches("coordinator-");
        Ok(self.ends_well(&mut cargo(&["test", "--quiet", "--package", package]))?
            && self.ends_well(&mut cargo(&["test", "-q", "-p", "coordinator-tests", part]))?)
    }

    /// The command runs in a group of its own, so that its test binaries end with it.
    fn ends_well(&self, command: &mut Command) -> Result<bool> {
        command.process_group(0).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let watch = Stopwatch::start();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.success());
            }
            let stopped = self.interrupt.came();
            if stopped || watch.elapsed() > self.patience {
                let group = format!("-{}", child.id());
                Command::new("kill").args(["-KILL", "--", &group]).status()?;
                child.wait()?;
                ensure!(!stopped, "interrupted");
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_mutant_needs_its_reason() {
        let list = "# why\n\na.lua: drop: x ## same answer either way\n";
        assert_eq!(accepted(list).unwrap().into_iter().collect::<Vec<_>>(), ["a.lua: drop: x"]);
        assert!(accepted("a.lua: drop: x\n").is_err());
        assert!(accepted("a.lua: drop: x ##  \n").is_err());
    }
}
