//! What a process has taken of a group and not settled yet, and how far it knows the group to be:
//! where the group begins anew if a server knows nothing of it any more.

use crate::{backend::Crew, cursor::Id};
use coordinator_core::clock::Instant;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// Of all groups that somebody in this process works in.
#[derive(Debug, Default)]
pub(crate) struct Groups(Mutex<HashMap<Crew, Weak<UnderWay>>>);

impl Groups {
    pub(crate) fn group(&self, crew: &Crew) -> Arc<UnderWay> {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = groups.get(crew).and_then(Weak::upgrade) {
            return group;
        }
        if groups.len() == groups.capacity() {
            groups.retain(|_, group| group.strong_count() > 0);
        }
        let group = Arc::default();
        groups.insert(crew.clone(), Arc::downgrade(&group));
        group
    }
}

/// Of a group.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Up to where the group had taken, as it was told last.
    at: Option<Id>,
    /// By event: until when it is awaited.
    events: BTreeMap<Id, Instant>,
}

/// Where a group begins that a server knows nothing of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begin {
    /// After this id, which need not be an event's.
    pub(crate) after: Id,
    /// The same as an event that was there, if it is known.
    pub(crate) place: Option<Id>,
}

impl UnderWay {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn came_to(&self, at: Id) {
        self.known().at = Some(at);
    }

    pub(crate) fn lend(&self, event: Id, until: Instant) {
        self.known().events.insert(event, until);
    }

    pub(crate) fn settled(&self, event: Id) {
        self.known().events.remove(&event);
    }

    /// The group is to go, with what it has under way.
    pub(crate) fn forget(&self) {
        self.known().events.clear();
    }

    /// After what was taken, and before what is under way; none if nothing was taken here.
    pub(crate) fn begin(&self, now: Instant) -> Option<Begin> {
        let mut known = self.known();
        known.events.retain(|_, until| *until > now);
        let at = known.at?;
        let first = known.events.first_key_value().map(|(first, _)| *first);
        let Some(first) = first.filter(|first| *first <= at) else {
            return Some(Begin { after: at, place: Some(at) });
        };
        let Id { epoch, number } = first;
        Some(if let Some(number) = number.checked_sub(1) {
            let after = Id { number, ..first };
            Begin { after, place: Some(after) }
        } else {
            // What was before it in another epoch is not known.
            let after = Id { epoch: epoch.saturating_sub(1), number: u64::MAX };
            Begin { after, place: None }
        })
    }
}
