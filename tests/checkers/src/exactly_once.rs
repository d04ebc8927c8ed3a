//! Compares the ids that were observed with the ids `0..n` that were expected.
//!
//! Order is not looked at; neither is time.

use std::collections::BTreeMap;

/// What differs from "each of `0..n` exactly once". All lists rise by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "plain data")]
pub struct Report {
    /// Expected and never observed.
    pub missing: Vec<u64>,
    /// Observed more than once, with the number of times.
    pub duplicates: Vec<(u64, usize)>,
    /// Observed though never expected: `n` or above.
    pub unexpected: Vec<u64>,
}

impl Report {
    /// Whether each expected id came exactly once and nothing else came.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.duplicates.is_empty() && self.unexpected.is_empty()
    }
}

/// Checks observed ids, in any order, against `0..n`.
#[must_use]
pub fn check(n: u64, observed: impl IntoIterator<Item = u64>) -> Report {
    let mut times: BTreeMap<u64, usize> = BTreeMap::new();
    for id in observed {
        *times.entry(id).or_default() += 1;
    }
    Report {
        missing: (0..n).filter(|id| !times.contains_key(id)).collect(),
        duplicates: times.iter().filter(|(_, k)| **k > 1).map(|(id, k)| (*id, *k)).collect(),
        unexpected: times.range(n..).map(|(id, _)| *id).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_order_of_all_ids_is_clean() {
        assert!(check(5, [4, 0, 3, 1, 2]).is_clean());
        assert!(check(0, []).is_clean());
    }

    /// Planted bug: a queue that acknowledges before it stores.
    #[test]
    fn finds_a_lost_id() {
        assert_eq!(check(4, [0, 1, 3]).missing, [2]);
        assert_eq!(check(2, []).missing, [0, 1]);
    }

    /// Planted bug: an outbox that replays without an idempotency key.
    #[test]
    fn finds_a_doubled_id() {
        let report = check(3, [0, 1, 1, 2, 1]);
        assert_eq!(report.duplicates, [(1, 3)]);
        assert!(!report.is_clean());
    }

    /// Planted bug: a reader that makes ids up.
    #[test]
    fn finds_an_invented_id() {
        let report = check(2, [0, 1, 2, u64::MAX]);
        assert_eq!(report.unexpected, [2, u64::MAX]);
        assert!(!report.is_clean());
    }
}
