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
            scopes.clear();
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
