//! What is kept in this process: a bounded table in which no entry outlives the notice that it
//! changed.
//!
//! Whoever wants to keep what he reads takes a [`Ticket`] before he asks for it. A notice about the
//! key that comes while he waits makes the ticket void, whatever the order in which notice and
//! answer reach their tasks. Nothing here reads, decodes or waits.

use crate::watch::Heard;
use moka::sync::Cache as Table;
use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How many locks the tickets are spread over.
const STRIPES: usize = 32;

/// Tickets for one key that somebody holds.
#[derive(Debug, Default)]
struct Pending {
    holders: usize,
    /// How often the key changed since the first of them was taken.
    changes: u64,
}

type Stripe = Mutex<HashMap<Arc<str>, Pending>>;

/// A bounded table of what was read.
pub(crate) struct Near<V> {
    table: Table<Arc<str>, Slot<V>>,
    stripes: Vec<Stripe>,
    hasher: RandomState,
    heard: Arc<Heard>,
}

/// What was read, and in which epoch.
#[derive(Debug, Clone)]
struct Slot<V> {
    value: V,
    epoch: u64,
}

impl<V> fmt::Debug for Near<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Near").finish_non_exhaustive()
    }
}

/// The right to keep what is read from now on, unless it changes meanwhile.
pub(crate) struct Ticket<V: Clone + Send + Sync + 'static> {
    near: Arc<Near<V>>,
    key: Arc<str>,
    changes: u64,
    /// None if nothing may be kept from the start.
    epoch: Option<u64>,
}

impl<V: Clone + Send + Sync + 'static> Near<V> {
    pub(crate) fn new(heard: Arc<Heard>, entries: u64) -> Self {
        Self {
            table: Table::new(entries),
            stripes: (0..STRIPES).map(|_| Stripe::default()).collect(),
            hasher: RandomState::new(),
            heard,
        }
    }

    fn stripe(&self, key: &str) -> MutexGuard<'_, HashMap<Arc<str>, Pending>> {
        let at = usize::try_from(self.hasher.hash_one(key) % STRIPES as u64).expect("a stripe");
        self.stripes[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept, if all changes of it were heard of until now.
    pub(crate) fn get(&self, key: &str) -> Option<V> {
        let epoch = self.heard.epoch()?;
        self.table.get(key).filter(|slot| slot.epoch == epoch).map(|slot| slot.value)
    }

    /// What was kept last, whether or not it changed unheard: for whoever has nothing better.
    pub(crate) fn last(&self, key: &str) -> Option<V> {
        self.table.get(key).map(|slot| slot.value)
    }

    /// To be taken before the value is asked for.
    pub(crate) fn ticket(self: &Arc<Self>, key: &str) -> Ticket<V> {
        // The epoch first: what changes after it is told to the ticket, or ends the epoch.
        let epoch = self.heard.epoch();
        let key: Arc<str> = key.into();
        let mut pending = self.stripe(&key);
        let held = pending.entry(key.clone()).or_default();
        held.holders += 1;
        let changes = held.changes;
        drop(pending);
        Ticket { near: self.clone(), key, changes, epoch }
    }

    /// It changed: what is kept of it goes, and tickets for it are void.
    pub(crate) fn changed(&self, key: &str) {
        let mut pending = self.stripe(key);
        if let Some(held) = pending.get_mut(key) {
            held.changes += 1;
        }
        // Under the lock: a ticket that is used at this moment comes wholly before or after.
        self.table.invalidate(key);
    }

    /// What is kept of it goes; whoever reads it at this moment may keep what he reads.
    pub(crate) fn forget(&self, key: &str) {
        let _pending = self.stripe(key);
        self.table.invalidate(key);
    }

    /// How many there are, about.
    pub(crate) fn len(&self) -> u64 {
        self.table.entry_count()
    }
}

impl<V: Clone + Send + Sync + 'static> Ticket<V> {
    /// Keeps what was read, unless it changed since the ticket was taken; whether it is kept.
    pub(crate) fn keep(self, value: V) -> bool {
        let Some(epoch) = self.epoch else { return false };
        let pending = self.near.stripe(&self.key);
        let same = pending.get(&self.key).is_some_and(|held| held.changes == self.changes);
        let keeps = same && self.near.heard.epoch() == Some(epoch);
        if keeps {
            self.near.table.insert(self.key.clone(), Slot { value, epoch });
        }
        drop(pending);
        keeps
    }
}

impl<V: Clone + Send + Sync + 'static> Drop for Ticket<V> {
    fn drop(&mut self) {
        let mut pending = self.near.stripe(&self.key);
        if let Some(held) = pending.get_mut(&self.key) {
            held.holders -= 1;
            if held.holders == 0 {
                pending.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near() -> Arc<Near<u32>> {
        Arc::new(Near::new(Arc::new(Heard::always()), 100))
    }

    #[test]
    fn what_changed_while_it_was_read_is_not_kept() {
        let near = near();
        let ticket = near.ticket("a");
        near.changed("a");
        assert!(!ticket.keep(1));
        assert_eq!(near.get("a"), None);
        // Nor is it for a second one, taken before.
        let (early, other) = (near.ticket("a"), near.ticket("b"));
        near.changed("a");
        let late = near.ticket("a");
        assert!(late.keep(2) && !early.keep(1) && other.keep(3));
        assert_eq!((near.get("a"), near.get("b")), (Some(2), Some(3)));
        near.changed("a");
        assert_eq!((near.get("a"), near.get("b")), (None, Some(3)));
    }

    #[test]
    fn a_new_epoch_forgets_all_and_keeps_nothing_of_the_one_before() {
        let near = near();
        assert!(near.ticket("a").keep(1));
        let ticket = near.ticket("b");
        near.heard.flush();
        assert!(!ticket.keep(2));
        assert_eq!((near.get("a"), near.get("b")), (None, None));
        assert_eq!(near.last("a"), Some(1), "for whoever has nothing better");
        assert!(near.ticket("a").keep(3));
        assert_eq!(near.get("a"), Some(3));
    }

    #[test]
    fn dropped_tickets_leave_nothing() {
        let near = near();
        let (one, other) = (near.ticket("a"), near.ticket("a"));
        drop(one);
        near.changed("a");
        assert!(!other.keep(1));
        assert!(near.stripes.iter().all(|stripe| stripe.lock().expect("no panic").is_empty()));
    }
}
