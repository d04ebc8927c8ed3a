//! Stores of others beside ours: how fast, at how many round trips, and what they lose or revive.

use super::stores::{NAIVE, OURS, PEERS, Peer, Store};
use crate::{
    Plan,
    figures::{Rounds, quantile, us},
    load,
    report::{Bound, Report, Table},
    wire,
};
use anyhow::{Context as _, Result, ensure};
use coordinator_harness::RedisServer;
use futures::future::join_all;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

pub(crate) const SPEED: &str = "Stores side by side, 16 tasks";
pub(crate) const RIGHT: &str = "What stores lose and revive";

const TASKS: usize = 16;
const SLICE: Duration = Duration::from_millis(100);
/// How many sessions take turns.
const SESSIONS: usize = 256;
/// How many calls their round trips are counted over.
const COUNTED: usize = 200;
/// How many requests change one session at once.
const WRITERS: usize = 50;
/// How many requests are in flight at a logout of their own.
const LOGOUTS: usize = 50;
const FIELD: &str = "visits";
const LOST: &str = "updates lost of 50";
const REVIVED: &str = "sessions revived of 50";

/// What a service does with sessions.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Create,
    Load,
    Change,
}

const DEEDS: [Deed; 3] = [Deed::Create, Deed::Load, Deed::Change];

/// A store and sessions in it.
struct Open {
    peer: Peer,
    store: Arc<dyn Store>,
    ids: Vec<String>,
    next: AtomicUsize,
}

impl Open {
    async fn new(plan: &Plan, peer: Peer) -> Result<Arc<Self>> {
        let store = peer.open(plan).await?;
        let mut ids = Vec::new();
        for _ in 0..SESSIONS {
            ids.push(store.create().await?);
        }
        Ok(Arc::new(Self { peer, store, ids, next: AtomicUsize::new(0) }))
    }

    async fn does(&self, deed: Deed) -> Result<()> {
        let id = &self.ids[self.next.fetch_add(1, Ordering::Relaxed) % SESSIONS];
        match deed {
            Deed::Create => self.store.create().await.map(|_| ()),
            Deed::Load => self.store.load(id).await?.map(|_| ()).context("it is there"),
            Deed::Change => self.store.change(id, FIELD).await,
        }
    }

    /// How often the server is asked for it.
    async fn round_trips(&self, server: &RedisServer, deed: Deed) -> Result<f64> {
        self.does(deed).await?;
        server.command(&["CONFIG", "RESETSTAT"]).await?.ok()?;
        for _ in 0..COUNTED {
            self.does(deed).await?;
        }
        let sent = wire::ran_where(server, |name| {
            if self.peer.scripts {
                ["evalsha", "eval"].contains(&name)
            } else {
                // What this program itself asks, and the probes of connections.
                !["config|resetstat", "info", "ping"].contains(&name)
            }
        });
        Ok(sent.await?.calls / number(COUNTED))
    }
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

pub(crate) async fn run(
    plan: &Plan,
    server: &RedisServer,
    report: &mut Report,
    speed: bool,
    right: bool,
) -> Result<()> {
    if speed {
        eprintln!("{SPEED}");
        speeds(plan, server, report).await?;
    }
    if right {
        eprintln!("{RIGHT}");
        rights(plan, server, report).await?;
    }
    Ok(())
}

async fn speeds(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    let names = [0, 1, 2].map(|deed| PEERS.map(|peer| peer.rows[deed]));
    let mut rows: Vec<_> =
        names.iter().flatten().map(|name| (*name, vec![Rounds::default(); 4])).collect();
    for _ in 0..plan.rounds {
        server.command(&["FLUSHALL"]).await?.ok()?;
        let mut open = Vec::new();
        for peer in PEERS {
            open.push(Open::new(plan, peer).await.with_context(|| peer.name)?);
        }
        for (deed, rows) in DEEDS.into_iter().zip(rows.chunks_mut(PEERS.len())) {
            let mut sides = vec![(Vec::new(), Duration::ZERO); PEERS.len()];
            for _ in 0..plan.time.as_millis() / SLICE.as_millis() {
                for (open, (samples, time)) in open.iter().zip(&mut sides) {
                    let (more, took) = slice(open, deed).await?;
                    samples.extend(more);
                    *time += took;
                }
            }
            for ((open, (_, figures)), (samples, time)) in open.iter().zip(rows).zip(&mut sides) {
                figures[0].0.push(load::rate(samples.len(), *time));
                figures[1].0.push(us(quantile(samples, 500)));
                figures[2].0.push(us(quantile(samples, 990)));
                figures[3].0.push(open.round_trips(server, deed).await?);
            }
        }
    }
    report.add(Table {
        title: SPEED,
        about: "A payload of 300 B; 256 sessions take turns, and so do the stores, every 100 ms. \
                Ours list each session by user, company and crew besides, write down an event of \
                each creation, and check on each load that it was not revoked; the others keep \
                one string. To set a field the others read the whole and write the whole. Round \
                trips are counted by the server. Times in µs.",
        columns: vec![("per second", 0), ("p50", 0), ("p99", 0), ("round trips", 2)],
        rows,
    });
    Ok(())
}

async fn slice(open: &Arc<Open>, deed: Deed) -> Result<(Vec<Duration>, Duration)> {
    let (name, open) = (open.peer.name, open.clone());
    let driven = load::drive(TASKS, SLICE, move || {
        let open = open.clone();
        async move {
            let asked = Instant::now();
            open.does(deed).await?;
            Ok(asked.elapsed())
        }
    });
    driven.await.with_context(|| format!("{deed:?}: {name}"))
}

async fn rights(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    server.command(&["FLUSHALL"]).await?.ok()?;
    let mut rows = PEERS.map(|peer| (peer.name, vec![Rounds::default(); 3]));
    let mut stores = Vec::new();
    for peer in PEERS {
        stores.push(peer.open(plan).await?);
    }
    for _ in 0..plan.rounds {
        for (store, (name, figures)) in stores.iter().zip(&mut rows) {
            let lost = lost(store).await.with_context(|| *name)?;
            let (revived, errors) = revived(store).await.with_context(|| *name)?;
            for (figure, count) in figures.iter_mut().zip([lost, revived, errors]) {
                figure.0.push(number(count));
            }
        }
    }
    let table = Table {
        title: RIGHT,
        about: "50 requests at once read one session and set a field each, all different: how \
                many of those that were acknowledged are not there afterwards. Then, 50 times, a \
                session is ended while a request that has read it is under way and sets a field: \
                how often the client has a session that lives in the end, and how often the \
                request fails with an error that says nothing of it.",
        columns: vec![(LOST, 0), (REVIVED, 0), ("errors of 50", 0)],
        rows: rows.into(),
    };
    // That what is written by hand fails shows that the harness can see it.
    for seen in [LOST, REVIVED] {
        let figure = table.figure(NAIVE, seen).context("it was measured")?;
        ensure!(figure.median() > 0.0, "{seen}: not even {NAIVE}: the harness is blind");
        let ours = table.figure(OURS, seen).cloned();
        report.goal(format!("{seen}: ours"), ours, Bound::AtMost(0.0));
    }
    report.add(table);
    Ok(())
}

/// How many acknowledged updates of one session are lost.
async fn lost(store: &Arc<dyn Store>) -> Result<usize> {
    let id = store.create().await?;
    let before = store.load(&id).await?.context("it is there")?;
    let writers = (0..WRITERS).map(|writer| {
        let (store, id) = (store.clone(), id.clone());
        tokio::spawn(
            async move { store.begin(&id).await?.finish(&format!("field-{writer}")).await },
        )
    });
    let mut acknowledged = 0;
    for written in join_all(writers).await {
        acknowledged += usize::from(written?.is_ok_and(|id| id.is_some()));
    }
    let after = store.load(&id).await?.context("it is there still")?;
    ensure!(acknowledged > 0, "some are acknowledged");
    (before + acknowledged).checked_sub(after).context("nothing is there that was not written")
}

/// How many sessions live although they were ended, and how many requests failed.
async fn revived(store: &Arc<dyn Store>) -> Result<(usize, usize)> {
    let (mut revived, mut errors) = (0, 0);
    for _ in 0..LOGOUTS {
        let id = store.create().await?;
        let request = store.begin(&id).await?;
        store.end(&id).await?;
        ensure!(store.load(&id).await?.is_none(), "it was ended");
        let now = match request.finish(FIELD).await {
            Ok(now) => now,
            Err(_) => {
                errors += 1;
                None
            }
        };
        let now = now.unwrap_or(id);
        revived += usize::from(store.load(&now).await?.is_some());
    }
    Ok((revived, errors))
}
