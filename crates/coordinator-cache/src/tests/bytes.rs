//! Envelopes and compression with whatever bytes there may be.

use super::{meta, name, value};
use crate::{
    backend::Version,
    compress::{Compression, unpack},
    envelope::{
        HEAD, Limits, MAGIC, Meta, Opened, SOFT_AT, TAGS_MAX, Unreadable, expired, open, seal,
        version_of,
    },
    payload,
};
use bytes::Bytes;
use coordinator_core::{ErrorKind, codec::Codec};
use coordinator_harness::seed;
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

const LIMITS: Limits = Limits { schema: 7, most: 100_000 };

fn tagged() -> Meta {
    Meta { tags: vec![(name("crew:42"), Version(1)), (name("b"), Version(2))], ..meta(5) }
}

/// The same with its checksum made anew, as of somebody who wrote it so.
fn forged(mut stored: Vec<u8>) -> Bytes {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&stored[..16]);
    hasher.update(&stored[24..48]);
    hasher.update(&stored[52..]);
    let sum = hasher.finalize().to_le_bytes();
    stored[48..52].copy_from_slice(&sum);
    stored.into()
}

fn why(stored: impl Into<Bytes>) -> Unreadable {
    open(&stored.into(), LIMITS).expect_err("it cannot be read")
}

#[test]
fn whatever_cannot_be_read_says_why() {
    let good = seal(&tagged(), b"value").expect("sealed").to_vec();
    let with = |at: usize, byte: u8| {
        let mut stored = good.clone();
        stored[at] = byte;
        forged(stored)
    };
    assert_eq!(open(&with(0, MAGIC), LIMITS).expect("an envelope").meta, tagged());
    assert_eq!(why(with(0, 1)), Unreadable::Magic);
    assert_eq!(why(with(1, 2)), Unreadable::Format);
    assert_eq!(why(with(2, 4)), Unreadable::Codec);
    assert_eq!(why(with(2, 0x21)), Unreadable::Codec);
    assert_eq!(why(with(3, 0x80)), Unreadable::Format);
    assert_eq!(why(with(4, 8)), Unreadable::Schema);
    assert_eq!(why(with(47, 1)), Unreadable::TooLong);
    assert_eq!(why(with(44, 6)), Unreadable::Truncated);
    assert_eq!(why(with(HEAD, u8::try_from(TAGS_MAX + 1).expect("a byte"))), Unreadable::Format);
    assert_eq!(why(with(HEAD, 3)), Unreadable::Truncated);
    assert_eq!(why(with(HEAD + 2, 0xff)), Unreadable::Truncated);
    assert_eq!(why(with(HEAD + 3, b':')), Unreadable::Format);
    assert_eq!(why(with(HEAD + 3, 0xff)), Unreadable::Format);
    let mut flipped = good.clone();
    flipped[20] ^= 1;
    assert!(open(&flipped.clone().into(), LIMITS).is_ok(), "the soft expiry may change");
    for at in (2..SOFT_AT).chain(SOFT_AT + 8..good.len()) {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        assert_eq!(why(flipped), Unreadable::Checksum, "byte {at}");
    }
    for length in 0..good.len() {
        let expected = if length < HEAD { Unreadable::Truncated } else { Unreadable::Checksum };
        assert_eq!(why(good[..length].to_vec()), expected, "{length} bytes");
    }
}

#[test]
fn nothing_is_copied_where_the_payload_is_stored_as_it_is() {
    let stored = value(1);
    let opened = open(&stored, LIMITS).expect("an envelope");
    assert_eq!(opened.payload.as_ptr(), stored[stored.len() - 5..].as_ptr());
}

#[test]
fn a_value_has_so_many_tags_and_no_more() {
    let of = |count: usize| {
        let tags = (0..count).map(|n| (name(&"é".repeat(n + 200)), Version(n as u64)));
        Meta { tags: tags.collect(), ..meta(1) }
    };
    let stored = seal(&of(TAGS_MAX), b"value").expect("sealed");
    assert_eq!(open(&stored, LIMITS).expect("an envelope").meta, of(TAGS_MAX));
    let refused = seal(&of(TAGS_MAX + 1), b"value").expect_err("too many");
    assert_eq!(refused.kind(), ErrorKind::Misuse);
}

#[test]
fn a_version_is_read_where_nothing_else_can_be() {
    let mut stored = value(9).to_vec();
    stored[2] = 0xff;
    assert_eq!(version_of(&stored), Some(Version(9)));
    assert_eq!(version_of(&stored[..HEAD]), Some(Version(9)));
    assert_eq!(version_of(&stored[..HEAD - 1]), None);
    stored[0] = 1;
    assert_eq!((version_of(&stored), version_of(b"")), (None, None));
    assert_eq!(expired(&stored), None);
    let stale = open(&expired(&value(9)).expect("an envelope"), LIMITS).expect("an envelope");
    assert_eq!(stale.meta, Meta { soft_ms: 0, ..meta(9) });
}

/// Good values of several kinds.
async fn good() -> Vec<Vec<u8>> {
    let (payload, compressed) =
        Compression::zstd().pack(b"abcdefgh".repeat(500).into()).await.expect("packed");
    assert!(compressed);
    let text = rmp_serde::to_vec("night shift").expect("encoded");
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short");
    let packs = Meta { compressed, raw_len: 4000, codec: Codec::MessagePack, ..meta(5) };
    let plain = Meta { raw_len: length(&text), codec: Codec::MessagePack, ..tagged() };
    let json = Meta { raw_len: 13, codec: Codec::Json, ..tagged() };
    let none = Meta { negative: true, raw_len: 0, ..meta(6) };
    [
        seal(&packs, &payload),
        seal(&Meta { tags: tagged().tags, ..packs.clone() }, &payload),
        seal(&plain, &text),
        seal(&json, b"\"night shift\""),
        seal(&none, b""),
    ]
    .map(|sealed| sealed.expect("sealed").to_vec())
    .to_vec()
}

/// What a broken store, or somebody who means harm, might make of good values.
fn spoilt(good: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut stored = good[random.random_range(0..good.len())].clone();
    match random.random_range(0..8) {
        0 => stored.truncate(random.random_range(0..stored.len())),
        1 => {
            // A head by chance, of which some would be a good one.
            let length = random.random_range(HEAD..200);
            stored = vec![0; length];
            random.fill_bytes(&mut stored);
            stored[..2].copy_from_slice(&[MAGIC, 1]);
            stored[2] = [1, 2, 3, 0x11, stored[2]][random.random_range(0..5)];
            stored[3] = random.random_range(0..9);
            stored[4..8].copy_from_slice(&LIMITS.schema.to_le_bytes());
            let most = u32::try_from(LIMITS.most + 2).expect("short");
            let raw = if stored[2] & 0x10 == 0 && random.random_bool(0.5) {
                u32::try_from(length - HEAD).expect("short")
            } else {
                random.random_range(0..most)
            };
            stored[44..48].copy_from_slice(&raw.to_le_bytes());
        }
        2 => {
            // The beginning of one and the end of another.
            let other = &good[random.random_range(0..good.len())];
            stored.truncate(random.random_range(0..=stored.len()));
            stored.extend(&other[random.random_range(0..other.len())..]);
        }
        3 => {
            let (at, more) = (random.random_range(0..stored.len()), random.random_range(1..64));
            let mut middle = vec![0; more];
            random.fill_bytes(&mut middle);
            stored.splice(at..at, middle);
        }
        4 => {
            let at = random.random_range(0..stored.len());
            let end = random.random_range(at..=stored.len());
            stored.drain(at..end);
        }
        _ => {}
    }
    for _ in 0..random.random_range(0..4) {
        if !stored.is_empty() {
            let at = random.random_range(0..stored.len());
            stored[at] = if random.random_bool(0.5) {
                stored[at] ^ 1 << random.random_range(0..8)
            } else {
                random.random()
            };
        }
    }
    stored
}

#[tokio::test]
async fn no_bytes_do_more_than_be_a_miss() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let good = good().await;
    let (mut opened, mut unpacked, mut decoded) = (0, 0, 0);
    for _ in 0..100_000 {
        let stored = spoilt(&good, &mut random);
        // Forged half of the time: a checksum keeps nobody out who means it.
        let forge = stored.len() >= HEAD && random.random_bool(0.5);
        // The soft expiry may change.
        let same = |good: &Vec<u8>| {
            good.len() == stored.len()
                && (&good[..SOFT_AT], &good[SOFT_AT + 8..])
                    == (&stored[..SOFT_AT], &stored[SOFT_AT + 8..])
        };
        let is_good = good.iter().any(same);
        let stored = if forge { forged(stored) } else { stored.into() };
        assert_eq!(version_of(&stored).is_some(), stored.len() >= HEAD && stored[0] == MAGIC);
        let Ok(value) = open(&stored, LIMITS) else { continue };
        opened += 1;
        assert!(forge || is_good, "SEED={seed}: past the checksum by chance");
        assert!(value.meta.raw_len as usize <= LIMITS.most, "SEED={seed}");
        assert!(value.meta.tags.len() <= TAGS_MAX, "SEED={seed}");
        let Ok(raw) = unpack(&value).await else { continue };
        assert_eq!(raw.len(), value.meta.raw_len as usize, "SEED={seed}");
        unpacked += 1;
        // Whatever it says, it is a text or an error.
        decoded += u32::from(payload::decode::<String>(value.meta.codec, &raw).is_ok());
        let _ = payload::decode::<Vec<(u64, Option<String>)>>(value.meta.codec, &raw);
    }
    assert!(opened > 5000 && unpacked > 2000 && decoded > 500, "SEED={seed}: {opened} {unpacked}");
}

fn packed(payload: &[u8], length: usize) -> Opened {
    let raw_len = u32::try_from(length).expect("short");
    let meta = Meta { compressed: true, raw_len, codec: Codec::Raw, ..meta(1) };
    Opened { meta, payload: Bytes::copy_from_slice(payload) }
}

#[tokio::test]
async fn values_are_compressed_where_it_is_worth_it() {
    let zstd = Compression::zstd();
    let text = |length: usize| Bytes::from(b"0123456789abcdef".repeat(length / 16));
    for (compression, length, expected) in [
        (zstd.clone(), 1008, false),
        (zstd.clone(), 1024, true),
        (zstd.clone(), 1024 * 1024, true),
        (zstd.clone().with_threshold(2000), 1024, false),
        (zstd.clone().with_min_saving(1.0), 1024, false),
        (Compression::none(), 1024, false),
    ] {
        let raw = text(length);
        let (payload, compressed) = compression.pack(raw.clone()).await.expect("packed");
        assert_eq!(compressed, expected, "{compression:?} {length}");
        if compressed {
            assert!(payload.len() < length / 10);
            let opened = packed(&payload, length);
            assert_eq!(unpack(&opened).await.expect("unpacked"), raw);
        } else {
            assert_eq!(payload, raw);
        }
    }
    let mut noise = vec![0; 4096];
    StdRng::seed_from_u64(1).fill_bytes(&mut noise);
    let (_, compressed) = zstd.pack(noise.into()).await.expect("packed");
    assert!(!compressed, "noise saves nothing");
}

#[tokio::test]
async fn a_value_over_the_cap_is_neither_written_nor_read() {
    let small = Compression::zstd().with_max_value(1000);
    assert!(small.pack(vec![0; 1000].into()).await.is_ok());
    let refused = small.pack(vec![0; 1001].into()).await.expect_err("too long");
    assert_eq!(refused.kind(), ErrorKind::Misuse);
    let refused = Compression::none().with_max_value(1).pack(vec![0; 2].into()).await;
    assert!(refused.is_err());
    // A frame of a few bytes that says, or does not say, that it becomes a MiB.
    let bomb = zstd::bulk::compress(&vec![0; 1024 * 1024], 3).expect("compressed");
    assert!(bomb.len() < 200);
    let lying = packed(&bomb, 1000);
    assert_eq!(unpack(&lying).await, Err(Unreadable::Decompress));
    let silent = {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).expect("an encoder");
        encoder.include_contentsize(false).expect("it is told");
        std::io::Write::write_all(&mut encoder, &vec![0; 1024 * 1024]).expect("written");
        encoder.finish().expect("finished")
    };
    assert!(matches!(zstd::zstd_safe::get_frame_content_size(&silent), Ok(None)));
    assert_eq!(unpack(&packed(&silent, 1000)).await, Err(Unreadable::Decompress));
    assert_eq!(unpack(&packed(&silent, 2_000_000)).await, Err(Unreadable::Decompress));
    let whole = unpack(&packed(&silent, 1024 * 1024)).await.expect("it says the truth");
    assert_eq!(whole.len(), 1024 * 1024);
}

#[test]
fn what_is_out_of_range_is_misuse() {
    let zstd = Compression::zstd;
    zstd().check().expect("the defaults");
    Compression::default().check().expect("the defaults");
    zstd().with_level(22).with_min_saving(0.0).check().expect("in range");
    for wrong in [
        zstd().with_level(0),
        zstd().with_level(23),
        zstd().with_min_saving(1.1),
        zstd().with_min_saving(f64::NAN),
        zstd().with_max_value(0),
        zstd().with_max_value(usize::MAX),
    ] {
        assert_eq!(wrong.check().expect_err("it is wrong").kind(), ErrorKind::Misuse, "{wrong:?}");
    }
    assert_eq!(zstd().with_max_value(5).max_value(), 5);
}
