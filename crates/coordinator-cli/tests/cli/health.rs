//! `health`, and what is said where there is no server or one that refuses us.

use crate::support::{DEAD, SOON, Site, binary, done, keys};
use coordinator_harness::RedisServer;
use serde_json::Value;
use std::time::Duration;
use tokio::time::timeout;

const KEYS: [&str; 16] = [
    "clock_offset_ms",
    "connected_clients",
    "findings",
    "latency_count",
    "latency_ms",
    "latency_p50_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "maxmemory_policy",
    "replicas",
    "role",
    "server",
    "status",
    "uptime_seconds",
    "used_memory_bytes",
    "version",
];

#[tokio::test]
async fn a_healthy_server_is_described_by_every_key() {
    let site = Site::start().await;
    let health = site.run(&["health", "--json"]).await.exits(0).json();
    assert!(keys(&health).into_iter().eq(KEYS), "{health}");
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["role"], "master");
    assert_eq!(health["maxmemory_policy"], "noeviction");
    assert!(health["latency_ms"].is_f64(), "{health}");
    let percentile = |key: &str| health[key].as_f64().expect(key);
    assert!(percentile("latency_p50_ms") > 0.0, "{health}");
    assert!(percentile("latency_p50_ms") <= percentile("latency_p99_ms"), "{health}");
    assert!(health["latency_count"].as_u64() >= Some(2), "{health}");
    assert!(health["used_memory_bytes"].as_u64() > Some(0), "{health}");
    for finding in health["findings"].as_array().expect("findings") {
        let expected = ["advice", "code", "message", "severity"];
        assert!(keys(finding).into_iter().eq(expected), "{finding}");
    }
    let table = site.run(&["health"]).await.exits(0);
    assert!(table.stdout.contains("master"), "{table:?}");
    assert!(table.stderr.is_empty(), "{table:?}");
}

#[tokio::test]
async fn a_degraded_server_is_no_failure() {
    let builder = RedisServer::builder().config("maxmemory-policy", "allkeys-lru");
    let site = Site::of(builder).await;
    let health = site.run(&["health", "--json"]).await.exits(0).json();
    assert_eq!(health["status"], "degraded");
    assert_eq!(health["findings"][0]["code"], "eviction-policy");
}

#[tokio::test]
async fn an_absent_server_is_reported_soon() {
    let calls: [&[&str]; 8] = [
        &["health"],
        &["lock", "list"],
        &["lock", "show", "n"],
        &["lock", "run", "n", "--", "true"],
        &["lock", "run", "n", "--wait", "1h", "--", "true"],
        &["lock", "acquire", "n", "--ttl", "1s"],
        &["lock", "renew", "n", "--ttl", "1s"],
        &["lock", "release", "n", "--force", "--reason", "r"],
    ];
    for call in calls {
        let mut command = binary(call);
        command.env("COORDINATOR_URL", DEAD).env("COORDINATOR_TOKEN", "0".repeat(32));
        let done = timeout(SOON, done(command)).await.expect("soon");
        let done = done.exits(3).complains("--url");
        assert!(done.stdout.is_empty(), "{done:?}");
    }
}

#[tokio::test]
async fn unavailable_is_a_document_too() {
    let command = binary(&["--url", DEAD, "health", "--json"]);
    let done = timeout(SOON, done(command)).await.expect("soon");
    let health = done.exits(3).complains("unavailable").json();
    assert!(keys(&health).into_iter().eq(KEYS), "{health}");
    assert_eq!(health["status"], "unavailable");
    assert_eq!(health["latency_ms"], Value::Null);
    assert_eq!(health["latency_p99_ms"], Value::Null);
    assert_eq!(health["findings"][0]["severity"], "critical");
}

#[tokio::test]
async fn a_server_that_hangs_is_reported_soon() {
    let site = Site::start().await;
    site.server.pause().expect("it can be stopped");
    for call in [&["health", "--json"][..], &["lock", "list"]] {
        let done = timeout(SOON, site.run(call)).await.expect("soon");
        done.exits(3);
    }
    let call = ["--timeout", "100ms", "lock", "list"];
    let done = timeout(Duration::from_secs(2), site.run(&call)).await;
    done.expect("sooner").exits(3);
}

#[tokio::test]
async fn a_wrong_password_is_never_shown() {
    let builder = RedisServer::builder().config("requirepass", "true-s3cret");
    let site = Site::of(builder).await;
    let address = site.server.addr();
    let calls: [&[&str]; 6] = [
        &["health"],
        &["health", "--json"],
        &["-vvv", "health"],
        &["-vvv", "lock", "list"],
        &["-vvv", "lock", "run", "n", "--", "true"],
        &["-vvv", "--json", "lock", "acquire", "n", "--ttl", "1s"],
    ];
    for call in calls {
        let mut in_url = site.command(call);
        in_url.env("COORDINATOR_URL", format!("redis://:wr0ng-s3cret@{address}/0"));
        let mut in_variable = site.command(call);
        in_variable.env("REDIS_PASSWORD", "wr0ng-s3cret");
        let none = site.command(call);
        for command in [in_url, in_variable, none] {
            let done = timeout(SOON, done(command)).await.expect("soon").exits(3);
            let said = format!("{}{}", done.stdout, done.stderr);
            assert!(said.contains("password"), "{done:?}");
            assert!(!said.contains("s3cret"), "{done:?}");
        }
    }
    let mut right = site.command(&["-vvv", "lock", "run", "n", "--", "true"]);
    right.env("REDIS_PASSWORD", "true-s3cret");
    let done = done(right).await.exits(0);
    assert!(!format!("{done:?}").contains("s3cret"), "{done:?}");
}

#[tokio::test]
async fn embedded_is_healthy_and_says_what_it_is() {
    let health = done(binary(&["health", "--json"])).await.exits(0).json();
    assert_eq!(health["server"], "embedded");
    assert_eq!((&health["latency_p50_ms"], &health["latency_count"]), (&Value::Null, &0.into()));
    assert_eq!(health["findings"][0]["code"], "embedded");
}
