//! The layer over tower alone: which service is called, and what becomes of its errors and bodies.

use bytes::Bytes;
use coordinator::ratelimit::{Quota, RateLimiter};
use coordinator_web::limits::{Key, Limit, LimitLayer, LimitService};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use std::{
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tower::{Layer as _, Service, ServiceExt as _};

/// A service that must say that it is ready before each call; a copy has not said so. The path
/// `/fail` is an error.
#[derive(Debug, Default)]
struct Strict {
    ready: bool,
    calls: Arc<AtomicU32>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { ready: false, calls: self.calls.clone() }
    }
}

impl Service<Request<()>> for Strict {
    type Response = Response<Full<Bytes>>;
    type Error = &'static str;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without being ready");
        self.calls.fetch_add(1, Ordering::Relaxed);
        ready(match request.uri().path() {
            "/fail" => Err("failed"),
            _ => Ok(Response::new(Full::from("hello"))),
        })
    }
}

fn service(limit: u64) -> (LimitService<Strict>, Arc<AtomicU32>) {
    let quota = Quota::sliding_window(limit, Duration::from_mins(1));
    let layer = LimitLayer::new(RateLimiter::embedded())
        .with_limit(Limit::new(Key::everybody(), quota))
        .with_refund_on(|_| false);
    let strict = Strict::default();
    let calls = strict.calls.clone();
    (layer.layer(strict), calls)
}

fn request(path: &str) -> Request<()> {
    Request::get(path).body(()).expect("a request")
}

#[tokio::test]
async fn the_service_that_is_ready_is_the_one_that_is_called() {
    let (mut service, calls) = service(100);
    for n in 1..4 {
        let answer = service.ready().await.unwrap().call(request("/")).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
        assert_eq!(calls.load(Ordering::Relaxed), n);
    }
    // Calls that overlap, and clones between them.
    let first = service.ready().await.unwrap().call(request("/"));
    let mut copy = service.clone();
    let second = copy.ready().await.unwrap().call(request("/"));
    let third = service.ready().await.unwrap().call(request("/"));
    for answer in [third, second, first] {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 6);
}

#[tokio::test]
async fn a_refused_request_never_reaches_the_service() {
    let (service, calls) = service(1);
    assert_eq!(service.clone().oneshot(request("/")).await.unwrap().status(), 200);
    let refused = service.oneshot(request("/")).await.unwrap();
    assert_eq!(refused.status(), 429);
    assert!(!refused.into_body().collect().await.unwrap().to_bytes().is_empty());
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_error_of_the_service_stays_one() {
    let (service, _) = service(9);
    assert_eq!(service.oneshot(request("/fail")).await.unwrap_err(), "failed");
}
