//! Requests and replies that get lost, late or repeated; callers that walk away.

use super::{SECOND, Scene, TIMEOUT, background, now, scene, sha, take, waited_for};
use crate::topology::{LEAST, server};
use coordinator_core::{ErrorKind, redis::Connection};
use coordinator_harness::{Proxy, Rule, eventually};
use coordinator_locks::{FenceCheck, Locks, LossReason, Release, Renew};
use std::time::Duration;

/// Plays acquire, renew and release while one request or reply of one step gets lost.
async fn swallowed(step: &str, lose: impl Fn(Rule) -> Rule) {
    let Scene { server: _server, proxy, locks, truth } = scene().await;
    proxy.rule(lose(Rule::script(sha(step)).nth(1)));
    let guard = take(&locks, "a").await;
    let held = truth.show("a").await.expect("an answer").expect("is held");
    assert_eq!(held.holder.fence, guard.fence(), "{step}: another fence");
    // A renewal that fails ends nothing: the next one finds the lock.
    let mut renewed = guard.renew().await;
    if renewed.is_err() {
        assert!(guard.is_valid(), "{step}: a failed renewal ended the lease");
        eventually(SECOND * 5, "renewing works again", async || {
            renewed = guard.renew().await;
            renewed.is_ok()
        })
        .await;
    }
    assert_eq!(renewed.expect("an answer"), Renew::Renewed, "{step}");
    match guard.release().await {
        Ok(released) => assert_eq!(released, Release::Released, "{step}"),
        Err(error) => assert!(error.is_retryable(), "{step}: {}", error.chain()),
    }
    eventually(SECOND * 5, "the lock is free", async || {
        truth.show("a").await.expect("an answer").is_none()
    })
    .await;
    let next = take(&truth, "a").await;
    assert!(next.fence() > held.holder.fence, "{step}");
    // Whatever arrives late touches the successor no more.
    assert!(locks.close(SECOND * 10).await, "{step}: something is left to give up");
    assert_eq!(next.release().await.expect("an answer"), Release::Released, "{step}");
}

#[tokio::test]
async fn a_lost_request_or_reply_of_acquire_is_asked_for_again() {
    swallowed("locks.acquire", |rule| rule.on_request().cut()).await;
    swallowed("locks.acquire", |rule| rule.on_reply().cut()).await;
    swallowed("locks.acquire", |rule| rule.on_request().drop_frame()).await;
    swallowed("locks.acquire", |rule| rule.on_reply().drop_frame()).await;
}

#[tokio::test]
async fn a_lost_request_or_reply_of_renew_ends_nothing() {
    swallowed("locks.renew", |rule| rule.on_request().cut()).await;
    swallowed("locks.renew", |rule| rule.on_reply().cut()).await;
    swallowed("locks.renew", |rule| rule.on_request().drop_frame()).await;
    swallowed("locks.renew", |rule| rule.on_reply().drop_frame()).await;
}

#[tokio::test]
async fn a_lost_request_or_reply_of_release_is_repeated() {
    swallowed("locks.release", |rule| rule.on_request().cut()).await;
    swallowed("locks.release", |rule| rule.on_reply().cut()).await;
    swallowed("locks.release", |rule| rule.on_request().drop_frame()).await;
    swallowed("locks.release", |rule| rule.on_reply().drop_frame()).await;
}

#[tokio::test]
async fn the_watchdog_survives_a_lost_reply() {
    let Scene { server: _server, proxy, locks, truth } = scene().await;
    let lost = proxy.rule(Rule::script(sha("locks.renew")).nth(1).on_reply().cut());
    let lock = locks.named("a").with_ttl(SECOND * 3);
    let guard = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    lost.wait_hit().await;
    let first = guard.deadline();
    eventually(SECOND * 3, "a later renewal worked", async || guard.deadline() > first).await;
    assert!(guard.is_valid());
    assert!(truth.try_acquire("a").await.expect("an answer").is_none());
}

#[tokio::test]
async fn a_short_lease_survives_a_silent_link_at_its_renewal() {
    // A single command may take as long as two thirds of this lease.
    let server = server().await;
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let config = crate::stage::config(&proxy.url());
    let locks = Locks::redis(&Connection::connect(config).await.expect("a connection"));
    drop(take(&locks, "warm").await);
    let stalled = proxy.rule(Rule::script(sha("locks.renew")).nth(1).on_reply().hold());
    let lock = locks.named("a").with_ttl(SECOND * 3);
    let guard = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    let first = guard.deadline();
    stalled.wait_hit().await;
    // Held back behind it, the answers of later renewals come when it is let go.
    tokio::time::timeout(SECOND * 5, async {
        while proxy.commands_seen("EVALSHA") + proxy.commands_seen("EVAL") < 5 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it is tried again inside the lease");
    stalled.let_go();
    eventually(SECOND * 3, "a later renewal worked", async || guard.deadline() > first).await;
    assert!(guard.is_valid());
}

#[tokio::test]
async fn a_wait_that_ends_in_the_middle_of_a_look_is_held_not_unknown() {
    let Scene { server: _server, proxy, locks, truth } = scene().await;
    proxy.delay_replies(Duration::from_millis(20));
    let busy = background(async move {
        loop {
            let guard = take(&truth, "a").await;
            tokio::time::sleep(Duration::from_millis(3)).await;
            guard.release().await.expect("an answer");
        }
    });
    let mut timed_out = 0;
    for wait in 0..40 {
        let lock = locks.named("a").with_wait(TIMEOUT + Duration::from_millis(20 + wait));
        // Never an error: the server is well all the time.
        match lock.acquire().await.expect("an answer").acquired() {
            Ok(guard) => drop(guard),
            Err(_) => timed_out += 1,
        }
    }
    busy.abort();
    assert!(timed_out < 40);
}

#[tokio::test]
async fn an_attempt_that_was_unknown_is_cleaned_up_after_a_later_refusal() {
    let Scene { server, proxy, locks, truth } = scene().await;
    let holder = take(&truth, "a").await;
    let stalled = proxy.rule(Rule::script(sha("locks.acquire")).nth(1).on_request().hold());
    let waiting = {
        let lock = locks.named("a").with_wait(SECOND * 9);
        background(async move { lock.acquire().await.map(|_| ()) })
    };
    stalled.wait_hit().await;
    waited_for(&truth, "a").await;
    waiting.abort();
    eventually(SECOND * 10, "the tombstone stands", async || {
        let graves = server.command(&["KEYS", "*:gone:*"]).await.expect("an answer");
        graves.as_array().is_some_and(|graves| !graves.is_empty())
    })
    .await;
    holder.release().await.expect("an answer");
    stalled.let_go();
    assert!(locks.close(SECOND * 10).await);
    eventually(SECOND * 5, "the stalled link is gone", async || {
        truth.show("a").await.expect("an answer").is_none()
    })
    .await;
    assert!(truth.try_acquire("a").await.expect("an answer").is_some());
}

/// Drops a thousand acquires after 1 to 120 ms and counts what they left behind.
async fn abandoned(scene: Scene) {
    let Scene { server: _server, proxy: _proxy, locks, truth } = scene;
    let mut batch = Vec::new();
    for number in 0..1000_u64 {
        let locks = locks.clone();
        batch.push(background(async move {
            let name = format!("n{number}");
            let impatience = Duration::from_millis(1 + number % 120);
            let acquiring = locks.acquire(&name);
            // Those that were answered in time are dropped as guards.
            tokio::time::timeout(impatience, acquiring).await.is_ok()
        }));
        if batch.len() == 125 {
            for dropped in batch.drain(..) {
                dropped.await.expect("no panic");
            }
        }
    }
    assert!(locks.close(SECOND * 20).await, "something is left to give up");
    // Acquires that were still on their way have arrived by now, behind their own clean-up.
    let orphans = truth.list().await.expect("an answer");
    assert_eq!(orphans.len(), 0, "orphans: {orphans:?}");
}

#[tokio::test]
async fn dropped_acquires_leave_no_orphan_when_replies_are_late() {
    let scene = scene().await;
    scene.proxy.delay_replies(Duration::from_millis(100));
    abandoned(scene).await;
}

#[tokio::test]
async fn dropped_acquires_leave_no_orphan_when_requests_are_late() {
    let scene = scene().await;
    scene.proxy.delay_requests(Duration::from_millis(100));
    abandoned(scene).await;
}

#[tokio::test]
async fn an_acquire_that_arrives_after_its_own_clean_up_obtains_nothing() {
    let Scene { server, proxy, locks, truth } = scene().await;
    let stalled = proxy.rule(Rule::script(sha("locks.acquire")).nth(1).on_request().hold());
    let acquiring = {
        let lock = locks.named("a").with_wait(Duration::ZERO);
        background(async move { lock.acquire().await.map(|_| ()) })
    };
    stalled.wait_hit().await;
    let error = acquiring.await.expect("no panic").expect_err("no answer");
    assert_eq!(error.kind(), ErrorKind::Indeterminate);
    // The clean-up is stuck behind it on the same link: only a new link lets it through.
    eventually(SECOND * 10, "the tombstone stands", async || {
        let graves = server.command(&["KEYS", "*:gone:*"]).await.expect("an answer");
        graves.as_array().is_some_and(|graves| !graves.is_empty())
    })
    .await;
    stalled.let_go();
    let acquires = server.calls_of("evalsha").await;
    eventually(SECOND * 5, "the stalled acquire arrived", async || {
        server.calls_of("evalsha").await > acquires || proxy.connections() == 1
    })
    .await;
    assert!(truth.show("a").await.expect("an answer").is_none(), "it landed after its clean-up");
}

#[tokio::test]
async fn uncontended_steps_take_one_round_trip_each() {
    let Scene { server, locks, proxy: _proxy, .. } = scene().await;
    let lock = locks.named("a").with_watchdog(false);
    let before = server.calls_of("evalsha").await;
    let guard = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    assert_eq!(server.calls_of("evalsha").await - before, 1, "acquire");
    guard.renew().await.expect("an answer");
    assert_eq!(server.calls_of("evalsha").await - before, 2, "renew");
    guard.release().await.expect("an answer");
    assert_eq!(server.calls_of("evalsha").await - before, 3, "release");
    assert_eq!(server.calls_of("eval").await, 0);
}

#[tokio::test]
async fn held_and_down_and_lost_are_three_answers() {
    let Scene { server, locks, truth, proxy: _proxy, .. } = scene().await;
    let lock = locks.named("a").with_ttl(SECOND).with_watchdog(false);
    let guard = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    assert!(truth.try_acquire("a").await.expect("held is no error").is_none());
    server.pause().expect("a pause");
    let before = now();
    let error = truth.named("b").with_wait(TIMEOUT).acquire().await.expect_err("is silent");
    assert!(error.is_retryable());
    // The truth has the default timeout of two seconds.
    assert!(before.elapsed() < SECOND * 3 + TIMEOUT, "{:?}", before.elapsed());
    assert_eq!(guard.lost().await, LossReason::Expired);
    server.resume().expect("a resume");
}

#[tokio::test]
async fn every_call_returns_by_its_deadline_on_a_silent_link() {
    let Scene { server: _server, proxy, locks, .. } = scene().await;
    let held = take(&locks, "held").await;
    proxy.black_hole(true);
    for wait in [Duration::ZERO, TIMEOUT / 2, TIMEOUT * 3] {
        let before = now();
        let error = locks.named("a").with_wait(wait).acquire().await.expect_err("no answer");
        assert!(error.is_retryable(), "{}", error.chain());
        let limit = wait.max(TIMEOUT) + Duration::from_millis(200);
        assert!(before.elapsed() < limit, "{wait:?} took {:?}", before.elapsed());
    }
    let before = now();
    assert!(held.release().await.is_err());
    assert!(before.elapsed() < TIMEOUT * 2 + Duration::from_millis(200), "{:?}", before.elapsed());
}

#[tokio::test]
async fn all_who_wait_in_line_are_told_that_the_server_is_down() {
    let Scene { server, proxy: _proxy, locks, .. } = scene().await;
    server.kill().await;
    let lock = locks.named("a").with_wait(SECOND);
    let before = now();
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            let lock = lock.clone();
            background(async move { lock.acquire().await })
        })
        .collect();
    for waiter in waiters {
        let error = waiter.await.expect("no panic").expect_err("is down");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    }
    assert!(before.elapsed() < SECOND + Duration::from_millis(200), "{:?}", before.elapsed());
}

#[tokio::test]
async fn locks_work_under_least_privilege() {
    let server = server().await;
    let mut rules = vec!["ACL", "SETUSER", "app", "reset", "on", ">pw"];
    rules.extend(LEAST.split_whitespace());
    server.command(&rules).await.expect("an answer").ok().expect("a user");
    let url = server.url().replace("redis://", "redis://app:pw@");
    let config = crate::stage::config(&url).with_prefix("app").expect("a prefix");
    let locks = Locks::redis(&Connection::connect(config).await.expect("a connection"));
    let guard = take(&locks, "a").await;
    assert_eq!(guard.renew().await.expect("an answer"), Renew::Renewed);
    let peer = locks.clone();
    let waiting = background(async move { take(&peer, "a").await });
    waited_for(&locks, "a").await;
    assert_eq!(guard.release().await.expect("an answer"), Release::Released);
    let next = waiting.await.expect("no panic");
    let register = locks.fence_register();
    let admitted = register.check("a", next.fence(), next.id()).await.expect("an answer");
    assert!(admitted.is_admitted());
    assert_eq!(locks.list().await.expect("an answer").len(), 1);
    assert!(locks.force_release("a", "a test").await.expect("an answer").is_some());
}
