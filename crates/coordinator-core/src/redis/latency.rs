//! How long the commands of one connection took of late: percentiles of the last minute.
//!
//! Recording is one atomic addition to a histogram whose buckets are 3 % wide (an H2 histogram,
//! <https://h2histogram.org>). Every ten seconds what is in it moves to a ring of past spans, on
//! the monitor's time, not on a caller's.

use crate::{clock::Instant, health::Latencies};
use histogram::{AtomicHistogram32, Config, Histogram32};
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How much time one histogram covers.
const SPAN: Duration = Duration::from_secs(10);
/// For how long a full one still counts.
const KEPT: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct Recent {
    now: AtomicHistogram32,
    past: Mutex<Past>,
}

#[derive(Debug)]
struct Past {
    /// When the present span began.
    began: Instant,
    /// Full spans with when they ended.
    spans: VecDeque<(Instant, Histogram32)>,
}

impl Recent {
    pub(super) fn new(began: Instant) -> Self {
        // Microseconds, exact up to 64, up to more than an hour.
        let config = Config::new(5, 32).expect("5 + 1 < 32");
        let past = Mutex::new(Past { began, spans: VecDeque::new() });
        Self { now: AtomicHistogram32::with_config(&config), past }
    }

    pub(super) fn record(&self, took: Duration) {
        let us = took.as_micros().min(u128::from(u32::MAX));
        // It cannot be out of range.
        let _ = self.now.increment(u64::try_from(us).unwrap_or(u64::MAX));
    }

    /// Files away what is full and forgets what is old.
    pub(super) fn turn_over(&self, now: Instant) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_since(past.began) >= SPAN {
            past.began = now;
            let full = self.now.drain();
            past.spans.push_back((now, full));
        }
        past.spans.retain(|(ended, _)| now.saturating_since(*ended) <= KEPT);
    }

    /// The percentiles of the last minute or a little more.
    pub(super) fn percentiles(&self, now: Instant) -> Latencies {
        self.turn_over(now);
        let mut all = self.now.load();
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, span) in &past.spans {
            // Beyond four thousand million of one duration a minute this one would be left out.
            let _ = all.checked_add_assign(span);
        }
        drop(past);
        let at = |quantile| {
            let bucket = all.quantile_bucket(quantile).ok().flatten()?;
            Some(Duration::from_micros(bucket.end()))
        };
        Latencies {
            count: all.as_slice().iter().map(|count| u64::from(*count)).sum(),
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    fn percentiles(recent: &Recent, clock: &ManualClock) -> (u64, [u128; 3]) {
        let Latencies { count, p50, p95, p99 } = recent.percentiles(clock.now());
        let us = |percentile: Option<Duration>| percentile.expect("some were recorded").as_micros();
        (count, [us(p50), us(p95), us(p99)])
    }

    #[test]
    fn percentiles_are_right_within_four_percent_and_never_too_low() {
        let clock = ManualClock::new();
        for scale in [1, 70, 1_000, 3_000_000] {
            let recent = Recent::new(clock.now());
            for number in 1..=1000_u64 {
                recent.record(Duration::from_micros(number * scale));
            }
            let (count, found) = percentiles(&recent, &clock);
            assert_eq!(count, 1000);
            for (found, rank) in found.into_iter().zip([500, 950, 990]) {
                let exact = u128::from(rank * scale);
                assert!(found >= exact && found <= exact + exact / 25, "{found} for {exact}");
            }
        }
    }

    #[test]
    fn nothing_recorded_has_no_percentiles() {
        let clock = ManualClock::new();
        let none = Latencies { count: 0, p50: None, p95: None, p99: None };
        assert_eq!(Recent::new(clock.now()).percentiles(clock.now()), none);
    }

    #[test]
    fn what_is_more_than_a_minute_old_is_forgotten() {
        let clock = ManualClock::new();
        let recent = Recent::new(clock.now());
        recent.record(Duration::from_secs(1));
        let mut kept = 0;
        for second in 0..120 {
            clock.advance(Duration::from_secs(1));
            recent.record(Duration::from_micros(50));
            recent.turn_over(clock.now());
            if recent.percentiles(clock.now()).p99 > Some(Duration::from_millis(900)) {
                kept = second;
            }
            let count = recent.percentiles(clock.now()).count;
            assert!(count <= 71, "{count} at second {second}");
        }
        // Among so few the slowest one is the 99th percentile.
        assert!((59..=70).contains(&kept), "{kept}");
        assert!((60..=71).contains(&recent.percentiles(clock.now()).count));
    }

    #[test]
    fn the_longest_duration_is_recorded_too() {
        let clock = ManualClock::new();
        let recent = Recent::new(clock.now());
        recent.record(Duration::MAX);
        assert_eq!(recent.percentiles(clock.now()).count, 1);
    }
}
