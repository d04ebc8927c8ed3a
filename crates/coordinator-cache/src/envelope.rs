//! How a value is stored: a head of fixed length, little endian, then tags and payload. It reads
//! and writes bytes and nothing else: what a payload means, and whether it is compressed, is told
//! here and done elsewhere.
//!
//! ```text
//! 0 magic, 1 format, 2 codec (low half) and compression (high half), 3 flags, 4 schema u32,
//! 8 version u64, 16 soft expiry in ms u64, 24 hard expiry in ms u64, 32 loaded at in ms u64,
//! 40 load time in µs u32, 44 raw length u32, 48 CRC-32 of all but the soft expiry and itself,
//! 52 end of the head; dictionary u32 if flagged; if flagged a count u8, and per tag the length of
//! its encoded name u16, the name, its version u64; payload
//! ```

use crate::backend::{Tag, Version};
use bytes::Bytes;
use coordinator_core::{Error, Result, codec::Codec, key::Name};
use std::fmt;

/// The first byte; core's own codecs are 1 to 3, and no stored value begins with 32 or more.
pub(crate) const MAGIC: u8 = 12;
/// Where the version stands, in every format.
pub(crate) const VERSION_AT: usize = 8;
/// Where the soft expiry stands, in every format.
pub(crate) const SOFT_AT: usize = 16;
/// How long the head is, at least, in every format.
pub(crate) const HEAD: usize = 52;
/// How many tags a value has at most.
pub(crate) const TAGS_MAX: usize = 32;
/// How many bytes tell a value from another, with its length.
pub(crate) const SEAL: usize = 64;

const FORMAT: u8 = 1;
const SUM_AT: usize = 48;
const NEGATIVE: u8 = 1;
const TAGGED: u8 = 2;
const DICTIONARY: u8 = 4;
const CODECS: [(Codec, u8); 3] = [(Codec::MessagePack, 1), (Codec::Json, 2), (Codec::Raw, 3)];

/// What is said of a value beside its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    /// There is nothing, and that is known.
    pub(crate) negative: bool,
    pub(crate) codec: Codec,
    /// Whether the payload is compressed, with zstd.
    pub(crate) compressed: bool,
    /// Of which schema the payload is.
    pub(crate) schema: u32,
    pub(crate) version: Version,
    /// From when on it is stale, by the backend's time in ms; 0 for long ago.
    pub(crate) soft_ms: u64,
    /// From when on it is given to nobody, by the backend's time in ms.
    pub(crate) hard_ms: u64,
    /// When its loader began, by the backend's time in ms.
    pub(crate) loaded_ms: u64,
    /// How long its loader took, in µs, as far as that fits.
    pub(crate) load_us: u32,
    /// The length of the payload where it is not compressed.
    pub(crate) raw_len: u32,
    /// With which dictionary it was compressed.
    pub(crate) dictionary: Option<u32>,
    /// The versions of its tags before its loader began.
    pub(crate) tags: Vec<(Tag, Version)>,
}

/// A value that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) meta: Meta,
    /// As it is stored, perhaps compressed; shares the memory of what was opened.
    pub(crate) payload: Bytes,
}

/// What is taken for a value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) schema: u32,
    /// The longest payload where it is not compressed, in bytes.
    pub(crate) most: usize,
}

/// Why a value cannot be read; it is a miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Unreadable {
    /// It ends before what it says that it holds.
    Truncated,
    /// It is no envelope.
    Magic,
    /// It is of a format that is not known, perhaps a newer one.
    Format,
    /// Its codec or its compression is not known.
    Codec,
    /// Its schema is another one.
    Schema,
    /// Its dictionary is not known.
    Dictionary,
    /// It is not what was written.
    Checksum,
    /// Its payload is longer than is read.
    TooLong,
    /// Its payload does not decompress to what it says.
    Decompress,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "it is cut short",
            Self::Magic => "it is no envelope",
            Self::Format => "it is of an unknown format",
            Self::Codec => "its codec is not known",
            Self::Schema => "its schema is another one",
            Self::Dictionary => "its dictionary is not known",
            Self::Checksum => "it is not what was written",
            Self::TooLong => "it is longer than is read",
            Self::Decompress => "it does not decompress to what it says",
        })
    }
}

impl std::error::Error for Unreadable {}

/// Puts an envelope around a payload.
///
/// # Errors
/// [`Misuse`](coordinator_core::ErrorKind::Misuse) with more than [`TAGS_MAX`] tags.
pub(crate) fn seal(meta: &Meta, payload: &[u8]) -> Result<Bytes> {
    let codec = CODECS.iter().find(|(codec, _)| *codec == meta.codec);
    let codec = codec.ok_or_else(|| Error::misuse("cache.seal", "a codec that is not known"))?.1;
    let count = u8::try_from(meta.tags.len()).ok().filter(|&n| usize::from(n) <= TAGS_MAX);
    let count = count.ok_or_else(|| {
        Error::misuse("cache.seal", format!("a value has at most {TAGS_MAX} tags"))
    })?;
    let of_tags: usize = meta.tags.iter().map(|(tag, _)| 10 + tag.encoded().len()).sum();
    let mut stored = Vec::with_capacity(HEAD + 5 + of_tags + payload.len());
    let flags = u8::from(meta.negative) * NEGATIVE
        + u8::from(count > 0) * TAGGED
        + u8::from(meta.dictionary.is_some()) * DICTIONARY;
    stored.extend([MAGIC, FORMAT, codec | u8::from(meta.compressed) << 4, flags]);
    stored.extend(meta.schema.to_le_bytes());
    stored.extend(meta.version.0.to_le_bytes());
    stored.extend(meta.soft_ms.to_le_bytes());
    stored.extend(meta.hard_ms.to_le_bytes());
    stored.extend(meta.loaded_ms.to_le_bytes());
    stored.extend(meta.load_us.to_le_bytes());
    stored.extend(meta.raw_len.to_le_bytes());
    stored.extend([0; 4]);
    if let Some(dictionary) = meta.dictionary {
        stored.extend(dictionary.to_le_bytes());
    }
    if count > 0 {
        stored.push(count);
    }
    for (tag, version) in &meta.tags {
        let name = tag.encoded().as_bytes();
        let length = u16::try_from(name.len()).expect("a name of 512 bytes encodes to 1536");
        stored.extend(length.to_le_bytes());
        stored.extend(name);
        stored.extend(version.0.to_le_bytes());
    }
    stored.extend(payload);
    let sum = checksum(&stored).to_le_bytes();
    stored[SUM_AT..HEAD].copy_from_slice(&sum);
    Ok(stored.into())
}

fn checksum(stored: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&stored[..SOFT_AT]);
    hasher.update(&stored[SOFT_AT + 8..SUM_AT]);
    hasher.update(&stored[HEAD..]);
    hasher.finalize()
}

/// Reads field by field.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Unreadable::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, Unreadable> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn short(&mut self) -> Result<u16, Unreadable> {
        self.take().map(u16::from_le_bytes)
    }

    fn int(&mut self) -> Result<u32, Unreadable> {
        self.take().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Result<u64, Unreadable> {
        self.take().map(u64::from_le_bytes)
    }

    fn tag(&mut self) -> Result<(Tag, Version), Unreadable> {
        let length = usize::from(self.short()?);
        let (name, rest) = self.rest.split_at_checked(length).ok_or(Unreadable::Truncated)?;
        self.rest = rest;
        let name = std::str::from_utf8(name).map_err(|_| Unreadable::Format)?;
        let name = Name::decode(name).map_err(|_| Unreadable::Format)?;
        Ok((name, Version(self.long()?)))
    }
}

/// Takes a stored value apart, without a copy of its payload.
///
/// # Errors
/// Why it is to be taken for a miss.
pub(crate) fn open(stored: &Bytes, limits: Limits) -> Result<Opened, Unreadable> {
    let mut cursor = Cursor { rest: stored };
    if cursor.byte()? != MAGIC {
        return Err(Unreadable::Magic);
    }
    if cursor.byte()? != FORMAT {
        return Err(Unreadable::Format);
    }
    if stored.len() < HEAD {
        return Err(Unreadable::Truncated);
    }
    if stored[SUM_AT..HEAD] != checksum(stored).to_le_bytes() {
        return Err(Unreadable::Checksum);
    }
    let (how, flags) = (cursor.byte()?, cursor.byte()?);
    let codec = CODECS.iter().find(|(_, byte)| *byte == how & 0xf).map(|(codec, _)| *codec);
    let (Some(codec), 0 | 1) = (codec, how >> 4) else { return Err(Unreadable::Codec) };
    if flags & !(NEGATIVE | TAGGED | DICTIONARY) != 0 {
        return Err(Unreadable::Format);
    }
    let mut meta = Meta {
        negative: flags & NEGATIVE != 0,
        codec,
        compressed: how >> 4 == 1,
        schema: cursor.int()?,
        version: Version(cursor.long()?),
        soft_ms: cursor.long()?,
        hard_ms: cursor.long()?,
        loaded_ms: cursor.long()?,
        load_us: cursor.int()?,
        raw_len: cursor.int()?,
        dictionary: None,
        tags: Vec::new(),
    };
    if meta.schema != limits.schema {
        return Err(Unreadable::Schema);
    }
    if meta.raw_len as usize > limits.most {
        return Err(Unreadable::TooLong);
    }
    cursor.int()?;
    if flags & DICTIONARY != 0 {
        meta.dictionary = Some(cursor.int()?);
    }
    if flags & TAGGED != 0 {
        let count = usize::from(cursor.byte()?);
        if count > TAGS_MAX {
            return Err(Unreadable::Format);
        }
        meta.tags = (0..count).map(|_| cursor.tag()).collect::<Result<_, _>>()?;
    }
    let payload = stored.slice(stored.len() - cursor.rest.len()..);
    if !meta.compressed && payload.len() != meta.raw_len as usize {
        return Err(Unreadable::Truncated);
    }
    Ok(Opened { meta, payload })
}

/// The version of a value, read as scripts read it, whatever else of it can be read; none if it is
/// no envelope of any format.
pub(crate) fn version_of(stored: &[u8]) -> Option<Version> {
    let version = stored.get(VERSION_AT..VERSION_AT + 8)?;
    let sound = stored.len() >= HEAD && stored[0] == MAGIC;
    sound.then(|| Version(u64::from_le_bytes(version.try_into().expect("it has 8 bytes"))))
}

/// The same value, stale; none if it is no envelope of any format.
pub(crate) fn expired(stored: &[u8]) -> Option<Bytes> {
    version_of(stored)?;
    let mut stale = stored.to_vec();
    stale[SOFT_AT..SOFT_AT + 8].fill(0);
    Some(stale.into())
}
