//! Quotas: how much is allowed, how it is counted, and what happens where nobody can say.

use crate::{
    backend::{Kind, MAX, Terms},
    outage::FailurePolicy,
};
use coordinator_core::{Error, Result, key::Name};
use std::{sync::Arc, time::Duration};

/// The longest window, period or lease.
const LONGEST: Duration = Duration::from_hours(24 * 366);
/// Up to this limit a sliding window is exact unless it is asked to be coarser, and this many
/// granules it has above.
const GRANULES: u32 = 100;

/// How finely a sliding window remembers when something was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Precision {
    /// Exact up to a limit of 100, 100 granules above.
    #[default]
    Auto,
    /// Every admission by itself. A key takes about 15 bytes for each of up to 126 admissions in
    /// the window, and about 100 for each where there were ever more.
    Exact,
    /// Admissions within the same n-th part of the window count from the last of them: never more
    /// is admitted than allowed, and some later by at most that part. A key stays under 2 KB for
    /// up to 100 granules, whatever the limit.
    Granules(u32),
}

/// How much is allowed: an algorithm, a limit and a span, and what belongs to them.
///
/// A quota is a value: it is asked with, not stored. A limit that changes keeps what was consumed;
/// another algorithm, window or name counts anew. Quotas of the same algorithm, window and name
/// share what a subject has consumed.
///
/// ```
/// use coordinator_ratelimit::Quota;
/// use std::time::Duration;
///
/// let search = Quota::sliding_window(100, Duration::from_secs(60)).with_name("search");
/// let burst = Quota::gcra(10, Duration::from_secs(1), 20);
/// assert_eq!((search.limit(), burst.limit()), (100, 20));
/// ```
#[derive(Debug, Clone)]
pub struct Quota {
    pub(crate) terms: Terms,
    name: Option<Arc<str>>,
    /// Algorithm and span, a colon, and the encoded name.
    pub(crate) policy: Arc<str>,
    /// What is wrong with it, told where it is used.
    flaw: Option<String>,
    precision: Precision,
    pub(crate) failure: FailurePolicy,
    pub(crate) budget: Duration,
    pub(crate) shadow: bool,
    near: Option<f64>,
    pub(crate) recorded: bool,
}

impl Quota {
    /// How long a limit with a [`FailurePolicy`] waits for the backend by default.
    pub const BUDGET: Duration = Duration::from_millis(50);

    /// The highest limit, and the highest cost: 2⁴⁴, about 17 trillion.
    pub const MAX: u64 = MAX;

    /// A sliding window log: in every window `(t − window, t]`, at every alignment, at most `limit`
    /// units are admitted. Windows of 1 µs to a year.
    pub fn sliding_window(limit: u64, window: Duration) -> Self {
        Self::new(Kind::Log, limit, window, 0).with_precision(Precision::Auto)
    }

    /// The generic cell rate algorithm (ITU-T I.371), as a token bucket: `count` units per `period`
    /// on average and up to `burst` at once. It needs the least memory, and admits up to
    /// `burst + count` units in some windows of a period.
    pub fn gcra(count: u64, period: Duration, burst: u64) -> Self {
        Self::new(Kind::Gcra, burst, period, count)
    }

    /// A counter that begins anew at every multiple of `window` since the Unix epoch, on the
    /// backend's clock. Around a boundary up to twice the limit passes within one window's length.
    pub fn fixed_window(limit: u64, window: Duration) -> Self {
        Self::new(Kind::Fixed, limit, window, 0)
    }

    /// At most `slots` at a time, each with a lease that its holder prolongs; for
    /// [`RateLimiter::enter`](crate::RateLimiter::enter). The lease is how long the slot of a
    /// process that was killed stays taken: 1 s to a year.
    pub fn concurrency(slots: u64, lease: Duration) -> Self {
        Self::new(Kind::Slots, slots, lease, 0)
    }

    fn new(kind: Kind, limit: u64, span: Duration, step: u64) -> Self {
        let span_us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let terms = Terms { kind, limit, span_us, step };
        let policy = format!("{}{span_us}:", kind.letter()).into();
        Self {
            terms,
            name: None,
            policy,
            flaw: None,
            precision: Precision::Auto,
            failure: FailurePolicy::Report,
            budget: Self::BUDGET,
            shadow: false,
            near: None,
            recorded: true,
        }
    }

    /// A name: what a subject consumed under it is counted by itself, and it stands in records
    /// and headers. 1 to 512 bytes; choose from few, not from what users send.
    pub fn with_name(mut self, name: &str) -> Self {
        match Name::new(name) {
            Ok(encoded) => {
                let (kind, span) = (self.terms.kind.letter(), self.terms.span_us);
                self.policy = format!("{kind}{span}:{}", encoded.encoded()).into();
                self.name = Some(name.into());
            }
            Err(error) => self.flaw = Some(error.chain()),
        }
        self
    }

    /// How finely a sliding window remembers; other algorithms have no use for it.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        if self.terms.kind == Kind::Log {
            self.terms.step = match precision {
                Precision::Auto => self.automatic_step(),
                Precision::Exact | Precision::Granules(0) => 0,
                Precision::Granules(n) => self.terms.span_us.div_ceil(u64::from(n)),
            };
        }
        self
    }

    /// The same quota with another limit, keeping what was consumed.
    pub fn with_limit(mut self, limit: u64) -> Self {
        self.terms.limit = limit;
        let precision = self.precision;
        self.with_precision(precision)
    }

    /// What decides where the backend cannot: default [`FailurePolicy::Report`].
    pub fn with_failure_policy(mut self, policy: FailurePolicy) -> Self {
        if let FailurePolicy::Local { share } = policy
            && !(share > 0.0 && share <= 1.0)
        {
            self.flaw = Some("a local share is above 0 and at most 1".to_owned());
        }
        self.failure = policy;
        self
    }

    /// How long to wait for the backend before the failure policy decides; default
    /// [`BUDGET`](Self::BUDGET). Without a failure policy the command timeout counts.
    pub fn with_budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// Refuses nobody, and records what would have been refused: for trying a limit out.
    pub fn with_shadow(mut self, shadow: bool) -> Self {
        self.shadow = shadow;
        self
    }

    /// Records once per window that so much of the limit is used, as `0.8`.
    pub fn with_near_limit(mut self, part: f64) -> Self {
        if !(part > 0.0 && part <= 1.0) {
            self.flaw = Some("the threshold is a part of the limit, as 0.8".to_owned());
        }
        self.near = Some(part);
        self
    }

    /// Whether denials are recorded as violations; default yes.
    pub fn with_violations(mut self, recorded: bool) -> Self {
        self.recorded = recorded;
        self
    }

    /// How much is allowed: per window, at once (GCRA's burst), or at a time (slots).
    pub fn limit(&self) -> u64 {
        self.terms.limit
    }

    /// The window, GCRA's period, or the lease of a slot.
    pub fn window(&self) -> Duration {
        Duration::from_micros(self.terms.span_us)
    }

    /// In what time a limit that is used up is all free again if nobody calls: the window, or, of
    /// GCRA, how long its burst takes to come back. For slots it is the lease.
    ///
    /// ```
    /// use coordinator_ratelimit::Quota;
    /// use std::time::Duration;
    ///
    /// let second = Duration::from_secs(1);
    /// assert_eq!(Quota::sliding_window(10, second).refills_in(), second);
    /// assert_eq!(Quota::gcra(10, second, 20).refills_in(), 2 * second);
    /// ```
    pub fn refills_in(&self) -> Duration {
        if self.terms.kind != Kind::Gcra {
            return self.window();
        }
        let us = u128::from(self.terms.limit) * u128::from(self.terms.span_us);
        let us = us.div_ceil(u128::from(self.terms.step.max(1)));
        Duration::from_micros(u64::try_from(us).unwrap_or(u64::MAX))
    }

    /// Whether it refuses nobody ([`with_shadow`](Self::with_shadow)).
    pub fn is_shadow(&self) -> bool {
        self.shadow
    }

    /// Its name, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Whether it is for [`RateLimiter::enter`](crate::RateLimiter::enter).
    pub fn is_concurrency(&self) -> bool {
        self.terms.kind == Kind::Slots
    }

    /// Whether it can be used at all.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) that says what is wrong with it, as every
    /// use of it would.
    pub fn validate(&self) -> Result<()> {
        match self.flaw.clone().or_else(|| self.terms_flaw()) {
            Some(flaw) => Err(Error::misuse("ratelimit.quota", flaw)),
            None => Ok(()),
        }
    }

    fn terms_flaw(&self) -> Option<String> {
        let Terms { kind, limit, span_us, step } = self.terms;
        let longest = u64::try_from(LONGEST.as_micros()).unwrap_or(u64::MAX);
        let flaw = if span_us == 0 {
            "a window is at least a microsecond".to_owned()
        } else if span_us > longest {
            format!("a window is at most {} days", LONGEST.as_secs() / 86400)
        } else if limit > MAX {
            format!("a limit is at most {MAX}")
        } else if kind == Kind::Slots && span_us < 1_000_000 {
            "a lease is at least a second".to_owned()
        } else if kind == Kind::Gcra && step == 0 {
            "a rate of nothing per period".to_owned()
        } else if !self.counts(limit) {
            "a burst that is too large to count exactly".to_owned()
        } else if self.precision == Precision::Granules(0) {
            "a window has at least one granule".to_owned()
        } else {
            return None;
        };
        Some(flaw)
    }

    /// Whether so many units are counted exactly: GCRA's as time, in whole numbers of a double.
    pub(crate) fn counts(&self, units: u64) -> bool {
        let Terms { kind, span_us, step, .. } = self.terms;
        let (units, step) = (u128::from(units), u128::from(step.max(1)));
        let most = 1_u128 << 52;
        kind != Kind::Gcra || units * step <= most && units * u128::from(span_us) / step <= most
    }

    fn automatic_step(&self) -> u64 {
        if self.terms.limit <= u64::from(GRANULES) {
            return 0;
        }
        self.terms.span_us.div_ceil(u64::from(GRANULES))
    }

    /// From which use on an admission is near the limit; 0 for never.
    pub(crate) fn near_from(&self) -> u64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a threshold is a part of a limit below 2^44"
        )]
        self.near.map_or(0, |part| ((self.terms.limit as f64 * part).ceil() as u64).max(1))
    }
}
