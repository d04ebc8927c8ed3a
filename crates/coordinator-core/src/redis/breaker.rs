//! The breaker of a connection: a state machine that is told what happened and when.
//!
//! It sends nothing and keeps no time: the connection reports, the monitor probes. The pattern is
//! Nygard's circuit breaker (Release It!, 2007).

use crate::{
    clock::Instant,
    config::BreakerPolicy,
    health::BreakerState,
    redis::tally::{BREAKERS, Tally},
};
use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

#[derive(Debug)]
pub(super) struct Breaker {
    /// Without one it never opens.
    policy: Option<BreakerPolicy>,
    /// All that a call looks at.
    refuses: AtomicBool,
    /// Whether an answer has anything to undo: a failure was counted, or it is open.
    doubts: AtomicBool,
    state: Mutex<State>,
    tally: Tally,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
        /// When the first and the last of them came in.
        first: Instant,
        last: Instant,
    },
    Open {
        probe_at: Instant,
    },
    /// One probe is on its way.
    HalfOpen,
}

const CLOSED: State = State::Closed { failures: 0, first: Instant::START, last: Instant::START };

impl Breaker {
    pub(super) fn new(policy: Option<BreakerPolicy>) -> Self {
        Self {
            policy,
            refuses: AtomicBool::new(false),
            doubts: AtomicBool::new(false),
            state: Mutex::new(CLOSED),
            tally: Tally::new(&BREAKERS, 0),
        }
    }

    /// Whether a call may be sent.
    pub(super) fn allows(&self) -> bool {
        !self.refuses.load(Ordering::Acquire)
    }

    pub(super) fn state(&self) -> BreakerState {
        match *self.lock() {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen => BreakerState::HalfOpen,
        }
    }

    /// The server answered something, to whomever.
    pub(super) fn answered(&self) {
        if self.doubts.load(Ordering::Acquire) {
            self.become_(&mut self.lock(), CLOSED);
        }
    }

    /// Nobody answered, or there was no link to ask over.
    pub(super) fn failed(&self, now: Instant, jitter: f64) {
        let Some(policy) = &self.policy else { return };
        let mut state = self.lock();
        // What was sent before it opened says nothing new.
        let State::Closed { failures, first, last } = *state else { return };
        let counted = failures > 0 && now.saturating_since(last) <= policy.window();
        let (failures, first) = if counted { (failures + 1, first) } else { (1, now) };
        let lasts = now.saturating_since(first) >= policy.silence();
        let next = if failures >= policy.failures() && lasts {
            tracing::warn!(failures, "nobody answers, the breaker opens");
            open(policy, now, jitter)
        } else {
            State::Closed { failures, first, last: now }
        };
        self.become_(&mut state, next);
    }

    /// Whether a probe is due; whoever is told so sends one, and reports
    /// [`answered`](Self::answered) or [`probe_failed`](Self::probe_failed).
    pub(super) fn begin_probe(&self, now: Instant) -> bool {
        let mut state = self.lock();
        match *state {
            State::Open { probe_at } if probe_at <= now => {
                self.become_(&mut state, State::HalfOpen);
                true
            }
            _ => false,
        }
    }

    /// The probe was not answered; the next one is due after a while. `jitter` is from 0 to 1.
    pub(super) fn probe_failed(&self, now: Instant, jitter: f64) {
        let mut state = self.lock();
        if let (State::HalfOpen, Some(policy)) = (*state, &self.policy) {
            self.become_(&mut state, open(policy, now, jitter));
        }
    }

    /// There is a new link: the next probe need not wait.
    pub(super) fn hasten(&self, now: Instant) {
        let mut state = self.lock();
        if let State::Open { probe_at } = &mut *state {
            *probe_at = now.min(*probe_at);
        }
    }

    /// A closed connection has no breaker.
    pub(super) fn gone(&self) {
        self.tally.gone();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn become_(&self, state: &mut State, next: State) {
        let was_open = !matches!(state, State::Closed { .. });
        *state = next;
        let place = match next {
            State::Closed { .. } => 0,
            State::Open { .. } => 1,
            State::HalfOpen => 2,
        };
        self.refuses.store(place > 0, Ordering::Release);
        self.doubts.store(next != CLOSED, Ordering::Release);
        if place > 0 || was_open {
            self.tally.move_to(place);
        }
        if was_open && place == 0 {
            tracing::info!("the server answers, the breaker closes");
        }
    }
}

fn open(policy: &BreakerPolicy, now: Instant, jitter: f64) -> State {
    let interval = policy.probe_interval();
    State::Open { probe_at: now + interval.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};
    use coordinator_harness::rng;
    use rand::RngExt as _;
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);

    fn policy() -> BreakerPolicy {
        BreakerPolicy::default()
    }

    /// Fails once every 250 ms.
    fn fail(breaker: &Breaker, clock: &ManualClock, times: u32) {
        for _ in 0..times {
            breaker.failed(clock.now(), 0.0);
            clock.advance(MS * 250);
        }
    }

    fn opened() -> (Breaker, ManualClock) {
        let (breaker, clock) = (Breaker::new(Some(policy())), ManualClock::new());
        fail(&breaker, &clock, 5);
        assert_eq!(breaker.state(), BreakerState::Open);
        (breaker, clock)
    }

    #[test]
    fn enough_failures_over_enough_time_open_it() {
        let (breaker, clock) = (Breaker::new(Some(policy())), ManualClock::new());
        fail(&breaker, &clock, 4);
        assert!(breaker.allows());
        fail(&breaker, &clock, 1);
        assert!(!breaker.allows());
    }

    #[test]
    fn a_burst_of_failures_opens_nothing() {
        let (breaker, clock) = (Breaker::new(Some(policy())), ManualClock::new());
        for _ in 0..1000 {
            breaker.failed(clock.now(), 0.0);
        }
        clock.advance(MS * 999);
        breaker.failed(clock.now(), 0.0);
        assert!(breaker.allows());
        clock.advance(MS);
        breaker.failed(clock.now(), 0.0);
        assert!(!breaker.allows());
    }

    #[test]
    fn one_answer_in_between_begins_the_count_anew() {
        let (breaker, clock) = (Breaker::new(Some(policy())), ManualClock::new());
        for _ in 0..100 {
            fail(&breaker, &clock, 4);
            breaker.answered();
        }
        assert!(breaker.allows());
    }

    #[test]
    fn failures_far_apart_are_not_one_silence() {
        let (breaker, clock) = (Breaker::new(Some(policy())), ManualClock::new());
        for _ in 0..100 {
            breaker.failed(clock.now(), 0.0);
            clock.advance(MS * 10_001);
        }
        assert!(breaker.allows());
    }

    #[test]
    fn without_a_policy_it_never_opens() {
        let (breaker, clock) = (Breaker::new(None), ManualClock::new());
        fail(&breaker, &clock, 1000);
        assert!(breaker.allows());
    }

    #[test]
    fn one_probe_at_a_time_at_jittered_intervals_until_one_is_answered() {
        let (breaker, clock) = opened();
        clock.advance(MS * 250);
        assert!(breaker.begin_probe(clock.now()));
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        clock.advance(MS * 60_000);
        assert!(!breaker.begin_probe(clock.now()), "one is on its way");
        assert!(!breaker.allows(), "calls are not probes");
        for (jitter, interval) in [(0.0, 250), (1.0, 125), (0.5, 188)] {
            breaker.probe_failed(clock.now(), jitter);
            clock.advance(MS * (interval - 1));
            assert!(!breaker.begin_probe(clock.now()), "{jitter}");
            clock.advance(MS);
            assert!(breaker.begin_probe(clock.now()), "{jitter}");
        }
        breaker.answered();
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert!(breaker.allows() && !breaker.begin_probe(clock.now()));
        // The failures of before are forgotten.
        fail(&breaker, &clock, 4);
        assert!(breaker.allows());
    }

    #[test]
    fn a_new_link_is_probed_at_once() {
        let (breaker, clock) = opened();
        assert!(breaker.begin_probe(clock.now()));
        breaker.probe_failed(clock.now(), 0.0);
        assert!(!breaker.begin_probe(clock.now()));
        breaker.hasten(clock.now());
        assert!(breaker.begin_probe(clock.now()));
    }

    #[test]
    fn whatever_happens_the_rules_hold() {
        let mut rng = rng();
        for _ in 0..200 {
            let (breaker, clock) = (Breaker::new(Some(policy())), ManualClock::new());
            let mut failures: Vec<Instant> = Vec::new();
            let mut probing = false;
            for _ in 0..500 {
                let now = clock.now();
                let was_open = !breaker.allows();
                match rng.random_range(0..20) {
                    0 => {
                        breaker.answered();
                        failures.clear();
                        probing = false;
                        assert!(breaker.allows(), "open after an answer");
                    }
                    1..=9 => {
                        breaker.failed(now, rng.random());
                        failures.push(now);
                    }
                    10..=12 => {
                        let begun = breaker.begin_probe(now);
                        assert!(!begun || (was_open && !probing), "two probes at once");
                        probing |= begun;
                    }
                    13 if probing => {
                        breaker.probe_failed(now, rng.random());
                        probing = false;
                    }
                    // A report that nobody asked for.
                    14 if !probing => breaker.probe_failed(now, rng.random()),
                    15 => breaker.hasten(now),
                    _ => clock.advance(MS * rng.random_range(0..400)),
                }
                let state = breaker.state();
                assert_eq!(breaker.allows(), state == BreakerState::Closed);
                assert_eq!(probing, state == BreakerState::HalfOpen);
                if !was_open && !breaker.allows() {
                    let lasted = failures.last().map(|last| last.saturating_since(failures[0]));
                    assert!(failures.len() >= 5 && lasted >= Some(policy().silence()));
                }
                if was_open && breaker.allows() {
                    assert!(failures.is_empty(), "closed without an answer");
                }
            }
            if !breaker.allows() && !probing {
                clock.advance(policy().probe_interval());
                assert!(breaker.begin_probe(clock.now()), "no probe is ever due");
            }
        }
    }
}
