//! A server that is gone or silent: refused with 503 or let through, and never 429.

use axum::{Router, body::Body, routing::get};
use coordinator::{
    Config, Coordinator,
    ratelimit::{FailurePolicy, Quota, Rules},
};
use coordinator_harness::{RedisServer, eventually, fresh_prefix};
use coordinator_web::limits::{Asked, Key, Limit, LimitLayer, Limited, Outage};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use std::{sync::Arc, time::Duration};
use tower::ServiceExt as _;

const LONG: Duration = Duration::from_mins(1);

async fn connect(server: &RedisServer) -> Coordinator {
    connect_for(server, Duration::from_millis(200)).await
}

async fn connect_for(server: &RedisServer, timeout: Duration) -> Coordinator {
    let config = Config::from_url(&server.url()).expect("a URL");
    let config = config.with_prefix(&fresh_prefix()).expect("a prefix");
    let config = config.with_command_timeout(timeout);
    Coordinator::with_config(config).await.expect("a server")
}

fn app(layer: LimitLayer) -> Router {
    let handler = async |limited: Limited| limited.is_unknown().to_string();
    Router::new().route("/", get(handler)).layer(layer)
}

async fn ask(app: &Router) -> Response<Body> {
    let request = Request::get("/").body(Body::empty()).expect("a request");
    app.clone().oneshot(request).await.expect("routers do not fail")
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn quota(policy: FailurePolicy) -> Quota {
    Quota::sliding_window(2, LONG).with_name("a").with_failure_policy(policy)
}

fn layer(coordinator: &Coordinator, quota: Quota) -> LimitLayer {
    LimitLayer::new(coordinator.limits().clone()).with_limit(Limit::new(Key::everybody(), quota))
}

/// What is told where nobody knows.
async fn assert_unavailable(answer: Response<Body>) {
    assert_eq!(answer.status(), 503);
    let headers = answer.headers();
    assert_eq!(headers["retry-after"], "1");
    assert_eq!(headers["content-type"], "application/problem+json");
    assert!(!headers.contains_key("ratelimit"), "nobody knows what is left");
    let body = text(answer).await;
    let kind = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity";
    let title = "Request cannot be satisfied due to temporary server capacity constraints";
    assert_eq!(body, format!(r#"{{"type":"{kind}","title":"{title}","status":503}}"#));
}

async fn assert_outages(coordinator: &Coordinator) {
    let through = |policy| layer(coordinator, quota(policy)).with_outage(Outage::LetThrough);

    let app_of = |policy| app(layer(coordinator, quota(policy)));
    assert_unavailable(ask(&app_of(FailurePolicy::Report)).await).await;
    assert_unavailable(ask(&app_of(FailurePolicy::Closed)).await).await;
    // The quota's own policy goes before the layer's.
    assert_unavailable(ask(&app(through(FailurePolicy::Closed))).await).await;

    let answer = ask(&app(through(FailurePolicy::Report))).await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("ratelimit-policy"));
    assert_eq!(text(answer).await, "true");

    let open = ask(&app_of(FailurePolicy::Open)).await;
    assert_eq!(open.status(), 200);
    assert_eq!(open.headers()["ratelimit-policy"], r#""a";q=2;w=60"#);
    assert!(!open.headers().contains_key("ratelimit"));
    assert_eq!(text(open).await, "false");

    let shadow = layer(coordinator, quota(FailurePolicy::Report).with_shadow(true));
    assert_eq!(ask(&app(shadow)).await.status(), 200, "a shadow refuses nobody");

    let rules = Rules::new().user_default(quota(FailurePolicy::Report));
    let rules = coordinator.limits().with_rules(rules).expect("rules");
    let ruled = LimitLayer::new(coordinator.limits().clone())
        .with_rules(rules, |_| Some(Asked::new("any").with_user("a")));
    assert_unavailable(ask(&app(ruled.clone())).await).await;
    let answer = ask(&app(ruled.with_outage(Outage::LetThrough))).await;
    assert_eq!((answer.status().as_u16(), &*text(answer).await), (200, "true"));
}

#[tokio::test]
async fn a_server_that_is_gone_is_no_quota() {
    let server = RedisServer::start().await.unwrap();
    let coordinator = connect(&server).await;
    let local = app(layer(&coordinator, quota(FailurePolicy::Local { share: 1.0 })));
    assert_eq!(ask(&local).await.status(), 200);
    server.kill().await;
    assert_outages(&coordinator).await;

    // What this process was allowed is known to its own limit.
    assert_eq!(ask(&local).await.status(), 200);
    let denied = ask(&local).await;
    assert_eq!(denied.status(), 503, "an outage is no quota");
    let seconds: u64 = denied.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));

    server.start_again().await.unwrap();
    let app = app(layer(&coordinator, quota(FailurePolicy::Report)));
    eventually(LONG, "limits are asked again", async || ask(&app).await.status() == 200).await;
}

#[tokio::test]
async fn a_server_that_is_silent_is_no_quota() {
    let server = RedisServer::start().await.unwrap();
    let coordinator = connect(&server).await;
    server.pause().unwrap();
    assert_outages(&coordinator).await;
    server.resume().unwrap();
}

#[tokio::test]
async fn a_refund_that_nobody_answers_does_not_keep_the_client_waiting() {
    let server = RedisServer::start().await.unwrap();
    let coordinator = connect_for(&server, 2 * LONG).await;
    let layer = layer(&coordinator, quota(FailurePolicy::Report)).with_refund_on(|_| true);
    let server = Arc::new(server);
    let stopped = server.clone();
    let handler = async move || stopped.pause().unwrap();
    let app: Router = Router::new().route("/", get(handler)).layer(layer);
    let answer = tokio::time::timeout(LONG, ask(&app)).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["ratelimit"], r#""a";r=1;t=60"#, "not given back, as told");
    server.resume().unwrap();
}

#[tokio::test]
async fn quotas_are_told_the_same_over_redis() {
    let server = RedisServer::start().await.unwrap();
    let coordinator = connect(&server).await;
    let plain = layer(&coordinator, quota(FailurePolicy::Report));
    let other = Quota::gcra(1, LONG, 9).with_name("b");
    let limit = Limit::new(Key::everybody(), other);
    let app = app(plain.with_limit(limit).with_tenant(Key::everybody()));
    let answer = ask(&app).await;
    assert_eq!(answer.headers()["ratelimit-policy"], r#""a";q=2;w=60,"b";q=9;w=540"#);
    assert_eq!(answer.headers()["ratelimit"], r#""a";r=1;t=60,"b";r=8;t=60"#);
    let before = server.calls_of("evalsha").await;
    ask(&app).await;
    assert_eq!(server.calls_of("evalsha").await - before, 1, "both limits in one round trip");
    let denied = ask(&app).await;
    assert_eq!(denied.status(), 429);
    let seconds: u64 = denied.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    coordinator.close().await;
}
