//! Very many entries: what ending them costs, and how many of the reads of a usual load are hits.

use super::{
    SECOND, background, build, figures, key_at, long, now, over, patient, percentile, set, warm,
};
use crate::topology::{config, server};
use coordinator_cache::{Cache, Caches, Compression, Invalidated, Near, SCRIPTS};
use coordinator_harness::{RedisServer, Resp};
use futures::future::join_all;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::{ops::Range, time::Duration};

/// How many are stored or read at once.
const AT_ONCE: usize = 2000;

fn names(numbers: Range<usize>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

/// Stores so many.
async fn stored(cache: &Cache<u64>, count: usize) {
    for from in (0..count).step_by(AT_ONCE) {
        let names = names(from..count.min(from + AT_ONCE));
        let values: Vec<(&str, &u64)> = names.iter().map(|name| (name.as_str(), &7)).collect();
        for stored in cache.set_many(&values).await {
            stored.expect("stored");
        }
    }
}

/// How many of them are there.
async fn found(cache: &Cache<u64>, count: usize) -> usize {
    let mut found = 0;
    for from in (0..count).step_by(AT_ONCE) {
        let names = names(from..count.min(from + AT_ONCE));
        let read = cache.get_many(&names).await.expect("an answer");
        found += read.iter().flatten().count();
    }
    found
}

/// What ending a tag costs, in the median: commands of the server, and time.
async fn cost(server: &RedisServer, caches: &Caches, tags: &[String]) -> (u64, Duration) {
    let (mut calls, mut times) = (Vec::new(), Vec::new());
    for tag in tags {
        let (before, began) = (server.calls().await, now());
        let ended = caches.invalidate_tag(tag).await.expect("an answer");
        times.push(began.elapsed());
        assert_eq!(ended, Invalidated::Done(1), "{tag}");
        calls.push(server.calls().await - before);
    }
    calls.sort_unstable();
    assert_eq!(calls.first(), calls.last(), "each costs the same");
    (calls[0], percentile(&mut times, 50))
}

#[tokio::test]
async fn a_tag_costs_the_same_whatever_has_it() {
    let entries = if long() { 1_000_000 } else { 10_000 };
    let server = server().await;
    warm(&server).await;
    let caches = patient(&server.url()).await;
    let tags = |of: &str| (0..5).map(|tag| format!("{of}:{tag}")).collect::<Vec<_>>();
    let few = build(caches.cache("few").with_tags(tags("few")));
    let many = build(caches.cache("many").with_tags(tags("many")));
    stored(&few, 10).await;
    let began = now();
    stored(&many, entries).await;
    figures(&format!("{entries} entries of five tags stored in {:?}", began.elapsed()));
    assert_eq!((found(&few, 10).await, found(&many, entries).await), (10, entries));
    let of_few = cost(&server, &caches, &tags("few")).await;
    let of_many = cost(&server, &caches, &tags("many")).await;
    figures(&format!(
        "to end a tag of 10 entries: {} commands, {:?}; of {entries}: {}, {:?}",
        of_few.0, of_few.1, of_many.0, of_many.1
    ));
    assert_eq!(of_few.0, of_many.0);
    // To touch them one by one would take a hundred times that, and more.
    assert!(of_many.1 < of_few.1 * 5, "{of_few:?} {of_many:?}");
    assert_eq!((found(&few, 10).await, found(&many, entries).await), (0, 0));
}

/// How long each of the commands took that are in the log, the slowest first, and its name.
async fn slow(server: &RedisServer) -> Vec<(Duration, String)> {
    let log = server.command(&["SLOWLOG", "GET", "-1"]).await.expect("an answer");
    let entries = log.as_array().expect("entries").iter().filter_map(Resp::as_array);
    let name = |sha: &str| match SCRIPTS.iter().find(|script| script.hash() == sha) {
        Some(script) => script.name().to_owned(),
        None => sha.to_owned(),
    };
    let mut entries: Vec<_> = entries
        .map(|entry| {
            let took = u64::try_from(entry[2].as_int().expect("a time")).expect("some time");
            let words = entry[3].as_array().expect("a command");
            let word = words.get(1).and_then(Resp::as_str).unwrap_or_default();
            (Duration::from_micros(took), name(word))
        })
        .collect();
    entries.sort_unstable_by(|a, b| b.cmp(a));
    server.command(&["SLOWLOG", "RESET"]).await.expect("an answer").ok().expect("it is empty");
    entries
}

/// Has a key hold so many bytes, which no cache would write.
async fn grow(server: &RedisServer, key: &str, length: i64) {
    let last = (length - 1).to_string();
    let grown = server.command(&["SETRANGE", key, &last, "x"]).await.expect("an answer");
    assert_eq!(grown.as_int(), Some(length));
}

#[tokio::test]
async fn a_sweep_of_very_many_keys_holds_the_server_up_for_no_moment() {
    const SLOW: Duration = Duration::from_millis(5);
    let (entries, length) = if long() { (1_000_000, 64 << 20) } else { (20_000, 8 << 20) };
    let server = server().await;
    warm(&server).await;
    let caches = patient(&server.url()).await;
    let cache = build::<u64>(caches.cache("n").with_compression(Compression::none()));
    stored(&cache, entries).await;
    for number in 0..4 {
        let name = format!("long:{number}");
        cache.set(&name, &7).await.expect("stored");
        let key = key_at(&server, &format!(":val:n:long%3A{number}")).await;
        grow(&server, &key, length).await;
    }
    set(&server, "slowlog-log-slower-than", "0").await;
    set(&server, "slowlog-max-len", "10000").await;
    // Servers free a text as they delete it, however long it is and by whichever command.
    grow(&server, "plain", length).await;
    slow(&server).await;
    server.command(&["UNLINK", "plain"]).await.expect("an answer").ok().expect("it is deleted");
    let plain = slow(&server).await.into_iter().find(|(_, of)| of == "plain").expect("logged").0;
    set(&server, "slowlog-log-slower-than", "1000").await;
    slow(&server).await;
    let (before, began) = (server.calls().await, now());
    let ended = cache.invalidate_pattern("*").await.expect("an answer");
    let (took, slow) = (began.elapsed(), slow(&server).await);
    let too_slow = slow.iter().filter(|(took, _)| *took >= SLOW).count();
    figures(&format!(
        "{ended} keys, four of {} MiB, ended in {took:?} by {} commands, of which {} took 1 ms or \
         more and {too_slow} took {SLOW:?}: {:?}; a plain UNLINK of such a value: {plain:?}",
        length >> 20,
        server.calls().await - before,
        slow.len(),
        &slow[..slow.len().min(6)],
    ));
    assert_eq!(ended, entries as u64 + 4);
    assert_eq!(found(&cache, 2000).await, 0);
    // Beside other tests a server may stand still for longer than any command takes.
    let bound = if long() { SLOW } else { SLOW * 10 };
    assert!(slow.iter().all(|(took, _)| *took < bound + plain), "{slow:?}");
    assert!(!long() || too_slow <= 4, "{slow:?}");
}

/// Draws numbers below a count, the n-th in proportion to 1 / n.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(count: u32) -> Self {
        let mut sum = 0.0;
        let sums = (1..=count).map(|n| {
            sum += 1.0 / f64::from(n);
            sum
        });
        Self(sums.collect())
    }

    fn draw(&self, random: &mut StdRng) -> usize {
        let at = random.random::<f64>() * self.0.last().expect("some");
        self.0.partition_point(|sum| *sum < at)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn most_reads_of_a_skewed_load_are_hits() {
    let (keys, reads) = if long() { (100_000, 1_000_000) } else { (5_000, 50_000) };
    let server = server().await;
    let prefix = config(&server.url()).keyspace().prefix().to_owned();
    let zipf = std::sync::Arc::new(Zipf::new(keys));
    let (mut instances, mut readers) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let caches = over(&server.url(), &prefix).await;
        // A tenth of the keys are kept near.
        let near = Near::entries(u64::from(keys) / 10);
        instances.push(build::<u64>(caches.cache("n").with_near(near)));
    }
    for reader in 0..48 {
        let (cache, zipf) = (instances[reader % 3].clone(), zipf.clone());
        readers.push(background(async move {
            let mut random = StdRng::seed_from_u64(reader as u64);
            for _ in 0..reads / 48 {
                let key = zipf.draw(&mut random).to_string();
                // Some change what others read.
                if random.random_bool(0.002) {
                    cache.invalidate(&key).await.expect("an answer");
                }
                let load = cache.get_or_load(&key, |_| async { Ok::<u64, String>(7) });
                assert_eq!(*load.await.expect("it is loaded"), 7);
            }
        }));
    }
    let began = now();
    for reader in join_all(readers).await {
        reader.expect("no panic");
    }
    let (mut near, mut far, mut misses, mut loads) = (0, 0, 0, 0);
    for stats in instances.iter().map(Cache::stats) {
        (near, far) = (near + stats.near_hits, far + stats.far_hits);
        (misses, loads) = (misses + stats.misses, loads + stats.loads);
    }
    #[expect(clippy::cast_precision_loss, reason = "a share of some millions")]
    let rate = (near + far) as f64 / (near + far + misses) as f64;
    figures(&format!(
        "Zipf over {keys} keys from nothing, 3 instances, 1 in 500 a change: {near} hits near, \
         {far} far, {misses} misses, {loads} loads: {:.1} % hits, in {:?}",
        rate * 100.0,
        began.elapsed()
    ));
    assert!(rate > 0.85, "{rate}");
    assert!(began.elapsed() < SECOND * 120);
}
