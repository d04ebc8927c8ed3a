//! Waiting in line inside this process: one waiter per name stands in the backend's queue, the
//! others wait for their turn here and share what it learns.

use crate::{
    backend::Claim,
    token::{Holder, Token},
};
use coordinator_core::key::Name;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

/// The lines of this process, by name; a line lives as long as somebody stands in it.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    lines: Mutex<HashMap<Name, Arc<Line>>>,
}

#[derive(Debug, Default)]
struct Line {
    /// First come, first served.
    head: tokio::sync::Mutex<()>,
    /// Who held the lock when it was last looked at.
    holder: Mutex<Option<Holder>>,
    /// Why the server could not be asked, when it was last tried.
    trouble: Mutex<Option<String>>,
    here: Mutex<Here>,
}

/// Who of this line holds the lock, as far as is known, and the claims that those behind left for
/// its release, in the order of the line.
#[derive(Debug, Default)]
struct Here {
    token: Option<Token>,
    left: VecDeque<Claim>,
}

impl Here {
    fn remove(&mut self, token: &Token) {
        self.left.retain(|claim| claim.token != *token);
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lines {
    /// Stands at the end of a name's line.
    pub(crate) fn enter(self: &Arc<Self>, name: &Name) -> Place {
        let line = unpoisoned(&self.lines).entry(name.clone()).or_default().clone();
        Place { lines: self.clone(), name: name.clone(), line: Some(line), left: OnceLock::new() }
    }
}

impl Lines {
    /// The claim that the next in line left for the release of this token.
    pub(crate) fn successor(&self, name: &Name, token: &Token) -> Option<Claim> {
        let lines = unpoisoned(&self.lines);
        let mut here = unpoisoned(&lines.get(name)?.here);
        if here.token.as_ref() != Some(token) {
            return None;
        }
        here.token = None;
        here.left.pop_front()
    }
}

/// A place in a line; dropping it steps out.
#[derive(Debug)]
pub(crate) struct Place {
    lines: Arc<Lines>,
    name: Name,
    line: Option<Arc<Line>>,
    /// The token of the claim that was left here.
    left: OnceLock<Token>,
}

impl Place {
    fn line(&self) -> &Line {
        self.line.as_ref().expect("a place has its line until it is dropped")
    }

    /// Waits to be first; cancel safe, but stepping out and in again is a new place.
    pub(crate) async fn first(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.line().head.lock().await
    }

    /// The same, if nobody stands before it.
    pub(crate) fn try_first(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.line().head.try_lock().ok()
    }

    /// The lock went to this place, with this token.
    pub(crate) fn took(&self, token: &Token) {
        let mut here = unpoisoned(&self.line().here);
        here.remove(token);
        here.token = Some(token.clone());
    }

    /// Leaves a claim to whoever of this line releases the lock when it is the next.
    pub(crate) fn leave_claim(&self, claim: &Claim) {
        let _ = self.left.set(claim.token.clone());
        unpoisoned(&self.line().here).left.push_back(claim.clone());
    }

    /// Whether a release has taken the claim that was left, or a holder of this line may yet.
    pub(crate) fn may_be_taken(&self) -> bool {
        let here = unpoisoned(&self.line().here);
        here.token.is_some()
            || self.left.get().is_some_and(|token| here.left.iter().all(|c| c.token != *token))
    }

    /// Whether anybody left a claim in this line.
    #[cfg(test)]
    pub(crate) fn is_left_to(&self) -> bool {
        !unpoisoned(&self.line().here).left.is_empty()
    }

    /// Takes the claim back and asks by itself: no release shall bring along another's.
    pub(crate) fn take_back(&self) {
        let mut here = unpoisoned(&self.line().here);
        here.token = None;
        if let Some(token) = self.left.get() {
            here.remove(token);
        }
    }

    /// Tells those behind who holds the lock.
    pub(crate) fn learn(&self, holder: Option<Holder>) {
        if holder.is_some() {
            *unpoisoned(&self.line().holder) = holder;
        }
        *unpoisoned(&self.line().trouble) = None;
    }

    /// Tells those behind that the server could not be asked.
    pub(crate) fn fail(&self, why: String) {
        *unpoisoned(&self.line().trouble) = Some(why);
    }

    /// What to say when the wait is over: who holds the lock, or why nobody could ask.
    pub(crate) fn timed_out(&self) -> Result<Option<Holder>, String> {
        match &*unpoisoned(&self.line().trouble) {
            Some(why) => Err(why.clone()),
            None => Ok(unpoisoned(&self.line().holder).clone()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = unpoisoned(&self.lines.lines);
        if let (Some(token), Some(line)) = (self.left.get(), &self.line) {
            unpoisoned(&line.here).remove(token);
        }
        self.line = None;
        // Lines are handed out under this lock only, so a count of one is final.
        if lines.get(&self.name).is_some_and(|line| Arc::strong_count(line) == 1) {
            lines.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_lives_as_long_as_somebody_stands_in_it() {
        let lines = Arc::new(Lines::default());
        let name = Name::new("a").expect("a name");
        let (one, other) = (lines.enter(&name), lines.enter(&name));
        one.fail("why".into());
        drop(one);
        assert_eq!(other.timed_out(), Err("why".into()));
        drop(other);
        assert!(unpoisoned(&lines.lines).is_empty());
        assert_eq!(lines.enter(&name).timed_out(), Ok(None));
    }
}
