//! Caches: what they promise, on every backend, through the public API.

mod globs;

use crate::topology::Servers;
use coordinator_cache::{
    Cache, CacheBuilder, Caches, Compression, Entry, Hearing, Invalidated, LoadError, Lookup, Near,
};
use coordinator_core::{ErrorKind, clock::ManualClock, redis::Connection};
use coordinator_harness::eventually;
use futures::future::join_all;
use globs::{
    namespaces_and_tags_are_ended_alone_whatever_they_hold,
    patterns_mean_what_they_say_whatever_keys_hold,
};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const SOON: Duration = Duration::from_secs(20);

/// Caches on one backend, and those of another instance.
struct Stage {
    caches: Caches,
    peer: Caches,
    clock: ManualClock,
    servers: Option<Servers>,
}

impl Stage {
    fn embedded() -> Self {
        let clock = ManualClock::new();
        let caches = Caches::embedded_with_clock(Arc::new(clock.clone()));
        Self { peer: caches.sibling(), caches, clock, servers: None }
    }

    async fn redis() -> Self {
        let servers = Servers::start().await;
        let clock = ManualClock::new();
        let config = servers.config().clone().with_clock(Arc::new(clock.clone()));
        let connect = || Connection::connect(config.clone());
        let caches = Caches::redis(&connect().await.expect("a connection"));
        let peer = Caches::redis(&connect().await.expect("a connection"));
        Self { caches, peer, clock, servers: Some(servers) }
    }

    /// Lets time pass, for the server and for its clients.
    async fn elapse(&self, by: Duration) {
        let by = by + Duration::from_millis(2);
        if let Some(servers) = &self.servers {
            servers.advance(by).await;
        }
        self.clock.advance(by);
    }

    fn cache(&self) -> CacheBuilder<String> {
        self.caches.cache("crew-config").with_early_refresh(0.0).with_ttl(MINUTE)
    }

    /// The same of the other instance.
    fn other(&self) -> CacheBuilder<String> {
        self.peer.cache("crew-config").with_early_refresh(0.0).with_ttl(MINUTE)
    }
}

macro_rules! on_every_backend {
    ($($case:ident)*) => {
        mod embedded {
            $(#[tokio::test] async fn $case() { super::$case(super::Stage::embedded()).await; })*
        }
        mod redis {
            $(#[tokio::test] async fn $case() { super::$case(super::Stage::redis().await).await; })*
        }
    };
}

on_every_backend! {
    what_is_set_is_there_for_its_time_and_no_longer
    a_name_of_any_kind_is_a_key_of_its_own
    many_callers_make_one_load
    another_instance_waits_for_the_load_and_is_woken
    what_is_ended_while_it_is_loaded_is_not_stored
    whoever_comes_after_the_end_joins_no_older_load
    a_set_wins_over_the_load_under_way
    a_stale_value_stands_in_for_a_failed_load
    what_is_expired_is_loaded_anew_and_kept_for_failures
    a_stale_value_is_given_at_once_where_that_is_wished
    a_loader_that_panics_fails_or_dawdles_harms_nobody
    a_caller_that_leaves_loses_nothing
    that_there_is_nothing_is_remembered_for_its_own_time
    tags_end_what_has_them_in_every_cache
    a_tag_that_ends_while_a_value_is_loaded_ends_it
    a_near_cache_hears_of_the_changes_of_others
    a_loader_says_how_its_value_is_kept
    patterns_end_what_they_match_and_nothing_else
    patterns_mean_what_they_say_whatever_keys_hold
    namespaces_and_tags_are_ended_alone_whatever_they_hold
    several_keys_are_read_stored_loaded_and_ended_at_once
    values_of_another_shape_are_misses
    long_values_are_compressed_and_come_back
    caches_that_cannot_be_are_refused
}

/// A loader that counts and brings a text.
fn brings(
    text: &str,
    count: &Arc<AtomicU32>,
) -> impl FnOnce(coordinator_cache::Loading<String>) -> std::future::Ready<Result<String, String>>
+ Send
+ 'static
+ use<> {
    let (text, count) = (text.to_owned(), count.clone());
    move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok(text))
    }
}

async fn text(cache: &Cache<String>, key: &str) -> Option<String> {
    cache.get(key).await.expect("an answer").map(|hit| hit.to_string())
}

async fn what_is_set_is_there_for_its_time_and_no_longer(stage: Stage) {
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

async fn a_name_of_any_kind_is_a_key_of_its_own(stage: Stage) {
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

async fn many_callers_make_one_load(stage: Stage) {
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

async fn another_instance_waits_for_the_load_and_is_woken(stage: Stage) {
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

/// A load that stands still until it is told what to bring.
struct Held {
    begun: Arc<Notify>,
    go_on: Arc<Notify>,
}

fn held(
    text: &str,
) -> (
    Held,
    impl FnOnce(
        coordinator_cache::Loading<String>,
    ) -> futures::future::BoxFuture<'static, Result<String, String>>
    + Send
    + 'static
    + use<>,
) {
    let held = Held { begun: Arc::default(), go_on: Arc::default() };
    let (begun, go_on, text) = (held.begun.clone(), held.go_on.clone(), text.to_owned());
    let loader = move |_| -> futures::future::BoxFuture<'static, Result<String, String>> {
        Box::pin(async move {
            begun.notify_one();
            go_on.notified().await;
            Ok(text)
        })
    };
    (held, loader)
}

async fn what_is_ended_while_it_is_loaded_is_not_stored(stage: Stage) {
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

async fn whoever_comes_after_the_end_joins_no_older_load(stage: Stage) {
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

async fn a_set_wins_over_the_load_under_way(stage: Stage) {
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

async fn a_stale_value_stands_in_for_a_failed_load(stage: Stage) {
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

async fn what_is_expired_is_loaded_anew_and_kept_for_failures(stage: Stage) {
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

async fn a_stale_value_is_given_at_once_where_that_is_wished(stage: Stage) {
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

async fn a_loader_that_panics_fails_or_dawdles_harms_nobody(stage: Stage) {
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

async fn a_caller_that_leaves_loses_nothing(stage: Stage) {
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

async fn that_there_is_nothing_is_remembered_for_its_own_time(stage: Stage) {
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

async fn tags_end_what_has_them_in_every_cache(stage: Stage) {
    for near in [Near::Off, Near::entries(100)] {
        let users = stage.caches.cache::<u32>("users").with_near(near).build().expect("a cache");
        let plans = stage.caches.cache::<u32>("plans").with_near(near).build().expect("a cache");
        let seen = stage.peer.cache::<u32>("plans").with_near(near).build().expect("a cache");
        let crew = |id: u32| Entry::new().tags([format!("crew:{id}"), "all".to_owned()]);
        users.set_with("a", &1, crew(42)).await.expect("stored");
        plans.set_with("a", &2, crew(42)).await.expect("stored");
        plans.set_with("b", &3, crew(43)).await.expect("stored");
        plans.set("c", &4).await.expect("stored");
        let all = async || {
            let mut all = Vec::new();
            for (cache, key) in [(&users, "a"), (&plans, "a"), (&seen, "b"), (&seen, "c")] {
                all.push(cache.get(key).await.expect("an answer").map(|hit| *hit));
            }
            all
        };
        assert_eq!(all().await, [Some(1), Some(2), Some(3), Some(4)]);
        assert_eq!(all().await, [Some(1), Some(2), Some(3), Some(4)]);
        stage.peer.invalidate_crew("42").await.expect("an answer");
        eventually(SOON, "it is heard of", async || all().await == [None, None, Some(3), Some(4)])
            .await;
        // Again, as nobody has the tag now.
        stage.caches.invalidate_crew("42").await.expect("an answer");
        stage.caches.invalidate_tag("all").await.expect("an answer");
        eventually(SOON, "it is heard of", async || all().await == [None, None, None, Some(4)])
            .await;
        plans.set_with("a", &5, crew(42)).await.expect("stored");
        assert_eq!(plans.get("a").await.expect("an answer").map(|hit| *hit), Some(5));
    }
}

async fn a_tag_that_ends_while_a_value_is_loaded_ends_it(stage: Stage) {
    let cache = stage.cache().with_tags(["all"]).build().expect("a cache");
    for tag in ["all", "crew:42"] {
        let (held, loader) = held("old");
        let load = cache.get_or_load("42", |loading| async move {
            loading.tag("crew:42").await;
            loader(loading).await
        });
        let (load, ()) = futures::join!(load, async {
            held.begun.notified().await;
            stage.caches.invalidate_tag(tag).await.expect("an answer");
            // Whoever comes now is given nothing older.
            let new = cache.get_or_load("42", brings("new", &Arc::default()));
            let (new, ()) = futures::join!(new, async { held.go_on.notify_one() });
            assert_eq!(new.expect("it is loaded").as_str(), "new");
            cache.delete("42").await.expect("an answer");
        });
        assert_eq!(load.expect("it is loaded").as_str(), "old");
        assert_eq!(text(&cache, "42").await, None, "{tag}");
    }
    let hit = cache.get_or_load("42", brings("new", &Arc::default())).await;
    assert_eq!(hit.expect("it is loaded").as_str(), "new");
    assert_eq!(text(&cache, "42").await.as_deref(), Some("new"));
}

async fn a_near_cache_hears_of_the_changes_of_others(stage: Stage) {
    let cache = stage.cache().with_near(Near::entries(100)).build().expect("a cache");
    let other = stage.other().build().expect("a cache");
    other.set("42", &"night".into()).await.expect("stored");
    for _ in 0..5 {
        assert_eq!(text(&cache, "42").await.as_deref(), Some("night"));
    }
    let stats = cache.stats();
    assert_eq!((stats.near_hits, stats.far_hits), (4, 1));
    assert_eq!(stats.hearing, Hearing::Tracking);
    for round in 0..50 {
        let now = round.to_string();
        other.set("42", &now).await.expect("stored");
        eventually(SOON, "it is heard of", async || {
            text(&cache, "42").await.as_deref() == Some(&now)
        })
        .await;
    }
    // One's own changes are seen at once.
    for round in 0..50 {
        let now = round.to_string();
        cache.set("42", &now).await.expect("stored");
        assert_eq!(text(&cache, "42").await.as_deref(), Some(&*now));
    }
    cache.invalidate("42").await.expect("an answer");
    assert_eq!(text(&cache, "42").await, None);
}

async fn a_loader_says_how_its_value_is_kept(stage: Stage) {
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

async fn patterns_end_what_they_match_and_nothing_else(stage: Stage) {
    let cache = stage.cache().with_near(Near::entries(1000)).build().expect("a cache");
    let bystander = stage.caches.cache::<String>("crew").build().expect("a cache");
    for crew in 0..30 {
        for kind in ["plan", "p*n"] {
            let key = format!("crew:{crew}:{kind}");
            cache.set(&key, &key).await.expect("stored");
            bystander.set(&key, &key).await.expect("stored");
            assert!(text(&cache, &key).await.is_some());
        }
    }
    assert_eq!(cache.invalidate_pattern("crew:1?:p\\*n").await.expect("an answer"), 10);
    assert_eq!(text(&cache, "crew:11:p*n").await, None);
    assert!(
        text(&cache, "crew:11:plan").await.is_some() && text(&cache, "crew:1:p*n").await.is_some()
    );
    assert_eq!(cache.invalidate_pattern("crew:2:*").await.expect("an answer"), 2);
    assert_eq!(cache.invalidate_pattern("crew:2:*").await.expect("an answer"), 0);
    // A load under way is ended, too.
    let (held, loader) = held("old");
    let (load, ()) = futures::join!(cache.get_or_load("crew:2:new", loader), async {
        held.begun.notified().await;
        cache.invalidate_pattern("crew:2:*").await.expect("an answer");
        held.go_on.notify_one();
    });
    assert_eq!(load.expect("it is loaded").as_str(), "old");
    assert_eq!(text(&cache, "crew:2:new").await, None);
    assert_eq!(cache.clear().await.expect("an answer"), 48);
    assert_eq!(text(&cache, "crew:1:plan").await, None);
    assert!(text(&bystander, "crew:1:plan").await.is_some());
}

async fn several_keys_are_read_stored_loaded_and_ended_at_once(stage: Stage) {
    let cache = stage.cache().with_near(Near::entries(1000)).build().expect("a cache");
    let texts: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    let values: Vec<(&str, &String)> = texts.iter().map(|text| (text.as_str(), text)).collect();
    for stored in cache.set_many(&values[..200]).await {
        stored.expect("stored");
    }
    let mut asked: Vec<&str> = texts.iter().map(String::as_str).rev().collect();
    asked.push("7");
    for _ in 0..2 {
        let read = cache.get_many(&asked).await.expect("an answer");
        for (key, hit) in asked.iter().zip(read) {
            let there = key.parse::<u32>().expect("a number") < 200;
            assert_eq!(hit.map(|hit| hit.to_string()), there.then(|| (*key).to_owned()));
        }
    }
    let loaded = cache.get_or_load_many(&asked, |missing| async move {
        assert_eq!(missing.len(), 100);
        let all = missing.into_iter().filter(|key| key != "299").map(|key| (key.clone(), key));
        Ok::<_, String>(all.collect::<HashMap<_, _>>())
    });
    let loaded = loaded.await.expect("they are loaded");
    assert_eq!(loaded.len(), 299);
    assert!(loaded.iter().all(|(key, hit)| **key == ***hit));
    // They are stored, and what was not brought is asked for again, alone.
    let again = cache.get_or_load_many(&asked, |missing| async move {
        assert_eq!(missing, ["299"]);
        Err::<HashMap<_, _>, _>("away")
    });
    assert!(matches!(again.await, Err(LoadError::Loader(_))));
    let none = cache.get_or_load_many(&asked[5..50], |_| async {
        panic!("nothing is missing");
        #[expect(unreachable_code, reason = "it says what would come")]
        Ok::<_, String>(HashMap::new())
    });
    assert_eq!(none.await.expect("they are there").len(), 45);
    // Whoever stops waiting for a batch leaves no lease behind.
    {
        let never = cache.get_or_load_many(&["300"], |_| {
            std::future::pending::<Result<HashMap<String, String>, String>>()
        });
        let _ = tokio::time::timeout(SECOND / 5, never).await;
    }
    let other = stage.other().build().expect("a cache");
    eventually(SOON, "the lease is given up", async || {
        let load = other.get_or_load("300", brings("300", &Arc::default()));
        tokio::time::timeout(SECOND / 10, load).await.is_ok()
    })
    .await;
    other.delete("300").await.expect("an answer");
    assert_eq!(cache.invalidate_many(&asked).await.expect("an answer"), Invalidated::Done(299));
    assert!(cache.get_many(&asked).await.expect("an answer").iter().all(Option::is_none));
}

async fn values_of_another_shape_are_misses(stage: Stage) {
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

async fn long_values_are_compressed_and_come_back(stage: Stage) {
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

async fn caches_that_cannot_be_are_refused(stage: Stage) {
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

#[tokio::test]
async fn changes_that_come_faster_than_they_are_heard_of_flush_what_is_kept() {
    let stage = Stage::embedded();
    let ours = stage.cache().with_near(Near::entries(100)).build().expect("a cache");
    let other = stage.other().with_compression(Compression::none()).build().expect("a cache");
    other.set("42", &"old".into()).await.expect("stored");
    for _ in 0..2 {
        assert_eq!(text(&ours, "42").await.as_deref(), Some("old"));
    }
    assert_eq!(ours.stats().near_hits, 1);
    other.set("42", &"new".into()).await.expect("stored");
    // Nothing here waits, so whoever hears of changes does not come to it.
    for number in 0..100_000_u32 {
        other.set(&format!("x{}", number % 1000), &String::new()).await.expect("stored");
    }
    eventually(SOON, "it is heard of", async || text(&ours, "42").await.as_deref() == Some("new"))
        .await;
    // And it hears on.
    other.set("42", &"newer".into()).await.expect("stored");
    eventually(SOON, "it is heard of", async || {
        text(&ours, "42").await.as_deref() == Some("newer")
    })
    .await;
}
