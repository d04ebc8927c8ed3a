//! `cargo xtask setup`: the programs the tests start, installed where we may, told where not.
//! It installs nothing that cargo can fetch by itself.

use crate::process;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A program and the Debian package that brings it.
struct Tool {
    program: &'static str,
    package: &'static str,
}

const BROWSER: Tool = Tool { program: "chromium", package: "chromium" };

const TOOLS: [Tool; 5] = [
    Tool { program: "redis-server", package: "redis-server" },
    Tool { program: "redis-sentinel", package: "redis-sentinel" },
    Tool { program: "redis-cli", package: "redis-tools" },
    Tool { program: "setpriv", package: "util-linux" },
    Tool { program: "cc", package: "build-essential" },
];

/// apt asks this file whether a package may start its service; 101 means no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing, then prints a line per tool.
pub(crate) fn run() -> Result<bool> {
    let missing = missing();
    if !missing.is_empty() {
        install(&missing)?;
    }
    for tool in &TOOLS {
        println!("{:<15} {}", tool.program, version(tool.program)?);
    }
    Ok(true)
}

/// The same for a browser, for whoever asks for its tests.
pub(crate) fn browser() -> Result<()> {
    if find(BROWSER.program).is_none() {
        may_install("install Chromium, so that `chromium` is on the PATH", &[&BROWSER])?;
    }
    println!("{:<15} {}", BROWSER.program, version(BROWSER.program)?);
    Ok(())
}

fn missing() -> Vec<&'static Tool> {
    TOOLS.iter().filter(|tool| find(tool.program).is_none()).collect()
}

/// Where the PATH has a program.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn version(program: &str) -> Result<String> {
    let text = process::output(Command::new(program).arg("--version").stdin(Stdio::null()))?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

fn install(missing: &[&Tool]) -> Result<()> {
    let elsewhere = "install Redis 6.2 or newer (server and redis-cli; redis-sentinel is a link to \
                     redis-server), util-linux and a C compiler, so that these programs are on the \
                     PATH";
    may_install(elsewhere, missing)
}

/// Installs tools where we may, and says what to do where not.
fn may_install(elsewhere: &str, missing: &[&Tool]) -> Result<()> {
    let programs: Vec<_> = missing.iter().map(|tool| tool.program).collect();
    let packages: Vec<_> = missing.iter().map(|tool| tool.package).collect();
    let advice = format!(
        "missing: {}. On Debian or Ubuntu: sudo apt-get install --no-install-recommends {}; \
         elsewhere {elsewhere}",
        programs.join(", "),
        packages.join(" ")
    );
    if find("apt-get").is_none() {
        bail!("{advice} (no apt-get here)");
    }
    if process::output(Command::new("id").arg("-u"))?.trim() != "0" {
        bail!("{advice} (not root)");
    }
    let brought = install_packages(&packages)?;
    if !brought || missing.iter().any(|tool| find(tool.program).is_none()) {
        bail!("apt-get did not bring everything; {advice}");
    }
    Ok(())
}

/// Installs packages of Debian without starting a service, and says whether apt did.
pub(crate) fn install_packages(packages: &[&str]) -> Result<bool> {
    println!("installing {}", packages.join(", "));
    let _policy = Policy::forbid_services()?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(packages);
    Ok(apt(&["update"])? && apt(&arguments)?)
}

fn apt(arguments: &[&str]) -> Result<bool> {
    let mut command = Command::new("apt-get");
    command.arg("--quiet").args(arguments).stdin(Stdio::null());
    // RUNLEVEL=1 says "single user", where invoke-rc.d starts nothing by itself.
    command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    process::succeeds(&mut command)
}

/// While it lives, installing a package starts no service: a redis-server on the default port
/// would be a second server that nobody asked for.
struct Policy {
    ours: bool,
}

impl Policy {
    fn forbid_services() -> Result<Self> {
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
        match file {
            Ok(mut file) => {
                std::io::Write::write_all(&mut file, b"#!/bin/sh\nexit 101\n")
                    .with_context(|| format!("cannot write {POLICY}"))?;
                Ok(Self { ours: true })
            }
            // The machine has its own policy: not ours to change.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Ok(Self { ours: false })
            }
            Err(error) => Err(error).with_context(|| format!("cannot write {POLICY}")),
        }
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours && fs::remove_file(POLICY).is_err() {
            eprintln!("remove {POLICY} by hand: services do not start while it is there");
        }
    }
}
