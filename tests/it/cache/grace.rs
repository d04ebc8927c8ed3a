//! What is given past its time, and that there is nothing.

use super::{MINUTE, SECOND, SOON, Stage, brings, held, text};
use coordinator_cache::{Invalidated, LoadError, Lookup, Near};
use coordinator_harness::eventually;
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

pub(super) async fn a_stale_value_stands_in_for_a_failed_load(stage: Stage) {
    let cache =
        stage.cache().with_stale(MINUTE).with_throttle(SECOND * 10).build().expect("a cache");
    cache.set("42", &"night".into()).await.expect("stored");
    stage.elapse(MINUTE).await;
    assert!(matches!(cache.lookup("42").await.expect("an answer"), Lookup::Absent));
    let count = Arc::new(AtomicU32::new(0));
    let fails = || {
        let count = count.clone();
        cache.get_or_load("42", move |loading| async move {
            count.fetch_add(1, Ordering::SeqCst);
            assert_eq!(loading.stale().map(|hit| hit.as_str()), Some("night"));
            Err::<String, _>("the database is away")
        })
    };
    for _ in 0..3 {
        let hit = fails().await.expect("the stale value");
        assert_eq!((hit.as_str(), hit.is_stale()), ("night", true));
    }
    assert_eq!(count.load(Ordering::SeqCst), 1, "it is not asked again at once");
    stage.elapse(SECOND * 10).await;
    fails().await.expect("the stale value");
    assert_eq!(count.load(Ordering::SeqCst), 2);
    stage.elapse(SECOND * 50).await;
    let error = cache.get_or_load("42", |_| async { Err::<String, _>("away") }).await;
    let error = error.expect_err("its grace is over");
    assert_eq!(std::error::Error::source(&error).expect("a cause").to_string(), "away");
}

pub(super) async fn what_is_expired_is_loaded_anew_and_kept_for_failures(stage: Stage) {
    for near in [Near::Off, Near::entries(100)] {
        let cache = stage.cache().with_stale(MINUTE).with_near(near).build().expect("a cache");
        let other = stage.other().with_stale(MINUTE).with_near(near).build().expect("a cache");
        cache.set("42", &"night".into()).await.expect("stored");
        assert_eq!(text(&cache, "42").await.as_deref(), Some("night"));
        assert_eq!(other.expire("42").await.expect("an answer"), Invalidated::Done(1));
        eventually(SOON, "it is heard of", async || text(&cache, "42").await.is_none()).await;
        let hit = cache.get_or_load("42", |_| async { Err::<String, _>("away") }).await;
        assert!(hit.expect("the stale value").is_stale());
        let hit = other.get_or_load("42", brings("day", &Arc::default())).await;
        assert_eq!(hit.expect("it is loaded").as_str(), "day");
        assert_eq!(text(&other, "42").await.as_deref(), Some("day"));
        cache.delete("42").await.expect("an answer");
    }
}

pub(super) async fn a_stale_value_is_given_at_once_where_that_is_wished(stage: Stage) {
    let cache =
        stage.cache().with_stale(MINUTE).with_stale_while_revalidate().build().expect("a cache");
    cache.set("42", &"night".into()).await.expect("stored");
    stage.elapse(MINUTE).await;
    let (held, loader) = held("day");
    let hit = cache.get_or_load("42", loader).await.expect("the stale value");
    assert_eq!((hit.as_str(), hit.is_stale()), ("night", true));
    held.begun.notified().await;
    held.go_on.notify_one();
    eventually(SOON, "it is loaded anew", async || {
        text(&cache, "42").await.as_deref() == Some("day")
    })
    .await;
}

pub(super) async fn that_there_is_nothing_is_remembered_for_its_own_time(stage: Stage) {
    for near in [Near::Off, Near::entries(100)] {
        let cache =
            stage.cache().with_negative(SECOND * 5).with_near(near).build().expect("a cache");
        let count = Arc::new(AtomicU32::new(0));
        let look = async || {
            let count = count.clone();
            let found = cache.get_or_load_optional("42", move |_| async move {
                count.fetch_add(1, Ordering::SeqCst);
                Ok::<_, String>(None)
            });
            assert!(found.await.expect("an answer").is_none());
        };
        look().await;
        look().await;
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert!(matches!(cache.lookup("42").await.expect("an answer"), Lookup::Negative));
        let load = cache.get_or_load("42", brings("x", &count)).await;
        assert!(matches!(load, Err(LoadError::Negative)), "{load:?}");
        stage.elapse(SECOND * 5).await;
        assert!(matches!(cache.lookup("42").await.expect("an answer"), Lookup::Absent));
        look().await;
        assert_eq!(count.load(Ordering::SeqCst), 2);
        cache.delete("42").await.expect("an answer");
    }
}
