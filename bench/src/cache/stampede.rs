//! How often the loader runs where very many ask for one cold key at once.

use super::{
    stores::{CACHED, NAIVE, NEAR, OURS, Peer, Store, TIERS},
    values::Crew,
};
use crate::{
    Plan,
    figures::{Rounds, ms},
    report::{Bound, Report, Table},
    wire,
};
use anyhow::{Context as _, Result, ensure};
use coordinator_harness::RedisServer;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Barrier;

pub(crate) const TITLE: &str = "A stampede on one cold key";

const CALLERS: usize = 10_000;
const INSTANCES: usize = 8;
/// How long a load takes.
const LOAD: Duration = Duration::from_millis(50);
const LOADS: &str = "loads";
const PEERS: [Peer; 5] = [OURS, NEAR, CACHED, TIERS, NAIVE];

pub(crate) async fn run(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let each = if plan.long { CALLERS } else { CALLERS / INSTANCES };
    let mut rows = Vec::new();
    for (instances, callers, told) in [
        (1, CALLERS, "1 instance".to_owned()),
        (INSTANCES, each, format!("{INSTANCES} instances, {each} each")),
    ] {
        let mut figures = PEERS.map(|_| vec![Rounds::default(); 3]);
        for _ in 0..plan.rounds {
            for (peer, figures) in PEERS.iter().zip(&mut figures) {
                server.command(&["FLUSHALL"]).await?.ok()?;
                let seen = stampede(plan, server, *peer, instances, callers);
                let seen = seen.await.with_context(|| format!("{told}: {}", peer.name))?;
                for (figure, value) in figures.iter_mut().zip(seen) {
                    figure.0.push(value);
                }
            }
        }
        for (peer, figures) in PEERS.iter().zip(figures) {
            if [OURS.name, NEAR.name].contains(&peer.name) {
                let goal = format!("loads in a stampede: {told}, {}", peer.name);
                report.goal(goal, Some(figures[0].clone()), Bound::AtMost(1.0));
            }
            // Told until the program ends.
            rows.push((&*format!("{told}: {}", peer.name).leak(), figures));
        }
    }
    report.add(Table {
        title: TITLE,
        about: "10,000 tasks ask for one key that nobody has, all at once; the loader takes 50 \
                ms. Then as many through eight instances in one process, each with a connection \
                of its own, as eight processes would (80,000 with `--long`). Commands are all \
                that the server ran but scripts' own, until the last caller had its value. cached \
                says that it loads for each; moka's get_with loads once per instance, by hand \
                before Redis as in multi-tier-cache.",
        columns: vec![(LOADS, 0), ("ms until all have it", 0), ("commands", 0)],
        rows,
    });
    Ok(())
}

/// How many loads there were, how long it took, and how many commands.
async fn stampede(
    plan: &Plan,
    server: &RedisServer,
    peer: Peer,
    instances: usize,
    callers: usize,
) -> Result<[f64; 3]> {
    let mut stores = Vec::new();
    for _ in 0..instances {
        let store = peer.open(&plan.url).await?;
        // What is made at the first call is made.
        ensure!(store.get("another").await?.is_none(), "there is none");
        stores.push(store);
    }
    let loads = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Barrier::new(instances * callers + 1));
    let tasks: Vec<_> = (0..instances * callers)
        .map(|number| {
            let (store, gate) = (stores[number % instances].clone(), gate.clone());
            let loads = loads.clone();
            tokio::spawn(async move {
                gate.wait().await;
                call(&*store, loads).await
            })
        })
        .collect();
    server.command(&["CONFIG", "RESETSTAT"]).await?.ok()?;
    gate.wait().await;
    let start = Instant::now();
    for task in tasks {
        ensure!(task.await?? == 1, "it is what was loaded");
    }
    let took = ms(start.elapsed());
    let own = ["config|resetstat", "info", "ping"];
    let sent = wire::ran_where(server, |name| !own.contains(&name)).await?;
    let loads = u32::try_from(loads.load(Ordering::Relaxed))?;
    Ok([loads.into(), took, sent.calls])
}

async fn call(store: &dyn Store, loads: Arc<AtomicUsize>) -> Result<u64> {
    let loader = || -> futures::future::BoxFuture<'static, Crew> {
        Box::pin(async move {
            loads.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(LOAD).await;
            Crew::small(1, 1)
        })
    };
    store.load("cold", Box::new(loader)).await
}
