//! The proxy's rules: each action and each choice of matches, against a real server.

use super::link::{SHORT, SOON, dbsize, open, pair, silent, since, text};
use crate::{Resp, Rule, eventually, util};

#[tokio::test]
async fn without_rules_it_is_transparent() {
    let (_server, proxy) = pair().await;
    let mut connection = open(&proxy).await;
    let big = "x".repeat(3 << 20);
    assert_eq!(text(&mut connection, &["SET", "a", &big]).await, "OK");
    assert!(text(&mut connection, &["GET", "a"]).await == big);
    for i in 0..1000 {
        connection.send(&["ECHO", &i.to_string()]).await.unwrap();
    }
    for i in 0..1000 {
        assert_eq!(connection.read().await.unwrap().as_int(), Some(i));
    }
    assert_eq!((proxy.commands_seen("echo"), proxy.commands_seen("DEL")), (1000, 0));
    assert_eq!(proxy.connections(), 1);
    drop(connection);
    eventually(SOON, "the client's end is noticed", async || proxy.connections() == 0).await;
}

#[tokio::test]
async fn a_request_sent_before_the_client_left_is_delivered() {
    let (server, proxy) = pair().await;
    let mut connection = open(&proxy).await;
    connection.send(&["SET", "a", "b"]).await.unwrap();
    drop(connection);
    eventually(SOON, "the SET arrives", async || dbsize(&server).await == 1).await;
    eventually(SOON, "the server's side is closed as well", async || {
        let clients = server.command(&["CLIENT", "LIST"]).await.unwrap();
        clients.as_str().unwrap().lines().count() == 1
    })
    .await;
}

#[tokio::test]
async fn a_cut_request_never_reaches_the_server() {
    let (server, proxy) = pair().await;
    let rule = proxy.rule(Rule::command("set").on_request().cut());
    let mut connection = open(&proxy).await;
    assert_eq!(text(&mut connection, &["PING"]).await, "PONG");
    assert!(connection.command(&["SET", "a", "b"]).await.is_err());
    assert_eq!((rule.hits(), dbsize(&server).await), (1, 0));
    assert_eq!(server.calls_of("set").await, 0);
    rule.remove();
    assert_eq!(text(&mut open(&proxy).await, &["SET", "a", "b"]).await, "OK");
    assert_eq!(rule.hits(), 1);
}

#[tokio::test]
async fn a_cut_reply_was_executed() {
    let (server, proxy) = pair().await;
    proxy.rule(Rule::command("SET").on_reply().cut());
    let mut connection = open(&proxy).await;
    connection.send(&["ECHO", "before"]).await.unwrap();
    connection.send(&["SET", "a", "b"]).await.unwrap();
    assert_eq!(connection.read().await.unwrap().as_str(), Some("before"));
    let error = connection.read().await.unwrap_err();
    assert!(error.to_string().contains("closed"), "an orderly end: {error}");
    assert_eq!(dbsize(&server).await, 1);
    eventually(SOON, "nothing is left open", async || proxy.connections() == 0).await;
}

#[tokio::test]
async fn a_reset_is_a_reset() {
    let (_server, proxy) = pair().await;
    proxy.rule(Rule::command("GET").reset());
    let mut connection = open(&proxy).await;
    let error = connection.command(&["GET", "a"]).await.unwrap_err();
    let error = error.downcast::<std::io::Error>().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn only_the_nth_match_over_all_connections_is_hit() {
    let (server, proxy) = pair().await;
    let rule = proxy.rule(Rule::command("INCR").nth(3).on_request().cut());
    let (mut one, mut two) = (open(&proxy).await, open(&proxy).await);
    assert_eq!(one.command(&["INCR", "n"]).await.unwrap().as_int(), Some(1));
    assert_eq!(two.command(&["GET", "n"]).await.unwrap().as_int(), Some(1));
    assert_eq!(two.command(&["INCR", "n"]).await.unwrap().as_int(), Some(2));
    assert_eq!(rule.hits(), 0);
    assert!(one.command(&["INCR", "n"]).await.is_err());
    assert_eq!(two.command(&["INCR", "n"]).await.unwrap().as_int(), Some(3));
    assert_eq!((rule.hits(), server.calls_of("incr").await), (1, 3));
}

#[tokio::test]
async fn the_nth_reply_is_hit_under_concurrency_exactly_once() {
    let (server, proxy) = pair().await;
    let rule = proxy.rule(Rule::command("INCR").nth(50).on_reply().cut());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let mut connection = open(&proxy).await;
        tasks.spawn(async move {
            let mut failed = 0;
            for _ in 0..20 {
                if connection.command(&["INCR", "n"]).await.is_err() {
                    failed += 1;
                    break;
                }
            }
            failed
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().sum::<usize>(), 1);
    assert_eq!(rule.hits(), 1);
    assert!(server.calls_of("incr").await >= 180);
}

#[tokio::test]
async fn the_first_matches_are_hit_and_then_no_more() {
    let (_server, proxy) = pair().await;
    let rule = proxy.rule(Rule::any().times(2).cut());
    for _ in 0..2 {
        assert!(open(&proxy).await.command(&["PING"]).await.is_err());
    }
    assert_eq!(text(&mut open(&proxy).await, &["PING"]).await, "PONG");
    assert_eq!(rule.hits(), 2);
}

#[tokio::test]
async fn matchers_match_what_they_say() {
    let (server, proxy) = pair().await;
    let body = "return ARGV[1]";
    let sha = server.command(&["SCRIPT", "LOAD", body]).await.unwrap();
    let sha = sha.as_str().unwrap();
    let script = proxy.rule(Rule::script(&sha.to_uppercase()));
    let containing = proxy.rule(Rule::containing("ARGV[1]"));
    let subcommand = proxy.rule(Rule::command("client setname"));
    let matching = proxy.rule(Rule::matching(|args| args.len() == 5));
    let mut connection = open(&proxy).await;
    assert_eq!(text(&mut connection, &["EVALSHA", sha, "0", "x"]).await, "x");
    assert_eq!(text(&mut connection, &["evalsha", sha, "1", "key", "x"]).await, "x");
    assert_eq!(text(&mut connection, &["EVAL", body, "0", "x"]).await, "x");
    assert_eq!(text(&mut connection, &["CLIENT", "SETNAME", "x"]).await, "OK");
    connection.command(&["CLIENT", "GETNAME"]).await.unwrap();
    let hits = [script.hits(), containing.hits(), subcommand.hits(), matching.hits()];
    assert_eq!(hits, [2, 1, 1, 1]);
}

#[tokio::test]
async fn a_delay_keeps_the_order_and_is_no_bottleneck() {
    let (_server, proxy) = pair().await;
    proxy.rule(Rule::containing("slow").on_request().delay(SHORT));
    let mut connection = open(&proxy).await;
    let start = util::now();
    for word in ["fast", "slow", "behind"] {
        connection.send(&["ECHO", word]).await.unwrap();
    }
    assert_eq!(connection.read().await.unwrap().as_str(), Some("fast"));
    assert_eq!(connection.read().await.unwrap().as_str(), Some("slow"));
    assert!(since(start) >= SHORT);
    assert_eq!(connection.read().await.unwrap().as_str(), Some("behind"));

    proxy.delay_requests(SHORT / 2);
    proxy.delay_replies(SHORT / 2);
    let start = util::now();
    for _ in 0..100 {
        connection.send(&["PING"]).await.unwrap();
    }
    for _ in 0..100 {
        connection.read().await.unwrap();
    }
    assert!(since(start) >= SHORT, "{:?}", since(start));
    assert!(since(start) < 20 * SHORT, "latency is shared by pipelined requests");
}

#[tokio::test]
async fn a_held_request_waits_and_outlives_its_client() {
    let (server, proxy) = pair().await;
    let rule = proxy.rule(Rule::command("SET").hold());
    let mut connection = open(&proxy).await;
    connection.send(&["SET", "a", "b"]).await.unwrap();
    connection.send(&["PING"]).await.unwrap();
    rule.wait_hit().await;
    assert!(silent(&mut connection).await, "what is behind it waits too");
    drop(connection);
    eventually(SOON, "the client has gone", async || proxy.connections() == 0).await;
    assert_eq!(dbsize(&server).await, 0);
    rule.let_go();
    eventually(SOON, "the held SET runs", async || dbsize(&server).await == 1).await;
    let mut later = open(&proxy).await;
    assert_eq!(text(&mut later, &["SET", "a", "c"]).await, "OK");
    assert_eq!(rule.hits(), 2);
}

#[tokio::test]
async fn a_held_reply_was_executed_and_comes_late() {
    let (server, proxy) = pair().await;
    let rule = proxy.rule(Rule::command("SET").nth(1).on_reply().hold());
    let mut connection = open(&proxy).await;
    connection.send(&["SET", "a", "b"]).await.unwrap();
    rule.wait_hit().await;
    assert_eq!(dbsize(&server).await, 1);
    assert!(silent(&mut connection).await);
    rule.remove();
    assert!(connection.read().await.unwrap().is_ok());
}

#[tokio::test]
async fn a_dropped_frame_leaves_a_half_open_connection() {
    let (server, proxy) = pair().await;
    let rule = proxy.rule(Rule::command("SET").nth(1).on_reply().drop_frame());
    let (mut lost, mut other) = (open(&proxy).await, open(&proxy).await);
    lost.send(&["ECHO", "x"]).await.unwrap();
    lost.send(&["SET", "a", "b"]).await.unwrap();
    assert_eq!(lost.read().await.unwrap().as_str(), Some("x"));
    rule.wait_hit().await;
    assert!(silent(&mut lost).await);
    assert_eq!(dbsize(&server).await, 1);
    lost.send(&["SET", "c", "d"]).await.unwrap();
    assert!(silent(&mut lost).await);
    assert_eq!(dbsize(&server).await, 1, "the other direction is dead too");
    assert_eq!(text(&mut other, &["PING"]).await, "PONG");
    server.kill().await;
    eventually(SOON, "the other one is told", async || proxy.connections() == 1).await;
    assert!(silent(&mut lost).await, "not even the server's end gets through");
    drop(lost);
    eventually(SOON, "both ends have gone", async || proxy.connections() == 0).await;

    server.start_again().await.unwrap();
    proxy.rule(Rule::command("SET").on_request().drop_frame());
    let mut lost = open(&proxy).await;
    lost.send(&["SET", "a", "b"]).await.unwrap();
    assert!(silent(&mut lost).await);
    assert_eq!(dbsize(&server).await, 0);
}

#[tokio::test]
async fn replies_can_be_truncated_and_forged() {
    let (_server, proxy) = pair().await;
    proxy.rule(Rule::containing("half").on_reply().truncate(6));
    proxy.rule(Rule::command("GET").on_reply().replace("-LOADING forged\r\n"));
    let mut connection = open(&proxy).await;
    let forged = connection.command(&["GET", "a"]).await.unwrap();
    assert_eq!(forged, Resp::Error("LOADING forged".to_owned()));
    assert_eq!(text(&mut connection, &["ECHO", "whole"]).await, "whole");
    let error = connection.command(&["ECHO", "half"]).await.unwrap_err();
    assert!(error.to_string().contains("closed"), "{error}");
}
