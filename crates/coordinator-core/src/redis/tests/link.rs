//! Fences 7, 8 and the state: links come back, are counted, and are closed.

use super::{config, connect, start};
use crate::{
    ErrorKind,
    health::{State, Status},
    redis::Connection,
};
use coordinator_harness::{Proxy, RedisServer, eventually};
use std::time::Duration;

async fn clients(server: &RedisServer) -> usize {
    let list = server.command(&["CLIENT", "LIST"]).await.expect("a list");
    // One of them is the one who asks.
    list.as_str().expect("text").lines().count() - 1
}

#[tokio::test]
async fn an_outage_is_watched_from_beginning_to_end() {
    let (server, connection) = start().await;
    let mut states = connection.watch_state();
    assert_eq!(connection.state(), State::Connected);
    server.kill().await;
    let limit = Duration::from_secs(10);
    let down = states.wait_for(|state| *state == State::Disconnected);
    tokio::time::timeout(limit, down).await.expect("in time").expect("open");
    server.start_again().await.expect("a restart");
    let up = states.wait_for(|state| *state == State::Connected);
    tokio::time::timeout(limit, up).await.expect("in time").expect("open");
    connection.ping().await.expect("an answer");
}

#[tokio::test]
async fn a_link_that_was_made_anew_is_of_another_generation_at_once() {
    let server = RedisServer::start().await.expect("a server");
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let connection = connect(&proxy.url()).await;
    let mut generation = connection.generation();
    for _ in 0..10 {
        connection.ping().await.expect("an answer");
        assert_eq!(connection.generation(), generation);
        proxy.refuse(true);
        eventually(Duration::from_secs(10), "the link is lost", async || {
            connection.state() == State::Disconnected
        })
        .await;
        proxy.refuse(false);
        eventually(Duration::from_secs(10), "there is a link", async || {
            connection.ready("test").await.is_ok()
        })
        .await;
        let anew = connection.generation();
        assert!(anew != generation);
        generation = anew;
    }
}

#[tokio::test]
async fn a_silent_server_is_degraded() {
    let (server, connection) = start().await;
    server.pause().expect("a pause");
    eventually(Duration::from_secs(10), "the silence is noticed", async || {
        connection.state() != State::Connected
    })
    .await;
    server.resume().expect("a resume");
    eventually(Duration::from_secs(10), "the end of it too", async || {
        connection.state() == State::Connected
    })
    .await;
}

#[tokio::test]
async fn a_half_open_link_is_given_up_and_made_anew() {
    let server = RedisServer::start().await.expect("a server");
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let connection = connect(&proxy.url()).await;
    connection.set("k", "\u{1}x".into(), Duration::from_mins(1)).await.expect("a set");
    proxy.black_hole(true);
    assert!(connection.get("k").await.is_err());
    proxy.black_hole(false);
    eventually(Duration::from_secs(10), "a new link answers", async || {
        connection.get("k").await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn closing_and_dropping_leave_no_connection() {
    let server = RedisServer::start().await.expect("a server");
    for close in [true, false] {
        let connection = connect(&server.url()).await;
        let listening = connection.subscribe("c").await.expect("a subscription");
        let tracking = connection.track("x:").await.expect("tracking");
        connection.read_stream("s", "0", 1, Duration::from_millis(5)).await.expect("a read");
        assert_eq!(clients(&server).await, 4);
        drop((listening, tracking));
        if close {
            connection.close().await;
            let error = connection.get("k").await.expect_err("is closed");
            assert_eq!(error.kind(), ErrorKind::Misuse);
        }
        drop(connection);
        eventually(Duration::from_secs(5), "all connections are gone", async || {
            clients(&server).await == 0
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_at_once_and_found_later() {
    let server = RedisServer::start().await.expect("a server");
    server.kill().await;
    let error = Connection::connect(config(&server.url())).await.expect_err("is down");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let connection = Connection::open(config(&server.url())).expect("a configuration");
    assert_eq!(connection.health().await.status, Status::Unavailable);
    server.start_again().await.expect("a start");
    eventually(Duration::from_secs(10), "the server is found", async || {
        connection.ping().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_server_that_never_answers_is_an_error_in_bounded_time() {
    let server = RedisServer::start().await.expect("a server");
    server.pause().expect("a pause");
    let limit = Duration::from_secs(5);
    let outcome = tokio::time::timeout(limit, Connection::connect(config(&server.url()))).await;
    let error = outcome.expect("within five seconds").expect_err("is silent");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    server.resume().expect("a resume");
}

#[tokio::test]
async fn health_reads_the_figures() {
    let (server, connection) = start().await;
    let health = connection.health().await;
    assert_eq!(health.status, Status::Healthy, "{:?}", health.findings);
    let (major, minor, patch) = server.version();
    assert_eq!(health.version, format!("{major}.{minor}.{patch}"));
    assert_eq!((health.role.as_str(), health.replicas), ("master", Some(0)));
    assert!(health.used_memory_bytes > Some(0) && health.connected_clients > Some(0));
    assert!(health.clock_offset_ms.is_some_and(|offset| offset.abs() < 1000));
    assert!(health.latency > Duration::ZERO);
    let latencies = health.latencies;
    assert!(latencies.count > 0 && latencies == connection.latencies(), "{latencies:?}");
    assert!(latencies.p50 <= latencies.p95 && latencies.p95 <= latencies.p99, "{latencies:?}");
    assert!(latencies.p50 > Some(Duration::ZERO), "{latencies:?}");
    server.command(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]).await.expect("a set");
    let health = connection.health().await;
    assert_eq!(health.status, Status::Degraded);
    assert_eq!(health.findings[0].code, "eviction-policy");
}

#[tokio::test]
async fn a_clock_that_is_off_is_found() {
    let server =
        RedisServer::builder().with_clock_shim().start().await.expect("a server with a clock");
    let connection = connect(&server.url()).await;
    server.set_clock_offset_ms(-7_200_000).await.expect("a shift");
    let health = connection.health().await;
    assert!(health.findings.iter().any(|finding| finding.code == "clock-offset"));
    assert!(health.clock_offset_ms.is_some_and(|offset| offset < -7_190_000));
}

#[tokio::test]
async fn an_attempt_to_connect_that_is_dropped_leaves_no_connection() {
    let server = RedisServer::start().await.expect("a server");
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    proxy.delay_replies(Duration::from_millis(50));
    for _ in 0..5 {
        let url = proxy.url();
        let attempt = Connection::connect(config(&url));
        let dropped = tokio::time::timeout(Duration::from_millis(75), attempt).await;
        assert!(dropped.is_err(), "the attempt was not interrupted");
    }
    eventually(Duration::from_secs(10), "all connections are gone", async || {
        clients(&server).await == 0
    })
    .await;
}
