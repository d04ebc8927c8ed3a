//! Where a stream stands in its scopes: what its ids say, and what whoever resumes comes with.

use coordinator::events::Cursor;
use std::fmt::Write as _;

/// How many scopes a stream has at most: its ids name the place in each.
pub(super) const SCOPES_MAX: usize = 16;
/// The longest id that is read: so many places of the longest cursors.
const ID_MAX: usize = SCOPES_MAX * (16 + 1 + 64 + FINISHED.len() + 1);
/// Behind the place of a scope that is finished.
const FINISHED: &str = ".end";

/// The place in one scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: Cursor,
    /// The client has had the last event there will be.
    pub(super) finished: bool,
}

/// What stands for a scope in the ids of a stream of several (FNV-1a), so that scopes can come and
/// go between two visits of a client.
pub(super) fn mark(scope: &str) -> u64 {
    scope.bytes().fold(0xcbf2_9ce4_8422_2325, |mark, byte| {
        (mark ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// An id. Of one scope it is the cursor; of several each cursor behind its scope's mark. All of it
/// may stand in a URL as it is.
pub(super) fn id(places: &[(u64, Place)]) -> String {
    let mut id = String::with_capacity(places.len() * 56);
    for (mark, place) in places {
        if places.len() > 1 {
            let between = if id.is_empty() { "" } else { "_" };
            // Writing to a String never fails.
            let _ = write!(id, "{between}{mark:016x}_");
        }
        let _ = write!(id, "{}{}", place.at, if place.finished { FINISHED } else { "" });
    }
    id
}

/// What a client came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resume {
    /// Nothing: it was never here.
    Fresh,
    /// Something that is no id of ours.
    Malformed,
    /// The place in the only scope.
    One(Place),
    /// The places in scopes, by their marks.
    Several(Vec<(u64, Place)>),
}

impl Resume {
    pub(super) fn read(id: &str) -> Self {
        if id.is_empty() {
            return Self::Fresh;
        }
        if id.len() > ID_MAX {
            return Self::Malformed;
        }
        let places = if id.contains('_') {
            several(id).map(Self::Several)
        } else {
            place(id).map(Self::One)
        };
        places.unwrap_or(Self::Malformed)
    }

    /// Where it stands in a scope, if it says so.
    pub(super) fn in_scope(&self, scope: &str, alone: bool) -> Option<Place> {
        match self {
            Self::Fresh | Self::Malformed => None,
            Self::One(place) => alone.then_some(*place),
            Self::Several(places) => {
                let mark = mark(scope);
                places.iter().find(|(other, _)| *other == mark).map(|(_, place)| *place)
            }
        }
    }
}

fn place(text: &str) -> Option<Place> {
    let (cursor, finished) = match text.strip_suffix(FINISHED) {
        Some(cursor) => (cursor, true),
        None => (text, false),
    };
    Some(Place { at: cursor.parse().ok()?, finished })
}

fn several(id: &str) -> Option<Vec<(u64, Place)>> {
    let mut places = Vec::new();
    let mut parts = id.split('_');
    while let Some(mark) = parts.next() {
        let hex = mark.len() == 16 && mark.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mark = u64::from_str_radix(mark, 16).ok().filter(|_| hex)?;
        places.push((mark, place(parts.next()?)?));
    }
    (places.len() <= SCOPES_MAX).then_some(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator_harness::rng;
    use rand::RngExt as _;

    fn at(cursor: &str, finished: bool) -> Place {
        Place { at: cursor.parse().expect("a cursor"), finished }
    }

    const LONG: &str = "18446744073709551615-18446744073709551615.ffffffffffffffff";

    #[test]
    fn an_id_reads_back() {
        for finished in [false, true] {
            for cursor in ["0-0", "1763769600000-42.9f86d081884c7d65", LONG] {
                let place = at(cursor, finished);
                let text = id(&[(7, place)]);
                assert_eq!(text, if finished { format!("{cursor}.end") } else { cursor.into() });
                assert_eq!(Resume::read(&text), Resume::One(place));
                let most: Vec<_> = (0..SCOPES_MAX as u64).map(|n| (u64::MAX - n, place)).collect();
                for count in 2..=SCOPES_MAX {
                    let text = id(&most[..count]);
                    assert_eq!(Resume::read(&text), Resume::Several(most[..count].to_vec()));
                    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
                    assert!(text.bytes().all(plain), "{text}");
                }
            }
        }
    }

    #[test]
    fn places_are_found_by_their_scopes() {
        let (one, two) = (at("1-1", false), at("2-2", true));
        let both = Resume::read(&id(&[(mark("crew:1"), one), (mark("crew:2"), two)]));
        assert_eq!(both.in_scope("crew:2", false), Some(two));
        assert_eq!(both.in_scope("crew:1", true), Some(one), "the other was left");
        assert_eq!(both.in_scope("crew:3", false), None);
        assert_eq!(Resume::read("1-1").in_scope("crew:1", true), Some(one));
        assert_eq!(Resume::read("1-1").in_scope("crew:1", false), None, "of which scope?");
    }

    #[test]
    fn what_is_no_id_is_told_from_none() {
        assert_eq!(Resume::read(""), Resume::Fresh);
        let places: Vec<_> = (0..17).map(|n| (n, at("1-1", false))).collect();
        for bad in [
            "x".to_owned(),
            "1".to_owned(),
            "1-".to_owned(),
            "1-1.end.end".to_owned(),
            "_".to_owned(),
            "0000000000000001_".to_owned(),
            "1_1-1".to_owned(),
            "+000000000000001_1-1".to_owned(),
            "0000000000000001_1-1_".to_owned(),
            "1-1 ".to_owned(),
            "é-1".to_owned(),
            id(&places),
            "1".repeat(100_000),
        ] {
            assert_eq!(Resume::read(&bad), Resume::Malformed, "{bad:.40}");
        }
    }

    #[test]
    fn what_is_drawn_reads_back_or_is_refused() {
        let mut rng = rng();
        let alphabet = b"01af-._ned\xc3\xa9";
        for _ in 0..50_000 {
            let length = rng.random_range(0..60);
            let drawn: Vec<u8> =
                (0..length).map(|_| alphabet[rng.random_range(0..alphabet.len())]).collect();
            let text = String::from_utf8_lossy(&drawn);
            match Resume::read(&text) {
                Resume::One(place) => assert_eq!(id(&[(0, place)]), text),
                Resume::Several(places) if places.len() > 1 => assert_eq!(id(&places), text),
                _ => {}
            }
        }
    }
}
