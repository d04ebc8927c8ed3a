//! What a process has taken of a group and not settled yet: where the group begins anew if a server
//! knows nothing of it any more.

use crate::cursor::Id;
use coordinator_core::clock::Instant;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// By event: until when it is awaited.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(Mutex<BTreeMap<Id, Instant>>);

impl UnderWay {
    fn events(&self) -> MutexGuard<'_, BTreeMap<Id, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lend(&self, event: Id, until: Instant) {
        self.events().insert(event, until);
    }

    pub(crate) fn settled(&self, event: Id) {
        self.events().remove(&event);
    }

    /// The first one that is still awaited.
    pub(crate) fn first(&self, now: Instant) -> Option<Id> {
        let mut events = self.events();
        events.retain(|_, until| *until > now);
        events.first_key_value().map(|(event, _)| *event)
    }
}
