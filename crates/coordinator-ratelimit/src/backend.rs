//! The port: the atomic steps of rate limits, which every backend implements.
//!
//! No waiting, no fallback, no cache of decisions happens below this line.

use coordinator_core::{BoxFuture, Result, clock::Clock, key::Name};
use std::{fmt, sync::Arc, time::Duration};

/// How many shards subjects and tenants are spread over, for ever: it is part of the key layout.
pub(crate) const SHARDS: u16 = 64;

/// The highest limit and cost: totals stay whole numbers of a double.
pub(crate) const MAX: u64 = 1 << 44;

/// How an algorithm counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// The sliding window log.
    Log,
    Gcra,
    Fixed,
    /// Slots with leases.
    Slots,
}

impl Kind {
    pub(crate) fn letter(self) -> &'static str {
        match self {
            Self::Log => "s",
            Self::Gcra => "g",
            Self::Fixed => "f",
            Self::Slots => "c",
        }
    }
}

/// What a limit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) kind: Kind,
    pub(crate) limit: u64,
    /// The window, or GCRA's period, or a slot's lease, in µs.
    pub(crate) span_us: u64,
    /// A log's granule in µs, 0 for none; GCRA's count per period.
    pub(crate) step: u64,
}

/// Whom a limit is for: where its state is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) shard: u16,
    pub(crate) tenant: Option<Name>,
    /// Algorithm and span, a colon, and the encoded name of the policy if it has one.
    pub(crate) policy: Arc<str>,
    pub(crate) epoch: u64,
    pub(crate) subject: Name,
}

impl Place {
    /// `<tenant>:<algorithm and span>:<name>:<epoch>:<subject>`, the same on every backend.
    pub(crate) fn name(&self) -> String {
        let tenant = self.tenant.as_ref().map_or("", Name::encoded);
        let subject = self.subject.encoded();
        let length = tenant.len() + self.policy.len() + subject.len() + 24;
        let mut name = String::with_capacity(length);
        name.push_str(tenant);
        name.push(':');
        name.push_str(&self.policy);
        name.push(':');
        // Few policies were ever reset, and every check makes this name.
        match self.epoch {
            0 => name.push('0'),
            epoch => name.push_str(&epoch.to_string()),
        }
        name.push(':');
        name.push_str(subject);
        name
    }

    /// What has an epoch.
    pub(crate) fn series(&self) -> Series {
        Series { shard: self.shard, tenant: self.tenant.clone(), policy: self.policy.clone() }
    }
}

/// A policy of a tenant, in one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Series {
    pub(crate) shard: u16,
    pub(crate) tenant: Option<Name>,
    pub(crate) policy: Arc<str>,
}

impl Series {
    pub(crate) fn name(&self) -> String {
        format!("{}:{}", self.tenant.as_ref().map_or("", Name::encoded), self.policy)
    }
}

/// Whether and how much is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// The cost if it fits.
    IfItFits,
    /// As much of the cost as fits.
    AtMost,
    /// The cost, whether it fits or not.
    Always,
    /// The cost if it fits; if not, it is recorded and nobody is refused.
    Shadow,
}

impl How {
    #[cfg(feature = "redis")]
    pub(crate) fn number(self) -> i64 {
        match self {
            Self::IfItFits => 0,
            Self::AtMost => 1,
            Self::Always => 2,
            Self::Shadow => 3,
        }
    }
}

/// One limit to ask.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) place: Place,
    pub(crate) terms: Terms,
    /// At least 1, at most [`MAX`] + 1, which never fits.
    pub(crate) cost: u64,
    pub(crate) how: How,
    /// From which use on an admission is near the limit; 0 for never.
    pub(crate) near: u64,
    /// How many denials the caller has answered by itself since it last asked; `None`: denials are
    /// not recorded.
    pub(crate) unasked: Option<u64>,
}

/// Limits of one shard to take from, from all or from none.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) asks: Vec<Ask>,
    /// The id of the call and for how long it is remembered.
    pub(crate) once: Option<(Name, Duration)>,
    /// Whether the epochs in the places are to be checked.
    pub(crate) check_epochs: bool,
}

impl Call {
    /// What is remembered of a call with an id, and for how long: the same id with other limits is
    /// another call. The limits stand in it as the FNV-1a hash of their names.
    pub(crate) fn once(&self) -> Option<(u16, String, Duration)> {
        let ((id, ttl), first) = self.once.as_ref().zip(self.asks.first())?;
        let limits = self.asks.iter().map(|ask| format!("{};", ask.place.name()));
        let limits =
            limits.collect::<String>().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        Some((first.place.shard, format!("{limits:016x}:{}", id.encoded()), *ttl))
    }
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Taken {
    Decided {
        taken: bool,
        standings: Vec<Standing>,
    },
    /// Nothing was done: these are the epochs.
    Epochs(Vec<u64>),
}

/// How a limit stands after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// How much was taken now.
    pub(crate) taken: u64,
    pub(crate) used: u64,
    /// When another of this cost fits, if nothing else happens; `None`: never.
    pub(crate) retry_us: Option<u64>,
    /// When all of it is free, if nothing else happens.
    pub(crate) reset_us: u64,
    /// Where the admission is, for a refund.
    pub(crate) receipt: [u64; 3],
}

/// How a limit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) denials: u64,
    pub(crate) used: u64,
    pub(crate) retry_us: Option<u64>,
    pub(crate) reset_us: u64,
}

/// Something to give back.
#[derive(Debug, Clone)]
pub(crate) struct Return {
    pub(crate) place: Place,
    pub(crate) terms: Terms,
    pub(crate) amount: u64,
    /// Different for every admission, so that what is delivered twice is given back once.
    pub(crate) receipt: [u64; 3],
    /// What is remembered of the call with an id that admitted it: forgotten with it.
    pub(crate) once: Option<String>,
}

impl Return {
    /// What remembers that it was given back.
    pub(crate) fn mark(&self) -> String {
        let [first, second, third] = self.receipt;
        format!("{}:{first}-{second}-{third}", self.place.name())
    }
}

/// A slot to take.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    pub(crate) terms: Terms,
    pub(crate) token: Name,
    pub(crate) unasked: Option<u64>,
}

/// The answer to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entered {
    Slot {
        used: u64,
    },
    /// All are taken; the first lease ends then.
    Full {
        used: u64,
        retry_us: Option<u64>,
    },
}

/// What happened at a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Denied,
    Shadow,
    Near,
    /// A later version's.
    #[cfg_attr(
        not(any(feature = "redis", test)),
        expect(dead_code, reason = "one process has one version")
    )]
    Unknown,
}

/// A record of a violation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// When it was written, in ms of the backend's clock, and which it was in that ms.
    pub(crate) id: (u64, u64),
    pub(crate) event: Event,
    /// The place's name.
    pub(crate) name: String,
    pub(crate) count: u64,
    pub(crate) limit: u64,
    pub(crate) used: u64,
    pub(crate) cost: u64,
    pub(crate) span_us: u64,
    /// Whether it is the first in its span.
    pub(crate) first: bool,
}

/// Where to read records from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// Behind this entry.
    After((u64, u64)),
    /// The newest alone.
    Newest,
    /// Those not older.
    Ago(Duration),
}

/// An offender of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offender {
    /// The place's name.
    pub(crate) name: String,
    pub(crate) denials: u64,
    /// When it was last recorded, in ms of the backend's clock.
    pub(crate) last_ms: u64,
}

/// Hears of new records of a shard.
pub(crate) trait Alerts: Send + fmt::Debug {
    /// Completes when there may be a new record; cancel safe.
    fn next(&mut self) -> BoxFuture<'_, ()>;
}

pub(crate) trait Backend: Send + Sync + fmt::Debug + 'static {
    /// Where the time of this backend comes from.
    fn clock(&self) -> &Arc<dyn Clock>;

    /// What answers: a server, or this process.
    fn is_remote(&self) -> bool;

    /// Takes from one log what fits, and checks no epoch: a call of one ask, without what is rare.
    fn take<'a>(&'a self, ask: &'a Ask) -> BoxFuture<'a, Result<Standing>>;

    /// Takes from limits of one shard, from all of them or from none.
    fn take_all<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Taken>>;

    /// Looks at limits of one shard, and changes nothing.
    fn peek<'a>(&'a self, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Seen>>>;

    /// Gives back what still counts; how much that was.
    fn refund<'a>(&'a self, back: &'a Return) -> BoxFuture<'a, Result<u64>>;

    /// Forgets what was used; how much that was.
    fn reset<'a>(&'a self, place: &'a Place, terms: &'a Terms) -> BoxFuture<'a, Result<u64>>;

    /// A policy's epoch.
    fn epoch<'a>(&'a self, series: &'a Series) -> BoxFuture<'a, Result<u64>>;

    /// Gives a policy a new epoch.
    fn reset_policy<'a>(&'a self, series: &'a Series) -> BoxFuture<'a, Result<u64>>;

    /// Takes a slot for a lease. The same token has the same slot.
    fn enter<'a>(&'a self, entry: &'a Entry) -> BoxFuture<'a, Result<Entered>>;

    /// Prolongs the lease of a slot; whether it was still held.
    fn stay<'a>(
        &'a self,
        place: &'a Place,
        terms: &'a Terms,
        token: &'a Name,
    ) -> BoxFuture<'a, Result<bool>>;

    /// Gives a slot back; whether it was still held.
    fn leave<'a>(&'a self, place: &'a Place, token: &'a Name) -> BoxFuture<'a, Result<bool>>;

    /// Records of a shard, the oldest first.
    fn violations(
        &self,
        shard: u16,
        from: From,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>>>;

    /// Who of a shard is denied most often, the first first.
    fn top(&self, shard: u16, limit: usize) -> BoxFuture<'_, Result<Vec<Offender>>>;

    /// Claims a record for one of a group; whether it is this claimant's.
    fn claim<'a>(
        &'a self,
        shard: u16,
        claim: &'a Name,
        claimant: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool>>;

    /// Hears of new records of a shard; what happens from the return on is heard.
    fn listen(&self, shard: u16) -> BoxFuture<'_, Result<Box<dyn Alerts>>>;
}
