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
    time::Duration,
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

/// What was read, in which epoch, and until when it is good, in ns of what hears.
#[derive(Debug, Clone)]
struct Slot<V> {
    value: V,
    epoch: u64,
    until_ns: u64,
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
    /// When it was taken.
    at_ns: u64,
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

    /// What is kept and in its time, if all changes of it were heard of until now.
    pub(crate) fn get(&self, key: &str) -> Option<V> {
        // One look at the clock for both: it takes a tenth of all this.
        let now_ns = self.heard.now_ns();
        let epoch = self.heard.epoch_at(now_ns)?;
        let good = |slot: &Slot<V>| slot.epoch == epoch && now_ns < slot.until_ns;
        self.table.get(key).filter(good).map(|slot| slot.value)
    }

    /// What was kept last, whether or not it changed unheard or is past its time: for whoever has
    /// nothing better.
    pub(crate) fn last(&self, key: &str) -> Option<V> {
        self.table.get(key).map(|slot| slot.value)
    }

    /// To be taken before the value is asked for.
    pub(crate) fn ticket(self: &Arc<Self>, key: &str) -> Ticket<V> {
        // The epoch first: what changes after it is told to the ticket, or ends the epoch.
        let at_ns = self.heard.now_ns();
        let epoch = self.heard.epoch_at(at_ns);
        let key: Arc<str> = key.into();
        let mut pending = self.stripe(&key);
        let held = pending.entry(key.clone()).or_default();
        held.holders += 1;
        let changes = held.changes;
        drop(pending);
        Ticket { near: self.clone(), key, changes, epoch, at_ns }
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
        self.keep_for(value, Duration::MAX)
    }

    /// The same for so long from when the ticket was taken.
    pub(crate) fn keep_for(self, value: V, life: Duration) -> bool {
        let Some(epoch) = self.epoch else { return false };
        let pending = self.near.stripe(&self.key);
        let same = pending.get(&self.key).is_some_and(|held| held.changes == self.changes);
        let keeps = same && self.near.heard.epoch() == Some(epoch);
        if keeps {
            let life_ns = u64::try_from(life.as_nanos()).unwrap_or(u64::MAX);
            let until_ns = self.at_ns.saturating_add(life_ns);
            self.near.table.insert(self.key.clone(), Slot { value, epoch, until_ns });
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
    use coordinator_core::clock::ManualClock;

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
    fn what_is_past_its_time_is_for_whoever_has_nothing_better() {
        let clock = ManualClock::new();
        let heard = Arc::new(Heard::until(Arc::new(clock.clone()), Duration::from_hours(1)));
        let near = Arc::new(Near::new(heard, 100));
        let ticket = near.ticket("a");
        // The time of the answer counts, too.
        clock.advance(Duration::from_millis(1));
        assert!(ticket.keep_for(1, Duration::from_millis(3)) && near.ticket("b").keep(2));
        clock.advance(Duration::from_millis(1));
        assert_eq!((near.get("a"), near.get("b")), (Some(1), Some(2)));
        clock.advance(Duration::from_millis(1));
        assert_eq!((near.get("a"), near.get("b")), (None, Some(2)));
        assert_eq!(near.last("a"), Some(1));
        clock.advance(Duration::from_hours(1));
        assert_eq!(near.get("b"), None, "nobody hears of changes any more");
    }

    #[tokio::test]
    async fn a_value_is_near_for_its_time_and_no_longer() {
        let clock = ManualClock::new();
        let caches = crate::Caches::embedded_with_clock(Arc::new(clock.clone()));
        let near = |name| caches.cache::<u32>(name).with_near(crate::Near::entries(10));
        let (tenth, second) = (Duration::from_millis(100), Duration::from_secs(1));
        let brief = near("brief").with_ttl(tenth).build().expect("a cache");
        let looked = near("looked").with_ttl(second).with_near_ttl(tenth).build().expect("a cache");
        for cache in [&brief, &looked] {
            cache.set("a", &1).await.expect("memory");
            for _ in 0..2 {
                assert!(cache.get("a").await.expect("memory").is_some());
            }
            assert_eq!((cache.stats().far_hits, cache.stats().near_hits), (1, 1));
        }
        clock.advance(tenth);
        assert!(brief.get("a").await.expect("memory").is_none(), "it is past its time");
        assert!(looked.get("a").await.expect("memory").is_some());
        assert_eq!((looked.stats().far_hits, looked.stats().near_hits), (2, 1));
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
