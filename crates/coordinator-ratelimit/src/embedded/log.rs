//! The sliding window log in process: what `log.lua` does, on a deque.

use super::{Counter, Looked, SKEW, signed, unsigned};
use crate::backend::Terms;
use std::collections::VecDeque;

/// An admission, or several of one granule.
#[derive(Debug, Clone, Copy)]
struct Entry {
    at: i64,
    /// The running total of all admitted cost, this included.
    total: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    /// The total that has left the window.
    base: u64,
    total: u64,
    /// The time of the last admission that counts, 0 without.
    last: i64,
    /// The high-water mark of the clock; 0 for a log that nothing was ever taken from.
    clock: i64,
    /// Changes where times do.
    era: u64,
    entries: VecDeque<Entry>,
}

impl Log {
    pub(super) fn look(counter: Option<Counter>, terms: &Terms, t: i64, peeks: bool) -> Looked {
        let Some(Counter::Log(mut log)) = counter else {
            let counter = Counter::Log(Self::default());
            return Looked { counter, used: 0, at: t, now: t, moved: false };
        };
        let ahead = log.clock - t;
        let (mut at, mut moved) = (t, false);
        if ahead > SKEW && peeks {
            at = log.clock;
        } else if ahead > SKEW {
            log.clock -= ahead;
            log.last = (log.last - ahead).max(0);
            log.entries.iter_mut().for_each(|entry| entry.at -= ahead);
            log.era += 1;
            moved = true;
        }
        let now = if log.clock >= at { log.clock + 1 } else { at };
        let cut = now - signed(terms.span_us);
        while let Some(entry) = log.entries.front().filter(|entry| entry.at <= cut) {
            log.base = entry.total;
            log.entries.pop_front();
        }
        Looked { used: log.used(), counter: Counter::Log(log), at, now, moved }
    }

    fn used(&self) -> u64 {
        self.total - self.base
    }

    /// Admits; whether the log must be kept for longer.
    pub(super) fn take(&mut self, cost: u64, terms: &Terms, now: i64) -> bool {
        let (step, span) = (signed(terms.step), i128::from(terms.span_us));
        let fresh = self.clock == 0;
        let merges =
            step > 0 && self.used() > 0 && self.last.div_euclid(step) == now.div_euclid(step);
        if merges {
            self.entries.pop_back();
        }
        let eighth = |at: i64| (i128::from(at) * 8).div_euclid(span);
        let later = fresh || eighth(self.last) != eighth(now);
        self.total += cost;
        self.last = now;
        self.clock = now;
        self.entries.push_back(Entry { at: now, total: self.total });
        later
    }

    pub(super) fn rate(&self, cost: u64, terms: &Terms, at: i64) -> (i64, i64) {
        let span = signed(terms.span_us);
        let reset = if self.used() > 0 { self.last + span - at } else { 0 };
        // The first entry without which it fits.
        let need = (self.total + cost).saturating_sub(terms.limit);
        if need <= self.base || cost > terms.limit {
            return (0, reset);
        }
        let first = self.entries.partition_point(|entry| entry.total < need);
        (self.entries.get(first).map_or(0, |entry| entry.at + span - at), reset)
    }

    pub(super) fn give_back(
        &mut self,
        amount: u64,
        [at, era, _]: [u64; 3],
        terms: &Terms,
        now: i64,
    ) -> u64 {
        /// A longer tail is not rewritten.
        const TAIL: usize = 121;
        let (at, step) = (signed(at), signed(terms.step));
        if self.used() == 0 || era != self.era || at <= now - signed(terms.span_us) {
            return 0;
        }
        let rank = self.entries.partition_point(|entry| entry.at < at);
        let Some(found) = self.entries.get(rank).copied() else { return 0 };
        let merged = step > 0 && found.at.div_euclid(step) == at.div_euclid(step);
        if self.entries.len() - rank > TAIL || found.at != at && !merged {
            return 0;
        }
        let less = if rank == 0 { self.base } else { self.entries[rank - 1].total };
        let given = amount.min(found.total - less);
        self.entries.iter_mut().skip(rank).for_each(|entry| entry.total -= given);
        if self.entries[rank].total == less {
            self.entries.remove(rank);
        }
        self.last = self.entries.back().map_or(0, |entry| entry.at);
        self.total -= given;
        given
    }

    pub(super) fn reset(&mut self) {
        self.base = self.total;
        self.last = 0;
        self.entries.clear();
        self.era += 1;
    }

    pub(super) fn receipt(&self) -> [u64; 3] {
        [unsigned(self.last), self.era, 0]
    }
}
