//! What creating, loading and patching a session costs beside the script alone, through the same
//! client library.

use super::{
    bare::{Bare, Fresh},
    people,
};
use crate::{
    Plan,
    figures::{Rounds, quantile, us},
    load, peers,
    report::{Bound, Report, Table},
    wire,
};
use anyhow::{Result, ensure};
use coordinator_core::{Config, redis::Connection};
use coordinator_harness::RedisServer;
use coordinator_sessions::{NewSession, Patch, Sessions, Token};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

pub(crate) const TITLE: &str = "A session's steps beside their bare EVALSHA";

/// The two take turns so often.
const SLICE: Duration = Duration::from_millis(50);
/// How many sessions take turns.
const SESSIONS: usize = 300;
const TASKS: [usize; 2] = [1, 64];
const RATE: &str = "calls per second";
const TRIPS: &str = "round trips per call";
/// What clients send; what runs inside a script is no round trip.
const SENT: [&str; 3] = ["evalsha", "eval", "script|load"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create,
    /// Activity is written down in none.
    Load,
    /// In each.
    Touch,
    Patch,
}

/// The rows of a step: bare and ours, for each number of tasks.
const STEPS: [(Step, [[&str; 2]; 2]); 4] = [
    (
        Step::Create,
        [
            ["create, bare, 1 task", "create, ours, 1 task"],
            ["create, bare, 64 tasks", "create, ours, 64 tasks"],
        ],
    ),
    (
        Step::Load,
        [
            ["load, bare, 1 task", "load, ours, 1 task"],
            ["load, bare, 64 tasks", "load, ours, 64 tasks"],
        ],
    ),
    (
        Step::Touch,
        [
            ["load that writes, bare, 1 task", "load that writes, ours, 1 task"],
            ["load that writes, bare, 64 tasks", "load that writes, ours, 64 tasks"],
        ],
    ),
    (
        Step::Patch,
        [
            ["patch, bare, 1 task", "patch, ours, 1 task"],
            ["patch, bare, 64 tasks", "patch, ours, 64 tasks"],
        ],
    ),
];

/// A step of the library, again and again.
struct Ours {
    step: Step,
    sessions: Sessions,
    /// What is created.
    new: Vec<NewSession>,
    /// What is loaded and patched.
    tokens: Vec<Token>,
    patch: Patch,
    next: AtomicUsize,
}

impl Ours {
    async fn open(connection: &Connection, step: Step) -> Result<Self> {
        let throttle = match step {
            Step::Touch => Duration::ZERO,
            _ => Duration::from_mins(10),
        };
        let sessions = Sessions::redis(connection).with_reaping(None).with_touch_throttle(throttle);
        let new = (0..SESSIONS).map(people::person).collect::<Result<Vec<_>>>()?;
        let mut tokens = Vec::new();
        for new in &new {
            let session = sessions.create(new.clone()).await?.session()?;
            tokens.extend(session.token().cloned());
        }
        ensure!(tokens.len() == SESSIONS, "a new session has a token");
        let patch = Patch::new().set("visits", &7_u64)?;
        Ok(Self { step, sessions, new, tokens, patch, next: AtomicUsize::new(0) })
    }

    async fn done(&self) -> Result<bool> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % SESSIONS;
        Ok(match self.step {
            Step::Create => {
                self.sessions.create(self.new[number].clone()).await?.session()?.token().is_some()
            }
            Step::Load | Step::Touch => self.sessions.load(&self.tokens[number]).await?.is_live(),
            Step::Patch => {
                self.sessions.patch(&self.tokens[number], self.patch.clone()).await?.is_live()
            }
        })
    }

    /// The same calls for the bare client.
    async fn recorded(&self, plan: &Plan, server: &RedisServer) -> Result<Bare> {
        let fresh = match self.step {
            Step::Create => Fresh::Session,
            Step::Load | Step::Touch => Fresh::Nothing,
            Step::Patch => Fresh::Write,
        };
        // Once before: the server knows the script then.
        ensure!(self.done().await?, "{:?} is done", self.step);
        let work = async {
            for _ in 0..SESSIONS {
                ensure!(self.done().await?, "{:?} is done", self.step);
            }
            Ok(())
        };
        let client = peers::client(&plan.url, Config::COMMAND_TIMEOUT).await?;
        Ok(Bare::record(client, server, fresh, work).await?.1)
    }
}

/// How one side did in one round.
#[derive(Default)]
struct Side {
    samples: Vec<Duration>,
    /// Of each slice: the median of many is not moved by what else the machine does now and then.
    rates: Rounds,
    /// In µs of the server, likewise.
    costs: Rounds,
    calls: f64,
}

impl Side {
    fn figures(&mut self) -> [f64; 5] {
        [
            self.rates.median(),
            us(quantile(&mut self.samples, 500)),
            us(quantile(&mut self.samples, 990)),
            self.costs.median(),
            self.calls / count(self.samples.len()),
        ]
    }
}

fn count(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

pub(crate) async fn run(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let connection = Connection::connect(Config::from_url(&plan.url)?).await?;
    let mut rows = Vec::new();
    for (step, names) in STEPS {
        server.command(&["FLUSHALL"]).await?.ok()?;
        let ours = Arc::new(Ours::open(&connection, step).await?);
        let bare = Arc::new(ours.recorded(plan, server).await?);
        let mut figures = vec![vec![Rounds::default(); 5]; 4];
        for _ in 0..plan.rounds {
            for (pair, tasks) in figures.chunks_mut(2).zip(TASKS) {
                let mut sides = round(plan, server, tasks, &bare, &ours).await?;
                for (figures, side) in pair.iter_mut().zip(&mut sides) {
                    for (figure, value) in figures.iter_mut().zip(side.figures()) {
                        figure.0.push(value);
                    }
                }
            }
            if step == Step::Create {
                server.command(&["FLUSHALL"]).await?.ok()?;
            }
        }
        rows.extend(names.into_iter().flatten().zip(figures));
    }
    let table = Table {
        title: TITLE,
        about: "300 sessions with a payload of 300 B, listed by user, company and crew; a patch \
                sets one field. The bare client sends EVALSHA of the same script with the keys \
                and arguments that the library sends, recorded with MONITOR, and the same \
                timeout; only what no two calls may share is drawn anew. They take turns every \
                50 ms, and a round's figures are the medians of these. Server time and round \
                trips are the server's own counts of EVALSHA and EVAL. Nobody reaps meanwhile. \
                Times in µs.",
        columns: vec![(RATE, 0), ("p50", 0), ("p99", 0), ("server time per call", 1), (TRIPS, 2)],
        rows,
    };
    goals(&table, report);
    report.add(table);
    Ok(())
}

fn goals(table: &Table, report: &mut Report) {
    for (step, names) in STEPS {
        for [bare, ours] in names {
            let trips = table.figure(ours, TRIPS).cloned();
            report.goal(format!("round trips per call: {ours}"), trips, Bound::AtMost(1.0));
            if step != Step::Touch {
                let ratio = table.figure(ours, RATE).zip(table.figure(bare, RATE));
                let ratio = ratio.map(|(ours, bare)| ours.over(bare));
                let goal = format!("calls per second over a bare EVALSHA's: {ours}");
                report.goal(goal, ratio, Bound::AtLeast(0.9));
            }
        }
    }
}

/// Both sides, bare and ours.
async fn round(
    plan: &Plan,
    server: &RedisServer,
    tasks: usize,
    bare: &Arc<Bare>,
    ours: &Arc<Ours>,
) -> Result<[Side; 2]> {
    let mut sides = [Side::default(), Side::default()];
    let slices = plan.time.as_millis() / SLICE.as_millis();
    for slice in 0..2 * slices {
        // Bare, ours, ours, bare, and so on: nobody always comes second.
        let is_ours = slice % 4 == 1 || slice % 4 == 2;
        let before = wire::ran(server, &SENT).await?;
        let (samples, time) = if is_ours {
            let ours = ours.clone();
            load::drive(tasks, SLICE, move || {
                let ours = ours.clone();
                async move { timed(ours.done()).await }
            })
            .await?
        } else {
            let bare = bare.clone();
            load::drive(tasks, SLICE, move || {
                let bare = bare.clone();
                async move { timed(bare.done()).await }
            })
            .await?
        };
        let after = wire::ran(server, &SENT).await?;
        let side = &mut sides[usize::from(is_ours)];
        side.rates.0.push(load::rate(samples.len(), time));
        side.costs.0.push((after.us - before.us) / (after.calls - before.calls));
        side.calls += after.calls - before.calls;
        side.samples.extend(samples);
    }
    Ok(sides)
}

async fn timed(call: impl Future<Output = Result<bool>>) -> Result<Duration> {
    let asked = Instant::now();
    ensure!(call.await?, "it is done");
    Ok(asked.elapsed())
}
