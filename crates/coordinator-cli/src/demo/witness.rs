//! The parent's own subscriptions to what workers tell of, and the check that each event came:
//! once, in order, and where its publisher was told that it stands.

use super::{
    herald::{Place, SCOPES, Told, scope},
    tasks::Tasks,
    worker::Trouble,
};
use crate::failure::Failure;
use coordinator::{
    Coordinator, Result,
    clock::Clock,
    events::{Cursor, Events, Item, Position, Subscription},
};
use futures::future::try_join_all;
use serde::Serialize;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// For how long what was published may be on its way once a server answers.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked at whether more came.
const LOOK: Duration = Duration::from_millis(5);

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Heard {
    /// Requests that were handled: of each an event was acknowledged.
    #[serde(rename = "events_published")]
    pub(crate) published: u64,
    /// Events that came, each as often as it did.
    #[serde(rename = "events_delivered")]
    pub(crate) delivered: u64,
    /// Events that did not come, came again, came before an earlier one, or stand elsewhere.
    #[serde(skip)]
    pub(crate) wrong: u64,
    /// Gaps, and events that could not be read.
    #[serde(skip)]
    pub(crate) gaps: u64,
}

impl Heard {
    /// In plain words.
    pub(crate) fn check(&self) -> (bool, String) {
        let Self { published, delivered, wrong, gaps } = self;
        let what = format!(
            "every event came once and in order: {delivered} of {published}, {wrong} astray, \
             {gaps} gaps"
        );
        (self.is_clean(), what)
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.published == self.delivered && self.wrong + self.gaps == 0
    }
}

/// What came.
#[derive(Debug, Default)]
struct Notes {
    /// Where the event of each request stands.
    came: HashMap<u64, Place>,
    /// Up to where was heard, for each scope.
    reached: HashMap<u64, Cursor>,
    delivered: u64,
    again: u64,
    disorder: u64,
    gaps: u64,
}

/// Without what tells an event from another that had its place: a second publisher is not told it.
fn bare(cursor: Cursor) -> (u64, u64) {
    (cursor.epoch(), cursor.number())
}

impl Notes {
    fn note(&mut self, told: Told, place: Place) {
        self.delivered += 1;
        self.again += u64::from(self.came.insert(told.number, place).is_some());
        let before = self.reached.insert(place.of, place.cursor);
        self.disorder += u64::from(before.is_some_and(|before| before >= place.cursor));
    }

    /// Whether all was heard up to some place of each scope.
    fn has_reached(&self, ends: &[(u64, Cursor)]) -> bool {
        ends.iter().all(|(of, end)| {
            let reached = self.reached.get(of).copied().unwrap_or(Cursor::START);
            bare(reached) >= bare(*end)
        })
    }

    /// Compares with what was acknowledged.
    fn compare(&self, published: &HashMap<u64, Place>) -> Heard {
        let stands = |place: &Place| (place.of, bare(place.cursor));
        let astray = published.iter().filter(|(number, told)| {
            self.came.get(number).is_none_or(|came| stands(came) != stands(told))
        });
        Heard {
            published: published.len() as u64,
            delivered: self.delivered,
            wrong: astray.count() as u64 + self.again + self.disorder,
            gaps: self.gaps,
        }
    }
}

/// Listens to all scopes of a run until it is dropped.
#[derive(Debug)]
pub(crate) struct Witness {
    events: Events,
    run: u64,
    notes: Arc<Mutex<Notes>>,
    _listening: Tasks<()>,
}

impl Witness {
    /// Returns when it listens.
    pub(crate) async fn open(coordinator: &Coordinator, run: u64) -> Result<Self> {
        let events = coordinator.events().clone();
        let notes = Arc::<Mutex<Notes>>::default();
        let mut listening = Tasks::new();
        for of in 0..SCOPES {
            let subscription = events.subscribe(&scope(run, of)).from(Position::Now);
            listening.start(listen(subscription.open::<Told>().await?, of, notes.clone()));
        }
        Ok(Self { events, run, notes, _listening: listening })
    }

    /// Waits for what was published and has not come yet, and compares.
    pub(crate) async fn examine(
        &self,
        published: &HashMap<u64, Place>,
        clock: &dyn Clock,
    ) -> Result<Heard, Failure> {
        let mut trouble = Trouble::none();
        let ends = loop {
            match self.ends().await {
                Ok(ends) => break ends,
                Err(error) => trouble.bear(clock, error).await?,
            }
        };
        let since = clock.now();
        while !self.notes().has_reached(&ends) && clock.now().saturating_since(since) < PATIENCE {
            clock.sleep(LOOK).await;
        }
        Ok(self.notes().compare(published))
    }

    /// Where each scope ends.
    async fn ends(&self) -> Result<Vec<(u64, Cursor)>> {
        let ends =
            (0..SCOPES).map(async |of| Ok((of, self.events.position(&scope(self.run, of)).await?)));
        try_join_all(ends).await
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        noted(&self.notes)
    }
}

fn noted(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn listen(mut subscription: Subscription<Told>, of: u64, notes: Arc<Mutex<Notes>>) {
    while let Some(item) = subscription.next().await {
        let mut notes = noted(&notes);
        match item {
            Item::Event(event) => notes.note(event.data, Place { of, cursor: event.cursor() }),
            _ => notes.gaps += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::{herald::Herald, requests::Request};
    use coordinator::clock::SystemClock;

    const RUN: u64 = 7;

    fn request(number: u64) -> Request {
        Request { number, client: format!("c{}", number % 5), path: "/".to_owned() }
    }

    struct Run {
        coordinator: Coordinator,
        witness: Witness,
        published: HashMap<u64, Place>,
    }

    impl Run {
        /// Twenty requests that were told of.
        async fn honest() -> Self {
            let coordinator = Coordinator::embedded();
            let witness = Witness::open(&coordinator, RUN).await.expect("memory");
            let mut run = Self { coordinator, witness, published: HashMap::new() };
            for number in 1..=20 {
                run.tell(number, false).await;
            }
            run
        }

        async fn tell(&mut self, number: u64, forgetful: bool) {
            let herald = Herald::new(&self.coordinator, RUN, forgetful);
            let place = herald.tell(&request(number)).await.expect("memory");
            self.published.insert(number, place);
        }

        /// Another event of a request, without its key.
        async fn stray(&self, of: u64, number: u64) {
            let event = self.coordinator.events().publish(&scope(RUN, of), "x", &Told { number });
            assert!(event.await.is_ok());
        }

        async fn heard(&self) -> Heard {
            self.witness.examine(&self.published, &SystemClock).await.expect("memory")
        }
    }

    #[tokio::test]
    async fn an_honest_run_is_clean_and_so_is_one_that_tells_again() {
        let mut run = Run::honest().await;
        let found = run.heard().await;
        assert!(found.is_clean(), "{found:?}");
        assert_eq!((found.published, found.delivered), (20, 20));
        run.tell(3, false).await;
        run.tell(21, false).await;
        let found = run.heard().await;
        assert!(found.is_clean() && found.delivered == 21, "{found:?}");
    }

    #[tokio::test]
    async fn planted_an_event_that_was_not_published_is_found() {
        let mut run = Run::honest().await;
        run.tell(21, true).await;
        let found = run.heard().await;
        assert_eq!((found.published, found.delivered, found.wrong), (21, 20, 1));
        assert!(!found.is_clean());
    }

    #[tokio::test]
    async fn planted_an_event_that_came_twice_is_found() {
        let run = Run::honest().await;
        run.stray(run.published[&3].of, 3).await;
        let found = run.heard().await;
        assert_eq!((found.published, found.delivered), (20, 21));
        assert!(!found.is_clean());
    }

    #[tokio::test]
    async fn planted_an_event_that_stands_elsewhere_is_found() {
        let mut run = Run::honest().await;
        run.stray(1, 21).await;
        run.published.insert(21, run.published[&20]);
        let found = run.heard().await;
        assert_eq!((found.published, found.delivered, found.wrong), (21, 21, 1));
        assert!(!found.is_clean());
    }

    #[test]
    fn planted_events_out_of_order_and_gaps_are_found() {
        let place = |text: &str| Place { of: 0, cursor: text.parse().expect("a cursor") };
        let (first, second) = (place("1-0"), place("1-1"));
        let published = HashMap::from([(1, first), (2, second)]);
        let mut notes = Notes::default();
        notes.note(Told { number: 2 }, second);
        assert!(!notes.has_reached(&[(0, second.cursor), (1, first.cursor)]));
        notes.note(Told { number: 1 }, first);
        let found = notes.compare(&published);
        assert_eq!((found.delivered, found.wrong), (2, 1));
        assert!(!found.is_clean());
        let gap = Heard { gaps: 1, ..Heard::default() };
        assert!(!gap.is_clean());
    }
}
