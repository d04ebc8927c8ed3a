//! The last events of a scope in this process, of which every reader has its own place.
//!
//! It holds a bounded number of events and bytes whatever readers do.

use crate::{
    backend::{Before, Page, Stored},
    cursor::Cursor,
    envelope::RawEvent,
    gap::{Gap, follows, hole, join},
};
use std::collections::VecDeque;

/// What is in the ring.
#[derive(Debug, Clone)]
pub(crate) enum Slot {
    Event(Stored, RawEvent),
    Gap(Gap),
}

/// Slots are numbered from 0 on, for ever.
#[derive(Debug)]
pub(crate) struct Ring {
    start: u64,
    slots: VecDeque<Slot>,
    bytes: usize,
    most: usize,
    most_bytes: usize,
    /// After the last slot.
    pub(crate) at: Cursor,
}

/// What became of an event that was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    New,
    Known,
    /// It does not fit what is known: look.
    Unsure,
}

impl Ring {
    pub(crate) fn new(most: usize, most_bytes: usize, at: Cursor) -> Self {
        Self { start: 0, slots: VecDeque::new(), bytes: 0, most: most.max(1), most_bytes, at }
    }

    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    pub(crate) fn end(&self) -> u64 {
        self.start + self.slots.len() as u64
    }

    /// The slots from a number on.
    pub(crate) fn from(&self, number: u64) -> impl Iterator<Item = &Slot> {
        let skip = usize::try_from(number.saturating_sub(self.start)).unwrap_or(usize::MAX);
        self.slots.range(skip.min(self.slots.len())..)
    }

    /// The slot after the event that a place is after, if that very event is here.
    pub(crate) fn after(&self, place: Cursor) -> Option<u64> {
        place.nonce?;
        if self.at == place {
            return Some(self.end());
        }
        // What is before a gap may be of another past.
        let mut same_past =
            self.slots.iter().rev().take_while(|slot| matches!(slot, Slot::Event(..)));
        let is_it = |slot: &Slot| matches!(slot, Slot::Event(_, raw) if raw.cursor() == place);
        let back = same_past.position(is_it)?;
        Some(self.end() - back as u64)
    }

    fn push(&mut self, slot: Slot) {
        if let Slot::Event(stored, raw) = &slot {
            self.bytes += stored.envelope.len();
            self.at = raw.cursor();
        }
        self.slots.push_back(slot);
        while self.slots.len() > self.most || self.bytes > self.most_bytes && self.slots.len() > 1 {
            if let Some(Slot::Event(stored, _)) = self.slots.pop_front() {
                self.bytes -= stored.envelope.len();
            }
            self.start += 1;
        }
    }

    fn push_gap(&mut self, gap: Gap) {
        self.at = gap.to;
        self.push(Slot::Gap(gap));
    }

    fn push_event(&mut self, stored: Stored) {
        let raw = RawEvent::new(Cursor::new(stored.id, stored.nonce), &stored.envelope);
        self.push(Slot::Event(stored, raw));
    }

    /// An event was heard.
    pub(crate) fn accept(&mut self, stored: Stored) -> Accepted {
        if follows(self.at.id, &stored) {
            self.push_event(stored);
            return Accepted::New;
        }
        if stored.id > self.at.id {
            return Accepted::Unsure;
        }
        let same = self.slots.iter().rev().find_map(|slot| match slot {
            Slot::Event(known, _) if known.id == stored.id => Some(known.nonce == stored.nonce),
            _ => None,
        });
        // What is older than the ring was known, or will be found by the next look.
        if same.unwrap_or(true) { Accepted::Known } else { Accepted::Unsure }
    }

    /// A page was read from where the ring ends, itself included; whether anything is new.
    pub(crate) fn extend(&mut self, page: Option<Page>) -> bool {
        let mut at = self.at;
        let joined = join(&mut at, page);
        self.at = at;
        let new = joined.gap.is_some() || !joined.events.is_empty();
        if let Some(gap) = joined.gap {
            self.push_gap(gap);
        }
        for event in joined.events {
            if let Some(gap) = hole(self.at, &event) {
                self.push_gap(gap);
            }
            self.push_event(event);
        }
        new
    }

    /// Whether a page that was read from where the ring ends, itself included, is of a server that
    /// went back to before that.
    pub(crate) fn went_back(&self, page: &Page) -> bool {
        let at = self.at;
        page.last < at.id
            || page.events.first().is_some_and(|first| match first.before {
                _ if first.id == at.id => !Cursor::new(first.id, first.nonce).agrees(at),
                Before::Last(before) => before < at.id,
                _ => false,
            })
    }

    /// The oldest event that is here.
    pub(crate) fn oldest(&self) -> Option<Cursor> {
        self.slots.iter().find_map(|slot| match slot {
            Slot::Event(_, raw) => Some(raw.cursor()),
            Slot::Gap(_) => None,
        })
    }

    /// The last of these events up to which all are here, too.
    pub(crate) fn last_common(&self, events: &[Stored]) -> Option<Cursor> {
        let known: std::collections::HashSet<Cursor> = self
            .slots
            .iter()
            .filter_map(|slot| match slot {
                Slot::Event(_, raw) => Some(raw.cursor()),
                Slot::Gap(_) => None,
            })
            .collect();
        let common = events.iter().map(|event| Cursor::new(event.id, event.nonce));
        common.take_while(|cursor| known.contains(cursor)).last()
    }

    /// Goes back to an event after which the server has others.
    pub(crate) fn roll_back(&mut self, to: Cursor) {
        let from = self.at;
        let (lost, reason) = (crate::gap::Lost::AtLeast(0), crate::gap::GapReason::RolledBack);
        self.push_gap(Gap { lost, reason, from, to });
    }
}
