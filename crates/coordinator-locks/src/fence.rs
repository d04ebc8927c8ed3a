//! The fence checker: what makes a lock safe to rely on, asked at the resource.

use crate::{backend::Admitted, client::Inner, token::Fence};
use coordinator_core::{BoxFuture, Error, Result, key::Name};
use std::{fmt, sync::Arc, time::Duration};

/// Whether a write may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[must_use = "a write that is not admitted must not happen"]
pub enum Admission {
    /// No newer holder has written: write.
    Admitted,
    /// A newer holder has written: do not.
    Stale {
        /// The highest fence seen.
        seen: Fence,
    },
    /// This very fence was seen from another owner, which no lock of ours ever grants: do not
    /// write, and find out who forged it or which state was lost.
    Duplicate {
        /// The highest fence seen.
        seen: Fence,
    },
}

impl Admission {
    /// Whether the write may pass.
    pub fn is_admitted(self) -> bool {
        matches!(self, Self::Admitted)
    }
}

/// Decides at a resource whether a holder may write: the fence must be higher than every one seen,
/// or equal and from the same owner.
///
/// The check and the write belong together: in SQL one statement
/// (`UPDATE … SET fence = $1 WHERE fence <= $1`), in Redis one script. [`FenceRegister`] keeps the
/// highest fence in the locks' own backend, for resources that cannot.
pub trait FenceCheck: Send + Sync + fmt::Debug {
    /// Admits a write to `resource` by the holder with `fence`, whose
    /// [`id`](crate::Guard::id) is `owner`, or says why not.
    ///
    /// # Errors
    /// If the register could not be asked: then do not write.
    fn check<'a>(
        &'a self,
        resource: &'a str,
        fence: Fence,
        owner: &'a str,
    ) -> BoxFuture<'a, Result<Admission>>;
}

/// A [`FenceCheck`] in the locks' own backend, one atomic step per check; see
/// [`Locks::fence_register`](crate::Locks::fence_register).
#[derive(Debug, Clone)]
pub struct FenceRegister {
    inner: Arc<Inner>,
    retention: Duration,
}

impl FenceRegister {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, retention: Duration::from_hours(168) }
    }

    /// For how long after the last admitted write a fence is remembered: longer than any stale
    /// holder could come back. Default 7 days.
    pub fn with_retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }
}

impl FenceCheck for FenceRegister {
    fn check<'a>(
        &'a self,
        resource: &'a str,
        fence: Fence,
        owner: &'a str,
    ) -> BoxFuture<'a, Result<Admission>> {
        Box::pin(async move {
            const STEP: &str = "locks.admit";
            let resource = Name::new(resource)?;
            if fence.get() > Fence::MAX {
                return Err(Error::misuse(STEP, "a fence is less than 2^53"));
            }
            let asked = self.inner.backend.admit(&resource, fence.get(), owner, self.retention);
            Ok(match self.inner.answer(STEP, asked).await? {
                Admitted::Yes => Admission::Admitted,
                Admitted::Older { seen } => Admission::Stale { seen: Fence::new(seen) },
                Admitted::Twin { seen } => Admission::Duplicate { seen: Fence::new(seen) },
            })
        })
    }
}
