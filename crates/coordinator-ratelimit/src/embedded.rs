//! The adapter in process: the executable specification of the scripts.
//!
//! One mutex, one small transition per step, on the clock's wall clock in whole µs, as a server's
//! `TIME`; what expires does so in whole ms, as a server's keys.

mod counters;
mod debug;
mod expiring;
mod log;
mod records;

use crate::backend::{
    Alerts, Ask, Backend, Call, Entered, Entry, Event, From, How, Kind, Offender, Place, Record,
    Return, Seen, Series, Standing, Taken, Terms,
};
use coordinator_core::{BoxFuture, Result, clock::Clock, key::Name};
use counters::{Fixed, Gcra, Slots};
use expiring::Expiring;
use log::Log;
use records::Records;
use std::{
    collections::HashMap,
    future::ready,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// By how many µs a limit may be ahead of the clock before its times are moved back.
const SKEW: i64 = 1_000_000;

pub(crate) struct Embedded {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Changes with every record, of whatever shard.
    recorded: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    limits: Expiring<Counter>,
    slots: Expiring<Slots>,
    denials: Expiring<u64>,
    near: Expiring<()>,
    once: Expiring<Vec<Standing>>,
    returned: Expiring<u64>,
    claims: Expiring<String>,
    epochs: HashMap<(u16, String), u64>,
    records: Records,
}

/// A limit's own state.
#[derive(Debug, Clone)]
enum Counter {
    Log(Log),
    Gcra(Gcra),
    Fixed(Fixed),
}

/// How a limit looks at a moment, ready to be taken from.
#[derive(Debug, Clone)]
struct Looked {
    counter: Counter,
    used: u64,
    /// The moment, on the limit's own clock.
    at: i64,
    /// When an admission would be.
    now: i64,
    /// It was moved back, and must be kept.
    moved: bool,
    /// Until which ms it was to be kept; none for one that was not there.
    until: Option<i64>,
    /// What it was before it was looked at, where looking changes it.
    before: Option<Counter>,
}

/// Whole ms that last at least so many µs, and a skew.
fn ttl_ms(us: i64) -> i64 {
    ceil_ms(us + SKEW)
}

fn ceil_ms(us: i64) -> i64 {
    us.div_euclid(1000) + i64::from(us.rem_euclid(1000) > 0) + 1
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

impl Embedded {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default(), recorded: watch::channel(0).0 }
    }

    /// The state, and the time in µs.
    fn now(&self) -> (MutexGuard<'_, State>, i64) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let t = i64::try_from(self.clock.unix_time().as_micros()).unwrap_or(i64::MAX);
        (state, t)
    }

    fn take_now(&self, call: &Call) -> Taken {
        let (mut state, t) = self.now();
        if call.check_epochs {
            let epochs: Vec<_> = call.asks.iter().map(|ask| state.epoch(&ask.place)).collect();
            if call.asks.iter().zip(&epochs).any(|(ask, epoch)| ask.place.epoch != *epoch) {
                return Taken::Epochs(epochs);
            }
        }
        let once = call.once().map(|(shard, name, ttl)| (format!("{shard}:{name}"), ttl));
        if let Some((name, _)) = &once
            && let Some(standings) = state.once.get(name, t)
        {
            return Taken::Decided { taken: true, standings: standings.clone() };
        }
        let mut fits = true;
        let mut looked = Vec::with_capacity(call.asks.len());
        for ask in &call.asks {
            let limit = state.look(&ask.place, &ask.terms, t);
            let room = ask.terms.limit.saturating_sub(limit.used);
            let takes = match ask.how {
                How::Always => ask.cost,
                _ if ask.cost <= room => ask.cost,
                How::AtMost => room,
                How::IfItFits | How::Shadow => 0,
            };
            fits &= takes > 0 || ask.how == How::Shadow;
            looked.push((limit, takes));
        }
        let mut standings = Vec::with_capacity(call.asks.len());
        for (ask, (mut limit, takes)) in call.asks.iter().zip(looked) {
            let taken = if fits { takes } else { 0 };
            let ttl = if taken > 0 { limit.take(taken, &ask.terms) } else { None };
            let used = limit.used;
            // An admission tells of the denials that were answered before it.
            let untold = match ask.unasked {
                Some(unasked) if takes == 0 => Some(unasked),
                Some(unasked) => unasked.checked_sub(1),
                None => None,
            };
            if let Some(unasked) = untold {
                let event = if ask.how == How::Shadow { Event::Shadow } else { Event::Denied };
                self.denied(&mut state, &ask.place, &ask.terms, ask.cost, event, used, unasked, t);
            }
            if ask.near > 0 && used >= ask.near && used - taken < ask.near {
                self.approached(&mut state, ask, used, t);
            }
            let (retry_us, reset_us) = limit.rate(ask.cost, &ask.terms);
            standings.push(Standing {
                taken,
                used,
                retry_us,
                reset_us,
                receipt: limit.counter.receipt(),
            });
            state.keep(&ask.place, limit, ttl, t);
        }
        if fits && let Some((name, ttl)) = once {
            let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX).max(1);
            state.once.put(&name, standings.clone(), t, ttl);
        }
        Taken::Decided { taken: fits, standings }
    }

    /// Counts a denial and those that the caller answered by itself; the first in a span is
    /// recorded, and then those with which the count reaches a power of two.
    #[expect(clippy::too_many_arguments, reason = "a record is made of them")]
    fn denied(
        &self,
        state: &mut State,
        place: &Place,
        terms: &Terms,
        cost: u64,
        event: Event,
        used: u64,
        unasked: u64,
        t: i64,
    ) {
        let key = state_key(place);
        let before = state.denials.get(&key, t).copied().unwrap_or(0);
        let count = before + unasked + 1;
        if before == 0 {
            state.denials.put(&key, count, t, ceil_ms(signed(terms.span_us)));
        } else {
            state.denials.change(&key, |denials| *denials = count);
            if before.ilog2() == count.ilog2() {
                return;
            }
        }
        // Its weight is what came since the last record.
        let weight = if before == 0 { count } else { count - (1 << before.ilog2()) };
        let (limit, span_us) = (terms.limit, terms.span_us);
        let record = Record {
            id: (0, 0),
            event,
            name: place.name(),
            count,
            limit,
            used,
            cost,
            span_us,
            first: before == 0,
        };
        state.records.add(place.shard, record, weight, t);
        self.recorded.send_modify(|number| *number += 1);
    }

    /// Records once in a span that a limit is nearly used up.
    fn approached(&self, state: &mut State, ask: &Ask, used: u64, t: i64) {
        let key = state_key(&ask.place);
        if state.near.get(&key, t).is_some() {
            return;
        }
        state.near.put(&key, (), t, ceil_ms(signed(ask.terms.span_us)));
        let record = Record {
            id: (0, 0),
            event: Event::Near,
            name: ask.place.name(),
            count: 1,
            limit: ask.terms.limit,
            used,
            cost: ask.cost,
            span_us: ask.terms.span_us,
            first: true,
        };
        state.records.add(ask.place.shard, record, 0, t);
        self.recorded.send_modify(|number| *number += 1);
    }

    fn refund_now(&self, back: &Return) -> u64 {
        let (mut state, t) = self.now();
        let mark = format!("{}:{}", back.place.shard, back.mark());
        if let Some(given) = state.returned.get(&mark, t) {
            return *given;
        }
        let mut limit = state.look(&back.place, &back.terms, t);
        let now = limit.now;
        let given = limit.give_back(back.amount, back.receipt, &back.terms);
        let ttl = (given > 0).then(|| limit.ttl(&back.terms));
        state.keep(&back.place, limit, ttl, t);
        if given > 0 {
            let span = signed(back.terms.span_us);
            let ninth = span.saturating_mul(9).div_euclid(8) + i64::from(span % 8 > 0);
            let left = match back.terms.kind {
                Kind::Gcra => signed(back.receipt[0]) - now,
                _ => 0,
            };
            state.returned.put(&mark, given, t, ttl_ms(ninth.max(left)));
            if let Some(once) = &back.once {
                state.once.remove(&format!("{}:{once}", back.place.shard));
            }
        }
        given
    }

    fn reset_now(&self, place: &Place, terms: &Terms) -> u64 {
        let (mut state, t) = self.now();
        let key = state_key(place);
        state.denials.remove(&key);
        state.near.remove(&key);
        if state.limits.get(&key, t).is_none() {
            return 0;
        }
        let mut limit = state.look(place, terms, t);
        let used = limit.used;
        let changes = used > 0 || matches!(limit.counter, Counter::Log(_));
        if changes {
            limit.reset();
        }
        let ttl = changes.then(|| limit.ttl(terms));
        state.keep(place, limit, ttl, t);
        used
    }

    fn enter_now(&self, entry: &Entry) -> Entered {
        let (mut state, t) = self.now();
        let key = state_key(&entry.place);
        let lease = signed(entry.terms.span_us);
        let mut slots = state.slots.get(&key, t).cloned().unwrap_or_default();
        let entered = slots.enter(entry.token.encoded(), entry.terms.limit, lease, t);
        match entered {
            Entered::Slot { .. } => state.slots.put(&key, slots, t, ceil_ms(lease)),
            Entered::Full { used, .. } => {
                state.slots.change(&key, |kept| *kept = slots);
                if let Some(unasked) = entry.unasked {
                    let (place, terms) = (&entry.place, &entry.terms);
                    self.denied(&mut state, place, terms, 1, Event::Denied, used, unasked, t);
                }
            }
        }
        entered
    }
}

/// Where the state of a limit is: names of two shards never meet.
fn state_key(place: &Place) -> String {
    format!("{}:{}", place.shard, place.name())
}

impl State {
    fn epoch(&self, place: &Place) -> u64 {
        let series = place.series();
        self.epochs.get(&(series.shard, series.name())).copied().unwrap_or(0)
    }

    /// A limit as it stands now, taken out: [`keep`](Self::keep) puts it back. One that is far
    /// ahead of the clock was moved back, for good.
    fn look(&mut self, place: &Place, terms: &Terms, t: i64) -> Looked {
        let (counter, until) = self.limits.take(&state_key(place), t).unzip();
        let mut looked = Looked::of(counter, terms, t, false);
        if looked.moved {
            looked.before = None;
        }
        looked.until = if looked.moved { Some(t / 1000 + looked.ttl(terms)) } else { until };
        looked
    }

    /// Keeps a limit for so many ms from now on, or as long as it was to be kept.
    fn keep(&mut self, place: &Place, limit: Looked, ttl: Option<i64>, t: i64) {
        let key = state_key(place);
        match (ttl, limit.until) {
            (Some(ttl), _) => self.limits.put(&key, limit.counter, t, ttl),
            (None, Some(until)) => self.limits.put_back(key, limit.unlooked(), until),
            // It was not there, and nothing was taken.
            (None, None) => {}
        }
    }
}

impl Looked {
    fn of(counter: Option<Counter>, terms: &Terms, t: i64, peeks: bool) -> Self {
        let span = signed(terms.span_us);
        // A log may be long, and is not changed by a look.
        let before =
            counter.as_ref().filter(|counter| !matches!(counter, Counter::Log(_))).cloned();
        let looked = match terms.kind {
            Kind::Gcra => Gcra::look(counter, terms, t, peeks),
            Kind::Fixed => Fixed::look(counter, span, t, peeks),
            Kind::Log | Kind::Slots => Log::look(counter, terms, t, peeks),
        };
        Self { before, ..looked }
    }

    /// What it was before the look.
    fn unlooked(self) -> Counter {
        self.before.unwrap_or(self.counter)
    }

    /// Takes; for how many ms it is kept from now on, where that changes.
    fn take(&mut self, cost: u64, terms: &Terms) -> Option<i64> {
        self.used += cost;
        match &mut self.counter {
            Counter::Log(log) => return log.take(cost, terms, self.now).then(|| self.ttl(terms)),
            Counter::Gcra(gcra) => gcra.take(cost, terms, self.now),
            Counter::Fixed(fixed) => fixed.take(cost, self.now),
        }
        Some(self.ttl(terms))
    }

    /// For how many ms it is kept.
    fn ttl(&self, terms: &Terms) -> i64 {
        let span = signed(terms.span_us);
        match &self.counter {
            // An eighth longer than it must live, rounded up.
            Counter::Log(_) => ttl_ms(span + span.div_euclid(8) + i64::from(span % 8 > 0)),
            Counter::Gcra(gcra) => ttl_ms(gcra.left()),
            Counter::Fixed(fixed) => ttl_ms(fixed.left(span)),
        }
    }

    /// In how many µs another cost fits, if ever, and in how many all is free.
    fn rate(&self, cost: u64, terms: &Terms) -> (Option<u64>, u64) {
        let (retry, reset) = match &self.counter {
            Counter::Log(log) => log.rate(cost, terms, self.at),
            Counter::Gcra(gcra) => gcra.rate(self.used, cost, terms, self.at),
            Counter::Fixed(fixed) => fixed.rate(self.used, cost, terms, self.at),
        };
        ((cost <= terms.limit).then(|| unsigned(retry)), unsigned(reset))
    }

    fn give_back(&mut self, amount: u64, receipt: [u64; 3], terms: &Terms) -> u64 {
        let given = match &mut self.counter {
            Counter::Log(log) => log.give_back(amount, receipt, terms, self.now),
            Counter::Gcra(gcra) => gcra.give_back(amount, self.used, receipt, terms, self.now),
            Counter::Fixed(fixed) => fixed.give_back(amount, receipt, self.now),
        };
        self.used -= given;
        given
    }

    fn reset(&mut self) {
        self.used = 0;
        match &mut self.counter {
            Counter::Log(log) => log.reset(),
            Counter::Gcra(gcra) => gcra.reset(self.now),
            Counter::Fixed(fixed) => fixed.reset(self.now),
        }
    }
}

impl Counter {
    /// Where the newest admission is.
    fn receipt(&self) -> [u64; 3] {
        match self {
            Self::Log(log) => log.receipt(),
            Self::Gcra(gcra) => gcra.receipt(),
            Self::Fixed(fixed) => fixed.receipt(),
        }
    }
}

impl Backend for Embedded {
    fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    fn is_remote(&self) -> bool {
        false
    }

    fn take<'a>(&'a self, ask: &'a Ask) -> BoxFuture<'a, Result<Standing>> {
        let call = Call { asks: vec![ask.clone()], once: None, check_epochs: false };
        let Taken::Decided { standings, .. } = self.take_now(&call) else {
            unreachable!("no epoch was asked for")
        };
        Box::pin(ready(Ok(standings[0])))
    }

    fn take_all<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Taken>> {
        Box::pin(ready(Ok(self.take_now(call))))
    }

    fn peek<'a>(&'a self, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Seen>>> {
        let (mut state, t) = self.now();
        let seen = asks.iter().map(|ask| {
            let key = state_key(&ask.place);
            let denials = state.denials.get(&key, t).copied().unwrap_or(0);
            if ask.terms.kind == Kind::Slots {
                let slots = state.slots.get(&key, t).cloned().unwrap_or_default();
                let (used, retry_us) = slots.seen(ask.terms.limit, t);
                return Seen { denials, used, retry_us, reset_us: 0 };
            }
            let (counter, until) = state.limits.take(&key, t).unzip();
            let limit = Looked::of(counter, &ask.terms, t, true);
            let (retry_us, reset_us) = limit.rate(ask.cost, &ask.terms);
            let seen = Seen { denials, used: limit.used, retry_us, reset_us };
            if let Some(until) = until {
                state.limits.put_back(key, limit.unlooked(), until);
            }
            seen
        });
        Box::pin(ready(Ok(seen.collect())))
    }

    fn refund<'a>(&'a self, back: &'a Return) -> BoxFuture<'a, Result<u64>> {
        Box::pin(ready(Ok(self.refund_now(back))))
    }

    fn reset<'a>(&'a self, place: &'a Place, terms: &'a Terms) -> BoxFuture<'a, Result<u64>> {
        Box::pin(ready(Ok(self.reset_now(place, terms))))
    }

    fn epoch<'a>(&'a self, series: &'a Series) -> BoxFuture<'a, Result<u64>> {
        let (state, _) = self.now();
        let epoch = state.epochs.get(&(series.shard, series.name())).copied().unwrap_or(0);
        Box::pin(ready(Ok(epoch)))
    }

    fn reset_policy<'a>(&'a self, series: &'a Series) -> BoxFuture<'a, Result<u64>> {
        let (mut state, t) = self.now();
        let epoch = state.epochs.entry((series.shard, series.name())).or_default();
        *epoch = unsigned(t).max(*epoch + 1);
        Box::pin(ready(Ok(*epoch)))
    }

    fn enter<'a>(&'a self, entry: &'a Entry) -> BoxFuture<'a, Result<Entered>> {
        Box::pin(ready(Ok(self.enter_now(entry))))
    }

    fn stay<'a>(
        &'a self,
        place: &'a Place,
        terms: &'a Terms,
        token: &'a Name,
    ) -> BoxFuture<'a, Result<bool>> {
        let (mut state, t) = self.now();
        let (key, lease) = (state_key(place), signed(terms.span_us));
        let mut slots = state.slots.get(&key, t).cloned().unwrap_or_default();
        let held = slots.stay(token.encoded(), lease, t);
        if held {
            state.slots.put(&key, slots, t, ceil_ms(lease));
        }
        Box::pin(ready(Ok(held)))
    }

    fn leave<'a>(&'a self, place: &'a Place, token: &'a Name) -> BoxFuture<'a, Result<bool>> {
        let (mut state, t) = self.now();
        let key = state_key(place);
        let mut held = false;
        if state.slots.get(&key, t).is_some() {
            state.slots.change(&key, |slots| held = slots.leave(token.encoded()));
        }
        Box::pin(ready(Ok(held)))
    }

    fn violations(
        &self,
        shard: u16,
        from: From,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>>> {
        let (state, t) = self.now();
        Box::pin(ready(Ok(state.records.read(shard, from, limit, t))))
    }

    fn top(&self, shard: u16, limit: usize) -> BoxFuture<'_, Result<Vec<Offender>>> {
        let (state, t) = self.now();
        Box::pin(ready(Ok(state.records.top(shard, limit, t))))
    }

    fn claim<'a>(
        &'a self,
        shard: u16,
        claim: &'a Name,
        claimant: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool>> {
        let (mut state, t) = self.now();
        let key = format!("{shard}:{}", claim.encoded());
        let known = state.claims.get(&key, t).cloned();
        let theirs = known.as_deref().is_none_or(|known| known == claimant);
        if known.is_none() {
            let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX).max(1);
            state.claims.put(&key, claimant.to_owned(), t, ttl);
        }
        Box::pin(ready(Ok(theirs)))
    }

    fn listen(&self, _shard: u16) -> BoxFuture<'_, Result<Box<dyn Alerts>>> {
        let alerts: Box<dyn Alerts> = Box::new(Ear(self.recorded.subscribe()));
        Box::pin(ready(Ok(alerts)))
    }
}

#[derive(Debug)]
struct Ear(watch::Receiver<u64>);

impl Alerts for Ear {
    fn next(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if self.0.changed().await.is_err() {
                // The backend is gone: there is nothing more to hear.
                std::future::pending::<()>().await;
            }
        })
    }
}
