//! Eight reapers, some of which are killed: each session that expires is told of once, and soon.

use super::{
    PATIENCE, SECOND, created, figures, many,
    processes::{Given, Process, say},
    server,
};
use crate::stage::config;
use coordinator_core::redis::Connection;
use coordinator_harness::eventually;
use coordinator_sessions::{
    Lookup, NewSession, Reference, SessionEventKind, Sessions, Stats, Token,
};
use futures::future::join_all;
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

const REAPERS: usize = 8;
const PERIOD: Duration = Duration::from_millis(200);
const HOUR: Duration = Duration::from_hours(1);

/// One of the processes: it reaps until it is killed.
pub(super) async fn serve(mut given: Given) {
    let sessions = Sessions::redis(&given.connection().await).with_reaping(Some(PERIOD));
    // Who creates sessions sees to their end.
    created(&sessions, NewSession::user("a reaper")).await;
    say("ready");
    while given.order().await.is_some() {}
}

/// A session that will expire, unless it is extended in time.
struct Mortal {
    token: Token,
    reference: Reference,
    /// On the server's clock.
    expiry: Duration,
    is_saved: bool,
}

async fn mortal(sessions: &Sessions, number: usize) -> Mortal {
    // A hundred and fifty a second, and the first of them when most are created.
    let idle = SECOND + Duration::from_micros(number as u64 * 6_667);
    let new = NewSession::user(&format!("user {number}")).with_idle_timeout(idle);
    let session = sessions.create(new).await.expect("an answer").session().expect("created");
    Mortal {
        token: session.token().expect("a token").clone(),
        reference: session.reference().clone(),
        expiry: session.created_at() + session.expires_in(),
        is_saved: number.is_multiple_of(5),
    }
}

/// Extends those that are to be saved, in the last moment; which were.
async fn save(sessions: &Sessions, mortals: &[Mortal]) -> HashSet<Reference> {
    let saved = mortals.iter().filter(|one| one.is_saved).map(|one| async move {
        let now = Duration::from_micros(super::wall_us());
        tokio::time::sleep(one.expiry.saturating_sub(now + SECOND / 10)).await;
        match sessions.extend(&one.token, Some(HOUR), None).await.expect("an answer") {
            Lookup::Live(_) => Some(one.reference.clone()),
            Lookup::Expired => None,
            other => panic!("{other:?}"),
        }
    });
    join_all(saved).await.into_iter().flatten().collect()
}

/// Kills one reaper after the other, and starts others.
async fn kill(reapers: &mut Vec<Process>, url: &str, prefix: &str, until: Duration) -> usize {
    let mut killed = 0;
    while Duration::from_micros(super::wall_us()) < until {
        tokio::time::sleep(PERIOD).await;
        let mut victim = reapers.remove(0);
        victim.kill().await;
        reapers.push(Process::start("sessions reaper", url, prefix).await);
        killed += 1;
    }
    killed
}

/// How late each was told of, in ms, in order.
fn lags(mortals: &[Mortal], told: &HashMap<Reference, Vec<Duration>>) -> Vec<u128> {
    let mut lags: Vec<u128> = mortals
        .iter()
        .filter_map(|one| Some((told.get(&one.reference)?[0], one.expiry)))
        .map(|(at, expiry)| {
            assert!(at >= expiry, "early: {at:?}, {expiry:?}");
            (at - expiry).as_millis()
        })
        .collect();
    lags.sort_unstable();
    lags
}

#[tokio::test]
async fn each_session_that_expires_is_told_of_once_by_eight_reapers() {
    let of = many(300, 3_000);
    let server = server().await;
    // What else may expire on such a server.
    let fill = "for i = 1, tonumber(ARGV[1]) do
        redis.call('SET', KEYS[1] .. i, 'x', 'PX', 5000 + i % 60000) end return 1";
    let background_keys = many(3_000, 300_000).to_string();
    let filled = server.command(&["EVAL", fill, "1", "filler:", &background_keys]).await;
    filled.expect("an answer").ok().expect("keys");
    let prefix = config(&server.url()).keyspace().prefix().to_owned();
    let config = config(&server.url()).with_prefix(&prefix).expect("a prefix");
    // A machine that stops for a second does not decide about what is told.
    let config = config.with_command_timeout(PATIENCE);
    let connection = Connection::connect(config).await.expect("a connection");
    let throttle = Duration::from_millis(1);
    let sessions = Sessions::redis(&connection).with_reaping(None).with_touch_throttle(throttle);
    let mut events = sessions.events().await.expect("they are heard");
    let mut reapers = Process::several(REAPERS, "sessions reaper", &server.url(), &prefix).await;
    let mut mortals = Vec::new();
    while mortals.len() < of {
        let some = mortals.len()..of.min(mortals.len() + 50);
        mortals.extend(join_all(some.map(|number| mortal(&sessions, number))).await);
    }
    let last = mortals.iter().map(|one| one.expiry).max().expect("some");
    let url = server.url();
    let (saved, killed) =
        futures::join!(save(&sessions, &mortals), kill(&mut reapers, &url, &prefix, last));
    let doomed = of - saved.len();
    let mut heard: HashMap<Reference, usize> = HashMap::new();
    let hearing = async {
        while heard.len() < doomed {
            let event = events.next().await;
            if event.kind == SessionEventKind::Expired {
                *heard.entry(event.session).or_default() += 1;
            }
        }
    };
    tokio::time::timeout(PATIENCE, hearing).await.expect("all are heard of");
    eventually(PATIENCE, "nobody is overdue", async || {
        matches!(sessions.stats().await, Ok(Stats { overdue: 0, .. }))
    })
    .await;
    drop(reapers);
    let mut told: HashMap<Reference, Vec<Duration>> = HashMap::new();
    for event in sessions.history(HOUR).await.expect("it is read") {
        if event.kind == SessionEventKind::Expired {
            told.entry(event.session).or_default().push(event.at);
        }
    }
    let lags = lags(&mortals, &told);
    let (half, most) = (lags[lags.len() / 2], lags[lags.len() * 99 / 100]);
    figures(&format!(
        "reapers: {} expired among {background_keys} other keys, {} saved, {killed} killed; \
         told after {half} ms at the median, {most} ms at p99, {} ms at most",
        lags.len(),
        saved.len(),
        lags.last().expect("some")
    ));
    for one in &mortals {
        let times = told.get(&one.reference).map_or(0, Vec::len);
        let is_saved = saved.contains(&one.reference);
        assert_eq!(times, usize::from(!is_saved), "told {times} times; saved: {is_saved}");
        assert_eq!(heard.get(&one.reference).copied().unwrap_or(0), times);
        let alive = sessions.peek(&one.token).await.expect("an answer").is_live();
        assert_eq!(alive, is_saved);
    }
    assert_eq!(told.len(), doomed, "others were told of");
    assert!(killed >= 2 && saved.len() > of / 50, "INVALID: {killed} killed, {saved:?}");
    // A busy machine may be late by itself; the long run prints what it is alone.
    assert!(most < (PERIOD + SECOND * 3).as_millis(), "p99 {most} ms");
}
