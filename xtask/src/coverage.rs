//! `cargo xtask coverage`: which lines of the crates the tests run, by the compiler's own
//! instruments. The programs that tests start count too, unless they are killed.
//! Doc tests are not counted: the stable rustdoc keeps no binaries of them.

mod lines;
mod tools;

use crate::metadata::Metadata;
use crate::process::{Stopwatch, cargo, executables, output, succeeds};
use crate::{setup, tidy};
use anyhow::{Context, Result};
use lines::Lines;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};
use tools::Tools;

/// Below this share of lines the command fails.
const FLOOR_PERCENT: f64 = 85.0;

/// What cargo puts before the compiler for our own packages alone: instruments in dependencies
/// would cost time and say nothing.
const WRAPPER: &str = "#!/bin/sh\nexec \"$@\" -C instrument-coverage\n";

/// Runs the tests under instruments, and says which share of the lines they ran.
pub(crate) fn run() -> Result<bool> {
    setup::run()?;
    let tools = Tools::find()?;
    let folder = Metadata::load()?.target_directory.join("coverage");
    let profiles = folder.join("profiles");
    if profiles.exists() {
        fs::remove_dir_all(&profiles).context("cannot remove the last run's profiles")?;
    }
    fs::create_dir_all(&profiles).with_context(|| format!("cannot make {}", profiles.display()))?;
    let wrapper = wrapper(&folder)?;
    let tests = |arguments: &[&str]| {
        let mut command = cargo(&["test", "--workspace", "--lib", "--bins", "--tests"]);
        command.args(arguments).env("CARGO_TARGET_DIR", &folder);
        command.env("RUSTC_WORKSPACE_WRAPPER", &wrapper);
        // One file per process: what a killed one leaves half written spoils no other's.
        command.env("LLVM_PROFILE_FILE", profiles.join("%m-%p.profraw"));
        command
    };
    let watch = Stopwatch::start();
    let built = output(&mut tests(&["--no-run", "--message-format=json-render-diagnostics"]))?;
    println!("built in {:.0} s", watch.elapsed().as_secs_f64());
    let passed = succeeds(&mut tests(&["--no-fail-fast", "--quiet"]))?;
    println!("tested in {:.0} s", watch.elapsed().as_secs_f64());

    let merged = tools.merge(&profiles)?;
    let report = tools.report(&merged, &executables(&built))?;
    fs::remove_dir_all(&profiles).context("cannot remove the profiles")?;
    let root = env::current_dir().context("the current directory cannot be read")?;
    let lines = Lines::read(&report, &root, &tidy::load()?);
    println!("\n{lines}");
    let share = lines.percent();
    let enough = share >= FLOOR_PERCENT;
    let verdict = if enough { "ok" } else { "FAILED" };
    println!("{verdict}: {share:.1} % of the lines, the floor is {FLOOR_PERCENT} %");
    println!("not counted: lines of tests, doc tests, tests/, xtask/, bench/");
    if !passed {
        println!("FAILED: a test did not pass");
    }
    Ok(enough && passed)
}

fn wrapper(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("rustc");
    fs::write(&path, WRAPPER).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// A command that must end well and whose stdout is asked for.
fn said(program: &Path, arguments: impl FnOnce(&mut Command)) -> Result<String> {
    let mut command = Command::new(program);
    arguments(&mut command);
    output(&mut command)
}
