//! Decisions: what was decided, by whom, and what is left.

use crate::{
    backend::{Place, Standing, Terms},
    quota::Quota,
};
use std::{sync::Arc, time::Duration};

/// Who decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// The server.
    Redis,
    /// The embedded backend.
    Embedded,
    /// This process, from an earlier denial that still holds.
    FastDeny,
    /// The failure policy: the backend could not be asked.
    Fallback,
}

impl Source {
    /// `redis`, `embedded`, `fast-deny` or `fallback`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Embedded => "embedded",
            Self::FastDeny => "fast-deny",
            Self::Fallback => "fallback",
        }
    }
}

/// What was decided of one limit.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Decision {
    /// Whether the caller may go on.
    pub allowed: bool,
    /// The quota's limit.
    pub limit: u64,
    /// What is used, this call included if it was allowed. More than the limit after a penalty.
    pub used: u64,
    /// What is left.
    pub remaining: u64,
    /// When the same call would be allowed if nobody else called: zero if it would be now, `None`
    /// if it never will because the cost is above the limit. Exact: denied a microsecond before,
    /// allowed at it. From [`Source::FastDeny`] it is no later than that.
    pub retry_after: Option<Duration>,
    /// When all of the limit is free again if nobody calls.
    pub reset_after: Duration,
    /// Who decided.
    pub source: Source,
    /// It was over the limit, and let through because the quota is a shadow.
    pub shadowed: bool,
    taken: u64,
    receipt: Option<Arc<Receipt>>,
}

/// Where an admission is, so that it can be given back.
#[derive(Debug)]
pub(crate) struct Receipt {
    pub(crate) place: Place,
    pub(crate) terms: Terms,
    pub(crate) numbers: [u64; 3],
    /// What is remembered of the call, if it had an id.
    pub(crate) once: Option<Arc<str>>,
}

impl Decision {
    /// How much was taken: the cost, less of it after
    /// [`take_at_most`](crate::RateLimiter::take_at_most), nothing if it was denied.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether the cost is above the limit, so that waiting does not help.
    pub fn never_fits(&self) -> bool {
        !self.allowed && self.retry_after.is_none()
    }

    /// What stands against the call, as the answer of a backend tells it.
    pub(crate) fn of(quota: &Quota, standing: &Standing, allowed: bool, source: Source) -> Self {
        let limit = quota.limit();
        Self {
            allowed,
            limit,
            used: standing.used,
            remaining: limit.saturating_sub(standing.used),
            retry_after: standing.retry_us.map(Duration::from_micros),
            reset_after: Duration::from_micros(standing.reset_us),
            source,
            shadowed: false,
            taken: standing.taken,
            receipt: None,
        }
    }

    /// A decision of nobody who knows.
    pub(crate) fn blind(quota: &Quota, allowed: bool, cost: u64) -> Self {
        let limit = quota.limit();
        let never = !allowed && cost > limit;
        Self {
            allowed,
            limit,
            used: 0,
            remaining: if allowed { limit } else { 0 },
            retry_after: if never {
                None
            } else if allowed {
                Some(Duration::ZERO)
            } else {
                Some(quota.budget)
            },
            reset_after: Duration::ZERO,
            source: Source::Fallback,
            shadowed: false,
            taken: if allowed { cost } else { 0 },
            receipt: None,
        }
    }

    pub(crate) fn with_taken(mut self, taken: u64) -> Self {
        self.taken = taken;
        self
    }

    pub(crate) fn with_receipt(mut self, receipt: Receipt) -> Self {
        self.receipt = Some(Arc::new(receipt));
        self
    }

    pub(crate) fn receipt(&self) -> Option<&Receipt> {
        self.receipt.as_deref()
    }

    pub(crate) fn repeated(mut self, retry_after: Option<Duration>, passed: Duration) -> Self {
        self.retry_after = retry_after;
        self.reset_after = self.reset_after.saturating_sub(passed);
        self.source = Source::FastDeny;
        self
    }
}

/// What was decided of several limits at once.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Decisions {
    /// Whether the caller may go on: every limit had room, and was charged. Else none was.
    pub allowed: bool,
    /// One for each limit, in the order asked. A limit with room is `allowed` here even where
    /// another one denied the call; nothing was taken from it then.
    pub each: Vec<Decision>,
}

impl Decisions {
    pub(crate) fn of(each: Vec<Decision>) -> Self {
        Self { allowed: each.iter().all(|decision| decision.allowed), each }
    }

    /// When all limits have room if nobody else calls: zero if they have now, `None` if one never
    /// will. The latest of all, and exact, since nothing is consumed meanwhile.
    pub fn retry_after(&self) -> Option<Duration> {
        let waits = self.each.iter().filter(|decision| !self.allowed && !decision.allowed);
        waits
            .map(|decision| decision.retry_after)
            .try_fold(Duration::ZERO, |latest, retry| retry.map(|retry| retry.max(latest)))
    }

    /// The limits that denied the call, by their place in the order asked.
    pub fn denied(&self) -> impl Iterator<Item = (usize, &Decision)> {
        self.each.iter().enumerate().filter(|(_, decision)| !decision.allowed)
    }
}

/// How a limit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The quota's limit.
    pub limit: u64,
    /// What is used.
    pub used: u64,
    /// What is left.
    pub remaining: u64,
    /// When all of it is free again if nobody calls.
    pub reset_after: Duration,
    /// How many calls were denied since the first within a window that began with it.
    pub denials: u64,
}
