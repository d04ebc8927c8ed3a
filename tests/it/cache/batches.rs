//! Many keys at once, by their names and by patterns.

use super::{SECOND, SOON, Stage, brings, held, text};
use coordinator_cache::{Invalidated, LoadError, Near};
use coordinator_harness::eventually;
use std::{collections::HashMap, sync::Arc};

pub(super) async fn patterns_end_what_they_match_and_nothing_else(stage: Stage) {
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

pub(super) async fn several_keys_are_read_stored_loaded_and_ended_at_once(stage: Stage) {
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
