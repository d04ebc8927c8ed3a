//! Values and their times, and caches that cannot be.

use super::{SECOND, Stage, brings, text};
use coordinator_cache::{Compression, Entry, LoadError};
use coordinator_core::ErrorKind;
use std::{sync::Arc, time::Duration};

pub(super) async fn what_is_set_is_there_for_its_time_and_no_longer(stage: Stage) {
    let (cache, other) =
        (stage.cache().build().expect("a cache"), stage.other().build().expect("a cache"));
    assert_eq!(text(&cache, "42").await, None);
    cache.set("42", &"night".into()).await.expect("stored");
    assert_eq!(text(&cache, "42").await.as_deref(), Some("night"));
    assert_eq!(text(&other, "42").await.as_deref(), Some("night"));
    other.set_with("42", &"day".into(), Entry::ttl(SECOND * 10)).await.expect("stored");
    assert_eq!(text(&cache, "42").await.as_deref(), Some("day"));
    stage.elapse(SECOND * 9).await;
    assert_eq!(text(&cache, "42").await.as_deref(), Some("day"));
    stage.elapse(SECOND).await;
    assert_eq!(text(&cache, "42").await, None);
    cache.set("42", &"late".into()).await.expect("stored");
    assert!(cache.delete("42").await.expect("an answer"));
    assert!(!cache.delete("42").await.expect("an answer"));
    assert_eq!(text(&other, "42").await, None);
}

pub(super) async fn a_name_of_any_kind_is_a_key_of_its_own(stage: Stage) {
    let cache = stage.cache().build().expect("a cache");
    let long = "x".repeat(512);
    let names = ["a", "a:b", "{a}", "*", "[a]", "a\r\n", "a\0", "é", "🔒", "%", "a%3Ab", &long];
    for name in names {
        cache.set(name, &name.to_owned()).await.expect("stored");
    }
    for name in names {
        assert_eq!(text(&cache, name).await.as_deref(), Some(name));
    }
    for name in ["", &"x".repeat(513)] {
        assert_eq!(cache.get(name).await.expect_err("it cannot be").kind(), ErrorKind::Misuse);
        assert_eq!(
            cache.set(name, &String::new()).await.expect_err("it cannot be").kind(),
            ErrorKind::Misuse
        );
        let load = cache.get_or_load(name, brings("x", &Arc::default())).await;
        assert!(matches!(load, Err(LoadError::Misuse(_))), "{load:?}");
    }
}

pub(super) async fn values_of_another_shape_are_misses(stage: Stage) {
    let old = stage.cache().build().expect("a cache");
    let new = stage.peer.cache::<u64>("crew-config").with_schema(1).build().expect("a cache");
    let same = stage.peer.cache::<u64>("crew-config").build().expect("a cache");
    for cache in [&new, &same] {
        old.set("42", &"night".into()).await.expect("stored");
        assert!(cache.get("42").await.expect("an answer").is_none());
        assert_eq!(cache.stats().unreadable, 1);
        assert_eq!(text(&old, "42").await, None, "it is dropped, so that it is loaded anew");
        let hit = cache.get_or_load("42", |_| async { Ok::<_, String>(7) }).await;
        assert_eq!(*hit.expect("it is loaded"), 7);
        assert_eq!(cache.get("42").await.expect("an answer").map(|hit| *hit), Some(7));
    }
}

pub(super) async fn long_values_are_compressed_and_come_back(stage: Stage) {
    let zstd = stage.cache().with_compression(Compression::zstd()).build().expect("a cache");
    let plain =
        stage.other().with_compression(Compression::none()).with_json().build().expect("a cache");
    for length in [10, 5_000, 200_000] {
        let value = "night shift ".repeat(length / 12);
        zstd.set("42", &value).await.expect("stored");
        assert_eq!(text(&plain, "42").await.as_ref(), Some(&value));
        plain.set("42", &value).await.expect("stored");
        assert_eq!(text(&zstd, "42").await.as_ref(), Some(&value));
    }
    let (few, many) = (zstd.stats(), plain.stats());
    assert!(few.bytes_stored * 10 < few.bytes_in, "{few:?}");
    assert!(many.bytes_stored > many.bytes_in, "{many:?}");
    let long = zstd.set("42", &"x".repeat(17 * 1024 * 1024)).await.expect_err("it is too long");
    assert_eq!(long.kind(), ErrorKind::Misuse);
}

pub(super) async fn caches_that_cannot_be_are_refused(stage: Stage) {
    let bad = [
        stage.cache().with_ttl(Duration::ZERO),
        stage.cache().with_ttl(Duration::from_hours(24 * 1000)),
        stage.cache().with_jitter(1.5),
        stage.cache().with_jitter(f64::NAN),
        stage.cache().with_early_refresh(-1.0),
        stage.cache().with_early_refresh(f64::INFINITY),
        stage.cache().with_lease(Duration::from_millis(1)),
        stage.cache().with_tags([""]),
        stage.cache().with_compression(Compression::zstd().with_level(99)),
        stage.caches.cache(""),
    ];
    for builder in bad {
        let error = builder.build().expect_err("it cannot be");
        assert_eq!(error.kind(), ErrorKind::Misuse, "{}", error.chain());
    }
    let cache = stage.cache().build().expect("a cache");
    let tags = (0..33).map(|tag| tag.to_string());
    let entries = [
        Entry::new().tags(tags),
        Entry::new().tags([""]),
        Entry::ttl(Duration::ZERO),
        Entry::ttl(Duration::MAX).with_stale(Duration::MAX),
        Entry::new().with_stale(Duration::MAX),
    ];
    for entry in entries {
        let error = cache.set_with("42", &String::new(), entry).await.expect_err("it cannot be");
        assert_eq!(error.kind(), ErrorKind::Misuse, "{}", error.chain());
    }
}
