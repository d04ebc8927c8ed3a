//! `cargo xtask check`: every check that needs no server, one after the other, to the end.

use crate::metadata::{Metadata, Package};
use crate::process::{Stopwatch, cargo, succeeds};
use crate::tidy::{self, Finding, budget, licences};
use crate::{mutate, process};
use anyhow::{Context, Result};
use std::time::Duration;
use std::{fs, process::Stdio};

/// What `cargo xtask check` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Breaks the scripts one line at a time instead, and expects the tests to notice each
    #[arg(long)]
    mutate: bool,
    #[command(flatten)]
    mutants: mutate::Choice,
}

/// Runs every step, then says which held.
pub(crate) fn run(args: &Args) -> Result<bool> {
    if args.mutate {
        return mutate::run(&args.mutants);
    }
    let metadata = Metadata::load()?;
    let mut report = Report::default();
    report.step("format", || {
        let bench = ["fmt", "--manifest-path", "bench/Cargo.toml", "--check"];
        Ok(succeeds(&mut cargo(&["fmt", "--all", "--check"]))? & succeeds(&mut cargo(&bench))?)
    });
    report.step("house rules", || house_rules(&metadata));
    report.step("crate budget", || budget::check(&metadata));
    report.step("clippy", || {
        succeeds(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    report.step("clippy, embedded alone", || {
        let mut clippy = cargo(&["clippy", "--package", budget::CRATE, "--no-default-features"]);
        succeeds(clippy.args(["--", "-D", "warnings"]))
    });
    report.step("each crate alone", || each_alone(&metadata));
    report.step("docs", || {
        let mut doc = cargo(&["doc", "--workspace", "--no-deps"]);
        succeeds(doc.env("RUSTDOCFLAGS", "-D warnings"))
    });
    report.step("licences and sources", || dependencies(&metadata));
    Ok(report.close())
}

/// What each step came to.
#[derive(Debug, Default)]
struct Report {
    steps: Vec<(&'static str, bool, Duration)>,
}

impl Report {
    fn step(&mut self, name: &'static str, step: impl FnOnce() -> Result<bool>) {
        println!("== {name}");
        let watch = Stopwatch::start();
        let held = step().unwrap_or_else(|error| {
            println!("{error:#}");
            false
        });
        self.steps.push((name, held, watch.elapsed()));
    }

    fn close(&self) -> bool {
        println!();
        for (name, held, took) in &self.steps {
            let verdict = if *held { "ok" } else { "FAILED" };
            println!("{verdict:<7} {name:<24} {:>6.1} s", took.as_secs_f64());
        }
        self.steps.iter().all(|(_, held, _)| *held)
    }
}

fn print(findings: &[Finding]) -> bool {
    for finding in findings {
        println!("{finding}");
    }
    findings.is_empty()
}

fn house_rules(metadata: &Metadata) -> Result<bool> {
    let sources = tidy::load()?;
    let findings = tidy::check(&sources, metadata);
    println!("{} files, {} findings", sources.len(), findings.len());
    Ok(print(&findings))
}

/// A crate that builds only beside the others leans on features they turn on.
fn each_alone(metadata: &Metadata) -> Result<bool> {
    let mut held = true;
    for package in metadata.members().filter(|package| package.is_crate()) {
        held &= alone(package, &[])?;
        if package.features.contains_key("redis") {
            held &= alone(package, &["--no-default-features"])?;
        }
    }
    Ok(held)
}

fn alone(package: &Package, features: &[&str]) -> Result<bool> {
    println!("{} {}", package.name, features.join(" "));
    succeeds(cargo(&["check", "--quiet", "--package", &package.name]).args(features))
}

/// cargo-deny where it is installed, else what of it can be had from the metadata.
fn dependencies(metadata: &Metadata) -> Result<bool> {
    let mut version = cargo(&["deny", "--version"]);
    let version = version.stdout(Stdio::null()).stderr(Stdio::null());
    let note =
        "advisories were NOT checked: that needs cargo-deny and its database from the network";
    if process::succeeds(version)? {
        println!("{note}");
        return succeeds(&mut cargo(&["deny", "check", "licenses", "bans", "sources"]));
    }
    println!("cargo-deny is not installed: licences from the metadata, sources by the house rules");
    println!("{note}");
    let deny = fs::read_to_string("deny.toml").context("cannot read deny.toml")?;
    println!("{} third-party packages", metadata.third_party().count());
    Ok(print(&licences::check(metadata, &deny)))
}
