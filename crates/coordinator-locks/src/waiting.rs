//! Waiting in line inside this process: one waiter per name asks the server, the others wait for
//! their turn. What it learns, and its subscription, pass on to the next.

use crate::{
    backend::{Wake, Wakeups},
    token::Holder,
};
use coordinator_core::{
    clock::{Clock, Instant},
    key::Name,
};
use rand::RngExt as _;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// The longest time between two looks at a held lock: a wake-up may be lost.
const REPROBE: Duration = Duration::from_secs(1);
/// The same where no subscription can be had.
pub(crate) const POLL: Duration = Duration::from_millis(100);

/// The lines of this process, by name; a line lives as long as somebody stands in it.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<HashMap<Name, Arc<Line>>>);

#[derive(Debug)]
struct Line {
    /// First come, first served.
    head: tokio::sync::Mutex<Head>,
    /// The highest fence that was released here.
    released: watch::Sender<u64>,
    /// What was last learned of the holder.
    known: Mutex<Option<Known>>,
}

/// What only the first in line uses.
#[derive(Debug, Default)]
pub(crate) struct Head {
    wakeups: Option<Box<dyn Wakeups>>,
    /// Subscribing failed: look more often.
    deaf: bool,
}

/// A holder that the lock is known to be held by.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) fence: u64,
    pub(crate) holder: Option<Holder>,
    pub(crate) look_again: Instant,
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lines {
    /// Stands at the end of a name's line.
    pub(crate) fn enter(self: &Arc<Self>, name: &Name) -> Place {
        let mut lines = unpoisoned(&self.0);
        let line = lines.entry(name.clone()).or_insert_with(|| {
            Arc::new(Line {
                head: tokio::sync::Mutex::default(),
                released: watch::channel(0).0,
                known: Mutex::default(),
            })
        });
        Place { lines: self.clone(), name: name.clone(), line: Some(line.clone()) }
    }

    /// A holder in this process gave the lock up: whoever is first in line need not wait for the
    /// message.
    pub(crate) fn released(&self, name: &Name, fence: u64) {
        if let Some(line) = unpoisoned(&self.0).get(name) {
            line.released.send_if_modified(|released| {
                let news = fence > *released;
                *released = fence.max(*released);
                news
            });
        }
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
    pub(crate) async fn first(&self) -> tokio::sync::MutexGuard<'_, Head> {
        self.line().head.lock().await
    }

    pub(crate) fn known(&self) -> Option<Known> {
        unpoisoned(&self.line().known).clone()
    }

    pub(crate) fn learn(&self, known: Option<Known>) {
        *unpoisoned(&self.line().known) = known;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = unpoisoned(&self.lines.0);
        self.line = None;
        // Lines are handed out under this lock only, so a count of one is final.
        if lines.get(&self.name).is_some_and(|line| Arc::strong_count(line) == 1) {
            lines.remove(&self.name);
        }
    }
}

impl Head {
    /// Whether a release would be heard.
    pub(crate) fn listens(&self) -> bool {
        self.wakeups.is_some()
    }

    /// Whether it is worth trying to subscribe.
    pub(crate) fn may_listen(&self) -> bool {
        self.wakeups.is_none() && !self.deaf
    }

    pub(crate) fn listen(&mut self, wakeups: Option<Box<dyn Wakeups>>) {
        self.deaf = wakeups.is_none();
        self.wakeups = wakeups;
    }

    /// When to look again at a lock that was seen held for `ttl` yet.
    pub(crate) fn look_again(&self, now: Instant, ttl: Option<Duration>) -> Instant {
        let probe = if self.deaf { POLL } else { REPROBE };
        let probe = probe + probe.mul_f64(rand::rng().random_range(0.0..0.1));
        // A key lives to the end of its last millisecond.
        let expiry = ttl.map(|ttl| ttl + Duration::from_millis(1));
        now + expiry.map_or(probe, |expiry| expiry.min(probe))
    }

    /// Waits until the known holder has given up, or it is time to look again.
    pub(crate) async fn wait(
        &mut self,
        place: &Place,
        known: &Known,
        clock: &dyn Clock,
        deadline: Instant,
    ) {
        let mut released = place.line().released.subscribe();
        let wakeups = &mut self.wakeups;
        let heard = async {
            let Some(wakeups) = wakeups else {
                return std::future::pending().await;
            };
            // What was released before the known holder came is old news.
            while let Wake::Released(fence) = wakeups.next().await {
                if fence >= known.fence {
                    return;
                }
            }
        };
        tokio::select! {
            _ = released.wait_for(|fence| *fence >= known.fence) => {}
            () = heard => {}
            () = clock.sleep_until(known.look_again.min(deadline)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator_core::clock::ManualClock;

    fn known(fence: u64, clock: &ManualClock) -> Known {
        Known { fence, holder: None, look_again: clock.now() + Duration::from_secs(9) }
    }

    #[tokio::test]
    async fn a_line_lives_as_long_as_somebody_stands_in_it() {
        let lines = Arc::new(Lines::default());
        let name = Name::new("a").expect("a name");
        let (one, other) = (lines.enter(&name), lines.enter(&name));
        one.learn(Some(known(7, &ManualClock::new())));
        drop(one);
        assert_eq!(other.known().expect("is passed on").fence, 7);
        drop(other);
        assert!(unpoisoned(&lines.0).is_empty());
        assert!(lines.enter(&name).known().is_none());
    }

    #[tokio::test]
    async fn old_news_wakes_nobody() {
        let (lines, clock) = (Arc::new(Lines::default()), ManualClock::new());
        let name = Name::new("a").expect("a name");
        let place = lines.enter(&name);
        let mut head = place.first().await;
        lines.released(&name, 6);
        let known = known(7, &clock);
        let deadline = clock.now() + Duration::from_secs(99);
        let mut waiting = Box::pin(head.wait(&place, &known, &clock, deadline));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        lines.released(&name, 7);
        waiting.await;
    }
}
