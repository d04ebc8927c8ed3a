//! A cache of lookups in this process, for who can bear to see a session a little too long.

use super::Session;
use crate::token::{Digest, Id, Token};
use coordinator_core::clock::{Clock, Instant};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How many sessions are remembered at most.
const MOST: usize = 10_000;

/// Sessions by id, with the digest that found them and when.
#[derive(Default)]
pub(super) struct Local(Mutex<HashMap<Id, (Digest, Instant, Session)>>);

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Local(..)")
    }
}

impl Local {
    fn lock(&self) -> MutexGuard<'_, HashMap<Id, (Digest, Instant, Session)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(
        &self,
        token: &Token,
        stale: Duration,
        clock: &Arc<dyn Clock>,
    ) -> Option<Session> {
        let known = self.lock();
        let (digest, at, session) = known.get(&token.place().id)?;
        let age = clock.now().saturating_since(*at);
        // Nor longer than it had to live.
        let fresh = age < stale.min(session.expires_in()) && *digest == token.digest();
        fresh.then(|| session.clone())
    }

    pub(super) fn put(&self, token: &Token, session: &Session, clock: &Arc<dyn Clock>) {
        let mut known = self.lock();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(token.place().id, (token.digest(), clock.now(), session.clone()));
    }

    pub(super) fn forget(&self, token: &Token) {
        self.lock().remove(&token.place().id);
    }

    pub(super) fn forget_all(&self) {
        self.lock().clear();
    }
}
