//! What rate limits count and measure. No label ever holds a subject or a tenant.

pub(crate) use coordinator_core::telemetry::Counted;

use crate::{
    backend::Kind,
    decision::{Decision, Source},
    quota::Quota,
};
use coordinator_core::telemetry::{Counter, Level, Metric, Timing};

const CHECKS: &str = "coordinator_ratelimit_checks_total";
const WAIT: &str = "coordinator_ratelimit_wait_seconds";
const WAITING: &str = "coordinator_ratelimit_waits";
const SLOTS: &str = "coordinator_ratelimit_slots";

/// What each metric of this crate is, for [`describe`](coordinator_core::telemetry::describe).
pub const METRICS: &[Metric] = &[
    Metric::counter(CHECKS, "Decisions, by algorithm, outcome and source."),
    Metric::seconds(WAIT, "From waiting for a limit to being allowed."),
    Metric::gauge(WAITING, "Callers of this process that wait until they are allowed."),
    Metric::gauge(SLOTS, "Slots that this process holds."),
];

/// From the call to the grant.
pub(crate) static WAITED: Timing = Timing::new(WAIT, &[]);

/// Counts a decision.
pub(crate) fn decided(decision: &Decision, quota: &Quota) {
    macro_rules! of {
        ($($kind:ident $algorithm:literal),*; $outcomes:tt) => {
            match quota.terms.kind { $(Kind::$kind => of!(@ $algorithm $outcomes),)* }
        };
        (@ $algorithm:literal [$($allowed:literal $outcome:literal),*]) => {
            match decision.allowed { $($allowed => of!(@@ $algorithm $outcome),)* }
        };
        (@@ $algorithm:literal $outcome:literal) => {
            match decision.source {
                Source::Redis => of!(# $algorithm $outcome "redis"),
                Source::Embedded => of!(# $algorithm $outcome "embedded"),
                Source::FastDeny => of!(# $algorithm $outcome "fast-deny"),
                Source::Fallback => of!(# $algorithm $outcome "fallback"),
            }
        };
        (# $algorithm:literal $outcome:literal $source:literal) => {{
            static COUNTER: Counter = Counter::new(
                CHECKS,
                &[("algorithm", $algorithm), ("outcome", $outcome), ("source", $source)],
            );
            &COUNTER
        }};
    }
    let counter: &Counter = of!(
        Log "sliding", Gcra "gcra", Fixed "fixed", Slots "concurrency";
        [true "allowed", false "denied"]
    );
    counter.add(1);
}

pub(crate) static WAITERS: Level = Level::new(WAITING);
pub(crate) static SLOTS_HELD: Level = Level::new(SLOTS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_in_the_manual() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
        let manual = std::fs::read_to_string(path).expect("the manual");
        for metric in METRICS {
            assert!(manual.contains(&format!("`{}`", metric.name())), "{}", metric.name());
        }
    }
}
