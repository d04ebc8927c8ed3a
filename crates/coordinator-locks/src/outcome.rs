//! What asking for a lock comes to: refusals are values, failures are errors.

use crate::{Guard, lease::LossReason, token::Holder};
use coordinator_core::Error;

/// What an acquire came to.
#[derive(Debug)]
#[non_exhaustive]
#[must_use = "an acquired lock is given up when it is dropped"]
pub enum Outcome {
    /// The lock is ours.
    Acquired(Guard),
    /// Another held it for as long as we were ready to wait.
    TimedOut {
        /// Who held it when it was last looked at, if anybody looked.
        holder: Option<Holder>,
    },
}

impl Outcome {
    /// The guard, for callers to whom a refusal is an error.
    ///
    /// # Errors
    /// [`Refused`] if another held the lock.
    pub fn acquired(self) -> Result<Guard, Refused> {
        match self {
            Self::Acquired(guard) => Ok(guard),
            Self::TimedOut { holder } => Err(Refused { holder }),
        }
    }
}

/// Another held the lock, as an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("the lock is held by {}", holder.as_ref().map_or("another", |holder| &holder.owner))]
pub struct Refused {
    /// Who held it when it was last looked at, if anybody looked.
    pub holder: Option<Holder>,
}

/// Why [`Locks::with`](crate::Locks::with) did not finish its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WithError {
    /// Another held the lock; the work was not begun.
    #[error(transparent)]
    Refused(Refused),
    /// The lock was lost; the work was dropped where it stood.
    #[error("the work was dropped: {0}")]
    Lost(LossReason),
    /// The lock could not be asked for; the work was not begun.
    #[error(transparent)]
    Failed(Error),
}
