//! The signals that ask the command to end: they are answered in order, so that no lock is left.

use crate::failure::Failure;
use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

/// INT, TERM, HUP and QUIT, as far as our caller does not have them ignored.
pub(crate) struct Signals([Option<unix::Signal>; 4]);

const HEARD: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];

impl Signals {
    /// Hears them from now on: by themselves they no longer end the process.
    pub(crate) fn listen() -> Result<Self, Failure> {
        // `nohup` and a shell's `&` have some ignored, and so they stay, for our child too.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mut heard = [const { None }; 4];
        for (slot, signal) in heard.iter_mut().zip(HEARD) {
            if !is_ignored(&status, signal) {
                let kind = SignalKind::from_raw(signal.as_raw());
                *slot = Some(unix::signal(kind)?);
            }
        }
        Ok(Self(heard))
    }

    /// The next of them.
    pub(crate) async fn next(&mut self) -> Signal {
        let [int, term, hup, quit] = &mut self.0;
        tokio::select! {
            () = one(int) => Signal::INT,
            () = one(term) => Signal::TERM,
            () = one(hup) => Signal::HUP,
            () = one(quit) => Signal::QUIT,
        }
    }
}

async fn one(signal: &mut Option<unix::Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// The exit code of a process that ended by a signal, as shells count.
pub(crate) fn code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Reads the mask of ignored signals from Linux' `/proc/self/status`; elsewhere none are.
fn is_ignored(status: &str, signal: Signal) -> bool {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_told_from_the_others() {
        let status = "Name:\tx\nSigIgn:\t0000000000001001\n";
        assert!(is_ignored(status, Signal::HUP));
        assert!(!is_ignored(status, Signal::INT));
        assert!(!is_ignored("", Signal::HUP));
    }

    #[test]
    fn codes_are_those_of_shells() {
        assert_eq!(code(15), 143);
        assert_eq!(code(200), 255);
    }
}
