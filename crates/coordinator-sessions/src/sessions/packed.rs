//! A MessagePack map taken apart into its entries, and put together from them, with what is in them
//! left as it is.

use serde::de::{DeserializeOwned, IgnoredAny};

/// The entries of a map whose keys are texts; `None` if it is anything else.
pub(super) fn split(packed: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let (count, mut rest) = head(packed)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let (key, value) = one::<String>(rest)?;
        let (_, after) = one::<IgnoredAny>(value)?;
        entries.push((key, value[..value.len() - after.len()].to_vec()));
        rest = after;
    }
    rest.is_empty().then_some(entries)
}

/// How many entries a map has, and what follows.
fn head(packed: &[u8]) -> Option<(u32, &[u8])> {
    let (first, rest) = packed.split_first()?;
    Some(match first {
        0x80..=0x8f => (u32::from(first & 0x0f), rest),
        0xde => {
            let (count, rest) = rest.split_first_chunk()?;
            (u32::from(u16::from_be_bytes(*count)), rest)
        }
        0xdf => {
            let (count, rest) = rest.split_first_chunk()?;
            (u32::from_be_bytes(*count), rest)
        }
        _ => return None,
    })
}

/// Whether the bytes begin as a map does, which no JSON does.
#[cfg(feature = "redis")]
pub(super) fn is_map(bytes: &[u8]) -> bool {
    head(bytes).is_some()
}

/// Reads one value, and says what follows.
fn one<T: DeserializeOwned>(mut bytes: &[u8]) -> Option<(T, &[u8])> {
    let value = T::deserialize(&mut rmp_serde::Deserializer::new(&mut bytes)).ok()?;
    Some((value, bytes))
}

/// A map of entries, each a key and a value in MessagePack.
pub(super) fn join(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let size = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let mut packed = vec![0xdf];
    packed.extend(size(entries.len()));
    for (key, value) in entries {
        packed.push(0xdb);
        packed.extend(size(key.len()));
        packed.extend(key.as_bytes());
        packed.extend(value);
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_map_is_taken_apart_and_put_together() {
        let long = "x".repeat(70_000);
        let value = json!({"a": 1, "long": long, "deep": {"b": [1, {"c": null}]}, "é": -0.5});
        let entries = split(&rmp_serde::to_vec_named(&value).expect("packs")).expect("a map");
        assert_eq!(entries.len(), 4);
        let deep = entries.iter().find(|(key, _)| key == "deep").expect("an entry");
        let deep: serde_json::Value = rmp_serde::from_slice(&deep.1).expect("unpacks");
        assert_eq!(deep, value["deep"]);
        let joined: serde_json::Value = rmp_serde::from_slice(&join(&entries)).expect("unpacks");
        assert_eq!(joined, value);
        let many: serde_json::Map<_, _> = (0..70_000).map(|n| (n.to_string(), n.into())).collect();
        let entries = split(&rmp_serde::to_vec_named(&many).expect("packs")).expect("a map");
        assert_eq!(entries.len(), 70_000);
    }

    #[test]
    fn bytes_and_extensions_stay_as_they_are() {
        // {"b": bytes 1 2, "t": a timestamp, "n": nil}
        let packed = b"\x83\xa1b\xc4\x02\x01\x02\xa1t\xd6\xff\x00\x00\x00\x01\xa1n\xc0";
        let entries = split(packed).expect("a map");
        assert_eq!(entries[0], ("b".to_owned(), b"\xc4\x02\x01\x02".to_vec()));
        assert_eq!(entries[1], ("t".to_owned(), b"\xd6\xff\x00\x00\x00\x01".to_vec()));
        assert_eq!(entries[2], ("n".to_owned(), b"\xc0".to_vec()));
    }

    #[test]
    fn whatever_is_no_such_map_is_refused() {
        let whole = rmp_serde::to_vec_named(&json!({"a": "text", "b": [1, 2]})).expect("packs");
        for cut in 0..whole.len() {
            assert_eq!(split(&whole[..cut]), None, "cut at {cut}");
        }
        let behind = [&whole[..], b"\xc0"].concat();
        // A number for a key, more entries than there are, text of 4 GB, no map.
        for wrong in [&behind[..], b"\x81\x01\x01", b"\xdf\xff\xff\xff\xff\xa1a\x01"] {
            assert_eq!(split(wrong), None);
        }
        for wrong in
            [&b"\x81\xdb\xff\xff\xff\xffa"[..], b"\x92\x01\x02", b"{\"a\":1}", b"", b"\xc1"]
        {
            assert_eq!(split(wrong), None);
        }
    }
}
