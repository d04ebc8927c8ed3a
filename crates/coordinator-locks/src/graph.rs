//! Who waits for whom, for people who look. Deadlocks are found elsewhere (`deadlock.rs`), from
//! what owners write down; this is read from the queues and changes nothing.

use crate::{
    Locks,
    token::{Holder, Waiter},
};
use coordinator_core::Result;
use std::collections::{BTreeMap, BTreeSet};

/// A waiter, what it waits for, and who holds that.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Edge {
    /// Who waits.
    pub waiter: Waiter,
    /// The lock it waits for.
    pub lock: String,
    /// Who holds the lock.
    pub holder: Holder,
    /// Whether it lies in a circle of [`Owner`](crate::Owner)s, of which each waits for a lock
    /// that the next one holds. What waits without an owner lies in none.
    pub in_cycle: bool,
}

impl Edge {
    /// Whose owner waits for whose, if both act for one.
    fn owners(&self) -> Option<(&str, &str)> {
        Some((self.waiter.owner.as_deref()?, self.holder.owner.as_deref()?))
    }
}

impl Locks {
    /// Who waits for whom: every waiter of every held lock, by name of the lock and then the next
    /// first. As in [`waiters`](Self::waiters), a process that waits without
    /// [`Lock::with_fair`](crate::Lock::with_fair) or priority is one waiter.
    ///
    /// The locks are read one after the other, so what is told was not all true at one moment: a
    /// circle in it may be about to dissolve, or never have been closed. Only
    /// [`Outcome::Deadlock`](crate::Outcome::Deadlock) says for certain. Where nobody holds a lock
    /// that is on its way to the next waiter, nobody waits for anybody.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn graph(&self) -> Result<Vec<Edge>> {
        let mut edges = Vec::new();
        for held in self.list().await? {
            if held.waiters == 0 {
                continue;
            }
            let limit = usize::try_from(held.waiters).unwrap_or(usize::MAX);
            for waiter in self.waiters(&held.name, limit).await? {
                let (lock, holder) = (held.name.clone(), held.holder.clone());
                edges.push(Edge { waiter, lock, holder, in_cycle: false });
            }
        }
        let circular = in_cycles(edges.iter().filter_map(Edge::owners).collect());
        let marks: Vec<_> = edges
            .iter()
            .map(|edge| edge.owners().is_some_and(|(a, b)| circular.contains(&(a, b))))
            .collect();
        for (edge, mark) in edges.iter_mut().zip(marks) {
            edge.in_cycle = mark;
        }
        Ok(edges)
    }
}

/// Those edges of a directed graph that lie in a cycle.
fn in_cycles<'a>(mut edges: BTreeSet<(&'a str, &'a str)>) -> BTreeSet<(&'a str, &'a str)> {
    // What nothing leads to, and what leads nowhere, goes; of most graphs nothing is left.
    loop {
        let from: BTreeSet<_> = edges.iter().map(|(from, _)| *from).collect();
        let to: BTreeSet<_> = edges.iter().map(|(_, to)| *to).collect();
        let before = edges.len();
        edges.retain(|(a, b)| to.contains(a) && from.contains(b));
        if edges.len() == before {
            break;
        }
    }
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in &edges {
        next.entry(from).or_default().push(to);
    }
    // Ways that lead from one cycle to another are left: they do not come back.
    let comes_back = |(home, first): &(&str, &str)| {
        let mut seen = BTreeSet::from([*first]);
        let mut todo = vec![*first];
        while let Some(at) = todo.pop() {
            if at == *home {
                return true;
            }
            todo.extend(next.get(at).into_iter().flatten().filter(|&&node| seen.insert(node)));
        }
        false
    };
    edges.iter().copied().filter(comes_back).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(edges: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
        in_cycles(edges.iter().copied().collect()).into_iter().collect()
    }

    #[test]
    fn only_what_comes_back_is_a_cycle() {
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[("a", "b"), ("b", "c"), ("a", "c")]), []);
        assert_eq!(of(&[("a", "a")]), [("a", "a")]);
        let (one, other) = ([("a", "b"), ("b", "a")], [("c", "d"), ("d", "c")]);
        assert_eq!(of(&[&one[..], &[("x", "a"), ("b", "y")]].concat()), one);
        // A way from one cycle to the other is in neither.
        let both = [one, other].concat();
        assert_eq!(of(&[&both[..], &[("b", "c")]].concat()), both);
    }

    #[test]
    fn a_long_chain_before_a_cycle_is_none() {
        let names: Vec<String> = (0..500).map(|n| format!("{n:03}")).collect();
        let mut edges: BTreeSet<_> = names.windows(2).map(|pair| (&*pair[0], &*pair[1])).collect();
        assert!(in_cycles(edges.clone()).is_empty());
        edges.insert(("499", "490"));
        assert_eq!(in_cycles(edges).len(), 10);
    }
}
