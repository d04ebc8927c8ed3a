//! What other processes do in the tests beside: they load a key, as they are told.

use super::{SECOND, SOON, background, build, processes};
use coordinator_cache::{Cache, Caches};
use coordinator_harness::eventually;
use futures::future::join_all;
use processes::{Given, say};
use tokio::sync::watch;

/// How long a load keeps others out, should its process die.
pub(super) const LEASE: std::time::Duration = SECOND;

/// A process of this part.
pub(in crate::faults) async fn serve(role: &str, given: Given) {
    match role {
        "herd" => herd(given).await,
        "holder" => holder(given).await,
        _ => panic!("nobody is a {role}"),
    }
}

async fn cache(given: &Given) -> Cache<u64> {
    build(Caches::redis(&given.connection().await).cache("n").with_lease(LEASE))
}

/// So many callers of one key: `KEY CALLERS`. It says whether it loads or waits for another's load
/// when all of them have found nothing, and is told when a load may end.
async fn herd(mut given: Given) {
    let cache = cache(&given).await;
    say("ready");
    let order = given.order().await.expect("what to ask for");
    let (key, callers) = (&order[0], order[1].parse::<u64>().expect("a number"));
    let (open, gate) = watch::channel(false);
    let ask = || {
        let mut gate = gate.clone();
        cache
            .get_or_load(key, move |_| async move { gate.wait_for(|open| *open).await.map(|_| 42) })
    };
    let direct = async {
        eventually(SOON, "all have found nothing", async || {
            let stats = cache.stats();
            stats.misses == callers && stats.loads + stats.waits > 0
        })
        .await;
        say(if cache.stats().loads > 0 { "loads" } else { "waits" });
        given.order().await.expect("when to go on");
        open.send_replace(true);
    };
    let (hits, ()) = futures::join!(join_all((0..callers).map(|_| ask())), direct);
    let right = hits.iter().filter(|hit| hit.as_ref().is_ok_and(|hit| **hit == 42)).count();
    say(&format!("{right} {}", cache.stats().loads));
}

/// Stops this process, and ends when every thread of it stands: one may run on for a moment.
fn stop() -> String {
    let pid = std::process::id();
    format!(
        "kill -STOP {pid}; \
         while grep -L '^State:[[:space:]]*T' /proc/{pid}/task/*/status | grep -q .; do :; done"
    )
}

/// It holds the lease of a load. `wait KEY VALUE`: says `loads`, and goes on when it is told to.
/// `halt KEY VALUE`: the process stops itself when the value is there, before anything else.
/// `get KEY`: says what it finds.
async fn holder(mut given: Given) {
    let cache = cache(&given).await;
    say("ready");
    while let Some(order) = given.order().await {
        let key = order[1].clone();
        if order[0] == "get" {
            let hit = cache.get(&key).await.expect("an answer");
            say(&hit.map_or("none".to_owned(), |hit| hit.to_string()));
            continue;
        }
        let (value, halts) = (order[2].parse().expect("a number"), order[0] == "halt");
        let (open, mut gate) = watch::channel(false);
        let loading = cache.clone();
        let load = background(async move {
            let loader = move |_| async move {
                if halts {
                    let stop = std::process::Command::new("sh").args(["-c", &stop()]).status();
                    assert!(stop.expect("a signal").success());
                } else {
                    say("loads");
                    gate.wait_for(|open| *open).await.expect("it is held below");
                }
                Ok::<u64, String>(value)
            };
            *loading.get_or_load(&key, loader).await.expect("it is loaded")
        });
        if !halts {
            given.order().await.expect("when to go on");
            open.send_replace(true);
        }
        let given = load.await.expect("no panic");
        say(&format!("{given} {}", cache.stats().refused));
    }
}
