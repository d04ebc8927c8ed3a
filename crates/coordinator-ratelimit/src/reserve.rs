//! Giving back, and reserving: a cost that is known only afterwards.

use crate::{backend::Return, decision::Decision, limiter::RateLimiter, quota::Quota};
use coordinator_core::Result;

impl RateLimiter {
    /// Gives back what a call took; how much that was. Nothing, where it counts no more: it has
    /// left the window, the limit was reset or the server's clock set back, or more than 120
    /// entries came after it. GCRA gives back what surely has not leaked: all of it where calls are
    /// given back in their order. A decision is given back once, however often this is called, and
    /// the id of its call is forgotten with it.
    ///
    /// # Errors
    /// As [`reset`](Self::reset).
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is given back. It may be repeated.
    pub async fn refund(&self, decision: &Decision) -> Result<u64> {
        self.give_back(decision, decision.taken()).await
    }

    /// Gives back what was taken from some where another denied; what cannot be given back stays
    /// charged until it leaves its window.
    pub(crate) async fn give_all_back<'a>(&self, all: impl IntoIterator<Item = &'a Decision>) {
        for decision in all {
            if let Err(error) = self.refund(decision).await {
                tracing::warn!(error = %error.chain(), "a limit stays charged for a denied call");
            }
        }
    }

    /// Gives back a part.
    async fn give_back(&self, decision: &Decision, units: u64) -> Result<u64> {
        let Some(receipt) = decision.receipt().filter(|_| units > 0) else { return Ok(0) };
        let back = Return {
            place: receipt.place.clone(),
            terms: receipt.terms,
            amount: units.min(decision.taken()),
            receipt: receipt.numbers,
            // A part of it leaves the call what it was.
            once: receipt.once.as_deref().filter(|_| units >= decision.taken()).map(Into::into),
        };
        let given = self.inner.backend.refund(&back).await?;
        if given > 0 {
            // What was denied may fit now.
            self.forget_all();
        }
        Ok(given)
    }

    /// Takes an estimate now, to be settled when the cost is known: for units of a metered service
    /// or bytes of an answer.
    ///
    /// Without a settlement the estimate stays charged and leaves the window as any other cost:
    /// a caller that dies leaks nothing, and cheats nobody.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    ///
    /// # Cancel safety
    /// As [`check`](Self::check).
    pub async fn reserve(&self, subject: &str, quota: &Quota, estimate: u64) -> Result<Reserved> {
        let decision = self.check_cost(subject, quota, estimate).await?;
        if !decision.allowed {
            return Ok(Reserved::Denied(decision));
        }
        Ok(Reserved::Reserved(Reservation {
            limits: self.clone(),
            subject: subject.to_owned(),
            quota: Box::new(quota.clone()),
            decision,
        }))
    }
}

/// What came of a reservation.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reserved {
    /// The estimate is taken.
    Reserved(Reservation),
    /// It does not fit.
    Denied(Decision),
}

impl Reserved {
    /// The reservation, if there is one.
    pub fn reserved(self) -> Option<Reservation> {
        match self {
            Self::Reserved(reservation) => Some(reservation),
            Self::Denied(_) => None,
        }
    }
}

/// An estimate that is taken and wants to be settled. Dropping it leaves the estimate charged.
#[derive(Debug)]
#[must_use = "an estimate that is not settled stays charged"]
pub struct Reservation {
    limits: RateLimiter,
    subject: String,
    /// Elsewhere, or a denial were as large as a reservation.
    quota: Box<Quota>,
    decision: Decision,
}

impl Reservation {
    /// What was decided when it was taken.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Charges what it cost: gives back the rest of the estimate, or takes what it cost more,
    /// whether that fits or not; how many units were charged in the end. What cannot be given back
    /// any more ([`RateLimiter::refund`]) stays charged.
    ///
    /// # Errors
    /// As [`RateLimiter::increment`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open what is charged: between the estimate and the cost.
    pub async fn settle(self, cost: u64) -> Result<u64> {
        // A failure policy takes nothing from the backend.
        let taken = if self.decision.receipt().is_some() { self.decision.taken() } else { 0 };
        if cost > taken {
            self.limits.increment(&self.subject, &self.quota, cost - taken).await?;
            return Ok(cost);
        }
        let given = self.limits.give_back(&self.decision, taken - cost).await?;
        Ok(taken - given)
    }

    /// Gives all of it back; how much that was.
    ///
    /// # Errors
    /// As [`RateLimiter::refund`].
    ///
    /// # Cancel safety
    /// As [`RateLimiter::refund`].
    pub async fn cancel(self) -> Result<u64> {
        self.limits.refund(&self.decision).await
    }
}
