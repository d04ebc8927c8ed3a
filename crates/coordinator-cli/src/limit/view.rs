//! The shapes of the answers about limits: the JSON keys callers rely on, and words for people.

use super::rule::Asked;
use crate::output;
use coordinator::ratelimit::Decision;
use serde::Serialize;
use std::time::Duration;

/// What was decided.
#[derive(Debug, Serialize)]
pub(super) struct CheckView {
    pub(super) allowed: bool,
    limit: u64,
    remaining: u64,
    retry_after_ms: Option<u64>,
    reset_after_ms: u64,
    source: &'static str,
    limits: Vec<LimitView>,
}

/// What was decided of one limit.
#[derive(Debug, Clone, Serialize)]
struct LimitView {
    subject: String,
    allowed: bool,
    limit: u64,
    used: u64,
    remaining: u64,
    window_ms: u64,
    retry_after_ms: Option<u64>,
    reset_after_ms: u64,
    source: &'static str,
}

impl LimitView {
    /// The higher, the more it stands in the way.
    fn weight(&self) -> impl Ord {
        let never = self.retry_after_ms.is_none();
        let used = u64::MAX - self.remaining;
        (!self.allowed, never, self.retry_after_ms, used, self.reset_after_ms)
    }
}

impl CheckView {
    /// Each decision in the order asked. What stands beside the list is of the limit that stands
    /// most in the way.
    pub(super) fn new(asked: &Asked, each: &[Decision]) -> Option<Self> {
        let limits = asked.iter().zip(each).map(|((subject, quota), decision)| LimitView {
            subject: subject.to_owned(),
            allowed: decision.allowed,
            limit: decision.limit,
            used: decision.used,
            remaining: decision.remaining,
            window_ms: ceil_ms(quota.window()),
            retry_after_ms: decision.retry_after.map(ceil_ms),
            reset_after_ms: ceil_ms(decision.reset_after),
            source: decision.source.as_str(),
        });
        let limits: Vec<_> = limits.collect();
        let first = limits.iter().max_by_key(|limit| limit.weight())?;
        Some(Self {
            allowed: first.allowed,
            limit: first.limit,
            remaining: first.remaining,
            retry_after_ms: first.retry_after_ms,
            reset_after_ms: first.reset_after_ms,
            source: first.source,
            limits,
        })
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let header =
            ["ALLOWED", "SUBJECT", "LIMIT", "WINDOW", "REMAINING", "RETRY AFTER", "RESET AFTER"];
        let rows = self.limits.iter().map(|limit| {
            vec![
                if limit.allowed { "yes" } else { "no" }.to_owned(),
                limit.subject.clone(),
                limit.limit.to_string(),
                span(limit.window_ms),
                limit.remaining.to_string(),
                limit.retry_after_ms.map_or_else(|| "never".to_owned(), span),
                span(limit.reset_after_ms),
            ]
        });
        output::table(&header, rows)
    }
}

/// What was forgotten.
#[derive(Debug, Serialize)]
pub(super) struct ResetView {
    pub(super) subject: String,
    pub(super) limit: u64,
    pub(super) window_ms: u64,
    /// What had been taken.
    pub(super) used: u64,
}

/// Who was refused, how often, and when for the last time.
#[derive(Debug, Serialize)]
pub(super) struct OffenderView {
    pub(super) subject: String,
    pub(super) count: u64,
    pub(super) last_ms: u64,
    pub(super) tenant: Option<String>,
    pub(super) policy: Option<String>,
}

/// The same with what it was refused by.
#[derive(Debug, Serialize)]
pub(super) struct ViolationView {
    #[serde(flatten)]
    pub(super) offender: OffenderView,
    pub(super) kind: &'static str,
    pub(super) limit: u64,
    pub(super) window_ms: u64,
}

/// Whole ms that last at least as long.
pub(super) fn ceil_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// A span for people.
pub(super) fn span(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_what_is_told_is_never_too_short() {
        assert_eq!(ceil_ms(Duration::ZERO), 0);
        assert_eq!(ceil_ms(Duration::from_micros(1)), 1);
        assert_eq!(ceil_ms(Duration::from_millis(5)), 5);
        assert_eq!(ceil_ms(Duration::from_micros(5001)), 6);
        assert_eq!(ceil_ms(Duration::MAX), u64::MAX);
    }

    #[test]
    fn what_stands_most_in_the_way_is_told_first() {
        let limit = |allowed, remaining, retry_after_ms| LimitView {
            subject: "s".into(),
            allowed,
            limit: 10,
            used: 0,
            remaining,
            window_ms: 1,
            retry_after_ms,
            reset_after_ms: 0,
            source: "redis",
        };
        let order = [
            limit(true, 9, Some(0)),
            limit(true, 3, Some(0)),
            limit(true, 0, Some(7)),
            limit(false, 2, Some(5)),
            limit(false, 0, Some(6)),
            limit(false, 9, None),
        ];
        assert!(order.is_sorted_by(|one, next| one.weight() < next.weight()));
    }
}
