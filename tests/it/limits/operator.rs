//! What operators ask of the limits that a request has.

use super::{MINUTE, Stage};
use coordinator_core::ErrorKind;
use coordinator_ratelimit::{Quota, Request, RuledLimiter, Rules, Scope};

on_every_backend! {
    the_limits_of_a_request_are_told
    the_limits_of_a_request_are_reset
    the_limits_of_a_request_are_penalized
}

const SCOPES: [Scope; 4] = [Scope::User, Scope::Company, Scope::Endpoint, Scope::Everybody];

fn ruled(x: &Stage) -> RuledLimiter {
    let rules = Rules::new()
        .user_default(Quota::sliding_window(3, MINUTE))
        .company("search", Quota::fixed_window(10, MINUTE))
        .endpoint("/v1/search", Quota::gcra(20, MINUTE, 20))
        .everybody("/v1/search", Quota::sliding_window(30, MINUTE))
        .split();
    x.limits.with_rules(rules).expect("rules")
}

fn by(user: &str) -> Request<'_> {
    Request::new("search").with_user(user).with_company("acme").with_endpoint("/v1/search")
}

async fn used(limits: &RuledLimiter, request: &Request<'_>) -> Vec<(Scope, u64)> {
    let each = sent(limits.status(request)).await.expect("an answer");
    each.into_iter().map(|(scope, status)| (scope, status.used)).collect()
}

fn each(used: [u64; 4]) -> Vec<(Scope, u64)> {
    SCOPES.into_iter().zip(used).collect()
}

async fn the_limits_of_a_request_are_told(x: Stage) {
    let limits = ruled(&x);
    for user in ["a", "a", "b"] {
        assert!(limits.check(&by(user)).await.expect("an answer").allowed);
    }
    assert_eq!(used(&limits, &by("a")).await, each([2, 3, 3, 3]));
    // Its cost and its id do not matter, and a look takes nothing.
    let other = by("b").with_cost(9).with_id("id");
    assert_eq!(used(&limits, &other).await, each([1, 3, 3, 3]));
    assert!(!limits.check(&by("a").with_cost(2)).await.expect("an answer").allowed);
    let status = limits.status(&by("a")).await.expect("an answer");
    let limit: Vec<_> = status.iter().map(|(_, status)| status.limit).collect();
    assert_eq!(limit, [3, 10, 20, 30]);
    assert_eq!(status[0].1.denials, 1);
    // Who names less has fewer limits.
    let request = Request::new("search").with_company("acme");
    assert_eq!(used(&limits, &request).await, [(Scope::Company, 3)]);
    assert_eq!(used(&limits, &Request::new("search")).await, []);
    let long = "x".repeat(600);
    let error = limits.status(&by(&long)).await.expect_err("it is too long");
    assert_eq!(error.kind(), ErrorKind::Misuse);
}

/// A web framework may ask them.
fn sent<F: Future + Send>(asked: F) -> F {
    asked
}

async fn the_limits_of_a_request_are_reset(x: Stage) {
    let limits = ruled(&x);
    for user in ["a", "a", "a", "b"] {
        assert!(limits.check(&by(user)).await.expect("an answer").allowed);
    }
    assert!(!limits.check(&by("a")).await.expect("an answer").allowed);
    let request = Request::new("search").with_user("a").with_company("acme");
    let reset = sent(limits.reset(&request)).await.expect("an answer");
    assert_eq!(reset, [(Scope::User, 3), (Scope::Company, 4)]);
    // What it has not named stays, and so does another user's.
    assert_eq!(used(&limits, &by("a")).await, each([0, 0, 4, 4]));
    assert_eq!(used(&limits, &by("b")).await, each([1, 0, 4, 4]));
    assert!(limits.check(&by("a")).await.expect("an answer").allowed, "its denial is forgotten");
    assert_eq!(limits.reset(&by("a")).await.expect("an answer"), each([1, 1, 5, 5]));
    assert_eq!(used(&limits, &by("a")).await, each([0; 4]));
}

async fn the_limits_of_a_request_are_penalized(x: Stage) {
    let limits = ruled(&x);
    let request = by("a").with_cost(2).with_id("id");
    for units in [5, 10] {
        let charged = sent(limits.penalize(&request, 5)).await.expect("an answer");
        let charged: Vec<_> = charged.iter().map(|(scope, now)| (*scope, now.used)).collect();
        assert_eq!(charged, each([units; 4]));
    }
    let denied = limits.check(&by("a")).await.expect("an answer");
    let denied: Vec<_> = denied.denied().map(|(scope, _)| scope).collect();
    assert_eq!(denied, [Scope::User, Scope::Company]);
    let nothing = limits.penalize(&request, 0).await.expect("an answer");
    assert_eq!(nothing.len(), 4);
    assert_eq!(used(&limits, &by("b")).await, each([0, 10, 10, 10]));
    let error = limits.penalize(&request, u64::MAX).await.expect_err("too much");
    assert_eq!(error.kind(), ErrorKind::Misuse);
}
