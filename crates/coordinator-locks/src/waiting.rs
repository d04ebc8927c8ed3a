//! Waiting in line inside this process: one waiter per name stands in the backend's queue, the
//! others wait for their turn here and share what it learns.

use crate::token::Holder;
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
