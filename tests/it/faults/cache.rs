//! Faults of the server and of the link, with the outcome that caches promise.

use super::{SECOND, background, connect, figures, now};
use crate::topology::{builder, config};
use coordinator_cache::{Cache, CacheBuilder, Caches, Invalidated, Near};
use coordinator_core::redis::{Connection, Script};
use coordinator_harness::{Proxy, RedisServer, eventually, rng};
use futures::future::join_all;
use rand::RngExt as _;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

const SOON: Duration = Duration::from_secs(20);

/// A server, a proxy before it, caches through the proxy, and caches that nothing disturbs.
struct Scene {
    server: RedisServer,
    proxy: Proxy,
    caches: Caches,
    truth: Caches,
}

async fn scene() -> Scene {
    let server = builder().start().await.expect("a server");
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let ours = connect(&proxy.url()).await;
    let prefix = ours.keyspace().prefix().to_owned();
    let theirs = config(&server.url()).with_prefix(&prefix).expect("a prefix");
    let theirs = Connection::connect(theirs).await.expect("a connection");
    Scene { caches: Caches::redis(&ours), truth: Caches::redis(&theirs), server, proxy }
}

fn near(caches: &Caches) -> Cache<u64> {
    build(caches.cache("n").with_near(Near::entries(10_000)))
}

fn build(builder: CacheBuilder<u64>) -> Cache<u64> {
    builder.with_early_refresh(0.0).build().expect("a cache")
}

async fn read(cache: &Cache<u64>, key: &str) -> Option<u64> {
    cache.get(key).await.ok().flatten().filter(|hit| !hit.is_stale()).map(|hit| *hit)
}

/// What a row of a database says, changed by whoever then ends its cached value.
#[derive(Default)]
struct Row(AtomicU64);

/// One load of a row against one change of it, which may come at any moment; whether some instance
/// gives the old value in the end.
async fn race(instances: &[Cache<u64>], naive: bool, round: u64, pause: u32) -> bool {
    let (row, key) = (Arc::new(Row::default()), round.to_string());
    let some = usize::try_from(round).expect("few");
    let load = async |cache: &Cache<u64>| {
        let row = row.clone();
        let loader = move || async move {
            let value = row.0.load(Ordering::SeqCst);
            for _ in 0..pause % 5 {
                tokio::task::yield_now().await;
            }
            value
        };
        if naive {
            if read(cache, &key).await.is_none() {
                let value = loader().await;
                cache.set(&key, &value).await.expect("stored");
            }
        } else {
            let hit = cache.get_or_load(&key, |_| async { Ok::<_, String>(loader().await) }).await;
            hit.expect("it is loaded");
        }
    };
    let change = async {
        for _ in 0..pause % 7 {
            tokio::task::yield_now().await;
        }
        row.0.store(1, Ordering::SeqCst);
        let done = instances[some % instances.len()].invalidate(&key).await.expect("an answer");
        assert!(matches!(done, Invalidated::Done(_)), "{done:?}");
    };
    let (first, second) = (&instances[(some + 1) % 3], &instances[(some + 2) % 3]);
    futures::join!(load(first), load(second), change);
    // Whoever reads now fills his near cache, for good if a change went unheard.
    join_all(instances.iter().map(|cache| read(cache, &key))).await;
    let old = async || {
        let read = join_all(instances.iter().map(|cache| read(cache, &key))).await;
        read.contains(&Some(0))
    };
    let began = now();
    while old().await {
        if began.elapsed() > Caches::STALENESS {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_wins_every_race_against_a_load() {
    let long = std::env::var_os("COORDINATOR_LONG").is_some();
    let rounds = if long { 50_000 } else { 5_000 };
    let server = builder().start().await.expect("a server");
    let first = config(&server.url());
    let prefix = first.keyspace().prefix().to_owned();
    let mut instances = Vec::new();
    for _ in 0..3 {
        let config = config(&server.url()).with_prefix(&prefix).expect("a prefix");
        let connection = Connection::connect(config).await.expect("a connection");
        instances.push(near(&Caches::redis(&connection)));
    }
    let mut random = rng();
    let mut control = 0;
    for round in 0..200 {
        control += u32::from(race(&instances, true, 1_000_000 + round, random.random()).await);
        if control > 2 {
            break;
        }
    }
    let mut stale = 0;
    for rounds in (0..rounds).collect::<Vec<u64>>().chunks(50) {
        let races = rounds.iter().map(|round| race(&instances, false, *round, random.random()));
        stale += join_all(races).await.into_iter().filter(|stale| *stale).count();
    }
    let kept: u64 = instances.iter().map(|cache| cache.stats().near_hits).sum();
    figures(&format!("{stale} of {rounds} stale for ever, naively {control} of at most 200"));
    assert!(control > 0, "races that harm nobody show nothing");
    assert!(kept > 0, "nothing was kept near");
    assert_eq!(stale, 0);
}

#[tokio::test]
async fn a_near_cache_learns_that_a_server_forgot_everything() {
    let Scene { server, proxy: _proxy, caches, truth } = scene().await;
    let (ours, theirs) = (near(&caches), near(&truth));
    for round in 0..3 {
        ours.set("a", &round).await.expect("stored");
        for cache in [&ours, &theirs] {
            eventually(SOON, "it is kept near", async || {
                let before = cache.stats().near_hits;
                read(cache, "a").await == Some(round) && cache.stats().near_hits > before
            })
            .await;
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
async fn staleness(ours: &Cache<u64>, theirs: &Cache<u64>, value: u64) -> Duration {
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
    let kept = async |value: u64| {
        theirs.set("a", &value).await.expect("stored");
        eventually(SOON, "it is kept near", async || {
            let before = ours.stats().near_hits;
            read(&ours, "a").await == Some(value) && ours.stats().near_hits > before
        })
        .await;
    };
    let mut next = || {
        value += 1;
        value
    };
    let mut usual = Vec::new();
    for _ in 0..100 {
        kept(next()).await;
        usual.push(staleness(&ours, &theirs, next()).await);
    }
    usual.sort_unstable();
    for fault in ["cut", "half-open", "delayed by 2 s"] {
        kept(next()).await;
        match fault {
            "cut" => proxy.cut_all(),
            "half-open" => proxy.black_hole(true),
            _ => proxy.delay_replies(SECOND * 2),
        }
        let stale = staleness(&ours, &theirs, next()).await;
        proxy.black_hole(false);
        proxy.delay_replies(Duration::ZERO);
        figures(&format!("{fault}: the old value is given for {stale:?}"));
        assert!(stale <= Caches::STALENESS, "{fault}: {stale:?}");
    }
    let at = |part: usize| usual[(usual.len() - 1) * part / 100];
    figures(&format!("staleness p50 {:?}, p99 {:?}, max {:?}", at(50), at(99), at(100)));
    assert!(at(100) <= Caches::STALENESS, "{usual:?}");
    kept(next()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_changes_is_outlived() {
    static WRITE: Script = Script::new(
        "test.flood",
        "for n = 1, 20000 do redis.call('SET', KEYS[1] .. n, '\\1', 'PX', 60000) end return 1",
    );
    let Scene { server, proxy: _proxy, caches, .. } = scene().await;
    let ours = near(&caches);
    ours.set("a", &1).await.expect("stored");
    let connection = connect(&server.url()).await;
    let keys = server.command(&["KEYS", "*:val:n:a"]).await.expect("an answer");
    let key = keys.as_array().expect("keys")[0].as_str().expect("a key").to_owned();
    let connection = {
        let slow = connection.config().clone().with_command_timeout(SECOND * 20);
        Connection::connect(slow).await.expect("a connection")
    };
    for _ in 0..10 {
        connection.run(&WRITE, vec![key.clone()], Vec::new()).await.expect("a flood");
    }
    // Still alive: what is changed after it is heard of.
    for value in 2..20 {
        ours.set("a", &value).await.expect("stored");
        eventually(SOON, "it is kept near again", async || {
            let before = ours.stats().near_hits;
            read(&ours, "a").await == Some(value) && ours.stats().near_hits > before
        })
        .await;
    }
}

#[tokio::test]
async fn invalidations_without_a_server_are_made_up_for() {
    let Scene { server: _server, proxy, caches, truth } = scene().await;
    let (ours, theirs) = (near(&caches), build(truth.cache("n")));
    let tagged = coordinator_cache::Entry::new().tags(["t"]);
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
        let entry = coordinator_cache::Entry::new().tags([tag]).with_stale(SECOND * 60);
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

#[test]
fn a_load_whose_holder_died_is_taken_over_within_its_lease() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().expect("a runtime")
    };
    let (alive, dying) = (runtime(), runtime());
    let lease = SECOND;
    let (server, prefix) = alive.block_on(async {
        let server = builder().start().await.expect("a server");
        (server, config("redis://127.0.0.1").keyspace().prefix().to_owned())
    });
    let cache = async || {
        let config = config(&server.url()).with_prefix(&prefix).expect("a prefix");
        let connection = Connection::connect(config).await.expect("a connection");
        build(Caches::redis(&connection).cache("n").with_lease(lease))
    };
    let begun = Arc::new(AtomicBool::new(false));
    dying.block_on(async {
        let (cache, begun) = (cache().await, begun.clone());
        let told = begun.clone();
        drop(background(async move {
            let load = cache.get_or_load("a", |_| async move {
                told.store(true, Ordering::SeqCst);
                std::future::pending::<Result<u64, String>>().await
            });
            let _ = load.await;
        }));
        eventually(SOON, "it is loading", async || begun.load(Ordering::SeqCst)).await;
    });
    let died = now();
    dying.shutdown_background();
    alive.block_on(async {
        let cache = cache().await;
        let hit = cache.get_or_load("a", |_| async { Ok::<_, String>(2) }).await;
        assert_eq!(*hit.expect("it is loaded"), 2);
        figures(&format!("taken over after {:?}, of a lease of {lease:?}", died.elapsed()));
        assert!(died.elapsed() < lease + SECOND / 2, "{:?}", died.elapsed());
    });
}
