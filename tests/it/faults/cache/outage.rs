//! Servers that are away, stand still or are full.

use super::{SECOND, SOON, Scene, build, figures, kept, near, now, read, scene, set};
use coordinator_cache::{Cache, Entry, Invalidated, Near};
use coordinator_core::ErrorKind;
use coordinator_harness::eventually;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

#[tokio::test]
async fn invalidations_without_a_server_are_made_up_for() {
    let Scene { server: _server, proxy, caches, truth } = scene().await;
    let (ours, theirs) = (near(&caches), build(truth.cache("n")));
    let tagged = Entry::new().tags(["t"]);
    theirs.set("a", &1).await.expect("stored");
    theirs.set_with("b", &2, tagged).await.expect("stored");
    for key in ["a", "b"] {
        eventually(SOON, "it is there", async || read(&ours, key).await.is_some()).await;
    }
    proxy.refuse(true);
    proxy.cut_all();
    assert_eq!(ours.invalidate("a").await.expect("queued"), Invalidated::Queued);
    assert_eq!(caches.invalidate_tag("t").await.expect("queued"), Invalidated::Queued);
    assert!(ours.delete("a").await.is_err(), "nothing of a delete is queued");
    assert_eq!((read(&ours, "a").await, read(&ours, "b").await), (None, None));
    assert_eq!(read(&theirs, "a").await, Some(1));
    proxy.refuse(false);
    eventually(SOON, "they are made", async || {
        read(&theirs, "a").await.is_none() && read(&theirs, "b").await.is_none()
    })
    .await;
}

#[tokio::test]
async fn a_stale_value_is_given_while_no_server_is_there() {
    let Scene { server: _server, proxy, caches, .. } = scene().await;
    let ours = build(caches.cache("n").with_near(Near::entries(10)).with_stale(SECOND * 60));
    ours.set("a", &1).await.expect("stored");
    eventually(SOON, "it is kept near", async || {
        read(&ours, "a").await.is_some() && ours.stats().near_entries > 0
    })
    .await;
    proxy.refuse(true);
    proxy.cut_all();
    eventually(
        SOON,
        "it is given as stale",
        async || matches!(ours.get("a").await, Ok(Some(hit)) if hit.is_stale() && *hit == 1),
    )
    .await;
    // A loader is asked, once, and where it fails the stale value stands in.
    let asked = Arc::new(AtomicBool::new(false));
    let told = asked.clone();
    let hit = ours.get_or_load("a", move |_| async move {
        told.store(true, Ordering::SeqCst);
        Err::<u64, _>("away")
    });
    assert!(hit.await.expect("the stale value").is_stale());
    assert!(asked.load(Ordering::SeqCst));
    let hit = ours.get_or_load("b", |_| async { Ok::<_, String>(7) }).await;
    assert_eq!(*hit.expect("it is loaded"), 7);
    proxy.refuse(false);
    eventually(SOON, "it is given as fresh", async || read(&ours, "a").await == Some(1)).await;
}

#[tokio::test]
async fn what_was_ended_does_not_come_back_in_an_outage() {
    let Scene { server: _server, proxy, caches, truth } = scene().await;
    let ours = build(caches.cache("n").with_near(Near::entries(10)).with_stale(SECOND * 60));
    let theirs = build(truth.cache("n"));
    for (key, tag) in [("a", "t"), ("b", "u"), ("c", "v")] {
        let entry = Entry::new().tags([tag]).with_stale(SECOND * 60);
        theirs.set_with(key, &1, entry).await.expect("stored");
        eventually(SOON, "it is kept near", async || {
            let before = ours.stats().near_hits;
            read(&ours, key).await == Some(1) && ours.stats().near_hits > before
        })
        .await;
    }
    caches.invalidate_tag("t").await.expect("an answer");
    truth.invalidate_tag("u").await.expect("an answer");
    eventually(SOON, "it is heard of", async || read(&ours, "b").await.is_none()).await;
    proxy.refuse(true);
    proxy.cut_all();
    let given = async |key| ours.get(key).await.ok().flatten().map(|hit| *hit);
    eventually(SOON, "what was not ended is given", async || given("c").await == Some(1)).await;
    assert_eq!((given("a").await, given("b").await), (None, None));
}

/// How a server stands still.
#[derive(Debug, Clone, Copy)]
enum Still {
    /// The process is stopped.
    Stopped,
    /// It lets its clients wait.
    Paused,
}

/// How long a call took, and what it came to.
async fn timed<T>(call: impl Future<Output = T>) -> (T, Duration) {
    let began = now();
    let outcome = call.await;
    (outcome, began.elapsed())
}

async fn loaded(cache: &Cache<u64>, key: &str, value: Result<u64, &'static str>) -> Option<u64> {
    cache.get_or_load(key, move |_| async move { value }).await.ok().map(|hit| *hit)
}

/// Each call on a server that stands still; what each took.
async fn while_it_stands_still(ours: &Cache<u64>) -> Vec<(&'static str, Duration)> {
    let mut times = Vec::new();
    let (hit, took) = timed(read(ours, "a")).await;
    assert_eq!(hit, Some(1), "it is near");
    times.push(("get, near", took));
    let (hit, took) = timed(loaded(ours, "b", Ok(7))).await;
    assert_eq!(hit, Some(7), "without a server it is loaded all the same");
    times.push(("get_or_load", took));
    let (stored, took) = timed(ours.set("s", &1)).await;
    assert!(stored.expect_err("nobody answers").is_retryable());
    times.push(("set", took));
    let (ended, took) = timed(ours.invalidate("a")).await;
    assert_eq!(ended.expect("queued"), Invalidated::Queued);
    times.push(("invalidate", took));
    let (ended, took) = timed(ours.invalidate_tag("t")).await;
    assert_eq!(ended.expect("queued"), Invalidated::Queued);
    times.push(("invalidate_tag", took));
    for key in ["a", "tagged"] {
        assert!(!matches!(ours.get(key).await, Ok(Some(_))), "{key} was ended");
    }
    eventually(SOON, "what was kept near is given as stale", async || {
        ours.get("kept").await.is_ok_and(|hit| hit.is_some_and(|hit| hit.is_stale() && *hit == 3))
    })
    .await;
    let (hit, took) = timed(loaded(ours, "kept", Err("away"))).await;
    assert_eq!(hit, Some(3), "the stale value stands in");
    times.push(("get_or_load, stale", took));
    times
}

#[tokio::test]
async fn a_server_that_stands_still_holds_nobody_up_and_what_was_ended_stays_so() {
    for still in [Still::Stopped, Still::Paused] {
        let Scene { server, proxy: _proxy, caches, truth } = scene().await;
        let ours = build(caches.cache("n").with_near(Near::entries(10)).with_stale(SECOND * 60));
        let theirs = build::<u64>(truth.cache("n"));
        let tagged = Entry::new().tags(["t"]);
        theirs.set("a", &1).await.expect("stored");
        theirs.set_with("tagged", &2, tagged).await.expect("stored");
        theirs.set_with("kept", &3, Entry::new().with_stale(SECOND * 60)).await.expect("stored");
        for (key, value) in [("a", 1), ("tagged", 2), ("kept", 3)] {
            kept(&ours, key, value).await;
        }
        match still {
            Still::Stopped => server.pause().expect("it is stopped"),
            Still::Paused => {
                // For longer than all below takes: it cannot be asked to go on.
                let pause = ["CLIENT", "PAUSE", "8000", "ALL"];
                server.command(&pause).await.expect("an answer").ok().expect("it pauses");
            }
        }
        let times = while_it_stands_still(&ours).await;
        if let Still::Stopped = still {
            server.resume().expect("it runs");
        }
        let back = now();
        eventually(SOON, "what was queued is made", async || {
            let far = async |key| theirs.get(key).await.is_ok_and(|hit| hit.is_none());
            far("a").await && far("tagged").await
        })
        .await;
        figures(&format!("{still:?}: {times:?}; made up for after {:?}", back.elapsed()));
        assert_eq!(read(&theirs, "b").await, None, "it was loaded and not stored");
        for (call, took) in times {
            // A look and a claim without an answer, or less.
            assert!(took < SECOND, "{still:?}, {call}: {took:?}");
        }
        eventually(SOON, "it is given as fresh", async || read(&ours, "kept").await == Some(3))
            .await;
    }
}

#[tokio::test]
async fn with_memory_full_values_are_read_loaded_and_ended_and_none_stored() {
    let Scene { server, proxy: _proxy, caches, truth } = scene().await;
    let ours = build(caches.cache("n").with_stale(SECOND * 60));
    let (near, theirs) = (near(&caches), build::<u64>(truth.cache("n")));
    let short = Entry::ttl(Duration::from_millis(1)).with_stale(SECOND * 60);
    ours.set("a", &1).await.expect("stored");
    ours.set_with("tagged", &2, Entry::new().tags(["t"])).await.expect("stored");
    ours.set_with("old", &3, short).await.expect("stored");
    kept(&near, "a", 1).await;
    eventually(SOON, "it is past its time", async || read(&ours, "old").await.is_none()).await;
    set(&server, "maxmemory", "1").await;
    assert_eq!((read(&ours, "a").await, read(&ours, "tagged").await), (Some(1), Some(2)));
    let refused = ours.set("b", &1).await.expect_err("there is no room");
    assert_eq!(refused.kind(), ErrorKind::Rejected, "{}", refused.chain());
    for round in 1..=2 {
        let (hit, took) = timed(loaded(&ours, "b", Ok(7))).await;
        assert_eq!(hit, Some(7));
        assert_eq!(ours.stats().loads, round, "it is not stored");
        assert!(took < SECOND, "{took:?}");
    }
    assert_eq!(loaded(&ours, "old", Err("away")).await, Some(3), "the stale value stands in");
    let refused = ours.expire("a").await.expect_err("it would write");
    assert_eq!(refused.kind(), ErrorKind::Rejected, "{}", refused.chain());
    assert_eq!(read(&ours, "a").await, Some(1), "and it stays as it is");
    assert_eq!(theirs.invalidate("a").await.expect("an answer"), Invalidated::Done(1));
    assert_eq!(truth.invalidate_tag("t").await.expect("an answer"), Invalidated::Done(1));
    assert_eq!((read(&ours, "a").await, read(&ours, "tagged").await), (None, None));
    eventually(SOON, "it is heard of", async || read(&near, "a").await.is_none()).await;
    set(&server, "maxmemory", "0").await;
    assert_eq!(loaded(&ours, "b", Ok(8)).await, Some(8));
    assert_eq!(read(&theirs, "b").await, Some(8), "it is stored again");
}
