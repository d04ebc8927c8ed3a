//! What a hit, a warm `get_or_load` and a `set` cost where nothing is kept near, beside the bare
//! command with the same decoding, and beside others.

use super::{
    stores::{BARE, CACHED, CORE, Face, HEARD, OURS, Peer, TAGGED, TIER, Taker},
    values::Crew,
};
use crate::{
    Plan,
    figures::{Rounds, quantile, us},
    load,
    report::{Bound, Report, Table},
};
use anyhow::{Context as _, Result, ensure};
use coordinator_harness::RedisServer;
use futures::future::BoxFuture;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// They take turns so often.
const SLICE: Duration = Duration::from_millis(50);
/// How many keys take turns.
const KEYS: u64 = 256;
const TASKS: [usize; 2] = [1, 64];

#[derive(Debug, Clone, Copy)]
enum Deed {
    Get,
    Load,
    Set,
}

pub(crate) struct Scene {
    pub(crate) title: &'static str,
    about: &'static str,
    deed: Deed,
    /// Of a value, in bytes of MessagePack, and how that is told.
    sizes: &'static [(usize, &'static str)],
    peers: &'static [Peer],
    /// What our calls may take, over those of the bare command.
    most: Option<f64>,
}

const SMALL: (usize, &str) = (256, "256 B");
const LARGE: (usize, &str) = (16 * 1024, "16 KiB");

pub(crate) const SCENES: [Scene; 4] = [
    Scene {
        title: "A far hit beside GET and decode",
        about: "256 keys, nothing kept near, no tags. A value is a struct of 256 B or 16 KiB of \
                MessagePack, the latter compressed with zstd at level 3 by the bare ones and by \
                ours; cached and multi-tier-cache compress nothing. The bare ones send GET and \
                decode the same struct: through fred, and through the connection of this \
                workspace, which adds its breaker, its limit and its metrics. They take turns \
                every 50 ms, and a round's rate is the median of these. One task runs on a runtime \
                of one thread, 64 on as many threads as there are cores. Times in µs.",
        deed: Deed::Get,
        sizes: &[SMALL, LARGE],
        peers: &[BARE, CORE, OURS, CACHED, TIER],
        most: Some(1.05),
    },
    Scene {
        title: "A far hit with a tag",
        about: "The same with a tag on every value of ours. Its version is read with each value, \
                in a second round trip, unless something of the owner hears of changes: a cache \
                with a near cache does.",
        deed: Deed::Get,
        sizes: &[SMALL],
        peers: &[BARE, TAGGED, HEARD],
        most: None,
    },
    Scene {
        title: "A warm get_or_load",
        about: "What is asked for is there, far, and the loader never runs.",
        deed: Deed::Load,
        sizes: &[SMALL],
        peers: &[BARE, CORE, OURS, CACHED, TIER],
        most: None,
    },
    Scene {
        title: "A set beside SET",
        about: "SET with a TTL, bare and in cached; ours is a script that also ends whatever load \
                of the key is under way; multi-tier-cache writes through its Redis tier alone and \
                tells nobody.",
        deed: Deed::Set,
        sizes: &[SMALL, LARGE],
        peers: &[BARE, CORE, OURS, CACHED, TIER],
        most: None,
    },
];

/// Calls for the time of a slice: how long each call took, and how long all of it.
trait Calls: Send + Sync {
    fn slice(&self, deed: Deed, tasks: usize) -> BoxFuture<'_, Result<(Vec<Duration>, Duration)>>;
}

/// A cache with values in it.
struct Open<F> {
    cache: F,
    keys: Vec<String>,
    crews: Arc<Vec<Crew>>,
    next: AtomicUsize,
}

/// Fills a cache under this name.
struct Filled {
    name: &'static str,
    crews: Arc<Vec<Crew>>,
}

impl Taker for Filled {
    type Out = BoxFuture<'static, Result<Box<dyn Calls>>>;

    fn take<F: Face>(self, cache: F) -> Self::Out {
        Box::pin(async move {
            let Self { name, crews } = self;
            // Nobody reads what another wrote.
            let keys: Vec<_> = crews.iter().map(|crew| format!("{name}:{}", crew.id)).collect();
            for (key, crew) in keys.iter().zip(crews.iter()) {
                cache.set(key, crew).await?;
                ensure!(cache.get(key).await?.is_some(), "what was set is there");
            }
            let open = Arc::new(Open { cache, keys, crews, next: AtomicUsize::new(0) });
            Ok(Box::new(open) as Box<dyn Calls>)
        })
    }
}

impl<F: Face> Open<F> {
    async fn does(&self, deed: Deed) -> Result<Duration> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.keys.len();
        let key = &self.keys[at];
        let asked = Instant::now();
        match deed {
            Deed::Get => ensure!(self.cache.get(key).await?.is_some(), "it is there"),
            Deed::Load => {
                let loader = || -> BoxFuture<'static, Crew> {
                    Box::pin(async { panic!("it is there: nothing is loaded") })
                };
                self.cache.load(key, Box::new(loader)).await?;
            }
            Deed::Set => self.cache.set(key, &self.crews[at]).await?,
        }
        Ok(asked.elapsed())
    }
}

impl<F: Face> Calls for Arc<Open<F>> {
    fn slice(&self, deed: Deed, tasks: usize) -> BoxFuture<'_, Result<(Vec<Duration>, Duration)>> {
        let open = self.clone();
        Box::pin(load::drive(tasks, SLICE, move || {
            let open = open.clone();
            async move { open.does(deed).await }
        }))
    }
}

/// How one did in one round.
#[derive(Default)]
struct Side {
    samples: Vec<Duration>,
    /// Of each slice: the median of many is not moved by what else the machine does now and then.
    rates: Rounds,
}

pub(crate) async fn run(
    plan: &Plan,
    scene: &'static Scene,
    server: &RedisServer,
    report: &mut Report,
) -> Result<()> {
    eprintln!("{}", scene.title);
    let mut rows = Vec::new();
    for (bytes, size) in scene.sizes {
        server.command(&["FLUSHALL"]).await?.ok()?;
        let crews = (0..KEYS).map(|id| Crew::packed(id, *bytes)).collect::<Result<Vec<_>>>()?;
        let crews = Arc::new(crews);
        for tasks in TASKS {
            let (plan, crews) = (plan.clone(), crews.clone());
            let measured = if tasks == 1 {
                // Where a client's tasks wake one another on other threads, a round trip takes 25
                // or 100 µs by chance.
                tokio::task::spawn_blocking(move || {
                    let one = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    one.block_on(measured(&plan, scene, tasks, crews))
                })
                .await?
            } else {
                measured(&plan, scene, tasks, crews).await
            };
            let figures = measured?;
            goals(scene, size, tasks, &figures, report);
            rows.extend(scene.peers.iter().zip(figures).map(|(peer, figures)| {
                // Told until the program ends.
                let row = format!("{size}, {}: {}", told(tasks), peer.name);
                (&*row.leak(), figures)
            }));
        }
    }
    let columns = vec![("per second", 0), ("p50", 1), ("p99", 1), ("time over the first's", 2)];
    report.add(Table { title: scene.title, about: scene.about, columns, rows });
    Ok(())
}

/// The figures of each peer.
async fn measured(
    plan: &Plan,
    scene: &Scene,
    tasks: usize,
    crews: Arc<Vec<Crew>>,
) -> Result<Vec<Vec<Rounds>>> {
    let mut open = Vec::new();
    for peer in scene.peers {
        let filled = Filled { name: peer.name, crews: crews.clone() };
        let filled = async { peer.open_for(&plan.url, filled).await?.await };
        open.push(filled.await.context(peer.name)?);
    }
    let mut figures = vec![vec![Rounds::default(); 4]; open.len()];
    for _ in 0..plan.rounds {
        let mut sides = round(plan, scene.deed, tasks, &open).await?;
        let bare = sides[0].rates.median();
        for (figures, side) in figures.iter_mut().zip(&mut sides) {
            let rate = side.rates.median();
            let half = us(quantile(&mut side.samples, 500));
            let late = us(quantile(&mut side.samples, 990));
            for (figure, value) in figures.iter_mut().zip([rate, half, late, bare / rate]) {
                figure.0.push(value);
            }
        }
    }
    Ok(figures)
}

fn told(tasks: usize) -> String {
    if tasks == 1 { "1 task".to_owned() } else { format!("{tasks} tasks") }
}

fn goals(scene: &Scene, size: &str, tasks: usize, figures: &[Vec<Rounds>], report: &mut Report) {
    let Some(most) = scene.most else { return };
    let rate = |name| {
        let at = scene.peers.iter().position(|peer| peer.name == name)?;
        Some(&figures[at][0])
    };
    for beside in [BARE, CORE] {
        let ratio = rate(beside.name).zip(rate(OURS.name)).map(|(bare, ours)| bare.over(ours));
        let goal = format!("time of a far hit over {}: {size}, {}", beside.name, told(tasks));
        report.goal(goal, ratio, Bound::AtMost(most));
    }
}

async fn round(
    plan: &Plan,
    deed: Deed,
    tasks: usize,
    open: &[Box<dyn Calls>],
) -> Result<Vec<Side>> {
    let mut sides: Vec<_> = open.iter().map(|_| Side::default()).collect();
    for slice in 0..plan.time.as_millis() / SLICE.as_millis() {
        for turn in 0..open.len() {
            // There and back: nobody always comes after the same one.
            let at = if slice % 2 == 0 { turn } else { open.len() - 1 - turn };
            let (samples, time) = open[at].slice(deed, tasks).await?;
            sides[at].rates.0.push(load::rate(samples.len(), time));
            sides[at].samples.extend(samples);
        }
    }
    Ok(sides)
}
