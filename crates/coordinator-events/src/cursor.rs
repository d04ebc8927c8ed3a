//! Where an event stands in its scope.

use coordinator_core::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The id of an event in its scope: the epoch in which it was published, and its number in there.
///
/// Numbers of one epoch are dense from 0 on. A scope begins a new, greater epoch whenever what was
/// acknowledged may have been lost: when it begins anew, and when another server reigns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Id {
    pub(crate) epoch: u64,
    pub(crate) number: u64,
}

impl Id {
    /// Before all events.
    pub(crate) const START: Self = Self { epoch: 0, number: 0 };

    pub(crate) fn next(self) -> Self {
        Self { number: self.number.saturating_add(1), ..self }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

impl FromStr for Id {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let number = |text: &str| {
            // What a number is read from is what it is written as.
            let plain = text == "0" || !text.starts_with(['0', '+']);
            text.parse().ok().filter(|_| plain).ok_or(())
        };
        let (epoch, rest) = text.split_once('-').ok_or(())?;
        Ok(Self { epoch: number(epoch)?, number: number(rest)? })
    }
}

/// What tells an event from another that was given the same id after a failover.
pub(crate) type Nonce = [u8; 8];

/// A place in a scope: after an event, or before all of them.
///
/// Its text, such as `1763769600000-42.9f86d081884c7d65`, is opaque, has at most 64 characters
/// (digits, `a-f`, `-` and `.`), and reads back. It names the event by more than its id, so that
/// whoever comes with it after a failover learns whether that event survived. Cursors of one scope
/// are ordered, those of different scopes mean nothing to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cursor {
    pub(crate) id: Id,
    pub(crate) nonce: Option<Nonce>,
}

impl Cursor {
    /// Before all events of a scope.
    pub const START: Self = Self { id: Id::START, nonce: None };

    pub(crate) fn new(id: Id, nonce: Nonce) -> Self {
        Self { id, nonce: Some(nonce) }
    }

    /// Whether both are after the same event, as far as they tell.
    pub(crate) fn agrees(self, other: Self) -> bool {
        let same = |(one, other)| one == other;
        self.id == other.id && self.nonce.zip(other.nonce).is_none_or(same)
    }

    /// The epoch of the event that it is after; 0 before all of them.
    pub fn epoch(&self) -> u64 {
        self.id.epoch
    }

    /// The number of that event in its epoch.
    pub fn number(&self) -> u64 {
        self.id.number
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        match self.nonce {
            Some(nonce) => write!(f, ".{:016x}", u64::from_be_bytes(nonce)),
            None => Ok(()),
        }
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::misuse("events.cursor", "that is no cursor");
        let (id, nonce) = match text.split_once('.') {
            Some((id, nonce)) => (id, Some(nonce)),
            None => (text, None),
        };
        let nonce = match nonce {
            Some(hex) if hex.len() == 16 && !hex.starts_with('+') => {
                Some(u64::from_str_radix(hex, 16).map_err(|_| wrong())?.to_be_bytes())
            }
            Some(_) => return Err(wrong()),
            None => None,
        };
        Ok(Self { id: id.parse().map_err(|()| wrong())?, nonce })
    }
}

impl Serialize for Cursor {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|_| serde::de::Error::custom("that is no cursor"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_nothing_else_does() {
        let cursor =
            Cursor::new(Id { epoch: 1_763_769_600_000, number: 42 }, [0, 1, 2, 3, 4, 5, 6, 255]);
        for cursor in [cursor, Cursor { nonce: None, ..cursor }, Cursor::START] {
            assert_eq!(cursor.to_string().parse::<Cursor>().expect("a cursor"), cursor);
        }
        assert_eq!(cursor.to_string(), "1763769600000-42.00010203040506ff");
        for text in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "1-2-3",
            "1-2.",
            "1-2.0",
            "1-2.00010203040506fg",
            "+1-2",
            "1-+2",
            "01-2",
            "1-02",
            " 1-2",
            "1-2\n",
            "1-2.00010203040506ff0",
            "1-2.+0010203040506ff",
            "18446744073709551616-0",
        ] {
            assert!(text.parse::<Cursor>().is_err(), "{text:?}");
        }
    }
}
