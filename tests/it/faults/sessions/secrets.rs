//! What can be read beside a session lets nobody in: no secret is in what the server is sent, in
//! what it keeps, or in what is logged. And what the server keeps ends by itself.

use super::{
    SECOND, background, busy, created, figures,
    processes::{Given, Process, say},
};
use crate::{
    stage::config,
    topology::{LEAST, builder, server},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use coordinator_core::redis::Connection;
use coordinator_harness::{RedisServer, Resp, eventually};
use coordinator_sessions::{KeyRing, NewSession, Sessions, Token};
use std::{
    collections::HashMap,
    io::Write,
    path::Path,
    sync::{Arc, Mutex},
};
use tracing_subscriber::fmt::MakeWriter;

/// What is kept encrypted.
const PLAIN: &str = "a plain text that nobody else reads";
/// What the harness must find.
const PLANTED: &str = "planted";

/// Everything that is logged in this process.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn say(&self, bytes: &[u8]) {
        self.0.lock().expect("unpoisoned").extend_from_slice(bytes);
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.say(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The client of the server logs in another way.
impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.say(format!("{} {} {}\n", record.level(), record.target(), record.args()).as_bytes());
    }

    fn flush(&self) {}
}

/// The process: it does all there is, and answers with its tokens; what it logged is in a file.
pub(super) async fn serve(mut given: Given) {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).expect("the first");
    log::set_boxed_logger(Box::new(log.clone())).expect("the first");
    log::set_max_level(log::LevelFilter::Trace);
    say("ready");
    let file = given.order().await.expect("where to log")[0].clone();
    let ring = || KeyRing::new(7, [0x5a; 32]);
    let sessions = given.sessions().await.with_encryption(ring()).with_update_events();
    let peer = given.sessions().await.with_encryption(ring());
    let mut tokens = busy::day(&sessions, &peer).await;
    let new = NewSession::user("ann").set("plain", PLAIN).expect("a value");
    tokens.push(created(&sessions, new).await);
    for token in &tokens {
        tracing::trace!(?token, ?sessions, "as people do");
    }
    // One that is told where it should not be, to be found.
    let planted = created(&sessions, NewSession::user("careless")).await;
    let text = planted.reveal();
    let new = NewSession::user(PLANTED).set(&text[text.len() - 43..], &1).expect("a value");
    created(&sessions, new).await;
    tracing::trace!(text, "as nobody should");
    tokens.push(planted);
    std::fs::write(file, log.0.lock().expect("unpoisoned").as_slice()).expect("a file");
    let texts: Vec<_> = tokens.iter().map(Token::reveal).collect();
    say(&texts.join(" "));
    while given.order().await.is_some() {}
}

/// A secret in every form in which it could be written down.
fn forms(token: &str) -> Vec<Vec<u8>> {
    let text = &token[token.len() - 43..];
    let bytes = URL_SAFE_NO_PAD.decode(text).expect("base64");
    assert_eq!(bytes.len(), 32);
    let hex = bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    let listed = format!("{bytes:?}");
    vec![
        text.as_bytes().to_vec(),
        bytes.clone(),
        repr(&bytes),
        bytes.escape_ascii().to_string().into_bytes(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
        listed.as_bytes()[1..listed.len() - 1].to_vec(),
        // Half of it is bad enough.
        bytes[..16].to_vec(),
        bytes[16..].to_vec(),
        text.as_bytes()[..22].to_vec(),
        text.as_bytes()[21..].to_vec(),
    ]
}

/// As MONITOR writes bytes.
fn repr(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for byte in bytes {
        match byte {
            b'\\' | b'"' => text.extend([b'\\', *byte]),
            b'\n' => text.extend(b"\\n"),
            b'\r' => text.extend(b"\\r"),
            b'\t' => text.extend(b"\\t"),
            7 => text.extend(b"\\a"),
            8 => text.extend(b"\\b"),
            b' '..=b'~' => text.push(*byte),
            _ => text.extend(format!("\\x{byte:02x}").bytes()),
        }
    }
    text
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    !Needles::new([((), needle.to_vec())]).found(hay).is_empty()
}

/// What is looked for, whosever it is, by its first eight bytes.
struct Needles<T>(HashMap<[u8; 8], Vec<(T, Vec<u8>)>>, Vec<bool>);

impl<T: Copy> Needles<T> {
    fn new(all: impl IntoIterator<Item = (T, Vec<u8>)>) -> Self {
        let mut needles = Self(HashMap::new(), vec![false; 1 << 16]);
        for (whose, needle) in all {
            needles.1[pair(&needle)] = true;
            let first = needle[..8].try_into().expect("eight bytes");
            needles.0.entry(first).or_default().push((whose, needle));
        }
        needles
    }

    fn found(&self, hay: &[u8]) -> Vec<T> {
        let mut found = Vec::new();
        for at in 0..hay.len().saturating_sub(7) {
            // Most places are sorted out by two bytes.
            if self.1[pair(&hay[at..])]
                && let Some(some) = self.0.get(&hay[at..at + 8])
            {
                let here = some.iter().filter(|(_, needle)| hay[at..].starts_with(needle));
                found.extend(here.map(|(whose, _)| *whose));
            }
        }
        found
    }
}

fn pair(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

/// In which of these places secrets of tokens are.
fn found<'a>(places: &'a [(&'a str, Vec<u8>)], tokens: &[&str]) -> Vec<&'a str> {
    let needles = tokens.iter().flat_map(|token| forms(token)).map(|form| ((), form));
    let needles = Needles::new(needles);
    let has = |hay: &[u8]| !needles.found(hay).is_empty();
    places.iter().filter(|(_, hay)| has(hay)).map(|(name, _)| *name).collect()
}

/// Everything the server is sent, until it is told to stop.
async fn monitor(server: &RedisServer) -> (Arc<Mutex<Vec<u8>>>, tokio::task::JoinHandle<()>) {
    let mut connection = server.connect().await.expect("a connection");
    connection.command(&["MONITOR"]).await.expect("an answer").ok().expect("it is shown");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let all = seen.clone();
    let watching = background(async move {
        while let Ok(Resp::Simple(line)) = connection.read().await {
            let mut seen = seen.lock().expect("unpoisoned");
            seen.extend_from_slice(line.as_bytes());
            seen.push(b'\n');
        }
    });
    (all, watching)
}

/// What the server keeps, as a backup has it.
async fn backup(server: &RedisServer) -> Vec<u8> {
    server.command(&["SAVE"]).await.expect("an answer").ok().expect("it is saved");
    std::fs::read(server.dir().join("dump.rdb")).expect("a file")
}

/// What the server has written command by command.
fn journal(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(journal(&path));
        } else if path.to_string_lossy().contains("aof") {
            all.extend(std::fs::read(path).expect("a file"));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_sent_kept_or_logged_and_nothing_is_kept_for_ever() {
    let server = builder().with_aof("no").config("rdbcompression", "no").start().await;
    let server = server.expect("a server");
    let prefix = config(&server.url()).keyspace().prefix().to_owned();
    let (shown, watching) = monitor(&server).await;
    let mut process = Process::start("sessions busy", &server.url(), &prefix).await;
    let file = server.dir().join("trace.log");
    let told = process.ask(file.to_str().expect("UTF-8")).await;
    let (tokens, planted) = told.rsplit_once(' ').expect("tokens");
    let tokens: Vec<&str> = tokens.split(' ').collect();
    server.command(&["ECHO", "the last"]).await.expect("an answer");
    eventually(SECOND * 10, "all is shown", async || {
        let shown = shown.lock().expect("unpoisoned");
        contains(&shown[shown.len().saturating_sub(1000)..], b"the last")
    })
    .await;
    watching.abort();
    let shown = shown.lock().expect("unpoisoned").clone();
    let places = [
        ("MONITOR", shown),
        ("the backup", backup(&server).await),
        ("the journal", journal(server.dir())),
        ("the log", std::fs::read(&file).expect("a log")),
    ];
    for (name, hay) in &places {
        assert!(hay.len() > 10_000, "INVALID: {name} has {} bytes", hay.len());
        assert!(!contains(hay, PLAIN.as_bytes()), "{name} has what is encrypted");
    }
    assert!(contains(&places[3].1, b"sessions.rotate"), "INVALID: steps are not logged");
    assert_eq!(found(&places, &tokens), [""; 0], "secrets are there");
    // Not because it could not be found.
    assert_eq!(found(&places, &[planted]), ["MONITOR", "the backup", "the journal", "the log"]);
    let (kept, forever) = without_end(&server).await;
    let sizes: Vec<_> = places.iter().map(|(name, hay)| (*name, hay.len())).collect();
    figures(&format!("secrets: {} tokens not in {sizes:?}; {kept} keys", tokens.len()));
    assert!(kept > 20 && forever.is_empty(), "{forever:?} of {kept} keys have no end");
    // And such a key would be seen.
    server.command(&["SET", "planted", "x"]).await.expect("an answer").ok().expect("a key");
    assert_eq!(without_end(&server).await.1, ["planted"]);
}

/// How many keys there are, and those that never end.
async fn without_end(server: &RedisServer) -> (usize, Vec<String>) {
    let all = super::dump(server).await;
    let forever = all.iter().filter(|kept| kept.ttl_ms == -1);
    (all.len(), forever.map(|kept| kept.key.clone()).collect())
}

#[tokio::test]
async fn all_of_it_works_with_the_least_privilege_and_asks_for_no_more() {
    let server = server().await;
    let mut rules = vec!["ACL", "SETUSER", "app", "reset", "on", ">pw"];
    rules.extend(LEAST.split_whitespace());
    rules.extend(["-keys", "-scan", "-flushall", "-flushdb", "-config", "-randomkey", "-dbsize"]);
    server.command(&rules).await.expect("an answer").ok().expect("a user");
    let url = server.url().replace("redis://", "redis://app:pw@");
    let config = config(&url).with_prefix("app").expect("a prefix");
    let connect = || Connection::connect(config.clone());
    let sessions = Sessions::redis(&connect().await.expect("a connection"));
    let peer = Sessions::redis(&connect().await.expect("a connection")).with_reaping(None);
    let before = denied(&server).await;
    let tokens = busy::day(&sessions, &peer).await;
    assert!(tokens.len() > 20);
    let after = denied(&server).await;
    assert_eq!(after, before, "something was asked for that is denied");
    // And it would be told.
    let mut app = server.connect().await.expect("a connection");
    app.command(&["AUTH", "app", "pw"]).await.expect("an answer").ok().expect("a login");
    for command in [&["KEYS", "*"][..], &["SCAN", "0"], &["CONFIG", "GET", "*"], &["FLUSHALL"]] {
        let answer = app.command(command).await.expect("an answer");
        assert!(matches!(answer, Resp::Error(_)), "{command:?}: {answer:?}");
    }
    assert_eq!(denied(&server).await.len(), after.len() + 4);
}

/// What the server has denied, each once.
async fn denied(server: &RedisServer) -> Vec<String> {
    let log = server.command(&["ACL", "LOG", "128"]).await.expect("an answer");
    let entries = log.as_array().expect("entries").iter();
    let mut all: Vec<_> = entries
        .map(|entry| {
            let words = entry.as_array().expect("pairs").chunks(2);
            let wanted = words
                .filter(|pair| matches!(pair[0].as_str(), Some("reason" | "context" | "object")));
            wanted.filter_map(|pair| pair[1].as_str()).collect::<Vec<_>>().join(" ")
        })
        .collect();
    all.sort();
    all
}
