//! What a hit of the near cache costs beside a get of moka, with the same keys and values.

use super::{
    stores::{Store, TIERS, TRACKED},
    values::Crew,
};
use crate::{
    Plan,
    figures::Rounds,
    report::{Bound, Report, Table},
};
use anyhow::{Context as _, Result, ensure};
use coordinator_cache::{Cache, Caches, Near};
use coordinator_core::{Config, redis::Connection};
use coordinator_harness::RedisServer;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) const TITLE: &str = "A near hit beside moka's get";

/// They take turns so often.
const SLICE: Duration = Duration::from_millis(20);
/// How many keys take turns.
const KEYS: u64 = 1024;
const TASKS: [usize; 2] = [1, 2];
const ROWS: [[&str; 4]; 2] = [
    [
        "moka 0.12, 1 task",
        "ours, 1 task",
        "multi-tier-cache 0.6, 1 task",
        "cached 4.1, client side caching, 1 task",
    ],
    [
        "moka 0.12, 2 tasks",
        "ours, 2 tasks",
        "multi-tier-cache 0.6, 2 tasks",
        "cached 4.1, client side caching, 2 tasks",
    ],
];

/// Something that has it in this process.
trait Has: Send + Sync + 'static {
    /// Whether it is there.
    fn has(&self, key: &str) -> impl Future<Output = bool> + Send;
}

struct Moka(moka::future::Cache<Arc<str>, Arc<Crew>>);

impl Has for Moka {
    async fn has(&self, key: &str) -> bool {
        self.0.get(key).await.is_some_and(|crew| crew.version == 0)
    }
}

struct Ours(Cache<Crew>);

impl Has for Ours {
    async fn has(&self, key: &str) -> bool {
        let found = self.0.get(key).await;
        found.is_ok_and(|hit| hit.is_some_and(|crew| crew.version == 0))
    }
}

struct Other(Arc<dyn Store>);

impl Has for Other {
    async fn has(&self, key: &str) -> bool {
        self.0.get(key).await.is_ok_and(|version| version == Some(0))
    }
}

struct All {
    keys: Arc<Vec<String>>,
    moka: Arc<Moka>,
    ours: Arc<Ours>,
    others: [Arc<Other>; 2],
}

impl All {
    async fn open(plan: &Plan) -> Result<Self> {
        let crews = (0..KEYS).map(|id| Crew::packed(id, 256)).collect::<Result<Vec<_>>>()?;
        let connection = Connection::connect(Config::from_url(&plan.url)?).await?;
        let ours = Caches::redis(&connection)
            .cache("crews")
            .with_ttl(Duration::from_hours(1))
            .with_near(Near::entries(10_000))
            .build()?;
        let moka = moka::future::Cache::new(10_000);
        let others = [TIERS.open(&plan.url).await?, TRACKED.open(&plan.url).await?];
        let mut keys = Vec::new();
        for crew in crews {
            let key = format!("crew:{}", crew.id);
            ours.set(&key, &crew).await?;
            // Each under a name of its own, wherever it is written.
            for other in &others {
                other.set(&key, &crew).await?;
            }
            moka.insert(key.as_str().into(), Arc::new(crew)).await;
            keys.push(key);
        }
        let (moka, ours) = (Arc::new(Moka(moka)), Arc::new(Ours(ours)));
        let others = others.map(|other| Arc::new(Other(other)));
        Ok(Self { keys: Arc::new(keys), moka, ours, others })
    }

    async fn slice(&self, at: usize, tasks: usize) -> Result<f64> {
        match at {
            0 => slice(&self.moka, &self.keys, tasks).await,
            1 => slice(&self.ours, &self.keys, tasks).await,
            _ => slice(&self.others[at - 2], &self.keys, tasks).await,
        }
    }
}

/// How long a get takes in each of so many tasks, in ns.
async fn slice<H: Has>(has: &Arc<H>, keys: &Arc<Vec<String>>, tasks: usize) -> Result<f64> {
    let running: Vec<_> = (0..tasks)
        .map(|_| {
            let (has, keys) = (has.clone(), keys.clone());
            tokio::spawn(async move {
                let (start, mut count) = (Instant::now(), 0_u32);
                while start.elapsed() < SLICE {
                    for key in keys.iter() {
                        ensure!(has.has(key).await, "it is there");
                        count += 1;
                    }
                }
                Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(count))
            })
        })
        .collect();
    let mut sum = 0.0;
    for task in running {
        sum += task.await??;
    }
    Ok(sum / f64::from(u32::try_from(tasks)?))
}

pub(crate) async fn run(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    server.command(&["FLUSHALL"]).await?.ok()?;
    let all = All::open(plan).await?;
    let mut rows = Vec::new();
    for (names, tasks) in ROWS.into_iter().zip(TASKS) {
        let mut figures = names.map(|_| vec![Rounds::default(); 2]);
        for _ in 0..plan.rounds {
            let mut slices = names.map(|_| Rounds::default());
            for turn in 0..plan.time.as_millis() / SLICE.as_millis() {
                for at in 0..names.len() {
                    let at = if turn % 2 == 0 { at } else { names.len() - 1 - at };
                    let took = all.slice(at, tasks).await.context(names[at])?;
                    slices[at].0.push(took);
                }
            }
            let moka = slices[0].median();
            for (figures, slices) in figures.iter_mut().zip(&slices) {
                figures[0].0.push(slices.median());
                figures[1].0.push(slices.median() / moka);
            }
        }
        let goal = format!("ns of a near hit over moka's: {}", names[1]);
        report.goal(goal, Some(figures[1][1].clone()), Bound::AtMost(1.3));
        rows.extend(names.into_iter().zip(figures));
    }
    report.add(Table {
        title: TITLE,
        about: "1,024 keys, structs of 256 B, all of them near; keys are text, and moka's values \
                are shared as ours are: nothing is decoded. moka is its future cache, without a \
                TTL. multi-tier-cache keeps bytes in moka and decodes them at each get, and so \
                does cached's client side caching, which is that of redis-rs. They take turns \
                every 20 ms, and a round's figure is the median of these. With 2 tasks, what each \
                of them sees.",
        columns: vec![("ns per get", 0), ("over moka's", 2)],
        rows,
    });
    Ok(())
}
