//! The command that runs under a lock, as a process: started, told of signals, and ended.

use super::nested::Grant;
use crate::{failure::Failure, signals};
use rustix::process::{
    Pid, Signal, getpgrp, kill_process, kill_process_group, test_kill_process_group,
};
use std::{ffi::OsString, fs::File, io, os::unix::process::ExitStatusExt as _, time::Duration};
use tokio::{
    process,
    time::{sleep, timeout},
};

/// How long a command has to end after TERM.
const GRACE: Duration = Duration::from_secs(5);

/// The running command.
pub(super) struct Child {
    process: process::Child,
    pid: Pid,
    /// Whether it leads a process group of its own.
    ///
    /// It does, so that TERM and KILL reach its children too, which else would go on writing
    /// without the lock. But another group than the foreground one is stopped when it reads from
    /// the terminal. So where a person sits before us it stays in our group, as with
    /// `timeout --foreground`: the keys (Ctrl-C, Ctrl-Z, Ctrl-\) reach it by themselves, and a
    /// loss ends the command itself but not the children that it leaves behind.
    /// A run under the lease of an outer run stays in the group which that one ends.
    leads: bool,
}

impl Child {
    /// Starts it; 127 if there is no such command, 126 if it cannot be run, as shells have it.
    pub(super) fn spawn(command: &[OsString], grant: &Grant<'_>) -> Result<Self, Failure> {
        let (program, args) = command.split_first().ok_or_else(|| Failure::usage("no command"))?;
        let leads = !grant.is_again && !is_foreground();
        let mut process = process::Command::new(program);
        process.args(args).envs(grant.variables());
        if leads {
            process.process_group(0);
        }
        let unstartable = |error: io::Error| {
            let (code, advice) = match error.kind() {
                io::ErrorKind::NotFound => (127, "check its name and PATH"),
                io::ErrorKind::InvalidInput => (2, "a name or argument cannot hold NUL"),
                _ => (126, "check that it is an executable file"),
            };
            let program = program.to_string_lossy();
            Failure::new(code, format!("run {program}: {error} ({advice})"))
        };
        let process = process.spawn().map_err(unstartable)?;
        let pid = process
            .id()
            .and_then(|pid| Pid::from_raw(pid.try_into().ok()?))
            .expect("a child that was not waited for has a process id");
        Ok(Self { process, pid, leads })
    }

    /// Waits for it to end; the code is its own, or 128 and the signal that ended it.
    pub(super) async fn wait(&mut self) -> io::Result<u8> {
        let status = self.process.wait().await?;
        Ok(match (status.code(), status.signal()) {
            (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
            (None, Some(signal)) => signals::code(signal),
            (None, None) => u8::MAX,
        })
    }

    /// Passes on a signal that was sent to us.
    pub(super) fn forward(&self, signal: Signal) {
        let from_keys = [Signal::INT, Signal::QUIT].contains(&signal);
        if self.leads || !from_keys {
            self.send(signal);
        }
    }

    /// Ends it: TERM, and what is left after a while gets KILL.
    pub(super) async fn end(&mut self) {
        self.send(Signal::TERM);
        // A stopped process takes no TERM.
        self.send(Signal::CONT);
        let gone = async {
            // An error means that it was waited for already.
            let _ = self.process.wait().await;
            while self.leads && test_kill_process_group(self.pid).is_ok() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(GRACE, gone).await.is_err() {
            self.send(Signal::KILL);
            let _ = self.process.wait().await;
        }
    }

    /// To the group while it has one, else to the process for as long as it was not waited for.
    fn send(&self, signal: Signal) {
        // The only error is that there is nobody left.
        let _ = if self.leads {
            kill_process_group(self.pid, signal)
        } else if self.process.id().is_some() {
            kill_process(self.pid, signal)
        } else {
            Ok(())
        };
    }
}

/// Whether we are in the foreground of a terminal, whatever stdin is: commands may open `/dev/tty`.
fn is_foreground() -> bool {
    File::open("/dev/tty")
        .ok()
        .and_then(|terminal| rustix::termios::tcgetpgrp(terminal).ok())
        .is_some_and(|group| group == getpgrp())
}
