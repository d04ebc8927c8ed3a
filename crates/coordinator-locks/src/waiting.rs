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
/// What a turn takes besides holding the lock: a wake-up and two round trips.
const TURN: Duration = Duration::from_micros(500);
/// The longest that a process leaves a lock to others after releasing it.
const COURTESY: Duration = Duration::from_millis(50);
/// The same as the first where no subscription can be had.
const POLL: Duration = Duration::from_millis(100);

/// The lines of this process, by name; a line lives as long as somebody stands in it.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    lines: Mutex<HashMap<Name, Arc<Line>>>,
    /// Until when this process leaves a name that it gave up to others.
    courtesy: Mutex<HashMap<Name, Instant>>,
}

#[derive(Debug)]
struct Line {
    /// First come, first served.
    head: tokio::sync::Mutex<Head>,
    /// The highest fence that was released here.
    released: watch::Sender<u64>,
    /// What was last learned of the holder.
    known: Mutex<Option<Known>>,
    /// Why the server could not be asked, when it was last tried.
    trouble: Mutex<Option<String>>,
}

/// What only the first in line uses.
#[derive(Debug, Default)]
pub(crate) struct Head {
    wakeups: Option<Box<dyn Wakeups>>,
    /// Subscribing failed: until then look more often, and do not try again.
    deaf_until: Option<Instant>,
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
        let mut lines = unpoisoned(&self.lines);
        let line = lines.entry(name.clone()).or_insert_with(|| {
            Arc::new(Line {
                head: tokio::sync::Mutex::default(),
                released: watch::channel(0).0,
                known: Mutex::default(),
                trouble: Mutex::default(),
            })
        });
        Place { lines: self.clone(), name: name.clone(), line: Some(line.clone()) }
    }

    /// A holder in this process gave the lock up after holding it for `hold`, and `woken` clients
    /// heard of it.
    ///
    /// If they are all ours, whoever is first in line need not wait for the message. If other
    /// processes wait, they are given time for a turn each: whoever releases is nearer to the lock
    /// than who must be woken first, and would win again and again.
    pub(crate) fn released(
        &self,
        name: &Name,
        fence: u64,
        woken: u64,
        hold: Duration,
        now: Instant,
    ) {
        let lines = unpoisoned(&self.lines);
        let line = lines.get(name);
        let others = woken.saturating_sub(u64::from(line.is_some()));
        if others > 0 {
            let turns = u32::try_from(others.min(32)).unwrap_or(32);
            // Half of what their turns may take: a lock that nobody takes is worse than a turn that
            // is not quite fair.
            let courtesy = ((hold + TURN) * turns / 2).min(COURTESY);
            let mut until = unpoisoned(&self.courtesy);
            until.retain(|_, until| *until > now);
            until.insert(name.clone(), now + courtesy);
        } else if let Some(line) = line {
            line.released.send_if_modified(|released| {
                let news = fence > *released;
                *released = fence.max(*released);
                news
            });
        }
    }

    /// Until when to leave a name to others, if at all.
    pub(crate) fn courtesy(&self, name: &Name, now: Instant) -> Option<Instant> {
        unpoisoned(&self.courtesy).get(name).copied().filter(|until| *until > now)
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
            None => Ok(self.known().and_then(|known| known.holder)),
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

impl Head {
    /// Whether a release would be heard.
    pub(crate) fn listens(&self) -> bool {
        self.wakeups.is_some()
    }

    /// Whether it is worth trying to subscribe.
    pub(crate) fn may_listen(&self, now: Instant) -> bool {
        self.wakeups.is_none() && self.deaf_until.is_none_or(|until| until <= now)
    }

    pub(crate) fn listen(&mut self, wakeups: Box<dyn Wakeups>) {
        self.wakeups = Some(wakeups);
    }

    /// Subscribing failed: wait without until then.
    pub(crate) fn go_deaf(&mut self, until: Instant) {
        self.deaf_until = Some(until);
    }

    /// When to look again at a lock that was seen held for `ttl` yet.
    pub(crate) fn look_again(&self, now: Instant, ttl: Option<Duration>) -> Instant {
        let probe = if self.wakeups.is_none() && !self.may_listen(now) { POLL } else { REPROBE };
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
        assert!(unpoisoned(&lines.lines).is_empty());
        assert!(lines.enter(&name).known().is_none());
    }

    #[tokio::test]
    async fn old_news_wakes_nobody() {
        let (lines, clock) = (Arc::new(Lines::default()), ManualClock::new());
        let name = Name::new("a").expect("a name");
        let place = lines.enter(&name);
        let mut head = place.first().await;
        lines.released(&name, 6, 1, Duration::ZERO, clock.now());
        let known = known(7, &clock);
        let deadline = clock.now() + Duration::from_secs(99);
        let mut waiting = Box::pin(head.wait(&place, &known, &clock, deadline));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        lines.released(&name, 7, 1, Duration::ZERO, clock.now());
        waiting.await;
    }

    #[tokio::test]
    async fn others_are_left_a_turn_each_and_no_more() {
        let (lines, clock) = (Arc::new(Lines::default()), ManualClock::new());
        let name = Name::new("a").expect("a name");
        let now = clock.now();
        let hold = Duration::from_millis(1);
        // Only we ourselves were woken.
        let place = lines.enter(&name);
        lines.released(&name, 1, 1, hold, now);
        assert_eq!(lines.courtesy(&name, now), None);
        drop(place);
        lines.released(&name, 2, 4, hold, now);
        let until = lines.courtesy(&name, now).expect("others wait");
        assert_eq!(until.saturating_since(now), (hold + TURN) * 2);
        assert_eq!(lines.courtesy(&name, until), None);
        lines.released(&name, 3, 1000, Duration::from_secs(9), now);
        let until = lines.courtesy(&name, now).expect("others wait");
        assert_eq!(until.saturating_since(now), COURTESY);
    }
}
