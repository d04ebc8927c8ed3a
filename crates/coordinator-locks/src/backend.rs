//! The port: the atomic steps of locks, which every backend implements.
//!
//! No waiting, retrying or renewing happens below this line; every step may be delivered twice.

use crate::token::{Holder, Token};
use coordinator_core::{BoxFuture, Result, clock::Clock, health::Finding, key::Name};
use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

/// How many shards the names are spread over, for ever: it is part of the key layout.
pub(crate) const SHARDS: u16 = 64;

/// For how long a fence outlives its last grant or renewal; after that the server's clock alone
/// keeps fences rising.
const FENCE_TTL: Duration = Duration::from_hours(168);

/// How long the fence of a lease of `ttl` is kept: far longer than the lease.
pub(crate) fn fence_ttl(ttl: Duration) -> Duration {
    FENCE_TTL.max(ttl * 4)
}

/// A request for a lock.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub(crate) name: Name,
    pub(crate) token: Token,
    pub(crate) ttl: Duration,
    /// The lowest fence that this process accepts: one more than it has seen.
    pub(crate) min_fence: u64,
    /// The encoded holder.
    pub(crate) identity: Vec<u8>,
    /// Set by the adapter when the claim is about to leave this process: until then whoever stops
    /// waiting knows that nothing was applied.
    pub(crate) sent: Arc<AtomicBool>,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Acquired {
    Granted {
        fence: u64,
    },
    Held {
        holder: Holder,
        ttl: Option<Duration>,
    },
    /// The token has a tombstone.
    Refused,
}

/// One lease to prolong; all of a batch are of one shard.
#[derive(Debug, Clone)]
pub(crate) struct Renewal {
    pub(crate) name: Name,
    pub(crate) token: Token,
    pub(crate) ttl: Duration,
}

/// What became of one lease in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewed {
    Prolonged,
    Gone,
    HeldByAnother,
    ForceReleased,
    Released,
}

/// A lease to give up, and for how long its token stays refused.
#[derive(Debug, Clone)]
pub(crate) struct Surrender {
    pub(crate) name: Name,
    pub(crate) token: Token,
    pub(crate) tombstone: Duration,
}

/// The answer to a surrender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Released {
    /// Whether the token held the lock, now or when it was first released.
    pub(crate) was_held: bool,
    /// How many listeners were woken.
    pub(crate) woken: u64,
}

/// A lock as the backend sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) name: Name,
    pub(crate) holder: Holder,
    pub(crate) ttl: Duration,
    pub(crate) waiters: u64,
}

/// The answer of the fence checker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admitted {
    Yes,
    Older {
        seen: u64,
    },
    /// The same fence came from another owner.
    Twin {
        seen: u64,
    },
}

/// What a listener hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// The grant with this fence was given up.
    Released(u64),
    /// Something may have been missed.
    Lost,
}

/// Listens for one name being given up.
pub(crate) trait Wakeups: Send + fmt::Debug {
    /// The next wake-up; cancel safe.
    fn next(&mut self) -> BoxFuture<'_, Wake>;
}

pub(crate) trait Backend: Send + Sync + fmt::Debug + 'static {
    /// Where the time of this backend comes from.
    fn clock(&self) -> &Arc<dyn Clock>;

    /// How long a step may take before it counts as unanswered.
    fn step_timeout(&self) -> Duration;

    /// Takes the lock, or says who holds it. The same token obtains its lock again.
    fn acquire<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<Acquired>>;

    /// Prolongs leases of one shard; the answers are in the order asked.
    fn renew<'a>(
        &'a self,
        shard: u16,
        leases: &'a [Renewal],
    ) -> BoxFuture<'a, Result<Vec<Renewed>>>;

    /// Gives a lock up and leaves a tombstone.
    fn release<'a>(&'a self, lease: &'a Surrender) -> BoxFuture<'a, Result<Released>>;

    /// Takes the lock from the holder with this fence; whether it held it.
    fn force_release<'a>(
        &'a self,
        name: &'a Name,
        fence: u64,
        tombstone: Duration,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<bool>>;

    /// Who holds the lock.
    fn show<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Option<Seen>>>;

    /// Held locks of one shard; how many were looked at decides whether there are more.
    fn list(&self, shard: u16, offset: u64, limit: u64) -> BoxFuture<'_, Result<(u64, Vec<Seen>)>>;

    /// Checks a fence at a resource and remembers it for `retention`.
    fn admit<'a>(
        &'a self,
        resource: &'a Name,
        fence: u64,
        owner: &'a str,
        retention: Duration,
    ) -> BoxFuture<'a, Result<Admitted>>;

    /// Listens for a name being given up; what happens from the return on is heard.
    fn listen<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Box<dyn Wakeups>>>;

    /// What of the server's set-up breaks the promises.
    fn audit(&self) -> BoxFuture<'_, Result<Vec<Finding>>>;
}
