//! Starts and signals child processes that cannot outlive this one.
//!
//! The kernel's parent-death signal does the work, so it holds under `kill -9` too. That signal
//! fires when the *thread* that started the child ends, not the process; test threads end early,
//! hence one thread of our own that never does. It knows nothing of Redis.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use anyhow::{Context as _, Result, bail, ensure};

type Order = (Command, Sender<io::Result<Child>>);

/// Starts `program` so that the kernel kills it when this process ends, however it ends.
///
/// `env` is set for `program` alone, not for the small programs that wrap it.
pub(crate) fn spawn(
    program: &Path,
    args: &[&str],
    env: &[(&str, &str)],
    output: &File,
) -> Result<Child> {
    // Between fork and setpriv the parent may already have gone; then no signal would come, so the
    // shell compares its parent once the signal is armed.
    let guard = r#"[ "$PPID" = "$1" ] || exit 99; shift; exec "$@""#;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "sh", "-c", guard, "sh"]);
    command.arg(std::process::id().to_string());
    if !env.is_empty() {
        command.arg("env");
        command.args(env.iter().map(|(key, value)| format!("{key}={value}")));
    }
    command.arg(program).args(args);
    command.stdin(Stdio::null());
    command.stdout(output.try_clone().context("share the log")?);
    command.stderr(output.try_clone().context("share the log")?);
    let (answer, answered) = channel();
    spawner().send((command, answer)).context("the spawner thread is gone")?;
    answered
        .recv()
        .context("the spawner thread is gone")?
        .context("start `setpriv` (Debian package util-linux); try `cargo xtask setup`")
}

fn spawner() -> &'static Sender<Order> {
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::Builder::new()
            .name("harness-spawner".to_owned())
            .spawn(move || {
                for (mut command, answer) in inbox {
                    // Nobody listening means that the caller panicked; the child is then reaped
                    // by nobody but dies with us.
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("a thread can be started while tests run");
        orders
    })
}

/// Sends `STOP` or `CONT` to a process of one's own, and waits until the kernel has done so.
///
/// # Errors
/// If there is no such process, or it does not react.
pub fn signal(pid: u32, name: &str) -> Result<()> {
    let status = Command::new("sh")
        .args(["-c", r#"kill -"$1" "$2""#, "sh", name, &pid.to_string()])
        .status()
        .context("run sh")?;
    ensure!(status.success(), "kill -{name} {pid} failed");
    for _ in 0..2000 {
        if (name == "STOP") == (state(pid) == Some('T')) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    bail!("process {pid} did not react to SIG{name}")
}

/// Whether a process is stopped, by whatever signal.
#[must_use]
pub fn is_stopped(pid: u32) -> bool {
    state(pid) == Some('T')
}

/// The kernel's letter for the state of a process: `T` is stopped, `Z` dead but not reaped.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in parentheses, may contain anything.
    stat.rsplit_once(") ")?.1.chars().next()
}
