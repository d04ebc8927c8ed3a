//! Fifty writers in two processes change one session while their links are killed: no change that
//! was acknowledged is lost. Writers that read and write back lose some, or this proved nothing.

use super::{
    SECOND, created, figures, live, many,
    processes::{Given, Process, say},
    server,
};
use crate::stage::config;
use coordinator_core::{ErrorKind, redis::Connection};
use coordinator_harness::{RedisServer, eventually};
use coordinator_sessions::{Lookup, NewSession, Patch, Sessions, Token, Updated};
use futures::future::join_all;
use std::time::Duration;

const WRITERS: usize = 50;
const PROCESSES: usize = 2;

/// What writers were told.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Told {
    done: u64,
    /// Perhaps done.
    unknown: u64,
    /// Surely not done.
    failed: u64,
    /// Patches that were asked for again, since nobody knew.
    again: u64,
}

impl Told {
    fn sum(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().fold(Self::default(), |sum, one| Self {
            done: sum.done + one.done,
            unknown: sum.unknown + one.unknown,
            failed: sum.failed + one.failed,
            again: sum.again + one.again,
        })
    }

    fn write(&self) -> String {
        format!("{} {} {} {}", self.done, self.unknown, self.failed, self.again)
    }

    fn read(text: &str) -> Self {
        let numbers: Vec<u64> =
            text.split(' ').map(|word| word.parse().expect("a number")).collect();
        let [done, unknown, failed, again] = numbers[..] else { panic!("four numbers") };
        Self { done, unknown, failed, again }
    }
}

/// Counts one field up, so many times, and writes a field of its own each time.
async fn write(sessions: &Sessions, token: &Token, writer: &str, updates: u64) -> Told {
    let mut told = Told::default();
    for number in 1..=updates {
        let more = |data: &mut coordinator_sessions::Data| {
            data.set("count", &(data.get::<u64>("count")?.unwrap_or(0) + 1))
        };
        match sessions.update(token, more).await {
            Ok(Lookup::Live(Updated::Done { .. })) => told.done += 1,
            Ok(other) => panic!("{other:?}"),
            Err(error) => match error.kind() {
                ErrorKind::Indeterminate => told.unknown += 1,
                ErrorKind::Unavailable => told.failed += 1,
                _ => panic!("{}", error.chain()),
            },
        }
        let patch = Patch::new().set(writer, &number).expect("a value");
        // Until it is known that it was done: the last one has to stand.
        loop {
            match sessions.patch(token, patch.clone()).await {
                Ok(patched) => {
                    assert!(matches!(patched, Lookup::Live(Updated::Done { .. })), "{patched:?}");
                    break;
                }
                Err(error) => assert!(error.is_retryable(), "{}", error.chain()),
            }
            told.again += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    told
}

/// As people write it over plain commands.
async fn write_naively(naive: &Connection, key: &str, updates: u64) -> Told {
    let mut told = Told::default();
    for _ in 0..updates {
        let blob = naive.get(key).await.expect("an answer").expect("a blob");
        let count: u64 = std::str::from_utf8(&blob[1..]).expect("text").parse().expect("a number");
        let blob = format!("\u{1}{}", count + 1);
        naive.set(key, blob.into(), SECOND * 600).await.expect("an answer");
        told.done += 1;
    }
    told
}

/// One of the processes: `TOKEN NUMBER WRITERS UPDATES`.
pub(super) async fn serve(mut given: Given, naive: bool) {
    let connection = given.connection().await;
    let sessions = Sessions::redis(&connection).with_reaping(None);
    say("ready");
    while let Some(order) = given.order().await {
        let number = |at: usize| order[at].parse::<u64>().expect("a number");
        let told = if naive {
            let all = (0..number(2)).map(|_| write_naively(&connection, &order[0], number(3)));
            join_all(all).await
        } else {
            let token = Token::parse(&order[0]).expect("a token");
            let names: Vec<_> = (0..number(2)).map(|w| format!("w{}-{w}", order[1])).collect();
            let all = names.iter().map(|name| write(&sessions, &token, name, number(3)));
            join_all(all).await
        };
        say(&Told::sum(told).write());
    }
}

/// Has all writers write, and kills their links a few times.
async fn play(role: &str, what: &str, stage: (&RedisServer, &str), updates: u64) -> Told {
    let (server, prefix) = stage;
    let kills = if role == "writer" { 12 } else { 0 };
    let mut processes =
        Process::several(PROCESSES, &format!("sessions {role}"), &server.url(), prefix).await;
    let asked = processes.iter_mut().enumerate().map(|(number, process)| {
        let order = format!("{what} {number} {} {updates}", WRITERS / PROCESSES);
        async move { Told::read(&process.ask(&order).await) }
    });
    let killing = async {
        for _ in 0..kills {
            let before = server.calls_of("evalsha").await;
            eventually(SECOND * 20, "they write", async || {
                server.calls_of("evalsha").await > before + 120
            })
            .await;
            let killed = server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
            killed.expect("an answer").ok().expect("they are killed");
        }
    };
    let (told, ()) = futures::join!(join_all(asked), killing);
    Told::sum(told)
}

#[tokio::test]
async fn no_acknowledged_change_is_lost_among_fifty_writers() {
    let updates = many(20, 100) as u64;
    let server = server().await;
    let prefix = config(&server.url()).keyspace().prefix().to_owned();
    let config = config(&server.url()).with_prefix(&prefix).expect("a prefix");
    let connection = Connection::connect(config).await.expect("a connection");
    let sessions = Sessions::redis(&connection).with_reaping(None);
    let token = created(&sessions, NewSession::user("ann")).await;
    let began = super::now();
    let told = play("writer", &token.reveal(), (&server, &prefix), updates).await;
    let took = began.elapsed();
    eventually(SECOND * 10, "the link is back", async || sessions.peek(&token).await.is_ok()).await;
    let session = live(&sessions, &token).await;
    let count = session.get::<u64>("count").expect("a number").expect("a count");
    figures(&format!("writers: {told:?}, {count} counted, in {took:?}"));
    assert!(told.done <= count && count <= told.done + told.unknown, "{count}: {told:?}");
    assert_eq!(told.done + told.unknown + told.failed, updates * WRITERS as u64);
    // Every writer's own field has its last value.
    let own = (0..PROCESSES)
        .flat_map(|process| (0..WRITERS / PROCESSES).map(move |w| format!("w{process}-{w}")));
    for field in own {
        assert_eq!(session.get::<u64>(&field).expect("a number"), Some(updates), "{field}");
    }
    // Else no link was killed in the midst of anything.
    assert!(told.unknown + told.failed + told.again > 0, "INVALID: {told:?}");
}

#[tokio::test]
async fn writers_that_read_and_write_back_lose_changes() {
    let server = server().await;
    let prefix = config(&server.url()).keyspace().prefix().to_owned();
    let config = config(&server.url()).with_prefix(&prefix).expect("a prefix");
    let naive = Connection::connect(config).await.expect("a connection");
    let key = format!("{prefix}:naive");
    naive.set(&key, "\u{1}0".into(), SECOND * 600).await.expect("an answer");
    let told = play("naive writer", &key, (&server, &prefix), 5).await;
    let blob = naive.get(&key).await.expect("an answer").expect("a blob");
    let count: u64 = std::str::from_utf8(&blob[1..]).expect("text").parse().expect("a number");
    figures(&format!("writers, naive: {told:?}, {count} counted"));
    assert!(count < told.done, "the harness finds nothing");
}
