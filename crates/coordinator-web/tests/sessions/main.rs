//! The layer in front of a router: what clients and handlers get, in process. What the server is
//! asked, and outages, are in `redis.rs`.

mod redis;
mod shop;

use axum::{Router, response::IntoResponse, routing::get};
use coordinator::{
    clock::ManualClock,
    sessions::{CapPolicy, Filter, Lookup, NewSession, Sessions, Token},
};
use coordinator_harness::eventually;
use coordinator_web::sessions::{
    LiveSession, SameSite, SessionCookie, SessionLayer, SessionRejection, WebSession,
};
use futures::future::{Either, join_all, select};
use http::{
    Request, StatusCode,
    header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, SET_COOKIE},
};
use shop::{Client, cookies, shop, text};
use std::{sync::Arc, time::Duration};

const MINUTE: Duration = Duration::from_mins(1);

fn embedded() -> (ManualClock, Sessions) {
    let clock = ManualClock::new();
    let sessions = Sessions::embedded_with_clock(Arc::new(clock.clone())).with_reaping(None);
    (clock, sessions)
}

fn client() -> (ManualClock, Sessions, Client) {
    let (clock, sessions) = embedded();
    let client = Client::of(shop(SessionLayer::new(sessions.clone())));
    (clock, sessions, client)
}

const REMOVAL: &str = "__Host-session=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax";

#[tokio::test]
async fn a_new_session_sets_one_cookie_and_its_use_sets_none() {
    let (_, _, mut client) = client();
    let answer = client.post("/login/ann").await;
    let set = cookies(&answer);
    let token = set[0].strip_prefix("__Host-session=").expect("the name");
    let token = token.strip_suffix("; Path=/; Secure; HttpOnly; SameSite=Lax").expect("the rest");
    assert!(Token::parse(token).is_some(), "{token}");
    assert_eq!(set.len(), 1);
    assert_eq!(answer.headers()[CACHE_CONTROL], "no-store");
    assert!(answer.headers()[SET_COOKIE].is_sensitive());

    for path in ["/me", "/standing", "/health", "/get/none"] {
        let answer = client.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(cookies(&answer), [""; 0], "{path}");
        assert!(!answer.headers().contains_key(CACHE_CONTROL), "{path}");
    }
    assert_eq!(text(client.get("/me").await).await, "ann");
    assert_eq!(cookies(&client.post("/set/a/1").await), [""; 0]);
    assert_eq!(text(client.get("/get/a").await).await, "1");
}

#[tokio::test]
async fn whoever_has_no_session_is_told_why() {
    let (clock, sessions, mut client) = client();
    let answer = client.get("/me").await;
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert_eq!(answer.headers()["www-authenticate"], "Cookie cookie-name=\"__Host-session\"");
    let body = |session| {
        format!(
            "{{\"type\":\"about:blank\",\"title\":\"Unauthorized\",\"status\":401,\
             \"session\":\"{session}\"}}"
        )
    };
    assert_eq!(text(answer).await, body("absent"));
    assert_eq!(sessions.count(&Filter::all()).await.expect("a count"), 0);

    client.post("/login/ann").await;
    clock.advance(Sessions::IDLE_TIMEOUT + 2 * MINUTE);
    let kept = client.clone();
    let answer = client.get("/me").await;
    assert_eq!((answer.status().as_u16(), cookies(&answer)), (401, vec![REMOVAL]));
    assert_eq!(text(answer).await, body("expired"));
    assert_eq!(client.jar, None, "the browser has forgotten it");
    // Not where nobody asked for a session.
    assert_eq!(cookies(&kept.clone().get("/health").await), [""; 0]);

    client.post("/login/ann").await;
    sessions.revoke_user("ann", "stolen").await.expect("an answer");
    let answer = client.get("/me").await;
    assert_eq!(cookies(&answer), [REMOVAL]);
    let told = text(answer).await;
    assert_eq!(told, body("revoked"), "the reason is not the client's business");
}

#[tokio::test]
async fn what_is_no_token_creates_nothing_and_stays_where_it_is() {
    let (_, sessions, client) = client();
    let token = |n: u8| format!("v1.3.{}", char::from(b'A' + n).to_string().repeat(59));
    let (one, two) = (token(0), token(4));
    assert!(Token::parse(&one).is_some() && Token::parse(&two).is_some());
    let huge = format!("__Host-session={}", "v1.3.".repeat(20_000));
    let both = format!("__Host-session={one}; __Host-session={two}");
    for line in [
        "__Host-session=",
        "__Host-session",
        "__Host-session=guess",
        "__Host-session=v1.64.AAAA",
        "__Host-session=v2.1.AAAA; __Host-session=; =; ;;; ==",
        "__host-session=v1.3.AAAA",
        "other=1; x=y",
        &huge,
        &both,
    ] {
        for path in ["/me", "/standing", "/health"] {
            let mut client = client.with_line(line.as_bytes());
            let answer = client.get(path).await;
            let status = if path == "/me" { 401 } else { 200 };
            assert_eq!(answer.status(), status, "{path}");
            assert_eq!(cookies(&answer), [""; 0], "it may be another's: {line:.40}");
        }
        let set = client.with_line(line.as_bytes()).post("/set/a/1").await;
        assert_eq!(set.status(), 401);
    }
    let answer = client.with_line(b"__Host-session=\xff\xfe; \xe9=\x80").get("/standing").await;
    assert_eq!(text(answer).await, "Absent");
    // A token that nobody gave out is no secret worth keeping.
    let answer = client.with_line(format!("__Host-session={one}").as_bytes()).get("/me").await;
    assert_eq!(cookies(&answer), [REMOVAL]);
    assert_eq!(sessions.count(&Filter::all()).await.expect("a count"), 0);
}

#[tokio::test]
async fn a_token_is_found_among_other_cookies() {
    let (_, _, mut client) = client();
    client.post("/login/ann").await;
    let token = client.jar.clone().expect("a cookie");
    for line in [
        format!("a=1; __Host-session={token}; b=2"),
        format!("__Host-session=garbage;__Host-session={token}"),
        format!("__Host-session={token}; __Host-session={token}"),
        format!("  __Host-session = {token} "),
    ] {
        assert_eq!(text(client.with_line(line.as_bytes()).get("/me").await).await, "ann", "{line}");
    }
    let mut raw = b"name=J\xf6rg; __Host-session=".to_vec();
    raw.extend_from_slice(token.as_bytes());
    assert_eq!(text(client.with_line(&raw).get("/me").await).await, "ann");
    let mut lines = client.with_line(b"a=1");
    lines.lines.push(format!("__Host-session={token}").into_bytes());
    assert_eq!(text(lines.get("/me").await).await, "ann", "HTTP/2 splits the field");
}

#[tokio::test]
async fn the_token_from_before_a_login_is_worth_nothing_after_it() {
    let (_, sessions, mut client) = client();
    client.post("/begin").await;
    client.post("/set/cart/pear").await;
    client.post("/set/theme/dark").await;
    let mut planted = client.clone();
    let answer = client.post("/login/ann").await;
    assert_eq!(cookies(&answer).len(), 1);
    assert_ne!(client.jar, planted.jar);
    assert_eq!(text(client.get("/me").await).await, "ann");
    assert_eq!(text(client.get("/get/cart").await).await, "pear", "what was done before is kept");
    assert_eq!(text(client.get("/get/theme").await).await, "light", "the login goes before it");

    let answer = planted.get("/me").await;
    assert_eq!(answer.status(), 401);
    // A request that was on its way during the login must not undo it in the browser.
    assert_eq!(cookies(&answer), [""; 0]);
    assert_eq!(text(planted.get("/standing").await).await, "Revoked { reason: \"replaced\" }");
    assert_eq!(text(client.get("/me").await).await, "ann", "and it ended nothing");
    assert_eq!(sessions.count(&Filter::all()).await.expect("a count"), 1);
}

#[tokio::test]
async fn a_login_as_another_takes_nothing_over() {
    let (_, sessions, mut client) = client();
    client.post("/login/ann").await;
    client.post("/set/cart/pear").await;
    let mut before = client.clone();
    client.post("/login/ann").await;
    assert_eq!(text(client.get("/get/cart").await).await, "pear", "it is the same user");
    assert_ne!(client.jar, before.jar);

    client.post("/login/bob").await;
    assert_eq!(text(client.get("/me").await).await, "bob");
    assert_eq!(text(client.get("/get/cart").await).await, "none");
    assert_eq!(before.get("/me").await.status(), 401);
    assert_eq!(sessions.count(&Filter::user("ann")).await.expect("a count"), 0);

    // A new session without a login takes over nothing either.
    client.post("/set/cart/fig").await;
    client.post("/begin").await;
    assert_eq!(text(client.get("/get/cart").await).await, "none");
    assert_eq!(sessions.count(&Filter::all()).await.expect("a count"), 1);
}

#[tokio::test]
async fn a_login_that_is_refused_changes_nothing() {
    let (_, sessions) = embedded();
    let sessions = sessions.with_cap(1, CapPolicy::Reject);
    let mut elsewhere = Client::of(shop(SessionLayer::new(sessions.clone())));
    let mut client = Client::of(shop(SessionLayer::new(sessions.clone())));
    elsewhere.post("/login/ann").await;
    client.post("/begin").await;
    client.post("/set/cart/pear").await;
    let answer = client.post("/login/ann").await;
    assert_eq!((answer.status().as_u16(), cookies(&answer)), (409, Vec::new()));
    assert_eq!(text(client.get("/get/cart").await).await, "pear");
    assert_eq!(text(elsewhere.get("/me").await).await, "ann");
    // Where she is logged in, she can log in again: that one goes for it, and counts no more.
    let answer = elsewhere.post("/login/ann").await;
    assert_eq!((answer.status().as_u16(), cookies(&answer).len()), (200, 1));
    assert_eq!(text(elsewhere.get("/me").await).await, "ann");
    assert_eq!(sessions.count(&Filter::user("ann")).await.expect("a count"), 1);
}

#[tokio::test]
async fn a_login_waits_for_what_others_wrote() {
    let (_, sessions, mut client) = client();
    client.post("/begin").await;
    let token = Token::parse(client.jar.as_ref().expect("a cookie")).expect("a token");
    let change = async |web: WebSession| {
        web.load().await?;
        let patch = coordinator::sessions::Patch::new().set("late", "yes")?;
        sessions.patch(&token, patch).await?;
        web.login(NewSession::user("ann")).await?.session()?;
        Ok::<_, SessionRejection>(web.get::<String>("late").await?.unwrap_or_default())
    };
    let layer = SessionLayer::new(sessions.clone());
    let handle = handle(&layer, &client).await;
    assert_eq!(change(handle).await.expect("a login"), "yes", "it is not what was seen first");
}

/// The handle of a request of this client's, outside any handler.
async fn handle(layer: &SessionLayer, client: &Client) -> WebSession {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let take = async move |web: WebSession| sender.send(web).await.expect("somebody waits");
    let app = Router::new().route("/", get(take)).layer(layer.clone());
    client.at(app).get("/").await;
    receiver.recv().await.expect("a handle")
}

/// Asks many times at once with the token that this client has, and rotates it meanwhile; a client
/// that has the one new token.
async fn rotate_in_parallel(client: &Client) -> Client {
    let asked = (0..12).map(|n| {
        let mut client = client.clone();
        async move {
            let answer =
                if n % 3 == 0 { client.get("/me").await } else { client.post("/rotate").await };
            (answer.status(), client.jar)
        }
    });
    let told = join_all(asked).await;
    let news: std::collections::BTreeSet<_> =
        told.iter().map(|(_, jar)| jar.clone()).filter(|jar| *jar != client.jar).collect();
    assert_eq!(news.len(), 1, "{news:?}");
    assert!(told.iter().all(|(status, _)| *status == StatusCode::OK));

    // Whoever missed the answer learns of it within the grace, whatever it asks.
    let new = news.into_iter().next().expect("one").expect("a cookie");
    for path in ["/me", "/get/a"] {
        let mut late = client.clone();
        let answer = late.get(path).await;
        assert_eq!((answer.status().as_u16(), late.jar.as_ref()), (200, Some(&new)), "{path}");
    }
    let mut late = client.clone();
    late.post("/set/a/1").await;
    assert_eq!(late.jar.as_ref(), Some(&new), "a change is told as well");
    late
}

#[tokio::test]
async fn parallel_requests_with_a_replaced_token_are_told_one_new_one() {
    let (clock, _, mut client) = client();
    client.post("/login/ann").await;
    let mut late = rotate_in_parallel(&client).await;
    // Two rotations ago: it is let in, nobody can tell it the token, and nothing is cleared.
    late.post("/rotate").await;
    let mut loser = client.clone();
    let answer = loser.post("/rotate").await;
    assert_eq!((answer.status().as_u16(), cookies(&answer)), (200, Vec::new()));
    assert_eq!(text(answer).await, "Replaced");
    assert_eq!(loser.jar, client.jar);
    clock.advance(Sessions::ROTATION_GRACE + MINUTE);
    assert_eq!(text(late.get("/me").await).await, "ann");
}

#[tokio::test]
async fn a_logout_is_final_and_told() {
    let (_, sessions, mut client) = client();
    client.post("/login/ann").await;
    let mut other_tab = client.clone();
    let answer = client.post("/logout").await;
    assert_eq!((answer.status().as_u16(), cookies(&answer)), (200, vec![REMOVAL]));
    assert_eq!(answer.headers()[CACHE_CONTROL], "no-store");
    assert_eq!(text(answer).await, "Live(()) Revoked { reason: \"logout\" }");
    assert_eq!(other_tab.clone().post("/set/a/1").await.status(), 401);
    assert_eq!(other_tab.get("/me").await.status(), 401);
    assert_eq!(other_tab.jar, None);
    assert_eq!(sessions.count(&Filter::all()).await.expect("a count"), 0);

    let answer = client.post("/logout").await;
    assert_eq!((answer.status().as_u16(), cookies(&answer)), (200, Vec::new()), "it has none");
    let answer = client.with_line(b"__Host-session=garbage").post("/logout").await;
    assert_eq!(cookies(&answer), [REMOVAL], "whatever it was, it is not wanted any more");
}

#[tokio::test]
async fn an_answer_of_500_loses_nothing() {
    let (_, _, mut client) = client();
    let answer = client.post("/begin-and-fail").await;
    assert_eq!(answer.status(), 500);
    assert_eq!(cookies(&answer).len(), 1);
    assert_eq!(text(client.get("/get/a").await).await, "kept");
}

#[tokio::test]
async fn a_client_that_goes_away_loses_nothing_that_was_done() {
    let (_, _, mut client) = client();
    client.post("/begin").await;
    let mut other = client.clone();
    let kept = async || text(other.get("/get/a").await).await == "kept";
    let written = Box::pin(eventually(MINUTE, "it is written", kept));
    let waiting = Box::pin(client.post("/set-and-wait"));
    let Either::Right(((), waiting)) = select(waiting, written).await else {
        panic!("the handler waits for ever");
    };
    drop(waiting);
    assert_eq!(text(client.get("/get/a").await).await, "kept");
}

#[tokio::test]
async fn what_other_requests_set_survives() {
    let (_, _, mut client) = client();
    client.post("/begin").await;
    let set = (0..50).map(|n| {
        let mut client = client.clone();
        async move { client.post(&format!("/set/f{n}/{n}")).await.status() }
    });
    assert!(join_all(set).await.iter().all(StatusCode::is_success));
    for n in 0..50 {
        assert_eq!(text(client.get(&format!("/get/f{n}")).await).await, n.to_string());
    }
    let count = (0..20).map(|_| {
        let mut client = client.clone();
        async move { client.post("/count").await.status() }
    });
    assert!(join_all(count).await.iter().all(StatusCode::is_success));
    assert_eq!(text(client.get("/number/visits").await).await, "20");
}

#[tokio::test]
async fn a_handler_sees_what_it_changed() {
    let (_, sessions, mut client) = client();
    client.post("/login/ann").await;
    let web = handle(&SessionLayer::new(sessions.clone()), &client).await;
    let seen = web.load().await.expect("an answer").live().expect("it lives");
    assert_eq!(seen.get::<u8>("a").expect("no value"), None);
    assert!(web.set("a", &7).await.expect("an answer").is_live());
    assert_eq!(web.get::<u8>("a").await.expect("a value"), Some(7));
    assert!(web.get::<String>("a").await.is_err(), "another shape is no absence");
    let longer = web.extend(Some(2 * MINUTE), Some(9 * MINUTE)).await.expect("an answer");
    assert!(longer.live().expect("it lives") <= 3 * MINUTE);
    web.rotate().await.expect("an answer");
    assert!(web.load().await.expect("an answer").is_live());
    assert_eq!(web.get::<u8>("a").await.expect("a value"), Some(7));
    let told = web.new_token().expect("it was rotated");
    assert!(sessions.load(&told).await.expect("an answer").is_live());

    web.logout("done").await.expect("an answer");
    let ended = Lookup::Revoked { reason: "done".to_owned() };
    assert_eq!(web.load().await.expect("an answer").map(|_| ()), ended);
    assert_eq!(web.set("a", &8).await.expect("an answer").map(|_| ()), ended);
    assert!(web.new_token().is_none());
}

#[tokio::test]
async fn a_session_that_ends_during_a_request_is_told() {
    let (_, sessions, mut client) = client();
    client.post("/login/ann").await;
    let layer = SessionLayer::new(sessions.clone());
    let late = async move |session: LiveSession| {
        sessions.revoke_user("ann", "stolen").await?;
        session.set("a", &1).await?;
        Ok::<_, SessionRejection>(())
    };
    let app = Router::new().route("/", get(late)).layer(layer);
    let answer = client.at(app).get("/").await;
    assert_eq!((answer.status().as_u16(), cookies(&answer)), (401, vec![REMOVAL]));
    assert!(text(answer).await.contains("\"session\":\"revoked\""));
}

#[tokio::test]
async fn other_headers_stay_and_no_shared_cache_keeps_a_cookie() {
    for (said, told) in [
        ("public, max-age=600", "no-store"),
        ("max-age=600", "no-store"),
        ("private=\"x\"", "no-store"),
        ("max-age=600, private", "max-age=600, private"),
        ("No-Store", "No-Store"),
    ] {
        let (_, sessions) = embedded();
        let begin = async move |web: WebSession| {
            web.create(NewSession::anonymous()).await?;
            Ok::<_, SessionRejection>([(SET_COOKIE, "a=1"), (CACHE_CONTROL, said)].into_response())
        };
        let layer = SessionLayer::new(sessions);
        let app = Router::new().route("/", get(begin)).layer(layer);
        let answer = Client::of(app).get("/").await;
        let set = cookies(&answer);
        assert_eq!((set[0], set.len()), ("a=1", 2));
        let lines: Vec<_> = answer.headers().get_all(CACHE_CONTROL).iter().collect();
        assert_eq!(lines, [told], "{said}");
    }
}

#[tokio::test]
async fn a_cookie_of_another_kind_is_written_and_read() {
    let (_, sessions) = embedded();
    let cookie = SessionCookie::new().with_name("sid").with_path("/").with_domain("example.com");
    let cookie = cookie.with_same_site(SameSite::Strict).with_max_age(60 * MINUTE);
    let layer = SessionLayer::new(sessions).with_cookie(cookie).expect("a cookie");
    let mut client = Client::of(shop(layer)).named("sid");
    let answer = client.post("/login/ann").await;
    let rest = "; Path=/; Domain=example.com; Max-Age=3600; Secure; HttpOnly; SameSite=Strict";
    assert!(cookies(&answer)[0].ends_with(rest));
    assert_eq!(text(client.get("/me").await).await, "ann");
    let gone = cookies(&client.post("/logout").await).concat();
    let rest = "sid=; Path=/; Domain=example.com; Max-Age=0; Secure; HttpOnly; SameSite=Strict";
    assert_eq!(gone, rest);

    let wrong = SessionCookie::new().without_secure();
    assert!(SessionLayer::new(embedded().1).with_cookie(wrong).is_err());
}

#[tokio::test]
async fn a_client_that_sends_a_header_gets_no_cookie() {
    let (_, sessions) = embedded();
    let mut client = Client::of(shop(SessionLayer::new(sessions).with_bearer()));
    let answer = client.get("/me").await;
    assert_eq!((answer.status().as_u16(), cookies(&answer)), (401, Vec::new()));
    assert_eq!(answer.headers()["www-authenticate"], "Bearer");
    let answer = client.post("/login/ann").await;
    assert_eq!(cookies(&answer), [""; 0]);
    let token = text(answer).await;
    let from = async |value: &str| {
        let request = Request::get("/me").header(AUTHORIZATION, value);
        Client::of(client.app.clone()).send(request).await
    };
    for scheme in ["Bearer ", "bearer ", "BEARER   "] {
        assert_eq!(text(from(&format!("{scheme}{token}")).await).await, "ann");
    }
    for wrong in [&format!("Basic {token}"), &token, "Bearer", "Bearer ", "Bearer guess"] {
        assert_eq!(from(wrong).await.status(), 401, "{wrong}");
    }
    let challenge = &from("Bearer guess").await.headers()["www-authenticate"].clone();
    assert_eq!(challenge, "Bearer error=\"invalid_token\"");
    let request = Request::get("/me").header(COOKIE, format!("__Host-session={token}"));
    assert_eq!(client.send(request).await.status(), 401, "a cookie is not read");
}

#[tokio::test]
async fn a_route_without_a_layer_says_so() {
    let app = Router::new()
        .route("/web", get(async |_: WebSession| "no"))
        .route("/live", get(async |_: LiveSession| "no"))
        .route("/maybe-live", get(async |_: Option<LiveSession>| "no"))
        .route("/maybe", get(async |web: Option<WebSession>| web.is_some().to_string()));
    let mut client = Client::of(app);
    for path in ["/web", "/live", "/maybe-live"] {
        let answer = client.get(path).await;
        assert_eq!(answer.status(), 500, "{path}");
        let body = r#"{"type":"about:blank","title":"Internal Server Error","status":500}"#;
        assert_eq!(text(answer).await, body);
    }
    assert_eq!(text(client.get("/maybe").await).await, "false");
}

#[tokio::test]
async fn a_handler_can_do_without_a_session() {
    let (_, _, mut client) = client();
    assert_eq!(text(client.get("/maybe").await).await, "nobody");
    client.post("/login/ann").await;
    assert_eq!(text(client.get("/maybe").await).await, "ann");
}

#[tokio::test]
async fn nothing_printed_lets_anybody_in() {
    let (_, sessions, mut client) = client();
    let layer = SessionLayer::new(sessions);
    let answer = client.post("/login/ann").await;
    let web = handle(&layer, &client).await;
    let live = web.require().await.expect("it lives");
    web.rotate().await.expect("an answer");
    let secret = &client.jar.as_ref().expect("a cookie")[8..];
    let rotated = web.new_token().expect("a token").reveal();
    for printed in [
        format!("{web:?} {live:?} {layer:?}"),
        format!("{answer:?}"),
        format!("{:?}", web.load().await),
    ] {
        assert!(!printed.contains(secret) && !printed.contains(&rotated[8..]), "{printed}");
    }
}
