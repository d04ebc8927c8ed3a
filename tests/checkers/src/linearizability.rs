//! A small linearizability checker after Wing and Gong, with Lowe's memo of configurations.
//!
//! It searches for one order of the operations that respects real time and that a sequential
//! [`Model`] explains. An operation without an answer (a timeout, a lost reply) may take effect at
//! any time after its call, or never. The search is exponential at worst, so it has a budget, and
//! an exhausted budget is a failure rather than a pass. It is meant for histories of some hundred
//! operations with little concurrency; it is no replacement for the specialised checkers.
//!
//! Sources: Wing and Gong, "Testing and Verifying Concurrent Objects" (1993); Lowe, "Testing for
//! linearizability" (2017).

use std::collections::HashSet;
use std::hash::Hash;

/// The sequential meaning of the operations.
pub trait Model {
    /// All that the object remembers between operations.
    type State: Clone + Eq + Hash;
    /// What a caller asks for.
    type Op;
    /// What a caller is told.
    type Answer;

    /// The state before the first operation.
    fn initial(&self) -> Self::State;

    /// Every state that `op` may lead to, given the answer that was seen.
    ///
    /// Empty means that this answer is impossible here. `None` stands for an answer that nobody
    /// saw: all effects the operation may have had are then possible.
    fn step(
        &self,
        state: &Self::State,
        op: &Self::Op,
        answer: Option<&Self::Answer>,
    ) -> Vec<Self::State>;
}

/// One operation of a history. Stamps come from one monotonic clock.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "plain data that recorders write down in full")]
pub struct Operation<O, A> {
    /// When it was called.
    pub call: u64,
    /// What was asked.
    pub op: O,
    /// When it returned and with what; `None` if the outcome is unknown.
    pub outcome: Option<(u64, A)>,
}

impl<O, A> Operation<O, A> {
    /// An operation that returned.
    ///
    /// # Panics
    /// If it returned before it was called.
    #[must_use]
    pub fn done(span: std::ops::RangeInclusive<u64>, op: O, answer: A) -> Self {
        let (call, end) = span.into_inner();
        assert!(call <= end, "an operation cannot return before its call");
        Self { call, op, outcome: Some((end, answer)) }
    }

    /// An operation whose outcome nobody knows.
    #[must_use]
    pub fn unknown(call: u64, op: O) -> Self {
        Self { call, op, outcome: None }
    }
}

/// The answer of [`check`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a verdict is closed: callers match all of it")]
pub enum Outcome {
    /// There is a legal order; it lists positions in the history. Unknown operations that are
    /// absent never took effect.
    Linearizable(Vec<usize>),
    /// There is none.
    NotLinearizable {
        /// The longest legal prefix that was found. What comes after it is where to look.
        longest: Vec<usize>,
    },
    /// The budget ran out first. Treat as failure: shorten the history or raise the budget.
    OutOfBudget,
}

impl Outcome {
    /// Whether a legal order was found.
    #[must_use]
    pub fn is_linearizable(&self) -> bool {
        matches!(self, Self::Linearizable(_))
    }
}

/// Which operations have taken effect: one bit each.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Taken(Vec<u64>);

impl Taken {
    fn none(n: usize) -> Self {
        Self(vec![0; n.div_ceil(64)])
    }

    fn has(&self, i: usize) -> bool {
        self.0[i / 64] & (1 << (i % 64)) != 0
    }

    fn with(&self, i: usize) -> Self {
        let mut next = self.clone();
        next.0[i / 64] |= 1 << (i % 64);
        next
    }
}

/// Searches for a legal order of `history`, trying at most `budget` steps of the model.
///
/// The order of the slice does not matter. An operation precedes another iff it returned strictly
/// before the other was called.
pub fn check<M: Model>(
    model: &M,
    history: &[Operation<M::Op, M::Answer>],
    budget: usize,
) -> Outcome {
    let mut by_call: Vec<usize> = (0..history.len()).collect();
    by_call.sort_by_key(|i| history[*i].call);
    // Each place of the path remembers its parent, so that the order can be told at the end.
    let mut path: Vec<(usize, usize)> = Vec::new();
    let mut longest = (0, ROOT);
    let start = (Taken::none(history.len()), model.initial());
    let mut seen = HashSet::from([start.clone()]);
    let mut stack = vec![(start, ROOT, 0)];
    let mut left = budget;
    while let Some(((taken, state), place, depth)) = stack.pop() {
        if depth > longest.0 {
            longest = (depth, place);
        }
        let Some(horizon) = horizon(history, &taken) else {
            return Outcome::Linearizable(walk(&path, place));
        };
        let candidates = by_call
            .iter()
            .copied()
            .take_while(|i| history[*i].call <= horizon)
            .filter(|i| !taken.has(*i));
        // Last in, first out: the reversal tries the earliest call first, which is mostly right.
        for i in candidates.collect::<Vec<_>>().into_iter().rev() {
            let Some(rest) = left.checked_sub(1) else {
                return Outcome::OutOfBudget;
            };
            left = rest;
            let Operation { op, outcome, .. } = &history[i];
            for next in model.step(&state, op, outcome.as_ref().map(|(_, answer)| answer)) {
                let configuration = (taken.with(i), next);
                if seen.insert(configuration.clone()) {
                    path.push((i, place));
                    stack.push((configuration, path.len() - 1, depth + 1));
                }
            }
        }
    }
    Outcome::NotLinearizable { longest: walk(&path, longest.1) }
}

/// The place before the first operation.
const ROOT: usize = usize::MAX;

/// The earliest return of an answered operation that has not taken effect: nothing called after it
/// can come next. `None` once all of them have.
fn horizon<O, A>(history: &[Operation<O, A>], taken: &Taken) -> Option<u64> {
    history
        .iter()
        .enumerate()
        .filter(|(i, _)| !taken.has(*i))
        .filter_map(|(_, operation)| operation.outcome.as_ref().map(|(end, _)| *end))
        .min()
}

fn walk(path: &[(usize, usize)], mut place: usize) -> Vec<usize> {
    let mut order = Vec::new();
    while let Some((i, parent)) = path.get(place) {
        order.push(*i);
        place = *parent;
    }
    order.reverse();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register of one number: `Some(n)` writes it, `None` reads it.
    struct Register;

    impl Model for Register {
        type State = u8;
        type Op = Option<u8>;
        type Answer = u8;

        fn initial(&self) -> u8 {
            0
        }

        fn step(&self, state: &u8, op: &Option<u8>, answer: Option<&u8>) -> Vec<u8> {
            match op {
                Some(new) => vec![*new],
                None if answer.is_none_or(|seen| seen == state) => vec![*state],
                None => Vec::new(),
            }
        }
    }

    fn write(span: std::ops::RangeInclusive<u64>, value: u8) -> Operation<Option<u8>, u8> {
        Operation::done(span, Some(value), value)
    }

    fn read(span: std::ops::RangeInclusive<u64>, value: u8) -> Operation<Option<u8>, u8> {
        Operation::done(span, None, value)
    }

    #[test]
    fn an_order_is_told() {
        let history = [read(5..=6, 1), write(0..=9, 1), read(1..=2, 0)];
        assert_eq!(check(&Register, &history, 100), Outcome::Linearizable(vec![2, 1, 0]));
        assert!(check(&Register, &[], 0).is_linearizable());
    }

    /// Planted bug: a replica that answers with an old value after a new one was seen.
    #[test]
    fn finds_a_read_that_goes_back_in_time() {
        let history = [write(0..=9, 1), read(1..=2, 1), read(3..=4, 0)];
        let Outcome::NotLinearizable { longest } = check(&Register, &history, 100) else {
            panic!("a read went back in time and was not found");
        };
        assert_eq!(longest, [0, 1]);
    }

    /// Planted bug: an acknowledged write that is lost in a failover.
    #[test]
    fn finds_a_lost_write() {
        assert!(!check(&Register, &[write(0..=1, 1), read(2..=3, 0)], 100).is_linearizable());
        // At the same stamp the two are concurrent, so that answer is legal.
        assert!(check(&Register, &[write(0..=2, 1), read(2..=3, 0)], 100).is_linearizable());
    }

    #[test]
    fn an_unknown_write_may_happen_late_or_never() {
        let lost = Operation::unknown(0, Some(1));
        for seen in [[0, 0], [0, 1], [1, 1]] {
            let history = [lost.clone(), read(5..=6, seen[0]), read(7..=8, seen[1])];
            assert!(check(&Register, &history, 100).is_linearizable(), "{seen:?}");
        }
        let twice = [lost.clone(), read(5..=6, 1), write(7..=8, 0), read(9..=10, 1)];
        assert!(!check(&Register, &twice, 1000).is_linearizable(), "it takes effect once");
        let early = [Operation::unknown(5, Some(1)), read(1..=2, 1)];
        assert!(!check(&Register, &early, 100).is_linearizable(), "not before its call");
    }

    #[test]
    fn an_exhausted_budget_is_not_a_pass() {
        let history: Vec<_> = (0..40).map(|i| write(0..=100, i)).collect();
        assert_eq!(check(&Register, &history, 39), Outcome::OutOfBudget);
        let legal = [write(0..=1, 1)];
        assert_eq!(check(&Register, &legal, 0), Outcome::OutOfBudget);
        assert!(check(&Register, &legal, 1).is_linearizable());
    }

    #[test]
    fn the_memo_keeps_a_hopeless_search_small() {
        // 12 concurrent reads of the initial value have 12! orders but only 2^12 configurations.
        let mut history: Vec<_> = (0..12).map(|_| read(0..=100, 0)).collect();
        history.push(read(101..=102, 9));
        let Outcome::NotLinearizable { longest } = check(&Register, &history, 100_000) else {
            panic!("must be decided within the budget");
        };
        assert_eq!(longest.len(), 12);
    }
}
