//! From values to bytes and back. It knows nothing of envelopes and compression.

use bytes::Bytes;
use coordinator_core::{Error, Result, codec::Codec};
use serde::{Serialize, de::DeserializeOwned};

/// How values of a type become bytes, and bytes values.
pub(crate) struct Form<T> {
    pub(crate) codec: Codec,
    encode: fn(Codec, &T) -> Result<Bytes>,
    decode: fn(Codec, &Bytes) -> Result<T>,
}

impl<T> Clone for Form<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Form<T> {}

impl<T> std::fmt::Debug for Form<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Form").field(&self.codec).finish()
    }
}

impl<T: Serialize + DeserializeOwned> Form<T> {
    /// As serde has it.
    pub(crate) fn serde() -> Self {
        Self { codec: Codec::MessagePack, encode, decode: |codec, raw| decode(codec, raw) }
    }

    /// The same, as JSON.
    pub(crate) fn json() -> Self {
        Self { codec: Codec::Json, ..Self::serde() }
    }
}

impl Form<Bytes> {
    /// As they are; nothing is copied.
    pub(crate) fn raw() -> Self {
        let encode = |codec: Codec, value: &Bytes| match codec {
            Codec::Raw => Ok(value.clone()),
            _ => Err(Error::misuse("cache.encode", "raw bytes are stored as they are")),
        };
        let decode = |codec: Codec, raw: &Bytes| match codec {
            Codec::Raw => Ok(raw.clone()),
            _ => Err(Error::corrupt("cache.decode", "a value is not raw bytes")),
        };
        Self { codec: Codec::Raw, encode, decode }
    }
}

impl<T> Form<T> {
    pub(crate) fn encode(&self, value: &T) -> Result<Bytes> {
        (self.encode)(self.codec, value)
    }

    /// From what was encoded with this codec.
    pub(crate) fn decode(&self, codec: Codec, raw: &Bytes) -> Result<T> {
        (self.decode)(codec, raw)
    }
}

/// Encodes a value; MessagePack with structs as maps, so that fields may be added.
///
/// # Errors
/// [`Misuse`](coordinator_core::ErrorKind::Misuse) if it cannot be serialized, or raw bytes are
/// asked for: those are no value of serde's.
fn encode<T: Serialize + ?Sized>(codec: Codec, value: &T) -> Result<Bytes> {
    let wrong = |error: &dyn std::fmt::Display| {
        Error::misuse("cache.encode", format!("a value cannot be serialized: {error}"))
    };
    let mut raw = Vec::new();
    match codec {
        Codec::MessagePack => {
            let mut serializer = rmp_serde::Serializer::new(&mut raw).with_struct_map();
            value.serialize(&mut serializer).map_err(|error| wrong(&error))?;
        }
        Codec::Json => serde_json::to_writer(&mut raw, value).map_err(|error| wrong(&error))?,
        _ => return Err(wrong(&"raw bytes are stored as they are")),
    }
    Ok(raw.into())
}

/// Decodes what [`encode`] made.
///
/// # Errors
/// [`Corrupt`](coordinator_core::ErrorKind::Corrupt) if it is of another shape, or raw.
pub(crate) fn decode<T: DeserializeOwned>(codec: Codec, raw: &[u8]) -> Result<T> {
    let wrong = |error: &dyn std::fmt::Display| {
        Error::corrupt("cache.decode", format!("a value has another shape: {error}"))
    };
    match codec {
        Codec::MessagePack => rmp_serde::from_slice(raw).map_err(|error| wrong(&error)),
        Codec::Json => serde_json::from_slice(raw).map_err(|error| wrong(&error)),
        _ => Err(wrong(&"raw bytes have none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator_core::ErrorKind;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Crew {
        id: u64,
        name: String,
        #[serde(default)]
        added: Option<u8>,
    }

    #[test]
    fn values_are_read_back_and_fields_may_be_added() {
        #[derive(Serialize)]
        struct Before {
            name: &'static str,
            id: u64,
        }
        for codec in [Codec::MessagePack, Codec::Json] {
            let crew = Crew { id: 42, name: "é".into(), added: Some(1) };
            let raw = encode(codec, &crew).expect("encoded");
            assert_eq!(decode::<Crew>(codec, &raw).expect("decoded"), crew);
            let raw = encode(codec, &Before { name: "é", id: 42 }).expect("encoded");
            assert_eq!(decode::<Crew>(codec, &raw).expect("decoded"), Crew { added: None, ..crew });
        }
    }

    #[test]
    fn another_shape_is_corrupt_and_raw_bytes_are_none() {
        let corrupt = |codec, raw: &[u8]| {
            decode::<Crew>(codec, raw).expect_err("it is another").kind() == ErrorKind::Corrupt
        };
        assert!(corrupt(Codec::MessagePack, b"\x01") && corrupt(Codec::Json, b"1"));
        assert!(corrupt(Codec::Raw, b"1"));
        let refused = encode(Codec::Raw, "x").expect_err("it is no value");
        assert_eq!(refused.kind(), ErrorKind::Misuse);
    }
}
