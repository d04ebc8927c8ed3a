//! What a server is asked, and what is answered while there is none.

use crate::shop::{Client, cookies, shop, text};
use axum::{Router, routing::get};
use coordinator::{
    Config, Coordinator, ErrorKind,
    sessions::{NewSession, Sessions},
};
use coordinator_harness::{RedisServer, eventually, fresh_prefix};
use coordinator_web::sessions::{SessionLayer, SessionRejection, WebSession};
use http::StatusCode;
use std::time::Duration;

const LONG: Duration = Duration::from_mins(1);

async fn connect(server: &RedisServer) -> (Coordinator, Sessions) {
    let config = Config::from_url(&server.url()).expect("a URL");
    let config = config.with_prefix(&fresh_prefix()).expect("a prefix");
    let config = config.with_command_timeout(Duration::from_millis(200));
    let coordinator = Coordinator::with_config(config).await.expect("a server");
    let sessions = coordinator.sessions().clone().with_reaping(None);
    (coordinator, sessions)
}

/// How many scripts the server has run, which is what sessions ask it.
async fn asked(server: &RedisServer) -> u64 {
    server.calls_of("evalsha").await + server.calls_of("eval").await
}

#[tokio::test]
async fn a_server_is_asked_once_by_who_uses_a_session_and_never_otherwise() {
    let server = RedisServer::start().await.expect("a server");
    let (_coordinator, sessions) = connect(&server).await;
    let often = async |web: WebSession| {
        for _ in 0..3 {
            web.load().await?;
            web.require().await?;
            web.get::<String>("cart").await?;
        }
        let clone = web.clone();
        let both = futures::future::join(web.load(), clone.load()).await;
        both.0.and(both.1)?;
        Ok::<_, SessionRejection>(())
    };
    let layer = SessionLayer::new(sessions);
    let often = Router::new().route("/often", get(often)).layer(layer.clone());
    let mut client = Client::of(shop(layer));
    client.post("/login/ann").await;
    // Each script's first run is a miss, and is sent again.
    for path in ["/me", "/set/a/1", "/set/a/2", "/rotate"] {
        let request = http::Request::builder().uri(path);
        client.send(request.method(if path == "/me" { "GET" } else { "POST" })).await;
    }

    let total = async || {
        let info = server.command(&["INFO", "commandstats"]).await.expect("an answer");
        let info = info.as_str().expect("text").to_owned();
        let of_ours = ["get", "set", "hgetall", "hget", "evalsha", "eval", "xadd", "zadd"];
        let calls = of_ours.map(|name| {
            let line = format!("cmdstat_{name}:calls=");
            let calls = info.lines().find_map(|stat| stat.strip_prefix(&line)?.split(',').next());
            calls.map_or(0, |calls| calls.parse::<u64>().expect("a number"))
        });
        calls.iter().sum::<u64>()
    };
    let before = total().await;
    for _ in 0..20 {
        assert_eq!(client.get("/health").await.status(), 200);
        let mut guest = client.with_line(b"__Host-session=guess; other=1");
        assert_eq!(guest.get("/me").await.status(), 401);
        assert_eq!(Client::of(client.app.clone()).get("/standing").await.status(), 200);
    }
    assert_eq!(total().await, before, "nobody was asked anything");

    for (path, method, times) in [
        ("/me", "GET", 1),
        ("/standing", "GET", 1),
        ("/get/a", "GET", 1),
        // The look, and the change.
        ("/set/a/1", "POST", 2),
        ("/rotate", "POST", 2),
    ] {
        let before = asked(&server).await;
        let answer = client.send(http::Request::builder().uri(path).method(method)).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(asked(&server).await - before, times, "{path}");
    }
    let before = asked(&server).await;
    assert_eq!(client.at(often).get("/often").await.status(), 200);
    assert_eq!(asked(&server).await - before, 1, "however often it is used");
}

#[tokio::test]
async fn parallel_rotations_come_to_one_cookie_over_redis_too() {
    let server = RedisServer::start().await.expect("a server");
    let (_coordinator, sessions) = connect(&server).await;
    let mut client = Client::of(shop(SessionLayer::new(sessions)));
    for _ in 0..10 {
        client.post("/login/ann").await;
        let mut told = crate::rotate_in_parallel(&client).await;
        assert_eq!(text(told.get("/me").await).await, "ann");
    }
}

/// 503, nothing of a session, and nothing to forget.
async fn assert_unavailable(client: &mut Client, path: &str, post: bool) {
    let kept = client.jar.clone();
    let answer = if post { client.post(path).await } else { client.get(path).await };
    assert_eq!(answer.status(), 503, "{path}");
    assert_eq!(cookies(&answer), [""; 0], "{path}");
    assert_eq!(answer.headers()["retry-after"], "1");
    assert!(!answer.headers().contains_key("www-authenticate"));
    assert_eq!(client.jar, kept);
    let kind = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity";
    let title = "Request cannot be satisfied due to temporary server capacity constraints";
    let body = format!(r#"{{"type":"{kind}","title":"{title}","status":503}}"#);
    assert_eq!(text(answer).await, body);
}

#[tokio::test]
async fn an_outage_is_no_logout() {
    let server = RedisServer::builder().with_aof("always").start().await.expect("a server");
    let (_coordinator, sessions) = connect(&server).await;
    let mut client = Client::of(shop(SessionLayer::new(sessions)));
    client.post("/login/ann").await;
    client.post("/set/cart/pear").await;

    for gone in [true, false] {
        if gone {
            server.kill().await;
        } else {
            server.pause().expect("it is paused");
        }
        for path in ["/me", "/maybe", "/standing", "/get/cart"] {
            assert_unavailable(&mut client, path, false).await;
        }
        for path in ["/set/cart/fig", "/rotate", "/logout", "/login/bob", "/begin", "/count"] {
            assert_unavailable(&mut client, path, true).await;
        }
        // Who has no session and wants none is not kept waiting.
        assert_eq!(client.get("/health").await.status(), 200);
        let mut guest = Client::of(client.app.clone());
        assert_eq!(guest.get("/me").await.status(), 401, "nobody needs to be asked for that");
        assert_unavailable(&mut guest, "/begin", true).await;

        if gone {
            server.start_again().await.expect("a server");
        } else {
            server.resume().expect("it runs");
        }
        eventually(LONG, "sessions are found again", async || {
            client.get("/me").await.status() == StatusCode::OK
        })
        .await;
        assert_eq!(text(client.get("/me").await).await, "ann");
        assert_eq!(text(client.get("/get/cart").await).await, "pear", "nothing was written");
    }
}

#[tokio::test]
async fn after_a_failed_look_nothing_is_written() {
    let server = RedisServer::start().await.expect("a server");
    let (_coordinator, sessions) = connect(&server).await;
    let layer = SessionLayer::new(sessions.clone());
    let mut client = Client::of(shop(layer.clone()));
    client.post("/login/ann").await;
    client.post("/set/cart/pear").await;
    let web = crate::handle(&layer, &client).await;

    server.pause().expect("it is paused");
    let failed = web.load().await.expect_err("nobody answers");
    assert!(failed.is_retryable());
    server.resume().expect("it runs");
    let all = coordinator::sessions::Filter::all();
    eventually(LONG, "the server answers", async || sessions.count(&all).await.is_ok()).await;

    // The server is well, and what the request did not find is not written over.
    let before = asked(&server).await;
    let told = [
        web.load().await.map(|_| ()),
        web.get::<String>("cart").await.map(|_| ()),
        web.set("cart", "fig").await.map(|_| ()),
        web.update(|data| data.set("cart", "fig")).await.map(|_| ()),
        web.extend(Some(LONG), None).await.map(|_| ()),
        web.rotate().await.map(|_| ()),
        web.logout("logout").await.map(|_| ()),
        web.create(NewSession::anonymous()).await.map(|_| ()),
        web.login(NewSession::user("bob")).await.map(|_| ()),
    ];
    for told in told {
        let error = told.expect_err("the look failed");
        assert_eq!((error.kind(), error.step()), (failed.kind(), failed.step()));
    }
    assert_eq!(asked(&server).await, before, "nobody is asked");
    assert_eq!(text(client.get("/get/cart").await).await, "pear");
}

#[tokio::test]
async fn what_is_damaged_is_no_absence() {
    let server = RedisServer::start().await.expect("a server");
    let (_coordinator, sessions) = connect(&server).await;
    let mut client = Client::of(shop(SessionLayer::new(sessions.clone())));
    client.post("/login/ann").await;
    let key = only_session(&server).await;
    server.command(&["HSET", &key, "d:cart", "\u{1}nonsense"]).await.expect("an answer");
    let answer = client.get("/get/cart").await;
    assert_eq!((answer.status().as_u16(), cookies(&answer)), (500, Vec::new()));
    server.command(&["DEL", &key]).await.expect("an answer");
    server.command(&["SET", &key, "a text", "EX", "60"]).await.expect("an answer");
    let answer = client.get("/me").await;
    assert!(answer.status().is_server_error(), "{}", answer.status());
    assert_eq!(cookies(&answer), [""; 0]);
    let token = coordinator::sessions::Token::parse(client.jar.as_ref().expect("a cookie"));
    let error = sessions.load(&token.expect("a token")).await.expect_err("it is a text");
    assert_ne!(error.kind(), ErrorKind::Unavailable);
}

/// The key of the one session that there is.
async fn only_session(server: &RedisServer) -> String {
    let keys = server.command(&["KEYS", "*:s:*"]).await.expect("an answer");
    let keys = keys.as_array().expect("an array").to_vec();
    assert_eq!(keys.len(), 1, "{keys:?}");
    keys[0].as_str().expect("text").to_owned()
}
