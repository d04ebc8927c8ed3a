//! The breaker over real links: when it opens, that it sends nothing then, and how soon after the
//! server is back it closes.

use super::{ECHO, INCREMENT, config};
use crate::{
    ErrorKind,
    config::{BreakerPolicy, Config},
    health::{BreakerState, State},
    redis::Connection,
};
use bytes::Bytes;
use coordinator_harness::{Proxy, RedisServer, eventually, rng};
use rand::RngExt as _;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use tokio::net::TcpListener;

const SECOND: Duration = Duration::from_secs(1);

#[expect(clippy::disallowed_methods, reason = "measures real recoveries")]
fn now() -> Instant {
    Instant::now()
}

/// The timeouts that a service has without configuring any.
fn defaults(url: &str) -> Config {
    config(url)
        .with_command_timeout(Config::COMMAND_TIMEOUT)
        .with_connect_timeout(Config::CONNECT_TIMEOUT)
}

async fn opens(connection: &Connection) {
    eventually(SECOND * 10, "the breaker opens", async || {
        connection.breaker() != BreakerState::Closed
    })
    .await;
}

/// How long it takes from now until a call succeeds and the breaker is closed.
async fn recovery(connection: &Connection) -> Duration {
    let before = now();
    eventually(SECOND * 10, "calls succeed", async || connection.get("k").await.is_ok()).await;
    assert_eq!(connection.breaker(), BreakerState::Closed);
    before.elapsed()
}

#[tokio::test]
async fn a_killed_server_is_refused_at_once_and_found_within_a_second() {
    let server = RedisServer::start().await.expect("a server");
    let connection = Connection::connect(defaults(&server.url())).await.expect("a connection");
    let key = connection.keyspace().shard("t", 0).key("n", "");
    let mut rng = rng();
    for _ in 0..4 {
        server.kill().await;
        opens(&connection).await;
        let before = now();
        let sent = AtomicBool::new(false);
        let refused = connection.run_telling(&INCREMENT, vec![key.clone()], vec![], &sent).await;
        let error = refused.expect_err("is down");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
        assert!(error.chain().contains("breaker"), "{}", error.chain());
        assert!(!sent.load(Ordering::Acquire));
        let error = connection.ready("test.ready").await.expect_err("is down");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(before.elapsed() < Duration::from_millis(100), "{:?}", before.elapsed());
        assert_ne!(connection.state(), State::Connected);
        // At any moment between two attempts.
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..1500))).await;
        server.start_again().await.expect("a restart");
        let took = recovery(&connection).await;
        assert!(took < SECOND, "{took:?}");
    }
    let count = server.command(&["EXISTS", &key]).await.expect("an answer");
    assert_eq!(count.as_int(), Some(0), "a refused step was done");
}

#[tokio::test]
async fn a_black_hole_is_left_within_a_second_of_its_end() {
    let server = RedisServer::start().await.expect("a server");
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let connection = Connection::connect(defaults(&proxy.url())).await.expect("a connection");
    let mut rng = rng();
    for _ in 0..3 {
        connection.set("k", Bytes::from_static(b"\x01x"), SECOND * 60).await.expect("a set");
        proxy.black_hole(true);
        opens(&connection).await;
        // Links are half open by now, or in the middle of an attempt that nobody answers.
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..4000))).await;
        let before = now();
        assert!(connection.get("k").await.is_err());
        assert!(before.elapsed() < Duration::from_millis(100), "{:?}", before.elapsed());
        proxy.black_hole(false);
        let took = recovery(&connection).await;
        assert!(took < SECOND, "{took:?}");
    }
    connection.close().await;
    eventually(SECOND * 20, "no connection is left", async || proxy.connections() == 0).await;
}

#[tokio::test]
async fn a_stopped_server_is_found_within_a_second_of_going_on() {
    let server = RedisServer::start().await.expect("a server");
    let connection = Connection::connect(defaults(&server.url())).await.expect("a connection");
    connection.ping().await.expect("an answer");
    server.pause().expect("a pause");
    opens(&connection).await;
    server.resume().expect("a resume");
    let took = recovery(&connection).await;
    assert!(took < SECOND, "{took:?}");
}

#[tokio::test]
async fn no_refusal_and_no_mistake_opens_it() {
    let server = RedisServer::start().await.expect("a server");
    let strict = BreakerPolicy::default().with_failures(1).with_silence(Duration::ZERO);
    let config = config(&server.url()).with_breaker(strict);
    let connection = Connection::connect(config).await.expect("a connection");
    let key = connection.keyspace().shard("t", 0).key("n", "");
    let value = || Bytes::from_static(b"\x01x");
    let set = async |expected: ErrorKind| {
        let error = connection.set(&key, value(), SECOND * 60).await.expect_err("is refused");
        assert_eq!(error.kind(), expected, "{}", error.chain());
        let step = connection.run(&INCREMENT, vec![key.clone()], vec![]).await;
        assert_eq!(step.expect_err("is refused").kind(), expected);
        assert_eq!(connection.breaker(), BreakerState::Closed, "{}", error.chain());
    };
    for (refusing, again) in [
        (vec!["CONFIG", "SET", "maxmemory", "1"], vec!["CONFIG", "SET", "maxmemory", "0"]),
        (
            vec!["CONFIG", "SET", "min-replicas-to-write", "1"],
            vec!["CONFIG", "SET", "min-replicas-to-write", "0"],
        ),
        (vec!["ACL", "SETUSER", "default", "-@write"], vec!["ACL", "SETUSER", "default", "+@all"]),
    ] {
        server.command(&refusing).await.expect("an answer").ok().expect("a set-up");
        set(ErrorKind::Rejected).await;
        server.command(&again).await.expect("an answer").ok().expect("a set-up");
    }
    connection.set(&key, value(), SECOND * 60).await.expect("a set");
    let wrong = connection.run(&INCREMENT, vec![key.clone()], vec![]).await;
    assert_eq!(wrong.expect_err("is no number").kind(), ErrorKind::Rejected);
    connection.set(&key, Bytes::new(), SECOND).await.expect_err("has no codec byte");
    // An argument is missing: the script itself fails.
    connection.run(&ECHO, vec![], vec![]).await.ok();
    assert_eq!(connection.breaker(), BreakerState::Closed);
    connection.get(&key).await.expect("an answer");
}

#[tokio::test]
async fn a_link_that_is_cut_and_comes_back_opens_nothing() {
    let server = RedisServer::start().await.expect("a server");
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let connection = Connection::connect(defaults(&proxy.url())).await.expect("a connection");
    for _ in 0..5 {
        proxy.cut_all();
        let calls = (0..50).map(|_| async {
            // The first may be cut itself; the next one waits for the link.
            let _ = connection.get("k").await;
            connection.get("k").await.expect("an answer");
            assert_eq!(connection.breaker(), BreakerState::Closed);
        });
        futures::future::join_all(calls).await;
    }
}

#[tokio::test]
async fn switched_off_it_never_opens_and_a_black_hole_is_left_all_the_same() {
    let server = RedisServer::start().await.expect("a server");
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let config = config(&proxy.url()).without_breaker();
    let connection = Connection::connect(config).await.expect("a connection");
    proxy.black_hole(true);
    for _ in 0..5 {
        assert!(connection.get("k").await.is_err());
        assert_eq!(connection.breaker(), BreakerState::Closed);
    }
    proxy.black_hole(false);
    recovery(&connection).await;
}

#[tokio::test]
async fn a_server_that_hangs_up_is_not_stormed_with_connections() {
    let server = RedisServer::start().await.expect("a server");
    let connection = Connection::connect(defaults(&server.url())).await.expect("a connection");
    server.kill().await;
    opens(&connection).await;
    let door = TcpListener::bind(server.addr()).await.expect("the server's port");
    let mut knocks = 0;
    // Every caller would like a connection.
    let calls = async {
        loop {
            let _ = connection.get("k").await;
            tokio::task::yield_now().await;
        }
    };
    let counting = async {
        loop {
            drop(door.accept().await.expect("a connection"));
            knocks += 1;
        }
    };
    let both = futures::future::join(calls, counting);
    let _: Result<((), ()), _> = tokio::time::timeout(SECOND * 3, both).await;
    assert!((3..=15).contains(&knocks), "{knocks} connections in three seconds");
}

#[tokio::test]
async fn a_connection_closed_in_an_outage_knocks_no_more() {
    let server = RedisServer::start().await.expect("a server");
    let config = config(&server.url()).with_connect_timeout(SECOND);
    let connection = Connection::connect(config).await.expect("a connection");
    server.kill().await;
    let door = TcpListener::bind(server.addr()).await.expect("the server's port");
    let mut guests = Vec::new();
    // Greeted by nobody, the attempt lasts as long as the connect timeout.
    guests.push(door.accept().await.expect("a connection"));
    connection.close().await;
    drop(connection);
    let quiet = async {
        while let Ok(guest) = tokio::time::timeout(SECOND * 3, door.accept()).await {
            guests.push(guest.expect("a connection"));
        }
    };
    tokio::time::timeout(SECOND * 20, quiet).await.expect("nobody knocks any more");
}
