//! The sequential meaning of a lock with leases and fencing tokens, for [`linearizability`].
//!
//! Expiry is an operation too: whoever records a history adds one [`Op::Expire`] of unknown outcome
//! per grant, called when the lease may first have ended. The model does not know time.
//!
//! [`linearizability`]: crate::linearizability

use crate::linearizability::Model;

/// What is asked of the lock. An owner is one attempt's token, not a process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "recorders write these down, the model reads them")]
pub enum Op {
    /// Take the lock if it is free, or already held by this owner.
    Acquire {
        /// The attempt's token.
        owner: u32,
    },
    /// Give it up if this owner holds it.
    Release {
        /// The attempt's token.
        owner: u32,
    },
    /// The lease of this owner ends, if it still holds it. Record it with an unknown outcome.
    Expire {
        /// The attempt's token.
        owner: u32,
    },
}

/// What the lock answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "recorders write these down, the model reads them")]
pub enum Answer {
    /// Acquire: granted with this fence.
    Granted(u64),
    /// Acquire: somebody else holds it.
    Held,
    /// Release: it was held by this owner and is free now.
    Released,
    /// Release: this owner did not hold it.
    NotHeld,
    /// Expire: the recorder knows that the lease has ended.
    Expired,
}

/// Holder and newest fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[expect(clippy::exhaustive_structs, reason = "plain data")]
pub struct State {
    /// Who holds the lock, and whether its fence was seen by anybody.
    pub holder: Option<(u32, Option<u64>)>,
    /// The newest fence, or the least it can be after grants that nobody saw.
    pub newest: u64,
}

/// One lock: at most one holder, and each grant has a higher fence than all before it.
///
/// Fences need not be dense. A repeated acquire by the holder is the same grant, so it has the
/// same fence: scripts are safe to run twice.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct FencedLock;

impl FencedLock {
    /// The model of one lock that is free and has given no fence above 0.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Model for FencedLock {
    type State = State;
    type Op = Op;
    type Answer = Answer;

    fn initial(&self) -> State {
        State::default()
    }

    fn step(&self, state: &State, op: &Op, answer: Option<&Answer>) -> Vec<State> {
        match *op {
            Op::Acquire { owner } => acquire(state, owner, answer).into_iter().collect(),
            Op::Release { owner } => {
                let held = holds(state, owner);
                match answer {
                    Some(Answer::Released) | None if held => vec![free(state)],
                    Some(Answer::NotHeld) | None if !held => vec![*state],
                    _ => Vec::new(),
                }
            }
            Op::Expire { owner } => match answer {
                Some(Answer::Expired) | None if holds(state, owner) => vec![free(state)],
                Some(Answer::Expired) | None => vec![*state],
                _ => Vec::new(),
            },
        }
    }
}

fn acquire(state: &State, owner: u32, answer: Option<&Answer>) -> Option<State> {
    match (state.holder, answer) {
        // Somebody else has it.
        (Some((holder, _)), Some(Answer::Held) | None) if holder != owner => Some(*state),
        // The same attempt once more: the same grant.
        (Some((holder, known)), Some(Answer::Granted(fence))) if holder == owner => match known {
            Some(first) => (first == *fence).then_some(*state),
            None => (*fence >= state.newest)
                .then_some(State { holder: Some((owner, Some(*fence))), newest: *fence }),
        },
        (Some((holder, _)), None) if holder == owner => Some(*state),
        // Free.
        (None, Some(Answer::Granted(fence))) => (*fence > state.newest)
            .then_some(State { holder: Some((owner, Some(*fence))), newest: *fence }),
        // Nobody saw the fence; it is at least one above the newest.
        (None, None) => {
            Some(State { holder: Some((owner, None)), newest: state.newest.saturating_add(1) })
        }
        _ => None,
    }
}

fn holds(state: &State, owner: u32) -> bool {
    state.holder.is_some_and(|(holder, _)| holder == owner)
}

fn free(state: &State) -> State {
    State { holder: None, ..*state }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linearizability::{Operation, Outcome, check};

    type Step = Operation<Op, Answer>;

    fn acquired(span: std::ops::RangeInclusive<u64>, owner: u32, fence: u64) -> Step {
        Operation::done(span, Op::Acquire { owner }, Answer::Granted(fence))
    }

    fn released(span: std::ops::RangeInclusive<u64>, owner: u32) -> Step {
        Operation::done(span, Op::Release { owner }, Answer::Released)
    }

    fn legal(history: &[Step]) -> bool {
        match check(&FencedLock::new(), history, 100_000) {
            Outcome::OutOfBudget => panic!("the budget is too small for this test"),
            outcome => outcome.is_linearizable(),
        }
    }

    #[test]
    fn taking_turns_is_legal() {
        let refused = Operation::done(3..=4, Op::Acquire { owner: 2 }, Answer::Held);
        let late = Operation::done(12..=13, Op::Release { owner: 1 }, Answer::NotHeld);
        assert!(legal(&[
            acquired(1..=2, 1, 7),
            refused,
            released(5..=6, 1),
            acquired(5..=9, 2, 8),
            late
        ]));
    }

    /// Planted bug: SET without NX.
    #[test]
    fn finds_two_holders() {
        assert!(!legal(&[acquired(1..=2, 1, 1), acquired(3..=4, 2, 2), released(5..=6, 1)]));
    }

    /// Planted bug: a release that does not compare the token.
    #[test]
    fn finds_a_release_by_a_stranger() {
        assert!(!legal(&[acquired(1..=2, 1, 1), released(3..=4, 2)]));
    }

    /// Planted bug: the counter is lost with the key.
    #[test]
    fn finds_a_fence_that_does_not_rise() {
        let turns = |fence| [acquired(1..=2, 1, 5), released(3..=4, 1), acquired(5..=6, 2, fence)];
        assert!(!legal(&turns(5)));
        assert!(!legal(&turns(4)));
        assert!(legal(&turns(6)));
    }

    /// Planted bug: a refusal though the lock has been given back.
    #[test]
    fn finds_a_lock_that_stays_shut() {
        let refused = Operation::done(5..=6, Op::Acquire { owner: 2 }, Answer::Held);
        assert!(!legal(&[acquired(1..=2, 1, 1), released(3..=4, 1), refused]));
    }

    /// Planted bug: an acquire that is not safe to run twice with one token.
    #[test]
    fn finds_a_lock_that_refuses_its_own_holder() {
        let replay = Operation::done(3..=4, Op::Acquire { owner: 1 }, Answer::Held);
        assert!(!legal(&[acquired(1..=2, 1, 1), replay]));
    }

    /// Planted bug: a replayed acquire that counts as a new grant.
    #[test]
    fn finds_a_replay_with_another_fence() {
        assert!(legal(&[acquired(1..=2, 1, 1), acquired(3..=4, 1, 1)]));
        assert!(!legal(&[acquired(1..=2, 1, 1), acquired(3..=4, 1, 2)]));
    }

    #[test]
    fn an_unknown_acquire_explains_a_refusal_and_eats_a_fence() {
        let lost = Operation::unknown(3, Op::Acquire { owner: 3 });
        let refused = Operation::done(5..=6, Op::Acquire { owner: 2 }, Answer::Held);
        assert!(legal(&[acquired(0..=1, 1, 1), released(1..=2, 1), lost.clone(), refused.clone()]));
        let cleaned = released(7..=8, 3);
        let after = |fence| {
            legal(&[lost.clone(), refused.clone(), cleaned.clone(), acquired(9..=9, 4, fence)])
        };
        assert!(after(2));
        assert!(!after(1), "fence 1 can only be the unseen grant's");
    }

    #[test]
    fn an_expiry_explains_a_second_holder_but_not_before_its_time() {
        let expiry = |call| Operation::unknown(call, Op::Expire { owner: 1 });
        let next = acquired(5..=6, 2, 2);
        assert!(legal(&[acquired(1..=2, 1, 1), expiry(4), next.clone()]));
        assert!(!legal(&[acquired(1..=2, 1, 1), expiry(7), next]), "expired before its deadline");
    }
}
