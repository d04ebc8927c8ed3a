//! Names and keys: one injective encoding, shard tags, a length bound and a layout version.
//!
//! It knows nothing of any part: a part says which kinds of keys it has.

use crate::{Error, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::{borrow::Cow, fmt, sync::Arc};

/// The version of the key layout, part of every key: two layouts never share a key.
pub const LAYOUT: u32 = 1;

/// The longest name in bytes of UTF-8.
pub const NAME_MAX_BYTES: usize = 512;

/// The longest prefix in bytes.
pub const PREFIX_MAX_BYTES: usize = 64;

/// What stays as it is in a key; everything else becomes `%XX`, `%` too, so the encoding is
/// injective and no name can hold a separator, a hash tag, a glob character or a control byte.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The name of a thing that instances share: what the caller says, checked and encoded once.
///
/// Any text of 1 to [`NAME_MAX_BYTES`] bytes is a name, braces, colons, control characters and
/// emoji included; two different texts never share a key.
///
/// ```
/// use coordinator_core::key::Name;
///
/// let name = Name::new("invoice:{42}")?;
/// assert_eq!(name.as_str(), "invoice:{42}");
/// assert_eq!(name.encoded(), "invoice%3A%7B42%7D");
/// assert!(Name::new("").is_err());
/// # Ok::<(), coordinator_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    raw: Arc<str>,
    encoded: Arc<str>,
}

impl Name {
    /// Checks and encodes a name.
    ///
    /// # Errors
    /// [`Misuse`](crate::ErrorKind::Misuse) if it is empty or longer than [`NAME_MAX_BYTES`].
    pub fn new(raw: &str) -> Result<Self> {
        if raw.is_empty() {
            return Err(Error::misuse("name", "a name may not be empty"));
        }
        if raw.len() > NAME_MAX_BYTES {
            return Err(Error::misuse(
                "name",
                format!("a name of {} bytes is longer than {NAME_MAX_BYTES}", raw.len()),
            ));
        }
        let encoded = encode(raw);
        let name: Arc<str> = raw.into();
        let encoded = if encoded == raw { name.clone() } else { encoded.as_ref().into() };
        Ok(Self { raw: name, encoded })
    }

    /// A name made of a fixed kind and parts, joined by colons, as in `crew:42:plan`.
    ///
    /// `:` and `%` inside a part are written `%3A` and `%25`, so `("a:b", "c")` and `("a", "b:c")`
    /// are two names.
    ///
    /// # Errors
    /// [`Misuse`](crate::ErrorKind::Misuse) if a part is empty or the whole is too long.
    pub fn composed(kind: &str, parts: &[&str]) -> Result<Self> {
        let mut raw = String::from(kind);
        for part in parts {
            if part.is_empty() {
                return Err(Error::misuse("name", format!("a part of a {kind} name is empty")));
            }
            raw.push(':');
            raw.push_str(&part.replace('%', "%25").replace(':', "%3A"));
        }
        Self::new(&raw)
    }

    /// Reads back a name from its encoded form, as found in a key or an index.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if no name encodes to it.
    pub fn decode(encoded: &str) -> Result<Self> {
        let corrupt = || Error::corrupt("name", "an encoded name cannot be read");
        let raw = percent_decode_str(encoded).decode_utf8().map_err(|_| corrupt())?;
        let name = Self::new(&raw).map_err(|_| corrupt())?;
        if &*name.encoded == encoded { Ok(name) } else { Err(corrupt()) }
    }

    /// The name as the caller wrote it.
    pub fn as_str(&self) -> &str {
        &self.raw
    }

    /// The name as it stands in keys: letters, digits, `-_.~` and `%XX`.
    pub fn encoded(&self) -> &str {
        &self.encoded
    }

    /// Which of `shards` this name belongs to, the same for ever and on every machine (FNV-1a).
    ///
    /// # Panics
    /// If `shards` is zero.
    pub fn shard(&self, shards: u16) -> u16 {
        let hash = self.raw.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        // The high half is folded in: FNV's low bits alone mix little.
        u16::try_from((hash ^ (hash >> 32)) % u64::from(shards)).expect("less than a u16")
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.raw)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.raw)
    }
}

/// Without an allocation where nothing needs encoding.
fn encode(raw: &str) -> Cow<'_, str> {
    utf8_percent_encode(raw, ENCODED).into()
}

/// All keys of one application: `<prefix>:<layout>:` stands before each.
#[derive(Clone, PartialEq, Eq)]
pub struct Keyspace {
    base: Arc<str>,
    prefix_len: usize,
}

impl Keyspace {
    /// The keyspace of `prefix`; a colon at its end is dropped.
    ///
    /// # Errors
    /// [`Misuse`](crate::ErrorKind::Misuse) unless the prefix is 1 to [`PREFIX_MAX_BYTES`] ASCII
    /// letters, digits or `-_.:`. It stands unencoded in access rules (`~prefix:*`), so nothing
    /// that a pattern or a hash tag gives a meaning to may be in it.
    pub fn new(prefix: &str) -> Result<Self> {
        let prefix = prefix.strip_suffix(':').unwrap_or(prefix);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        if prefix.is_empty() || prefix.len() > PREFIX_MAX_BYTES || !prefix.bytes().all(plain) {
            return Err(Error::misuse(
                "prefix",
                format!("a prefix is 1 to {PREFIX_MAX_BYTES} ASCII letters, digits or -_.:"),
            ));
        }
        Ok(Self { base: format!("{prefix}:{LAYOUT}:").into(), prefix_len: prefix.len() })
    }

    /// The prefix alone.
    pub fn prefix(&self) -> &str {
        &self.base[..self.prefix_len]
    }

    /// The keys of one shard of one part: they share the hash tag `{<part><shard>}`, so a cluster
    /// keeps them in one slot and a script may touch several at once.
    ///
    /// ```
    /// use coordinator_core::key::Keyspace;
    ///
    /// let shard = Keyspace::new("shop")?.shard("l", 17);
    /// assert_eq!(shard.key("held", ""), "shop:1:{l17}:held");
    /// assert_eq!(shard.key("lock", "invoice%3A42"), "shop:1:{l17}:lock:invoice%3A42");
    /// # Ok::<(), coordinator_core::Error>(())
    /// ```
    pub fn shard(&self, part: &str, shard: u16) -> Shard {
        Shard { base: format!("{}{{{part}{shard}}}:", self.base).into() }
    }
}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyspace({})", self.prefix())
    }
}

/// The keys of one shard of one part, from [`Keyspace::shard`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    base: Arc<str>,
}

impl Shard {
    /// The key of a kind and an encoded name; an empty name gives the shard's single key of that
    /// kind.
    pub fn key(&self, kind: &str, encoded: &str) -> String {
        let mut key = String::with_capacity(self.base.len() + kind.len() + 1 + encoded.len());
        key.push_str(&self.base);
        key.push_str(kind);
        if !encoded.is_empty() {
            key.push(':');
            key.push_str(encoded);
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn hostile_names_are_accepted_and_never_collide() {
        let names = [
            "a", "a:b", "a%3Ab", "a%253Ab", "{a}", "}", "{", "*", "[a]", "a\r", "a\n", "a\0", "é",
            "🔒", "%", " ", "a b", "A", "a.b", "a-b", "a_b", "a~b", "\u{202e}",
        ];
        let mut seen = HashSet::new();
        for raw in names {
            let name = Name::new(raw).expect("a name");
            assert!(seen.insert(name.encoded().to_owned()), "{raw:?} collides");
            assert!(
                name.encoded().bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~%".contains(&b))
            );
            assert_eq!(Name::decode(name.encoded()).expect("reads back"), name);
        }
    }

    #[test]
    fn empty_and_oversized_names_are_refused() {
        assert!(Name::new("").is_err());
        assert!(Name::new(&"x".repeat(NAME_MAX_BYTES)).is_ok());
        assert!(Name::new(&"x".repeat(NAME_MAX_BYTES + 1)).is_err());
        assert!(Name::new(&"x".repeat(64 * 1024)).is_err());
        assert!(Name::composed("crew", &["", "x"]).is_err());
    }

    #[test]
    fn composed_parts_stay_apart() {
        let one = Name::composed("crew", &["a:b", "c"]).expect("a name");
        let other = Name::composed("crew", &["a", "b:c"]).expect("a name");
        let third = Name::composed("crew", &["a%3Ab", "c"]).expect("a name");
        assert_ne!(one, other);
        assert_ne!(one, third);
        let plain = Name::composed("crew", &["42", "plan"]).expect("a name");
        assert_eq!(plain.as_str(), "crew:42:plan");
    }

    #[test]
    fn foreign_encodings_are_refused() {
        for encoded in ["", "a:b", "%3a", "%zz", "%ff", "a%41"] {
            assert!(Name::decode(encoded).is_err(), "{encoded:?}");
        }
    }

    #[test]
    fn shards_never_move() {
        let shard = |raw: &str| Name::new(raw).expect("a name").shard(64);
        // Fixed for ever: a change here moves every lock of every user.
        assert_eq!([shard("a"), shard("invoice:42"), shard("🔒")], [0, 61, 2]);
        let used: HashSet<_> = (0..1000).map(|n| shard(&format!("name-{n}"))).collect();
        assert_eq!(used.len(), 64, "a thousand names should use every shard");
    }

    #[test]
    fn prefixes_are_plain() {
        for bad in ["", ":", "a{b}", "a*", "a b", "é", "a\n"] {
            assert!(Keyspace::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Keyspace::new("app:").expect("a prefix").prefix(), "app");
        assert_eq!(Keyspace::new("a:b").expect("a prefix").prefix(), "a:b");
    }
}
