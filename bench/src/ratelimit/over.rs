//! How much more was admitted than allowed, from what clients saw: never more than was.

use std::{collections::VecDeque, time::Duration};

/// An admission, which happened somewhere between its two moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Admission {
    pub(crate) sent: Duration,
    pub(crate) received: Duration,
}

/// How many admissions had to be refused for no window `(t − window, t]` to hold more than the
/// limit. An admission counts into a window only if it surely lies in it, so it is at least that
/// many. The clocks of client and server may differ by a thousandth.
pub(crate) fn admitted(mut all: Vec<Admission>, limit: usize, window: Duration) -> usize {
    let window = window.saturating_sub(window / 1000);
    all.sort_by_key(|admission| admission.received);
    // What was rightly admitted and may lie in the window, by its `sent`.
    let (mut right, mut over) = (VecDeque::<Duration>::new(), 0);
    for Admission { sent, received } in all {
        while right.front().is_some_and(|sent| *sent + window <= received) {
            right.pop_front();
        }
        if right.len() >= limit {
            over += 1;
        } else {
            let at = right.partition_point(|other| *other <= sent);
            right.insert(at, sent);
        }
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Admission {
        let at = Duration::from_millis(ms);
        Admission { sent: at, received: at + Duration::from_millis(2) }
    }

    fn over(all: impl IntoIterator<Item = u64>) -> usize {
        admitted(all.into_iter().map(at).collect(), 3, Duration::from_secs(1))
    }

    #[test]
    fn one_too_many_in_a_window_is_found_wherever_the_window_begins() {
        assert_eq!(over([0, 10, 20, 500]), 1);
        assert_eq!(over([0, 900, 910, 1_100, 1_110]), 1);
        assert_eq!(over([0, 900, 910, 920, 1_100, 1_110]), 2);
    }

    #[test]
    fn what_may_be_right_is_not_counted() {
        assert_eq!(over([0, 10, 20, 1_030, 1_040, 1_050]), 0);
        // Sent in the window of the first three, and perhaps admitted behind it.
        assert_eq!(over([0, 10, 20, 999]), 0);
    }
}
