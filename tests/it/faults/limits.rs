//! Rate limits under faults: replies that get lost, links that are cut, and a server that does not
//! answer. Many processes at once are the crowd's.

use super::{SECOND, config, connect, now};
use crate::topology::server;
use coordinator_core::{ErrorKind, redis::Connection};
use coordinator_harness::{Proxy, RedisServer, Rule, eventually};
use coordinator_ratelimit::{Entrance, FailurePolicy, Quota, RateLimiter, SCRIPTS, Source};
use std::time::Duration;

const MINUTE: Duration = Duration::from_mins(1);

/// A server, a proxy before it, limits through the proxy, and limits that see the truth.
struct Scene {
    server: RedisServer,
    proxy: Proxy,
    limits: RateLimiter,
    truth: RateLimiter,
}

async fn scene() -> Scene {
    let server = server().await;
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let connection = connect(&proxy.url()).await;
    let prefix = connection.keyspace().prefix().to_owned();
    let theirs = config(&server.url()).with_prefix(&prefix).expect("a prefix");
    let theirs = Connection::connect(theirs).await.expect("a connection");
    // The scripts are known: a first EVALSHA would be two commands.
    for script in SCRIPTS {
        server.command(&["SCRIPT", "LOAD", script.source()]).await.expect("a script");
    }
    let limits = RateLimiter::redis(&connection).without_fast_deny();
    // Its policy's epoch is asked for first, with another script.
    let quota = Quota::sliding_window(1, MINUTE);
    limits.check("warm", &quota).await.expect("an answer");
    Scene { limits, truth: RateLimiter::redis(&theirs).without_fast_deny(), server, proxy }
}

fn sha(step: &str) -> &'static str {
    let script = SCRIPTS.iter().find(|script| script.name() == step);
    script.expect("a script of that name").hash()
}

#[tokio::test]
async fn a_call_whose_reply_is_lost_is_charged_once_by_its_id() {
    let quota = Quota::sliding_window(10, MINUTE);
    for lose in [
        |rule: Rule| rule.on_request().cut(),
        |rule: Rule| rule.on_reply().cut(),
        |rule: Rule| rule.on_request().drop_frame(),
        |rule: Rule| rule.on_reply().drop_frame(),
    ] {
        let Scene { proxy, limits, truth, server: _server } = scene().await;
        proxy.rule(lose(Rule::script(sha("ratelimit.take_all")).nth(1)));
        let once = limits.once("order-7").expect("an id");
        let (mut failures, mut answer) = (0, None);
        eventually(SECOND * 10, "an answer comes", async || {
            match once.check_cost("a", &quota, 3).await {
                Ok(decision) => answer = Some(decision),
                Err(error) => assert!(error.is_retryable(), "{}", error.chain()),
            }
            failures += u32::from(answer.is_none());
            answer.is_some()
        })
        .await;
        assert!(failures > 0, "nothing was lost");
        let decision = answer.expect("an answer");
        assert!(decision.allowed && decision.used == 3);
        assert_eq!(truth.status("a", &quota).await.expect("an answer").used, 3);
        // It can be given back by whoever was told last.
        assert_eq!(limits.refund(&decision).await.expect("an answer"), 3);
        assert_eq!(truth.status("a", &quota).await.expect("an answer").used, 0);
    }
}

#[tokio::test]
async fn a_call_without_an_id_is_sent_once() {
    let quota = Quota::sliding_window(10, MINUTE);
    let Scene { proxy, limits, truth, server: _server } = scene().await;
    limits.check("a", &quota).await.expect("an answer");
    let lost = proxy.rule(Rule::script(sha("ratelimit.take")).nth(1).on_reply().cut());
    let error = limits.check("a", &quota).await.expect_err("no answer");
    assert_eq!(error.kind(), ErrorKind::Indeterminate, "{}", error.chain());
    lost.wait_hit().await;
    eventually(SECOND * 5, "the link is back", async || limits.peek("a", &quota).await.is_ok())
        .await;
    assert_eq!(truth.status("a", &quota).await.expect("an answer").used, 2);
}

#[tokio::test]
async fn while_nobody_answers_the_limits_own_policy_decides_in_time() {
    let Scene { limits, server, proxy: _proxy, .. } = scene().await;
    let budget = Duration::from_millis(50);
    let quota = Quota::sliding_window(5, MINUTE).with_budget(budget);
    let of = |policy| quota.clone().with_failure_policy(policy);
    limits.check("a", &quota).await.expect("an answer");
    server.pause().expect("it stops");
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        for (policy, allowed) in [(FailurePolicy::Open, true), (FailurePolicy::Closed, false)] {
            let asked = now();
            let decision = limits.check("a", &of(policy)).await.expect("a policy");
            slowest = slowest.max(asked.elapsed());
            assert_eq!((decision.allowed, decision.source), (allowed, Source::Fallback));
            assert!(!decision.never_fits());
        }
    }
    // A machine under load may be late by itself; the benchmark tells how late.
    assert!(slowest < budget + Duration::from_millis(250), "{slowest:?}");
    let error = limits.check("b", &quota).await.expect_err("no policy");
    assert!(error.is_retryable(), "{}", error.chain());
    server.resume().expect("it goes on");
    eventually(SECOND * 5, "the server decides again", async || {
        let decision = limits.check("c", &of(FailurePolicy::Open)).await.expect("an answer");
        decision.source == Source::Redis
    })
    .await;
}

#[tokio::test]
async fn after_some_failures_nobody_waits_for_the_budget() {
    let Scene { limits, server, proxy: _proxy, .. } = scene().await;
    let quota = Quota::sliding_window(5, MINUTE)
        .with_budget(Duration::from_millis(200))
        .with_failure_policy(FailurePolicy::Open);
    limits.check("a", &quota).await.expect("an answer");
    server.pause().expect("it stops");
    for _ in 0..3 {
        limits.check("a", &quota).await.expect("a policy");
    }
    let asked = now();
    for _ in 0..100 {
        assert!(limits.check("a", &quota).await.expect("a policy").allowed);
    }
    // Two of them may have looked whether anybody answers.
    assert!(asked.elapsed() < SECOND, "{:?}", asked.elapsed());
    server.resume().expect("it goes on");
}

#[tokio::test]
async fn a_local_share_knows_what_was_allowed_before() {
    let Scene { limits, server, proxy: _proxy, .. } = scene().await;
    let quota = Quota::sliding_window(10, MINUTE)
        .with_budget(Duration::from_millis(50))
        .with_failure_policy(FailurePolicy::Local { share: 0.5 });
    for _ in 0..3 {
        // A machine under load may need longer.
        let patient = quota.clone().with_budget(SECOND * 5);
        let decision = limits.check("a", &patient).await.expect("an answer");
        assert!(decision.allowed && decision.source == Source::Redis);
    }
    server.pause().expect("it stops");
    let mut allowed = 0;
    for _ in 0..10 {
        let decision = limits.check("a", &quota).await.expect("a policy");
        assert_eq!(decision.source, Source::Fallback);
        allowed += u32::from(decision.allowed);
    }
    assert_eq!(allowed, 2, "three of five were used up before");
    server.resume().expect("it goes on");
}

#[tokio::test]
async fn the_slot_of_a_machine_without_power_is_free_after_a_lease() {
    let Scene { limits, truth, proxy, server: _server } = scene().await;
    let lease = SECOND * 2;
    let quota = Quota::concurrency(1, lease);
    let slot = limits.enter("a", &quota).await.expect("an answer").slot().expect("a slot");
    // It is prolonged for as long as its holder lives.
    tokio::time::sleep(lease + SECOND).await;
    let full = truth.enter("a", &quota).await.expect("an answer");
    assert!(slot.is_valid() && matches!(full, Entrance::Full(_)));
    proxy.black_hole(true);
    let gone = now();
    let mut entered = None;
    eventually(SECOND * 10, "it is free", async || {
        entered = truth.enter("a", &quota).await.expect("an answer").slot();
        entered.is_some()
    })
    .await;
    assert!(gone.elapsed() <= lease + SECOND / 4, "{:?}", gone.elapsed());
    // The holder knew no later.
    assert!(!slot.is_valid(), "two believe in one slot");
    tokio::time::timeout(SECOND * 5, slot.lost()).await.expect("it is told");
}
