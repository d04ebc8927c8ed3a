//! What operators ask of the limits that a request has: how they stand, a reset, a penalty. They
//! are asked one after the other, and decide nothing about the request.

use super::{Request, RuledLimiter, Rules, Scope, everybody, own};
use crate::{
    decision::{Decision, Status},
    limiter::RateLimiter,
    quota::Quota,
};
use coordinator_core::Result;

/// A limit of a request: whose place it is in, and under which name.
struct Limit<'a> {
    scope: Scope,
    limits: RateLimiter,
    subject: String,
    quota: &'a Quota,
}

impl RuledLimiter {
    /// The limits that have a rule for the request, in the order in which they are asked.
    fn limits_of<'a>(&self, rules: &'a Rules, request: &Request<'_>) -> Result<Vec<Limit<'a>>> {
        let (own, tenant) = own(rules, request)?;
        let mut all = Vec::with_capacity(own.len() + 1);
        if let Some(tenant) = tenant {
            let limits = self.limits.tenant(&tenant)?;
            let each = own.into_iter();
            all.extend(each.map(|(scope, subject, quota)| Limit {
                scope,
                limits: limits.clone(),
                subject,
                quota,
            }));
        }
        if let Some((subject, quota)) = everybody(rules, request)? {
            let limits = self.limits.clone();
            all.push(Limit { scope: Scope::Everybody, limits, subject, quota });
        }
        Ok(all)
    }

    /// How every limit stands that has a rule for the request; its cost and id do not matter. One
    /// look for each of them, so not all at one moment.
    ///
    /// # Errors
    /// As [`RateLimiter::status`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn status(&self, request: &Request<'_>) -> Result<Vec<(Scope, Status)>> {
        let rules = self.rules();
        let mut each = Vec::new();
        for Limit { scope, limits, subject, quota } in self.limits_of(&rules, request)? {
            each.push((scope, limits.status(&subject, quota).await?));
        }
        Ok(each)
    }

    /// Forgets what was used of every limit that has a rule for the request, also by others: a
    /// company's limit is that of all its users. What was used of each.
    ///
    /// A request that names less has fewer limits: without its endpoint, that of the endpoint
    /// stays as it is.
    ///
    /// # Errors
    /// As [`RateLimiter::reset`]; some of the limits may be reset then.
    ///
    /// # Cancel safety
    /// Dropping the future leaves some of the limits reset. It may be repeated.
    pub async fn reset(&self, request: &Request<'_>) -> Result<Vec<(Scope, u64)>> {
        let rules = self.rules();
        let mut each = Vec::new();
        for Limit { scope, limits, subject, quota } in self.limits_of(&rules, request)? {
            each.push((scope, limits.reset(&subject, quota).await?));
        }
        Ok(each)
    }

    /// Takes units for misbehaviour from every limit that has a rule for the request, more than
    /// are left if need be. How each of them stands; its cost and id do not matter.
    ///
    /// # Errors
    /// As [`RateLimiter::penalize`]; some of the limits may be charged then.
    ///
    /// # Cancel safety
    /// Not cancel safe: some of the limits may be charged.
    pub async fn penalize(
        &self,
        request: &Request<'_>,
        units: u64,
    ) -> Result<Vec<(Scope, Decision)>> {
        let rules = self.rules();
        let mut each = Vec::new();
        for Limit { scope, limits, subject, quota } in self.limits_of(&rules, request)? {
            each.push((scope, limits.penalize(&subject, quota, units).await?));
        }
        Ok(each)
    }
}
