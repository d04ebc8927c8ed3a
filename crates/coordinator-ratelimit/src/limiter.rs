//! `RateLimiter`: what is asked of limits, and the way of a call through this process.

mod look;
mod once;
mod reset;

pub use once::Once;

use crate::{
    backend::{Ask, Backend, Call, How, Kind, MAX, Place, SHARDS, Seen, Standing, Taken},
    decision::{Decision, Decisions, Receipt, Source},
    embedded::Embedded,
    epochs::Epochs,
    fallback,
    fast::{FastDeny, Question},
    outage::Breaker,
    quota::Quota,
    ready::Lines,
    telemetry,
};
use coordinator_core::{
    Error, Result,
    clock::{Clock, Instant, SystemClock},
    key::Name,
};
use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

/// For how long the id of a call is remembered by default.
const REMEMBERED: Duration = Duration::from_mins(10);

/// Limits that instances share; clones share one backend.
///
/// ```
/// use coordinator_ratelimit::{Quota, RateLimiter};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limits = RateLimiter::embedded(); // or RateLimiter::redis(&connection)
/// let logins = Quota::sliding_window(2, Duration::from_secs(60));
///
/// assert!(limits.check("user:42", &logins).await?.allowed);
/// assert!(limits.check("user:42", &logins).await?.allowed);
/// let denied = limits.check("user:42", &logins).await?;
/// assert!(!denied.allowed && denied.retry_after.is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RateLimiter {
    pub(crate) inner: Arc<Inner>,
    tenant: Option<Name>,
}

pub(crate) struct Inner {
    pub(crate) backend: Arc<dyn Backend>,
    fast: Option<FastDeny>,
    epochs: Epochs,
    pub(crate) breaker: Breaker,
    /// What decides for limits with a local share while the backend is away.
    local: OnceLock<Arc<dyn Backend>>,
    pub(crate) lines: Lines,
    remembered: Duration,
}

impl Inner {
    fn new(backend: Arc<dyn Backend>) -> Self {
        coordinator_core::telemetry::describe(telemetry::METRICS);
        Self {
            backend,
            fast: Some(FastDeny::default()),
            epochs: Epochs::default(),
            breaker: Breaker::default(),
            local: OnceLock::new(),
            lines: Lines::default(),
            remembered: REMEMBERED,
        }
    }

    pub(crate) fn local(&self) -> &Arc<dyn Backend> {
        self.local.get_or_init(|| Arc::new(Embedded::new(self.backend.clock().clone())))
    }

    fn source(&self) -> Source {
        if self.backend.is_remote() { Source::Redis } else { Source::Embedded }
    }
}

/// One limit of several: who, how much is allowed, and what this call costs.
#[derive(Debug, Clone, Copy)]
pub struct Charge<'a> {
    pub(crate) subject: &'a str,
    pub(crate) quota: &'a Quota,
    pub(crate) cost: u64,
}

impl<'a> Charge<'a> {
    /// A cost of 1.
    pub fn new(subject: &'a str, quota: &'a Quota) -> Self {
        Self { subject, quota, cost: 1 }
    }

    /// Another cost; 0 takes nothing and always fits.
    pub fn with_cost(mut self, cost: u64) -> Self {
        self.cost = cost;
        self
    }
}

impl RateLimiter {
    /// Limits over Redis or Valkey.
    #[cfg(feature = "redis")]
    pub fn redis(connection: &coordinator_core::redis::Connection) -> Self {
        Self::over(Arc::new(crate::redis::Redis::new(connection)))
    }

    /// Limits in this process alone, in memory.
    pub fn embedded() -> Self {
        Self::embedded_with_clock(Arc::new(SystemClock))
    }

    /// The same on another clock: for tests, or to replay a log on its own timestamps. The wall
    /// clock decides, as a server's does.
    pub fn embedded_with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::over(Arc::new(Embedded::new(clock)))
    }

    pub(crate) fn over(backend: Arc<dyn Backend>) -> Self {
        Self { inner: Arc::new(Inner::new(backend)), tenant: None }
    }

    /// Another client of the same backend, as another process would be. For tests.
    #[doc(hidden)]
    pub fn peer(&self) -> Self {
        Self {
            inner: Arc::new(Inner::new(self.inner.backend.clone())),
            tenant: self.tenant.clone(),
        }
    }

    /// The same limits without fast deny: every call asks the backend. The answer is a client of
    /// its own.
    pub fn without_fast_deny(&self) -> Self {
        let mut inner = Inner::new(self.inner.backend.clone());
        inner.fast = None;
        inner.remembered = self.inner.remembered;
        Self { inner: Arc::new(inner), tenant: self.tenant.clone() }
    }

    /// The limits of a tenant, such as a company. All its limits are in one place, so that
    /// [`check_all`](Self::check_all) may take from several at once. A tenant's subject and an
    /// equally named one without a tenant, or of another tenant, are different subjects.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) if the name is empty or longer than 512
    /// bytes.
    pub fn tenant(&self, tenant: &str) -> Result<Self> {
        Ok(Self { inner: self.inner.clone(), tenant: Some(Name::new(tenant)?) })
    }

    pub(crate) fn question<'a>(&'a self, subject: &'a str, quota: &'a Quota) -> Question<'a> {
        Question { tenant: self.tenant.as_ref(), policy: &quota.policy, subject }
    }

    pub(crate) fn place(&self, subject: &str, quota: &Quota) -> Result<Place> {
        quota.validate()?;
        let subject = Name::new(subject)?;
        Ok(Place {
            shard: self.tenant.as_ref().unwrap_or(&subject).shard(SHARDS),
            tenant: self.tenant.clone(),
            policy: quota.policy.clone(),
            epoch: 0,
            subject,
        })
    }

    /// What to ask of a limit, and whether its epoch is due.
    pub(crate) fn ask(&self, charge: Charge<'_>, how: How) -> Result<(Ask, bool)> {
        let Charge { subject, quota, cost } = charge;
        if quota.is_concurrency() {
            return Err(Error::misuse("ratelimit.check", "slots are taken with `enter`"));
        }
        let mut place = self.place(subject, quota)?;
        let due = self.inner.epochs.enter(&mut place, self.inner.backend.clock().now());
        let unasked = quota.recorded.then(|| match &self.inner.fast {
            Some(fast) => fast.unasked(self.question(subject, quota)),
            None => 0,
        });
        let unasked = unasked.filter(|_| !quota.shadow || how == How::IfItFits);
        let how = if quota.shadow && how == How::IfItFits { How::Shadow } else { how };
        // What is above the highest limit never fits, however far above.
        let cost = cost.min(MAX + 1);
        Ok((Ask { place, terms: quota.terms, cost, how, near: quota.near_from(), unasked }, due))
    }

    /// Brings the epoch of a place up to date, for what has no answer that says that it is not.
    async fn enter_epoch(&self, place: &mut Place) -> Result<()> {
        let (inner, now) = (&*self.inner, self.inner.backend.clock().now());
        if inner.epochs.enter(place, now) {
            place.epoch = inner.backend.epoch(&place.series()).await?;
            inner.epochs.learn(place, place.epoch, now);
        }
        Ok(())
    }

    /// Asks the backend, again where a policy has got another epoch.
    pub(crate) async fn standings(&self, call: &mut Call) -> Result<Vec<Standing>> {
        let (inner, clock) = (&*self.inner, self.inner.backend.clock());
        let plain =
            |ask: &Ask| ask.terms.kind == Kind::Log && ask.how == How::IfItFits && ask.near == 0;
        loop {
            if let ([ask], None, false) = (&call.asks[..], &call.once, call.check_epochs)
                && plain(ask)
            {
                return Ok(vec![inner.backend.take(ask).await?]);
            }
            let asked = clock.now();
            match inner.backend.take_all(call).await? {
                Taken::Decided { standings, .. } => {
                    if call.check_epochs {
                        for ask in &call.asks {
                            inner.epochs.learn(&ask.place, ask.place.epoch, asked);
                        }
                    }
                    return Ok(standings);
                }
                Taken::Epochs(epochs) => {
                    for (ask, epoch) in call.asks.iter_mut().zip(epochs) {
                        ask.place.epoch = epoch;
                        inner.epochs.learn(&ask.place, epoch, asked);
                    }
                    call.check_epochs = false;
                }
            }
        }
    }

    /// Takes from limits, by the failure policy where the backend cannot be asked.
    async fn take(
        &self,
        charges: &[Charge<'_>],
        how: How,
        id: Option<&str>,
    ) -> Result<Vec<Decision>> {
        let mut call =
            Call { asks: Vec::with_capacity(charges.len()), once: None, check_epochs: false };
        for charge in charges {
            let (ask, due) = self.ask(*charge, how)?;
            call.check_epochs |= due;
            call.asks.push(ask);
        }
        if let Some(id) = id {
            call.once = Some((Name::new(id)?, self.inner.remembered));
        }
        // A cost of nothing takes nothing, and fits: it is a look.
        if charges.iter().all(|charge| charge.cost == 0) {
            let looked = async {
                for ask in &mut call.asks {
                    self.enter_epoch(&mut ask.place).await?;
                }
                self.look(&call.asks).await
            };
            let seen = match self.within_budget(charges, looked).await {
                Ok(seen) => seen,
                Err(error) => return fallback::blindly(charges, |_| true, error),
            };
            let each = charges.iter().zip(seen);
            return Ok(each.map(|(charge, seen)| self.looked(charge.quota, &seen, true)).collect());
        }
        if charges.iter().any(|charge| charge.cost == 0) {
            return Err(Error::misuse(
                "ratelimit.check",
                "one of several costs is 0: leave it out",
            ));
        }
        let clock = self.inner.backend.clock();
        let asked = clock.now();
        let untold: Vec<_> = call.asks.iter().map(|ask| ask.unasked.unwrap_or(0)).collect();
        let standings = match self.within_budget(charges, self.standings(&mut call)).await {
            Ok(standings) => standings,
            Err(error) => {
                self.put_back(charges, &untold);
                return self.fall_back(charges, how, error).await;
            }
        };
        let times = (asked, clock.now());
        let taken = standings.iter().any(|standing| standing.taken > 0);
        let mut each = Vec::with_capacity(charges.len());
        let once: Option<Arc<str>> = call.once().map(|(_, name, _)| name.into());
        for ((charge, standing), ask) in charges.iter().zip(&standings).zip(call.asks) {
            let decision = self.decide(charge, standing, (ask.place, once.clone()), taken, how);
            self.note(charge, &decision, times, how);
            each.push(decision);
        }
        self.keep_warm(charges, &each).await;
        Ok(each)
    }

    /// Denials that were answered from memory and could not be told are told next time.
    fn put_back(&self, charges: &[Charge<'_>], untold: &[u64]) {
        let Some(fast) = &self.inner.fast else { return };
        for (charge, untold) in charges.iter().zip(untold).filter(|(_, untold)| **untold > 0) {
            fast.put_back(self.question(charge.subject, charge.quota), *untold);
        }
    }

    fn decide(
        &self,
        charge: &Charge<'_>,
        standing: &Standing,
        (place, once): (Place, Option<Arc<str>>),
        taken: bool,
        how: How,
    ) -> Decision {
        let quota = charge.quota;
        let fits =
            standing.taken > 0 || !taken && how == How::IfItFits && standing.retry_us == Some(0);
        let source = self.inner.source();
        let mut decision = Decision::of(quota, standing, fits || quota.shadow, source);
        decision.shadowed = quota.shadow && !fits;
        if standing.taken > 0 {
            decision = decision.with_receipt(Receipt {
                place,
                terms: quota.terms,
                numbers: standing.receipt,
                once,
            });
        }
        decision
    }

    /// Remembers a denial, and counts the decision.
    fn note(&self, charge: &Charge<'_>, decision: &Decision, times: (Instant, Instant), how: How) {
        telemetry::decided(decision, charge.quota);
        if let Some(fast) = &self.inner.fast
            && how == How::IfItFits
            && !charge.quota.shadow
        {
            fast.remember(
                self.question(charge.subject, charge.quota),
                (&charge.quota.terms, charge.cost),
                decision,
                times,
            );
        }
    }

    async fn look(&self, asks: &[Ask]) -> Result<Vec<Seen>> {
        self.inner.backend.peek(asks).await
    }

    fn looked(&self, quota: &Quota, seen: &Seen, allowed: bool) -> Decision {
        let standing = Standing {
            taken: 0,
            used: seen.used,
            retry_us: seen.retry_us,
            reset_us: seen.reset_us,
            receipt: [0; 3],
        };
        Decision::of(quota, &standing, allowed, self.inner.source())
    }

    /// Whether a call of cost 1 may go on; consumes 1 if so.
    ///
    /// Sent once: without an answer it may have been charged. [`once`](Self::once) makes a call
    /// that can be repeated.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) for a quota or subject that cannot be; any
    /// other kind only where the quota has no failure policy.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the call is charged.
    pub async fn check(&self, subject: &str, quota: &Quota) -> Result<Decision> {
        self.check_cost(subject, quota, 1).await
    }

    /// The same for any cost. A cost of 0 is allowed and takes nothing; one above the limit never
    /// fits ([`Decision::never_fits`]).
    ///
    /// # Errors
    /// As [`check`](Self::check).
    ///
    /// # Cancel safety
    /// As [`check`](Self::check).
    pub async fn check_cost(&self, subject: &str, quota: &Quota, cost: u64) -> Result<Decision> {
        if let Some(denied) = self.denied_before(subject, quota, cost) {
            return Ok(denied);
        }
        let charge = Charge { subject, quota, cost };
        let mut each = self.take(&[charge], How::IfItFits, None).await?;
        Ok(each.remove(0))
    }

    /// Takes a cost if it fits, whatever is known of denials, and records none: waiting is no
    /// violation.
    pub(crate) async fn take_quietly(&self, charge: Charge<'_>) -> Result<Decision> {
        let quota = charge.quota.clone().with_violations(false);
        let mut each =
            self.take(&[Charge { quota: &quota, ..charge }], How::IfItFits, None).await?;
        Ok(each.remove(0))
    }

    /// A denial that still holds.
    fn denied_before(&self, subject: &str, quota: &Quota, cost: u64) -> Option<Decision> {
        let fast = self.inner.fast.as_ref().filter(|_| !quota.shadow && cost > 0)?;
        let now = self.inner.backend.clock().now();
        let denied = fast.deny(self.question(subject, quota), &quota.terms, cost, now)?;
        telemetry::decided(&denied, quota);
        Some(denied)
    }

    /// Takes from several limits of this tenant at once, in one round trip: from all of them, or,
    /// if one has no room, from none.
    ///
    /// # Errors
    /// As [`check`](Self::check). [`Misuse`](coordinator_core::ErrorKind::Misuse) for more than one
    /// limit without a [`tenant`](Self::tenant): a cluster keeps them in different places
    /// ([`check_split`](Self::check_split)).
    ///
    /// # Cancel safety
    /// As [`check`](Self::check).
    pub async fn check_all(&self, charges: &[Charge<'_>]) -> Result<Decisions> {
        self.check_all_once(charges, None).await
    }

    pub(crate) async fn check_all_once(
        &self,
        charges: &[Charge<'_>],
        id: Option<&str>,
    ) -> Result<Decisions> {
        const STEP: &str = "ratelimit.check_all";
        if charges.len() > 1 && self.tenant.is_none() {
            let why = "limits without a tenant share no place: use `tenant` or `check_split`";
            return Err(Error::misuse(STEP, why));
        }
        if charges.len() > 64 {
            return Err(Error::misuse(STEP, "more than 64 limits at once"));
        }
        if charges.is_empty() {
            return Ok(Decisions::of(Vec::new()));
        }
        let mut seen = std::collections::HashSet::new();
        if !charges.iter().all(|charge| seen.insert((charge.subject, &charge.quota.policy))) {
            return Err(Error::misuse(STEP, "the same limit twice: add up its costs"));
        }
        Ok(Decisions::of(self.take(charges, How::IfItFits, id).await?))
    }

    /// Takes from limits that share no place, one after the other, and gives back what was taken
    /// if a later one has no room. Never more is admitted than allowed; while it is under way
    /// others may be denied for what is given back.
    ///
    /// # Errors
    /// As [`check`](Self::check). What was taken before an error is given back where possible.
    ///
    /// # Cancel safety
    /// Not cancel safe: what was taken so far stays taken.
    pub async fn check_split(&self, charges: &[Charge<'_>]) -> Result<Decisions> {
        let mut each: Vec<Decision> = Vec::with_capacity(charges.len());
        for charge in charges {
            let decided = self.check_cost(charge.subject, charge.quota, charge.cost).await;
            let denied = decided.as_ref().is_ok_and(|decision| !decision.allowed);
            if denied || decided.is_err() {
                self.give_all_back(&each).await;
            }
            each.push(decided?);
            if denied {
                break;
            }
        }
        // Those behind it were not asked: they are looked at.
        for charge in &charges[each.len()..] {
            each.push(self.look_on(*charge).await?);
        }
        Ok(Decisions::of(each))
    }

    /// Counts a cost whether it fits or not: for what happened already. The decision says how the
    /// limit stands; it is always allowed.
    ///
    /// # Errors
    /// As [`check`](Self::check), and [`Misuse`](coordinator_core::ErrorKind::Misuse) for a cost
    /// above [`Quota::MAX`].
    ///
    /// # Cancel safety
    /// As [`check`](Self::check).
    pub async fn increment(&self, subject: &str, quota: &Quota, cost: u64) -> Result<Decision> {
        const STEP: &str = "ratelimit.increment";
        if cost > MAX {
            return Err(Error::misuse(STEP, format!("a cost is at most {MAX}")));
        }
        if !quota.counts(cost) {
            return Err(Error::misuse(STEP, "a cost that is too large to count exactly"));
        }
        if cost == 0 {
            return self.check_cost(subject, quota, 0).await;
        }
        let charge = Charge { subject, quota, cost };
        Ok(self.take(&[charge], How::Always, None).await?.remove(0))
    }

    /// Takes units for misbehaviour, more than are left if need be: then nothing fits for longer.
    ///
    /// # Errors
    /// As [`increment`](Self::increment).
    ///
    /// # Cancel safety
    /// As [`check`](Self::check).
    pub async fn penalize(&self, subject: &str, quota: &Quota, units: u64) -> Result<Decision> {
        self.increment(subject, quota, units).await
    }

    /// Takes as many units as fit, `most` at most; [`Decision::taken`] says how many. It is
    /// allowed if at least one fits.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    ///
    /// # Cancel safety
    /// As [`check`](Self::check).
    pub async fn take_at_most(&self, subject: &str, quota: &Quota, most: u64) -> Result<Decision> {
        if most == 0 {
            return self.check_cost(subject, quota, 0).await;
        }
        // More than the limit is the limit, which may fit.
        let cost = most.min(quota.limit().max(1));
        let charge = Charge { subject, quota, cost };
        Ok(self.take(&[charge], How::AtMost, None).await?.remove(0))
    }

    /// Whose limits these are.
    pub(crate) fn tenant_name(&self) -> Option<&Name> {
        self.tenant.as_ref()
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter")
            .field("backend", &self.inner.backend)
            .field("tenant", &self.tenant)
            .finish()
    }
}
