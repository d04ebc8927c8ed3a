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
    /// How it stands in the queue where it is not granted at once; without, it does not wait.
    pub(crate) stand: Option<Stand>,
    /// Set by the adapter when the claim is about to leave this process: until then whoever stops
    /// waiting knows that nothing was applied.
    pub(crate) sent: Arc<AtomicBool>,
}

/// The name of a client of the backend, by which its waiters are told of their turn.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Client(pub(crate) Arc<str>);

impl Client {
    /// 16 hex digits, different for every client.
    pub(crate) fn random() -> Self {
        Self(format!("{:016x}", rand::random::<u64>()).into())
    }
}

/// What a queue knows of a claim that stands in it.
#[derive(Debug, Clone)]
pub(crate) struct Stand {
    pub(crate) client: Client,
    /// The ticket that it was given before, so that it finds its place again if it was lost.
    pub(crate) ticket: Option<u64>,
    pub(crate) priority: u8,
    /// Whether the client hears of turns as they come, or must look for them.
    pub(crate) hears: bool,
}

/// How much earlier a waiter seems to have come for each step of its priority. As everybody grows
/// older at the same pace, whoever waits so much longer passes one of higher priority.
pub(crate) const HEAD_START: Duration = Duration::from_secs(10);

/// How long a turn is kept for the waiter that was told of it.
pub(crate) const CLAIM: Duration = Duration::from_millis(600);

/// How often a client that waits must say that it lives: often enough that whoever is silent for
/// as long as a turn is kept is dead.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(300);

/// For how long after its last heartbeat a client counts as alive, unless its turn comes.
pub(crate) const ALIVE: Duration = Duration::from_secs(10);

/// The same for a client whose turn comes and who does not listen.
pub(crate) const SILENT: Duration = Duration::from_secs(1);

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Acquired {
    Granted {
        fence: u64,
    },
    /// Held by another, or free and the turn of another.
    Held {
        holder: Option<Holder>,
        ttl: Option<Duration>,
        /// Its place, if it stands in the queue.
        ticket: Option<u64>,
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
    /// Who gives it up: if it is the turn of another waiter of this client, that one is granted the
    /// lock at once.
    pub(crate) client: Client,
    /// The lowest fence that the client accepts.
    pub(crate) min_fence: u64,
    /// The claim of the next in line of this client, which waits with the release: where nobody
    /// stands in the queue it is granted the lock, else it stands there from now on.
    pub(crate) successor: Option<Box<Claim>>,
}

/// The answer to a surrender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Released {
    /// Whether the token held the lock, now or when it was first released.
    pub(crate) was_held: bool,
    /// The waiter of the same client that has the lock now, and its fence.
    pub(crate) next: Option<(Token, u64)>,
    /// The ticket of the successor, if it stands in the queue.
    pub(crate) ticket: Option<u64>,
}

/// A claim that waits, by whom its client is.
#[derive(Debug, Clone)]
pub(crate) struct Wait {
    pub(crate) name: Name,
    pub(crate) token: Token,
}

/// How a claim stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Waits,
    /// The lock is its to take, or has been granted to it.
    Turn,
    /// The queue knows it no more.
    Unknown,
}

/// What an owner waits for, as it stands in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Awaited {
    pub(crate) token: Token,
    pub(crate) name: Name,
    /// When the wait began, in µs: its ticket.
    pub(crate) since_us: u64,
}

/// How many entries the log keeps, about: the newest.
pub(crate) const LOG: usize = 10_000;

/// An entry for the log.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// Different for every entry, so that one that is delivered twice is told once.
    pub(crate) id: String,
    /// How long ago it happened.
    pub(crate) age: Duration,
    pub(crate) entry: Vec<u8>,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logged {
    /// When it happened, as time since the Unix epoch on the backend's clock.
    pub(crate) at: Duration,
    pub(crate) entry: Vec<u8>,
}

/// A waiter as the backend sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Queued {
    pub(crate) waited: Duration,
    pub(crate) priority: u8,
    /// The encoded holder that it will be.
    pub(crate) identity: Vec<u8>,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wake {
    /// It is the turn of this token.
    Turn(Token),
    /// Something may have been missed.
    Lost,
}

/// Listens for the turns of one client's waiters.
pub(crate) trait Wakeups: Send + fmt::Debug {
    /// The next wake-up; cancel safe.
    fn next(&mut self) -> BoxFuture<'_, Wake>;
}

pub(crate) trait Backend: Send + Sync + fmt::Debug + 'static {
    /// Where the time of this backend comes from.
    fn clock(&self) -> &Arc<dyn Clock>;

    /// How long a step may take before it counts as unanswered.
    fn step_timeout(&self) -> Duration;

    /// Takes the lock, or says who holds it and stands in its queue. The same token obtains its
    /// lock again, and keeps its place.
    fn acquire<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<Acquired>>;

    /// Prolongs leases of one shard; the answers are in the order asked.
    fn renew<'a>(
        &'a self,
        shard: u16,
        leases: &'a [Renewal],
    ) -> BoxFuture<'a, Result<Vec<Renewed>>>;

    /// Gives a lock up, or a place in its queue, and leaves a tombstone. The turn passes on.
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

    /// Says that a client lives, and looks how its waiters of one shard stand; the answers are in
    /// the order asked.
    fn heartbeat<'a>(
        &'a self,
        shard: u16,
        client: &'a Client,
        hears: bool,
        waits: &'a [Wait],
    ) -> BoxFuture<'a, Result<Vec<Standing>>>;

    /// Who stands in a lock's queue, the next first; at most `limit`.
    fn waiters<'a>(&'a self, name: &'a Name, limit: u64) -> BoxFuture<'a, Result<Vec<Queued>>>;

    /// Says for `lease` that an owner waits.
    fn wait_for<'a>(
        &'a self,
        owner: &'a Name,
        wait: &'a Awaited,
        lease: Duration,
    ) -> BoxFuture<'a, Result<()>>;

    /// An owner waits no more with this token.
    fn wait_no_more<'a>(&'a self, owner: &'a Name, token: &'a Token) -> BoxFuture<'a, Result<()>>;

    /// What an owner waits for.
    fn waits_of<'a>(&'a self, owner: &'a Name) -> BoxFuture<'a, Result<Vec<Awaited>>>;

    /// Appends to the log.
    fn log<'a>(&'a self, lines: &'a [Line]) -> BoxFuture<'a, Result<()>>;

    /// The newest entries of the log that are not older than `since`, the newest first; at most
    /// `limit`, and each once.
    fn read_log(&self, since: Duration, limit: u64) -> BoxFuture<'_, Result<Vec<Logged>>>;

    /// Listens for the turns of a client's waiters of one shard; what happens from the return on is
    /// heard.
    fn listen<'a>(
        &'a self,
        shard: u16,
        client: &'a Client,
    ) -> BoxFuture<'a, Result<Box<dyn Wakeups>>>;

    /// What of the server's set-up breaks the promises.
    fn audit(&self) -> BoxFuture<'_, Result<Vec<Finding>>>;
}
