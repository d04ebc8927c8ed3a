//! `LimitLayer`: what is limited, how, and what happens where nobody can say. Asking is
//! `plan.rs`'s.

use super::{
    asked::Asked,
    fields::shown,
    key::Key,
    limit::{Limit, distinct},
    plan::Plan,
    service::LimitService,
};
use coordinator::{
    Error, Result,
    ratelimit::{RateLimiter, RuledLimiter},
};
use http::{StatusCode, request::Parts};
use std::{fmt, sync::Arc};

/// What happens to a request where nobody could say whether it is within its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Outage {
    /// It is answered with 503.
    #[default]
    Refuse,
    /// It goes on, unlimited.
    LetThrough,
}

/// Limits the requests to a service: a layer of tower.
///
/// ```
/// use axum::{Router, routing::get};
/// use coordinator::ratelimit::{Quota, RateLimiter};
/// use coordinator_web::limits::{Key, Limit, LimitLayer};
/// use std::time::Duration;
///
/// let minute = Duration::from_secs(60);
/// let user = Key::header(http::HeaderName::from_static("x-user"));
/// let company = Key::header(http::HeaderName::from_static("x-company"));
/// let layer = LimitLayer::new(RateLimiter::embedded())
///     .with_tenant(company.clone())
///     .with_limit(Limit::new(user, Quota::sliding_window(60, minute).with_name("user")))
///     .with_limit(Limit::new(company, Quota::sliding_window(900, minute).with_name("company")))
///     .with_refund_on(|status| status.is_server_error());
/// layer.validate().unwrap();
///
/// let app: Router = Router::new().route("/", get(async || "hello")).layer(layer);
/// ```
#[derive(Clone)]
pub struct LimitLayer {
    plan: Arc<Plan>,
}

impl LimitLayer {
    /// A layer that limits nothing yet.
    pub fn new(limits: RateLimiter) -> Self {
        Self { plan: Arc::new(Plan::new(limits)) }
    }

    fn changed(mut self, change: impl FnOnce(&mut Plan)) -> Self {
        change(Arc::make_mut(&mut self.plan));
        self
    }

    /// Another limit. A request is taken from all that it has a key for, or from none.
    ///
    /// In headers and bodies it has its quota's name, or one of its window, as `per-60s`; a second
    /// of the same name is called `name-2`.
    pub fn with_limit(self, limit: Limit) -> Self {
        self.changed(|plan| {
            let taken = |name: &str| plan.each.iter().any(|(other, _)| **other == *shown(name));
            let name = shown(&distinct(&limit.label(), taken));
            plan.each.push((name, limit));
        })
    }

    /// Whose limits these are, such as a company's: they are in one place and are asked in one
    /// round trip. Without a tenant, or of a request without its key, several limits are asked one
    /// after the other, and what was taken is given back if a later one denies.
    ///
    /// The subjects of different tenants are different subjects: whoever can choose a tenant has
    /// as many limits as they like.
    pub fn with_tenant(self, tenant: impl Into<Key>) -> Self {
        self.changed(|plan| plan.tenant = Some(tenant.into()))
    }

    /// Rules that are asked too, before the limits, and what they are asked about a request:
    /// nothing, if they are not its business. If a limit denies, what the rules took is given back.
    ///
    /// In headers and bodies a rule has its quota's name, or that of its scope, as `company`.
    pub fn with_rules<F>(self, rules: RuledLimiter, ask: F) -> Self
    where
        F: Fn(&Parts) -> Option<Asked> + Send + Sync + 'static,
    {
        self.changed(|plan| plan.rules = Some((rules, Arc::new(ask))))
    }

    /// After which answers of the service the request is given back what it was charged, as where
    /// failed requests shall not count.
    ///
    /// It is given back before the answer goes out, which waits for that at most
    /// [`Quota::BUDGET`](coordinator::ratelimit::Quota::BUDGET). An answer that never comes, since
    /// the service failed or the client went away, gives nothing back.
    pub fn with_refund_on<F>(self, refund: F) -> Self
    where
        F: Fn(StatusCode) -> bool + Send + Sync + 'static,
    {
        self.changed(|plan| plan.refund_on = Some(Arc::new(refund)))
    }

    /// What happens where nobody can say and the quota has no
    /// [failure policy](coordinator::ratelimit::FailurePolicy) of its own; default
    /// [`Outage::Refuse`]. A quota without one waits for the command timeout; one with a failure
    /// policy has a budget.
    pub fn with_outage(self, outage: Outage) -> Self {
        self.changed(|plan| plan.outage = outage)
    }

    /// What a request is answered whose cost is above the limit, so that it never fits; default
    /// 429. Where the cost is the size of the body, 413 says it better. There is no `Retry-After`.
    pub fn with_never_fits(self, status: StatusCode) -> Self {
        self.changed(|plan| plan.never_fits = status)
    }

    /// Whether it can work: for a check at the start, since a layer that cannot answers every
    /// request with 500.
    ///
    /// # Errors
    /// [`Misuse`](coordinator::ErrorKind::Misuse) without any limit, for more than 64, for a quota
    /// that cannot be used, and for slots.
    pub fn validate(&self) -> Result<()> {
        const STEP: &str = "web.limits";
        let plan = &*self.plan;
        if plan.each.is_empty() && plan.rules.is_none() {
            return Err(Error::misuse(STEP, "a layer without limits"));
        }
        if plan.each.len() > 64 {
            return Err(Error::misuse(STEP, "more than 64 limits at once"));
        }
        for (_, limit) in &plan.each {
            limit.quota().validate()?;
            if limit.quota().is_concurrency() {
                return Err(Error::misuse(STEP, "slots are taken with `enter`, not by requests"));
            }
        }
        Ok(())
    }
}

impl<S> tower_layer::Layer<S> for LimitLayer {
    type Service = LimitService<S>;

    fn layer(&self, inner: S) -> LimitService<S> {
        LimitService::new(inner, self.plan.clone())
    }
}

impl fmt::Debug for LimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitLayer").field("plan", &self.plan).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator::{ErrorKind, ratelimit::Quota};
    use std::time::Duration;

    fn layer(quotas: &[Quota]) -> LimitLayer {
        let limits = quotas.iter().map(|quota| Limit::new(Key::everybody(), quota.clone()));
        limits.fold(LimitLayer::new(RateLimiter::embedded()), LimitLayer::with_limit)
    }

    #[test]
    fn names_are_stable_and_distinct() {
        let minute = Quota::sliding_window(1, Duration::from_mins(1));
        let quotas = ["", "burst", "burst", "é", ""];
        let quotas = quotas.map(|name| match name {
            "" => minute.clone(),
            name => minute.clone().with_name(name),
        });
        let layer = layer(&quotas);
        let names: Vec<_> = layer.plan.each.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["per-60s", "burst", "burst-2", "%C3%A9", "per-60s-2"]);
    }

    #[test]
    fn what_cannot_work_is_told_at_the_start() {
        let second = Duration::from_secs(1);
        let misuse = |layer: LimitLayer| layer.validate().unwrap_err().kind() == ErrorKind::Misuse;
        assert!(misuse(layer(&[])));
        assert!(misuse(layer(&[Quota::sliding_window(1, Duration::ZERO)])));
        assert!(misuse(layer(&[Quota::concurrency(1, second)])));
        assert!(misuse(layer(&vec![Quota::fixed_window(1, second); 65])));
        assert!(layer(&[Quota::fixed_window(1, second)]).validate().is_ok());
    }

    #[test]
    fn a_layer_that_was_cloned_is_not_changed_with_its_copy() {
        let one = layer(&[Quota::fixed_window(1, Duration::from_secs(1))]);
        let two = one.clone().with_outage(Outage::LetThrough);
        assert_eq!((one.plan.outage, two.plan.outage), (Outage::Refuse, Outage::LetThrough));
    }
}
