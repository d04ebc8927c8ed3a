//! What a process knows of the scopes that it publishes to.

use coordinator_core::clock::Instant;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How many scopes are remembered.
const SCOPES_MAX: usize = 16_384;

/// What is known of a scope.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) epoch: u64,
    pub(crate) generation: u64,
    /// When it was looked whether the server is still the one of the epoch: what the server
    /// remembers of that lasts as long as the scope.
    pub(crate) checked: Instant,
    /// Until when the server keeps it at least.
    pub(crate) lives: Instant,
    /// When it was looked for events that are too old.
    pub(crate) swept: Option<Instant>,
}

/// By scope.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    scopes: Mutex<HashMap<String, Known>>,
}

impl Epochs {
    fn scopes(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn known(&self, scope: &str) -> Option<Known> {
        self.scopes().get(scope).copied()
    }

    pub(crate) fn learn(&self, scope: &str, known: Known) {
        let mut scopes = self.scopes();
        if let Some(old) = scopes.get_mut(scope) {
            // What was asked earlier may be answered later.
            if known.epoch >= old.epoch {
                *old = Known { swept: old.swept, ..known };
            }
            return;
        }
        if scopes.len() >= SCOPES_MAX {
            // The half that was not checked for the longest, at the cost of another check.
            let mut checked: Vec<_> = scopes.values().map(|known| known.checked).collect();
            let half = checked.len() / 2;
            let (_, middle, _) = checked.select_nth_unstable(half);
            let middle = *middle;
            scopes.retain(|_, known| known.checked > middle);
        }
        scopes.insert(scope.to_owned(), known);
    }

    pub(crate) fn forget(&self, scope: &str) {
        self.scopes().remove(scope);
    }

    /// Whether it is time to look for events that are too old; then it is not for a while.
    pub(crate) fn is_to_be_swept(&self, scope: &str, now: Instant, every: Duration) -> bool {
        let mut scopes = self.scopes();
        let Some(known) = scopes.get_mut(scope) else { return false };
        let due = known.swept.is_none_or(|swept| now.saturating_since(swept) >= every);
        if due {
            known.swept = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator_core::clock::{Clock as _, ManualClock};

    #[test]
    fn of_too_many_scopes_those_that_were_looked_at_last_are_remembered() {
        let (clock, epochs) = (ManualClock::new(), Epochs::default());
        let scope = |number: usize| format!("s{number}");
        for number in 0..=SCOPES_MAX {
            clock.advance(Duration::from_millis(1));
            let checked = clock.now();
            let known = Known { epoch: 1, generation: 1, checked, lives: checked, swept: None };
            epochs.learn(&scope(number), known);
        }
        let known = (0..=SCOPES_MAX).filter(|number| epochs.known(&scope(*number)).is_some());
        let first = known.clone().next().expect("some are known");
        assert!((SCOPES_MAX / 2..=SCOPES_MAX / 2 + 1).contains(&first), "{first}");
        assert_eq!(known.count(), SCOPES_MAX + 1 - first);
    }
}
