//! One topic in this process: one subscription and one look at the count, whatever the number of
//! subscribers. A bounded ring holds what was heard; a subscriber is a place in it.
//!
//! Places count announcements, heard or lost: whoever falls behind the ring knows how many it
//! missed.

use crate::{
    asked::Asked,
    backend::{Announced, Backend, Feed, Heard},
    cursor::Cursor,
    envelope::RawEvent,
    gap::Lost,
    hub::{Room, wanted},
    tasks,
    telemetry::{self, Missed, Trouble},
};
use bytes::Bytes;
use coordinator_core::{Result, key::Name};
use futures::future::{Either, select};
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};
use tokio::sync::watch;

/// How often the count is looked at where nothing is heard.
const LOOK: Duration = Duration::from_secs(2);
/// For how long what was counted may be on its way.
const ON_ITS_WAY: Duration = Duration::from_millis(500);
/// For how long a topic is followed that nobody listens to.
const LINGER: Duration = Duration::from_secs(10);

/// The topics that are listened to in this process.
#[derive(Debug, Default)]
pub(crate) struct Topics(Mutex<HashMap<String, Weak<Topic>>>);

impl Topics {
    /// The topic; `room` is for one that nobody listens to yet.
    pub(crate) fn topic(&self, backend: &Arc<dyn Backend>, name: &Name, room: Room) -> Arc<Topic> {
        let mut topics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = topics.get(name.as_str()).and_then(Weak::upgrade) {
            return topic;
        }
        if topics.len() == topics.capacity() {
            topics.retain(|_, topic| topic.strong_count() > 0);
        }
        let topic = Arc::new(Topic::new(backend.clone(), name.clone(), room));
        topics.insert(name.as_str().to_owned(), Arc::downgrade(&topic));
        topic
    }
}

/// What is in the ring.
#[derive(Debug, Clone)]
enum Slot {
    Event(RawEvent),
    /// So many did not come.
    Lost(u64),
    /// The count began anew.
    Anew,
    /// The count went back, with its server or before its time: nobody knows how many were lost.
    Back,
}

/// Where a subscriber is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    /// The slot that is next; slots are numbered from 0 on, for ever.
    slot: u64,
    /// How many announcements it has done with, of all that were heard or lost here.
    done: u64,
    /// How often the count had begun anew or gone back, and how often only that.
    anew: u64,
    back: u64,
}

impl Place {
    fn after(self, slot: &Slot) -> Self {
        let (count, anew, back) = match slot {
            Slot::Event(_) => (1, 0, 0),
            Slot::Lost(count) => (*count, 0, 0),
            Slot::Anew => (0, 1, 0),
            Slot::Back => (0, 1, 1),
        };
        Self {
            slot: self.slot + 1,
            done: self.done.saturating_add(count),
            anew: self.anew + anew,
            back: self.back + back,
        }
    }
}

/// What a subscriber is told.
#[derive(Debug)]
pub(crate) enum Told {
    Event(RawEvent),
    Lost(Lost),
}

#[derive(Debug)]
pub(crate) struct Ring {
    room: Room,
    /// Each with its bytes, and how many announcements there were before it.
    slots: VecDeque<(Slot, usize, u64)>,
    bytes: usize,
    /// Where the first slot is, and where the next one will be.
    start: Place,
    end: Place,
    /// The number of the last announcement that was heard or counted.
    last: u64,
}

impl Ring {
    fn new(room: Room) -> Self {
        let (start, end) = (Place::default(), Place::default());
        Self { room, slots: VecDeque::new(), bytes: 0, start, end, last: 0 }
    }

    fn push(&mut self, slot: Slot, bytes: usize) {
        let before = self.end.done;
        self.end = self.end.after(&slot);
        self.bytes += bytes;
        self.slots.push_back((slot, bytes, before));
        while self.slots.len() > self.room.events.max(1)
            || self.bytes > self.room.bytes && self.slots.len() > 1
        {
            let Some((gone, bytes, _)) = self.slots.pop_front() else { return };
            self.start = self.start.after(&gone);
            self.bytes -= bytes;
        }
    }

    fn heard(&mut self, number: u64, envelope: &Bytes) {
        if number <= self.last {
            self.push(Slot::Anew, 0);
        } else if number - self.last > 1 {
            self.push(Slot::Lost(number - self.last - 1), 0);
        }
        self.last = number;
        self.push(Slot::Event(RawEvent::new(Cursor::START, envelope)), envelope.len());
    }

    /// So many were announced. Which of them are given up, if any are.
    fn counted(&mut self, count: u64) -> Option<RangeInclusive<u64>> {
        (count > self.last).then(|| {
            let first = self.last + 1;
            self.push(Slot::Lost(count - self.last), 0);
            self.last = count;
            first..=count
        })
    }

    /// Where whoever comes now is, that many having been announced: of these, what is still on its
    /// way is not for it.
    fn joined(&self, count: u64) -> Place {
        let coming = count.saturating_sub(self.last);
        Place { done: self.end.done.saturating_add(coming), ..self.end }
    }

    /// What comes next for whoever is at a place; none if nothing yet.
    fn next(&self, place: &mut Place) -> Option<Told> {
        if place.slot < self.start.slot {
            let behind = std::mem::replace(place, self.start);
            let count = self.start.done.saturating_sub(behind.done);
            if self.start.anew == behind.anew {
                // What it is to hear may begin later.
                place.done = place.done.max(behind.done);
            }
            let unsure = self.start.back > behind.back;
            if unsure || count > 0 {
                telemetry::missed(Missed::Lagged, count);
                let lost = if unsure { Lost::AtLeast(count) } else { Lost::Exactly(count) };
                return Some(Told::Lost(lost));
            }
        }
        let from = usize::try_from(place.slot - self.start.slot).unwrap_or(usize::MAX);
        for (slot, _, before) in self.slots.range(from.min(self.slots.len())..) {
            let done = place.done;
            *place = Place { done: *before, ..*place }.after(slot);
            match slot {
                Slot::Event(event) if *before >= done => return Some(Told::Event(event.clone())),
                Slot::Lost(count) if *count > done.saturating_sub(*before) => {
                    let count = count - done.saturating_sub(*before);
                    telemetry::missed(Missed::Unheard, count);
                    return Some(Told::Lost(Lost::Exactly(count)));
                }
                Slot::Back => {
                    telemetry::missed(Missed::Unheard, 0);
                    return Some(Told::Lost(Lost::AtLeast(0)));
                }
                Slot::Anew => {}
                Slot::Event(_) | Slot::Lost(_) => place.done = done,
            }
        }
        None
    }
}

pub(crate) struct Topic {
    name: Name,
    backend: Arc<dyn Backend>,
    ring: Mutex<Ring>,
    /// The number of slots there ever were.
    head: watch::Sender<u64>,
    live: OnceLock<()>,
    looks: Asked<(), Place>,
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Topic {
    fn new(backend: Arc<dyn Backend>, name: Name, room: Room) -> Self {
        Self {
            name,
            backend,
            ring: Mutex::new(Ring::new(room)),
            head: watch::channel(0).0,
            live: OnceLock::new(),
            looks: Asked::default(),
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    pub(crate) fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// What comes next for whoever is at a place; none if nothing yet.
    pub(crate) fn next(&self, place: &mut Place) -> Option<Told> {
        self.ring().next(place)
    }

    /// Where to listen from; what is announced from now on is after it. Many who ask at once share
    /// a look at the count.
    pub(crate) async fn join(self: &Arc<Self>) -> Result<Place> {
        let topic = self.clone();
        self.looks.same(move || topic.clone().look()).await
    }

    async fn look(self: Arc<Self>) -> Result<Place> {
        // Heard first and counted afterwards: nothing falls in between.
        let feed = match self.live.get() {
            Some(()) => None,
            None => Some(self.backend.follow(&self.name).await?),
        };
        let count = self.backend.announced(&self.name).await?;
        if let Some(feed) = feed {
            tasks::spawn(pump(self.clone(), feed));
            self.live.get_or_init(|| ());
        }
        let place = self.ring().joined(count);
        Ok(place)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Ring) -> T) -> T {
        let (changed, end) = {
            let mut ring = self.ring();
            (change(&mut ring), ring.end.slot)
        };
        self.head.send_if_modified(|head| std::mem::replace(head, end) != end);
        changed
    }
}

/// What is not known for sure of a topic.
#[derive(Debug, Default)]
struct Doubt {
    /// Something may have been missed.
    any: bool,
    /// So many were announced a while ago.
    counted: Option<u64>,
    /// The numbers that were given up because they had not come.
    given_up: Option<RangeInclusive<u64>>,
    trouble: Trouble,
}

impl Doubt {
    /// Asks how many there were, if that is not known for sure; whether they are waited for.
    async fn look(&mut self, topic: &Topic) -> bool {
        if !self.any {
            return false;
        }
        match topic.backend.announced(&topic.name).await {
            Ok(count) => {
                self.trouble.over();
                self.any = false;
                if count < topic.ring().last {
                    topic.change(|ring| {
                        ring.push(Slot::Back, 0);
                        ring.last = count;
                    });
                    return false;
                }
                self.counted = Some(count);
                true
            }
            Err(error) => {
                self.trouble.met(&error, "the count of a topic could not be read");
                false
            }
        }
    }

    fn is_late(&mut self, number: u64) -> bool {
        let late = self.given_up.as_ref().is_some_and(|given_up| given_up.contains(&number));
        if !late {
            self.given_up = None;
        }
        late
    }
}

/// Runs until nobody listens to the topic any more.
async fn pump(mut topic: Arc<Topic>, mut feed: Box<dyn Feed<Announced>>) {
    let clock = topic.backend.clock().clone();
    let (mut doubt, mut alone_since) = (Doubt::default(), None);
    let mut alarm = clock.sleep(LOOK);
    loop {
        if doubt.look(&topic).await {
            alarm = clock.sleep(ON_ITS_WAY);
        }
        match select(feed.next(), alarm).await {
            Either::Left((heard, rest)) => {
                alarm = rest;
                match heard {
                    // It was told as lost, and counts as that.
                    Heard::It((number, _)) if doubt.is_late(number) => {}
                    Heard::It((number, envelope)) => {
                        topic.change(|ring| ring.heard(number, &envelope));
                    }
                    Heard::Noise => {}
                    Heard::Lost => doubt.any = true,
                }
            }
            Either::Right(_) => {
                alarm = clock.sleep(LOOK);
                match doubt.counted.take() {
                    Some(count) => {
                        if let Some(given_up) = topic.change(|ring| ring.counted(count)) {
                            doubt.given_up = Some(given_up);
                        }
                    }
                    // Silence may be deafness.
                    None => doubt.any = true,
                }
                let now = clock.now();
                if Arc::strong_count(&topic) > 1 {
                    alone_since = None;
                } else if now.saturating_since(*alone_since.get_or_insert(now)) >= LINGER {
                    let Some(wanted) = wanted(topic) else { return };
                    (topic, alone_since) = (wanted, None);
                }
            }
        }
    }
}
