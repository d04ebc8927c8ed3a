//! Many tasks that want one key: how often it changes hands, who waits longest, who gets how
//! much, and what it costs the server. To take it again at once is an acquisition and no hand-off.

use crate::{
    Plan,
    figures::{Rounds, ms},
    peers::{self, Peer, Turns},
    report::{Bound, Report, Table},
};
use anyhow::{Context as _, Result, ensure};
use coordinator_harness::RedisServer;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Barrier;

/// A crowd around one key.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) title: &'static str,
    about: &'static str,
    tasks: usize,
    clients: usize,
    /// Whether to judge more than the commands.
    races: bool,
}

pub(crate) const SCENES: [Scene; 3] = [
    Scene {
        title: "16 tasks of one process on one key",
        about: "One client, shared; the baton needs a connection per task. Each holds for 1 ms \
                and asks again. A wait that fills the round shows as its length.",
        tasks: 16,
        clients: 1,
        races: true,
    },
    Scene {
        title: "16 clients with a connection each on one key",
        about: "As sixteen processes would. Each holds for 1 ms and asks again.",
        tasks: 16,
        clients: 16,
        races: true,
    },
    Scene {
        title: "1,000 waiting tasks in 20 clients on one key",
        about: "Each holds for 1 ms and asks again.",
        tasks: 1_000,
        clients: 20,
        races: false,
    },
];

const HOLD: Duration = Duration::from_millis(1);
/// At the beginning of a round: subscriptions and lines form.
const WARM_UP: Duration = Duration::from_millis(300);

const ALL: &str = "acquisitions per second";
const RATE: &str = "hand-offs per second";
const LONGEST: &str = "longest wait, ms";
const SHARE: &str = "smallest share over largest";
const COMMANDS: &str = "commands per acquisition";

pub(crate) async fn run(
    plan: &Plan,
    scene: &'static Scene,
    server: &RedisServer,
    report: &mut Report,
) -> Result<()> {
    eprintln!("{}", scene.title);
    let mut contenders = peers::VARIANTS.to_vec();
    contenders.extend([peers::RSLOCK, peers::POLL]);
    if scene.races {
        // A thousand connections of blocked clients are nobody's plan.
        contenders.insert(0, peers::BATON);
    }
    let mut rows: Vec<_> =
        contenders.iter().map(|peer| (peer.name, vec![Rounds::default(); 5])).collect();
    for round in 0..plan.rounds {
        for (peer, (_, figures)) in contenders.iter().zip(&mut rows) {
            let key = format!("{}:{}:{}:{round}", scene.tasks, scene.clients, peer.name);
            let turns = peer.open(&plan.url, &key, scene.tasks, scene.clients).await?;
            let before = commands(server, *peer).await?;
            let run = race(turns, plan.time).await.with_context(|| peer.name)?;
            let sent = commands(server, *peer).await? - before;
            figures[0].0.push(run.rate);
            figures[1].0.push(run.hand_offs);
            figures[2].0.push(ms(run.longest));
            figures[3].0.push(run.share);
            figures[4].0.push(sent / run.acquisitions);
        }
    }
    let columns = vec![(ALL, 0), (RATE, 0), (LONGEST, 0), (SHARE, 2), (COMMANDS, 2)];
    let table = Table { title: scene.title, about: scene.about, columns, rows };
    for peer in peers::VARIANTS {
        goals(scene, &table, peer.name, report);
    }
    report.add(table);
    Ok(())
}

fn goals(scene: &Scene, table: &Table, peer: &str, report: &mut Report) {
    let figure = |column: &str| table.figure(peer, column).cloned();
    let over = |column: &str, base: Peer| {
        Some(table.figure(peer, column)?.over(table.figure(base.name, column)?))
    };
    let name = |what: &str| format!("{}: {peer}, {what}", scene.title);
    if scene.races {
        let baton = over(RATE, peers::BATON);
        report.goal(name("hand-offs over the baton's"), baton, Bound::AtLeast(0.9));
        let rslock = over(RATE, peers::RSLOCK);
        report.goal(name("hand-offs over rslock's"), rslock, Bound::AtLeast(2.0));
        let longest = over(LONGEST, peers::BATON);
        report.goal(name("longest wait over the baton's"), longest, Bound::AtMost(1.5));
    }
    if scene.races && peer == peers::FAIR {
        report.goal(name("smallest share over largest"), figure(SHARE), Bound::AtLeast(0.77));
    }
    report.goal(name("commands per acquisition"), figure(COMMANDS), Bound::AtMost(3.0));
}

/// How many commands of those that this contender's clients send the server has run.
async fn commands(server: &RedisServer, peer: Peer) -> Result<f64> {
    let info = server.command(&["INFO", "commandstats"]).await?;
    let info = info.as_str().context("INFO is text")?;
    let calls = info.lines().filter_map(|line| {
        let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        peer.commands().contains(&name).then(|| figures.split(',').next()?.parse::<f64>().ok())?
    });
    Ok(calls.sum())
}

struct Race {
    rate: f64,
    hand_offs: f64,
    longest: Duration,
    share: f64,
    /// All of them, outside the measured time too.
    acquisitions: f64,
}

/// What one task saw.
#[derive(Default)]
struct Seen {
    inside: f64,
    /// Those of them where another had it before.
    hand_offs: f64,
    all: f64,
    longest: Duration,
}

/// What contenders are seen to do with the key.
struct Key {
    last: AtomicUsize,
    held: AtomicBool,
}

async fn race(turns: Vec<Box<dyn Turns>>, time: Duration) -> Result<Race> {
    let barrier = Arc::new(Barrier::new(turns.len()));
    let key = Arc::new(Key { last: AtomicUsize::new(usize::MAX), held: AtomicBool::new(false) });
    let mut tasks = Vec::new();
    for (number, turns) in turns.into_iter().enumerate() {
        let (barrier, key) = (barrier.clone(), key.clone());
        tasks.push(tokio::spawn(async move {
            barrier.wait().await;
            let begin = Instant::now() + WARM_UP;
            contend(turns, number, &key, begin, begin + time).await
        }));
    }
    let mut seen = Vec::new();
    for task in tasks {
        seen.push(task.await??);
    }
    let inside = || seen.iter().map(|seen| seen.inside);
    let smallest = inside().fold(f64::MAX, f64::min);
    let largest = inside().fold(0.0, f64::max);
    Ok(Race {
        rate: inside().sum::<f64>() / time.as_secs_f64(),
        hand_offs: seen.iter().map(|seen| seen.hand_offs).sum::<f64>() / time.as_secs_f64(),
        longest: seen.iter().map(|seen| seen.longest).max().unwrap_or_default(),
        share: if largest > 0.0 { smallest / largest } else { 0.0 },
        acquisitions: seen.iter().map(|seen| seen.all).sum(),
    })
}

/// Holds on a thread of its own: a runtime's timer can be late by as long as it is to last.
async fn hold() -> Result<()> {
    Ok(tokio::task::spawn_blocking(|| std::thread::sleep(HOLD)).await?)
}

/// Takes turns until the end. A wait that is not over by then counts as long as it has lasted.
async fn contend(
    mut turns: Box<dyn Turns>,
    number: usize,
    key: &Key,
    begin: Instant,
    end: Instant,
) -> Result<Seen> {
    let mut seen = Seen::default();
    loop {
        let asked = Instant::now();
        if asked >= end {
            return Ok(seen);
        }
        turns.acquire().await?;
        let got = Instant::now();
        seen.all += 1.0;
        seen.longest = seen.longest.max(got.min(end).saturating_duration_since(asked.max(begin)));
        ensure!(!key.held.swap(true, Ordering::AcqRel), "two held it at once");
        let handed = key.last.swap(number, Ordering::Relaxed) != number;
        if got < end {
            if got >= begin {
                seen.inside += 1.0;
                seen.hand_offs += f64::from(u8::from(handed));
            }
            hold().await?;
        }
        key.held.store(false, Ordering::Release);
        turns.release().await?;
    }
}
