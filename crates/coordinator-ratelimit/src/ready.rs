//! Waiting until a limit has room: in order within a process, and exactly as long as it takes.

use crate::{
    decision::Decision,
    limiter::{Charge, RateLimiter},
    quota::Quota,
    telemetry::{WAITED, WAITERS},
};
use coordinator_core::{
    ErrorKind, Result,
    clock::{Instant, until},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The lines of this process, one for each limit that somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<HashMap<String, Arc<Line>>>);

/// Who waits for one limit: the holder of the lock asks, and sleeps until there is room.
#[derive(Debug, Default)]
struct Line {
    turn: tokio::sync::Mutex<Option<Turn>>,
}

/// Until when nothing fits, as the last answer said, for a cost so high and a limit so low.
#[derive(Debug, Clone, Copy)]
struct Turn {
    until: Instant,
    cost: u64,
    limit: u64,
}

impl Lines {
    fn line(&self, name: String) -> Arc<Line> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() > 1000 {
            lines.retain(|_, line| Arc::strong_count(line) > 1);
        }
        lines.entry(name).or_default().clone()
    }
}

impl RateLimiter {
    /// Waits until a call of cost 1 is allowed, `wait` at most, and takes it.
    ///
    /// Who waits in this process for the same limit is served in order, and only the first of
    /// them asks the backend: once, when there is room. The answer after `wait` is a denial.
    ///
    /// # Errors
    /// As [`check`](Self::check); outages are waited out within `wait`.
    ///
    /// # Cancel safety
    /// Cancel safe while it waits; dropped while it asks, the call may be charged.
    pub async fn until_ready(
        &self,
        subject: &str,
        quota: &Quota,
        wait: Duration,
    ) -> Result<Decision> {
        self.until_ready_cost(subject, quota, 1, wait).await
    }

    /// The same for any cost. One above the limit is denied at once.
    ///
    /// # Errors
    /// As [`until_ready`](Self::until_ready).
    ///
    /// # Cancel safety
    /// As [`until_ready`](Self::until_ready).
    pub async fn until_ready_cost(
        &self,
        subject: &str,
        quota: &Quota,
        cost: u64,
        wait: Duration,
    ) -> Result<Decision> {
        let clock = self.inner.backend.clock().clone();
        let began = clock.now();
        let deadline = began + wait;
        let charge = Charge { subject, quota, cost };
        if cost == 0 || cost > quota.limit() {
            return self.check_cost(subject, quota, cost).await;
        }
        let line = self.inner.lines.line(self.place(subject, quota)?.name());
        let _counted = WAITERS.enter();
        let Some(mut turn) = until(&*clock, deadline, line.turn.lock()).await else {
            return self.peek_denied(charge).await;
        };
        loop {
            if let Some(full) = turn.take()
                && cost >= full.cost
                && quota.limit() <= full.limit
            {
                // Asked once more at the end: what it knows may be of before a reset.
                clock.sleep_until(full.until.min(deadline)).await;
            }
            let asked = clock.now();
            let delay = match self.take_quietly(charge).await {
                Ok(decision) => {
                    // The next in line sleeps by this, and does not ask in vain.
                    if let Some(retry) = decision.retry_after.filter(|retry| !retry.is_zero()) {
                        let until = clock.now() + retry;
                        *turn = Some(Turn { until, cost, limit: quota.limit() });
                    }
                    if decision.allowed {
                        WAITED.record(clock.now().saturating_since(began));
                        return Ok(decision);
                    }
                    if clock.now() >= deadline || decision.never_fits() {
                        return Ok(decision);
                    }
                    Duration::ZERO
                }
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    let pause = Duration::from_millis(100);
                    if clock.now() + pause >= deadline {
                        return Err(error);
                    }
                    pause.saturating_sub(clock.now().saturating_since(asked))
                }
                Err(error) => return Err(error),
            };
            clock.sleep(delay).await;
        }
    }

    /// How a limit stands that had no room in time.
    async fn peek_denied(&self, charge: Charge<'_>) -> Result<Decision> {
        let mut decision = self.peek_cost(charge.subject, charge.quota, charge.cost).await?;
        decision.allowed = false;
        Ok(decision)
    }
}
