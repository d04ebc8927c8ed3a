//! How values are stored: one byte for the codec, a checksum, and the payload.
//!
//! The codec byte keeps stored text apart from messages and redirections of the protocol; the
//! checksum tells of bits that flipped at rest, which a server loads without a word. It knows
//! nothing of compression or encryption: who adds these adds codecs of its own.

use crate::{Error, Result};
use serde::{Serialize, de::DeserializeOwned};

/// The longest payload that is read or written, in bytes.
pub const PAYLOAD_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Codec byte and checksum.
const HEAD: usize = 5;

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Codec {
    /// MessagePack, structs as maps, so that fields may be added.
    MessagePack,
    /// JSON.
    Json,
    /// Bytes of the caller's own making.
    Raw,
}

impl Codec {
    fn byte(self) -> u8 {
        match self {
            Self::MessagePack => 1,
            Self::Json => 2,
            Self::Raw => 3,
        }
    }

    fn of(byte: u8) -> Option<Self> {
        [Self::MessagePack, Self::Json, Self::Raw].into_iter().find(|codec| codec.byte() == byte)
    }
}

/// Encodes a value.
///
/// ```
/// use coordinator_core::codec::{Codec, decode, encode};
///
/// let stored = encode(Codec::Json, &["a", "b"])?;
/// assert_eq!(decode::<Vec<String>>(&stored)?, ["a", "b"]);
/// # Ok::<(), coordinator_core::Error>(())
/// ```
///
/// # Errors
/// [`Misuse`](crate::ErrorKind::Misuse) if the value cannot be serialized, is longer than
/// [`PAYLOAD_MAX_BYTES`], or if [`Codec::Raw`] is asked for.
pub fn encode<T: Serialize + ?Sized>(codec: Codec, value: &T) -> Result<Vec<u8>> {
    let wrong = |error: &dyn std::fmt::Display| {
        Error::misuse("codec.encode", format!("a value cannot be serialized: {error}"))
    };
    let mut stored = vec![0; HEAD];
    match codec {
        Codec::MessagePack => {
            let mut serializer = rmp_serde::Serializer::new(&mut stored).with_struct_map();
            value.serialize(&mut serializer).map_err(|error| wrong(&error))?;
        }
        Codec::Json => serde_json::to_writer(&mut stored, value).map_err(|error| wrong(&error))?,
        Codec::Raw => return Err(wrong(&"raw bytes are wrapped, not serialized")),
    }
    seal(codec, stored)
}

/// Wraps bytes of the caller's own making.
///
/// # Errors
/// [`Misuse`](crate::ErrorKind::Misuse) if they are longer than [`PAYLOAD_MAX_BYTES`].
pub fn wrap(codec: Codec, payload: &[u8]) -> Result<Vec<u8>> {
    let mut stored = Vec::with_capacity(HEAD + payload.len());
    stored.resize(HEAD, 0);
    stored.extend_from_slice(payload);
    seal(codec, stored)
}

fn seal(codec: Codec, mut stored: Vec<u8>) -> Result<Vec<u8>> {
    let length = stored.len() - HEAD;
    if length > PAYLOAD_MAX_BYTES {
        let why = format!("a value of {length} bytes is longer than {PAYLOAD_MAX_BYTES}");
        return Err(Error::misuse("codec.encode", why));
    }
    stored[0] = codec.byte();
    let sum = checksum(&stored);
    stored[1..HEAD].copy_from_slice(&sum);
    Ok(stored)
}

/// Of the codec byte and the payload.
fn checksum(stored: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&stored[..1]);
    hasher.update(&stored[HEAD..]);
    hasher.finalize().to_be_bytes()
}

/// Takes a stored value apart, its checksum compared.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if it is too short or too long, of an unknown codec, or
/// not what was written.
pub fn unwrap(stored: &[u8]) -> Result<(Codec, &[u8])> {
    let corrupt = |why: &str| Error::corrupt("codec.decode", why);
    if stored.len() < HEAD {
        return Err(corrupt("a stored value is cut short"));
    }
    if stored.len() - HEAD > PAYLOAD_MAX_BYTES {
        return Err(corrupt("a stored value is longer than any that is written"));
    }
    let codec = Codec::of(stored[0]).ok_or_else(|| corrupt("a codec that is not known"))?;
    if stored[1..HEAD] != checksum(stored) {
        return Err(corrupt("a stored value is not what was written"));
    }
    Ok((codec, &stored[HEAD..]))
}

/// Decodes what [`encode`] stored.
///
/// # Errors
/// As [`unwrap`], and [`Corrupt`](crate::ErrorKind::Corrupt) if it is of another shape or raw.
pub fn decode<T: DeserializeOwned>(stored: &[u8]) -> Result<T> {
    let corrupt = |why: String| Error::corrupt("codec.decode", why);
    match unwrap(stored)? {
        (Codec::MessagePack, payload) => rmp_serde::from_slice(payload)
            .map_err(|error| corrupt(format!("a stored value has another shape: {error}"))),
        (Codec::Json, payload) => serde_json::from_slice(payload)
            .map_err(|error| corrupt(format!("a stored value has another shape: {error}"))),
        (Codec::Raw, _) => Err(corrupt("raw bytes have no shape".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Cart {
        items: Vec<u32>,
    }

    #[test]
    fn values_come_back_in_every_codec_and_begin_with_its_byte() {
        for (codec, byte) in [(Codec::MessagePack, 1), (Codec::Json, 2)] {
            let cart = Cart { items: vec![1, 2] };
            let stored = encode(codec, &cart).expect("encodes");
            assert_eq!(stored[0], byte);
            assert_eq!(decode::<Cart>(&stored).expect("decodes"), cart);
        }
        let raw = wrap(Codec::Raw, b"message").expect("wraps");
        assert_eq!(unwrap(&raw).expect("unwraps"), (Codec::Raw, &b"message"[..]));
    }

    #[test]
    fn stored_bytes_never_change() {
        // Fixed for ever: what an older version wrote must be read.
        let stored = encode(Codec::MessagePack, &Cart { items: vec![7] }).expect("encodes");
        assert_eq!(stored, b"\x01)A\x97_\x81\xa5items\x91\x07");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let stored = encode(Codec::Json, &Cart { items: vec![1, 2, 3] }).expect("encodes");
        for at in 0..stored.len() {
            for bit in 0..8 {
                let mut flipped = stored.clone();
                flipped[at] ^= 1 << bit;
                let error = decode::<Cart>(&flipped).expect_err("a flipped bit");
                assert_eq!(error.kind(), ErrorKind::Corrupt);
            }
            assert!(unwrap(&stored[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_stored() {
        let error = wrap(Codec::Raw, &vec![0; PAYLOAD_MAX_BYTES + 1]).expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::Misuse);
    }
}
