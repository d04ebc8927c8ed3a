//! Where the backend cannot be asked: the failure policy, its budget, and a breaker that spares
//! callers the budget while nobody answers.

use coordinator_core::clock::Instant;
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// What decides where the backend does not answer within the budget, or not usefully.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum FailurePolicy {
    /// Nothing: the call fails, and its caller decides.
    #[default]
    Report,
    /// Everything is allowed.
    Open,
    /// Everything is denied, with [`Source::Fallback`](crate::Source::Fallback): an outage, not a
    /// quota.
    Closed,
    /// A limit in this process alone, of this share of the quota: one over the number of
    /// instances. It is kept up to date with what this process was allowed while all is well.
    Local {
        /// Above 0, at most 1; at least one unit is allowed.
        share: f64,
    },
}

/// How many failures in a row open the breaker.
const FAILURES: u32 = 3;
/// For how long it then spares callers the budget.
const OPEN: Duration = Duration::from_millis(500);

/// Remembers that nobody answers.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Until when nobody is asked.
    open_until: Option<Instant>,
}

impl Breaker {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether to ask. Once it is due, one caller does, and the others after it answered.
    pub(crate) fn allows(&self, now: Instant) -> bool {
        let mut state = self.state();
        match state.open_until {
            Some(until) if now < until => false,
            Some(_) => {
                state.open_until = Some(now + OPEN);
                true
            }
            None => true,
        }
    }

    pub(crate) fn answered(&self) {
        let mut state = self.state();
        if state.failures > 0 {
            *state = State::default();
        }
    }

    pub(crate) fn failed(&self, now: Instant) {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        if state.failures >= FAILURES {
            state.open_until = Some(now + OPEN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_some_failures_and_lets_one_through_now_and_then() {
        let breaker = Breaker::default();
        let start = Instant::from_start(Duration::from_secs(1));
        for _ in 0..FAILURES {
            assert!(breaker.allows(start));
            breaker.failed(start);
        }
        assert!(!breaker.allows(start));
        let later = start + OPEN;
        assert!(breaker.allows(later), "one looks");
        assert!(!breaker.allows(later), "and nobody else");
        breaker.answered();
        assert!(breaker.allows(later));
    }
}
