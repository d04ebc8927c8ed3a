//! How many connections and breakers of this process are in which state, for the gauges.
//!
//! Gauges are set from these counts at every change and once a second, so that a recorder
//! installed later tells the truth too. The connections' monitors see to that.

use crate::telemetry::{self, Counter, Gauge};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

/// How many are in each state, and the gauge that tells it.
pub(super) type Places = [(AtomicI64, Gauge); 3];

/// By state: connected, degraded, disconnected.
pub(super) static CONNECTIONS: Places = [
    (AtomicI64::new(0), Gauge::new(telemetry::CONNECTIONS, &[("state", "connected")])),
    (AtomicI64::new(0), Gauge::new(telemetry::CONNECTIONS, &[("state", "degraded")])),
    (AtomicI64::new(0), Gauge::new(telemetry::CONNECTIONS, &[("state", "disconnected")])),
];
/// By state: closed, open, half open.
pub(super) static BREAKERS: Places = [
    (AtomicI64::new(0), Gauge::new(telemetry::BREAKERS, &[("state", "closed")])),
    (AtomicI64::new(0), Gauge::new(telemetry::BREAKERS, &[("state", "open")])),
    (AtomicI64::new(0), Gauge::new(telemetry::BREAKERS, &[("state", "half_open")])),
];
static MADE_ANEW: Counter = Counter::new(telemetry::RECONNECTS, &[]);
/// Where nothing is counted.
const NOWHERE: usize = usize::MAX;

/// The place of one connection, or of its breaker; given up when it is dropped.
#[derive(Debug)]
pub(super) struct Tally {
    places: &'static Places,
    place: AtomicUsize,
}

impl Tally {
    pub(super) fn new(places: &'static Places, place: usize) -> Self {
        let tally = Self { places, place: AtomicUsize::new(NOWHERE) };
        tally.move_to(place);
        tally
    }

    pub(super) fn move_to(&self, place: usize) {
        let before = self.place.swap(place, Ordering::AcqRel);
        for (place, change) in [(before, -1), (place, 1)] {
            if let Some((count, _)) = self.places.get(place) {
                count.fetch_add(change, Ordering::AcqRel);
            }
        }
        tell(self.places);
    }

    /// What is closed is in no state.
    pub(super) fn gone(&self) {
        self.move_to(NOWHERE);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.gone();
    }
}

/// Sets all gauges.
pub(super) fn publish() {
    tell(&CONNECTIONS);
    tell(&BREAKERS);
}

fn tell(places: &Places) {
    for (count, gauge) in places {
        // A recorder wants a float; so many connections there never are.
        gauge.set(f64::from(i32::try_from(count.load(Ordering::Acquire)).unwrap_or(i32::MAX)));
    }
}

/// A link for commands was made anew.
pub(super) fn reconnected() {
    MADE_ANEW.add(1);
}
