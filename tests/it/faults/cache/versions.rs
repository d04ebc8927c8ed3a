//! Two versions of a program at once, on the same keys: each has its own values or none.

use super::{Scene, background, build, figures, key_at, read, scene};
use coordinator_cache::Near;
use coordinator_harness::{RedisServer, Resp};
use futures::future::join_all;

#[tokio::test]
async fn two_versions_on_the_same_keys_never_see_each_others_values() {
    const CALLS: u64 = 200;
    const TASKS: u64 = 4;
    let Scene { server, proxy: _proxy, caches, truth } = scene().await;
    super::warm(&server).await;
    for near in [Near::Off, Near::entries(100)] {
        // A value of the one is a good value of the other, but for its version.
        let versions = [(&caches, 1), (&truth, 2)].map(|(caches, version)| {
            let cache = caches.cache::<u64>("n").with_near(near).with_schema(version);
            (build(cache), u64::from(version))
        });
        let before = (server.calls_of("evalsha").await, server.calls_of("unlink").await);
        let callers = versions.iter().flat_map(|(cache, version)| {
            (0..TASKS).map(move |task| {
                let (cache, version) = (cache.clone(), *version);
                background(async move {
                    for call in 0..CALLS {
                        let key = ((call + task) % 3).to_string();
                        let load = cache
                            .get_or_load(&key, move |_| async move { Ok::<u64, String>(version) });
                        assert_eq!(*load.await.expect("it is loaded"), version);
                        let found = read(&cache, &key).await;
                        assert!(found.is_none_or(|found| found == version), "{found:?}");
                    }
                })
            })
        });
        for caller in join_all(callers).await {
            caller.expect("no panic");
        }
        let after = (server.calls_of("evalsha").await, server.calls_of("unlink").await);
        let (scripts, deleted) = (after.0 - before.0, after.1 - before.1);
        let calls = 2 * TASKS * CALLS;
        let (ours, theirs) = (versions[0].0.stats(), versions[1].0.stats());
        figures(&format!(
            "{near:?}: {calls} calls of two versions: {scripts} scripts, {deleted} deletions, {} \
             and {} loads, {} and {} waits",
            ours.loads, theirs.loads, ours.waits, theirs.waits
        ));
        assert!(ours.unreadable > 0 && theirs.unreadable > 0, "INVALID: they never met");
        // A look and a load each, of which each meets the other's value twice or thrice.
        assert!(scripts < calls * 8 && deleted < calls * 3, "{scripts} {deleted}");
        quiet(&server).await;
    }
}

/// Nobody deletes what nobody asks for.
async fn quiet(server: &RedisServer) {
    let before = server.calls_of("unlink").await;
    tokio::time::sleep(super::SECOND * 2).await;
    assert_eq!(server.calls_of("unlink").await, before, "deleted while nobody asks");
}

#[tokio::test]
async fn a_newer_format_is_a_miss_and_deleted_once_for_each_look() {
    const ROUNDS: u64 = 200;
    let Scene { server, proxy: _proxy, caches, .. } = scene().await;
    let ours = build::<u64>(caches.cache("n"));
    ours.set("a", &1).await.expect("stored");
    let key = key_at(&server, ":val:n:a").await;
    let Resp::Bulk(Some(mut newer)) = server.command(&["GET", &key]).await.expect("an answer")
    else {
        panic!("it is there");
    };
    // What comes after the byte of its format may be anything.
    newer[1] += 1;
    let store = async |value: &[u8]| {
        let stored = server.command(&[b"SET", key.as_bytes(), value]).await;
        stored.expect("an answer").ok().expect("stored");
    };
    let before = server.calls_of("unlink").await;
    for round in 0..ROUNDS {
        store(&newer).await;
        assert_eq!(read(&ours, "a").await, None);
        store(&newer).await;
        let load = ours.get_or_load("a", move |_| async move { Ok::<u64, String>(round) });
        assert_eq!(*load.await.expect("it is loaded"), round);
        assert_eq!(read(&ours, "a").await, Some(round), "it is stored in its place");
    }
    let deleted = server.calls_of("unlink").await - before;
    figures(&format!("{deleted} deletions for {} values of a newer format", 2 * ROUNDS));
    assert_eq!((deleted, ours.stats().unreadable), (2 * ROUNDS, 2 * ROUNDS));
}
