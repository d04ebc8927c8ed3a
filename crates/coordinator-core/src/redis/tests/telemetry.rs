//! What the connection tells of its steps, its state and its speed.

use super::{ECHO, INCREMENT, start};
use crate::{redis::Arg, telemetry};
use bytes::Bytes;
use coordinator_harness::eventually;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use std::{collections::BTreeMap, time::Duration};

/// What was recorded so far: counts, levels, and how many durations.
fn recorded(snapshotter: &Snapshotter) -> BTreeMap<String, u64> {
    let snapshot = snapshotter.snapshot().into_vec();
    let series = snapshot.into_iter().map(|(key, _, _, value)| {
        let mut text = key.key().name().to_owned();
        for label in key.key().labels() {
            text += &format!(" {}", label.value());
        }
        let value = match value {
            DebugValue::Counter(count) => count,
            DebugValue::Gauge(level) if level.into_inner() > 0.0 => 1,
            DebugValue::Gauge(_) => 0,
            DebugValue::Histogram(values) => values.len() as u64,
        };
        (text, value)
    });
    series.collect()
}

#[tokio::test]
async fn every_step_is_counted_by_its_outcome_and_timed() {
    let (server, connection) = start().await;
    // Installed after the connection was made.
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let secret = "invoice-4711";
    let key = connection.keyspace().shard("t", 0).key("n", secret);
    connection.run(&INCREMENT, vec![key.clone()], vec![]).await.expect("a step");
    connection.run(&ECHO, vec![key.clone()], vec![Arg::from("x")]).await.expect("an echo");
    assert!(connection.get(&key).await.expect("an answer").is_some());
    let minute = Duration::from_mins(1);
    connection.set(&key, Bytes::from_static(b"no codec"), minute).await.expect_err("is misuse");
    connection.set(&key, Bytes::from_static(b"\x01x"), minute).await.expect("a set");
    connection.run(&INCREMENT, vec![key.clone()], vec![]).await.expect_err("is no number");
    assert!(connection.delete(&key).await.expect("an answer"));
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await.expect("a set");
    connection.set(&key, Bytes::from_static(b"\x01x"), minute).await.expect_err("memory is full");
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await.expect("a set");
    server.pause().expect("a pause");
    connection.run(&INCREMENT, vec![key.clone()], vec![]).await.expect_err("is silent");
    connection.get(&key).await.expect_err("is silent");
    server.resume().expect("a resume");
    eventually(Duration::from_secs(5), "it answers", async || connection.ping().await.is_ok())
        .await;
    let seen = recorded(&snapshotter);
    let count = |series: &str| seen.get(series).copied().unwrap_or_default();
    for (series, expected) in [
        ("coordinator_operations_total test.increment ok", 1),
        ("coordinator_operations_total test.increment rejected", 1),
        ("coordinator_operations_total test.increment indeterminate", 1),
        ("coordinator_operations_total test.echo ok", 1),
        ("coordinator_operations_total core.get ok", 1),
        ("coordinator_operations_total core.get unavailable", 1),
        ("coordinator_operations_total core.set ok", 1),
        ("coordinator_operations_total core.set misuse", 1),
        ("coordinator_operations_total core.set rejected", 1),
        ("coordinator_operations_total core.delete ok", 1),
        ("coordinator_operation_seconds test.increment", 3),
        ("coordinator_operation_seconds core.set", 2),
    ] {
        assert_eq!(count(series), expected, "{series} in {seen:#?}");
    }
    assert!(count("coordinator_operations_total core.ping ok") > 0, "{seen:#?}");
    let names: Vec<_> = telemetry::METRICS.iter().map(telemetry::Metric::name).collect();
    for series in seen.keys() {
        assert!(names.iter().any(|name| series.starts_with(name)), "{series} is not declared");
        assert!(!series.contains(secret), "{series}");
    }
}

#[tokio::test]
async fn states_and_reconnects_are_told_to_a_recorder_that_came_later() {
    let (server, connection) = start().await;
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut seen = BTreeMap::new();
    let told = async |seen: &mut BTreeMap<String, u64>, series: &str| {
        seen.extend(recorded(&snapshotter));
        seen.get(series).is_some_and(|count| *count > 0)
    };
    eventually(Duration::from_secs(5), "it is connected", async || {
        told(&mut seen, "coordinator_connections connected").await
    })
    .await;
    assert!(!told(&mut seen, "coordinator_reconnects_total").await);
    server.kill().await;
    eventually(Duration::from_secs(5), "it is disconnected", async || {
        told(&mut seen, "coordinator_connections disconnected").await
    })
    .await;
    eventually(Duration::from_secs(5), "its breaker is open", async || {
        told(&mut seen, "coordinator_breakers open").await
    })
    .await;
    server.start_again().await.expect("a restart");
    eventually(Duration::from_secs(10), "it was made anew", async || {
        told(&mut seen, "coordinator_reconnects_total").await
    })
    .await;
    drop(connection);
}
