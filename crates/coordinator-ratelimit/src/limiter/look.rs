//! Looking: how limits stand, and what they would decide.

use super::{Charge, RateLimiter};
use crate::{
    backend::{Ask, How, MAX, Seen},
    decision::{Decision, Status},
    fallback,
    outage::FailurePolicy,
    quota::Quota,
};
use coordinator_core::{Error, Result};
use std::time::Duration;

impl RateLimiter {
    /// What [`check`](Self::check) would decide, without taking anything.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn peek(&self, subject: &str, quota: &Quota) -> Result<Decision> {
        self.peek_cost(subject, quota, 1).await
    }

    /// What [`check_cost`](Self::check_cost) would decide, without taking anything.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn peek_cost(&self, subject: &str, quota: &Quota, cost: u64) -> Result<Decision> {
        let seen = self.seen(subject, quota, cost).await?;
        let room = cost == 0 || seen.retry_us == Some(0);
        Ok(self.looked(quota, &seen, room))
    }

    /// What a limit would have decided that was not asked, because another one denied; by its
    /// failure policy where nobody can say.
    pub(crate) async fn look_on(&self, charge: Charge<'_>) -> Result<Decision> {
        let looked = self.peek_cost(charge.subject, charge.quota, charge.cost);
        match self.within_budget(&[charge], looked).await {
            Ok(mut decision) => {
                decision.allowed |= charge.quota.shadow;
                Ok(decision)
            }
            Err(error) => {
                let open = |quota: &Quota| quota.failure == FailurePolicy::Open || quota.shadow;
                let mut blind = fallback::blindly(&[charge], open, error)?;
                Ok(blind.remove(0).with_taken(0))
            }
        }
    }

    /// How a limit stands; slots too.
    ///
    /// # Errors
    /// As [`check`](Self::check), and whatever the failure policy says where the backend cannot be
    /// asked: nobody else knows.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn status(&self, subject: &str, quota: &Quota) -> Result<Status> {
        let seen = self.seen(subject, quota, 1).await?;
        Ok(Status {
            limit: quota.limit(),
            used: seen.used,
            remaining: quota.limit().saturating_sub(seen.used),
            reset_after: Duration::from_micros(seen.reset_us),
            denials: seen.denials,
        })
    }

    async fn seen(&self, subject: &str, quota: &Quota, cost: u64) -> Result<Seen> {
        let mut place = self.place(subject, quota)?;
        if !quota.is_concurrency() {
            self.enter_epoch(&mut place).await?;
        }
        let (terms, cost) = (quota.terms, cost.min(MAX + 1));
        let ask = Ask { place, terms, cost, how: How::IfItFits, near: 0, unasked: None };
        let mut seen = self.look(&[ask]).await?;
        seen.pop().ok_or_else(|| Error::corrupt("ratelimit.peek", "no answer for the limit"))
    }
}
