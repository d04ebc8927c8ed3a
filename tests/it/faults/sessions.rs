//! Sessions under fire: what they promise holds against other processes, lost replies, callers
//! that walk away, servers that die and slots that move.

mod busy;
mod caps;
mod corrupt;
mod drops;
mod files;
mod moves;
mod reapers;
mod restarts;
mod revival;
mod secrets;
mod slots;
mod writers;

use super::{SECOND, background, config, figures, now, processes};
use crate::topology::{builder, server};
use coordinator_core::{
    clock::{Clock, SystemClock},
    key::Name,
    redis::Connection,
};
use coordinator_harness::{Proxy, RedisServer, Resp};
use coordinator_sessions::{Filter, Lookup, NewSession, SCRIPTS, Session, Sessions, Token};
use std::time::Duration;

/// How long anything may take that must come about.
const PATIENCE: Duration = Duration::from_secs(30);

/// As many as a short suite has time for, or `cargo xtask test --long`'s.
fn many(short: usize, long: usize) -> usize {
    if std::env::var_os("COORDINATOR_LONG").is_some() { long } else { short }
}

/// The wall clock in µs: one machine has one, whatever the process.
fn wall_us() -> u64 {
    u64::try_from(SystemClock.unix_time().as_micros()).expect("some time before the year 290000")
}

/// A server, a proxy before it, sessions through the proxy, and sessions that see the truth.
struct Scene {
    server: RedisServer,
    proxy: Proxy,
    sessions: Sessions,
    truth: Sessions,
}

async fn scene() -> Scene {
    let server = builder().with_clock_shim().start().await.expect("a server");
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    // Short enough that a lost answer is soon missed, and long enough for a busy machine.
    let patient = config(&proxy.url()).with_command_timeout(SECOND * 2);
    let ours = Connection::connect(patient).await.expect("a connection");
    let prefix = ours.keyspace().prefix().to_owned();
    let theirs = config(&server.url()).with_prefix(&prefix).expect("a prefix");
    let theirs = Connection::connect(theirs).await.expect("a connection");
    // The scripts are known: a first EVALSHA would be two commands.
    for script in SCRIPTS {
        server.command(&["SCRIPT", "LOAD", script.source()]).await.expect("a script");
    }
    let over = |connection| Sessions::redis(connection).with_reaping(None);
    Scene { sessions: over(&ours), truth: over(&theirs), server, proxy }
}

fn sha(step: &str) -> &'static str {
    let script = SCRIPTS.iter().find(|script| script.name() == step);
    script.expect("a script of that name").hash()
}

/// A process of this part.
pub(super) async fn serve(role: &str, given: processes::Given) {
    match role {
        "racer" | "naive racer" => revival::serve(given, role == "naive racer").await,
        "writer" | "naive writer" => writers::serve(given, role == "naive writer").await,
        "reaper" => reapers::serve(given).await,
        "file" => files::serve(given).await,
        "busy" => secrets::serve(given).await,
        _ => panic!("nobody is a {role}"),
    }
}

async fn created(sessions: &Sessions, new: NewSession) -> Token {
    let session = sessions.create(new).await.expect("an answer").session().expect("it is created");
    session.token().expect("a new session has one").clone()
}

async fn live(sessions: &Sessions, token: &Token) -> Session {
    match sessions.load(token).await.expect("an answer") {
        Lookup::Live(session) => session,
        gone => panic!("it should live: {gone:?}"),
    }
}

/// What the token finds, without counting as activity.
async fn standing(sessions: &Sessions, token: &Token) -> Lookup<()> {
    sessions.peek(token).await.expect("an answer").map(|_| ())
}

fn revoked(reason: &str) -> Lookup<()> {
    Lookup::Revoked { reason: reason.to_owned() }
}

async fn count(sessions: &Sessions) -> u64 {
    sessions.count(&Filter::all()).await.expect("a count")
}

/// The shard that a token says its session is in.
fn shard_of(token: &Token) -> u16 {
    let text = token.reveal();
    let shard = text.split('.').nth(1).expect("a shard");
    shard.parse().expect("a number")
}

/// A user whose sessions are in another shard than this.
fn user_elsewhere(shard: u16) -> String {
    let mut users = (0..).map(|number| format!("user {number}"));
    let away = |user: &String| Name::new(user).expect("a name").shard(64) != shard;
    users.find(away).expect("users are everywhere")
}

/// A key, with what is in it and when it ends.
#[derive(Debug, Clone)]
struct Kept {
    key: String,
    /// To be put back.
    dump: Vec<u8>,
    /// To be compared: the order of a hash is the server's affair.
    shown: Resp,
    ttl_ms: i64,
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        (&self.key, &self.shown, self.ttl_ms) == (&other.key, &other.shown, other.ttl_ms)
    }
}

/// All that a server keeps.
async fn dump(server: &RedisServer) -> Vec<Kept> {
    let mut admin = server.connect().await.expect("a connection");
    let keys = admin.command(&["KEYS", "*"]).await.expect("keys");
    let keys = keys.as_array().expect("keys").iter().filter_map(Resp::as_str);
    let mut keys: Vec<_> = keys.map(str::to_owned).collect();
    keys.sort();
    let mut all = Vec::new();
    for key in keys {
        let value = admin.command(&["DUMP", &key]).await.expect("a value");
        // It may have ended since.
        let Resp::Bulk(Some(dump)) = value else { continue };
        let shown = match admin.command(&["HGETALL", &key]).await.expect("an answer") {
            Resp::Array(pairs) => {
                let mut pairs: Vec<_> = pairs.chunks(2).map(<[Resp]>::to_vec).collect();
                pairs.sort_by_key(|pair| format!("{pair:?}"));
                Resp::Array(pairs.concat())
            }
            _ => Resp::Bulk(Some(dump.clone())),
        };
        let ttl = admin.command(&["PTTL", &key]).await.expect("a time");
        let ttl_ms = ttl.as_int().expect("a number");
        all.push(Kept { key, dump, shown, ttl_ms });
    }
    all
}
