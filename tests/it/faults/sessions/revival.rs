//! A session that was ended stays so, whatever three processes have on its way at that moment. A
//! store that reads, changes and writes back fails the same harness, or it would prove nothing.

use super::{
    created, figures, many,
    processes::{Given, Process, say},
    server, wall_us,
};
use crate::stage::config;
use bytes::Bytes;
use coordinator_core::redis::Connection;
use coordinator_harness::seed;
use coordinator_sessions::{Lookup, NewSession, Patch, Rotation, Sessions, Token};
use futures::future::join_all;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::{sync::Mutex, time::Duration};

const RACERS: usize = 3;
/// How many rounds run at once.
const AT_ONCE: usize = 20;
const HOUR: Duration = Duration::from_hours(1);

#[derive(Debug, Clone, Copy)]
enum Deed {
    Update,
    Patch,
    Load,
    Rotate,
    Extend,
}

const DEEDS: [Deed; 5] = [Deed::Update, Deed::Patch, Deed::Load, Deed::Rotate, Deed::Extend];

/// What races: sessions, or what people write over plain commands.
enum Racer {
    Sessions(Sessions),
    Naive(Connection),
}

impl Racer {
    /// Does something with a session; whether it lived, and its next token.
    async fn act(&self, deed: Deed, token: &str) -> (bool, Option<String>) {
        match self {
            Self::Sessions(sessions) => act(sessions, deed, token).await,
            Self::Naive(connection) => act_naively(connection, deed, token).await,
        }
    }

    async fn end(&self, token: &str) {
        match self {
            Self::Sessions(sessions) => {
                let token = Token::parse(token).expect("a token");
                let ended = sessions.invalidate(&token, "logout").await.expect("an answer");
                // The first user of the token may have moved it on.
                assert_eq!(ended, Lookup::Live(()));
            }
            Self::Naive(connection) => {
                connection.delete(&naive_key(connection, token)).await.expect("an answer");
            }
        }
    }
}

async fn act(sessions: &Sessions, deed: Deed, token: &str) -> (bool, Option<String>) {
    let token = Token::parse(token).expect("a token");
    match deed {
        Deed::Update => {
            let more = |data: &mut coordinator_sessions::Data| {
                data.set("count", &(data.get::<u64>("count")?.unwrap_or(0) + 1))
            };
            (sessions.update(&token, more).await.expect("an answer").is_live(), None)
        }
        Deed::Patch => {
            let patch = Patch::new().set("cart", &["pear"]).expect("a value");
            (sessions.patch(&token, patch).await.expect("an answer").is_live(), None)
        }
        Deed::Load => (sessions.load(&token).await.expect("an answer").is_live(), None),
        Deed::Rotate => {
            let session = sessions.peek(&token).await.expect("an answer").live();
            let login = match session.map(|session| session.user().is_some()) {
                Some(false) => Rotation::new().user(&format!("user {}", token.reveal().len())),
                _ => Rotation::new(),
            };
            match sessions.rotate(&token, login).await.expect("an answer").live() {
                Some(rotated) => (true, rotated.token().ok().map(|token| token.reveal())),
                None => (false, None),
            }
        }
        Deed::Extend => {
            (sessions.extend(&token, Some(HOUR), None).await.expect("an answer").is_live(), None)
        }
    }
}

fn naive_key(connection: &Connection, token: &str) -> String {
    format!("{}:naive:{token}", connection.keyspace().prefix())
}

/// Reads all of it, changes it, writes all of it.
async fn act_naively(naive: &Connection, deed: Deed, token: &str) -> (bool, Option<String>) {
    let key = naive_key(naive, token);
    let Some(mut blob) = naive.get(&key).await.expect("an answer").map(Vec::from) else {
        return (false, None);
    };
    blob.push(b'x');
    if matches!(deed, Deed::Rotate) {
        let next = format!("{token}r");
        naive.set(&naive_key(naive, &next), blob.into(), HOUR).await.expect("an answer");
        naive.delete(&key).await.expect("an answer");
        return (true, Some(next));
    }
    naive.set(&key, blob.into(), HOUR).await.expect("an answer");
    (true, None)
}

/// What one process saw of one session in a round.
#[derive(Debug, Default)]
struct Seen {
    /// When its end was acknowledged; 0: somebody else ended it.
    ended: u64,
    /// When the last was asked for that found it alive.
    last_alive: u64,
    alive: u64,
    refused: u64,
    /// Its next token, if it was rotated here; `-` if not.
    next: String,
}

impl Seen {
    fn write(&self) -> String {
        let Self { ended, last_alive, alive, refused, next } = self;
        format!("{ended},{last_alive},{alive},{refused},{next}")
    }

    fn read(text: &str) -> Self {
        let mut parts = text.splitn(5, ',');
        let mut number = || parts.next().expect("a part").parse().expect("a number");
        let (ended, last_alive, alive, refused) = (number(), number(), number(), number());
        let next = parts.next().expect("the last part").to_owned();
        Self { ended, last_alive, alive, refused, next }
    }
}

/// Everything that can be done to a session at once, and perhaps its end in the midst.
async fn round(racer: &Racer, token: &str, ends: bool, mut random: StdRng) -> Seen {
    let seen = Mutex::new(Seen { next: "-".to_owned(), ..Seen::default() });
    let step = async |deed: Deed, pauses: u32| {
        for _ in 0..pauses {
            tokio::task::yield_now().await;
        }
        let newest = seen.lock().expect("unpoisoned").next.clone();
        // Those on their way go on with the token before.
        let with = if newest == "-" || pauses.is_multiple_of(2) { token } else { &newest };
        let asked = wall_us();
        let (alive, next) = racer.act(deed, with).await;
        let mut seen = seen.lock().expect("unpoisoned");
        if alive {
            seen.last_alive = seen.last_alive.max(asked);
            seen.alive += 1;
        } else {
            seen.refused += 1;
        }
        if let Some(next) = next {
            seen.next = next;
        }
    };
    let deeds: Vec<_> = (0..2 * DEEDS.len())
        .map(|number| (DEEDS[number % DEEDS.len()], random.random_range(0..400)))
        .collect();
    let pauses = random.random_range(0..300);
    let end = async {
        if ends {
            for _ in 0..pauses {
                tokio::task::yield_now().await;
            }
            racer.end(token).await;
            seen.lock().expect("unpoisoned").ended = wall_us();
            step(Deed::Load, 0).await;
            step(Deed::Load, 1).await;
        }
    };
    futures::join!(join_all(deeds.into_iter().map(|(deed, pauses)| step(deed, pauses))), end);
    seen.into_inner().expect("unpoisoned")
}

/// One of the three processes: `race SEED WHICH TOKEN…` and `load TOKEN…`.
pub(super) async fn serve(mut given: Given, naive: bool) {
    let racer = if naive {
        Racer::Naive(given.connection().await)
    } else {
        Racer::Sessions(given.sessions().await)
    };
    say("ready");
    while let Some(order) = given.order().await {
        if order[0] == "load" {
            let loads = order[1..].iter().map(|token| racer.act(Deed::Load, token));
            let alive = join_all(loads).await.into_iter().filter(|(alive, _)| *alive).count();
            say(&alive.to_string());
            continue;
        }
        let seed: u64 = order[1].parse().expect("a seed");
        let mine: usize = order[2].parse().expect("a number");
        let rounds = order[3..].iter().enumerate().map(|(number, token)| {
            let random = StdRng::seed_from_u64(seed + number as u64);
            round(&racer, token, number % RACERS == mine, random)
        });
        let seen = join_all(rounds).await;
        say(&seen.iter().map(Seen::write).collect::<Vec<_>>().join(" "));
    }
}

/// What all rounds came to.
#[derive(Debug, Default)]
struct Tally {
    rounds: usize,
    /// Sessions that lived for somebody who asked after their end was acknowledged.
    late: usize,
    /// Tokens that found a session when all was over.
    revived: usize,
    /// Rounds in which some were in time and some were not.
    contested: usize,
}

/// Begins a round: a token, known to the store that races.
async fn token(store: &Racer, number: usize) -> String {
    match store {
        Racer::Sessions(sessions) => {
            // Half of them move to another shard in the midst of it.
            let anonymous = number.is_multiple_of(2);
            let user = NewSession::user(&format!("user {}", number % 7)).company("acme");
            let new = if anonymous { NewSession::anonymous() } else { user };
            created(sessions, new).await.reveal()
        }
        Racer::Naive(naive) => {
            let token = format!("n{number}");
            let blob = Bytes::from_static(b"\x01");
            naive.set(&naive_key(naive, &token), blob, HOUR).await.expect("an answer");
            token
        }
    }
}

async fn race(role: &str, rounds: usize) -> Tally {
    let server = server().await;
    let prefix = config(&server.url()).keyspace().prefix().to_owned();
    let config = config(&server.url()).with_prefix(&prefix).expect("a prefix");
    let connection = Connection::connect(config).await.expect("a connection");
    let store = match role {
        "racer" => Racer::Sessions(Sessions::redis(&connection).with_reaping(None)),
        _ => Racer::Naive(connection),
    };
    let mut racers =
        Process::several(RACERS, &format!("sessions {role}"), &server.url(), &prefix).await;
    let mut tally = Tally::default();
    let mut every = Vec::new();
    while tally.rounds < rounds {
        let tokens =
            join_all((0..AT_ONCE).map(|number| token(&store, tally.rounds + number))).await;
        let asked = racers.iter_mut().enumerate().map(|(number, racer)| {
            let seed = seed() ^ (tally.rounds * 10 + number) as u64;
            let order = format!("race {} {number} {}", seed % (1 << 40), tokens.join(" "));
            async move { racer.ask(&order).await }
        });
        let told = join_all(asked).await;
        let told: Vec<Vec<Seen>> =
            told.iter().map(|told| told.split(' ').map(Seen::read).collect()).collect();
        let mut known = tokens;
        for number in 0..AT_ONCE {
            let all: Vec<&Seen> = told.iter().map(|seen| &seen[number]).collect();
            let ended = all.iter().map(|seen| seen.ended).max().expect("three");
            assert!(ended > 0, "nobody ended it");
            tally.late += usize::from(all.iter().any(|seen| seen.last_alive > ended));
            let sum = |of: fn(&Seen) -> u64| all.iter().map(|seen| of(seen)).sum::<u64>();
            let fair = sum(|seen| seen.alive) > 0 && sum(|seen| seen.refused) > 2;
            tally.contested += usize::from(fair);
            known.extend(all.iter().map(|seen| seen.next.clone()).filter(|next| next != "-"));
        }
        tally.revived += revived(&mut racers, &known).await;
        tally.rounds += AT_ONCE;
        every.extend(known);
    }
    // And they stay so.
    for known in every.chunks(200) {
        tally.revived += revived(&mut racers, known).await;
    }
    if let Racer::Sessions(sessions) = &store {
        assert_eq!(super::count(sessions).await, 0, "something is still counted");
        let found = sessions.verify().await.expect("it is compared");
        assert_eq!((found.sessions, found.orphans, found.missing), (0, 0, 0));
    }
    tally
}

/// How many of these tokens find a session, whichever process asks.
async fn revived(racers: &mut [Process], tokens: &[String]) -> usize {
    let order = format!("load {}", tokens.join(" "));
    let told = join_all(racers.iter_mut().map(|racer| racer.ask(&order))).await;
    told.iter().map(|count| count.parse::<usize>().expect("a number")).max().expect("three")
}

#[tokio::test]
async fn nothing_revives_a_session_that_was_ended() {
    let began = super::now();
    let tally = race("racer", many(400, 10_000)).await;
    figures(&format!("revival: {tally:?} in {:?}", began.elapsed()));
    assert_eq!((tally.late, tally.revived), (0, 0), "{tally:?}");
    // Else the end came before or after everything else, and nothing raced.
    assert!(tally.contested * 2 > tally.rounds, "INVALID: {tally:?}");
}

#[tokio::test]
async fn a_store_that_reads_and_writes_back_revives_sessions() {
    let tally = race("naive racer", 200).await;
    figures(&format!("revival, naive: {tally:?}"));
    assert!(tally.revived > 0 && tally.late > 0, "the harness finds nothing: {tally:?}");
}
