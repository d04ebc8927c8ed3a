//! Changes against loads, fills and sweeps, at whatever moment they come.

use super::{Scene, background, build, figures, long, near, now, over, read, scene, sha, warm};
use crate::topology::{config, server};
use coordinator_cache::{Cache, Caches, Invalidated};
use coordinator_harness::{Rule, rng};
use futures::future::join_all;
use rand::RngExt as _;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::Notify;

/// What a row of a database says, changed by whoever then ends its cached value.
#[derive(Default)]
struct Row(AtomicU64);

/// Some round trips, and turns of the scheduler: what races takes one or two of them.
async fn passes(cache: &Cache<u64>, turns: u32, trips: u32) {
    for _ in 0..trips {
        assert_eq!(read(cache, "nothing").await, None);
    }
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

/// Two loads or reads of a row against one change of it, which may come at any moment; whether some
/// instance gives the old value in the end.
async fn race(instances: &[Cache<u64>], naive: bool, round: u64, pause: u32) -> bool {
    let (row, key) = (Arc::new(Row::default()), round.to_string());
    let some = usize::try_from(round).expect("few");
    let load = async |cache: &Cache<u64>| {
        let (row, through) = (row.clone(), cache.clone());
        let loader = move || async move {
            let value = row.0.load(Ordering::SeqCst);
            passes(&through, pause % 5, pause / 5 % 3).await;
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
        let changed = &instances[some % instances.len()];
        passes(changed, pause % 7, pause / 15 % 4).await;
        row.0.store(1, Ordering::SeqCst);
        let done = changed.invalidate(&key).await.expect("an answer");
        assert!(matches!(done, Invalidated::Done(_)), "{done:?}");
        if !naive {
            // Whoever ended it joins no load that began before.
            let row = row.clone();
            let loader = move |_| async move { Ok::<_, String>(row.0.load(Ordering::SeqCst)) };
            let hit = changed.get_or_load(&key, loader).await;
            assert_eq!(*hit.expect("it is loaded"), 1, "round {round}");
        }
    };
    let (first, second) = (&instances[(some + 1) % 3], &instances[(some + 2) % 3]);
    if !naive && round % 2 == 1 {
        // It is there: both read it, to keep it near, while it is ended.
        load(&instances[some % 3]).await;
    }
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
    let rounds = if long() { 50_000 } else { 5_000 };
    let server = server().await;
    let prefix = config(&server.url()).keyspace().prefix().to_owned();
    let mut instances = Vec::new();
    for _ in 0..3 {
        instances.push(near(&over(&server.url(), &prefix).await));
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
async fn a_value_that_is_stored_in_the_midst_of_a_sweep_is_ended_by_it() {
    let Scene { server, proxy, caches, truth } = scene().await;
    warm(&server).await;
    let (ours, theirs) = (build(caches.cache::<u64>("n")), build(truth.cache::<u64>("n")));
    let keys: Vec<String> = (0..4000).map(|number| number.to_string()).collect();
    let values: Vec<(&str, &u64)> = keys.iter().map(|key| (key.as_str(), &0)).collect();
    let mut found = Vec::new();
    for step in 1.. {
        for stored in theirs.set_many(&values).await {
            stored.expect("stored");
        }
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (told, wait) = (begun.clone(), go_on.clone());
        let loading = theirs.clone();
        let load = background(async move {
            let loader = |_| async move {
                told.notify_one();
                wait.notified().await;
                Ok::<u64, String>(1)
            };
            *loading.get_or_load("loaded", loader).await.expect("it is loaded")
        });
        begun.notified().await;
        // It has looked through some of the keys, and not through the others.
        let held = proxy.rule(Rule::script(sha("cache.scan")).on_reply().nth(step).hold());
        let sweep = async {
            let ended = ours.clear().await.expect("an answer");
            // Without so many steps it ends unhindered.
            held.remove();
            ended
        };
        let fill = async {
            held.wait_hit().await;
            go_on.notify_one();
            assert_eq!(load.await.expect("no panic"), 1);
            held.let_go();
        };
        let ended = match futures::future::select(Box::pin(sweep), Box::pin(fill)).await {
            futures::future::Either::Left(_) => break,
            futures::future::Either::Right(((), sweep)) => sweep.await,
        };
        found.push(ended);
        assert_eq!(read(&ours, "loaded").await, None, "stored at step {step}");
    }
    figures(&format!("ended by sweeps that met a fill in each of their steps: {found:?}"));
    assert!(found.len() >= 6, "so few steps show nothing");
}
