//! What a reader missed, and how that is told: the one place that compares ids.
//!
//! Nothing here reads or waits.

use crate::{
    backend::{Before, Page, Stored},
    cursor::{Cursor, Id},
};

/// How many events a reader did not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lost {
    /// So many.
    Exactly(u64),
    /// So many or more: across epochs nobody knows how many there were.
    AtLeast(u64),
}

impl Lost {
    /// The number, which may be a lower bound.
    pub fn count(self) -> u64 {
        match self {
            Self::Exactly(count) | Self::AtLeast(count) => count,
        }
    }

    /// Whether there may be more.
    pub fn is_lower_bound(self) -> bool {
        matches!(self, Self::AtLeast(_))
    }
}

/// Why a reader did not get events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GapReason {
    /// They were kept no longer, or were deleted.
    Trimmed,
    /// The scope went back to an earlier state: events that readers had were lost with a server.
    RolledBack,
    /// The scope was deleted, or expired, and began anew.
    Reset,
    /// This reader was too slow, and wished to go on without them.
    Lagged,
}

impl GapReason {
    /// `trimmed`, `rolled_back`, `reset` or `lagged`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trimmed => "trimmed",
            Self::RolledBack => "rolled_back",
            Self::Reset => "reset",
            Self::Lagged => "lagged",
        }
    }
}

/// Told in place of events that a reader did not get, where they would have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// How many these are.
    pub lost: Lost,
    /// Why.
    pub reason: GapReason,
    /// Up to where the reader had come.
    pub from: Cursor,
    /// After which it goes on; for whoever resumes.
    pub to: Cursor,
}

/// Whether an event comes right after a place, with nothing between.
pub(crate) fn follows(at: Id, event: &Stored) -> bool {
    match event.before {
        Before::Dense => event.id.epoch == at.epoch && at != Id::START && event.id == at.next(),
        Before::Nothing => at == Id::START && event.id.number == 0,
        Before::Last(before) => event.id.number == 0 && before == at,
    }
}

/// What lies between a place and an event that comes later and does not follow it.
fn between(from: Cursor, event: &Stored) -> Gap {
    let at = from.id;
    let to = Cursor { id: behind(event), nonce: None };
    let gap = |lost, reason| Gap { lost, reason, from, to };
    let same = event.id.epoch == at.epoch;
    match event.before {
        Before::Dense if same => gap(
            Lost::Exactly(event.id.number.saturating_sub(at.number.saturating_add(1))),
            GapReason::Trimmed,
        ),
        // The first of that epoch are gone, and with them how it began.
        Before::Dense => gap(Lost::AtLeast(event.id.number), GapReason::Trimmed),
        Before::Nothing => gap(Lost::AtLeast(0), GapReason::Reset),
        Before::Last(before) if before < at => gap(Lost::AtLeast(0), GapReason::RolledBack),
        Before::Last(before) if before.epoch == at.epoch && at != Id::START => {
            gap(Lost::Exactly(before.number - at.number), GapReason::Trimmed)
        }
        Before::Last(before) => {
            gap(Lost::AtLeast(before.number.saturating_add(1)), GapReason::Trimmed)
        }
    }
}

/// The place right before an event, as far as its id tells.
pub(crate) fn behind(event: &Stored) -> Id {
    match event.before {
        Before::Last(before) => before,
        Before::Nothing => Id::START,
        Before::Dense => Id { number: event.id.number.saturating_sub(1), ..event.id },
    }
}

/// How a page that was read from a place, itself included, goes on from there.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    /// What is to be told before the first event.
    pub(crate) gap: Option<Gap>,
    /// The events that come after the place, or after the gap.
    pub(crate) events: Vec<Stored>,
}

/// Joins a page to the place that it was read from.
///
/// After it, `at` is where the reader stands before these events.
pub(crate) fn join(at: &mut Cursor, page: Option<Page>) -> Joined {
    let from = *at;
    let told = |lost, reason, to: Cursor| Some(Gap { lost, reason, from, to });
    let Some(Page { last, mut events }) = page else {
        // Whoever was at no event has lost none that is known of.
        *at = Cursor::START;
        let gap = (from.id != Id::START)
            .then(|| told(Lost::AtLeast(0), GapReason::Reset, Cursor::START))
            .flatten();
        return Joined { gap, events: Vec::new() };
    };
    if events.first().is_some_and(|first| first.id == from.id) && from.id != Id::START {
        if from.nonce.is_none_or(|nonce| nonce == events[0].nonce) {
            let itself = events.remove(0);
            at.nonce = Some(itself.nonce);
            return Joined { gap: None, events };
        }
        // Another event has its id. Which of those before it are others too, nobody here knows.
        let to = Cursor { id: behind(&events[0]), nonce: None };
        *at = to;
        return Joined { gap: told(Lost::AtLeast(0), GapReason::RolledBack, to), events };
    }
    if last < from.id {
        let to = Cursor { id: last, nonce: None };
        *at = to;
        return Joined {
            gap: told(Lost::AtLeast(0), GapReason::RolledBack, to),
            events: Vec::new(),
        };
    }
    let Some(first) = events.first() else {
        // All that came after it is gone.
        let gap = if last == from.id {
            None
        } else if last.epoch == from.id.epoch {
            told(
                Lost::Exactly(last.number - from.id.number),
                GapReason::Trimmed,
                Cursor { id: last, nonce: None },
            )
        } else {
            told(
                Lost::AtLeast(last.number.saturating_add(1)),
                GapReason::Trimmed,
                Cursor { id: last, nonce: None },
            )
        };
        if let Some(gap) = &gap {
            *at = gap.to;
        }
        return Joined { gap, events };
    };
    if follows(from.id, first) {
        return Joined { gap: None, events };
    }
    let gap = between(from, first);
    *at = gap.to;
    Joined { gap: Some(gap), events }
}

/// What is missing between two events of one page.
pub(crate) fn hole(at: Cursor, event: &Stored) -> Option<Gap> {
    (!follows(at.id, event)).then(|| between(at, event))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn id(epoch: u64, number: u64) -> Id {
        Id { epoch, number }
    }

    fn event(epoch: u64, number: u64) -> Stored {
        let nonce = (epoch * 1000 + number).to_be_bytes();
        Stored { id: id(epoch, number), before: Before::Dense, nonce, envelope: Bytes::new() }
    }

    fn first(epoch: u64, before: Option<Id>) -> Stored {
        let before = before.map_or(Before::Nothing, Before::Last);
        Stored { before, ..event(epoch, 0) }
    }

    fn at(epoch: u64, number: u64) -> Cursor {
        let event = event(epoch, number);
        Cursor::new(event.id, event.nonce)
    }

    /// From a place, over the events that are there: what is told, and where it goes on.
    fn joined(mut from: Cursor, last: Id, events: &[Stored]) -> (Option<(Lost, GapReason)>, usize) {
        let page = Page { last, events: events.to_vec() };
        let joined = join(&mut from, Some(page));
        if let (Some(gap), Some(first)) = (&joined.gap, joined.events.first()) {
            assert_eq!(gap.to, from);
            assert!(hole(from, first).is_none() || gap.to.id.number == 0, "it goes on from there");
        }
        (joined.gap.map(|gap| (gap.lost, gap.reason)), joined.events.len())
    }

    #[test]
    fn what_follows_is_told_of_nothing() {
        let itself = [event(1, 4), event(1, 5)];
        assert_eq!(joined(at(1, 4), id(1, 5), &itself), (None, 1));
        assert_eq!(joined(at(1, 5), id(1, 5), &itself[1..]), (None, 0));
        // The event itself is trimmed, and nothing after it.
        assert_eq!(joined(at(1, 4), id(1, 5), &itself[1..]), (None, 1));
        assert_eq!(joined(at(1, 5), id(1, 5), &[]), (None, 0));
        // Into the next epoch.
        let next = [first(2, Some(id(1, 5))), event(2, 1)];
        assert_eq!(joined(at(1, 5), id(2, 1), &next), (None, 2));
        // From before all.
        assert_eq!(joined(Cursor::START, id(1, 0), &[first(1, None)]), (None, 1));
        // A cursor without a nonce is believed.
        let bare = Cursor { nonce: None, ..at(1, 4) };
        assert_eq!(joined(bare, id(1, 5), &itself), (None, 1));
    }

    #[test]
    fn what_was_trimmed_is_counted() {
        let told = |lost| Some((lost, GapReason::Trimmed));
        let rest = [event(1, 9), event(1, 10)];
        assert_eq!(joined(at(1, 4), id(1, 10), &rest), (told(Lost::Exactly(4)), 2));
        assert_eq!(joined(at(1, 4), id(1, 10), &[]), (told(Lost::Exactly(6)), 0));
        // All of the old epoch that is missing, by what its successor knows.
        let next = [first(2, Some(id(1, 10)))];
        assert_eq!(joined(at(1, 4), id(2, 0), &next), (told(Lost::Exactly(6)), 1));
        // Where nobody knows how many the old one had.
        assert_eq!(joined(at(1, 4), id(2, 7), &[event(2, 5)]), (told(Lost::AtLeast(5)), 1));
        assert_eq!(joined(at(1, 4), id(2, 7), &[]), (told(Lost::AtLeast(8)), 0));
        let later = [first(3, Some(id(2, 6)))];
        assert_eq!(joined(at(1, 4), id(3, 0), &later), (told(Lost::AtLeast(7)), 1));
        // From before all.
        assert_eq!(joined(Cursor::START, id(1, 5), &[event(1, 5)]), (told(Lost::AtLeast(5)), 1));
    }

    #[test]
    fn what_went_back_is_told() {
        let told = Some((Lost::AtLeast(0), GapReason::RolledBack));
        // The server knows less than the reader.
        assert_eq!(joined(at(1, 4), id(1, 2), &[]), (told, 0));
        // It knows less, and another epoch began since.
        assert_eq!(joined(at(1, 4), id(2, 0), &[first(2, Some(id(1, 2)))]), (told, 1));
        // Another event has its id.
        let other = Stored { nonce: [9; 8], ..event(1, 4) };
        assert_eq!(joined(at(1, 4), id(1, 4), &[other]), (told, 1));
    }

    #[test]
    fn what_began_anew_is_told() {
        let told = Some((Lost::AtLeast(0), GapReason::Reset));
        assert_eq!(joined(at(1, 4), id(2, 0), &[first(2, None)]), (told, 1));
        let mut from = at(1, 4);
        assert_eq!(join(&mut from, None).gap.map(|gap| gap.reason), Some(GapReason::Reset));
        assert_eq!(from, Cursor::START);
        assert_eq!(join(&mut from, None).gap, None, "it is told once");
    }

    #[test]
    fn numbers_that_nobody_counted_to_are_told_all_the_same() {
        // Of somebody else's making.
        let most = id(9, u64::MAX);
        let told = Some((Lost::AtLeast(u64::MAX), GapReason::Trimmed));
        assert_eq!(joined(at(1, 4), most, &[]), (told, 0));
        assert_eq!(joined(at(1, 4), most, &[first(10, Some(most))]).0, told);
        assert_eq!(
            hole(Cursor { id: most, nonce: None }, &event(9, 5)).map(|gap| gap.lost),
            Some(Lost::Exactly(0))
        );
    }

    #[test]
    fn a_hole_in_a_page_is_counted() {
        let gap = hole(at(1, 4), &event(1, 7)).expect("a gap");
        assert_eq!(
            (gap.lost, gap.reason, gap.to.id),
            (Lost::Exactly(2), GapReason::Trimmed, id(1, 6))
        );
        assert_eq!(hole(at(1, 4), &event(1, 5)), None);
    }
}
