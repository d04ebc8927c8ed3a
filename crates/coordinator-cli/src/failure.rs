//! Why a verb failed: an exit code and one line that says what failed and what to try.
//!
//! Refusals (held by another, absent) are answers, not failures: verbs return their exit code.

use coordinator::{Error, ErrorKind};
use std::{fmt, io};

/// Exit codes that the verbs share; see `coordinator --help`.
pub(crate) mod exit {
    /// Done, allowed, acquired.
    pub(crate) const DONE: u8 = 0;
    /// Held by another, over the limit, absent.
    pub(crate) const REFUSED: u8 = 1;
    /// The call is wrong.
    pub(crate) const USAGE: u8 = 2;
    /// Redis is unavailable or refuses us, or the outcome is unknown.
    pub(crate) const UNAVAILABLE: u8 = 3;
    /// The lease was lost while the command ran.
    pub(crate) const LOST: u8 = 4;
}

/// An exit code and why. `Display` is one line, whatever the message was made of.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: u8,
    pub(crate) message: String,
}

impl Failure {
    /// A failure with an exit code of its own.
    pub(crate) fn new(exit: u8, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { exit, message }
    }

    /// A wrong call.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(exit::USAGE, message)
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> u8 {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::output::plain(&self.message))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (code, advice) = match error.kind() {
            ErrorKind::Misuse => (exit::USAGE, "see --help"),
            ErrorKind::Unavailable => (
                exit::UNAVAILABLE,
                "check that the server runs and that --url or COORDINATOR_URL names it",
            ),
            ErrorKind::Indeterminate => (
                exit::UNAVAILABLE,
                "look with `coordinator lock show`, or repeat the call: that is safe",
            ),
            ErrorKind::Rejected => (
                exit::UNAVAILABLE,
                "check the password, the access rules and the memory of the server",
            ),
            ErrorKind::Corrupt => (
                exit::UNAVAILABLE,
                "check that --prefix is not shared with another program or version",
            ),
            _ => (exit::UNAVAILABLE, "look closer with -v"),
        };
        Self::new(code, format!("{} ({advice})", error.chain()))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(exit::UNAVAILABLE, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_misuse_is_the_callers_fault() {
        for (kind, code) in [
            (ErrorKind::Misuse, 2),
            (ErrorKind::Unavailable, 3),
            (ErrorKind::Indeterminate, 3),
            (ErrorKind::Rejected, 3),
            (ErrorKind::Corrupt, 3),
        ] {
            assert_eq!(Failure::from(Error::new(kind, "x")).exit(), code, "{kind:?}");
        }
    }

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure::usage("two\nlines\u{1b}[31m");
        assert_eq!(failure.to_string(), "two\\nlines\\u{1b}[31m");
    }
}
