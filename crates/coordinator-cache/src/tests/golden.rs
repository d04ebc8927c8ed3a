//! Envelopes as they were written once and for all: what a format was, it stays.

use super::{meta, name};
use crate::{
    backend::Version,
    compress,
    envelope::{Limits, Meta, Unreadable, open, seal},
};
use bytes::Bytes;
use coordinator_core::codec::Codec;

const LIMITS: Limits = Limits { schema: 7, most: 1000 };

fn plain() -> Meta {
    Meta { codec: Codec::Json, raw_len: 7, ..meta(0x1122_3344_5566_7788) }
}

/// The file, what it says, and its payload as it is stored.
fn all() -> [(&'static [u8], Meta, Vec<u8>); 5] {
    let tags = vec![(name("crew:42"), Version(3)), (name("x"), Version(u64::MAX))];
    let tagged = Meta {
        codec: Codec::MessagePack,
        tags,
        soft_ms: 0,
        load_us: u32::MAX,
        raw_len: 1,
        ..plain()
    };
    let negative = Meta { negative: true, codec: Codec::Raw, raw_len: 0, load_us: 0, ..plain() };
    let zstd = Meta { compressed: true, codec: Codec::Raw, raw_len: 300, ..plain() };
    // A frame of one segment and one raw block: what any compressor might have made.
    let head = [0x28, 0xb5, 0x2f, 0xfd, 0x60, 44, 0, 0x61, 0x09, 0];
    let frame = [head.as_slice(), &b"abc".repeat(100)].concat();
    let dictionary = Meta { compressed: true, dictionary: Some(9), ..plain() };
    [
        (include_bytes!("../../tests/golden/v1-plain.bin"), plain(), b"{\"a\":1}".to_vec()),
        (include_bytes!("../../tests/golden/v1-tagged.bin"), tagged, vec![42]),
        (include_bytes!("../../tests/golden/v1-negative.bin"), negative, Vec::new()),
        (include_bytes!("../../tests/golden/v1-zstd.bin"), zstd, frame),
        (include_bytes!("../../tests/golden/v1-dictionary.bin"), dictionary, vec![0]),
    ]
}

#[test]
fn what_was_written_is_read_and_would_be_written_again() {
    for (file, meta, payload) in all() {
        let opened = open(&Bytes::from_static(file), LIMITS).expect("an envelope");
        assert_eq!((&opened.meta, opened.payload.as_ref()), (&meta, payload.as_slice()));
        assert_eq!(seal(&meta, &payload).expect("sealed").as_ref(), file);
    }
}

#[tokio::test]
async fn payloads_are_as_they_were_before_they_were_compressed() {
    let [plain, _, _, zstd, dictionary] = all();
    for (file, expected) in [
        (plain.0, Ok(b"{\"a\":1}".to_vec())),
        (zstd.0, Ok(b"abc".repeat(100))),
        (dictionary.0, Err(Unreadable::Dictionary)),
    ] {
        let opened = open(&Bytes::from_static(file), LIMITS).expect("an envelope");
        assert_eq!(compress::unpack(&opened).await.map(Vec::from), expected);
    }
}
