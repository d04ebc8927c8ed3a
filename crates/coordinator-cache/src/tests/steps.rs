//! What each step does, on both backends.

use super::{key, name, put, stage::Stage, token, value};
use crate::{
    backend::{Changed, Claimed, Feed, Key, Put, Version},
    envelope::{self, version_of},
};
use bytes::Bytes;
use std::{collections::HashSet, time::Duration};

on_every_backend! {
    a_value_is_kept_to_its_last_ms,
    many_are_read_in_their_order,
    many_are_written_and_the_later_of_two_stays,
    one_loads_and_the_others_see_its_lease,
    a_value_that_was_seen_or_cannot_be_read_may_be_loaded_anew,
    a_lease_is_renewed_and_given_up_by_its_owner_alone,
    only_the_lease_stores_what_was_loaded,
    filling_twice_is_filling_once,
    setting_ends_the_lease,
    invalidating_ends_the_lease,
    a_stale_value_keeps_its_life_and_loses_its_lease,
    what_cannot_be_read_goes_unless_it_is_another,
    a_tag_has_a_version_until_it_is_deleted,
    a_captured_tag_is_kept_long_enough,
    a_scan_finds_values_and_leases_of_its_namespace,
    a_marker_stays_the_same,
    whoever_listens_is_told_what_changed,
    whoever_hears_is_told_what_changed,
    it_is_known_for_a_minute_that_somebody_hears,
    the_time_is_the_backends,
}

async fn get(stage: &Stage, key: &Key) -> Option<Version> {
    let value = stage.backend.get(key).await.expect("an answer");
    value.map(|value| version_of(&value).expect("an envelope"))
}

async fn set(stage: &Stage, put: Put) {
    stage.backend.set(&put).await.expect("it is set");
}

async fn claim(stage: &Stage, number: u8, seen: Option<u64>) -> Claimed {
    let seen = seen.map(Version);
    stage.backend.claim(&key("a"), token(number), seen, 1000).await.expect("an answer")
}

async fn fill(stage: &Stage, number: u8, version: u64) -> bool {
    stage.backend.fill(&put("a", version), token(number)).await.expect("an answer")
}

async fn a_value_is_kept_to_its_last_ms(mut stage: Stage) {
    set(&stage, put("a", 1)).await;
    stage.elapse(10_000).await;
    assert_eq!(get(&stage, &key("a")).await, Some(Version(1)));
    stage.elapse(1).await;
    assert_eq!(get(&stage, &key("a")).await, None);
    set(&stage, Put { ttl_ms: u64::MAX, ..put("a", 1) }).await;
    stage.elapse(1000 * 24 * 60 * 60 * 1000).await;
    assert_eq!(get(&stage, &key("a")).await, Some(Version(1)));
}

async fn many_are_read_in_their_order(stage: Stage) {
    let keys: Vec<Key> = (0..600).map(|n| key(&(n % 400).to_string())).collect();
    for (number, key) in keys.iter().enumerate().take(400).step_by(3) {
        set(&stage, Put { key: key.clone(), ..put("a", 0x100 + number as u64) }).await;
    }
    let read = stage.backend.fetch(&keys).await.expect("an answer");
    for (number, value) in read.iter().enumerate() {
        let number = number % 400;
        let expected = (number % 3 == 0).then(|| value_of(number));
        assert_eq!(*value, expected, "{number}");
    }
    assert_eq!(read.len(), 600);
    assert!(stage.backend.fetch(&[]).await.expect("an answer").is_empty());
}

fn value_of(number: usize) -> Bytes {
    value(0x100 + number as u64)
}

async fn many_are_written_and_the_later_of_two_stays(stage: Stage) {
    let big: Bytes = [value(1).as_ref(), &vec![0; 300_000]].concat().into();
    let mut puts: Vec<Put> = (0..700).map(|n| put(&n.to_string(), n)).collect();
    puts.extend((0..8).map(|_| Put { value: big.clone(), ..put("big", 0) }));
    puts.push(put("3", 9000));
    assert_eq!(claim(&stage, 1, None).await, Claimed::Mine);
    puts.push(put("a", 5));
    let done = stage.backend.set_many(&puts).await;
    assert!(done.len() == puts.len() && done.iter().all(Result::is_ok), "{done:?}");
    for number in [0, 1, 2, 699] {
        assert_eq!(get(&stage, &key(&number.to_string())).await, Some(Version(number)));
    }
    assert_eq!(get(&stage, &key("3")).await, Some(Version(9000)));
    assert_eq!(stage.backend.get(&key("big")).await.expect("an answer"), Some(big));
    assert!(!fill(&stage, 1, 6).await, "its lease ended");
    assert!(stage.backend.set_many(&[]).await.is_empty());
}

async fn one_loads_and_the_others_see_its_lease(mut stage: Stage) {
    assert_eq!(claim(&stage, 1, None).await, Claimed::Mine);
    stage.elapse(400).await;
    assert_eq!(claim(&stage, 2, None).await, Claimed::Held { left_ms: 600 });
    // Its own lease it finds, and that begins anew.
    assert_eq!(claim(&stage, 1, None).await, Claimed::Mine);
    stage.elapse(1000).await;
    assert_eq!(claim(&stage, 2, None).await, Claimed::Held { left_ms: 0 });
    stage.elapse(1).await;
    assert_eq!(claim(&stage, 2, None).await, Claimed::Mine);
    let holder = async || stage.backend.holder(&key("a")).await.expect("an answer");
    assert_eq!(holder().await, Some(token(2)));
    assert!(!fill(&stage, 1, 1).await);
    assert!(fill(&stage, 2, 2).await);
    assert_eq!(holder().await, None);
    assert_eq!(claim(&stage, 1, None).await, Claimed::Value(value(2)));
}

async fn a_value_that_was_seen_or_cannot_be_read_may_be_loaded_anew(stage: Stage) {
    set(&stage, put("a", 7)).await;
    assert_eq!(claim(&stage, 1, Some(8)).await, Claimed::Value(value(7)));
    assert_eq!(claim(&stage, 1, None).await, Claimed::Value(value(7)));
    assert_eq!(claim(&stage, 1, Some(7)).await, Claimed::Mine);
    // While one loads, whoever saw nothing gets the old value.
    assert_eq!(claim(&stage, 2, None).await, Claimed::Value(value(7)));
    let strange = Bytes::from_static(b"\x01text of somebody else, longer than a head is long");
    for value in [strange, value(7).slice(..envelope::HEAD - 1)] {
        set(&stage, Put { value, ..put("a", 0) }).await;
        assert_eq!(claim(&stage, 1, None).await, Claimed::Mine);
    }
    let cut = value(7).slice(..envelope::HEAD);
    set(&stage, Put { value: cut.clone(), ..put("a", 0) }).await;
    assert_eq!(claim(&stage, 1, None).await, Claimed::Value(cut));
    assert_eq!(claim(&stage, 1, Some(7)).await, Claimed::Mine);
}

async fn a_lease_is_renewed_and_given_up_by_its_owner_alone(mut stage: Stage) {
    let (key, backend) = (key("a"), stage.backend.clone());
    assert_eq!(claim(&stage, 1, None).await, Claimed::Mine);
    stage.elapse(900).await;
    assert!(!backend.renew(&key, token(2), 5000).await.expect("an answer"));
    assert!(backend.renew(&key, token(1), 1000).await.expect("an answer"));
    stage.elapse(900).await;
    assert_eq!(claim(&stage, 2, None).await, Claimed::Held { left_ms: 100 });
    assert!(!backend.release(&key, token(2)).await.expect("an answer"));
    assert!(backend.release(&key, token(1)).await.expect("an answer"));
    assert!(!backend.release(&key, token(1)).await.expect("an answer"));
    assert!(!backend.renew(&key, token(1), 1000).await.expect("an answer"));
    assert_eq!(claim(&stage, 2, None).await, Claimed::Mine);
}

async fn only_the_lease_stores_what_was_loaded(mut stage: Stage) {
    assert!(!fill(&stage, 1, 1).await, "nobody has a lease");
    assert_eq!(get(&stage, &key("a")).await, None);
    claim(&stage, 1, None).await;
    assert!(!fill(&stage, 2, 2).await, "another has it");
    assert!(fill(&stage, 1, 1).await);
    assert_eq!(get(&stage, &key("a")).await, Some(Version(1)));
    // It ended with that.
    assert!(!fill(&stage, 1, 3).await);
    stage.elapse(10_001).await;
    assert_eq!(get(&stage, &key("a")).await, None, "for its ttl");
}

async fn filling_twice_is_filling_once(stage: Stage) {
    claim(&stage, 1, None).await;
    assert!(fill(&stage, 1, 1).await);
    assert!(fill(&stage, 1, 1).await, "the first answer was lost");
    assert!(!fill(&stage, 1, 2).await);
    stage.backend.invalidate(&[key("a")]).await.expect("an answer");
    assert!(!fill(&stage, 1, 1).await, "it is gone meanwhile");
    assert_eq!(get(&stage, &key("a")).await, None);
    // What is no envelope is never the same.
    let strange = Put { value: Bytes::from_static(b"\x01x"), ..put("a", 0) };
    set(&stage, strange.clone()).await;
    assert!(!stage.backend.fill(&strange, token(1)).await.expect("an answer"));
}

async fn setting_ends_the_lease(stage: Stage) {
    claim(&stage, 1, None).await;
    set(&stage, put("a", 2)).await;
    assert!(!fill(&stage, 1, 1).await);
    assert_eq!(get(&stage, &key("a")).await, Some(Version(2)));
}

async fn invalidating_ends_the_lease(stage: Stage) {
    set(&stage, put("a", 1)).await;
    set(&stage, put("b", 1)).await;
    claim(&stage, 1, Some(1)).await;
    let keys = [key("a"), key("b"), key("c"), key("a")];
    assert_eq!(stage.backend.invalidate(&keys).await.expect("an answer"), 2);
    assert!(!fill(&stage, 1, 2).await);
    for key in &keys {
        assert_eq!(get(&stage, key).await, None);
    }
    // A lease alone is no value.
    claim(&stage, 1, None).await;
    assert_eq!(stage.backend.invalidate(&keys).await.expect("an answer"), 0);
    assert!(!fill(&stage, 1, 2).await);
    assert_eq!(stage.backend.invalidate(&[]).await.expect("an answer"), 0);
}

async fn a_stale_value_keeps_its_life_and_loses_its_lease(mut stage: Stage) {
    set(&stage, put("a", 1)).await;
    claim(&stage, 1, Some(1)).await;
    let strange = Bytes::from_static(b"\x01text of somebody else, longer than a head is long");
    set(&stage, Put { value: strange.clone(), ..put("b", 0) }).await;
    let short = value(1).slice(..envelope::HEAD - 1);
    set(&stage, Put { value: short.clone(), ..put("c", 0) }).await;
    stage.elapse(4000).await;
    let keys = [key("a"), key("b"), key("c"), key("d")];
    assert_eq!(stage.backend.expire(&keys).await.expect("an answer"), 1);
    assert!(!fill(&stage, 1, 2).await);
    let stale = envelope::expired(&value(1)).expect("an envelope");
    let found = stage.backend.fetch(&keys).await.expect("an answer");
    assert_eq!(found, [Some(stale), Some(strange), Some(short), None]);
    stage.elapse(6000).await;
    assert!(get(&stage, &key("a")).await.is_some());
    stage.elapse(1).await;
    assert_eq!(get(&stage, &key("a")).await, None);
    // A load in flight of what is not there ends, too.
    claim(&stage, 1, None).await;
    assert_eq!(stage.backend.expire(&keys).await.expect("an answer"), 0);
    assert!(!fill(&stage, 1, 2).await);
}

async fn what_cannot_be_read_goes_unless_it_is_another(stage: Stage) {
    let (backend, key) = (&stage.backend, key("a"));
    let long: Bytes = vec![1; 1000].into();
    let mut other = long.to_vec();
    other[63] = 2;
    let other = Bytes::from(other);
    set(&stage, Put { value: long.clone(), ..put("a", 0) }).await;
    assert!(!backend.drop_if(&key, &other).await.expect("an answer"));
    assert!(!backend.drop_if(&key, &long.slice(..999)).await.expect("an answer"));
    assert!(backend.drop_if(&key, &long).await.expect("an answer"));
    assert_eq!(backend.get(&key).await.expect("an answer"), None);
    assert!(!backend.drop_if(&key, &long).await.expect("an answer"));
    assert!(!backend.drop_if(&key, &Bytes::new()).await.expect("an answer"), "there is none");
    let short = Bytes::from_static(b"\x01");
    set(&stage, Put { value: short.clone(), ..put("a", 0) }).await;
    assert!(backend.drop_if(&key, &short).await.expect("an answer"));
}

async fn a_tag_has_a_version_until_it_is_deleted(stage: Stage) {
    let (backend, tags) = (&stage.backend, [name("x"), name("crew:42"), name("z")]);
    assert_eq!(backend.versions(&tags).await.expect("an answer"), [None; 3]);
    let capture = async |tags: &[_], fresh| {
        backend.capture(tags, Version(fresh), 1000).await.expect("an answer")
    };
    assert_eq!(capture(&tags[1..2], 5).await, [Version(5)]);
    assert_eq!(capture(&tags[1..2], 6).await, [Version(5)]);
    let twice = [name("x"), name("crew:42"), name("x")];
    assert_eq!(capture(&twice, 7).await, [Version(7), Version(5), Version(7)]);
    let versions = backend.versions(&tags).await.expect("an answer");
    assert_eq!(versions, [Some(Version(7)), Some(Version(5)), None]);
    assert_eq!(backend.untag(&tags).await.expect("an answer"), 2);
    assert_eq!(backend.versions(&tags).await.expect("an answer"), [None; 3]);
    assert_eq!(capture(&tags[1..2], 8).await, [Version(8)]);
    assert!(capture(&[], 9).await.is_empty());
    // Tags and keys of one name stand apart.
    assert_eq!(backend.invalidate(&[key("crew:42")]).await.expect("an answer"), 0);
}

async fn a_captured_tag_is_kept_long_enough(mut stage: Stage) {
    let (backend, tags) = (stage.backend.clone(), [name("x")]);
    let capture = async |fresh, ttl_ms| {
        backend.capture(&tags, Version(fresh), ttl_ms).await.expect("an answer")[0].0
    };
    assert_eq!(capture(1, 1000).await, 1);
    stage.elapse(1000).await;
    assert_eq!(capture(2, 1000).await, 1, "for so long again");
    stage.elapse(1000).await;
    assert_eq!(capture(3, 10).await, 1, "and never shorter");
    assert_eq!(capture(3, 1000).await, 1);
    stage.elapse(1001).await;
    assert_eq!(capture(3, 5000).await, 1, "nor than is asked for now");
    stage.elapse(5000).await;
    assert_eq!(capture(4, 1).await, 1);
    stage.elapse(5001).await;
    assert_eq!(capture(5, 1000).await, 5);
}

async fn a_scan_finds_values_and_leases_of_its_namespace(stage: Stage) {
    let mut expected = HashSet::new();
    for number in 0..900 {
        set(&stage, put(&number.to_string(), number)).await;
        expected.insert(key(&number.to_string()));
    }
    let apart = Key::new(name("crews"), name("a"));
    set(&stage, Put { key: apart, ..put("a", 1) }).await;
    let nested = Key::new(name("other"), name("crew:a"));
    set(&stage, Put { key: nested, ..put("a", 1) }).await;
    stage.backend.capture(&[name("crew")], Version(1), 1000).await.expect("an answer");
    claim(&stage, 1, None).await;
    expected.insert(key("a"));
    let mut found = HashSet::new();
    for node in stage.backend.nodes() {
        let mut cursor = 0;
        loop {
            let page = stage.backend.scan(&name("crew"), node, cursor).await.expect("an answer");
            found.extend(page.keys);
            cursor = page.next;
            if cursor == 0 {
                break;
            }
        }
    }
    assert_eq!(found, expected);
}

async fn a_marker_stays_the_same(mut stage: Stage) {
    let backend = stage.backend.clone();
    let node = backend.nodes()[0];
    for fresh in [1, 2] {
        assert_eq!(backend.mark(node, Version(fresh)).await.expect("an answer"), Version(1));
    }
    for _ in 0..3 {
        stage.elapse(7 * 24 * 60 * 60 * 1000).await;
        assert_eq!(backend.mark(node, Version(3)).await.expect("an answer"), Version(1));
    }
    stage.flush().await;
    assert_eq!(backend.mark(node, Version(4)).await.expect("an answer"), Version(4));
}

/// Waits until all of these were told of.
async fn told(feed: &mut Box<dyn Feed>, changes: impl IntoIterator<Item = Changed>) {
    let mut missing: HashSet<Changed> = changes.into_iter().collect();
    let all = async {
        while !missing.is_empty() {
            missing.remove(&feed.next().await);
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(20), all).await;
    done.unwrap_or_else(|_| panic!("never told of {missing:?}"));
}

async fn changes(stage: &Stage, feed: &mut Box<dyn Feed>) {
    let (backend, key) = (&stage.backend, key("a"));
    let (value, lease) = (Changed::Value(key.clone()), Changed::Lease(key.clone()));
    let keys = [key.clone()];
    set(stage, put("a", 1)).await;
    told(feed, [value.clone()]).await;
    claim(stage, 1, Some(1)).await;
    assert!(fill(stage, 1, 2).await);
    told(feed, [value.clone(), lease.clone()]).await;
    claim(stage, 1, Some(2)).await;
    assert_eq!(backend.expire(&keys).await.expect("an answer"), 1);
    told(feed, [value.clone(), lease.clone()]).await;
    claim(stage, 1, Some(2)).await;
    assert_eq!(backend.invalidate(&keys).await.expect("an answer"), 1);
    told(feed, [value.clone(), lease.clone()]).await;
    claim(stage, 1, None).await;
    set(stage, put("a", 3)).await;
    told(feed, [value.clone(), lease.clone()]).await;
    claim(stage, 1, Some(3)).await;
    assert!(backend.release(&key, token(1)).await.expect("an answer"));
    told(feed, [lease]).await;
    let bytes = backend.get(&key).await.expect("an answer").expect("a value");
    assert!(backend.drop_if(&key, &bytes).await.expect("an answer"));
    told(feed, [value]).await;
    for _ in 0..2 {
        backend.capture(&[name("crew:42")], Version(1), 1000).await.expect("an answer");
        told(feed, [Changed::Tag(name("crew:42"))]).await;
        assert_eq!(backend.untag(&[name("crew:42")]).await.expect("an answer"), 1);
        told(feed, [Changed::Tag(name("crew:42"))]).await;
    }
    backend.mark(backend.nodes()[0], Version(1)).await.expect("an answer");
    told(feed, [Changed::Mark]).await;
}

async fn whoever_listens_is_told_what_changed(stage: Stage) {
    let mut feed = stage.backend.listen().await.expect("it listens");
    changes(&stage, &mut feed).await;
}

async fn whoever_hears_is_told_what_changed(stage: Stage) {
    let mut feed = stage.backend.hear().await.expect("it hears");
    changes(&stage, &mut feed).await;
}

async fn it_is_known_for_a_minute_that_somebody_hears(mut stage: Stage) {
    let backend = stage.backend.clone();
    let _feed = backend.hear().await.expect("it hears");
    for _ in 0..2 {
        stage.elapse(60_000).await;
        assert!(backend.keep_hearing().await.expect("an answer"));
    }
    if stage.embedded.is_none() {
        stage.elapse(60_001).await;
        assert!(!backend.keep_hearing().await.expect("an answer"));
        assert!(backend.keep_hearing().await.expect("an answer"));
    }
}

async fn the_time_is_the_backends(mut stage: Stage) {
    assert_eq!(stage.backend.now_ms(), stage.now_ms());
    set(&stage, put("a", 1)).await;
    for wrong in [-5000, 3_600_000] {
        stage.wrong_by(wrong);
        assert_eq!(stage.backend.now_ms(), stage.now_ms(), "whoever sets our clock");
        stage.elapse(10).await;
        stage.wrong_by(wrong);
        assert_eq!(stage.backend.now_ms(), stage.now_ms(), "whoever sets our clock");
    }
    #[cfg(feature = "redis")]
    if stage.embedded.is_none() {
        stage.server_is_ahead_by(-5000).await;
        set(&stage, put("a", 1)).await;
        assert_eq!(stage.backend.now_ms(), stage.now_ms(), "by set");
        stage.server_is_ahead_by(700).await;
        claim(&stage, 1, Some(1)).await;
        assert_eq!(stage.backend.now_ms(), stage.now_ms(), "by claim");
        stage.server_is_ahead_by(800).await;
        fill(&stage, 1, 1).await;
        assert_eq!(stage.backend.now_ms(), stage.now_ms(), "by fill");
        // Not asked for, but where this machine's clock was set: it may have slept.
        stage.server_is_ahead_by(90).await;
        stage.backend.learn().await.expect("an answer");
        assert_eq!(stage.backend.now_ms(), stage.now_ms() - 90);
        stage.wrong_by(500);
        stage.backend.learn().await.expect("an answer");
        assert_eq!(stage.backend.now_ms(), stage.now_ms(), "by asking");
    }
}
