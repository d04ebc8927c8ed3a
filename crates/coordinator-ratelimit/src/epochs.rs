//! The policies' epochs, as far as this process knows them.

use crate::backend::{Place, Series};
use coordinator_core::clock::Instant;
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// For how long an epoch is believed before a call asks whether it still is that.
/// Half a second, for a denial from memory may be as old again.
const MAX_AGE: Duration = Duration::from_millis(500);
/// How many are remembered.
const ROOM: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Epochs {
    hasher: RandomState,
    known: Mutex<HashMap<u64, Known>>,
}

#[derive(Debug)]
struct Known {
    series: Series,
    epoch: u64,
    asked: Instant,
}

impl Epochs {
    fn hash(&self, place: &Place) -> u64 {
        let tenant = place.tenant.as_ref().map_or("", coordinator_core::key::Name::encoded);
        self.hasher.hash_one((place.shard, tenant, &*place.policy))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the epoch into a place; whether it is to be checked. Who is told so is the only one
    /// for a while.
    pub(crate) fn enter(&self, place: &mut Place, now: Instant) -> bool {
        let hash = self.hash(place);
        let mut known = self.known();
        let found = known.get_mut(&hash).filter(|known| {
            known.series.shard == place.shard
                && known.series.tenant == place.tenant
                && known.series.policy == place.policy
        });
        let Some(found) = found else {
            place.epoch = 0;
            return true;
        };
        place.epoch = found.epoch;
        let due = now.saturating_since(found.asked) >= MAX_AGE;
        if due {
            found.asked = now;
        }
        due
    }

    /// What a backend said the epoch is.
    pub(crate) fn learn(&self, place: &Place, epoch: u64, now: Instant) {
        let hash = self.hash(place);
        let mut known = self.known();
        if known.len() >= ROOM && !known.contains_key(&hash) {
            known.clear();
        }
        let series = place.series();
        // Epochs only rise: an answer that comes late knows less.
        let before = known.get(&hash).filter(|known| known.series == series);
        let epoch = before.map_or(epoch, |before| before.epoch.max(epoch));
        known.insert(hash, Known { series, epoch, asked: now });
    }

    /// Has every epoch asked for again.
    pub(crate) fn doubt(&self) {
        self.known().clear();
    }
}
