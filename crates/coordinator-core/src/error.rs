//! The one error of the workspace, named by what the caller may do next.
//!
//! Refusals are not here: a lock held by another or a limit reached is a value of its own.

use std::{borrow::Cow, error::Error as StdError, fmt};

/// What went wrong, named by what the caller may do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The server could not be reached or is not ready, and the step was surely not applied.
    /// Trying again later is safe.
    Unavailable,
    /// The step was sent and no answer came: it was perhaps applied.
    /// Every step of this workspace is safe to repeat with the same token or call id.
    Indeterminate,
    /// The server refused: authentication, access rules, memory, a read-only replica.
    /// Trying again helps only after somebody changed something.
    Rejected,
    /// The server answered with something that cannot be understood, or stored data is damaged.
    Corrupt,
    /// The call itself or the configuration is wrong; nothing was sent.
    Misuse,
}

impl ErrorKind {
    fn text(self) -> &'static str {
        match self {
            Self::Unavailable => "the server is unavailable, nothing was applied",
            Self::Indeterminate => "no answer came, the step was perhaps applied",
            Self::Rejected => "the server refused",
            Self::Corrupt => "the answer cannot be understood",
            Self::Misuse => "invalid use",
        }
    }
}

/// An error: its [`ErrorKind`], the step that met it and, where there is one, its source.
///
/// `Display` prints this level alone; walk [`std::error::Error::source`] (or print with
/// [`Error::chain`]) for the rest.
/// The wording may change; branch on [`Error::kind`].
/// No secret (password, lock token) is ever part of it.
///
/// ```
/// use coordinator_core::{Error, ErrorKind};
///
/// let error = Error::misuse("locks.acquire", "the ttl is zero");
/// assert_eq!(error.kind(), ErrorKind::Misuse);
/// assert!(!error.is_retryable());
/// assert_eq!(error.chain(), "locks.acquire: invalid use: the ttl is zero");
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    step: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` met by `step`, such as `locks.acquire`.
    pub fn new(kind: ErrorKind, step: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { kind, step: step.into(), source: None }))
    }

    /// The same error with what caused it; a plain string will do.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// A wrong call: `why` says what is wrong with it.
    pub fn misuse(step: impl Into<Cow<'static, str>>, why: impl Into<String>) -> Self {
        Self::new(ErrorKind::Misuse, step).with_source(why.into())
    }

    /// An answer or stored value that cannot be understood.
    pub fn corrupt(step: impl Into<Cow<'static, str>>, why: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, step).with_source(why.into())
    }

    /// What the caller may do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The step that met the error, such as `locks.acquire`.
    pub fn step(&self) -> &str {
        &self.0.step
    }

    /// Whether the same call, repeated later and unchanged, may succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Unavailable | ErrorKind::Indeterminate)
    }

    /// The same error for another whom it befell: its sources are a text then.
    pub fn duplicate(&self) -> Self {
        let copy = Self::new(self.kind(), self.0.step.clone());
        if self.source().is_none() {
            return copy;
        }
        let why = self.chain().split_off(self.to_string().len());
        copy.with_source(why.trim_start_matches(": "))
    }

    /// This error and its sources on one line, joined by colons.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.step, self.0.kind.text())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("step", &self.0.step)
            .field("source", &self.0.source.as_ref().map(ToString::to_string))
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}

/// A [`std::result::Result`] whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_never_repeats_its_source() {
        let error = Error::new(ErrorKind::Rejected, "locks.acquire").with_source("OOM");
        assert_eq!(error.to_string(), "locks.acquire: the server refused");
        assert_eq!(error.chain(), "locks.acquire: the server refused: OOM");
    }

    #[test]
    fn a_duplicate_says_the_same() {
        let deep = Error::corrupt("b", "odd: indeed");
        for error in [
            Error::new(ErrorKind::Rejected, "a"),
            Error::misuse("a", "why"),
            Error::new(ErrorKind::Indeterminate, "a").with_source(deep),
        ] {
            let copy = error.duplicate();
            assert_eq!((copy.kind(), copy.chain()), (error.kind(), error.chain()));
        }
    }

    #[test]
    fn only_what_may_succeed_unchanged_is_retryable() {
        for (kind, retryable) in [
            (ErrorKind::Unavailable, true),
            (ErrorKind::Indeterminate, true),
            (ErrorKind::Rejected, false),
            (ErrorKind::Corrupt, false),
            (ErrorKind::Misuse, false),
        ] {
            assert_eq!(Error::new(kind, "x").is_retryable(), retryable, "{kind:?}");
        }
    }
}
