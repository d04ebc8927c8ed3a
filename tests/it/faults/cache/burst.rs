//! More changes at once than are heard in time.

use super::{
    Scene, figures, kept, key_at, long, near, near::staleness, now, over, read, scene, set,
};
use crate::topology::{builder, config};
use coordinator_cache::{Cache, Caches, Hearing};
use coordinator_harness::{RedisServer, eventually};
use std::time::Duration;

/// How many keys a script changes.
const AT_ONCE: u64 = 20_000;

/// Changes so many keys that begin so.
async fn flood(server: &RedisServer, begins: &str, changes: u64) {
    let script = "for n = 1, ARGV[1] do redis.call('SET', KEYS[1] .. n, '\\1', 'PX', 60000) end";
    let at_once = AT_ONCE.to_string();
    for _ in 0..changes / AT_ONCE {
        let written = server.command(&["EVAL", script, "1", begins, &at_once]).await;
        written.expect("an answer").ok().expect("they are written");
    }
}

/// Later changes are heard of as ever; the longest that an old value was given.
async fn hears_on(ours: &Cache<u64>, theirs: &Cache<u64>) -> Duration {
    let mut longest = Duration::ZERO;
    for round in 0..20 {
        let value = 1000 + 2 * round;
        theirs.set("a", &value).await.expect("stored");
        kept(ours, "a", value).await;
        longest = longest.max(staleness(ours, theirs, value + 1).await);
    }
    assert!(longest <= Caches::STALENESS, "{longest:?}");
    longest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_changes_is_outlived() {
    let Scene { server, proxy: _proxy, caches, truth } = scene().await;
    let (ours, theirs) = (near(&caches), near(&truth));
    theirs.set("a", &1).await.expect("stored");
    kept(&ours, "a", 1).await;
    flood(&server, &key_at(&server, ":val:n:a").await, 10 * AT_ONCE).await;
    hears_on(&ours, &theirs).await;
}

/// An instance stands still while others change all that it keeps, in the midst of a flood.
fn stands_still(changes: u64, cut_off: bool) {
    const KEYS: u64 = 200;
    let fast = {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().expect("a runtime")
    };
    let slow = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (server, prefix, theirs) = fast.block_on(async {
        let server = builder().start().await.expect("a server");
        let prefix = config(&server.url()).keyspace().prefix().to_owned();
        let theirs = near(&over(&server.url(), &prefix).await);
        if cut_off {
            set(&server, "client-output-buffer-limit", "normal 1mb 1mb 1").await;
        }
        (server, prefix, theirs)
    });
    slow.expect("a runtime").block_on(async {
        let ours = near(&over(&server.url(), &prefix).await);
        let keys: Vec<String> = (0..KEYS).map(|key| key.to_string()).collect();
        theirs.set("calm", &0).await.expect("stored");
        for key in &keys {
            theirs.set(key, &0).await.expect("stored");
            kept(&ours, key, 0).await;
        }
        kept(&ours, "calm", 0).await;
        if ours.stats().hearing == Hearing::Messages {
            // Nobody is told of what scripts of others write.
            return;
        }
        // Long names, so that no buffer on the way holds all.
        let padding = if cut_off { "x".repeat(400) } else { "x".to_owned() };
        let begins = key_at(&server, ":val:n:calm").await + &padding;
        let burst = async {
            let began = now();
            let (before, after) = keys.split_at(keys.len() / 2);
            for key in before {
                theirs.set(key, &1).await.expect("stored");
            }
            flood(&server, &begins, changes).await;
            for key in after {
                theirs.set(key, &1).await.expect("stored");
            }
            began.elapsed()
        };
        // Nothing here reads until it is over.
        let took = std::thread::scope(|scope| {
            let thread = scope.spawn(|| fast.block_on(burst));
            thread.join().expect("no panic")
        });
        let woken = now();
        let mut old = 0;
        eventually(Caches::STALENESS, "nothing old is given", async || {
            let mut given = 0;
            for key in &keys {
                given += u64::from(read(&ours, key).await != Some(1));
            }
            old += given;
            given == 0
        })
        .await;
        let took = (took, woken.elapsed());
        let before = ours.stats();
        kept(&ours, "calm", 0).await;
        let flushed = ours.stats().far_hits > before.far_hits;
        figures(&format!(
            "{changes} changes in {:?}, cut off: {cut_off}; then all is new after {:?}, {old} old \
             or no values given; what did not change was forgotten: {flushed}; later changes: {:?}",
            took.0,
            took.1,
            hears_on(&ours, &theirs).await
        ));
        assert!(flushed || !cut_off, "INVALID: whoever is cut off forgets what is near");
    });
}

#[test]
fn a_burst_that_is_read_late_leaves_nothing_stale() {
    stands_still(if long() { 1_000_000 } else { 100_000 }, false);
}

#[test]
fn whoever_reads_so_late_that_the_server_cuts_him_off_has_nothing_stale() {
    stands_still(100_000, true);
}
