//! Finds leases of different owners on one name that were believed in at the same time.
//!
//! The caller supplies sound stamps from one monotonic clock: a lease starts when the acquire has
//! returned and ends at the release call or the holder's own deadline, whichever is first. This
//! module does not decide whether an overlap is allowed; where none is promised, it is a count.

use std::collections::HashMap;

/// One belief in a lease: `[start, end)` in nanoseconds of one clock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "plain data that callers write down in full")]
pub struct Interval {
    /// What was locked.
    pub name: String,
    /// Who believed to hold it.
    pub owner: String,
    /// First nanosecond of the belief.
    pub start: u64,
    /// First nanosecond after it. At or before `start`, the interval is empty.
    pub end: u64,
}

/// Two intervals of different owners on one name that share at least a nanosecond.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "plain data")]
pub struct Overlap {
    /// The one that started first (of two that started together, the first given).
    pub first: Interval,
    /// The one that started while `first` was believed in.
    pub second: Interval,
}

impl Overlap {
    /// How long both believed, in nanoseconds.
    #[must_use]
    pub fn length_ns(&self) -> u64 {
        self.first.end.min(self.second.end).saturating_sub(self.second.start)
    }
}

/// All overlapping pairs, ordered by the start of the second of each pair.
#[must_use]
pub fn overlaps(intervals: &[Interval]) -> Vec<Overlap> {
    let mut sorted: Vec<&Interval> = intervals.iter().filter(|i| i.start < i.end).collect();
    sorted.sort_by_key(|interval| interval.start);
    let mut open: HashMap<&str, Vec<&Interval>> = HashMap::new();
    let mut found = Vec::new();
    for second in sorted {
        let earlier = open.entry(&second.name).or_default();
        earlier.retain(|first| first.end > second.start);
        found.extend(
            earlier
                .iter()
                .filter(|first| first.owner != second.owner)
                .map(|first| Overlap { first: (*first).clone(), second: second.clone() }),
        );
        earlier.push(second);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(name: &str, owner: &str, start: u64, end: u64) -> Interval {
        Interval { name: name.to_owned(), owner: owner.to_owned(), start, end }
    }

    #[test]
    fn neighbours_other_names_and_one_owner_do_not_overlap() {
        let clean = [
            lease("x", "a", 0, 10),
            lease("x", "b", 10, 20),
            lease("y", "b", 0, 20),
            lease("x", "b", 15, 30),
            lease("x", "c", 12, 12),
            lease("x", "c", 14, 13),
        ];
        assert_eq!(overlaps(&clean), []);
    }

    /// Planted bug: a holder that goes on after its deadline while the next one has the lock.
    #[test]
    fn finds_a_holder_that_outstays_its_lease_by_one_nanosecond() {
        let found = overlaps(&[lease("x", "b", 10, 20), lease("x", "a", 0, 11)]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].first.owner.as_str(), found[0].second.owner.as_str()), ("a", "b"));
        assert_eq!(found[0].length_ns(), 1);
    }

    /// Planted bug: a release without comparing the token, which frees somebody else's lock.
    #[test]
    fn finds_every_pair_inside_a_long_lease() {
        let found = overlaps(&[
            lease("x", "a", 0, 100),
            lease("x", "b", 10, 20),
            lease("x", "a", 30, 40),
            lease("x", "c", 35, 50),
            lease("x", "b", 99, 120),
        ]);
        let pairs: Vec<(&str, u64)> =
            found.iter().map(|o| (o.second.owner.as_str(), o.length_ns())).collect();
        assert_eq!(pairs, [("b", 10), ("c", 15), ("c", 5), ("b", 1)]);
    }

    #[test]
    fn two_that_start_together_overlap() {
        assert_eq!(overlaps(&[lease("x", "a", 5, 9), lease("x", "b", 5, 6)]).len(), 1);
    }
}
