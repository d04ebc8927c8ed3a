//! Tokens (secret, one per acquisition), fences (public, rising) and who holds.

use coordinator_core::{Error, Result, config::Secret};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// The length of a token's text.
pub(crate) const TOKEN_BYTES: usize = 32;

/// The secret that proves an acquisition: whoever has it can renew and release the lock.
///
/// 128 random bits; `Debug` does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Secret);

impl Token {
    pub(crate) fn random() -> Self {
        Self(Secret::new(format!("{:032x}", rand::random::<u128>())))
    }

    /// Reads back what [`expose`](Self::expose) showed.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) unless it is 32 lower-case hex digits.
    pub fn parse(text: &str) -> Result<Self> {
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != TOKEN_BYTES || !text.bytes().all(hex) {
            return Err(Error::misuse("locks.token", "a token is 32 lower-case hex digits"));
        }
        Ok(Self(Secret::new(text)))
    }

    /// Shows the token, to be handed to another process: never to a log.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A fencing token: each grant of a name has a higher one than every grant before.
///
/// Send it along with each write and let the resource refuse a lower one than it has seen:
/// see [`FenceCheck`](crate::FenceCheck).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(u64);

impl Fence {
    /// The largest fence: scripts count in doubles, which are exact up to 2^53.
    pub(crate) const MAX: u64 = (1 << 53) - 1;

    /// A fence read back from where it was sent.
    pub fn new(fence: u64) -> Self {
        Self(fence)
    }

    /// The number itself.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The machine's host name.
    pub host: String,
    /// The process id.
    pub pid: u32,
    /// What the holder says it does, from [`Lock::with_task`](crate::Lock::with_task).
    pub task: Option<String>,
    /// A public id of this one acquisition, for fence checks and logs.
    pub id: String,
    /// On whose behalf, if it was acquired by an [`Owner`](crate::Owner).
    pub owner: Option<String>,
    /// When it was granted, as time since the Unix epoch on the server's clock.
    pub since: Duration,
    /// The fence it was granted with.
    pub fence: Fence,
}

/// A lock that somebody holds, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldLock {
    /// The lock's name.
    pub name: String,
    /// Who holds it.
    pub holder: Holder,
    /// How long its lease lasts yet, unless renewed.
    pub ttl: Duration,
    /// How many wait for it; see [`Locks::waiters`](crate::Locks::waiters).
    pub waiters: u64,
}

/// Who waits for a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiter {
    /// The machine's host name.
    pub host: String,
    /// The process id.
    pub pid: u32,
    /// What it says it will do, from [`Lock::with_task`](crate::Lock::with_task).
    pub task: Option<String>,
    /// On whose behalf, if an [`Owner`](crate::Owner) waits.
    pub owner: Option<String>,
    /// Its priority.
    pub priority: u8,
    /// How long it has waited.
    pub waited: Duration,
}

impl From<crate::backend::Queued> for Waiter {
    fn from(queued: crate::backend::Queued) -> Self {
        let Identity { host, pid, task, owner, .. } = Identity::decode(&queued.identity);
        Self { host, pid, task, owner, priority: queued.priority, waited: queued.waited }
    }
}

/// What a holder says of itself, stored with the lock.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) host: String,
    pub(crate) pid: u32,
    pub(crate) task: Option<String>,
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) owner: Option<String>,
}

impl Identity {
    /// This process, on a host.
    pub(crate) fn new(host: &str) -> Self {
        let (host, pid) = (host.to_owned(), std::process::id());
        Self { host, pid, task: None, id: String::new(), owner: None }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec(self).expect("strings and numbers always encode")
    }

    /// Another version's or a damaged identity still leaves a lock that is held.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        rmp_serde::from_slice(bytes).unwrap_or_else(|_| Self {
            host: "unknown".to_owned(),
            pid: 0,
            task: None,
            id: "unknown".to_owned(),
            owner: None,
        })
    }

    pub(crate) fn holder(self, fence: u64, since: Duration) -> Holder {
        let Self { host, pid, task, id, owner } = self;
        Holder { host, pid, task, id, owner, since, fence: Fence::new(fence) }
    }
}

impl From<&Holder> for Identity {
    fn from(holder: &Holder) -> Self {
        let Holder { host, pid, task, id, owner, .. } = holder.clone();
        Self { host, pid, task, id, owner }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_are_not_shown() {
        let (one, other) = (Token::random(), Token::random());
        assert_ne!(one, other);
        assert!(!format!("{one:?}").contains(one.expose()));
        assert_eq!(Token::parse(one.expose()).expect("a token"), one);
        for bad in ["", "x", &"g".repeat(32), &"A".repeat(32), &"a".repeat(33)] {
            assert!(Token::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_damaged_identity_is_an_unknown_holder() {
        assert_eq!(Identity::decode(b"\xff\xff").host, "unknown");
        let identity = Identity {
            host: "h".into(),
            pid: 7,
            task: Some("t".into()),
            id: "o".into(),
            owner: Some("job".into()),
        };
        let read = Identity::decode(&identity.encode());
        assert_eq!((read.host.as_str(), read.pid, read.task.as_deref()), ("h", 7, Some("t")));
    }
}
