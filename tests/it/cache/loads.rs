//! One load per key and fleet, and what becomes of it.

use super::{SECOND, SOON, Stage, brings, held, text};
use coordinator_cache::{Invalidated, LoadError, Near};
use coordinator_harness::eventually;
use futures::future::join_all;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

pub(super) async fn many_callers_make_one_load(stage: Stage) {
    let cache = stage.cache().build().expect("a cache");
    let (count, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let load = || {
        let (count, gate) = (count.clone(), gate.clone());
        cache.get_or_load("42", move |_| async move {
            count.fetch_add(1, Ordering::SeqCst);
            gate.notified().await;
            Ok::<_, String>("night".to_owned())
        })
    };
    let (hits, ()) = futures::join!(join_all((0..1000).map(|_| load())), async {
        eventually(SOON, "it is loaded", async || count.load(Ordering::SeqCst) > 0).await;
        gate.notify_one();
    });
    for hit in hits {
        let hit = hit.expect("it is loaded");
        assert_eq!((hit.as_str(), hit.is_stale()), ("night", false));
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
    assert_eq!(text(&cache, "42").await.as_deref(), Some("night"));
    assert_eq!(cache.stats().loads, 1);
}

pub(super) async fn another_instance_waits_for_the_load_and_is_woken(stage: Stage) {
    let (cache, other) =
        (stage.cache().build().expect("a cache"), stage.other().build().expect("a cache"));
    let (count, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let (counted, opened) = (count.clone(), gate.clone());
    let first = cache.get_or_load("42", move |_| async move {
        counted.fetch_add(1, Ordering::SeqCst);
        opened.notified().await;
        Ok::<_, String>("night".to_owned())
    });
    let second = async {
        eventually(SOON, "it is loaded", async || count.load(Ordering::SeqCst) > 0).await;
        let second = other.get_or_load("42", brings("day", &count));
        let waits = async {
            eventually(SOON, "it waits", async || other.stats().waits > 0).await;
            gate.notify_one();
        };
        // No time passes on this clock: only a message wakes it.
        futures::join!(second, waits).0
    };
    let (first, second) = futures::join!(first, second);
    assert_eq!(first.expect("it is loaded").as_str(), "night");
    assert_eq!(second.expect("it is there").as_str(), "night");
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

pub(super) async fn what_is_ended_while_it_is_loaded_is_not_stored(stage: Stage) {
    for near in [Near::Off, Near::entries(100)] {
        let cache = stage.cache().with_near(near).build().expect("a cache");
        let other = stage.other().with_near(near).build().expect("a cache");
        for round in 0..3 {
            let (held, loader) = held("old");
            let (load, ()) = futures::join!(cache.get_or_load("42", loader), async {
                held.begun.notified().await;
                let ended = match round {
                    0 => cache.invalidate("42").await,
                    1 => other.invalidate("42").await,
                    _ => other.expire("42").await,
                };
                assert_eq!(ended.expect("an answer"), Invalidated::Done(0));
                held.go_on.notify_one();
            });
            // Whoever asked before is given it, and nobody else.
            assert_eq!(load.expect("it is loaded").as_str(), "old");
            for cache in [&cache, &other] {
                assert_eq!(text(cache, "42").await, None, "round {round}");
            }
            assert_eq!(cache.stats().refused, round + 1);
        }
    }
}

pub(super) async fn whoever_comes_after_the_end_joins_no_older_load(stage: Stage) {
    let (cache, other) =
        (stage.cache().build().expect("a cache"), stage.other().build().expect("a cache"));
    for by_other in [false, true] {
        let (held, loader) = held("old");
        let count = Arc::new(AtomicU32::new(0));
        let (load, ()) = futures::join!(cache.get_or_load("42", loader), async {
            held.begun.notified().await;
            let ended = if by_other { &other } else { &cache }.invalidate("42").await;
            let _ = ended.expect("an answer");
            eventually(SOON, "the change is heard of", async || {
                let new = cache.get_or_load("42", brings("new", &count));
                let given = tokio::time::timeout(SECOND / 10, new).await;
                given.is_ok_and(|given| given.expect("it is loaded").as_str() == "new")
            })
            .await;
            held.go_on.notify_one();
        });
        assert_eq!(load.expect("it is loaded").as_str(), "old");
        assert_eq!(text(&other, "42").await.as_deref(), Some("new"));
        assert!(cache.delete("42").await.expect("an answer"));
    }
}

pub(super) async fn a_set_wins_over_the_load_under_way(stage: Stage) {
    let (cache, other) =
        (stage.cache().build().expect("a cache"), stage.other().build().expect("a cache"));
    let (held, loader) = held("old");
    let (load, ()) = futures::join!(cache.get_or_load("42", loader), async {
        held.begun.notified().await;
        other.set("42", &"new".into()).await.expect("stored");
        held.go_on.notify_one();
    });
    assert_eq!(load.expect("it is loaded").as_str(), "old");
    assert_eq!(text(&cache, "42").await.as_deref(), Some("new"));
}

pub(super) async fn a_loader_that_panics_fails_or_dawdles_harms_nobody(stage: Stage) {
    let cache = stage.cache().with_hard_timeout(SECOND * 5).build().expect("a cache");
    let panics = cache
        .get_or_load("42", |_| async {
            panic!("a bug of the loader's");
            #[expect(unreachable_code, reason = "it says what would come")]
            Ok::<_, String>(String::new())
        })
        .await;
    assert!(matches!(panics, Err(LoadError::Panicked)), "{panics:?}");
    let fails = cache.get_or_load("42", |_| async { Err::<String, _>("away") }).await;
    assert!(matches!(fails, Err(LoadError::Loader(_))), "{fails:?}");
    let (held, loader) = held("late");
    let (late, ()) = futures::join!(cache.get_or_load("42", loader), async {
        held.begun.notified().await;
        // A moment may pass between its beginning and its time.
        eventually(SOON, "its time is over", async || {
            stage.clock.advance(SECOND);
            Arc::strong_count(&held.go_on) == 1
        })
        .await;
    });
    assert!(matches!(late, Err(LoadError::TimedOut(_))), "{late:?}");
    // The lease is given up each time: nobody waits for its end.
    let hit = cache.get_or_load("42", brings("night", &Arc::default())).await;
    assert_eq!(hit.expect("it is loaded").as_str(), "night");
    assert_eq!(cache.stats().failed, 3);
}

pub(super) async fn a_caller_that_leaves_loses_nothing(stage: Stage) {
    let cache = stage.cache().build().expect("a cache");
    let (held, loader) = held("night");
    {
        let mut load = std::pin::pin!(cache.get_or_load("42", loader));
        let begun = held.begun.notified();
        futures::future::select(&mut load, std::pin::pin!(begun)).await;
    }
    held.go_on.notify_one();
    eventually(SOON, "it is stored", async || text(&cache, "42").await.as_deref() == Some("night"))
        .await;
}

pub(super) async fn a_loader_says_how_its_value_is_kept(stage: Stage) {
    let cache = stage.cache().build().expect("a cache");
    let count = Arc::new(AtomicU32::new(0));
    let load = async |ttl: Option<Duration>| {
        let count = count.clone();
        let load = cache.get_or_load("42", move |loading| async move {
            count.fetch_add(1, Ordering::SeqCst);
            match ttl {
                Some(ttl) => loading.set_ttl(ttl),
                None => loading.skip_store(),
            }
            Ok::<_, String>("night".to_owned())
        });
        load.await.expect("it is loaded");
    };
    load(None).await;
    assert_eq!(text(&cache, "42").await, None);
    load(Some(SECOND)).await;
    assert_eq!(text(&cache, "42").await.as_deref(), Some("night"));
    stage.elapse(SECOND).await;
    assert_eq!(text(&cache, "42").await, None);
    assert_eq!(count.load(Ordering::SeqCst), 2);
}
