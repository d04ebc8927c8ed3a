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

/// Sessions share a count of changes by chance.
const COUNTS: usize = 256;

#[derive(Default)]
pub(super) struct Local(Mutex<Known>);

struct Known {
    /// Sessions by id, with the digest that found them and when.
    sessions: HashMap<Id, (Digest, Instant, Session)>,
    /// How often a session was forgotten: what was asked for before may be of before.
    forgotten: [u64; COUNTS],
}

impl Default for Known {
    fn default() -> Self {
        Self { sessions: HashMap::new(), forgotten: [0; COUNTS] }
    }
}

impl Known {
    fn forgotten(&mut self, token: &Token) -> &mut u64 {
        &mut self.forgotten[usize::from(token.place().id.bytes()[0])]
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Local(..)")
    }
}

impl Local {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(
        &self,
        token: &Token,
        stale: Duration,
        clock: &Arc<dyn Clock>,
    ) -> Option<Session> {
        let known = self.lock();
        let (digest, at, session) = known.sessions.get(&token.place().id)?;
        let age = clock.now().saturating_since(*at);
        // Nor longer than it had to live, nor so long that it ends of idleness while it is in use.
        let most = stale.min(session.expires_in()).min(session.idle_timeout() / 2);
        let fresh = age < most && *digest == token.digest();
        fresh.then(|| session.clone())
    }

    /// Before the backend is asked: what [`put`](Self::put) is to be told.
    pub(super) fn begin(&self, token: &Token) -> u64 {
        *self.lock().forgotten(token)
    }

    /// Remembers what was found, unless it was forgotten since `begun`: the answer may have been
    /// on its way while the session was changed.
    pub(super) fn put(&self, token: &Token, session: &Session, begun: u64, clock: &Arc<dyn Clock>) {
        let mut known = self.lock();
        if *known.forgotten(token) != begun {
            return;
        }
        if known.sessions.len() >= MOST {
            known.sessions.clear();
        }
        let found = (token.digest(), clock.now(), session.clone());
        known.sessions.insert(token.place().id, found);
    }

    pub(super) fn forget(&self, token: &Token) {
        let mut known = self.lock();
        *known.forgotten(token) += 1;
        known.sessions.remove(&token.place().id);
    }

    pub(super) fn forget_all(&self) {
        let mut known = self.lock();
        known.forgotten.iter_mut().for_each(|count| *count += 1);
        known.sessions.clear();
    }
}
