//! What the adapter in process keeps: bytes with an end each, in bounded memory. It knows nothing
//! of steps.

use crate::backend::{Changed, Key, Tag};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use tokio::sync::broadcast;

/// After how many writes what has expired is looked for.
const SWEEP: u64 = 1024;
/// How many changes wait for a slow listener before it is told of a loss.
const CHANGES: usize = 8192;
/// What an entry takes beside its name and its bytes, about.
const OVERHEAD: usize = 256;

/// What stands somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Value(Key),
    Lease(Key),
    Tag(Tag),
    Mark,
}

impl Place {
    fn changed(&self) -> Changed {
        match self {
            Self::Value(key) => Changed::Value(key.clone()),
            Self::Lease(key) => Changed::Lease(key.clone()),
            Self::Tag(tag) => Changed::Tag(tag.clone()),
            Self::Mark => Changed::Mark,
        }
    }

    fn cost(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Value(key) | Self::Lease(key) => {
                    key.ns.as_str().len() + key.key.as_str().len()
                }
                Self::Tag(tag) => tag.as_str().len(),
                Self::Mark => 0,
            }
    }
}

struct Slot {
    bytes: Bytes,
    /// The last ms of its life.
    until: u64,
    /// Whether it was asked for since it was last looked at.
    used: bool,
    /// Tells it from what stood here before, in the queue.
    number: u64,
}

/// Entries, of which those go first that were not asked for, when there is no room.
pub(super) struct Store {
    slots: HashMap<Place, Slot>,
    /// Whose turn it is to go: a second chance for each that was used (CLOCK, Corbató 1968). What
    /// is gone stands here until its turn.
    queue: VecDeque<(u64, Place)>,
    bytes: usize,
    most: usize,
    numbers: u64,
    writes: u64,
    changes: broadcast::Sender<Changed>,
}

impl Store {
    pub(super) fn new(most: usize) -> Self {
        Self {
            slots: HashMap::new(),
            queue: VecDeque::new(),
            bytes: 0,
            most,
            numbers: 0,
            writes: 0,
            changes: broadcast::channel(CHANGES).0,
        }
    }

    pub(super) fn listen(&self) -> broadcast::Receiver<Changed> {
        self.changes.subscribe()
    }

    fn tell(&self, place: &Place) {
        if self.changes.receiver_count() > 0 {
            // The last listener may go meanwhile.
            let _ = self.changes.send(place.changed());
        }
    }

    fn live(&mut self, place: &Place, now: u64) -> Option<&mut Slot> {
        if self.slots.get(place).is_some_and(|slot| slot.until < now) {
            self.remove(place, now);
        }
        self.slots.get_mut(place)
    }

    pub(super) fn get(&mut self, place: &Place, now: u64) -> Option<Bytes> {
        let slot = self.live(place, now)?;
        slot.used = true;
        Some(slot.bytes.clone())
    }

    /// For how many ms it is kept.
    pub(super) fn left(&mut self, place: &Place, now: u64) -> Option<u64> {
        self.live(place, now).map(|slot| slot.until - now)
    }

    /// Keeps what is there for so long from now on.
    pub(super) fn keep(&mut self, place: &Place, ttl_ms: u64, now: u64) {
        if let Some(slot) = self.live(place, now) {
            slot.until = now.saturating_add(ttl_ms);
            self.tell(place);
        }
    }

    /// Puts other bytes in place of those that are there, of the same length.
    pub(super) fn replace(&mut self, place: &Place, bytes: Bytes, now: u64) {
        if let Some(slot) = self.live(place, now) {
            slot.bytes = bytes;
            self.tell(place);
        }
    }

    /// Whether there is room for it at all.
    pub(super) fn takes(&self, place: &Place, bytes: &Bytes) -> bool {
        place.cost() + bytes.len() <= self.most
    }

    /// Puts something in place of what is there, and makes room for it.
    pub(super) fn put(&mut self, place: &Place, bytes: Bytes, ttl_ms: u64, now: u64) {
        self.sweep(now);
        let (cost, until) = (place.cost() + bytes.len(), now.saturating_add(ttl_ms));
        if let Some(slot) = self.slots.get_mut(place) {
            self.bytes -= place.cost() + slot.bytes.len();
            (slot.bytes, slot.until, slot.used) = (bytes, until, true);
        } else {
            self.numbers += 1;
            let number = self.numbers;
            self.slots.insert(place.clone(), Slot { bytes, until, used: false, number });
            self.queue.push_back((number, place.clone()));
        }
        self.bytes += cost;
        self.make_room(place, now);
        self.tell(place);
    }

    /// Whether there was something.
    pub(super) fn remove(&mut self, place: &Place, now: u64) -> bool {
        let Some(slot) = self.slots.remove(place) else { return false };
        self.bytes -= place.cost() + slot.bytes.len();
        self.tell(place);
        slot.until >= now
    }

    /// Of all but one, which was just put there.
    fn make_room(&mut self, but: &Place, now: u64) {
        while self.bytes > self.most
            && let Some((number, place)) = self.queue.pop_front()
        {
            match self.slots.get_mut(&place) {
                Some(slot) if slot.number == number => {
                    let stays = place == *but || matches!(place, Place::Mark);
                    if stays || std::mem::take(&mut slot.used) && slot.until >= now {
                        self.queue.push_back((number, place));
                    } else {
                        self.remove(&place, now);
                    }
                }
                _ => {}
            }
        }
    }

    /// Every so many writes: takes away what has expired, and places of what is gone.
    fn sweep(&mut self, now: u64) {
        self.writes += 1;
        if !self.writes.is_multiple_of(SWEEP) {
            return;
        }
        let over = self.slots.iter().filter(|(_, slot)| slot.until < now);
        let over: Vec<Place> = over.map(|(place, _)| place.clone()).collect();
        for place in &over {
            self.remove(place, now);
        }
        let slots = &self.slots;
        self.queue
            .retain(|(number, place)| slots.get(place).is_some_and(|slot| slot.number == *number));
    }

    /// Of all that has not expired.
    pub(super) fn places(&self, now: u64) -> impl Iterator<Item = &Place> {
        self.slots.iter().filter(move |(_, slot)| slot.until >= now).map(|(place, _)| place)
    }

    /// Forgets everything and tells nobody, as FLUSHALL does.
    #[cfg(test)]
    pub(super) fn flush(&mut self) {
        self.slots.clear();
        self.queue.clear();
        self.bytes = 0;
    }

    /// How many entries and places in the queue there are, and how many bytes they take.
    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize, usize) {
        (self.slots.len(), self.queue.len(), self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator_core::key::Name;

    fn place(number: usize) -> Place {
        let name = |text: &str| Name::new(text).expect("a name");
        Place::Value(Key::new(name("n"), name(&format!("{number:04}"))))
    }

    fn put(store: &mut Store, number: usize, ttl_ms: u64, now: u64) {
        store.put(&place(number), vec![1; 739].into(), ttl_ms, now);
    }

    #[test]
    fn what_is_asked_for_stays_and_what_is_not_goes_when_there_is_no_room() {
        let mut store = Store::new(10_000);
        store.put(&Place::Mark, Bytes::from_static(b"12345678"), 1000, 0);
        for number in 0..100 {
            put(&mut store, number, 1000, 0);
            assert!(store.get(&place(0), 0).is_some(), "it is always asked for, {number}");
            assert!(store.size().2 <= 10_000);
            assert!(store.left(&place(number), 0).is_some(), "it is new, {number}");
        }
        assert_eq!(store.size(), (10, 10, 9000 + 264));
        assert!(store.get(&Place::Mark, 0).is_some());
        assert!(store.get(&place(1), 0).is_none());
    }

    #[test]
    fn what_has_expired_goes_before_what_was_asked_for() {
        let mut store = Store::new(2000);
        put(&mut store, 0, 10, 0);
        put(&mut store, 1, 1000, 0);
        assert!(store.get(&place(0), 0).is_some() && store.get(&place(1), 0).is_some());
        put(&mut store, 2, 1000, 11);
        assert!(store.get(&place(1), 11).is_some() && store.get(&place(2), 11).is_some());
    }

    #[test]
    fn what_is_written_over_counts_once_and_what_is_gone_leaves_no_place() {
        let mut store = Store::new(1_000_000);
        let mut feed = store.listen();
        for _ in 0..3000 {
            put(&mut store, 0, 1000, 0);
            store.remove(&place(0), 0);
            put(&mut store, 0, 10, 0);
        }
        assert!(
            store.size().1 < 2 * usize::try_from(SWEEP).expect("it fits"),
            "{:?}",
            store.size()
        );
        assert_eq!((store.size().0, store.size().2), (1, 1000));
        while feed.try_recv().is_ok() || !feed.is_empty() {}
        for number in 0..1024 {
            store.put(&Place::Mark, Bytes::new(), 1000, 11);
            assert_eq!(store.left(&Place::Mark, 11), Some(1000), "{number}");
        }
        assert_eq!(store.size(), (1, 1, OVERHEAD), "the expired one was looked for");
    }

    #[test]
    fn what_is_longer_than_all_that_is_kept_is_refused() {
        let store = Store::new(1000);
        assert!(store.takes(&place(0), &vec![0; 739].into()));
        assert!(!store.takes(&place(0), &vec![0; 740].into()));
    }
}
