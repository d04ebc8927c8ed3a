//! A process that keeps sessions in a file and is killed in the midst of writing: all it
//! acknowledged is there, and nothing is torn.

use super::{
    created, figures, live, many,
    processes::{Given, Process, say},
};
use coordinator_harness::seed;
use coordinator_sessions::{Filter, Lookup, NewSession, Patch, Sessions, Store, Token};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::{collections::HashMap, path::Path, time::Duration};

fn over(path: &str) -> Sessions {
    let store = Store::file(Path::new(path)).expect("a file");
    Sessions::embedded_in(&store).with_reaping(None)
}

/// Both fields of a session, which are always written together.
fn both(number: u64) -> Patch {
    let patch = Patch::new().set("a", &number).and_then(|patch| patch.set("b", &number));
    patch.expect("values")
}

/// The process: it writes until it is killed, and says what it has written.
pub(super) async fn serve(given: Given) {
    let sessions = over(&given.url);
    say("ready");
    for number in 1.. {
        let token = created(&sessions, NewSession::user(&format!("user {}", number % 9))).await;
        say(&format!("wrote {} 0", token.reveal()));
        for write in 1..4 {
            sessions.patch(&token, both(write)).await.expect("it is written");
            say(&format!("wrote {} {write}", token.reveal()));
        }
        if number % 4 == 0 {
            sessions.invalidate(&token, "logout").await.expect("it is ended");
            say(&format!("ended {} 0", token.reveal()));
        }
    }
}

/// What was acknowledged of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Known {
    Wrote(u64),
    Ended,
}

fn note(known: &mut HashMap<String, Known>, answer: &str) {
    let words: Vec<&str> = answer.split(' ').collect();
    let what = match words[0] {
        "wrote" => Known::Wrote(words[2].parse().expect("a number")),
        _ => Known::Ended,
    };
    known.insert(words[1].to_owned(), what);
}

/// Everything acknowledged is there; of the last, one step more may be.
async fn check(path: &str, known: &HashMap<String, Known>) {
    let sessions = over(path);
    let mut alive = 0;
    for (token, known) in known {
        let token = Token::parse(token).expect("a token");
        match (sessions.peek(&token).await.expect("an answer"), known) {
            (Lookup::Live(session), Known::Wrote(number)) => {
                let value = |field| session.get::<u64>(field).expect("a value").unwrap_or(0);
                assert_eq!(value("a"), value("b"), "torn");
                let more = value("a") - number;
                assert!(more <= 1, "{} is not {number}", value("a"));
                assert_eq!(session.version(), 1 + value("a"));
                alive += 1;
            }
            (Lookup::Revoked { reason }, known) => {
                assert_eq!(reason, "logout");
                assert!(matches!(known, Known::Ended | Known::Wrote(3)), "{known:?}");
            }
            (found, known) => panic!("{known:?} is {found:?}"),
        }
    }
    // One more may have been created that nobody was told of.
    let count = sessions.count(&Filter::all()).await.expect("a count");
    let compared = sessions.verify().await.expect("it is compared");
    assert_eq!((compared.orphans, compared.missing, compared.sessions), (0, 0, count));
    assert!(count >= alive, "{count} of {alive}");
    // And it can be written to.
    let token = created(&sessions, NewSession::user("after")).await;
    live(&sessions, &token).await;
    sessions.invalidate(&token, "logout").await.expect("it is ended");
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_killed_writer() {
    let kills = many(5, 60);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sessions.redb");
    let path = path.to_str().expect("UTF-8");
    let mut random = StdRng::seed_from_u64(seed());
    let mut known = HashMap::new();
    for _ in 0..kills {
        let mut writer = Process::start("sessions file", path, "-").await;
        let at_least = random.random_range(20..60);
        for _ in 0..at_least {
            note(&mut known, &writer.answer().await.expect("it writes"));
        }
        tokio::time::sleep(Duration::from_micros(random.random_range(0..8_000))).await;
        writer.kill().await;
        // What it still had said.
        while let Some(answer) = writer.answer().await {
            note(&mut known, &answer);
        }
        check(path, &known).await;
    }
    figures(&format!("files: {} sessions acknowledged through {kills} kills", known.len()));
    let ended = known.values().filter(|known| **known == Known::Ended).count();
    assert!(known.len() > kills * 2 && ended > 0, "INVALID: {}, {ended}", known.len());
}
