//! What only the scripts can get wrong: keys of a wrong type, memory that is full, what expires,
//! how much is written, and that they compile at all.

use super::{
    GRACE, IDLE, THROTTLE, departure, digest, made, names, new, next, patch, patched, peeked,
    place, stage::Stage,
};
use crate::{
    backend::{
        Backend, Before, Cap, Created, Crowded, Existing, Found, From, Index, Names, New, Next,
        Origin, Patch, Patched, Place, Raise, Verified, Whole,
    },
    redis::SCRIPTS,
};
use coordinator_core::{ErrorKind, Result};
use coordinator_harness::RedisServer;
use std::{fmt::Debug, time::Duration};

fn ann() -> Names {
    Names { crew: "night".to_owned(), ..names("ann", "acme") }
}

fn ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).expect("forwards"))
}

fn server(stage: &Stage) -> &RedisServer {
    stage.server.as_ref().expect("a server")
}

async fn run(stage: &Stage, command: &[&str]) {
    let answer = server(stage).command(command).await.expect("an answer");
    answer.ok().expect("done");
}

async fn keys(stage: &Stage) -> Vec<String> {
    let keys = server(stage).command(&["KEYS", "*"]).await.expect("an answer");
    let keys = keys.as_array().expect("keys");
    let mut keys: Vec<_> = keys.iter().map(|key| key.as_str().expect("text").to_owned()).collect();
    keys.sort();
    keys
}

/// All there is on the server, and when it ends.
async fn everything(stage: &Stage) -> Vec<String> {
    let mut all = Vec::new();
    for key in keys(stage).await {
        let kind = server(stage).command(&["TYPE", &key]).await.expect("an answer");
        // The order of a hash is nobody's doing.
        let dump = if kind.as_str() == Some("hash") {
            let fields = server(stage).command(&["HGETALL", &key]).await.expect("an answer");
            let fields = fields.as_array().expect("fields");
            let mut pairs: Vec<_> = fields.chunks(2).map(|pair| format!("{pair:?}")).collect();
            pairs.sort();
            pairs.join(" ")
        } else {
            format!("{:?}", server(stage).command(&["DUMP", &key]).await.expect("an answer"))
        };
        let ttl = server(stage).command(&["PTTL", &key]).await.expect("an answer");
        all.push(format!("{key} {dump} {ttl:?}"));
    }
    all
}

async fn unchanged(stage: &Stage, before: &[String], why: &str) {
    let after = everything(stage).await;
    let differs = |one: &[String], other: &[String]| {
        one.iter().filter(|line| !other.contains(line)).cloned().collect::<Vec<_>>()
    };
    let (gone, new) = (differs(before, &after), differs(&after, before));
    assert!(gone.is_empty() && new.is_empty(), "{why}: {gone:#?} became {new:#?}");
}

#[tokio::test]
async fn every_script_compiles_and_is_named_after_its_step() {
    let server = RedisServer::start().await.expect("a server");
    for script in SCRIPTS {
        let hash = server.command(&["SCRIPT", "LOAD", script.source()]).await.expect("an answer");
        assert_eq!(hash.as_str(), Some(script.hash()), "{}", script.name());
        assert!(script.name().starts_with("sessions."));
    }
}

/// Takes every step there is, leaving something of every kind behind.
async fn busy(stage: &mut Stage) {
    let backend = stage.backend.clone();
    let at = |number| place(0, number);
    for number in 0..8 {
        made(&*backend, at(number), 1, ann()).await;
    }
    for secret in 1..4 {
        let rotated = backend.rotate(at(0), &digest(secret), THROTTLE, &next(secret + 1)).await;
        rotated.expect("an answer");
    }
    let announced = Patch { announced: true, ..patch(1, "b", b"2") };
    patched(&*backend, at(1), 1, &announced).await;
    backend.extend(at(1), &digest(1), THROTTLE, Some(2 * IDLE), None).await.expect("extended");
    let away = departure(2, 1, ann());
    for number in [2, 3] {
        backend.depart(at(number), Some(&digest(1)), Some(&away)).await.expect("departed");
    }
    let now = stage.now() / 1000;
    let before =
        Before { created: now, last: now, version: 2, of_user: Some(0), of_company: Some(0) };
    let arrives = New { origin: Origin::Arrives(before), ..new(place(1, 2), 2, ann()) };
    backend.create(&arrives).await.expect("arrived");
    assert!(backend.settle(at(2), &digest(2)).await.expect("an answer"));
    let over = Origin::Restored(before, Existing::GivesWay);
    backend.create(&New { origin: over, ..new(at(4), 2, ann()) }).await.expect("restored");
    backend.invalidate(at(5), None, "over").await.expect("ended");
    let cap = Some(Cap { most: 1, policy: Crowded::Oldest });
    backend.create(&New { cap, ..new(at(9), 1, ann()) }).await.expect("created");
    made(&*backend, at(10), 1, names("bob", "")).await;
    let whole = Whole::User("bob");
    backend.epoch(0, whole, Raise::Above("x")).await.expect("raised");
    backend.epoch(0, Whole::Company("acme"), Raise::To(1, "x")).await.expect("raised");
    made(&*backend, at(11), 1, names("bob", "")).await;
    backend.sweep(0, &whole.index(), 0, 10).await.expect("swept");
    stage.elapse(ms(THROTTLE)).await;
    backend.load(at(9), Some(&digest(1)), Some(THROTTLE)).await.expect("touched");
    backend.load(at(11), Some(&digest(1)), Some(THROTTLE)).await.expect("touched");
    backend.verify(0, &Index::All, 0, 100, true).await.expect("verified");
    stage.elapse(ms(IDLE + 1)).await;
    backend.reap(0, 100).await.expect("reaped");
    made(&*backend, at(12), 1, ann()).await;
    backend.rotate(at(12), &digest(1), THROTTLE, &next(2)).await.expect("rotated");
}

#[tokio::test]
async fn every_key_is_in_its_shards_slot_and_expires() {
    let mut stage = Stage::redis().await;
    busy(&mut stage).await;
    let found = keys(&stage).await;
    for kind in ["s:", "t:", "w:", "x", "u:", "co:", "crew:", "g:", "gc:", "ev"] {
        let kind = format!("}}:{kind}");
        assert!(found.iter().any(|key| key.contains(&kind)), "no {kind} in {found:#?}");
    }
    for key in found {
        assert!(key.contains(":{s0}:") || key.contains(":{s1}:"), "{key} is elsewhere");
        let ttl = server(&stage).command(&["PTTL", &key]).await.expect("an answer").as_int();
        assert!(ttl > Some(0), "{key} never expires");
    }
}

#[tokio::test]
async fn indexes_outlive_their_sessions_and_nothing_else() {
    let mut stage = Stage::redis().await;
    let at = place(0, 1);
    let long = New { idle_ms: 1 << 40, absolute_ms: 1 << 40, ..new(at, 1, ann()) };
    stage.backend.create(&long).await.expect("created");
    // The one with the shorter life leaves the indexes their longer one.
    made(&*stage.backend, place(0, 2), 1, ann()).await;
    stage.elapse(ms((1 << 40) - 1)).await;
    assert!(matches!(peeked(&*stage.backend, at, 1).await, Found::Live(_)));
    for index in [Index::All, Index::User("ann".to_owned()), Index::Crew("night".to_owned())] {
        let count = stage.backend.count(&[0], &index).await.expect("an answer");
        assert_eq!(count.living, 1, "{index:?}");
    }
    // A day after the last, its hash is gone; two days after, the indexes and the log are.
    stage.elapse(ms(86_400_000 + 2)).await;
    let key = stage.key(0, "s", &at.id.encode());
    let there = server(&stage).command(&["EXISTS", &key]).await.expect("an answer");
    assert_eq!(there.as_int(), Some(0));
    stage.elapse(ms(86_400_000)).await;
    for key in keys(&stage).await {
        let there = server(&stage).command(&["EXISTS", &key]).await.expect("an answer");
        assert_eq!(there.as_int(), Some(0), "{key}");
    }
}

fn corrupt<T: Debug>(answer: Result<T>, what: &str) {
    match answer {
        Err(error) if error.kind() == ErrorKind::Corrupt => {}
        other => panic!("{what}: {other:?}"),
    }
}

/// Every step that writes, on the session of the tests; each must be refused.
async fn every_write(backend: &dyn Backend, at: Place, now: i64, what: &str) {
    let secret = digest(1);
    let before = Before { created: now, last: now, version: 99, of_user: None, of_company: None };
    for origin in
        [Origin::New, Origin::Arrives(before), Origin::Restored(before, Existing::GivesWay)]
    {
        let other = New { origin, ..new(Place { id: place(0, 50).id, ..at }, 2, ann()) };
        corrupt(backend.create(&other).await, what);
    }
    let over = Origin::Restored(before, Existing::GivesWay);
    corrupt(backend.create(&New { origin: over, ..new(at, 2, names("bob", "")) }).await, what);
    let cap = Some(Cap { most: 1, policy: Crowded::Oldest });
    let alone = New { cap, ..new(place(0, 51), 2, names("ann", "")) };
    corrupt(backend.create(&alone).await, what);
    corrupt(backend.load(at, Some(&secret), Some(THROTTLE)).await, what);
    let announced = Patch { announced: true, ..patch(1, "a", b"2") };
    corrupt(backend.patch(at, &secret, THROTTLE, &announced).await, what);
    corrupt(backend.extend(at, &secret, THROTTLE, None, None).await, what);
    corrupt(backend.rotate(at, &secret, THROTTLE, &next(2)).await, what);
    let named = Next { names: Some(names("bob", "")), ..next(2) };
    corrupt(backend.rotate(at, &secret, THROTTLE, &named).await, what);
    corrupt(backend.invalidate(at, Some(&secret), "x").await, what);
}

#[tokio::test]
async fn a_key_of_a_wrong_type_is_corrupt_and_nothing_is_written() {
    for (kind, name) in
        [("x", ""), ("u", "ann"), ("co", "acme"), ("crew", "night"), ("ev", ""), ("g", "ann")]
    {
        let mut stage = Stage::redis().await;
        let backend = stage.backend.clone();
        let at = place(0, 1);
        made(&*backend, at, 1, ann()).await;
        made(&*backend, place(0, 2), 1, names("", "")).await;
        let away = departure(2, 1, names("", ""));
        backend.depart(place(0, 2), Some(&digest(1)), Some(&away)).await.expect("departed");
        // Of the same user, so that it would have to go.
        stage.elapse(ms(THROTTLE)).await;
        let key = stage.key(0, kind, name);
        run(&stage, &["DEL", &key]).await;
        run(&stage, &["LPUSH", &key, "x"]).await;
        run(&stage, &["PEXPIRE", &key, "100000000"]).await;
        let before = everything(&stage).await;
        if kind != "u" && kind != "g" {
            every_write(&*backend, at, stage.now() / 1000, &key).await;
        }
        corrupt(backend.invalidate(at, None, "x").await, &key);
        if kind == "x" || kind == "ev" {
            corrupt(backend.settle(place(0, 2), &digest(2)).await, &key);
        }
        unchanged(&stage, &before, &key).await;
        // When its time is over as well.
        stage.elapse(ms(IDLE + THROTTLE)).await;
        let before = everything(&stage).await;
        if kind == "x" || kind == "ev" {
            corrupt(backend.reap(0, 1).await, &key);
            unchanged(&stage, &before, &key).await;
        } else {
            // Those of others are due, too.
            assert_eq!(backend.reap(0, 1).await.expect("reaped").ended, 1, "{key}");
        }
    }
}

#[tokio::test]
async fn a_session_of_a_wrong_type_is_corrupt_and_stays_as_it_is() {
    let stage = Stage::redis().await;
    let at = place(0, 1);
    made(&*stage.backend, at, 1, ann()).await;
    let key = stage.key(0, "s", &at.id.encode());
    run(&stage, &["SET", &key, "text", "PX", "100000000"]).await;
    let before = everything(&stage).await;
    every_write_of_it(&*stage.backend, at).await;
    unchanged(&stage, &before, &key).await;
    // A hash of another make.
    for field in ["a", "m"] {
        run(&stage, &["DEL", &key]).await;
        run(&stage, &["HSET", &key, "a", "x", "m", "x", "k", "x", "v", "x"]).await;
        run(&stage, &["HSET", &key, field, "packed otherwise, and long enough for anything"]).await;
        let before = everything(&stage).await;
        every_write_of_it(&*stage.backend, at).await;
        unchanged(&stage, &before, &key).await;
    }
}

async fn every_write_of_it(backend: &dyn Backend, at: Place) {
    let what = "of a wrong type";
    corrupt(backend.create(&new(at, 1, ann())).await, what);
    corrupt(backend.load(at, Some(&digest(1)), Some(THROTTLE)).await, what);
    corrupt(backend.load(at, None, None).await, what);
    corrupt(backend.patch(at, &digest(1), THROTTLE, &patch(1, "a", b"2")).await, what);
    corrupt(backend.extend(at, &digest(1), THROTTLE, None, None).await, what);
    corrupt(backend.rotate(at, &digest(1), THROTTLE, &next(2)).await, what);
    corrupt(backend.depart(at, None, None).await, what);
    corrupt(backend.settle(at, &digest(2)).await, what);
    corrupt(backend.invalidate(at, None, "x").await, what);
    // It is in nobody's way.
    let listed = backend.list(0, &Index::All, None, 10).await.expect("others are listed");
    assert_eq!((listed.sessions.len(), listed.unreadable.len()), (0, 1), "{what}");
    let swept = backend.sweep(0, &Index::All, 0, 10).await.expect("others are swept");
    assert_eq!((swept.ended, swept.left), (0, 1), "{what}");
    let verified = backend.verify(0, &Index::All, 0, 10, true).await.expect("others are verified");
    let Verified { seen, left, unreadable, .. } = verified;
    assert_eq!((seen, left, unreadable), (1, 1, 1), "{what}");
}

#[tokio::test]
async fn an_epoch_that_is_none_is_corrupt() {
    let stage = Stage::redis().await;
    made(&*stage.backend, place(0, 1), 1, ann()).await;
    let key = stage.key(0, "g", "ann");
    run(&stage, &["SET", &key, "soon", "PX", "100000000"]).await;
    let before = everything(&stage).await;
    for raise in [Raise::No, Raise::Above("x"), Raise::To(5, "x")] {
        corrupt(stage.backend.epoch(0, Whole::User("ann"), raise).await, "no number");
    }
    corrupt(stage.backend.load(place(0, 1), None, None).await, "no number");
    corrupt(stage.backend.create(&new(place(0, 2), 1, ann())).await, "no number");
    unchanged(&stage, &before, &key).await;
}

fn full<T: Debug>(answer: Result<T>) {
    assert_eq!(answer.expect_err("memory is full").kind(), ErrorKind::Rejected);
}

#[tokio::test]
async fn with_memory_full_nothing_is_half_done_and_whatever_ends_a_session_works() {
    let mut stage = Stage::redis().await;
    let backend = stage.backend.clone();
    let at = |number| place(0, number);
    for number in 1..6 {
        made(&*backend, at(number), 1, ann()).await;
    }
    made(&*backend, at(6), 1, names("bob", "")).await;
    backend.epoch(0, Whole::User("bob"), Raise::Above("left")).await.expect("raised");
    let away = departure(2, 1, ann());
    backend.depart(at(5), Some(&digest(1)), Some(&away)).await.expect("departed");
    stage.elapse(ms(THROTTLE)).await;
    run(&stage, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let before = everything(&stage).await;
    full(backend.create(&new(at(9), 1, ann())).await);
    let cap = Some(Cap { most: 1, policy: Crowded::Oldest });
    full(backend.create(&New { cap, ..new(at(9), 1, ann()) }).await);
    full(backend.patch(at(1), &digest(1), THROTTLE, &patch(1, "a", b"2")).await);
    full(backend.extend(at(1), &digest(1), THROTTLE, None, None).await);
    full(backend.rotate(at(1), &digest(1), THROTTLE, &next(2)).await);
    full(backend.depart(at(1), Some(&digest(1)), Some(&away)).await);
    full(backend.settle(at(5), &digest(2)).await);
    full(backend.epoch(0, Whole::User("ann"), Raise::Above("x")).await);
    // Nobody is logged out: what cannot be written down is not told either.
    let stands = peeked(&*backend, at(1), 1).await;
    let loaded = backend.load(at(1), Some(&digest(1)), Some(THROTTLE)).await.expect("an answer");
    assert_eq!(
        loaded.map(|found| (found.0.last, found.0.expiry)),
        stands.map(|r| (r.last, r.expiry))
    );
    unchanged(&stage, &before, "memory was full").await;
    // It is there to be read.
    assert!(matches!(peeked(&*backend, at(1), 1).await, Found::Live(_)));
    let listed = backend.list(0, &Index::All, None, 10).await.expect("an answer");
    assert_eq!(listed.sessions.len(), 4);
    assert_eq!(backend.invalidate(at(1), None, "over").await.expect("ended"), Found::Live(()));
    let swept = backend.sweep(0, &Index::User("bob".to_owned()), 0, 10).await.expect("swept");
    assert_eq!(swept.ended, 1);
    stage.elapse(ms(IDLE)).await;
    assert_eq!(backend.reap(0, 10).await.expect("reaped").ended, 4);
    for (number, gone) in [(1, "Revoked(\"over\")"), (2, "Expired"), (6, "Revoked(\"left\")")] {
        assert_eq!(format!("{:?}", peeked(&*backend, at(number), 1).await), gone);
    }
    let told = backend.happened(0, From::Ago(ms(2 * IDLE)), 100).await.expect("an answer");
    assert_eq!(told.len(), 12, "{told:#?}");
    run(&stage, &["CONFIG", "SET", "maxmemory", "0"]).await;
    made(&*backend, at(9), 1, ann()).await;
}

#[tokio::test]
async fn each_step_is_one_script_and_activity_is_seldom_written() {
    let mut stage = Stage::redis().await;
    let backend = stage.backend.clone();
    let at = place(0, 1);
    made(&*backend, at, 1, ann()).await;
    backend.load(at, None, None).await.expect("an answer");
    let calls = async |stage: &Stage, command: &str| server(stage).calls_of(command).await;
    let (scripts, writes) = (calls(&stage, "evalsha").await, calls(&stage, "hset").await);
    for _ in 0..200 {
        stage.elapse(ms(200)).await;
        backend.load(at, Some(&digest(1)), Some(THROTTLE)).await.expect("an answer");
    }
    assert_eq!(calls(&stage, "evalsha").await, scripts + 200);
    assert_eq!(calls(&stage, "hset").await, writes + 4, "in four throttles");
    // Each by itself; the first time it is asked for, a script may have to be sent.
    let runs = async |stage: &Stage| calls(stage, "evalsha").await + calls(stage, "eval").await;
    macro_rules! one {
        ($step:expr) => {
            $step.await.expect("warmed up");
            let before = runs(&stage).await;
            $step.await.expect("an answer");
            assert_eq!(runs(&stage).await, before + 1, stringify!($step));
        };
    }
    let session = new(place(0, 2), 1, ann());
    let change = patch(1, "a", b"2");
    one!(backend.create(&session));
    one!(backend.patch(at, &digest(1), THROTTLE, &change));
    one!(backend.extend(at, &digest(1), THROTTLE, None, None));
    let successor = next(2);
    one!(backend.rotate(at, &digest(1), THROTTLE, &successor));
    one!(backend.depart(at, None, None));
    one!(backend.settle(at, &digest(2)));
    one!(backend.epoch(0, Whole::User("bob"), Raise::Above("x")));
    one!(backend.sweep(0, &Index::All, 0, 10));
    one!(backend.reap(0, 10));
    one!(backend.list(0, &Index::All, None, 10));
    let shards: Vec<u16> = (0..64).collect();
    one!(backend.count(&shards, &Index::All));
    one!(backend.verify(0, &Index::All, 0, 10, true));
    one!(backend.happened(0, From::Newest, 10));
    one!(backend.invalidate(at, None, "x"));
}

#[tokio::test]
async fn an_old_secret_is_not_kept_beyond_its_grace() {
    let mut stage = Stage::redis().await;
    let at = place(0, 1);
    made(&*stage.backend, at, 1, ann()).await;
    let rotated = stage.backend.rotate(at, &digest(1), THROTTLE, &next(2)).await;
    rotated.expect("rotated");
    let key = stage.key(0, "w", &at.id.encode());
    for (elapsed, there) in [(GRACE, 1), (1, 0)] {
        stage.elapse(ms(elapsed)).await;
        let found = server(&stage).command(&["EXISTS", &key]).await.expect("an answer");
        assert_eq!(found.as_int(), Some(there));
    }
}

#[tokio::test]
async fn what_is_left_of_a_damaged_session_does_not_pass_on() {
    let stage = Stage::redis().await;
    let backend = stage.backend.clone();
    let at = place(0, 1);
    made(&*backend, at, 1, ann()).await;
    let patch = patch(1, "b", b"2");
    assert!(matches!(patched(&*backend, at, 1, &patch).await, Found::Live(Patched::Done(_))));
    let key = stage.key(0, "s", &at.id.encode());
    for field in ["a", "m", "k"] {
        run(&stage, &["HDEL", &key, field]).await;
        assert_eq!(peeked(&*backend, at, 1).await, Found::Absent, "without {field}");
        // Whoever creates it anew begins with nothing.
        let created = backend.create(&new(at, 1, ann())).await.expect("an answer");
        assert!(matches!(created, Created::Made { written, .. } if written.version == 1));
        let Found::Live(record) = peeked(&*backend, at, 1).await else { panic!("it is gone") };
        assert_eq!(record.fields, [("a".to_owned(), b"1".to_vec())]);
        patched(&*backend, at, 1, &patch).await;
    }
}

#[tokio::test]
async fn without_channels_of_a_shard_events_are_heard_as_well() {
    let stage = Stage::redis_of(RedisServer::builder().without_sharded_channels()).await;
    let mut alerts = stage.backend.listen(0).await.expect("listening");
    made(&*stage.backend, place(0, 1), 1, ann()).await;
    let heard = tokio::time::timeout(Duration::from_secs(10), alerts.next()).await;
    heard.expect("an event was announced");
}
