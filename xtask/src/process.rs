//! Child processes: where they run, with which environment, and how long they took.
//! It knows nothing of what they are for.

use anyhow::{Context, Result, bail};
use std::env;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Makes the workspace's root the current directory, wherever inside it we were called.
pub(crate) fn enter_root() -> Result<()> {
    let start = env::current_dir().context("the current directory cannot be read")?;
    let root = start.ancestors().find(|dir| dir.join("xtask/Cargo.toml").is_file());
    let root = root.context("run this inside the repository")?;
    env::set_current_dir(root).with_context(|| format!("cannot enter {}", root.display()))
}

/// The cargo that called us, without what it set for this package: build scripts that watch
/// `CARGO_PKG_*` (ring's does) would otherwise rebuild on each change between us and a bare cargo.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (key, _) in env::vars_os() {
        let name = key.to_string_lossy();
        let ours = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        if ours.iter().any(|prefix| name.starts_with(prefix)) || name == "CARGO_PRIMARY_PACKAGE" {
            command.env_remove(&key);
        }
    }
    command.args(args);
    command
}

/// Runs a command with our own stdout and stderr, and says whether it ended well.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    Ok(status.success())
}

/// Runs a command that must end well, and returns its stdout.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}", output.status);
    }
    String::from_utf8(output.stdout).context("its output is not UTF-8")
}

/// The programs that cargo's JSON messages say it built.
pub(crate) fn executables(messages: &str) -> Vec<String> {
    let built = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message.get("executable")?.as_str().map(ToOwned::to_owned)
    });
    built.collect()
}

/// Time since it was started: the one place in this tool that reads a clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "a build tool times real work, never a promise")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_read_from_cargos_messages() {
        let lines =
            "{\"executable\":null}\n{\"executable\":\"/t/coordinator\"}\n{\"success\":true}";
        assert_eq!(executables(lines), ["/t/coordinator"]);
        assert!(executables("{\"executable\":null}").is_empty());
    }
}
