//! The checks at the end: what the ledger let in, examined again from its history alone.
//!
//! Nothing here asks the ledger for its opinion. Parts that come later add their own checks here.

use super::{
    ledger::{Entry, Stamp},
    windows::Admissions,
};
use std::collections::{HashMap, HashSet};

/// What there is to examine.
#[derive(Debug)]
pub(crate) struct Evidence<'a, A> {
    /// The number of every request there was.
    pub(crate) issued: &'a [u64],
    /// Every accepted write, in the order of acceptance.
    pub(crate) history: &'a [Entry],
    /// Each client and the value of its account.
    pub(crate) accounts: A,
    /// What the limits let in.
    pub(crate) admissions: &'a Admissions,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Requests that were handled at least once.
    pub(crate) handled: u64,
    /// Requests that were not.
    pub(crate) missing: u64,
    /// Writes for a request that had been handled before.
    pub(crate) duplicates: u64,
    /// Writes for a request that there never was.
    pub(crate) invented: u64,
    /// Writes after one with a higher fence, or with the same fence of another owner.
    pub(crate) stale_writes_accepted: u64,
    /// Accounts whose value is not the number of their accepted writes.
    pub(crate) wrong_accounts: u64,
    /// Requests that were handled though no limit had let them in.
    pub(crate) unadmitted: u64,
    /// Admissions that surely fell in a window that was full without them.
    pub(crate) over_admitted: u64,
}

impl Findings {
    /// Whether nothing is wrong.
    pub(crate) fn is_clean(&self) -> bool {
        let Self {
            handled: _,
            missing,
            duplicates,
            invented,
            stale_writes_accepted,
            wrong_accounts,
            unadmitted,
            over_admitted,
        } = *self;
        let of_writes = missing + duplicates + invented + stale_writes_accepted + wrong_accounts;
        of_writes + unadmitted + over_admitted == 0
    }
}

/// Examines the evidence.
pub(crate) fn examine<'a>(
    evidence: Evidence<'a, impl Iterator<Item = (&'a str, u64)>>,
) -> Findings {
    let Evidence { issued, history, accounts, admissions } = evidence;
    let mut open: HashSet<u64> = issued.iter().copied().collect();
    let mut handled: HashSet<u64> = HashSet::with_capacity(open.len());
    let mut last: HashMap<&str, &Stamp> = HashMap::new();
    let mut writes: HashMap<&str, u64> = HashMap::new();
    let mut findings = Findings::default();
    for Entry { number, client, stamp } in history {
        if open.remove(number) {
            handled.insert(*number);
        } else if handled.contains(number) {
            findings.duplicates += 1;
        } else {
            findings.invented += 1;
        }
        *writes.entry(client).or_default() += 1;
        let before = last.entry(client).or_insert(stamp);
        if stamp.fence < before.fence {
            findings.stale_writes_accepted += 1;
            // The highest one stays the measure.
            continue;
        }
        if stamp.fence == before.fence && stamp.owner != before.owner {
            findings.stale_writes_accepted += 1;
        }
        *before = stamp;
    }
    for (client, value) in accounts {
        if value != writes.remove(client).unwrap_or_default() {
            findings.wrong_accounts += 1;
        }
    }
    findings.wrong_accounts += writes.len() as u64;
    findings.handled = handled.len() as u64;
    findings.missing = open.len() as u64;
    let unadmitted = handled.iter().filter(|number| !admissions.has(**number));
    findings.unadmitted = unadmitted.count() as u64;
    findings.over_admitted = admissions.over();
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::{
        ledger::{Ledger, Rule, Verdict, Write, fenced},
        limits::PER_CLIENT,
        windows::Span,
    };

    /// A ledger that accepts anything, as one does that knows no fences.
    const TRUSTING: Rule = |_, _, _| Verdict::Accepted;

    fn stamp(fence: u64, owner: &str) -> Stamp {
        let owner = owner.to_owned();
        Stamp { fence, owner }
    }

    /// Handles a request as a worker does that holds the lock all the while.
    fn handle(ledger: &mut Ledger, number: u64, fence: u64) {
        let stamp = stamp(fence, "a");
        let value = ledger.read("c", &stamp).unwrap_or_default() + 1;
        put(ledger, number, value, stamp);
    }

    fn put(ledger: &mut Ledger, number: u64, value: u64, stamp: Stamp) {
        let client = "c".to_owned();
        let write = Write { client, number, value, stamp };
        ledger.write(1, write).expect("no file, no error");
    }

    /// Each request let in, all at about the same time.
    fn let_in(numbers: impl IntoIterator<Item = u64>) -> Admissions {
        let mut admissions = Admissions::default();
        for number in numbers {
            let span = Span { from_us: number, to_us: number };
            admissions.note(number, "c".to_owned(), number.to_string(), span);
        }
        admissions
    }

    fn found(ledger: &Ledger, issued: &[u64]) -> Findings {
        examine(Evidence {
            issued,
            history: ledger.history(),
            accounts: ledger.accounts(),
            admissions: &let_in(issued.iter().copied()),
        })
    }

    #[test]
    fn an_honest_run_is_clean() {
        let mut ledger = Ledger::new(fenced, None);
        for number in 1..=3 {
            handle(&mut ledger, number, 10 + number);
        }
        let findings = found(&ledger, &[1, 2, 3]);
        assert!(findings.is_clean(), "{findings:?}");
        assert_eq!(findings.handled, 3);
    }

    #[test]
    fn planted_a_ledger_that_accepts_stale_writes_is_found() {
        let stale = |rule| {
            let mut ledger = Ledger::new(rule, None);
            put(&mut ledger, 1, 1, stamp(12, "a"));
            put(&mut ledger, 2, 2, stamp(11, "b"));
            put(&mut ledger, 3, 3, stamp(11, "b"));
            put(&mut ledger, 4, 4, stamp(12, "c"));
            found(&ledger, &[1, 2, 3, 4])
        };
        let findings = stale(TRUSTING);
        assert_eq!(findings.stale_writes_accepted, 3);
        assert!(!findings.is_clean());
        let findings = stale(fenced);
        assert_eq!((findings.stale_writes_accepted, findings.missing), (0, 3));
    }

    #[test]
    fn planted_a_worker_that_writes_twice_is_found_where_the_ledger_lets_it() {
        let twice = |rule| {
            let mut ledger = Ledger::new(rule, None);
            handle(&mut ledger, 1, 11);
            handle(&mut ledger, 1, 11);
            found(&ledger, &[1])
        };
        let findings = twice(TRUSTING);
        assert_eq!((findings.duplicates, findings.handled), (1, 1));
        assert!(!findings.is_clean());
        assert!(twice(fenced).is_clean());
    }

    #[test]
    fn planted_two_workers_without_a_lock_lose_an_update() {
        let mut ledger = Ledger::new(TRUSTING, None);
        let (one, other) = (stamp(11, "a"), stamp(12, "b"));
        let read = ledger.read("c", &one).expect("is admitted");
        let same = ledger.read("c", &other).expect("is admitted");
        put(&mut ledger, 1, read + 1, one);
        put(&mut ledger, 2, same + 1, other);
        let findings = found(&ledger, &[1, 2]);
        assert_eq!(findings.wrong_accounts, 1);
        assert!(!findings.is_clean());
    }

    #[test]
    fn planted_lost_and_invented_requests_are_found() {
        let mut ledger = Ledger::new(fenced, None);
        handle(&mut ledger, 1, 11);
        handle(&mut ledger, 9, 12);
        let findings = found(&ledger, &[1, 2]);
        assert_eq!((findings.missing, findings.invented), (1, 1));
        assert!(!findings.is_clean());
    }

    #[test]
    fn a_write_to_no_account_is_found() {
        let mut ledger = Ledger::new(fenced, None);
        handle(&mut ledger, 1, 11);
        let findings = examine(Evidence {
            issued: &[1],
            history: ledger.history(),
            accounts: std::iter::empty(),
            admissions: &let_in([1]),
        });
        assert_eq!(findings.wrong_accounts, 1);
    }
    #[test]
    fn planted_a_request_that_passed_the_limits_by_is_found() {
        let mut ledger = Ledger::new(fenced, None);
        handle(&mut ledger, 1, 11);
        let examined = |admissions: &Admissions| {
            examine(Evidence {
                issued: &[1],
                history: ledger.history(),
                accounts: ledger.accounts(),
                admissions,
            })
        };
        let findings = examined(&let_in([2]));
        assert_eq!(findings.unadmitted, 1);
        assert!(!findings.is_clean());
        // All of them at once, and one more.
        let findings = examined(&let_in(1..=PER_CLIENT.count));
        assert!(findings.is_clean(), "{findings:?}");
        let findings = examined(&let_in(0..=PER_CLIENT.count));
        assert_eq!(findings.over_admitted, 1);
        assert!(!findings.is_clean());
    }
}
