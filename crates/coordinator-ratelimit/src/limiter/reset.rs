//! Forgetting: what one subject has used, or every subject of a quota.

use super::RateLimiter;
use crate::{backend::SHARDS, quota::Quota};
use coordinator_core::{Error, Result};

impl RateLimiter {
    /// Forgets what a subject has used, and how often it was denied; what was used. Other
    /// processes may deny it from memory for up to a second more.
    ///
    /// # Errors
    /// As [`check`](Self::check); a failure policy does not help.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is reset. It may be repeated.
    pub async fn reset(&self, subject: &str, quota: &Quota) -> Result<u64> {
        if quota.is_concurrency() {
            return Err(Error::misuse("ratelimit.reset", "slots end with their leases"));
        }
        let mut place = self.place(subject, quota)?;
        self.enter_epoch(&mut place).await?;
        let used = self.inner.backend.reset(&place, &quota.terms).await;
        self.forget(subject, quota);
        used
    }

    /// Forgets what every subject of a quota has used, of this tenant's, or of those without a
    /// tenant, without looking for them: the policy gets a new epoch, and what is counted under
    /// the old one expires. Other processes see it within a second.
    ///
    /// # Errors
    /// As [`reset`](Self::reset). Without a tenant it is many steps: after an error some of the
    /// subjects are reset.
    ///
    /// # Cancel safety
    /// Dropping the future leaves some of the subjects reset. It may be repeated.
    pub async fn reset_policy(&self, quota: &Quota) -> Result<()> {
        if quota.is_concurrency() {
            return Err(Error::misuse("ratelimit.reset_policy", "slots end with their leases"));
        }
        let any = self.place("-", quota)?;
        let shards = if self.tenant.is_some() { any.shard..any.shard + 1 } else { 0..SHARDS };
        for shard in shards {
            let mut series = any.series();
            series.shard = shard;
            self.inner.backend.reset_policy(&series).await?;
        }
        self.inner.epochs.doubt();
        if let Some(fast) = &self.inner.fast {
            fast.clear();
        }
        Ok(())
    }

    pub(crate) fn forget(&self, subject: &str, quota: &Quota) {
        if let Some(fast) = &self.inner.fast {
            fast.forget(self.question(subject, quota));
        }
    }

    /// Forgets what is known of denials, where it is not known by name.
    pub(crate) fn forget_all(&self) {
        if let Some(fast) = &self.inner.fast {
            fast.clear();
        }
    }
}
