//! How late it is told that a session has expired.

use super::people;
use crate::{
    Plan,
    figures::{Rounds, ms, quantile},
    report::{Bound, Report, Table},
};
use anyhow::{Context as _, Result, ensure};
use coordinator_core::{Config, redis::Connection};
use coordinator_harness::RedisServer;
use coordinator_sessions::{Reference, SessionEvent, SessionEventKind, SessionEvents, Sessions};
use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

pub(crate) const TITLE: &str = "Telling of expired sessions";

/// How many expire in a round, one after the other.
const SESSIONS: usize = 2_000;
const PAUSE: Duration = Duration::from_millis(2);
/// How long each lives.
const LIFE: Duration = Duration::from_secs(2);
/// A round takes about 7 s.
const PATIENCE: Duration = Duration::from_secs(60);
/// What an expiry may be told later than the next reaping.
const SLACK: Duration = Duration::from_millis(50);
/// Keys that live long, and of which a server's own expiry has to look at some all the time.
const BACKGROUND: usize = 30_000;
const BACKGROUND_LONG: usize = 300_000;
const CHUNK: usize = 10_000;

pub(crate) async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let (background, names) = if plan.long {
        (
            BACKGROUND_LONG,
            ["reaped every second, among 300,000 keys", "reaped every 100 ms, among 300,000 keys"],
        )
    } else {
        (
            BACKGROUND,
            ["reaped every second, among 30,000 keys", "reaped every 100 ms, among 30,000 keys"],
        )
    };
    let server = RedisServer::start().await?;
    let fill = "for i = ARGV[1], ARGV[1] + ARGV[2] - 1 do \
                redis.call('SET', 'background:' .. i, 'x', 'PX', 3600000 + i) end return 1";
    for from in (0..background).step_by(CHUNK) {
        let (from, count) = (from.to_string(), CHUNK.to_string());
        server.command(&["EVAL", fill, "0", &from, &count]).await?.ok()?;
    }
    let periods = [Sessions::REAP_PERIOD, Duration::from_millis(100)];
    let mut rows = names.map(|name| (name, vec![Rounds::default(); 3]));
    for _ in 0..plan.rounds {
        for ((name, figures), period) in rows.iter_mut().zip(periods) {
            let mut samples = round(&server, period).await.with_context(|| *name)?;
            for (figure, at) in figures.iter_mut().zip([500, 990, 1000]) {
                figure.0.push(ms(quantile(&mut samples, at)));
            }
        }
    }
    for ((name, figures), period) in rows.iter().zip(periods) {
        let value = figures.get(1).cloned();
        let most = Bound::AtMost(ms(period + SLACK));
        report.goal(format!("p99 in ms from expiry to its event: {name}"), value, most);
    }
    report.add(Table {
        title: TITLE,
        about: "2,000 sessions that live for 2 s, created one every 2 ms, and one who listens to \
                events, of which each session has one that says that it expired. From the moment \
                of expiry, by the server's clock, to the event in hand. Other keys with a TTL of \
                over an hour are on the server; `--long` takes 300,000. Times in ms.",
        columns: vec![("p50", 1), ("p99", 1), ("longest", 1)],
        rows: rows.into(),
    });
    Ok(())
}

async fn round(server: &RedisServer, period: Duration) -> Result<Vec<Duration>> {
    // A client of its own: it reaps until it is dropped.
    let connection = Connection::connect(Config::from_url(&server.url())?).await?;
    let sessions = Sessions::redis(&connection)
        .with_idle_timeout(LIFE)
        .with_absolute_timeout(LIFE)
        .with_reaping(Some(period));
    let mut events = sessions.events().await?;
    let creates = tokio::spawn(create(sessions.clone()));
    let told = tokio::time::timeout(PATIENCE, listen(&mut events)).await;
    let ends = creates.await??;
    let told = told.context("each session is told of")??;
    told.iter()
        .map(|(at, event)| {
            let end = ends.get(&event.session).context("a session of this round")?;
            Ok(at.checked_sub(*end).context("no session is told of before its time")?)
        })
        .collect()
}

/// When each of them expires, since the Unix epoch.
async fn create(sessions: Sessions) -> Result<HashMap<Reference, Duration>> {
    let mut ends = HashMap::new();
    let mut ticks = tokio::time::interval(PAUSE);
    for number in 0..SESSIONS {
        ticks.tick().await;
        let session = sessions.create(people::person(number)?).await?.session()?;
        let end = session.created_at() + session.expires_in();
        ends.insert(session.reference().clone(), end);
    }
    ensure!(ends.len() == SESSIONS, "each has a reference of its own");
    Ok(ends)
}

/// The events of expiry and when each came, once there are as many as sessions.
async fn listen(events: &mut SessionEvents) -> Result<Vec<(Duration, SessionEvent)>> {
    let mut told = HashMap::new();
    while told.len() < SESSIONS {
        let event = events.next().await;
        if event.kind == SessionEventKind::Expired {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
            let before = told.insert(event.session.clone(), (now, event));
            ensure!(before.is_none(), "a session was told of twice");
        }
    }
    Ok(told.into_values().collect())
}
