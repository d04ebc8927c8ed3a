//! That nothing is given past its grace, whenever that ends and whoever kept it.

use super::{key, planted::Planted, put, stage::Stage};
use crate::{
    Cache, CacheBuilder, Caches, Entry, Hit, LoadError, Near,
    backend::Put,
    envelope::{self, Meta},
};
use coordinator_core::{Error, codec::Codec};
use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::Notify, task::JoinHandle};

const SECOND: Duration = Duration::from_secs(1);

on_every_backend! {
    a_load_that_fails_after_the_grace_brings_nothing_stale,
    a_loader_is_not_shown_what_is_past_its_grace,
    whoever_waits_no_longer_gets_nothing_past_its_grace,
    several_keys_get_nothing_past_their_grace,
    what_is_kept_near_has_the_grace_of_its_entry,
    what_a_server_keeps_for_longer_is_not_given,
}

fn cache(caches: &Caches) -> CacheBuilder<String> {
    caches.cache("crew").with_early_refresh(0.0).with_ttl(SECOND * 60).with_stale(SECOND * 10)
}

/// A loader that waits to be let go on.
#[derive(Default)]
struct Held {
    begun: Notify,
    go_on: Notify,
}

impl Held {
    fn load(
        self: &Arc<Self>,
        cache: &Cache<String>,
        brings: Result<&'static str, &'static str>,
    ) -> JoinHandle<Result<Hit<String>, LoadError>> {
        let (held, cache) = (self.clone(), cache.clone());
        #[expect(clippy::disallowed_methods, reason = "a test has tasks of its own")]
        tokio::spawn(async move {
            let load = move |_| async move {
                held.begun.notify_one();
                held.go_on.notified().await;
                brings.map(str::to_owned)
            };
            cache.get_or_load("a", load).await
        })
    }
}

async fn a_load_that_fails_after_the_grace_brings_nothing_stale(mut stage: Stage) {
    let cache = cache(&stage.caches()).with_throttle(Duration::ZERO).build().expect("a cache");
    for (passes, given) in [(9000, Some("old")), (10_001, None)] {
        cache.set("a", &"old".to_owned()).await.expect("stored");
        stage.elapse(60_000).await;
        let held = Arc::new(Held::default());
        let loading = held.load(&cache, Err("away"));
        held.begun.notified().await;
        stage.elapse(passes).await;
        held.go_on.notify_one();
        let outcome = loading.await.expect("no panic");
        let stale = outcome.as_ref().ok().map(|hit| (hit.as_str(), hit.is_stale()));
        assert_eq!(stale, given.map(|given| (given, true)), "after {passes} ms");
    }
}

async fn a_loader_is_not_shown_what_is_past_its_grace(mut stage: Stage) {
    let cache = cache(&stage.caches()).build().expect("a cache");
    let other = super::token(9);
    cache.set("a", &"old".to_owned()).await.expect("stored");
    stage.elapse(60_000).await;
    let seen = stage.backend.get(&key("a")).await.expect("an answer").expect("a value");
    let seen = envelope::version_of(&seen);
    // Another instance loads it, and dies of it.
    stage.backend.claim(&key("a"), other, seen, 10_001).await.expect("an answer");
    let (shown, ours) = (Arc::new(Notify::new()), cache.clone());
    let told = shown.clone();
    #[expect(clippy::disallowed_methods, reason = "a test has tasks of its own")]
    let loading = tokio::spawn(async move {
        let load = |loading: crate::Loading<String>| async move {
            if loading.stale().is_some() {
                told.notify_one();
            }
            Ok::<_, Error>("new".to_owned())
        };
        ours.get_or_load("a", load).await
    });
    coordinator_harness::eventually(SECOND * 20, "it waits", async || cache.stats().waits > 0)
        .await;
    stage.elapse(10_002).await;
    let loaded = loading.await.expect("no panic").expect("it is loaded");
    assert_eq!((loaded.as_str(), loaded.is_stale()), ("new", false));
    let told = tokio::time::timeout(Duration::ZERO, shown.notified()).await;
    assert!(told.is_err(), "it was shown");
}

async fn whoever_waits_no_longer_gets_nothing_past_its_grace(mut stage: Stage) {
    let cache = cache(&stage.caches()).with_soft_timeout(SECOND * 5).build().expect("a cache");
    for (passes, given) in [(2000, "old"), (7000, "new")] {
        cache.set_with("a", &"old".to_owned(), Entry::ttl(SECOND)).await.expect("stored");
        stage.elapse(passes).await;
        let held = Arc::new(Held::default());
        let loading = held.load(&cache, Ok("new"));
        held.begun.notified().await;
        // By the end of the soft timeout.
        stage.elapse(5000).await;
        if given == "new" {
            held.go_on.notify_one();
        }
        let hit = loading.await.expect("no panic").expect("a value");
        assert_eq!((hit.as_str(), hit.is_stale()), (given, given == "old"), "{passes}");
        held.go_on.notify_one();
        cache.delete("a").await.expect("an answer");
    }
}

async fn several_keys_get_nothing_past_their_grace(mut stage: Stage) {
    let cache = cache(&stage.caches()).build().expect("a cache");
    for (passes, given) in [(9000, 1), (10_001, 0)] {
        cache.set("a", &"old".to_owned()).await.expect("stored");
        stage.elapse(60_000).await;
        let stage = &mut stage;
        let load = async |_: Vec<String>| {
            stage.elapse(passes).await;
            Err::<HashMap<String, String>, _>("away")
        };
        let hits = cache.get_or_load_many(&["a"], load).await;
        assert_eq!(hits.map_or(0, |hits| hits.len()), given, "after {passes} ms");
    }
}

async fn what_is_kept_near_has_the_grace_of_its_entry(mut stage: Stage) {
    let planted = Planted::new(stage.backend.clone());
    let caches = Caches::over(planted.clone());
    let cache = cache(&caches).with_near(Near::entries(10)).build().expect("a cache");
    for (grace, given) in [(5, [true, false, false]), (15, [true, true, false])] {
        let entry = Entry::new().with_stale(SECOND * grace);
        cache.set_with("a", &"old".to_owned(), entry).await.expect("stored");
        coordinator_harness::eventually(SECOND * 20, "it is kept near", async || {
            let before = cache.stats().near_hits;
            cache.get("a").await.expect("an answer").is_some() && cache.stats().near_hits > before
        })
        .await;
        planted.away.store(true, Ordering::SeqCst);
        for (passes, given) in [64_000, 10_000, 2000].into_iter().zip(given) {
            stage.elapse(passes).await;
            let hit = cache.get("a").await.ok().flatten();
            assert_eq!(hit.is_some_and(|hit| hit.is_stale()), given, "{grace} {passes}");
            let load = |_| async { Err::<String, _>("away") };
            assert_eq!(cache.get_or_load("a", load).await.is_ok(), given, "{grace} {passes}");
        }
        planted.away.store(false, Ordering::SeqCst);
    }
}

async fn what_a_server_keeps_for_longer_is_not_given(mut stage: Stage) {
    let cache = cache(&stage.caches()).with_schema(7).build().expect("a cache");
    let now = stage.now_ms();
    let meta = Meta {
        codec: Codec::MessagePack,
        soft_ms: now + 1000,
        hard_ms: now + 2000,
        raw_len: 4,
        ..super::meta(1)
    };
    let value = envelope::seal(&meta, b"\xa3old").expect("sealed");
    stage.backend.set(&Put { value, ..put("a", 1) }).await.expect("stored");
    let stale = async || {
        let hit = cache.get_or_load("a", |_| async { Err::<String, _>("away") }).await;
        hit.ok().map(|hit| hit.is_stale())
    };
    assert_eq!(stale().await, Some(false));
    stage.elapse(1999).await;
    assert_eq!(stale().await, Some(true));
    assert!(cache.peek("a").await.expect("an answer").is_some());
    stage.elapse(1).await;
    assert_eq!(stale().await, None);
    assert!(cache.peek("a").await.expect("an answer").is_none());
    let many = cache.get_or_load_many(&["a"], async |_| Err::<HashMap<_, _>, _>("away")).await;
    assert!(many.is_err());
}
