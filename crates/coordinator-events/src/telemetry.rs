//! What events count. No label ever holds a scope's name.

use crate::gap::{Gap, GapReason};
use coordinator_core::{
    Error, ErrorKind,
    telemetry::{Counter, Metric},
};
use std::sync::atomic::{AtomicBool, Ordering};

const PUBLISHED: &str = "coordinator_events_published_total";
const GAPS: &str = "coordinator_events_gaps_total";
const LOST: &str = "coordinator_events_lost_total";
const REPAIRS: &str = "coordinator_events_repairs_total";
const FAILURES: &str = "coordinator_events_read_failures_total";
const LIVE_LOST: &str = "coordinator_events_live_lost_total";
const UNREADABLE: &str = "coordinator_events_unreadable_total";
const DELIVERIES: &str = "coordinator_events_deliveries_total";

/// What each metric of this crate is, for [`describe`](coordinator_core::telemetry::describe).
pub const METRICS: &[Metric] = &[
    Metric::counter(PUBLISHED, "Publishes that ended, by outcome."),
    Metric::counter(GAPS, "Gaps that readers were told of, by reason."),
    Metric::counter(LOST, "Events that readers were told they lost, at least, by reason."),
    Metric::counter(REPAIRS, "Looks at a scope's stream, for what may have been missed."),
    Metric::counter(FAILURES, "Looks at scopes and topics that failed, by kind of error."),
    Metric::counter(LIVE_LOST, "Announcements that subscribers of live topics missed, by reason."),
    Metric::counter(UNREADABLE, "Events that readers could not decode."),
    Metric::counter(DELIVERIES, "Deliveries of groups that ended, by outcome."),
];

static LOOKS: Counter = Counter::new(REPAIRS, &[]);
static UNDECODED: Counter = Counter::new(UNREADABLE, &[]);

pub(crate) fn repairs() {
    LOOKS.add(1);
}

pub(crate) fn unreadable() {
    UNDECODED.add(1);
}

macro_rules! labelled {
    ($name:ident, $label:literal, $word:literal) => {{
        static COUNTER: Counter = Counter::new($name, &[($label, $word)]);
        &COUNTER
    }};
}

pub(crate) fn gap(gap: &Gap) {
    let (gaps, lost) = match gap.reason {
        GapReason::Trimmed => {
            (labelled!(GAPS, "reason", "trimmed"), labelled!(LOST, "reason", "trimmed"))
        }
        GapReason::RolledBack => {
            (labelled!(GAPS, "reason", "rolled_back"), labelled!(LOST, "reason", "rolled_back"))
        }
        GapReason::Reset => {
            (labelled!(GAPS, "reason", "reset"), labelled!(LOST, "reason", "reset"))
        }
        GapReason::Lagged => {
            (labelled!(GAPS, "reason", "lagged"), labelled!(LOST, "reason", "lagged"))
        }
    };
    gaps.add(1);
    lost.add(gap.lost.count());
}

/// Why a subscriber of a live topic missed announcements.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Missed {
    /// They did not come to this process.
    Unheard,
    /// The subscriber was too slow for them.
    Lagged,
}

pub(crate) fn missed(why: Missed, count: u64) {
    let counter = match why {
        Missed::Unheard => labelled!(LIVE_LOST, "reason", "unheard"),
        Missed::Lagged => labelled!(LIVE_LOST, "reason", "lagged"),
    };
    counter.add(count);
}

/// What cannot be read for now. A refusal is told once, however often it is met: nobody but
/// whoever runs the service can do anything about it.
#[derive(Debug, Default)]
pub(crate) struct Trouble(AtomicBool);

impl Trouble {
    pub(crate) fn over(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether it is told.
    pub(crate) fn met(&self, error: &Error, what: &str) -> bool {
        let counter = match error.kind() {
            ErrorKind::Unavailable => labelled!(FAILURES, "kind", "unavailable"),
            ErrorKind::Indeterminate => labelled!(FAILURES, "kind", "indeterminate"),
            ErrorKind::Rejected => labelled!(FAILURES, "kind", "rejected"),
            ErrorKind::Corrupt => labelled!(FAILURES, "kind", "corrupt"),
            _ => labelled!(FAILURES, "kind", "misuse"),
        };
        counter.add(1);
        let told = !error.is_retryable() && !self.0.swap(true, Ordering::Relaxed);
        if told {
            tracing::warn!(error = %error.chain(), "{what}, and it is tried again");
        } else {
            tracing::debug!(error = %error.chain(), "{what}");
        }
        told
    }
}

/// How a publish ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sent {
    Done,
    Duplicate,
    Fenced,
    Failed,
}

pub(crate) fn published(how: Sent) {
    let counter = match how {
        Sent::Done => labelled!(PUBLISHED, "outcome", "published"),
        Sent::Duplicate => labelled!(PUBLISHED, "outcome", "duplicate"),
        Sent::Fenced => labelled!(PUBLISHED, "outcome", "fenced"),
        Sent::Failed => labelled!(PUBLISHED, "outcome", "failed"),
    };
    counter.add(1);
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ended {
    Acked,
    Retried,
    Buried,
    Gone,
}

pub(crate) fn delivered(how: Ended) {
    let counter = match how {
        Ended::Acked => labelled!(DELIVERIES, "outcome", "acked"),
        Ended::Retried => labelled!(DELIVERIES, "outcome", "retried"),
        Ended::Buried => labelled!(DELIVERIES, "outcome", "buried"),
        Ended::Gone => labelled!(DELIVERIES, "outcome", "gone"),
    };
    counter.add(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_once_in_an_outage_and_an_outage_is_not() {
        let (trouble, refused) = (Trouble::default(), Error::new(ErrorKind::Rejected, "x"));
        let away = Error::new(ErrorKind::Unavailable, "x");
        assert!(!trouble.met(&away, "what"));
        for _ in 0..2 {
            assert!(trouble.met(&refused, "what"));
            assert!(!trouble.met(&refused, "what") && !trouble.met(&away, "what"));
            trouble.over();
        }
    }
}
