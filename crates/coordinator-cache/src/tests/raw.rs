//! Bytes as they are, beside values.

use super::{key, put, stage::Stage};
use crate::{
    Caches, Compression,
    backend::{Put, Version},
    envelope::{self, Limits},
};
use bytes::Bytes;
use coordinator_core::codec::Codec;

const GOLDEN: &[u8] = include_bytes!("../../tests/golden/v1-raw.bin");

on_every_backend! {
    bytes_are_stored_as_they_are,
    what_was_written_once_is_read,
    values_and_bytes_are_absent_for_each_other,
}

async fn stored(stage: &Stage) -> Bytes {
    stage.backend.get(&key("a")).await.expect("an answer").expect("a value")
}

async fn bytes_are_stored_as_they_are(stage: Stage) {
    let caches = stage.caches();
    let cache = caches.raw("crew").with_schema(7).build().expect("a cache");
    let limits = Limits { schema: 7, most: 1 << 20 };
    for raw in [Bytes::new(), Bytes::from_static(b"\x00\xff\x01message"), vec![7; 500_000].into()] {
        cache.set("a", &raw).await.expect("stored");
        let hit = cache.get("a").await.expect("an answer").expect("a value");
        assert_eq!(*hit, raw);
        let opened = envelope::open(&stored(&stage).await, limits).expect("an envelope");
        assert_eq!((opened.meta.codec, opened.meta.compressed), (Codec::Raw, raw.len() > 1024));
        if !opened.meta.compressed {
            assert_eq!(opened.payload, raw);
        }
    }
    let load = |_| async { Ok::<_, String>(Bytes::from_static(b"loaded")) };
    assert_eq!(cache.get_or_load("b", load).await.expect("it is loaded").as_ref(), b"loaded");
    let plain = caches.raw("crew").with_schema(7).with_compression(Compression::none());
    plain.build().expect("a cache").set("a", &vec![7; 5000].into()).await.expect("stored");
    assert_eq!(stored(&stage).await.len(), envelope::HEAD + 5000);
}

/// The bytes that a raw cache wrote when the format was made, and would write again.
async fn what_was_written_once_is_read(stage: Stage) {
    let cache = stage.caches().raw("crew").with_schema(7).build().expect("a cache");
    let golden = Put { value: Bytes::from_static(GOLDEN), ..put("a", 0) };
    stage.backend.set(&golden).await.expect("stored");
    let hit = cache.get("a").await.expect("an answer").expect("a value");
    assert_eq!(hit.as_ref(), b"\x00\xffraw");
    let limits = Limits { schema: 7, most: 100 };
    let written = envelope::open(&golden.value, limits).expect("an envelope").meta;
    cache.set("a", &hit).await.expect("stored");
    let mut now = envelope::open(&stored(&stage).await, limits).expect("an envelope");
    assert_ne!(now.meta.version, Version(1));
    let moments = (written.version, written.soft_ms, written.hard_ms, written.loaded_ms);
    let meta = &mut now.meta;
    (meta.version, meta.soft_ms, meta.hard_ms, meta.loaded_ms) = moments;
    assert_eq!(envelope::seal(meta, &now.payload).expect("sealed"), golden.value);
}

async fn values_and_bytes_are_absent_for_each_other(stage: Stage) {
    let caches: Caches = stage.caches();
    let raw = caches.raw("crew").build().expect("a cache");
    let texts = caches.cache::<String>("crew").build().expect("a cache");
    let json = caches.cache::<String>("crew").with_json().build().expect("a cache");
    for values in [&texts, &json] {
        values.set("a", &"x".to_owned()).await.expect("stored");
        assert!(raw.get("a").await.expect("an answer").is_none());
        raw.set("a", &Bytes::from_static(b"\"x\"")).await.expect("stored");
        assert!(values.get("a").await.expect("an answer").is_none());
    }
    assert_eq!(raw.stats().unreadable, 2);
}
