//! The proxy's link: pushes and pairing, controls of all connections, its own end. Also the small
//! vocabulary that the tests of its rules share.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::{Connection, Proxy, RedisServer, Resp, Rule, eventually, util};

pub(super) const SOON: Duration = Duration::from_secs(5);
pub(super) const SHORT: Duration = Duration::from_millis(100);

pub(super) async fn pair() -> (RedisServer, Proxy) {
    let server = RedisServer::start().await.unwrap();
    let proxy = Proxy::start(server.addr()).await.unwrap();
    (server, proxy)
}

pub(super) async fn open(proxy: &Proxy) -> Connection {
    Connection::tcp(proxy.addr()).await.unwrap()
}

pub(super) async fn text(connection: &mut Connection, args: &[&str]) -> String {
    connection.command(args).await.unwrap().as_str().unwrap().to_owned()
}

pub(super) async fn dbsize(server: &RedisServer) -> i64 {
    server.command(&["DBSIZE"]).await.unwrap().as_int().unwrap()
}

pub(super) async fn silent(connection: &mut Connection) -> bool {
    timeout(SHORT, connection.read()).await.is_err()
}

pub(super) fn since(start: Instant) -> Duration {
    util::now() - start
}

#[tokio::test]
async fn replies_are_paired_though_requests_are_pipelined_and_pushes_interleaved() {
    let (server, proxy) = pair().await;
    let third = proxy.rule(Rule::containing("r-250").on_reply().replace("+forged\r\n"));
    let publish = proxy.rule(Rule::command("PUBLISH").on_reply());
    let mut connection = open(&proxy).await;
    connection.command(&["HELLO", "3"]).await.unwrap();
    connection.command(&["CLIENT", "TRACKING", "ON", "BCAST"]).await.unwrap();
    assert_eq!(connection.command(&["SUBSCRIBE", "x"]).await.unwrap().as_array().unwrap().len(), 3);
    let noise = async {
        let mut other = server.connect().await.unwrap();
        for i in 0..300 {
            other.command(&["SET", "k", &i.to_string()]).await.unwrap();
            other.command(&["PUBLISH", "x", "noise"]).await.unwrap();
        }
    };
    let work = async {
        for batch in 0..30 {
            for i in 0..10 {
                connection.send(&["ECHO", &format!("r-{}", batch * 10 + i)]).await.unwrap();
                connection.send(&["PUBLISH", "x", "own"]).await.unwrap();
            }
            let mut replies = Vec::new();
            while replies.len() < 20 {
                match connection.read().await.unwrap() {
                    Resp::Array(_) => {}
                    reply => replies.push(reply),
                }
            }
            for (i, reply) in replies.chunks(2).enumerate() {
                let expected = match batch * 10 + i {
                    250 => "forged".to_owned(),
                    n => format!("r-{n}"),
                };
                assert_eq!(reply[0].as_str(), Some(expected.as_str()));
                assert_eq!(reply[1].as_int(), Some(1));
            }
        }
    };
    tokio::join!(noise, work);
    assert_eq!((third.hits(), publish.hits()), (1, 300));
}

#[tokio::test]
async fn messages_vanish_alone() {
    let (server, proxy) = pair().await;
    for resp3 in [true, false] {
        let mut connection = open(&proxy).await;
        if resp3 {
            connection.command(&["HELLO", "3"]).await.unwrap();
        }
        for kind in ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"] {
            connection.command(&[kind, "x"]).await.unwrap();
        }
        for (drop, heard) in [(false, 3), (true, 0), (false, 3)] {
            proxy.drop_messages(drop);
            server.command(&["PUBLISH", "x", "m"]).await.unwrap();
            server.command(&["SPUBLISH", "x", "m"]).await.unwrap();
            connection.send(&["PING", "end"]).await.unwrap();
            let mut messages = 0;
            loop {
                let next = connection.read().await.unwrap();
                let word = next.as_array().map(|all| all[0].as_str().unwrap());
                match word {
                    Some("message" | "pmessage" | "smessage") => messages += 1,
                    Some("pong") | None => break,
                    Some(other) => panic!("{other}"),
                }
            }
            assert_eq!(messages, heard, "RESP3: {resp3}");
        }
    }
}

#[tokio::test]
async fn invalidations_vanish_alone() {
    let (server, proxy) = pair().await;
    proxy.drop_invalidations(true);
    let mut connection = open(&proxy).await;
    connection.command(&["HELLO", "3"]).await.unwrap();
    connection.command(&["CLIENT", "TRACKING", "ON", "BCAST"]).await.unwrap();
    server.command(&["SET", "a", "b"]).await.unwrap();
    assert_eq!(text(&mut connection, &["PING"]).await, "PONG");
    assert!(silent(&mut connection).await);
    proxy.drop_invalidations(false);
    server.command(&["SET", "a", "b"]).await.unwrap();
    let push = connection.read().await.unwrap();
    assert_eq!(push.as_array().unwrap()[0].as_str(), Some("invalidate"));
}

#[tokio::test]
async fn a_refused_or_lost_subscription_can_be_arranged() {
    let (_server, proxy) = pair().await;
    let rule = proxy.rule(Rule::command("SUBSCRIBE").nth(2).on_reply().replace("-NOPERM x\r\n"));
    let mut connection = open(&proxy).await;
    connection.command(&["HELLO", "3"]).await.unwrap();
    connection.command(&["SUBSCRIBE", "x"]).await.unwrap();
    let refused = connection.command(&["SUBSCRIBE", "y"]).await.unwrap();
    assert_eq!(refused.as_str(), Some("NOPERM x"));
    assert_eq!((rule.hits(), text(&mut connection, &["PING"]).await.as_str()), (1, "PONG"));
}

#[tokio::test]
async fn all_connections_can_be_cut_and_new_ones_refused() {
    let (_server, proxy) = pair().await;
    let mut connection = open(&proxy).await;
    assert_eq!(text(&mut connection, &["PING"]).await, "PONG");
    proxy.cut_all();
    assert!(connection.command(&["PING"]).await.is_err());
    let mut connection = open(&proxy).await;
    assert_eq!(text(&mut connection, &["PING"]).await, "PONG");
    proxy.refuse(true);
    assert!(connection.read().await.is_err());
    assert!(open(&proxy).await.command(&["PING"]).await.is_err());
    eventually(SOON, "none is open", async || proxy.connections() == 0).await;
    proxy.refuse(false);
    assert_eq!(text(&mut open(&proxy).await, &["PING"]).await, "PONG");
}

#[tokio::test]
async fn a_black_hole_swallows_and_what_lost_bytes_stays_dead() {
    let (server, proxy) = pair().await;
    let (mut busy, mut idle) = (open(&proxy).await, open(&proxy).await);
    for connection in [&mut busy, &mut idle] {
        assert_eq!(text(connection, &["PING"]).await, "PONG");
    }
    proxy.black_hole(true);
    busy.send(&["SET", "a", "b"]).await.unwrap();
    assert!(silent(&mut busy).await);
    let mut new = open(&proxy).await;
    new.send(&["PING"]).await.unwrap();
    assert!(silent(&mut new).await);
    assert_eq!(proxy.connections(), 3);
    proxy.black_hole(false);
    assert_eq!(text(&mut idle, &["PING"]).await, "PONG");
    busy.send(&["PING"]).await.unwrap();
    assert!(silent(&mut busy).await);
    assert_eq!(dbsize(&server).await, 0);
    proxy.cut_all();
    assert!(busy.read().await.is_err());
}

#[tokio::test]
async fn the_upstream_may_die_come_back_and_move() {
    let (server, proxy) = pair().await;
    let mut connection = open(&proxy).await;
    assert_eq!(text(&mut connection, &["SET", "a", "b"]).await, "OK");
    server.kill().await;
    assert!(connection.read().await.is_err());
    assert!(open(&proxy).await.command(&["PING"]).await.is_err());
    server.start_again().await.unwrap();
    assert_eq!(text(&mut open(&proxy).await, &["PING"]).await, "PONG");
    let other = RedisServer::start().await.unwrap();
    other.command(&["SET", "who", "other"]).await.unwrap();
    proxy.set_upstream(other.addr());
    assert_eq!(text(&mut open(&proxy).await, &["GET", "who"]).await, "other");
}

#[tokio::test]
async fn dropping_the_proxy_ends_everything() {
    let (server, proxy) = pair().await;
    let addr = proxy.addr();
    let mut connection = open(&proxy).await;
    assert_eq!(text(&mut connection, &["PING"]).await, "PONG");
    drop(proxy);
    assert!(connection.read().await.is_err());
    assert!(Connection::tcp(addr).await.is_err());
    assert_eq!(server.command(&["PING"]).await.unwrap().as_str(), Some("PONG"));
}

#[tokio::test]
async fn a_server_that_never_closes_is_closed_once_its_client_has_gone() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap()).await.unwrap();
    drop(open(&proxy).await);
    let (mut server, _) = listener.accept().await.unwrap();
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0, "the client's end is passed on");
    eventually(SOON, "nobody listens any more", async || {
        server.write_all(b"+x\r\n").await.is_err()
    })
    .await;
}

#[tokio::test]
async fn what_is_not_resp_passes_untouched() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap()).await.unwrap();
    let mut client = tokio::net::TcpStream::connect(proxy.addr()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let mut buf = [0; 4];
    for bytes in [b"\x16\x03\x01\r", b"*1\r\n", b"\0\0\0\0"] {
        client.write_all(bytes).await.unwrap();
        server.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, bytes);
        server.write_all(bytes).await.unwrap();
        client.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, bytes);
    }
}
