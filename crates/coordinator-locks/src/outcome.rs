//! What asking for a lock comes to: refusals are values, failures are errors.

use crate::{Guard, lease::LossReason, token::Holder};
use coordinator_core::Error;
use std::fmt;

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
    /// Waiting would have been for ever: owners wait for each other in a circle, and the wait that
    /// began last is given up.
    Deadlock {
        /// Who waits for whom, beginning with this owner; the last waits for the first.
        cycle: Vec<Blocked>,
    },
}

/// An owner that waits for a lock which another owner holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Blocked {
    /// Who waits.
    pub owner: String,
    /// What it waits for.
    pub lock: String,
    /// Who holds that.
    pub holder: String,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} waits for {}, held by {}", self.owner, self.lock, self.holder)
    }
}

impl Outcome {
    /// The guard, for callers to whom a refusal is an error.
    ///
    /// # Errors
    /// [`Refused`] if another held the lock, or waiting would have been for ever.
    pub fn acquired(self) -> Result<Guard, Refused> {
        match self {
            Self::Acquired(guard) => Ok(guard),
            Self::TimedOut { holder } => {
                Err(Refused { holder: holder.map(Box::new), cycle: Vec::new() })
            }
            Self::Deadlock { cycle } => Err(Refused { holder: None, cycle }),
        }
    }
}

/// Another held the lock, as an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct Refused {
    /// Who held it when it was last looked at, if anybody looked.
    pub holder: Option<Box<Holder>>,
    /// Who waits for whom, if waiting would have been for ever; else empty.
    pub cycle: Vec<Blocked>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cycle.is_empty() {
            let holder = self.holder.as_ref().map_or("another", |holder| &holder.id);
            return write!(f, "the lock is held by {holder}");
        }
        f.write_str("deadlock: ")?;
        for (index, blocked) in self.cycle.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{blocked}")?;
        }
        Ok(())
    }
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

// A lost lock is an error to those who say so with `?`.
impl From<LossReason> for WithError {
    fn from(reason: LossReason) -> Self {
        Self::Lost(reason)
    }
}
