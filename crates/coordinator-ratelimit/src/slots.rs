//! Slots: so many at a time, each with a lease that its holder prolongs.

use crate::{
    backend::{Entered, Entry, Place, Standing},
    decision::{Decision, Source},
    limiter::RateLimiter,
    quota::Quota,
    tasks,
    telemetry::{self, Counted, SLOTS_HELD},
};
use coordinator_core::{
    Error, Result,
    clock::{Instant, until},
    key::Name,
};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// What came of an entry.
#[derive(Debug)]
#[non_exhaustive]
pub enum Entrance {
    /// A slot is taken.
    Slot(Slot),
    /// All are taken; `retry_after` is when the first lease ends, if it is not prolonged.
    Full(Decision),
}

impl Entrance {
    /// The slot, if there is one.
    pub fn slot(self) -> Option<Slot> {
        match self {
            Self::Slot(slot) => Some(slot),
            Self::Full(_) => None,
        }
    }
}

/// A slot. It is prolonged in the background every third of its lease, and given back when it is
/// dropped.
#[must_use = "a slot that is dropped is given back"]
pub struct Slot {
    shared: Arc<Held>,
    _counted: Counted,
}

struct Held {
    limits: RateLimiter,
    quota: Quota,
    place: Place,
    token: Name,
    /// Until when it is surely held, by our own clock.
    until: Mutex<Instant>,
    /// Whether it was lost or given back.
    ended: watch::Sender<bool>,
}

impl RateLimiter {
    /// Takes one of a subject's slots, if one is free.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) for a quota that is not
    /// [`Quota::concurrency`]; other kinds where the backend cannot be asked: a slot is never
    /// granted by a failure policy.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Cancel safety
    /// Dropping the future may leave a slot taken for one lease.
    pub async fn enter(&self, subject: &str, quota: &Quota) -> Result<Entrance> {
        const STEP: &str = "ratelimit.enter";
        if !quota.is_concurrency() {
            return Err(Error::misuse(STEP, "only Quota::concurrency has slots"));
        }
        let backend = &self.inner.backend;
        let place = self.place(subject, quota)?;
        let token = Name::new(&format!("{:032x}", rand::random::<u128>()))?;
        let unasked = quota.recorded.then_some(0);
        let entry = Entry { place, terms: quota.terms, token, unasked };
        let sent = backend.clock().now();
        let (used, retry_us, taken) = match backend.enter(&entry).await? {
            Entered::Slot { used } => (used, Some(0), 1),
            Entered::Full { used, retry_us } => (used, retry_us, 0),
        };
        let source = if backend.is_remote() { Source::Redis } else { Source::Embedded };
        let standing = Standing { taken, used, retry_us, reset_us: 0, receipt: [0; 3] };
        let decision = Decision::of(quota, &standing, taken > 0, source);
        telemetry::decided(&decision, quota);
        if taken == 0 {
            return Ok(Entrance::Full(decision));
        }
        let shared = Arc::new(Held {
            limits: self.clone(),
            until: Mutex::new(sent + surely(quota.window())),
            quota: quota.clone(),
            place: entry.place,
            token: entry.token,
            ended: watch::channel(false).0,
        });
        tasks::spawn(stay(shared.clone()));
        Ok(Entrance::Slot(Slot { shared, _counted: SLOTS_HELD.enter() }))
    }
}

/// How much of a lease is surely left, whatever the clocks' drift.
fn surely(lease: Duration) -> Duration {
    lease - lease / 100
}

impl Held {
    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) -> bool {
        !self.ended.send_replace(true)
    }
}

/// Prolongs until the slot is given back or lost.
async fn stay(held: Arc<Held>) {
    let backend = held.limits.inner.backend.clone();
    let clock = backend.clock().clone();
    let mut ended = held.ended.subscribe();
    let third = held.quota.window() / 3;
    let mut due = clock.now() + third;
    loop {
        let next = due.min(held.until());
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => return,
            () = clock.sleep_until(next) => {}
        }
        if clock.now() >= held.until() {
            held.end();
            return;
        }
        let sent = clock.now();
        let asked = backend.stay(&held.place, &held.quota.terms, &held.token);
        match until(&*clock, held.until(), asked).await {
            Some(Ok(true)) => {
                let later = sent + surely(held.quota.window());
                *held.until.lock().unwrap_or_else(PoisonError::into_inner) = later;
                due = clock.now() + third;
            }
            Some(Ok(false)) => {
                held.end();
                return;
            }
            // Nobody answers: asked again, until the lease has ended.
            Some(Err(_)) | None => due = clock.now() + (third / 10).max(Duration::from_millis(50)),
        }
    }
}

impl Slot {
    /// Whether it is surely held still, by our own clock.
    pub fn is_valid(&self) -> bool {
        let held = &self.shared;
        !*held.ended.borrow() && held.limits.inner.backend.clock().now() < held.until()
    }

    /// Completes when it is lost: its lease ended before it could be prolonged.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lost(&self) {
        // The sender lives as long as self.
        let _ = self.shared.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Gives it back; whether it was still held.
    ///
    /// # Errors
    /// Where the backend cannot be asked: it ends with its lease.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is given back; then it ends with its lease.
    pub async fn leave(self) -> Result<bool> {
        let held = self.shared.clone();
        if !held.end() {
            return Ok(false);
        }
        held.limits.inner.backend.leave(&held.place, &held.token).await
    }
}

/// Without the token, which is all that it takes to give the slot back.
impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("place", &self.shared.place.name())
            .field("valid", &self.is_valid())
            .finish_non_exhaustive()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Told first, so that nobody prolongs what is given back.
        if self.shared.end() && tokio::runtime::Handle::try_current().is_ok() {
            let held = self.shared.clone();
            tasks::spawn(async move {
                let left = held.limits.inner.backend.leave(&held.place, &held.token).await;
                if let Err(error) = left {
                    tracing::warn!(error = %error.chain(), "a slot ends with its lease");
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slot_shows_its_place_and_not_its_token() {
        let limits = RateLimiter::embedded();
        let quota = Quota::concurrency(1, Duration::from_secs(9));
        let slot = limits.enter("bob", &quota).await.expect("an answer").slot().expect("a slot");
        let token = slot.shared.token.as_str().to_owned();
        let shown = format!("{:?}", Entrance::Slot(slot));
        assert!(shown.contains("bob") && shown.contains("valid: true"), "{shown}");
        assert!(!shown.contains(&token), "{shown}");
        assert!(!format!("{limits:?}").contains(&token));
    }
}
