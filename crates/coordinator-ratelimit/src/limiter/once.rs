//! Calls with an id, which count once.

use super::{Charge, RateLimiter};
use crate::{
    backend::How,
    decision::{Decision, Decisions},
    quota::Quota,
};
use coordinator_core::{Result, key::Name};

impl RateLimiter {
    /// Calls with an id, which count once however often they are sent: the first admission is
    /// remembered for ten minutes and told again. A denial is not remembered, since it took
    /// nothing. An id belongs to one subject and quota.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) if the id is empty or longer than 512 bytes.
    pub fn once<'a>(&'a self, id: &'a str) -> Result<Once<'a>> {
        Name::new(id)?;
        Ok(Once { limiter: self, id })
    }
}

/// Calls that count once; from [`RateLimiter::once`].
#[derive(Debug, Clone, Copy)]
pub struct Once<'a> {
    limiter: &'a RateLimiter,
    id: &'a str,
}

impl Once<'_> {
    /// As [`RateLimiter::check`], counted once.
    ///
    /// # Errors
    /// As [`RateLimiter::check`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the call is charged; repeating it with the same
    /// id charges it once in all.
    pub async fn check(&self, subject: &str, quota: &Quota) -> Result<Decision> {
        self.check_cost(subject, quota, 1).await
    }

    /// As [`RateLimiter::check_cost`], counted once.
    ///
    /// # Errors
    /// As [`RateLimiter::check`].
    ///
    /// # Cancel safety
    /// As [`check`](Self::check).
    pub async fn check_cost(&self, subject: &str, quota: &Quota, cost: u64) -> Result<Decision> {
        let charge = Charge { subject, quota, cost };
        let mut each = self.limiter.take(&[charge], How::IfItFits, Some(self.id)).await?;
        Ok(each.remove(0))
    }

    /// As [`RateLimiter::check_all`], counted once.
    ///
    /// # Errors
    /// As [`RateLimiter::check_all`].
    ///
    /// # Cancel safety
    /// As [`check`](Self::check).
    pub async fn check_all(&self, charges: &[Charge<'_>]) -> Result<Decisions> {
        self.limiter.check_all_once(charges, Some(self.id)).await
    }
}
