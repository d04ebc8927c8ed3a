//! Sessions that another program keeps on a server, brought along.
//!
//! The other program's server is one of its own, without access rules: it is no part of the stage.

use super::{MINUTE, Stage, created, revoked, standing};
use crate::topology;
use coordinator_core::{Config, ErrorKind, redis::Connection};
use coordinator_harness::{Proxy, RedisServer, Rule};
use coordinator_sessions::{
    Filter, KeyRing, LegacyLayout, Lookup, NewSession, Patch, Rotation, SCRIPTS, Sessions, Token,
};
use serde_json::{Value, json};
use std::time::Duration;

on_every_backend! {
    the_sessions_of_another_program_are_brought_along
    a_migration_that_was_interrupted_is_run_again
    what_is_no_session_is_told_of_and_left_out
    who_was_revoked_is_not_brought_along
    an_old_cookie_is_told_the_new_token
}

/// Another program's server, and a connection to it.
struct Legacy {
    server: RedisServer,
    connection: Connection,
}

impl Legacy {
    async fn start() -> Self {
        let server = RedisServer::start().await.expect("a server");
        let config = Config::from_url(&server.url()).expect("a URL");
        let connection = Connection::connect(config).await.expect("a connection");
        Self { server, connection }
    }

    async fn set(&self, key: &str, value: &[u8], ttl: Duration) {
        let ttl = ttl.as_millis().to_string();
        let args: [&[u8]; 5] = [b"SET", key.as_bytes(), value, b"PX", ttl.as_bytes()];
        self.server.command(&args).await.expect("an answer").ok().expect("it is set");
    }

    /// So many sessions, in JSON and MessagePack by turns, of ten users and of nobody.
    async fn fill(&self, count: usize) {
        let mut server = self.server.connect().await.expect("a connection");
        for number in 0..count {
            let value = session(number);
            let value = match number % 2 {
                0 => serde_json::to_vec(&value).expect("JSON"),
                _ => rmp_serde::to_vec_named(&value).expect("MessagePack"),
            };
            let key = id(number);
            let key = format!("sess:{key}");
            let args: [&[u8]; 5] = [b"SET", key.as_bytes(), &value, b"PX", b"7200000"];
            server.command(&args).await.expect("an answer").ok().expect("it is set");
        }
    }
}

fn id(number: usize) -> String {
    format!("{number}:Zm9v{{{}}}", number * 7919)
}

fn session(number: usize) -> Value {
    let mut value = json!({
        "cart": ["pear", number],
        "cookie": {"path": "/", "maxAge": null},
        "price": -0.5,
    });
    if !number.is_multiple_of(3) {
        value["passport"] = json!({"user": number % 10});
        value["org"] = json!("acme");
    }
    value
}

fn layout() -> LegacyLayout {
    LegacyLayout::new("sess").with_user_field("passport.user").with_company_field("org")
}

async fn count(sessions: &Sessions) -> u64 {
    sessions.count(&Filter::all()).await.expect("a count")
}

async fn the_sessions_of_another_program_are_brought_along(stage: Stage) {
    let legacy = Legacy::start().await;
    legacy.fill(60).await;
    // These are of nobody's concern.
    for key in ["sess", "session:1", "xsess:1", "SESS:1"] {
        legacy.set(key, b"{}", MINUTE).await;
    }
    let ring = || KeyRing::new(1, [1; 32]);
    let sealed = stage.sessions.clone().with_encryption(ring());
    let (mut seen, layout) = (Vec::new(), layout());
    let done = sealed.migrate_legacy_telling(&legacy.connection, &layout, |so_far| {
        seen.push(so_far.seen());
    });
    let done = done.await.expect("they are brought along");
    assert_eq!((done.migrated, done.seen()), (60, 60), "{done:?}");
    assert_eq!(seen.last(), Some(&60));
    assert_eq!(count(&stage.peer).await, 60);
    let peer = stage.peer.clone().with_encryption(ring());
    for number in 0..60 {
        let token = Token::of_legacy(&id(number));
        let found = peer.load(&token).await.expect("an answer").live().expect("it lives");
        let of_somebody = !number.is_multiple_of(3);
        let user = of_somebody.then(|| (number % 10).to_string());
        assert_eq!(found.user(), user.as_deref());
        assert_eq!(found.company(), of_somebody.then_some("acme"));
        let Value::Object(fields) = session(number) else { panic!("an object") };
        assert_eq!(found.data().fields().count(), fields.len());
        for (field, value) in fields {
            assert_eq!(found.get::<Value>(&field).expect("a value"), Some(value), "{field}");
        }
        assert!(found.expires_in() >= Duration::from_mins(119), "{:?}", found.expires_in());
    }
    assert_eq!(stage.peer.count(&Filter::company("acme")).await.expect("a count"), 40);
    let found = stage.peer.verify().await.expect("it is compared");
    assert_eq!((found.sessions, found.orphans, found.missing), (60, 0, 0));
    // What was kept as bytes is encrypted here.
    let token = Token::of_legacy(&id(1));
    let plain = stage.peer.load(&token).await.expect("an answer").live().expect("it lives");
    assert_eq!(plain.get::<Value>("cart").expect_err("sealed").kind(), ErrorKind::Misuse);
    // An id that was never given out finds nothing.
    assert_eq!(standing(&stage.peer, &Token::of_legacy("guess")).await, Lookup::Absent);
    stage.elapse(Duration::from_mins(122)).await;
    assert!(!standing(&stage.peer, &token).await.is_live(), "it ends when it would have");
}

async fn a_migration_that_was_interrupted_is_run_again(stage: Stage) {
    let legacy = Legacy::start().await;
    legacy.fill(400).await;
    let stop = tokio::sync::Notify::new();
    let layout = layout();
    let run = stage.sessions.migrate_legacy_telling(&legacy.connection, &layout, |_| {
        stop.notify_one();
    });
    tokio::select! {
        biased;
        () = stop.notified() => {}
        done = run => panic!("it was to be interrupted: {done:?}"),
    }
    let half = count(&stage.peer).await;
    assert!((50..400).contains(&half), "{half} are there");

    // Of those that are there, some log out, one is changed and one gets another token.
    let mut there = Vec::new();
    for number in 0..400 {
        let token = Token::of_legacy(&id(number));
        if let Lookup::Live(session) = stage.peer.load(&token).await.expect("an answer")
            && (number.is_multiple_of(3) || session.user().is_some())
        {
            there.push((number, token));
        }
    }
    let mut ended = Vec::new();
    for (number, token) in there.iter().take(40) {
        let lived = stage.peer.invalidate(token, "logout").await.expect("an answer");
        assert!(lived.is_live(), "{number}");
        ended.push(token.clone());
    }
    let (changed, rotated) = (&there[41].1, &there[42].1);
    let patch = Patch::new().set("cart", "changed").expect("a value");
    assert!(stage.peer.patch(changed, patch).await.expect("an answer").is_live());
    let login = stage.peer.rotate(rotated, Rotation::new().user("zoe")).await.expect("an answer");
    assert!(login.is_live());

    let done = stage.peer.migrate_legacy(&legacy.connection, &layout).await;
    let done = done.expect("the rest is brought along");
    assert_eq!((done.migrated + done.skipped, done.seen()), (400, 400), "{done:?}");
    assert!(done.skipped >= 40 && done.migrated > 0, "{done:?}");
    assert_eq!(count(&stage.peer).await, 360);
    for token in &ended {
        assert_eq!(standing(&stage.peer, token).await, revoked("logout"));
    }
    let session = stage.peer.load(changed).await.expect("an answer").live().expect("it lives");
    assert_eq!(session.get::<String>("cart").expect("a value").as_deref(), Some("changed"));
    let zoe = stage.peer.count(&Filter::user("zoe")).await.expect("a count");
    assert_eq!(zoe, 1);
    let again = stage.sessions.migrate_legacy(&legacy.connection, &layout).await;
    let again = again.expect("an answer");
    assert_eq!((again.skipped, again.seen()), (400, 400), "{again:?}");
    assert_eq!(count(&stage.peer).await, 360);
    let live = (0..400).filter(|number| !ended.contains(&Token::of_legacy(&id(*number))));
    let others = live.filter(|number| Token::of_legacy(&id(*number)) != *rotated);
    are_theirs(&stage.peer, others).await;
}

/// Whether the old ids find sessions, each its own user's.
async fn are_theirs(sessions: &Sessions, numbers: impl Iterator<Item = usize>) {
    for number in numbers {
        let token = Token::of_legacy(&id(number));
        let found = sessions.load(&token).await.expect("an answer");
        let session = found.live().unwrap_or_else(|| panic!("session {number} is not there"));
        let user = (!number.is_multiple_of(3)).then(|| (number % 10).to_string());
        assert_eq!(session.user(), user.as_deref(), "session {number}");
    }
}

#[tokio::test]
async fn a_migration_may_stop_at_each_of_its_steps() {
    let legacy = Legacy::start().await;
    legacy.fill(150).await;
    let server = topology::server().await;
    let ping = "*1\r\n$4\r\nPING\r\n";
    for step in ["sessions.create", "sessions.depart", "sessions.settle"] {
        let script = SCRIPTS.iter().find(|script| script.name() == step).expect("a script");
        for applied in [false, true] {
            let proxy = Proxy::start(server.addr()).await.expect("a proxy");
            let connection = Connection::connect(topology::config(&proxy.url())).await;
            let sessions = Sessions::redis(&connection.expect("a connection")).with_reaping(None);
            // One of many that are on their way.
            let rule = Rule::script(script.hash()).nth(50);
            let lost = proxy.rule(if applied {
                rule.on_reply().replace("-ERR lost\r\n")
            } else {
                rule.on_request().replace(ping)
            });
            let failed = sessions.migrate_legacy(&legacy.connection, &layout()).await;
            failed.expect_err("an answer is lost");
            assert_eq!(lost.hits(), 1, "{step} {applied}");
            let done = sessions.migrate_legacy(&legacy.connection, &layout()).await;
            let done = done.expect("the rest is brought along");
            assert_eq!((done.migrated + done.skipped, done.seen()), (150, 150), "{done:?}");
            are_theirs(&sessions, 0..150).await;
            assert_eq!(count(&sessions).await, 150, "{step} {applied}");
        }
    }
}

async fn what_is_no_session_is_told_of_and_left_out(stage: Stage) {
    let legacy = Legacy::start().await;
    let hour = Duration::from_hours(1);
    // MessagePack: {"b": bytes 1 2, "t": a timestamp}.
    let odd = b"\x82\xa1b\xc4\x02\x01\x02\xa1t\xd6\xff\x00\x00\x00\x01";
    legacy.set("a*[b]:good", odd, hour).await;
    legacy.set("a*[b]:empty", b" {} ", hour).await;
    legacy.set("a*[b]:nobody", b"{\"user\": null}", hour).await;
    legacy.set("axxb:other", b"{}", hour).await;
    let long = format!("{{\"user\": \"{}\"}}", "x".repeat(600));
    for (number, wrong) in [
        &b"garbage"[..],
        b"",
        b"[1, 2]",
        b"\"text\"",
        b"{\"user\": ",
        b"{\"user\": {\"id\": 1}}",
        b"{\"user\": true}",
        b"{\"user\": 1.5}",
        b"{\"\": 1}",
        b"\x82\xa1a\x01",
        b"\x81\x01\x01",
        b"\x81\xa1a\x01\x01",
        b"\x93\x01\x02\x03",
        long.as_bytes(),
        b"\xff\xfe",
    ]
    .into_iter()
    .enumerate()
    {
        legacy.set(&format!("a*[b]:wrong {number}"), wrong, hour).await;
    }
    let list = legacy.server.command(&["RPUSH", "a*[b]:list", "{}"]).await.expect("an answer");
    list.ok().expect("it is pushed");
    let layout = LegacyLayout::new("a*[b]").with_user_field("user");
    let done = stage.sessions.migrate_legacy(&legacy.connection, &layout).await;
    let done = done.expect("an answer");
    assert_eq!((done.migrated, done.unreadable, done.seen()), (3, 16, 19), "{done:?}");
    let keys = done.unreadable_keys();
    assert!(keys.len() == 16 && keys.contains(&"a*[b]:list".to_owned()), "{keys:?}");
    assert!(keys.iter().all(|key| key.contains("wrong") || key.contains("list")));
    assert!(!format!("{done:?}").contains("a*"), "keys are not printed");
    let token = Token::of_legacy("good");
    let session = stage.peer.load(&token).await.expect("an answer").live().expect("it lives");
    assert_eq!(session.data().fields().collect::<Vec<_>>(), ["b", "t"]);
    // One that does not expire there does here.
    let keys = legacy.server.command(&["PERSIST", "a*[b]:good"]).await.expect("an answer");
    assert_eq!(keys.as_int(), Some(1));
    let other = stage.elsewhere().await;
    let done = other.migrate_legacy(&legacy.connection, &layout).await.expect("an answer");
    assert_eq!(done.migrated, 3);
    let session = other.load(&token).await.expect("an answer").live().expect("it lives");
    assert!(session.expires_in() <= Sessions::IDLE_TIMEOUT + MINUTE);
}

async fn who_was_revoked_is_not_brought_along(stage: Stage) {
    let legacy = Legacy::start().await;
    legacy.fill(60).await;
    stage.peer.revoke_user("4", "left").await.expect("an answer");
    let done = stage.sessions.migrate_legacy(&legacy.connection, &layout()).await;
    let done = done.expect("an answer");
    // Four of the six sessions that end in 4 are user 4's.
    let of_four = (0..60).filter(|number| number % 10 == 4 && number % 3 != 0).count();
    assert_eq!(usize::try_from(done.revoked).expect("few"), of_four, "{done:?}");
    assert_eq!(done.migrated + done.revoked, 60);
    assert_eq!(count(&stage.peer).await, done.migrated);
    assert!(!standing(&stage.peer, &Token::of_legacy(&id(4))).await.is_live());
    // Whoever logs in afterwards has a session.
    let token = created(&stage.sessions, NewSession::user("4")).await;
    assert_eq!(standing(&stage.peer, &token).await, Lookup::Live(()));
    let other = stage.elsewhere().await;
    other.revoke_company("acme", "closed").await.expect("an answer");
    let done = other.migrate_legacy(&legacy.connection, &layout()).await.expect("an answer");
    assert_eq!((done.migrated, done.revoked), (20, 40), "{done:?}");
    assert_eq!(count(&other).await, 20);
}

async fn an_old_cookie_is_told_the_new_token(stage: Stage) {
    let legacy = Legacy::start().await;
    let hour = Duration::from_hours(1);
    for number in 0..20 {
        let value = format!("{{\"user\": \"user {number}\"}}");
        legacy.set(&format!("s:{number}"), value.as_bytes(), hour).await;
    }
    let layout = LegacyLayout::new("s").with_user_field("user");
    let done = stage.sessions.migrate_legacy(&legacy.connection, &layout).await;
    assert_eq!(done.expect("an answer").migrated, 20);
    let mut told = 0;
    for number in 0..20 {
        let old = Token::of_legacy(&number.to_string());
        let found = stage.peer.load(&old).await.expect("an answer").live().expect("it lives");
        // Where the user's sessions are in the same shard as the old id, that is the token.
        let Some(new) = found.token().cloned() else { continue };
        told += 1;
        assert_ne!(new, old);
        let session = stage.peer.load(&new).await.expect("an answer").live().expect("it lives");
        assert_eq!(session.user(), Some(format!("user {number}").as_str()));
        assert!(session.token().is_none());
    }
    assert!(told > 10, "{told}");
    // Long after any rotation's grace, for as long as the session lives.
    for _ in 0..22 {
        stage.elapse(Duration::from_mins(30)).await;
        let old = Token::of_legacy("7");
        assert!(stage.peer.load(&old).await.expect("an answer").is_live());
    }
    let out = stage.peer.invalidate(&Token::of_legacy("7"), "logout").await.expect("an answer");
    assert!(out.is_live());
    stage.elapse(Duration::from_hours(1)).await;
    assert_eq!(standing(&stage.peer, &Token::of_legacy("7")).await, revoked("logout"));
}

#[tokio::test]
async fn timeouts_that_cannot_be_migrate_nothing() {
    let server = topology::server().await;
    let connection = Connection::connect(topology::config(&server.url())).await;
    let connection = connection.expect("a connection");
    for sessions in [
        Sessions::embedded().with_idle_timeout(Duration::ZERO),
        Sessions::embedded().with_absolute_timeout(Duration::from_hours(24 * 401)),
    ] {
        let refused = sessions.migrate_legacy(&connection, &layout()).await;
        assert_eq!(refused.expect_err("they cannot be").kind(), ErrorKind::Misuse);
    }
}

#[tokio::test]
async fn a_cluster_is_not_searched() {
    let cluster = topology::cluster(3, 0).await;
    let connection = Connection::connect(topology::config(&cluster.url())).await;
    let sessions = Sessions::embedded();
    let refused = sessions.migrate_legacy(&connection.expect("a connection"), &layout()).await;
    assert_eq!(refused.expect_err("a cluster").kind(), ErrorKind::Misuse);
}
