//! What locks count and measure. No label ever holds a lock's name.

pub(crate) use coordinator_core::telemetry::Counted;

use crate::{lease::LossReason, outcome::Outcome};
use coordinator_core::{
    ErrorKind, Result,
    telemetry::{Counter, Level, Metric, Timing},
};

const ACQUIRES: &str = "coordinator_lock_acquires_total";
const WAIT: &str = "coordinator_lock_wait_seconds";
const HOLD: &str = "coordinator_lock_hold_seconds";
const LOSSES: &str = "coordinator_lock_losses_total";
const HELD: &str = "coordinator_locks_held";
const WAITING: &str = "coordinator_locks_waiting";

/// What each metric of this crate is, for [`describe`](coordinator_core::telemetry::describe).
pub const METRICS: &[Metric] = &[
    Metric::counter(ACQUIRES, "Acquires that ended, by outcome."),
    Metric::seconds(WAIT, "From asking for a lock to its grant."),
    Metric::seconds(HOLD, "From asking for a lock to its release or loss."),
    Metric::counter(LOSSES, "Locks that their holders lost, by reason."),
    Metric::gauge(HELD, "Locks that this process holds."),
    Metric::gauge(WAITING, "Acquires of this process that wait for another holder."),
];

/// From the call to the grant.
pub(crate) static WAITED: Timing = Timing::new(WAIT, &[]);
/// From the call to the end.
pub(crate) static HELD_FOR: Timing = Timing::new(HOLD, &[]);

/// Counts an acquire that ended.
pub(crate) fn count(ended: &Result<Outcome>) {
    macro_rules! outcome {
        ($word:literal) => {{
            static COUNTER: Counter = Counter::new(ACQUIRES, &[("outcome", $word)]);
            &COUNTER
        }};
    }
    let counter = match ended {
        Ok(Outcome::Acquired(_)) => outcome!("acquired"),
        Ok(Outcome::TimedOut { .. }) => outcome!("timed_out"),
        Ok(Outcome::Deadlock { .. }) => outcome!("deadlock"),
        Err(error) => match error.kind() {
            ErrorKind::Unavailable => outcome!("unavailable"),
            ErrorKind::Rejected => outcome!("rejected"),
            ErrorKind::Corrupt => outcome!("corrupt"),
            ErrorKind::Misuse => outcome!("misuse"),
            _ => outcome!("indeterminate"),
        },
    };
    counter.add(1);
}

/// Counts a lock that its holder lost.
pub(crate) fn lost(reason: LossReason) {
    macro_rules! reason {
        ($word:literal) => {{
            static COUNTER: Counter = Counter::new(LOSSES, &[("reason", $word)]);
            &COUNTER
        }};
    }
    let counter = match reason {
        LossReason::Expired => reason!("expired"),
        LossReason::Unreachable => reason!("unreachable"),
        LossReason::Stolen => reason!("stolen"),
        LossReason::Vanished => reason!("vanished"),
        LossReason::ForceReleased => reason!("force-released"),
        LossReason::Released => reason!("released"),
    };
    counter.add(1);
}

pub(crate) static LOCKS_HELD: Level = Level::new(HELD);
pub(crate) static LOCKS_WAITING: Level = Level::new(WAITING);

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
