//! What caches count, read as an exporter reads it.

use coordinator_cache::{Cache, Caches, Entry, METRICS, Near, Stats};
use coordinator_core::{clock::ManualClock, telemetry::describe};
use coordinator_harness::eventually;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(20);

/// All that was recorded so far, under name and labels.
struct Read {
    snapshotter: Snapshotter,
    counts: BTreeMap<String, u64>,
    seconds: BTreeMap<String, Vec<f64>>,
}

impl Read {
    fn refresh(&mut self) {
        for (key, _, _, value) in self.snapshotter.snapshot().into_vec() {
            let labels = key.key().labels().map(|label| (label.key(), label.value()));
            let labels: BTreeMap<&str, &str> = labels.collect();
            let name = key.key().name().strip_prefix("coordinator_cache_");
            let Some(name) = name else { continue };
            let name = format!("{name} {labels:?}");
            match value {
                DebugValue::Counter(count) => *self.counts.entry(name).or_default() += count,
                DebugValue::Histogram(values) => {
                    let values = values.into_iter().map(f64::from);
                    self.seconds.entry(name).or_default().extend(values);
                }
                DebugValue::Gauge(_) => panic!("caches have no level: {name}"),
            }
        }
    }

    /// A counter of the namespace, with one more label or none.
    fn count(&self, name: &str, label: &str, value: &str) -> u64 {
        let labels = BTreeMap::from([("namespace", "n"), (label, value)]);
        let labels: BTreeMap<_, _> =
            labels.into_iter().filter(|(key, _)| !key.is_empty()).collect();
        self.counts.get(&format!("{name} {labels:?}")).copied().unwrap_or_default()
    }

    /// That the figures are these, those of [`Stats`] too.
    #[track_caller]
    fn is(&mut self, stats: Stats, reads: [u64; 4], loads: [u64; 3]) {
        self.refresh();
        let read = ["near", "far", "miss", "stale"];
        let read = read.map(|outcome| self.count("reads_total", "outcome", outcome));
        let loaded = ["begun", "failed", "refused"];
        let loaded = loaded.map(|outcome| self.count("loads_total", "outcome", outcome));
        assert_eq!((read, loaded), (reads, loads), "{:#?}", self.counts);
        assert_eq!([stats.near_hits, stats.far_hits, stats.misses, stats.stale], reads);
        assert_eq!([stats.loads, stats.failed, stats.refused], loads);
        let bytes = ["raw", "stored"].map(|form| self.count("bytes_total", "form", form));
        assert_eq!([stats.bytes_in, stats.bytes_stored], bytes);
        assert_eq!(stats.bytes_saved(), bytes[0].saturating_sub(bytes[1]));
        assert_eq!(stats.unreadable, self.count("unreadable_total", "", ""));
    }
}

fn cache(caches: &Caches, near: Near) -> Cache<String> {
    let cache = caches.cache("n").with_ttl(SECOND * 60).with_stale(SECOND * 60);
    cache.with_early_refresh(0.0).with_near(near).build().expect("a cache")
}

async fn fails(cache: &Cache<String>, key: &str) -> bool {
    cache.get_or_load(key, |_| async { Err::<String, _>("away") }).await.is_err()
}

#[tokio::test]
async fn metrics_are_as_the_manual_says() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().expect("the only recorder");
    describe(METRICS);
    let clock = ManualClock::new();
    let caches = Caches::embedded_with_clock(Arc::new(clock.clone()));
    let far = cache(&caches, Near::Off);
    let mut read = Read { snapshotter, counts: BTreeMap::new(), seconds: BTreeMap::new() };
    read.is(far.stats(), [0; 4], [0; 3]);

    assert!(far.get("a").await.expect("memory").is_none());
    far.set("a", &"x".repeat(9000)).await.expect("stored");
    far.get("a").await.expect("memory").expect("a value");
    read.is(far.stats(), [0, 1, 1, 0], [0; 3]);
    assert_eq!(far.stats().bytes_in, 9003);
    assert!(far.stats().bytes_saved() > 8500, "{:?}", far.stats());

    let loaded = far.get_or_load("b", |_| async { Ok::<_, String>("y".to_owned()) }).await;
    assert!(!loaded.expect("it is loaded").is_stale());
    assert!(fails(&far, "c").await);
    read.is(far.stats(), [0, 1, 3, 0], [2, 1, 0]);

    clock.advance(SECOND * 67);
    assert!(!fails(&far, "a").await, "the stale value is given");
    read.is(far.stats(), [0, 1, 4, 1], [3, 2, 0]);
    let seconds = r#"stale_seconds {"namespace": "n"}"#;
    assert_eq!(read.seconds.get(seconds), Some(&vec![7.0]));
    // Within the throttle nobody is asked again; it is stale all the same.
    clock.advance(SECOND / 2);
    assert!(!fails(&far, "a").await);
    read.is(far.stats(), [0, 1, 5, 2], [3, 2, 0]);
    assert_eq!(read.seconds.get(seconds), Some(&vec![7.0, 7.5]));
    // One that was expired by hand does not say since when.
    far.set_with("d", &"z".to_owned(), Entry::new()).await.expect("stored");
    far.expire("d").await.expect("memory");
    assert!(!fails(&far, "d").await);
    read.is(far.stats(), [0, 1, 6, 3], [4, 3, 0]);
    assert_eq!(read.seconds.get(seconds).map(Vec::len), Some(2));

    // Ended while it was loaded: given, and not stored.
    let ended = far.clone();
    let load = |_| async move {
        ended.invalidate("e").await.expect("memory");
        Ok::<_, String>("w".to_owned())
    };
    far.get_or_load("e", load).await.expect("it is loaded");
    read.is(far.stats(), [0, 1, 7, 3], [5, 3, 1]);
    near(&caches, &mut read).await;
}

/// Another cache of the namespace: its figures come on top in the metrics, and stand alone in its
/// own.
async fn near(caches: &Caches, read: &mut Read) {
    let before = read.count("reads_total", "outcome", "near");
    let near = cache(caches, Near::entries(10));
    near.set("f", &"v".to_owned()).await.expect("stored");
    eventually(SOON, "it is kept near", async || {
        near.get("f").await.expect("memory").expect("a value");
        near.stats().near_hits > 0
    })
    .await;
    read.refresh();
    assert_eq!(read.count("reads_total", "outcome", "near"), before + near.stats().near_hits);
    // Of another type: it cannot be read.
    let numbers = caches.cache::<u8>("n").build().expect("a cache");
    assert!(numbers.get("f").await.expect("memory").is_none());
    read.refresh();
    assert_eq!((numbers.stats().unreadable, read.count("unreadable_total", "", "")), (1, 1));
}
