//! What is kept near, and for how long it may be older than what is shared.

use super::{
    SECOND, SOON, Scene, background, figures, kept, near, now, over, read, scene, sha, warm,
};
use crate::topology::{config, server};
use coordinator_cache::{Cache, Caches, Entry, Invalidated};
use coordinator_core::redis::Connection;
use coordinator_harness::{Proxy, Rule, eventually};
use std::time::Duration;

#[tokio::test]
async fn a_near_cache_learns_that_a_server_forgot_everything() {
    let Scene { server, proxy: _proxy, caches, truth } = scene().await;
    let (ours, theirs) = (near(&caches), near(&truth));
    for round in 0..3 {
        ours.set("a", &round).await.expect("stored");
        for cache in [&ours, &theirs] {
            kept(cache, "a", round).await;
        }
        // A probe may be under way; what it read is of before.
        server.command(&["FLUSHALL"]).await.expect("an answer").ok().expect("it is flushed");
        let began = now();
        eventually(SOON, "it is forgotten", async || {
            read(&ours, "a").await.is_none() && read(&theirs, "a").await.is_none()
        })
        .await;
        figures(&format!("forgotten after {:?}", began.elapsed()));
        assert!(began.elapsed() < SECOND * 3 / 2, "{:?}", began.elapsed());
    }
}

/// For how long after a change the old value is given.
pub(super) async fn staleness(ours: &Cache<u64>, theirs: &Cache<u64>, value: u64) -> Duration {
    theirs.set("a", &value).await.expect("stored");
    let changed = now();
    let mut last = changed;
    while changed.elapsed() < SECOND * 4 {
        let asked = now();
        match read(ours, "a").await {
            Some(old) if old != value => last = asked,
            Some(_) => break,
            // Nothing can be read: that is not stale.
            None => {}
        }
        tokio::task::yield_now().await;
    }
    last - changed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_near_is_not_given_for_longer_than_is_promised() {
    let Scene { server: _server, proxy, caches, truth } = scene().await;
    let (ours, theirs) = (near(&caches), near(&truth));
    let mut value = 0;
    let stored = async |value: u64| {
        theirs.set("a", &value).await.expect("stored");
        kept(&ours, "a", value).await;
    };
    let mut next = || {
        value += 1;
        value
    };
    let mut usual = Vec::new();
    for _ in 0..100 {
        stored(next()).await;
        usual.push(staleness(&ours, &theirs, next()).await);
    }
    usual.sort_unstable();
    for fault in ["cut", "half-open", "delayed by 2 s"] {
        stored(next()).await;
        match fault {
            "cut" => proxy.cut_all(),
            "half-open" => proxy.black_hole(true),
            _ => proxy.delay_replies(SECOND * 2),
        }
        let value = next();
        let stale = staleness(&ours, &theirs, value).await;
        proxy.black_hole(false);
        proxy.delay_replies(Duration::ZERO);
        figures(&format!("{fault}: the old value is given for {stale:?}"));
        assert!(stale <= Caches::STALENESS, "{fault}: {stale:?}");
        // Nor does the old one come back when all is well.
        kept(&ours, "a", value).await;
    }
    let at = |part: usize| usual[(usual.len() - 1) * part / 100];
    figures(&format!("staleness p50 {:?}, p99 {:?}, max {:?}", at(50), at(99), at(100)));
    assert!(at(100) <= Caches::STALENESS, "{usual:?}");
    stored(next()).await;
}

#[tokio::test]
async fn a_first_look_that_is_given_up_leaves_one_listener_and_holds_nobody_up() {
    let Scene { server, proxy, caches, .. } = scene().await;
    let ours = near(&caches);
    proxy.delay_replies(SECOND / 2);
    let began = now();
    for _ in 0..5 {
        let _ = tokio::time::timeout(SECOND / 10, ours.get("a")).await;
    }
    proxy.delay_replies(Duration::ZERO);
    eventually(SOON, "it is read", async || ours.get("a").await.is_ok()).await;
    assert!(began.elapsed() < SOON);
    eventually(SOON, "one link tracks", async || {
        let list = server.command(&["CLIENT", "LIST"]).await.expect("an answer");
        let list = list.as_str().expect("a text");
        let of = |line: &&str| {
            line.split(' ').any(|field| field.starts_with("flags=") && field.contains('B'))
        };
        list.lines().filter(of).count() == 1
    })
    .await;
}

/// Waits until whatever was told before this is heard: nothing is read, as an answer to it may be
/// held up.
async fn hears(ours: &Cache<u64>, theirs: &Cache<u64>) {
    theirs.set("told", &1).await.expect("stored");
    eventually(SOON, "it is heard", async || {
        tokio::time::timeout(SECOND / 50, ours.get("told")).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn a_value_that_is_read_before_a_change_and_comes_after_it_is_not_kept() {
    let server = server().await;
    warm(&server).await;
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    // An answer that is held is waited for.
    let patient = config(&proxy.url()).with_command_timeout(SOON);
    let truth = over(&server.url(), patient.keyspace().prefix()).await;
    let caches = Caches::redis(&Connection::connect(patient).await.expect("a connection"));
    let (ours, theirs) = (near(&caches), near(&truth));
    theirs.set("told", &0).await.expect("stored");
    for of_the_tag in [false, true] {
        let entry = if of_the_tag { Entry::new().tags(["t"]) } else { Entry::new() };
        theirs.set_with("a", &1, entry).await.expect("stored");
        kept(&ours, "told", u64::from(of_the_tag)).await;
        // The answer is held, be it the value's or that of its tag's version.
        let held = proxy.rule(if of_the_tag {
            Rule::script(sha("cache.fetch")).on_reply().nth(1).hold()
        } else {
            let is_read =
                |args: &[bytes::Bytes]| args[0] == "GET" && args[1].ends_with(b":val:n:a");
            Rule::matching(is_read).on_reply().nth(1).hold()
        });
        let asking = ours.clone();
        let read = background(async move { asking.get("a").await });
        held.wait_hit().await;
        if of_the_tag {
            let ended = truth.invalidate_tag("t").await.expect("an answer");
            assert_eq!(ended, Invalidated::Done(1));
        } else {
            theirs.set("a", &2).await.expect("stored");
        }
        hears(&ours, &theirs).await;
        held.remove();
        let hit = read.await.expect("no panic").expect("an answer");
        assert_eq!(hit.map(|hit| *hit), Some(1), "it was asked for before");
        let found = ours.get("a").await.expect("an answer").map(|hit| *hit);
        assert_eq!(found, (!of_the_tag).then_some(2), "of the tag: {of_the_tag}");
        theirs.delete("a").await.expect("an answer");
    }
}
