//! GCRA, the fixed window and slots in process: what their Lua does.

use super::{Counter, Looked, SKEW, signed, unsigned};
use crate::backend::{Entered, Terms};

/// GCRA in whole parts of a µs, of which there are as many as its count per period.
#[derive(Debug, Clone)]
pub(super) struct Gcra {
    /// The theoretical arrival time, in µs and parts.
    us: i64,
    part: i64,
    /// How many parts make a µs.
    parts: i64,
    clock: i64,
    /// What was ever given back, in µs.
    back: i64,
    /// Changes where times do.
    birth: i64,
}

impl Gcra {
    pub(super) fn look(counter: Option<Counter>, terms: &Terms, t: i64, peeks: bool) -> Looked {
        let parts = signed(terms.step);
        let Some(Counter::Gcra(mut gcra)) = counter else {
            let counter =
                Counter::Gcra(Self { us: t, part: 0, parts, clock: 0, back: 0, birth: t });
            return Looked {
                counter,
                used: 0,
                at: t,
                now: t,
                moved: false,
                until: None,
                before: None,
            };
        };
        if gcra.parts != parts {
            gcra.us += i64::from(gcra.part > 0);
            (gcra.part, gcra.parts) = (0, parts);
        }
        let ahead = gcra.clock - t;
        let (mut at, mut moved) = (t, false);
        if ahead > SKEW && peeks {
            at = gcra.clock;
        } else if ahead > SKEW {
            gcra.us -= ahead;
            gcra.clock = t;
            gcra.birth += 1;
            moved = true;
        }
        let now = at.max(gcra.clock);
        if gcra.us < now {
            (gcra.us, gcra.part) = (now, 0);
        }
        // Whole units, rounded up.
        let left = i128::from(gcra.us - now) * i128::from(parts) + i128::from(gcra.part);
        let span = i128::from(terms.span_us);
        let used = left.div_euclid(span) + i128::from(left.rem_euclid(span) > 0);
        let used = u64::try_from(used).unwrap_or(u64::MAX);
        Looked { counter: Counter::Gcra(gcra), used, at, now, moved, until: None, before: None }
    }

    fn in_parts(&self) -> i128 {
        i128::from(self.us) * i128::from(self.parts) + i128::from(self.part)
    }

    fn set(&mut self, parts: i128) {
        let whole = i128::from(self.parts);
        self.us = i64::try_from(parts.div_euclid(whole)).unwrap_or(i64::MAX);
        self.part = i64::try_from(parts.rem_euclid(whole)).unwrap_or(0);
    }

    pub(super) fn take(&mut self, cost: u64, terms: &Terms, now: i64) {
        self.set(self.in_parts() + i128::from(cost) * i128::from(terms.span_us));
        self.clock = now;
    }

    pub(super) fn left(&self) -> i64 {
        self.us - self.clock
    }

    pub(super) fn rate(&self, used: u64, cost: u64, terms: &Terms, at: i64) -> (i64, i64) {
        let ceil = |parts: i128| {
            let whole = i128::from(self.parts);
            let us = parts.div_euclid(whole) + i128::from(parts.rem_euclid(whole) > 0);
            i64::try_from(us).unwrap_or(i64::MAX)
        };
        let reset = if used > 0 { ceil(self.in_parts()) - at } else { 0 };
        if used + cost <= terms.limit || cost > terms.limit {
            return (0, reset);
        }
        let room = i128::from(terms.limit - cost) * i128::from(terms.span_us);
        (ceil(self.in_parts() - room) - at, reset)
    }

    pub(super) fn give_back(
        &mut self,
        amount: u64,
        used: u64,
        [at, birth, back]: [u64; 3],
        terms: &Terms,
        now: i64,
    ) -> u64 {
        if birth != unsigned(self.birth) {
            return 0;
        }
        // Whatever was given back since may have been older: it is taken for that.
        let left = signed(at) - (self.back - signed(back)) - now;
        let units = i128::from(left) * i128::from(self.parts);
        let units = u64::try_from(units.div_euclid(i128::from(terms.span_us))).unwrap_or(0);
        let given = amount.min(used).min(units);
        if given > 0 {
            let worth = i128::from(given) * i128::from(terms.span_us);
            self.set(self.in_parts() - worth);
            let whole = worth.div_euclid(i128::from(self.parts));
            self.back += i64::try_from(whole).unwrap_or(i64::MAX) + 1;
            self.clock = now;
        }
        given
    }

    pub(super) fn reset(&mut self, now: i64) {
        self.birth += 1;
        (self.us, self.part, self.clock) = (now, 0, now);
    }

    pub(super) fn receipt(&self) -> [u64; 3] {
        [unsigned(self.us), unsigned(self.birth), unsigned(self.back)]
    }
}

#[derive(Debug, Clone)]
pub(super) struct Fixed {
    start: i64,
    used: u64,
    clock: i64,
    era: u64,
    /// The number of its last admission.
    number: u64,
}

impl Fixed {
    pub(super) fn look(counter: Option<Counter>, span: i64, t: i64, peeks: bool) -> Looked {
        let begun = |now: i64| now - now.rem_euclid(span);
        let Some(Counter::Fixed(mut fixed)) = counter else {
            let counter =
                Counter::Fixed(Self { start: begun(t), used: 0, clock: 0, era: 0, number: 0 });
            return Looked {
                counter,
                used: 0,
                at: t,
                now: t,
                moved: false,
                until: None,
                before: None,
            };
        };
        let ahead = fixed.clock - t;
        let (mut at, mut moved) = (t, false);
        if ahead > SKEW && peeks {
            at = fixed.clock;
        } else if ahead > SKEW {
            (fixed.start, fixed.clock) = (begun(t), t);
            fixed.era += 1;
            moved = true;
        }
        let now = at.max(fixed.clock);
        if begun(now) != fixed.start {
            (fixed.start, fixed.used) = (begun(now), 0);
        }
        Looked {
            used: fixed.used,
            counter: Counter::Fixed(fixed),
            at,
            now,
            moved,
            until: None,
            before: None,
        }
    }

    pub(super) fn take(&mut self, cost: u64, now: i64) {
        self.used += cost;
        self.clock = now;
        self.number += 1;
    }

    pub(super) fn left(&self, span: i64) -> i64 {
        self.start + span - self.clock
    }

    pub(super) fn rate(&self, used: u64, cost: u64, terms: &Terms, at: i64) -> (i64, i64) {
        let left = self.start + signed(terms.span_us) - at;
        let full = used + cost > terms.limit && cost <= terms.limit;
        (if full { left } else { 0 }, if used > 0 { left } else { 0 })
    }

    pub(super) fn give_back(&mut self, amount: u64, [at, era, _]: [u64; 3], now: i64) -> u64 {
        if self.start != signed(at) || self.era != era {
            return 0;
        }
        let given = amount.min(self.used);
        self.used -= given;
        self.clock = now;
        given
    }

    pub(super) fn reset(&mut self, now: i64) {
        self.used = 0;
        self.era += 1;
        self.clock = now;
    }

    pub(super) fn receipt(&self) -> [u64; 3] {
        [unsigned(self.start), self.era, self.number]
    }
}

/// Slots by their token, and when their leases end.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots(Vec<(String, i64)>);

impl Slots {
    pub(super) fn enter(&mut self, token: &str, slots: u64, lease: i64, t: i64) -> Entered {
        let used = self.0.iter().filter(|(_, until)| *until > t).count() as u64;
        let held = self.0.iter().any(|(held, until)| held == token && *until > t);
        if held || used < slots {
            self.0.retain(|(other, until)| other != token && *until > t);
            self.0.push((token.to_owned(), t + lease));
            return Entered::Slot { used: if held { used } else { used + 1 } };
        }
        for (_, until) in &mut self.0 {
            // What ends later was given before the clock was set back.
            *until = (*until).min(t + lease);
        }
        let first = self.0.iter().map(|(_, until)| *until).filter(|until| *until > t).min();
        Entered::Full { used, retry_us: first.map(|until| unsigned(until - t)) }
    }

    pub(super) fn stay(&mut self, token: &str, lease: i64, t: i64) -> bool {
        let held = self.0.iter_mut().find(|(held, until)| held == token && *until > t);
        held.map(|(_, until)| *until = t + lease).is_some()
    }

    pub(super) fn leave(&mut self, token: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(held, _)| held != token);
        self.0.len() < before
    }

    /// How many are taken, and when one is free.
    pub(super) fn seen(&self, slots: u64, t: i64) -> (u64, Option<u64>) {
        let alive = || self.0.iter().filter(|(_, until)| *until > t);
        let used = alive().count() as u64;
        if used < slots {
            return (used, Some(0));
        }
        (used, alive().map(|(_, until)| unsigned(*until - t)).min())
    }
}
