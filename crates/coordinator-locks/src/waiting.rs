//! Waiting in line inside this process: one waiter per name stands in the backend's queue, the
//! others wait for their turn here and share what it learns.

use crate::{
    backend::Claim,
    token::{Holder, Token},
};
use coordinator_core::key::Name;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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

/// Who of this line holds the lock, as far as is known, and what the next left for its release.
#[derive(Debug, Default)]
struct Here {
    token: Option<Token>,
    successor: Option<Claim>,
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lines {
    /// Stands at the end of a name's line.
    pub(crate) fn enter(self: &Arc<Self>, name: &Name) -> Place {
        let line = unpoisoned(&self.lines).entry(name.clone()).or_default().clone();
        Place { lines: self.clone(), name: name.clone(), line: Some(line) }
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
        here.successor.take()
    }
}

/// A place in a line; dropping it steps out.
#[derive(Debug)]
pub(crate) struct Place {
    lines: Arc<Lines>,
    name: Name,
    line: Option<Arc<Line>>,
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
        let here = Here { token: Some(token.clone()), successor: None };
        *unpoisoned(&self.line().here) = here;
    }

    /// Leaves a claim to a holder of this line, if there is one: its release brings it along.
    pub(crate) fn leave_claim(&self, claim: &Claim) -> bool {
        let mut here = unpoisoned(&self.line().here);
        let held = here.token.is_some();
        if held {
            here.successor = Some(claim.clone());
        }
        held
    }

    /// Takes the claim back, if no release has.
    pub(crate) fn take_back(&self) {
        unpoisoned(&self.line().here).successor = None;
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
