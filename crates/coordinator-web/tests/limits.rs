//! The layer in front of a router: what clients and handlers get. Outages are in `outage.rs`.

use axum::{Router, body::Body, extract::ConnectInfo, response::IntoResponse, routing::get};
use coordinator::{
    clock::ManualClock,
    ratelimit::{Quota, RateLimiter, Rules},
};
use coordinator_harness::{rng, seed};
use coordinator_web::limits::{Asked, ClientIp, Key, Limit, LimitLayer, Limited, PeerAddr};
use http::{HeaderName, Request, Response, StatusCode, header::RETRY_AFTER};
use http_body_util::BodyExt as _;
use rand::RngExt as _;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tower::ServiceExt as _;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const USER: HeaderName = HeaderName::from_static("x-user");
const COMPANY: HeaderName = HeaderName::from_static("x-company");

fn embedded() -> (ManualClock, RateLimiter) {
    let clock = ManualClock::new();
    (clock.clone(), RateLimiter::embedded_with_clock(Arc::new(clock)))
}

fn window(limit: u64, name: &str) -> Quota {
    Quota::sliding_window(limit, MINUTE).with_name(name)
}

fn everybody(quota: Quota) -> Limit {
    Limit::new(Key::everybody(), quota)
}

/// A router with one handler, which answers as the path says, behind a layer.
fn app(layer: LimitLayer) -> Router {
    layer.validate().expect("a layer that can work");
    let handler = async |request: Request<Body>| {
        let path = request.uri().path().trim_start_matches('/').to_owned();
        path.parse::<u16>()
            .map_or(StatusCode::OK, |code| StatusCode::from_u16(code).expect("a status"))
    };
    Router::new().fallback(handler).layer(layer)
}

async fn ask(app: &Router, request: http::request::Builder) -> Response<Body> {
    let request = request.body(Body::empty()).expect("a request");
    app.clone().oneshot(request).await.expect("routers do not fail")
}

async fn get_path(app: &Router, path: &str) -> Response<Body> {
    ask(app, Request::get(path)).await
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().expect("ASCII"))
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[tokio::test]
async fn the_answers_of_one_limit_are_these() {
    let (clock, limits) = embedded();
    let app = app(LimitLayer::new(limits).with_limit(everybody(window(2, "burst"))));

    let first = get_path(&app, "/").await;
    assert_eq!(first.status(), 200);
    assert_eq!(header(&first, "ratelimit-policy"), r#""burst";q=2;w=60"#);
    assert_eq!(header(&first, "ratelimit"), r#""burst";r=1;t=60"#);
    assert!(!first.headers().contains_key(RETRY_AFTER));

    clock.advance(Duration::from_millis(10_001));
    let second = get_path(&app, "/").await;
    assert_eq!(second.status(), 200);
    assert_eq!(header(&second, "ratelimit"), r#""burst";r=0;t=50"#);

    let denied = get_path(&app, "/").await;
    assert_eq!(denied.status(), 429);
    assert_eq!(header(&denied, "ratelimit-policy"), r#""burst";q=2;w=60"#);
    assert_eq!(header(&denied, "ratelimit"), r#""burst";r=0;t=50"#);
    assert_eq!(header(&denied, "retry-after"), "50");
    assert_eq!(header(&denied, "content-type"), "application/problem+json");
    let body = "{\"type\":\"https://iana.org/assignments/http-problem-types#quota-exceeded\",\
                \"title\":\"Request cannot be satisfied as assigned quota has been exceeded\",\
                \"status\":429,\"violated-policies\":[\"burst\"]}";
    assert_eq!(text(denied).await, body);

    clock.advance(50 * SECOND);
    assert_eq!(get_path(&app, "/").await.status(), 200);
}

#[tokio::test]
async fn several_limits_are_taken_from_together_or_not_at_all() {
    for tenant in [true, false] {
        let (clock, limits) = embedded();
        let (user, company) = (Key::header(USER), Key::header(COMPANY));
        let hour = Quota::sliding_window(3, 60 * MINUTE).with_name("company");
        let mut layer = LimitLayer::new(limits)
            .with_limit(Limit::new(user, window(2, "user")))
            .with_limit(Limit::new(company.clone(), hour));
        if tenant {
            layer = layer.with_tenant(company);
        }
        let app = app(layer);
        let from = async |user: &str| {
            ask(&app, Request::get("/").header(USER, user).header(COMPANY, "acme")).await
        };
        for left in [1, 0] {
            let answer = from("a").await;
            let told = format!(r#""user";r={left};t=60,"company";r={};t=3600"#, left + 1);
            assert_eq!(header(&answer, "ratelimit"), told);
        }
        clock.advance(SECOND);
        let denied = from("a").await;
        assert_eq!(denied.status(), 429);
        // The company had room, and nothing of it was taken.
        assert_eq!(header(&denied, "ratelimit"), r#""user";r=0;t=59,"company";r=1"#);
        assert_eq!(header(&denied, "retry-after"), "59");
        assert!(text(denied).await.contains("\"violated-policies\":[\"user\"]"));

        assert_eq!(from("b").await.status(), 200);
        let denied = from("b").await;
        let told = r#""user";r=1,"company";r=0;t=3599"#;
        assert_eq!(header(&denied, "ratelimit"), told, "tenant: {tenant}");
        assert_eq!(header(&denied, "retry-after"), "3599");
        assert!(text(denied).await.contains("\"violated-policies\":[\"company\"]"));
        let denied = from("a").await;
        assert_eq!(header(&denied, "retry-after"), "3599", "the latest of both");
        if tenant {
            assert!(text(denied).await.contains("\"violated-policies\":[\"user\",\"company\"]"));
        }
    }
}

#[tokio::test]
async fn tenants_do_not_share_subjects() {
    let (_, limits) = embedded();
    let layer = LimitLayer::new(limits)
        .with_tenant(Key::header(COMPANY))
        .with_limit(Limit::new(Key::header(USER), window(1, "user")));
    let app = app(layer);
    for (company, status) in [("acme", 200), ("acme", 429), ("other", 200), ("other", 429)] {
        let request = Request::get("/").header(USER, "a").header(COMPANY, company);
        assert_eq!(ask(&app, request).await.status(), status);
    }
}

#[tokio::test]
async fn a_limit_without_a_key_or_a_cost_is_not_the_requests_business() {
    let (_, limits) = embedded();
    let weighted = everybody(window(5, "work"))
        .with_cost(|parts| parts.uri.query().and_then(|query| query.parse().ok()).unwrap_or(0));
    let layer = LimitLayer::new(limits)
        .with_limit(Limit::new(Key::header(USER), window(1, "user")))
        .with_limit(weighted);
    let app = app(layer);
    for _ in 0..3 {
        let free = get_path(&app, "/").await;
        assert_eq!(free.status(), 200);
        assert!(!free.headers().contains_key("ratelimit-policy"));
    }
    let paid = get_path(&app, "/?4").await;
    assert_eq!(header(&paid, "ratelimit"), r#""work";r=1;t=60"#);
    assert_eq!(get_path(&app, "/?2").await.status(), 429);
    assert_eq!(get_path(&app, "/?1").await.status(), 200);
}

#[tokio::test]
async fn what_never_fits_is_told_without_a_time_to_come_back() {
    for status in [StatusCode::TOO_MANY_REQUESTS, StatusCode::PAYLOAD_TOO_LARGE] {
        let (_, limits) = embedded();
        let limit = everybody(window(5, "work")).with_cost(|_| 6);
        let mut layer = LimitLayer::new(limits).with_limit(limit);
        if status != StatusCode::TOO_MANY_REQUESTS {
            layer = layer.with_never_fits(status);
        }
        let denied = get_path(&app(layer), "/").await;
        assert_eq!(denied.status(), status);
        assert!(!denied.headers().contains_key(RETRY_AFTER));
        assert_eq!(header(&denied, "ratelimit"), r#""work";r=5"#);
        let code = status.as_u16();
        let body = text(denied).await;
        let detail = "The cost of the request is above the limit: waiting does not help.";
        assert!(body.contains(&format!("\"status\":{code},\"detail\":\"{detail}\"")), "{body}");
        assert!(body.contains("\"violated-policies\":[\"work\"]"), "{body}");
    }
}

#[tokio::test]
async fn who_waits_as_told_is_let_in() {
    let mut rng = rng();
    for round in 0..300 {
        let (clock, limits) = embedded();
        clock.advance(Duration::from_micros(rng.random_range(0..10_000_000)));
        let quota = |rng: &mut rand::rngs::StdRng| {
            let span = Duration::from_micros(rng.random_range(1..200_000_000));
            let limit = rng.random_range(1..12);
            match rng.random_range(0..3) {
                0 => Quota::sliding_window(limit, span),
                1 => Quota::fixed_window(limit, span),
                _ => Quota::gcra(rng.random_range(1..9), span, limit),
            }
        };
        let quotas: Vec<_> = (0..rng.random_range(1..4)).map(|_| quota(&mut rng)).collect();
        let layer = LimitLayer::new(limits).with_tenant(Key::everybody());
        let cost = |parts: &http::request::Parts| parts.uri.query().unwrap().parse().unwrap();
        let layer = quotas.iter().enumerate().fold(layer, |layer, (n, quota)| {
            let quota = quota.clone().with_name(&format!("q{n}"));
            layer.with_limit(everybody(quota).with_cost(cost))
        });
        let app = app(layer);
        let least = quotas.iter().map(Quota::limit).min().unwrap();
        let mut denials = 0;
        while denials < 5 {
            clock.advance(Duration::from_micros(rng.random_range(0..3_000_000)));
            let path = format!("/?{}", rng.random_range(1..=least));
            let answer = get_path(&app, &path).await;
            if answer.status() == 200 {
                continue;
            }
            denials += 1;
            let seconds: u64 = header(&answer, "retry-after").parse().unwrap();
            for t in header(&answer, "ratelimit").split(";t=").skip(1) {
                let t: u64 = t.split(',').next().unwrap().parse().unwrap();
                assert!(t <= seconds, "SEED={} round {round}", seed());
            }
            clock.advance(Duration::from_secs(seconds));
            let status = get_path(&app, &path).await.status();
            assert_eq!(status, 200, "SEED={} round {round} {quotas:?}", seed());
        }
    }
}

#[tokio::test]
async fn a_shadow_refuses_nobody_and_is_not_told() {
    let (_, limits) = embedded();
    let layer = LimitLayer::new(limits)
        .with_limit(everybody(window(1, "trial").with_shadow(true)))
        .with_limit(everybody(window(100, "real")));
    let app = app(layer);
    for left in (95..100).rev() {
        let answer = get_path(&app, "/").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(header(&answer, "ratelimit-policy"), r#""real";q=100;w=60"#);
        assert_eq!(header(&answer, "ratelimit"), format!(r#""real";r={left};t=60"#));
    }
}

#[tokio::test]
async fn failed_requests_are_given_back_and_told_so() {
    for tenant in [true, false] {
        let (clock, limits) = embedded();
        let mut layer = LimitLayer::new(limits)
            .with_limit(everybody(window(2, "a")))
            .with_limit(everybody(window(9, "b")).with_cost(|_| 3))
            .with_refund_on(|status| status.is_server_error());
        if tenant {
            layer = layer.with_tenant(Key::everybody());
        }
        let app = app(layer);
        for _ in 0..5 {
            let failed = get_path(&app, "/500").await;
            assert_eq!(failed.status(), 500);
            assert_eq!(header(&failed, "ratelimit"), r#""a";r=2;t=60,"b";r=9;t=60"#);
        }
        assert_eq!(get_path(&app, "/404").await.status(), 404);
        clock.advance(Duration::from_millis(1));
        let answer = get_path(&app, "/200").await;
        assert_eq!(header(&answer, "ratelimit"), r#""a";r=0;t=60,"b";r=3;t=60"#);
        assert_eq!(get_path(&app, "/500").await.status(), 429);
    }
}

#[tokio::test]
async fn handlers_see_what_every_layer_decided() {
    async fn handler(limited: Limited) -> String {
        let each = limited.each().map(|(name, decision)| format!("{name} {}", decision.remaining));
        assert!(limited.named("none").is_none() && !limited.is_unknown());
        format!("{} {limited:?}", each.collect::<Vec<_>>().join(", "))
    }
    async fn unlimited(limited: Option<Limited>) -> String {
        format!("{}", limited.is_some())
    }
    let (_, limits) = embedded();
    let layer = |name, limit| {
        let secret = Key::new("user", |_| Some("secret".to_owned()));
        LimitLayer::new(limits.clone()).with_limit(Limit::new(secret, window(limit, name)))
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(layer("inner", 5))
        .layer(layer("outer", 9))
        .route("/none", get(handler))
        .route("/maybe", get(unlimited));
    let answer = get_path(&app, "/").await;
    let told: Vec<_> = answer.headers().get_all("ratelimit").iter().collect();
    assert_eq!(told, [r#""inner";r=4;t=60"#, r#""outer";r=8;t=60"#]);
    let body = text(answer).await;
    assert_eq!(body, "outer 8, inner 4 {\"outer\": 1 of 9, \"inner\": 1 of 5}");
    assert_eq!(get_path(&app, "/none").await.status(), 500);
    assert_eq!(text(get_path(&app, "/maybe").await).await, "false");
}

#[tokio::test]
async fn rules_are_asked_by_user_company_and_endpoint() {
    let (_, limits) = embedded();
    let rules = Rules::new()
        .user_default(Quota::sliding_window(2, MINUTE))
        .company("search", window(3, "search"))
        .endpoint("/search", window(9, "search"))
        .everybody("/search", Quota::sliding_window(4, MINUTE))
        .split();
    let rules = limits.with_rules(rules).unwrap();
    let text_of = |parts: &http::request::Parts, name| {
        parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
    };
    let layer = LimitLayer::new(limits)
        .with_rules(rules, move |parts| {
            (parts.uri.path() != "/health").then(|| {
                Asked::new("search")
                    .with_user(text_of(parts, USER).unwrap_or_default())
                    .with_company(text_of(parts, COMPANY).unwrap_or_default())
                    .with_endpoint(parts.uri.path())
            })
        })
        .with_limit(Limit::new(Key::header(COMPANY), window(5, "search")));
    let app = app(layer);
    let from = async |user: &str, company: &str| {
        ask(&app, Request::get("/search").header(USER, user).header(COMPANY, company)).await
    };

    let answer = from("a", "acme").await;
    let policies = header(&answer, "ratelimit-policy");
    let names: Vec<_> = policies.split(',').map(|item| item.split(';').next().unwrap()).collect();
    let expected = ["\"user\"", "\"search-2\"", "\"search-3\"", "\"everybody\"", "\"search\""];
    assert_eq!(names, expected);
    assert_eq!(from("a", "acme").await.status(), 200);
    let denied = from("a", "acme").await;
    assert!(text(denied).await.contains("\"violated-policies\":[\"user\"]"));
    assert_eq!(from("b", "acme").await.status(), 200);
    let denied = from("b", "acme").await;
    assert!(text(denied).await.contains("\"violated-policies\":[\"search-2\"]"));
    // Of everybody's four one is left; then the company's rules are given back what they took.
    assert_eq!(from("a", "other").await.status(), 200);
    for _ in 0..3 {
        let denied = from("a", "third").await;
        assert!(header(&denied, "ratelimit").contains("\"user\";r=2"));
        assert!(text(denied).await.contains("\"violated-policies\":[\"everybody\"]"));
    }
    let health = get_path(&app, "/health").await;
    assert!(health.status() == 200 && !health.headers().contains_key("ratelimit"));
}

#[tokio::test]
async fn rules_are_given_back_what_they_took_if_a_limit_denies() {
    let (_, limits) = embedded();
    let rules = limits.with_rules(Rules::new().user_default(window(9, "rule"))).unwrap();
    let layer = LimitLayer::new(limits)
        .with_rules(rules, |_| Some(Asked::new("any").with_user("a".repeat(1000))))
        .with_limit(everybody(window(1, "limit")));
    let app = app(layer);
    let answer = get_path(&app, "/").await;
    assert_eq!(header(&answer, "ratelimit"), r#""rule";r=8;t=60,"limit";r=0;t=60"#);
    for _ in 0..20 {
        let denied = get_path(&app, "/").await;
        assert_eq!(denied.status(), 429);
        assert_eq!(header(&denied, "ratelimit"), r#""rule";r=8,"limit";r=0;t=60"#);
    }
}

#[tokio::test]
async fn addresses_come_from_the_connection() {
    let (_, limits) = embedded();
    let app = app(LimitLayer::new(limits).with_limit(Limit::new(ClientIp::new(), window(1, "ip"))));
    let from = async |address: &str| {
        let address: SocketAddr = address.parse().unwrap();
        ask(&app, Request::get("/").extension(ConnectInfo(address))).await.status().as_u16()
    };
    for (address, status) in [
        ("192.0.2.1:1", 200),
        ("192.0.2.1:2", 429),
        ("[::ffff:192.0.2.1]:3", 429),
        ("192.0.2.2:1", 200),
        ("[2001:db8:0:100::1]:1", 200),
        ("[2001:db8:0:1ff:f::1]:1", 429),
        ("[2001:db8:0:200::1]:1", 200),
    ] {
        assert_eq!(from(address).await, status, "{address}");
    }
    let peer = PeerAddr("192.0.2.1:9".parse().unwrap());
    let other = ConnectInfo(SocketAddr::from(([192, 0, 2, 9], 1)));
    let both = Request::get("/").extension(peer).extension(other);
    assert_eq!(ask(&app, both).await.status(), 429, "ours goes first");
}

#[tokio::test]
async fn a_forged_header_is_no_way_around_a_limit() {
    let (_, limits) = embedded();
    let key = ClientIp::new().with_trusted_hops(1);
    let app = app(LimitLayer::new(limits).with_limit(Limit::new(key, window(1, "ip"))));
    let mut statuses = Vec::new();
    for n in 0..5 {
        let proxy = PeerAddr("10.0.0.1:1".parse().unwrap());
        let forged = format!("203.0.113.{n}, 192.0.2.1");
        let request = Request::get("/").extension(proxy).header("X-Forwarded-For", forged);
        statuses.push(ask(&app, request).await.status().as_u16());
    }
    assert_eq!(statuses, [200, 429, 429, 429, 429]);
}

#[tokio::test]
async fn a_server_that_does_not_know_addresses_is_told_so_and_not_left_unlimited() {
    let (_, limits) = embedded();
    let layer = LimitLayer::new(limits).with_limit(Limit::new(ClientIp::new(), window(1, "ip")));
    let answer = get_path(&app(layer), "/").await;
    assert_eq!(answer.status(), 500);
    let body = r#"{"type":"about:blank","title":"Internal Server Error","status":500}"#;
    assert_eq!(text(answer).await, body);
}

#[tokio::test]
async fn a_route_is_one_key_and_its_paths_are_many() {
    for (key, status) in [(Key::route(), 429), (Key::path(), 200)] {
        let (_, limits) = embedded();
        let layer = LimitLayer::new(limits).with_limit(Limit::new(key, window(1, "a")));
        let app = Router::new().route("/users/{id}", get(async || ())).layer(layer);
        assert_eq!(get_path(&app, "/users/1").await.status(), 200);
        assert_eq!(get_path(&app, "/users/2").await.status(), status);
    }
}

#[tokio::test]
async fn nobody_is_named_in_an_answer() {
    let (_, limits) = embedded();
    let layer = LimitLayer::new(limits)
        .with_tenant(Key::header(COMPANY))
        .with_limit(Limit::new(Key::header(USER), window(1, "a")));
    let shown = format!("{layer:?}");
    let app = app(layer);
    for _ in 0..2 {
        let request = Request::get("/").header(USER, "mallory").header(COMPANY, "acme");
        let answer = ask(&app, request).await;
        let headers = format!("{:?}", answer.headers());
        let told = format!("{shown} {headers} {}", text(answer).await);
        assert!(!told.contains("mallory") && !told.contains("acme"), "{told}");
    }
}

#[tokio::test]
async fn quotas_that_cannot_be_asked_are_the_servers_fault() {
    let (_, limits) = embedded();
    let slots = Quota::concurrency(1, SECOND);
    let layer = LimitLayer::new(limits).with_limit(everybody(slots));
    assert!(layer.validate().is_err());
    let app: Router = Router::new().route("/", get(async || ())).layer(layer);
    assert_eq!(get_path(&app, "/").await.status(), 500);
}

#[tokio::test]
async fn what_the_service_says_of_coming_back_stays() {
    let (_, limits) = embedded();
    let layer = LimitLayer::new(limits).with_limit(everybody(window(9, "a")));
    let busy = async || ([(RETRY_AFTER, "5")], StatusCode::SERVICE_UNAVAILABLE).into_response();
    let app: Router = Router::new().route("/", get(busy)).layer(layer);
    let answer = get_path(&app, "/").await;
    assert_eq!((answer.status().as_u16(), header(&answer, "retry-after")), (503, "5"));
    assert_eq!(header(&answer, "ratelimit"), r#""a";r=8"#, "no t that is later");
}
