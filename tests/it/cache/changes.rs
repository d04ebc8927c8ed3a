//! Tags, and changes that are heard of.

use super::{SOON, Stage, brings, held, text};
use coordinator_cache::{Compression, Entry, Hearing, Near};
use coordinator_harness::eventually;
use std::sync::Arc;

pub(super) async fn tags_end_what_has_them_in_every_cache(stage: Stage) {
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

pub(super) async fn a_tag_that_ends_while_a_value_is_loaded_ends_it(stage: Stage) {
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

pub(super) async fn a_near_cache_hears_of_the_changes_of_others(stage: Stage) {
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
