//! What a cache does where answers are lost, keys move, and others hold the lease.

use super::{
    key,
    planted::{Fault, Planted},
    stage::Stage,
    token,
};
use crate::{Cache, CacheBuilder, Caches, Hit, LoadError, backend::Claimed};
use coordinator_core::ErrorKind;
use coordinator_harness::eventually;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, task::JoinHandle};

const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(20);

on_every_backend! {
    a_lease_that_nobody_was_told_of_is_given_up,
    a_lease_whose_fill_was_lost_is_given_up,
    a_key_that_moves_behind_the_sweep_does_not_escape,
    a_sweep_of_keys_that_never_rest_is_given_up,
    whoever_comes_after_anothers_lease_ended_joins_no_load_without_one,
    leases_of_several_keys_are_given_up_too,
    several_keys_wait_for_the_load_of_one,
    one_key_waits_for_the_load_of_several,
    loads_of_several_keys_that_overlap_ask_for_each_once,
    whoever_waits_for_several_that_are_given_up_loads_by_himself,
    nobody_joins_several_that_were_ended,
    what_was_found_first_is_not_given_past_its_end,
    several_that_nobody_goes_on_with_hold_nobody_up,
}

fn cache(caches: &Caches) -> CacheBuilder<String> {
    caches.cache("crew").with_early_refresh(0.0)
}

async fn left_behind(mut stage: Stage, faults: &[Fault], stored: bool) {
    let planted = Planted::new(stage.backend.clone());
    let cache = cache(&Caches::over(planted.clone())).build().expect("a cache");
    for fault in faults {
        planted.plant(*fault);
    }
    let hit = cache.get_or_load("a", |_| async { Ok::<_, String>("new".to_owned()) }).await;
    assert_eq!(hit.expect("it is loaded").as_str(), "new");
    let mut ms = 0;
    eventually(SOON, "it is given up", async || {
        if faults.contains(&Fault::ReleaseLost) && ms < 4000 {
            stage.elapse(500).await;
            ms += 500;
        }
        let claimed = stage.backend.claim(&key("a"), token(9), None, 1000).await;
        matches!(claimed.expect("an answer"), Claimed::Mine) != stored
    })
    .await;
    assert!(planted.is_done());
}

async fn a_lease_that_nobody_was_told_of_is_given_up(stage: Stage) {
    left_behind(stage, &[Fault::ClaimUntold, Fault::ReleaseLost], false).await;
}

async fn a_lease_whose_fill_was_lost_is_given_up(stage: Stage) {
    left_behind(stage, &[Fault::FillLost], false).await;
}

async fn a_key_that_moves_behind_the_sweep_does_not_escape(stage: Stage) {
    let planted = Planted::new(stage.backend.clone());
    let cache = cache(&Caches::over(planted.clone())).build().expect("a cache");
    let names: Vec<String> = (0..9).map(|n| n.to_string()).collect();
    for moves in [0, 1, 4] {
        for name in &names {
            cache.set(name, &"x".to_owned()).await.expect("stored");
        }
        let second = || names[4..].iter().map(|name| key(name)).collect();
        planted.second(second());
        planted.moves.store(moves, Ordering::SeqCst);
        assert_eq!(cache.survey().await.expect("an answer").entries, 9, "{moves} moves");
        assert_eq!(planted.moves.load(Ordering::SeqCst), 0, "all moved");
        planted.second(second());
        planted.moves.store(moves, Ordering::SeqCst);
        assert_eq!(cache.invalidate_pattern("*").await.expect("an answer"), 9);
        for name in &names {
            assert!(cache.get(name).await.expect("an answer").is_none(), "{moves} moves: {name}");
        }
    }
}

async fn a_sweep_of_keys_that_never_rest_is_given_up(stage: Stage) {
    let planted = Planted::new(stage.backend.clone());
    let cache = cache(&Caches::over(planted.clone())).build().expect("a cache");
    planted.moves.store(u32::MAX, Ordering::SeqCst);
    for outcome in [cache.clear().await.map(drop), cache.survey().await.map(drop)] {
        assert_eq!(outcome.expect_err("they never rest").kind(), ErrorKind::Unavailable);
    }
    // Ten changes are borne.
    planted.moves.store(10, Ordering::SeqCst);
    assert_eq!(cache.clear().await.expect("an answer"), 0);
}

/// A load that is held up until it is let go on.
fn held(
    cache: &Cache<String>,
    begun: &Arc<AtomicU32>,
    go_on: &Arc<Notify>,
) -> JoinHandle<Result<Hit<String>, LoadError>> {
    let (cache, begun, go_on) = (cache.clone(), begun.clone(), go_on.clone());
    #[expect(clippy::disallowed_methods, reason = "a test has tasks of its own")]
    tokio::spawn(async move {
        let load = move |_| async move {
            begun.fetch_add(1, Ordering::SeqCst);
            go_on.notified().await;
            Ok::<_, String>("x".to_owned())
        };
        cache.get_or_load("a", load).await
    })
}

async fn whoever_comes_after_anothers_lease_ended_joins_no_load_without_one(mut stage: Stage) {
    let cache = cache(&stage.caches()).with_wait(SECOND).build().expect("a cache");
    let (begun, go_on) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let claimed = stage.backend.claim(&key("a"), token(9), None, 100_000).await;
    assert_eq!(claimed.expect("an answer"), Claimed::Mine);
    let first = held(&cache, &begun, &go_on);
    eventually(SOON, "it waits", async || cache.stats().waits > 0).await;
    stage.elapse(1000).await;
    eventually(SOON, "it loads by itself", async || begun.load(Ordering::SeqCst) == 1).await;
    // The other is alive: that changes nothing.
    assert!(stage.backend.renew(&key("a"), token(9), 100_000).await.expect("an answer"));
    let second = held(&cache, &begun, &go_on);
    eventually(SOON, "it joins", async || cache.stats().misses == 2).await;
    assert_eq!(cache.core.flights.len(), 1);
    stage.backend.invalidate(&[key("a")]).await.expect("an answer");
    eventually(SOON, "nobody joins it any more", async || cache.core.flights.len() == 0).await;
    let third = held(&cache, &begun, &go_on);
    eventually(SOON, "it is loaded anew", async || begun.load(Ordering::SeqCst) == 2).await;
    go_on.notify_waiters();
    for load in [first, second, third] {
        load.await.expect("no panic").expect("it is loaded");
    }
    assert_eq!(begun.load(Ordering::SeqCst), 2);
}

async fn leases_of_several_keys_are_given_up_too(stage: Stage) {
    for fault in [Fault::ClaimUntold, Fault::FillLost] {
        let planted = Planted::new(stage.backend.clone());
        let cache = cache(&Caches::over(planted.clone())).build().expect("a cache");
        planted.plant(fault);
        let load = async |_| Ok::<_, String>(HashMap::from([("a".to_owned(), "x".to_owned())]));
        let hits = cache.get_or_load_many(&["a"], load).await.expect("it is loaded");
        assert_eq!(hits["a"].as_str(), "x");
        assert!(planted.is_done());
        eventually(SOON, "it is given up", async || {
            stage.backend.holder(&key("a")).await.expect("an answer").is_none()
        })
        .await;
    }
}

/// Several keys, each with its name for a value, loaded when it is let go on.
fn held_many(
    cache: &Cache<String>,
    keys: &'static [&'static str],
    asked: &Arc<Mutex<Vec<String>>>,
    go_on: &Arc<Notify>,
) -> JoinHandle<Result<HashMap<String, Hit<String>>, LoadError>> {
    let (cache, asked, go_on) = (cache.clone(), asked.clone(), go_on.clone());
    #[expect(clippy::disallowed_methods, reason = "a test has tasks of its own")]
    tokio::spawn(async move {
        let load = move |names: Vec<String>| async move {
            asked.lock().expect("no panic").extend(names.clone());
            go_on.notified().await;
            let named = names.into_iter().filter(|name| name != "none");
            Ok::<_, String>(named.map(|name| (name.clone(), name)).collect())
        };
        cache.get_or_load_many(keys, load).await
    })
}

async fn several_keys_wait_for_the_load_of_one(stage: Stage) {
    let cache = cache(&stage.caches()).build().expect("a cache");
    let (begun, go_on) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let one = held(&cache, &begun, &go_on);
    eventually(SOON, "it begins", async || begun.load(Ordering::SeqCst) == 1).await;
    let (asked, many_go_on) = (Arc::default(), Arc::new(Notify::new()));
    let many = held_many(&cache, &["b", "a"], &asked, &many_go_on);
    eventually(SOON, "it is asked", async || !asked.lock().expect("no panic").is_empty()).await;
    many_go_on.notify_one();
    go_on.notify_one();
    one.await.expect("no panic").expect("it is loaded");
    let hits = many.await.expect("no panic").expect("they are loaded");
    assert_eq!((hits["a"].as_str(), hits["b"].as_str()), ("x", "b"));
    assert_eq!(*asked.lock().expect("no panic"), ["b"]);
    assert_eq!(cache.stats().refused, 0);
}

async fn one_key_waits_for_the_load_of_several(stage: Stage) {
    let cache = cache(&stage.caches()).build().expect("a cache");
    let (asked, many_go_on) = (Arc::default(), Arc::new(Notify::new()));
    let many = held_many(&cache, &["a", "none"], &asked, &many_go_on);
    eventually(SOON, "it is asked", async || !asked.lock().expect("no panic").is_empty()).await;
    let (begun, go_on) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let one = held(&cache, &begun, &go_on);
    let other = cache.clone();
    #[expect(clippy::disallowed_methods, reason = "a test has tasks of its own")]
    let none = tokio::spawn(async move {
        let load = |_| async { Ok::<_, String>("by himself".to_owned()) };
        other.get_or_load("none", load).await
    });
    eventually(SOON, "they wait", async || cache.stats().misses == 4).await;
    many_go_on.notify_one();
    let hits = many.await.expect("no panic").expect("they are loaded");
    assert!(hits.len() == 1 && !hits["a"].is_stale());
    assert_eq!(one.await.expect("no panic").expect("it is told").as_str(), "a");
    // What the batch did not bring is not known not to be there.
    assert_eq!(none.await.expect("no panic").expect("it is loaded").as_str(), "by himself");
    assert_eq!(begun.load(Ordering::SeqCst), 0);
    assert_eq!(cache.get("a").await.expect("an answer").expect("it is stored").as_str(), "a");
}

async fn loads_of_several_keys_that_overlap_ask_for_each_once(stage: Stage) {
    let cache = cache(&stage.caches()).build().expect("a cache");
    let (asked, go_on) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
    let count = || asked.lock().expect("no panic").len();
    let first = held_many(&cache, &["a", "b", "none"], &asked, &go_on);
    eventually(SOON, "it is asked", async || count() == 3).await;
    let second = held_many(&cache, &["c", "b", "none"], &asked, &go_on);
    let third = held_many(&cache, &["b", "a"], &asked, &go_on);
    eventually(SOON, "they wait", async || count() == 4 && cache.stats().misses == 8).await;
    go_on.notify_waiters();
    for (load, expected) in [(first, 2), (second, 2), (third, 2)] {
        let hits = load.await.expect("no panic").expect("they are loaded");
        assert_eq!(hits.len(), expected);
        assert!(hits.iter().all(|(name, hit)| **hit == *name));
    }
    assert_eq!(*asked.lock().expect("no panic"), ["a", "b", "none", "c"]);
    assert_eq!(cache.core.flights.len(), 0);
}

async fn whoever_waits_for_several_that_are_given_up_loads_by_himself(stage: Stage) {
    let cache = cache(&stage.caches()).build().expect("a cache");
    let (asked, go_on) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
    let many = held_many(&cache, &["a", "b"], &asked, &go_on);
    let count = || asked.lock().expect("no panic").len();
    eventually(SOON, "it is asked", async || count() == 2).await;
    let (begun, one_go_on) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let one = held(&cache, &begun, &one_go_on);
    let others = held_many(&cache, &["b"], &asked, &go_on);
    eventually(SOON, "they wait", async || cache.stats().misses == 4).await;
    many.abort();
    eventually(SOON, "one loads by himself", async || begun.load(Ordering::SeqCst) == 1).await;
    eventually(SOON, "others load by themselves", async || count() == 3).await;
    one_go_on.notify_one();
    go_on.notify_waiters();
    assert_eq!(one.await.expect("no panic").expect("it is loaded").as_str(), "x");
    assert_eq!(others.await.expect("no panic").expect("they are loaded")["b"].as_str(), "b");
    // Nor do the leases of those who left stand in anybody's way.
    assert!(cache.get("a").await.expect("an answer").is_some());
}

async fn nobody_joins_several_that_were_ended(mut stage: Stage) {
    let cache = cache(&stage.caches()).build().expect("a cache");
    let (asked, go_on) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
    let many = held_many(&cache, &["a", "b"], &asked, &go_on);
    eventually(SOON, "it is asked", async || asked.lock().expect("no panic").len() == 2).await;
    assert_eq!(cache.core.flights.len(), 2);
    // By another instance.
    stage.backend.invalidate(&[key("a")]).await.expect("an answer");
    eventually(SOON, "it is heard of", async || cache.core.flights.len() == 1).await;
    // The other is joined for as long as its lease is there.
    stage.elapse(5000).await;
    let twice = async |_| -> Result<String, String> { panic!("it is being loaded") };
    let mut joined = Box::pin(cache.get_or_load("b", twice));
    assert!(futures::poll!(&mut joined).is_pending());
    stage.elapse(5000).await;
    assert_eq!(cache.core.flights.len(), 1);
    go_on.notify_one();
    many.await.expect("no panic").expect("they are loaded");
    assert_eq!(joined.await.expect("what the others brought").as_str(), "b");
    assert!(cache.get("a").await.expect("an answer").is_none(), "it was ended");
    assert!(cache.get("b").await.expect("an answer").is_some());
}

async fn what_was_found_first_is_not_given_past_its_end(mut stage: Stage) {
    for (stale, expected) in [(0, None), (60, Some(true))] {
        let cache = cache(&stage.caches()).with_ttl(SECOND).with_stale(SECOND * stale);
        let cache = cache.with_jitter(0.0).build().expect("a cache");
        cache.set("a", &"old".to_owned()).await.expect("stored");
        let (asked, go_on) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let name: &'static [&'static str] = if stale == 0 { &["a", "b"] } else { &["a", "c"] };
        let many = held_many(&cache, name, &asked, &go_on);
        eventually(SOON, "one is missing", async || asked.lock().expect("no panic").len() == 1)
            .await;
        stage.elapse(1500).await;
        go_on.notify_one();
        let hits = many.await.expect("no panic");
        match expected {
            None => assert!(matches!(hits, Err(LoadError::Ended)), "{hits:?}"),
            Some(stale) => assert_eq!(hits.expect("a value")["a"].is_stale(), stale),
        }
    }
}

async fn several_that_nobody_goes_on_with_hold_nobody_up(mut stage: Stage) {
    let cache = cache(&stage.caches()).with_hard_timeout(SECOND).with_wait(SECOND);
    let cache = cache.build().expect("a cache");
    let never = async |_: Vec<String>| -> Result<HashMap<String, String>, String> {
        std::future::pending().await
    };
    let mut many = Box::pin(cache.get_or_load_many(&["a"], never));
    eventually(SOON, "it began", async || {
        let _ = futures::poll!(&mut many);
        cache.stats().loads == 1
    })
    .await;
    let (begun, go_on) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let other = held(&cache, &begun, &go_on);
    eventually(SOON, "it goes on by itself", async || {
        stage.elapse(500).await;
        begun.load(Ordering::SeqCst) == 1
    })
    .await;
    go_on.notify_one();
    other.await.expect("no panic").expect("it is loaded");
    drop(many);
}

#[tokio::test]
async fn caches_that_are_gone_leave_nothing_behind() {
    let caches = Caches::embedded();
    let kept = caches.cache::<u8>("a").build().expect("a cache");
    for n in 0..10_000 {
        drop(caches.cache::<u8>("a").build().expect("a cache"));
        drop(caches.cache::<u8>(&n.to_string()).build().expect("a cache"));
    }
    let (namespaces, listeners) = caches.shared.watch.told();
    assert!(namespaces < 50 && listeners < 50, "{namespaces} {listeners}");
    drop(kept);
}
