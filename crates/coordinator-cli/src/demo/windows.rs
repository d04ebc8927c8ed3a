//! What the limits let in, counted again from the parent's own record.
//!
//! When exactly the server decided is not known here, but between what: the request was asked for
//! after the worker had it, and the worker told of the admission after it had that. So an excess
//! that is found is one, and one that hides in that little uncertainty is not found.

use super::limits::{Limit, PER_CLIENT, PER_PATH, micros};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
};

/// Between which times of the parent's clock, in µs, an admission was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from_us: u64,
    pub(crate) to_us: u64,
}

/// Every admission that the parent was told of.
#[derive(Debug, Default)]
pub(crate) struct Admissions {
    clients: HashMap<String, Vec<Span>>,
    paths: HashMap<String, Vec<Span>>,
    numbers: HashSet<u64>,
}

impl Admissions {
    /// A request was let in, now at the latest.
    pub(crate) fn note(&mut self, number: u64, client: String, path: String, span: Span) {
        self.numbers.insert(number);
        self.clients.entry(client).or_default().push(span);
        self.paths.entry(path).or_default().push(span);
    }

    /// Whether a request was ever let in.
    pub(crate) fn has(&self, number: u64) -> bool {
        self.numbers.contains(&number)
    }

    /// How many admissions there were more than the limits allow.
    pub(crate) fn over(&self) -> u64 {
        let over = |subjects: &HashMap<String, Vec<Span>>, limit: Limit| -> u64 {
            subjects.values().map(|spans| over(spans, limit)).sum()
        };
        over(&self.clients, PER_CLIENT) + over(&self.paths, PER_PATH)
    }
}

/// How many admissions surely fell in a window that was full without them.
///
/// Ordered by when each was decided at the latest, `to`, an admission is one too many if it and
/// those before it that were surely decided later than `to` less the window are more than the
/// limit: all of them lie in one window's length, wherever exactly they lie.
fn over(spans: &[Span], limit: Limit) -> u64 {
    // The server's clock may run a little slower than the parent's.
    let window = micros(limit.window - limit.window / 1000);
    let mut spans = spans.to_vec();
    spans.sort_unstable_by_key(|span| span.to_us);
    let mut within = BinaryHeap::new();
    let mut over = 0;
    for Span { from_us, to_us } in spans {
        within.push(Reverse(from_us));
        while within.peek().is_some_and(|Reverse(from_us)| from_us + window <= to_us) {
            within.pop();
        }
        over += u64::from(within.len() as u64 > limit.count);
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator::{
        clock::{Clock as _, ManualClock},
        ratelimit::{Quota, RateLimiter},
    };
    use std::{sync::Arc, time::Duration};

    const LIMIT: Limit = Limit { count: 3, window: Duration::from_millis(100) };

    fn at(ms: u64, uncertain_ms: u64) -> Span {
        Span { from_us: ms * 1000, to_us: (ms + uncertain_ms) * 1000 }
    }

    fn exactly(times_ms: &[u64]) -> Vec<Span> {
        times_ms.iter().map(|ms| at(*ms, 0)).collect()
    }

    #[test]
    fn as_many_as_allowed_are_never_too_many() {
        assert_eq!(over(&[], LIMIT), 0);
        assert_eq!(over(&exactly(&[0, 0, 0, 100, 100, 100, 250]), LIMIT), 0);
        assert_eq!(over(&exactly(&[0, 40, 80, 100, 140, 180, 200]), LIMIT), 0);
    }

    #[test]
    fn planted_each_one_too_many_is_counted_whatever_the_alignment() {
        assert_eq!(over(&exactly(&[5, 5, 5, 5, 5]), LIMIT), 2);
        // A fixed window lets these through.
        assert_eq!(over(&exactly(&[98, 99, 99, 101, 101, 101]), LIMIT), 3);
        assert_eq!(over(&exactly(&[0, 50, 60, 99]), LIMIT), 1);
        assert_eq!(over(&exactly(&[0, 50, 60, 100]), LIMIT), 0);
    }

    #[test]
    fn what_may_have_been_apart_is_no_accusation() {
        // The first may have been decided long before the others.
        assert_eq!(over(&[at(0, 90), at(60, 0), at(70, 0), at(120, 0)], LIMIT), 0);
        // However late they were told of, all four lie between 50 and 140.
        assert_eq!(over(&[at(50, 90), at(60, 0), at(70, 0), at(120, 0)], LIMIT), 1);
        assert_eq!(over(&[at(50, 101), at(60, 0), at(70, 0), at(120, 0)], LIMIT), 0);
    }

    #[test]
    fn clients_and_paths_are_counted_by_themselves() {
        let mut admissions = Admissions::default();
        for number in 0..PER_CLIENT.count {
            let path = number.to_string();
            admissions.note(number, "c".to_owned(), path, at(0, 0));
        }
        assert_eq!(admissions.over(), 0);
        admissions.note(900, "c".to_owned(), "/new".to_owned(), at(1, 0));
        assert_eq!(admissions.over(), 1);
        for number in 0..PER_PATH.count {
            let client = number.to_string();
            admissions.note(1000 + number, client, "/new".to_owned(), at(2, 0));
        }
        assert_eq!(admissions.over(), 2);
        assert!(admissions.has(900) && !admissions.has(901));
    }

    /// What a limiter admits of calls that come every ms.
    async fn admitted(quota: &Quota) -> Vec<Span> {
        let clock = ManualClock::new();
        let limits = RateLimiter::embedded_with_clock(Arc::new(clock.clone()));
        let mut spans = Vec::new();
        for _ in 0..1000 {
            let now = micros(clock.now().since_start());
            if limits.check("c", quota).await.expect("an answer").allowed {
                spans.push(Span { from_us: now, to_us: now });
            }
            clock.advance(Duration::from_millis(1));
        }
        spans
    }

    #[tokio::test]
    async fn planted_limiters_that_admit_too_many_are_found() {
        let Limit { count, window } = LIMIT;
        let sound = admitted(&Quota::sliding_window(count, window)).await;
        assert_eq!((sound.len(), over(&sound, LIMIT)), (30, 0));
        let one_more = admitted(&Quota::sliding_window(count + 1, window)).await;
        assert!(over(&one_more, LIMIT) >= 10);
        let too_short = admitted(&Quota::sliding_window(count, window * 9 / 10)).await;
        assert!(over(&too_short, LIMIT) > 0);
        let bucket = admitted(&Quota::gcra(count, window, count)).await;
        assert!(over(&bucket, LIMIT) > 0);
    }
}
