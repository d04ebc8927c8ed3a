//! What a cache counts, of this process.

use crate::{telemetry, watch::Hearing};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The figures of a cache, of this process since the cache was built.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Reads that were answered from this process.
    pub near_hits: u64,
    /// Reads that were answered from the shared value.
    pub far_hits: u64,
    /// Reads that found nothing in its time.
    pub misses: u64,
    /// Stale values that were given.
    pub stale: u64,
    /// Loaders that ran.
    pub loads: u64,
    /// Loads that failed.
    pub failed: u64,
    /// Values that were loaded, and not stored because they were ended meanwhile.
    pub refused: u64,
    /// Waits for a load of another instance.
    pub waits: u64,
    /// Stored values that could not be read, and were dropped.
    pub unreadable: u64,
    /// Bytes of values before they were compressed.
    pub bytes_in: u64,
    /// Bytes of values as they were stored, with their heads.
    pub bytes_stored: u64,
    /// How many values this process keeps, about.
    pub near_entries: u64,
    /// How changes by other instances are heard of.
    pub hearing: Hearing,
}

impl Stats {
    /// How many bytes compression saved, heads and all: 0 where these were longer.
    pub fn bytes_saved(&self) -> u64 {
        self.bytes_in.saturating_sub(self.bytes_stored)
    }

    /// The part of the reads that were answered from here or there, 0 to 1; 0 without any.
    pub fn hit_rate(&self) -> f64 {
        let hits = self.near_hits + self.far_hits;
        let all = hits + self.misses;
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
        if all == 0 { 0.0 } else { hits as f64 / all as f64 }
    }
}

/// Counts for [`Stats`] and for metrics.
#[derive(Debug)]
pub(crate) struct Counts {
    series: telemetry::Series,
    near: AtomicU64,
    far: AtomicU64,
    misses: AtomicU64,
    stale: AtomicU64,
    loads: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    waits: AtomicU64,
    unreadable: AtomicU64,
    bytes_in: AtomicU64,
    bytes_stored: AtomicU64,
}

fn one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counts {
    pub(crate) fn new(namespace: &str) -> Self {
        Self {
            series: telemetry::Series::new(namespace),
            near: AtomicU64::new(0),
            far: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            loads: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_stored: AtomicU64::new(0),
        }
    }

    pub(crate) fn near(&self) {
        one(&self.near);
        self.series.near.add(1);
    }

    pub(crate) fn far(&self) {
        one(&self.far);
        self.series.far.add(1);
    }

    pub(crate) fn miss(&self) {
        one(&self.misses);
        self.series.misses.add(1);
    }

    /// A stale value was given, so long past its time as far as that is known.
    pub(crate) fn stale(&self, past: Option<Duration>) {
        one(&self.stale);
        self.series.stale.add(1);
        if let Some(past) = past {
            self.series.staleness.record(past);
        }
    }

    pub(crate) fn load(&self) {
        one(&self.loads);
        self.series.loads.add(1);
    }

    pub(crate) fn failed(&self) {
        one(&self.failed);
        self.series.failed.add(1);
    }

    pub(crate) fn refused(&self) {
        one(&self.refused);
        self.series.refused.add(1);
    }

    pub(crate) fn waited(&self) {
        one(&self.waits);
    }

    pub(crate) fn unreadable(&self) {
        one(&self.unreadable);
        self.series.unreadable.add(1);
    }

    pub(crate) fn stored(&self, raw: usize, stored: usize) {
        self.bytes_in.fetch_add(raw as u64, Ordering::Relaxed);
        self.bytes_stored.fetch_add(stored as u64, Ordering::Relaxed);
        self.series.bytes_in.add(raw as u64);
        self.series.bytes_stored.add(stored as u64);
    }

    pub(crate) fn stats(&self, near_entries: u64, hearing: Hearing) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            near_hits: read(&self.near),
            far_hits: read(&self.far),
            misses: read(&self.misses),
            stale: read(&self.stale),
            loads: read(&self.loads),
            failed: read(&self.failed),
            refused: read(&self.refused),
            waits: read(&self.waits),
            unreadable: read(&self.unreadable),
            bytes_in: read(&self.bytes_in),
            bytes_stored: read(&self.bytes_stored),
            near_entries,
            hearing,
        }
    }
}
