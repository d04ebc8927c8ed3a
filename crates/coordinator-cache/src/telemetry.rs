//! What caches count for metrics. No label ever holds a key.

use coordinator_core::telemetry::{Counter, Metric, Timing};

const READS: &str = "coordinator_cache_reads_total";
const LOADS: &str = "coordinator_cache_loads_total";
const BYTES: &str = "coordinator_cache_bytes_total";
const UNREADABLE: &str = "coordinator_cache_unreadable_total";
const STALE: &str = "coordinator_cache_stale_seconds";
const FLUSHES: &str = "coordinator_cache_flushes_total";

/// What each metric of this crate is, for [`describe`](coordinator_core::telemetry::describe).
pub const METRICS: &[Metric] = &[
    Metric::counter(READS, "Reads by namespace and outcome: near, far, miss, and stale given."),
    Metric::counter(LOADS, "Loads by namespace and outcome: begun, failed, and refused to store."),
    Metric::counter(BYTES, "Bytes of values by namespace, as they came and as they were stored."),
    Metric::seconds(STALE, "For how long stale values were past their time when they were given."),
    Metric::counter(UNREADABLE, "Stored values that could not be read, by namespace."),
    Metric::counter(FLUSHES, "How often all that is kept near was forgotten."),
];

static FLUSHED: Counter = Counter::new(FLUSHES, &[]);

pub(crate) fn flushed() {
    FLUSHED.add(1);
}

/// The series of one namespace.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) near: Counter,
    pub(crate) far: Counter,
    pub(crate) misses: Counter,
    pub(crate) stale: Counter,
    pub(crate) loads: Counter,
    pub(crate) failed: Counter,
    pub(crate) refused: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_stored: Counter,
    pub(crate) unreadable: Counter,
    pub(crate) staleness: Timing,
}

impl Series {
    pub(crate) fn new(namespace: &str) -> Self {
        let of = |counter: Counter| counter.with_label("namespace", namespace);
        Self {
            near: of(Counter::new(READS, &[("outcome", "near")])),
            far: of(Counter::new(READS, &[("outcome", "far")])),
            misses: of(Counter::new(READS, &[("outcome", "miss")])),
            stale: of(Counter::new(READS, &[("outcome", "stale")])),
            loads: of(Counter::new(LOADS, &[("outcome", "begun")])),
            failed: of(Counter::new(LOADS, &[("outcome", "failed")])),
            refused: of(Counter::new(LOADS, &[("outcome", "refused")])),
            bytes_in: of(Counter::new(BYTES, &[("form", "raw")])),
            bytes_stored: of(Counter::new(BYTES, &[("form", "stored")])),
            unreadable: of(Counter::new(UNREADABLE, &[])),
            staleness: Timing::new(STALE, &[]).with_label("namespace", namespace),
        }
    }
}
