//! How many connections of this process are in which state, for the gauges.
//!
//! Gauges are set from these counts once a second, so that a recorder installed later tells the
//! truth too. They are published by the connections' monitors.

use crate::{
    health::State,
    telemetry::{CONNECTIONS, Counter, Gauge, RECONNECTS},
};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

static BY_STATE: [(AtomicI64, Gauge); 3] = [
    (AtomicI64::new(0), Gauge::new(CONNECTIONS, &[("state", "connected")])),
    (AtomicI64::new(0), Gauge::new(CONNECTIONS, &[("state", "degraded")])),
    (AtomicI64::new(0), Gauge::new(CONNECTIONS, &[("state", "disconnected")])),
];
static MADE_ANEW: Counter = Counter::new(RECONNECTS, &[]);
/// Where nothing is counted.
const NOWHERE: usize = usize::MAX;

/// One connection's place in the counts, given up when it is dropped.
#[derive(Debug)]
pub(super) struct Tally(AtomicUsize);

impl Tally {
    pub(super) fn new(state: State) -> Self {
        let tally = Self(AtomicUsize::new(NOWHERE));
        tally.move_to(state);
        tally
    }

    pub(super) fn move_to(&self, state: State) {
        self.place(match state {
            State::Connected => 0,
            State::Degraded => 1,
            State::Disconnected => 2,
        });
    }

    /// A closed connection is in no state.
    pub(super) fn gone(&self) {
        self.place(NOWHERE);
    }

    fn place(&self, place: usize) {
        let before = self.0.swap(place, Ordering::AcqRel);
        for (place, change) in [(before, -1), (place, 1)] {
            if let Some((count, _)) = BY_STATE.get(place) {
                count.fetch_add(change, Ordering::AcqRel);
            }
        }
        publish();
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.gone();
    }
}

/// Sets the gauges.
pub(super) fn publish() {
    for (count, gauge) in &BY_STATE {
        // A recorder wants a float; so many connections there never are.
        gauge.set(f64::from(i32::try_from(count.load(Ordering::Acquire)).unwrap_or(i32::MAX)));
    }
}

/// A link for commands was made anew.
pub(super) fn reconnected() {
    MADE_ANEW.add(1);
}
