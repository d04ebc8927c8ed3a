//! Rate limits: finds windows that admitted more than their limit, and says by brute force what a
//! sliding window must answer.
//!
//! The oracle keeps every admission and adds them up anew at each question. It shares no idea with
//! the code under test but the definition: a unit admitted at `a` is in the window of `t` if
//! `t − window < a ≤ t`.

/// An admission: when, in µs, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "plain data that callers write down in full")]
pub struct Admission {
    /// When it was admitted.
    pub at: i64,
    /// What it cost.
    pub cost: u64,
}

/// A window in which more was admitted than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "plain data")]
pub struct Excess {
    /// The window's end, included; it begins a window earlier, excluded.
    pub end: i64,
    /// How much was admitted in it.
    pub admitted: u64,
}

/// The worst window of all, if it admitted more than `limit`. The fullest windows end at an
/// admission, so those are all that need looking at.
#[must_use]
pub fn worst_excess(admissions: &[Admission], window_us: i64, limit: u64) -> Option<Excess> {
    let mut sorted = admissions.to_vec();
    sorted.sort_by_key(|admission| admission.at);
    let (mut first, mut admitted, mut worst) = (0, 0_u64, None::<Excess>);
    for (n, newest) in sorted.iter().enumerate() {
        admitted += newest.cost;
        while sorted[first].at <= newest.at - window_us {
            admitted -= sorted[first].cost;
            first += 1;
        }
        // Others of the same moment belong to the same window.
        let last_of_moment = sorted.get(n + 1).is_none_or(|next| next.at > newest.at);
        if last_of_moment && admitted > limit && worst.is_none_or(|w| admitted > w.admitted) {
            worst = Some(Excess { end: newest.at, admitted });
        }
    }
    worst
}

/// An admission as its caller saw it: it happened at some moment between the two, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "plain data that callers write down in full")]
pub struct Told {
    /// When it was asked for, in µs.
    pub asked: i64,
    /// When its answer was known.
    pub known: i64,
    /// What it cost.
    pub cost: u64,
}

/// An admission that somebody was told of and that the log does not have: each entry accounts for
/// one of its cost that was asked for before it and known after it. What the log has beyond those
/// is what nobody was told of.
#[must_use]
pub fn unaccounted(told: &[Told], log: &[Admission]) -> Option<Told> {
    let mut entries = log.to_vec();
    entries.sort_by_key(|entry| entry.at);
    let mut waiting = told.to_vec();
    // The one asked for first is popped first.
    waiting.sort_by_key(|told| std::cmp::Reverse(told.asked));
    let mut open: Vec<Told> = Vec::new();
    for entry in entries {
        while let Some(next) = waiting.pop_if(|told| told.asked <= entry.at) {
            open.push(next);
        }
        // No later entry accounts for what was known by now.
        if let Some(missed) = open.iter().find(|told| told.known < entry.at) {
            return Some(*missed);
        }
        // Whoever knew first has the fewest entries left to choose from.
        let of_its_cost = (0..open.len()).filter(|&n| open[n].cost == entry.cost);
        if let Some(first) = of_its_cost.min_by_key(|&n| open[n].known) {
            open.swap_remove(first);
        }
    }
    open.pop().or_else(|| waiting.pop())
}

/// What a limiter must answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "plain data")]
pub struct Answer {
    /// Whether the cost was taken.
    pub taken: u64,
    /// What is in the window now.
    pub used: u64,
    /// In how many µs the same cost fits; `None`: never.
    pub retry_us: Option<u64>,
    /// In how many µs the window is empty.
    pub reset_us: u64,
}

/// A sliding window of one subject, by the book.
#[derive(Debug, Clone)]
pub struct Oracle {
    window: i64,
    /// How far the clock may be behind before all times are moved back with it, in µs.
    skew: i64,
    admissions: Vec<Admission>,
    /// The highest moment that an admission was given: two never share one.
    clock: Option<i64>,
    /// From which ms on the state is forgotten, where nothing refreshes it.
    forgotten_after_ms: i64,
}

impl Oracle {
    /// An empty window of so many µs.
    #[must_use]
    pub fn new(window: i64, skew: i64) -> Self {
        Self { window, skew, admissions: Vec::new(), clock: None, forgotten_after_ms: i64::MIN }
    }

    /// Everything admitted, as it counts now.
    #[must_use]
    pub fn admissions(&self) -> &[Admission] {
        &self.admissions
    }

    fn inside(&self, now: i64) -> impl Iterator<Item = &Admission> {
        let window = self.window;
        self.admissions.iter().filter(move |admission| admission.at > now - window)
    }

    fn used(&self, now: i64) -> u64 {
        self.inside(now).map(|admission| admission.cost).sum()
    }

    /// A state outlives its last admission by more than a window: by an eighth of one, counted
    /// from the first admission in that eighth, and by the skew.
    fn refresh(&mut self, t: i64, before: Option<i64>, now: i64) {
        let eighth = |at: i64| (i128::from(at) * 8).div_euclid(i128::from(self.window));
        if before.is_none_or(|before| eighth(before) != eighth(now)) {
            let eight_ninths = i128::from(self.window) * 9 + i128::from(self.skew) * 8;
            let ms = (eight_ninths + 7999).div_euclid(8000) + 1;
            self.forgotten_after_ms =
                t.div_euclid(1000) + i64::try_from(ms).expect("a window is below 2^60 µs");
        }
    }

    /// Asks for a cost at `t`, and takes it if it fits or if it is `forced`. Admissions within one
    /// `granule` (0: none) count from the last of them.
    ///
    /// # Panics
    /// For windows of more than 2⁶⁰ µs.
    pub fn ask(&mut self, t: i64, cost: u64, limit: u64, granule: i64, forced: bool) -> Answer {
        if t.div_euclid(1000) > self.forgotten_after_ms {
            self.admissions.clear();
            self.clock = None;
        }
        if let Some(clock) = self.clock.filter(|clock| *clock - t > self.skew) {
            let back = clock - t;
            self.admissions.iter_mut().for_each(|admission| admission.at -= back);
            self.clock = Some(t);
            self.forgotten_after_ms = i64::MIN;
            self.refresh(t, None, t);
        }
        let now = self.clock.map_or(t, |clock| t.max(clock + 1));
        let fits = self.used(now) + cost <= limit;
        let taken = if fits || forced { cost } else { 0 };
        if taken > 0 {
            let same = |at: i64| granule > 0 && at.div_euclid(granule) == now.div_euclid(granule);
            let newest = self.inside(now).map(|admission| admission.at).max();
            if let Some(newest) = newest.filter(|newest| same(*newest)) {
                for admission in self.admissions.iter_mut().filter(|one| one.at == newest) {
                    admission.at = now;
                }
            }
            self.admissions.push(Admission { at: now, cost });
            self.refresh(t, self.clock, now);
            self.clock = Some(now);
        }
        let used = self.used(now);
        let since = |at: i64| u64::try_from(at + self.window - t).unwrap_or(0);
        // It fits when enough of the oldest have left: try each moment at which one leaves.
        let retry_us = (cost <= limit).then(|| {
            if used + cost <= limit {
                return 0;
            }
            let mut ends: Vec<i64> = self.inside(now).map(|admission| admission.at).collect();
            ends.sort_unstable();
            let enough = |end: &&i64| {
                let left = self.inside(now).filter(|admission| admission.at > **end);
                left.map(|admission| admission.cost).sum::<u64>() + cost <= limit
            };
            since(*ends.iter().find(enough).expect("the last one leaves nothing"))
        });
        let newest = self.inside(now).map(|admission| admission.at).max();
        Answer { taken, used, retry_us, reset_us: newest.map_or(0, since) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at: i64, cost: u64) -> Admission {
        Admission { at, cost }
    }

    #[test]
    fn a_window_that_is_too_full_is_found_at_any_alignment() {
        let admissions = [at(0, 3), at(59, 3), at(61, 3)];
        assert_eq!(worst_excess(&admissions, 60, 6), None);
        assert_eq!(worst_excess(&admissions, 60, 5), Some(Excess { end: 59, admitted: 6 }));
        assert_eq!(worst_excess(&admissions, 62, 8), Some(Excess { end: 61, admitted: 9 }));
        assert_eq!(worst_excess(&[at(1, 1), at(1, 1)], 1, 1), Some(Excess { end: 1, admitted: 2 }));
    }

    fn told(asked: i64, known: i64, cost: u64) -> Told {
        Told { asked, known, cost }
    }

    #[test]
    fn what_callers_were_told_must_stand_in_the_log() {
        let log = [at(10, 1), at(20, 1), at(30, 2)];
        assert_eq!(unaccounted(&[told(10, 10, 1), told(15, 25, 1), told(0, 40, 2)], &log), None);
        // Whoever can wait leaves the first to one who cannot, whatever their order.
        assert_eq!(unaccounted(&[told(0, 30, 1), told(5, 12, 1)], &log), None);
        assert_eq!(unaccounted(&[told(5, 12, 1), told(0, 30, 1)], &log), None);
        assert_eq!(unaccounted(&[], &log), None);
        for missing in [told(11, 19, 1), told(0, 9, 1), told(31, 50, 2), told(0, 50, 3)] {
            assert_eq!(unaccounted(&[missing], &log), Some(missing));
        }
        let same = told(0, 50, 1);
        assert_eq!(unaccounted(&[same, same, same], &log), Some(same));
        assert_eq!(unaccounted(&[same], &[]), Some(same));
    }

    #[test]
    fn the_oracle_admits_what_fits_and_says_when_more_does() {
        let mut oracle = Oracle::new(100, 10);
        let answer = oracle.ask(1000, 3, 5, 0, false);
        assert_eq!(answer, Answer { taken: 3, used: 3, retry_us: Some(100), reset_us: 100 });
        let denied = oracle.ask(1050, 3, 5, 0, false);
        assert_eq!(denied, Answer { taken: 0, used: 3, retry_us: Some(50), reset_us: 50 });
        assert_eq!(oracle.ask(1099, 3, 5, 0, false).taken, 0);
        assert_eq!(oracle.ask(1100, 3, 5, 0, false).taken, 3);
        assert_eq!(oracle.ask(1100, 6, 5, 0, false).retry_us, None);
    }

    #[test]
    fn what_the_oracle_admits_no_window_exceeds() {
        let mut oracle = Oracle::new(10, 5);
        for t in 0..200 {
            oracle.ask(t * 3 % 100 + t, 1, 4, 0, false);
        }
        // Times that were moved back may meet others: only what is in order counts here.
        assert!(worst_excess(oracle.admissions(), 10, 200).is_none());
    }
}
