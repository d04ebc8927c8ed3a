//! Fences 1, 3, 4, 5, 6 and 7: replies, buffers, retries and timeouts.

use super::{ECHO, INCREMENT, connect, echo, start};
use crate::{ErrorKind, redis::Arg};
use bytes::Bytes;
use coordinator_harness::{Cluster, Proxy, RedisServer, Rule};
use futures::future::join_all;
use std::time::{Duration, Instant};

/// Texts that the client takes for messages or redirections when they lead a reply.
const WORDS: &[&str] = &[
    "message",
    "smessage",
    "pmessage",
    "subscribe",
    "psubscribe",
    "unsubscribe",
    "punsubscribe",
    "sunsubscribe",
    "pubsub",
    "invalidate",
    "ASK me anything",
    "ASKED two questions",
    "MOVED 1 127.0.0.1:17011",
];

#[expect(clippy::disallowed_methods, reason = "measures real deadlines")]
fn now() -> Instant {
    Instant::now()
}

async fn words_pass_unharmed(url: &str) {
    let connection = connect(url).await;
    let shard = connection.keyspace().shard("t", 0);
    for word in WORDS {
        let key = shard.key("word", "");
        let value = Bytes::from(format!("\u{1}{word}"));
        connection.set(&key, value.clone(), Duration::from_mins(1)).await.expect("a set");
        let key = &key;
        let (connection, value) = (&connection, &value);
        let reads = join_all((0..16).map(|n| async move {
            let text = format!("{word} {n}");
            assert_eq!(echo(connection, &text).await, text);
            assert_eq!(connection.get(key).await.expect("a get").as_ref(), Some(value));
            assert_eq!(echo(connection, word).await, *word);
        }));
        reads.await;
    }
}

#[tokio::test]
async fn no_stored_text_is_taken_for_a_message() {
    let server = RedisServer::start().await.expect("a server");
    words_pass_unharmed(&server.url()).await;
    words_pass_unharmed(&(server.url() + "?protocol=resp2")).await;
}

#[tokio::test]
async fn no_stored_text_is_taken_for_a_redirection_in_a_cluster() {
    let cluster = Cluster::start(3, 0).await.expect("a cluster");
    words_pass_unharmed(&cluster.url()).await;
    words_pass_unharmed(&(cluster.url() + "?protocol=resp2")).await;
}

#[tokio::test]
async fn a_value_without_a_codec_byte_is_refused() {
    let (_server, connection) = start().await;
    for value in ["", "message", "\0x", " x"] {
        let outcome = connection.set("k", Bytes::from(value), Duration::from_secs(1)).await;
        assert_eq!(outcome.expect_err(value).kind(), ErrorKind::Misuse);
    }
}

#[tokio::test]
async fn a_full_line_is_refused_unsent_and_recovers() {
    let server = RedisServer::start().await.expect("a server");
    let config = super::config(&server.url()).with_max_in_flight(1);
    let connection = crate::redis::Connection::connect(config).await.expect("a connection");
    server.pause().expect("a pause");
    let (first, second) = futures::join!(connection.get("a"), connection.get("b"));
    assert!(first.is_err());
    assert_eq!(second.expect_err("no room").kind(), ErrorKind::Unavailable);
    server.resume().expect("a resume");
    // The bare client never flushes a lone command again after a rejection.
    coordinator_harness::eventually(Duration::from_secs(5), "a lone GET is answered", async || {
        connection.get("a").await.is_ok()
    })
    .await;
    assert_eq!(connection.get("a").await.expect("an answer"), None);
}

#[tokio::test]
async fn a_step_whose_answer_is_lost_ran_once_and_says_that_it_does_not_know() {
    let server = RedisServer::start().await.expect("a server");
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let connection = connect(&proxy.url()).await;
    let key = connection.keyspace().shard("t", 0).key("n", "");
    connection.run(&INCREMENT, vec![key.clone()], vec![]).await.expect("a first run");
    proxy.rule(Rule::command("EVALSHA").nth(1).on_reply().cut());
    let outcome = connection.run(&INCREMENT, vec![key.clone()], vec![]).await;
    assert_eq!(outcome.expect_err("no answer").kind(), ErrorKind::Indeterminate);
    // A replay would have come with the new connection, before this.
    connection.ping().await.expect("the link is back");
    assert_eq!(server.command(&["GET", &key]).await.expect("a value").as_int(), Some(2));
}

#[tokio::test]
async fn a_script_is_bounded_by_the_command_timeout() {
    let (server, connection) = start().await;
    echo(&connection, "warm").await;
    server.pause().expect("a pause");
    let before = now();
    let outcome = connection.run(&ECHO, vec!["{t}".into()], vec![Arg::from("x")]).await;
    assert_eq!(outcome.expect_err("a timeout").kind(), ErrorKind::Indeterminate);
    assert!(before.elapsed() < Duration::from_millis(700), "{:?}", before.elapsed());
    server.resume().expect("a resume");
}

#[tokio::test]
async fn what_was_asked_for_during_an_outage_is_not_done_after_it() {
    let (server, connection) = start().await;
    let key = connection.keyspace().shard("t", 0).key("n", "");
    server.kill().await;
    coordinator_harness::eventually(Duration::from_secs(5), "the outage is seen", async || {
        connection.state() == crate::health::State::Disconnected
    })
    .await;
    let before = now();
    let error = connection.run(&INCREMENT, vec![key.clone()], vec![]).await.expect_err("is down");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(before.elapsed() < Duration::from_millis(700));
    server.start_again().await.expect("a restart");
    coordinator_harness::eventually(Duration::from_secs(10), "the link is back", async || {
        connection.ping().await.is_ok()
    })
    .await;
    assert_eq!(server.command(&["EXISTS", &key]).await.expect("an answer").as_int(), Some(0));
}

#[tokio::test]
async fn a_flushed_script_is_sent_again() {
    let (server, connection) = start().await;
    for _ in 0..3 {
        assert_eq!(echo(&connection, "x").await, "x");
        server.command(&["SCRIPT", "FLUSH"]).await.expect("a flush");
    }
}

#[tokio::test]
async fn replies_stay_with_their_commands_when_callers_give_up() {
    let server = RedisServer::start().await.expect("a server");
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let connection = connect(&proxy.url()).await;
    echo(&connection, "warm").await;
    proxy.delay_replies(Duration::from_millis(3));
    for round in 0..1000_u64 {
        let text = format!("round {round}");
        let impatience = Duration::from_micros(round % 40 * 100);
        if let Ok(answer) = tokio::time::timeout(impatience, echo(&connection, &text)).await {
            assert_eq!(answer, text);
        }
    }
    assert_eq!(echo(&connection, "after").await, "after");
}
