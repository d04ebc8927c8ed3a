//! Rate limits: what they promise, on every backend, through the public API.

use crate::topology::Servers;
use coordinator_core::{ErrorKind, clock::ManualClock, redis::Connection};
use coordinator_harness::eventually;
use coordinator_ratelimit::{
    Charge, Entrance, Quota, RateLimiter, Request, Reserved, Rules, Scope, Source, ViolationKind,
};
use std::{sync::Arc, time::Duration};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

/// Limits on one backend, and a second client of the same ones.
struct Stage {
    limits: RateLimiter,
    /// What another process would be.
    peer: RateLimiter,
    clock: ManualClock,
    servers: Option<Servers>,
}

impl Stage {
    fn embedded() -> Self {
        let clock = ManualClock::new();
        let limits = RateLimiter::embedded_with_clock(Arc::new(clock.clone()));
        Self { peer: limits.peer(), limits, clock, servers: None }
    }

    async fn redis() -> Self {
        let servers = Servers::start().await;
        let clock = ManualClock::new();
        let config = servers.config().clone().with_clock(Arc::new(clock.clone()));
        let connect = || Connection::connect(config.clone());
        let limits = RateLimiter::redis(&connect().await.expect("a connection"));
        let peer = RateLimiter::redis(&connect().await.expect("a connection"));
        Self { limits, peer, clock, servers: Some(servers) }
    }

    /// Lets time pass, for the server and for its clients.
    async fn elapse(&self, by: Duration) {
        if let Some(servers) = &self.servers {
            servers.advance(by).await;
        }
        self.clock.advance(by);
        // Whoever slept until now has its turn.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

macro_rules! on_every_backend {
    ($($case:ident)*) => {
        mod embedded {
            $(#[tokio::test] async fn $case() { super::$case(super::Stage::embedded()).await; })*
        }
        mod redis {
            $(#[tokio::test] async fn $case() { super::$case(super::Stage::redis().await).await; })*
        }
    };
}

mod operator;
on_every_backend! {
    processes_share_a_limit
    a_changed_limit_keeps_what_was_consumed
    several_limits_of_a_tenant_are_one_call
    limits_without_a_tenant_are_refused_together
    limits_that_share_no_place_are_given_back
    a_repeated_call_counts_once
    a_look_and_a_status_take_nothing
    what_happened_already_is_counted
    a_penalty_goes_beyond_the_limit
    as_much_is_taken_as_fits
    a_reservation_is_settled_or_cancelled
    a_subject_is_reset_for_all
    a_policy_is_reset_for_all_within_a_second
    a_denial_is_repeated_without_asking
    who_waits_is_served_in_order_and_in_time
    waiting_ends_with_the_wait
    slots_are_held_and_given_back
    rules_ask_user_company_and_endpoint_at_once
    rules_change_and_keep_what_was_consumed
    rules_for_everybody_are_asked_last
    violations_are_read_and_ranked
    everybody_hears_of_a_violation_once
    an_alert_reaches_one_of_a_group
    hostile_subjects_never_collide
    bad_calls_are_misuse
}

async fn processes_share_a_limit(x: Stage) {
    let quota = Quota::sliding_window(3, MINUTE);
    for (limits, left) in [(&x.limits, 2), (&x.peer, 1), (&x.limits, 0)] {
        let decision = limits.check("a", &quota).await.expect("an answer");
        assert!(decision.allowed);
        assert_eq!((decision.remaining, decision.limit), (left, 3));
    }
    let denied = x.peer.check("a", &quota).await.expect("an answer");
    assert!(!denied.allowed && !denied.never_fits());
    let retry = denied.retry_after.expect("it fits later");
    assert!(retry > Duration::ZERO && retry <= MINUTE, "{retry:?}");
    let never = x.limits.check_cost("a", &quota, u64::MAX).await.expect("an answer");
    assert!(never.never_fits());
    let tenant = x.limits.tenant("acme").expect("a tenant");
    assert!(tenant.check("a", &quota).await.expect("an answer").allowed, "another subject");
}

async fn a_changed_limit_keeps_what_was_consumed(x: Stage) {
    let quota = Quota::sliding_window(100, MINUTE);
    x.limits.check_cost("a", &quota, 60).await.expect("an answer");
    for (limit, remaining) in [(200, 140), (50, 0), (100, 40)] {
        let changed = quota.clone().with_limit(limit);
        let seen = x.peer.status("a", &changed).await.expect("an answer");
        assert_eq!((seen.used, seen.remaining), (60, remaining), "{limit}");
    }
}

async fn several_limits_of_a_tenant_are_one_call(x: Stage) {
    let acme = x.limits.tenant("acme").expect("a tenant");
    let (user, company) = (Quota::sliding_window(2, MINUTE), Quota::gcra(1, MINUTE, 10));
    let charges = [Charge::new("u", &user), Charge::new("c", &company).with_cost(3)];
    for _ in 0..2 {
        assert!(acme.check_all(&charges).await.expect("an answer").allowed);
    }
    let denied = acme.check_all(&charges).await.expect("an answer");
    assert!(!denied.allowed);
    assert_eq!(denied.denied().map(|(n, _)| n).collect::<Vec<_>>(), [0]);
    assert!(denied.retry_after() > Some(Duration::ZERO));
    assert_eq!(acme.status("c", &company).await.expect("an answer").used, 6);
    let never = [Charge::new("u", &user).with_cost(3), Charge::new("c", &company)];
    assert_eq!(acme.check_all(&never).await.expect("an answer").retry_after(), None);
}

async fn limits_without_a_tenant_are_refused_together(x: Stage) {
    let quota = Quota::sliding_window(2, MINUTE);
    let charges = [Charge::new("a", &quota), Charge::new("b", &quota)];
    let error = x.limits.check_all(&charges).await.expect_err("they share no place");
    assert_eq!(error.kind(), ErrorKind::Misuse, "{}", error.chain());
    let twice = [Charge::new("a", &quota), Charge::new("a", &quota)];
    let acme = x.limits.tenant("acme").expect("a tenant");
    assert_eq!(acme.check_all(&twice).await.expect_err("twice").kind(), ErrorKind::Misuse);
    assert!(acme.check_all(&[]).await.expect("an answer").allowed);
}

async fn limits_that_share_no_place_are_given_back(x: Stage) {
    let (wide, narrow) = (Quota::sliding_window(9, MINUTE), Quota::sliding_window(1, MINUTE));
    let charges = [Charge::new("a", &wide), Charge::new("b", &narrow), Charge::new("c", &wide)];
    assert!(x.limits.check_split(&charges).await.expect("an answer").allowed);
    let denied = x.limits.check_split(&charges).await.expect("an answer");
    assert!(!denied.allowed && denied.each.len() == 3);
    for (subject, quota) in [("a", &wide), ("b", &narrow), ("c", &wide)] {
        assert_eq!(x.peer.status(subject, quota).await.expect("an answer").used, 1, "{subject}");
    }
}

async fn a_repeated_call_counts_once(x: Stage) {
    let quota = Quota::sliding_window(5, MINUTE);
    for limits in [&x.limits, &x.peer, &x.limits] {
        let once = limits.once("order-7").expect("an id");
        let decision = once.check_cost("a", &quota, 4).await.expect("an answer");
        assert!(decision.allowed && decision.used == 4);
    }
    let other = x.limits.once("order-8").expect("an id");
    assert!(!other.check_cost("a", &quota, 4).await.expect("an answer").allowed);
    assert_eq!(x.limits.once("").expect_err("empty").kind(), ErrorKind::Misuse);
}

async fn a_look_and_a_status_take_nothing(x: Stage) {
    let quota = Quota::sliding_window(1, MINUTE);
    for _ in 0..3 {
        assert!(x.limits.peek("a", &quota).await.expect("an answer").allowed);
        assert!(x.limits.check_cost("a", &quota, 0).await.expect("an answer").allowed);
    }
    assert!(x.limits.check("a", &quota).await.expect("an answer").allowed);
    let peeked = x.peer.peek("a", &quota).await.expect("an answer");
    assert!(!peeked.allowed && peeked.retry_after > Some(Duration::ZERO));
    let zero = x.peer.check_cost("a", &quota, 0).await.expect("an answer");
    assert!(zero.allowed && zero.remaining == 0);
    assert_eq!(x.peer.status("a", &quota).await.expect("an answer").denials, 0);
}

async fn what_happened_already_is_counted(x: Stage) {
    let quota = Quota::sliding_window(5, MINUTE);
    let counted = x.limits.increment("a", &quota, 7).await.expect("an answer");
    assert!(counted.allowed);
    assert_eq!((counted.used, counted.remaining, counted.taken()), (7, 0, 7));
    let error = x.limits.increment("a", &quota, Quota::MAX + 1).await;
    assert_eq!(error.expect_err("too much").kind(), ErrorKind::Misuse);
}

async fn a_penalty_goes_beyond_the_limit(x: Stage) {
    let quota = Quota::sliding_window(2, MINUTE);
    x.limits.check("a", &quota).await.expect("an answer");
    x.elapse(SECOND * 30).await;
    x.limits.penalize("a", &quota, 5).await.expect("an answer");
    x.elapse(SECOND * 31).await;
    let denied = x.limits.check("a", &quota).await.expect("an answer");
    assert!(!denied.allowed && denied.used == 5, "{denied:?}");
    x.elapse(SECOND * 30).await;
    assert!(x.limits.check("a", &quota).await.expect("an answer").allowed);
}

async fn as_much_is_taken_as_fits(x: Stage) {
    for quota in [
        Quota::sliding_window(5, MINUTE),
        Quota::gcra(1, MINUTE, 5),
        Quota::fixed_window(5, MINUTE),
    ] {
        let taken = async |most| {
            let decision = x.limits.take_at_most("a", &quota, most).await.expect("an answer");
            (decision.allowed, decision.taken())
        };
        assert_eq!(taken(3).await, (true, 3));
        assert_eq!(taken(u64::MAX).await, (true, 2));
        assert_eq!(taken(1).await, (false, 0));
    }
}

async fn a_reservation_is_settled_or_cancelled(x: Stage) {
    let quota = Quota::sliding_window(1000, MINUTE);
    let reserve =
        async |units| x.limits.reserve("a", &quota, units).await.expect("an answer").reserved();
    let used = async || x.peer.status("a", &quota).await.expect("an answer").used;
    let (less, more, none) = (
        reserve(300).await.expect("it fits"),
        reserve(300).await.expect("it fits"),
        reserve(300).await.expect("it fits"),
    );
    assert!(matches!(x.limits.reserve("a", &quota, 300).await, Ok(Reserved::Denied(_))));
    assert_eq!(less.settle(100).await.expect("an answer"), 100);
    assert_eq!(used().await, 700);
    assert_eq!(none.cancel().await.expect("an answer"), 300);
    assert_eq!(used().await, 400);
    assert_eq!(more.settle(900).await.expect("an answer"), 900);
    assert_eq!(used().await, 1000);
    x.elapse(MINUTE + SECOND).await;
    drop(reserve(1000).await.expect("it fits"));
    x.elapse(MINUTE + SECOND).await;
    assert_eq!(used().await, 0, "what is never settled leaves the window");
}

async fn a_subject_is_reset_for_all(x: Stage) {
    let quota = Quota::sliding_window(1, MINUTE);
    x.limits.check("a", &quota).await.expect("an answer");
    assert!(!x.limits.check("a", &quota).await.expect("an answer").allowed);
    assert!(!x.peer.check("a", &quota).await.expect("an answer").allowed);
    assert_eq!(x.limits.reset("a", &quota).await.expect("an answer"), 1);
    assert!(x.limits.check("a", &quota).await.expect("an answer").allowed);
    x.limits.reset("a", &quota).await.expect("an answer");
    // The other one remembers its denial for a second.
    x.elapse(SECOND).await;
    assert!(x.peer.check("a", &quota).await.expect("an answer").allowed);
}

async fn a_policy_is_reset_for_all_within_a_second(x: Stage) {
    let quota = Quota::sliding_window(1, MINUTE).with_name("login");
    let other = Quota::sliding_window(1, MINUTE).with_name("search");
    for subject in ["a", "b", "c"] {
        for quota in [&quota, &other] {
            assert!(x.limits.check(subject, quota).await.expect("an answer").allowed);
        }
        assert!(!x.peer.check(subject, &quota).await.expect("an answer").allowed);
    }
    x.limits.reset_policy(&quota).await.expect("an answer");
    assert!(x.limits.check("a", &quota).await.expect("an answer").allowed);
    // A process that has just begun knows of it too, whatever it asks first.
    for _ in 0..2 {
        let status = x.limits.peer().status("a", &quota).await.expect("an answer");
        assert_eq!(status.used, 1);
        let seen = x.limits.peer().status("b", &quota).await.expect("an answer");
        assert_eq!(seen.used, 0);
    }
    assert_eq!(x.limits.peer().reset("a", &quota).await.expect("an answer"), 1);
    assert!(x.limits.check("a", &quota).await.expect("an answer").allowed);
    x.elapse(SECOND).await;
    assert!(x.peer.check("b", &quota).await.expect("an answer").allowed);
    assert!(!x.peer.check("c", &other).await.expect("an answer").allowed, "another policy");
    assert!(!x.peer.check("a", &quota).await.expect("an answer").allowed, "one and the same");
}

async fn a_denial_is_repeated_without_asking(x: Stage) {
    let quota = Quota::sliding_window(10, MINUTE);
    x.limits.check_cost("a", &quota, 8).await.expect("an answer");
    let source = async |cost, quota: &Quota| {
        x.limits.check_cost("a", quota, cost).await.expect("an answer").source
    };
    assert_ne!(source(5, &quota).await, Source::FastDeny);
    assert_eq!(source(5, &quota).await, Source::FastDeny);
    assert_eq!(source(9, &quota).await, Source::FastDeny, "more fits even less");
    assert_eq!(source(5, &quota.clone().with_limit(9)).await, Source::FastDeny);
    assert_ne!(source(5, &quota.clone().with_limit(12)).await, Source::FastDeny);
    assert!(x.limits.check_cost("a", &quota, 2).await.expect("an answer").allowed, "less may fit");
    assert_ne!(x.peer.check_cost("a", &quota, 5).await.expect("ok").source, Source::FastDeny);
    x.elapse(SECOND).await;
    assert_ne!(source(5, &quota).await, Source::FastDeny, "not for longer than a second");
    let slow = x.limits.without_fast_deny();
    for _ in 0..2 {
        let decision = slow.check_cost("a", &quota, 5).await.expect("an answer");
        assert_ne!(decision.source, Source::FastDeny);
    }
    let denials = x.limits.status("a", &quota).await.expect("an answer").denials;
    // Five that were asked for at least, and those repeated meanwhile that were told since.
    assert!(denials >= 7, "{denials}");
}

async fn who_waits_is_served_in_order_and_in_time(x: Stage) {
    let quota = Quota::sliding_window(2, SECOND);
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut waiting = Vec::new();
    for number in 0..6 {
        let (limits, quota, served) = (x.limits.clone(), quota.clone(), order.clone());
        let wait = super::locks::background(async move {
            let decision = limits.until_ready("a", &quota, MINUTE).await.expect("an answer");
            assert!(decision.allowed);
            served.lock().expect("unpoisoned").push(number);
        });
        waiting.push(wait);
        let served = || order.lock().expect("unpoisoned").len();
        if number < 2 {
            eventually(SECOND * 10, "the first are served", async || served() == number + 1).await;
        } else {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            assert_eq!(served(), 2, "number {number} came too early");
        }
    }
    for served in [4, 6] {
        x.elapse(SECOND).await;
        let count = || order.lock().expect("unpoisoned").len();
        eventually(SECOND * 10, "the next are served", async || {
            // They were not admitted in the very same microsecond.
            x.elapse(Duration::from_millis(1)).await;
            count() == served
        })
        .await;
    }
    for wait in waiting {
        wait.await.expect("no panic");
    }
    assert_eq!(*order.lock().expect("unpoisoned"), [0, 1, 2, 3, 4, 5]);
}

async fn waiting_ends_with_the_wait(x: Stage) {
    let quota = Quota::sliding_window(1, MINUTE);
    x.limits.check("a", &quota).await.expect("an answer");
    let (limits, asked) = (x.limits.clone(), quota.clone());
    let waiting =
        super::locks::background(async move { limits.until_ready("a", &asked, SECOND * 5).await });
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    eventually(SECOND * 10, "it ends", async || {
        x.elapse(SECOND).await;
        waiting.is_finished()
    })
    .await;
    let decision = waiting.await.expect("no panic").expect("an answer");
    assert!(!decision.allowed);
    assert_eq!(x.peer.status("a", &quota).await.expect("ok").denials, 0, "no violation");
    let never = x.limits.until_ready_cost("a", &quota, 2, MINUTE).await.expect("an answer");
    assert!(never.never_fits());
}

async fn slots_are_held_and_given_back(x: Stage) {
    let quota = Quota::concurrency(2, SECOND * 9);
    let enter = async |limits: &RateLimiter| limits.enter("a", &quota).await.expect("an answer");
    let one = enter(&x.limits).await.slot().expect("a slot");
    let two = enter(&x.peer).await.slot().expect("a slot");
    let Entrance::Full(full) = enter(&x.peer).await else { panic!("two are all") };
    assert!(!full.allowed && full.used == 2);
    // Beyond the lease: both are prolonged.
    for _ in 0..8 {
        x.elapse(SECOND * 2).await;
        let lease = || x.limits.status("a", &quota);
        eventually(SECOND * 10, "they are prolonged", async || {
            lease().await.expect("an answer").used == 2
        })
        .await;
        eventually(SECOND * 10, "and their holders know", async || one.is_valid()).await;
    }
    assert!(two.leave().await.expect("an answer"));
    let three = enter(&x.peer).await.slot().expect("a slot");
    drop(one);
    eventually(SECOND * 10, "a dropped slot is given back", async || {
        x.limits.status("a", &quota).await.expect("an answer").used == 1
    })
    .await;
    assert!(three.is_valid());
    assert_eq!(x.limits.status("b", &quota).await.expect("an answer").used, 0);
    let wrong = x.limits.enter("a", &Quota::sliding_window(1, MINUTE)).await;
    assert_eq!(wrong.expect_err("no slots").kind(), ErrorKind::Misuse);
    let wrong = x.limits.check("a", &quota).await;
    assert_eq!(wrong.expect_err("slots").kind(), ErrorKind::Misuse);
}

fn rules(user: u64, company: u64, endpoint: u64) -> Rules {
    Rules::new()
        .user_default(Quota::sliding_window(user, MINUTE))
        .company("search", Quota::sliding_window(company, MINUTE))
        .endpoint("/v1/search", Quota::gcra(endpoint, MINUTE, endpoint))
}

async fn rules_ask_user_company_and_endpoint_at_once(x: Stage) {
    let limits = x.limits.with_rules(rules(2, 3, 9)).expect("rules");
    let by = |user| {
        Request::new("search").with_user(user).with_company("acme").with_endpoint("/v1/search")
    };
    for user in ["a", "a", "b"] {
        let ruling = limits.check(&by(user)).await.expect("an answer");
        assert!(ruling.allowed && ruling.each.len() == 3);
    }
    let denied = |ruling: coordinator_ratelimit::Ruling| {
        ruling.denied().map(|(scope, _)| scope).collect::<Vec<_>>()
    };
    let full = limits.check(&by("a")).await.expect("an answer");
    assert_eq!(denied(full), [Scope::User, Scope::Company]);
    let full = limits.check(&by("b")).await.expect("an answer");
    assert_eq!(denied(full), [Scope::Company]);
    // Another operation has a count of its own, and a user of another company is another.
    let other = Request::new("upload").with_user("a").with_company("acme");
    assert!(limits.check(&other).await.expect("an answer").allowed);
    let other = by("a").with_company("other");
    assert!(limits.check(&other).await.expect("an answer").allowed);
    let free = limits.check(&Request::new("anything")).await.expect("an answer");
    assert!(free.allowed && free.each.is_empty());
}

async fn rules_change_and_keep_what_was_consumed(x: Stage) {
    let limits = x.limits.with_rules(rules(2, 100, 100)).expect("rules");
    let request = Request::new("search").with_user("a").with_company("acme");
    for _ in 0..2 {
        assert!(limits.check(&request).await.expect("an answer").allowed);
    }
    assert!(!limits.check(&request).await.expect("an answer").allowed);
    limits.replace(rules(3, 100, 100)).expect("rules");
    assert!(limits.check(&request).await.expect("an answer").allowed);
    assert!(!limits.check(&request).await.expect("an answer").allowed);
}

async fn rules_for_everybody_are_asked_last(x: Stage) {
    let everybody = rules(9, 9, 9).everybody("/v1/search", Quota::sliding_window(2, MINUTE));
    let refused = x.limits.with_rules(everybody.clone());
    assert_eq!(refused.expect_err("they share no place").kind(), ErrorKind::Misuse);
    let limits = x.limits.with_rules(everybody.split()).expect("rules");
    let by = |company| {
        Request::new("search").with_user("a").with_company(company).with_endpoint("/v1/search")
    };
    for company in ["one", "two"] {
        assert!(limits.check(&by(company)).await.expect("an answer").allowed);
    }
    let ruling = limits.check(&by("one")).await.expect("an answer");
    assert_eq!(ruling.denied().map(|(scope, _)| scope).collect::<Vec<_>>(), [Scope::Everybody]);
    let one = x.limits.tenant("company:one").expect("a tenant");
    let user = Quota::sliding_window(9, MINUTE);
    assert_eq!(one.status("user:search:a", &user).await.expect("an answer").used, 1);
}

async fn violations_are_read_and_ranked(x: Stage) {
    let limits = x.limits.without_fast_deny();
    let quota = Quota::sliding_window(1, MINUTE).with_name("login");
    let acme = limits.tenant("acme").expect("a tenant");
    for _ in 0..10 {
        limits.check("a", &quota).await.expect("an answer");
        acme.check("b", &quota).await.expect("an answer");
    }
    limits.check("b", &quota).await.expect("an answer");
    let shadow = Quota::sliding_window(0, MINUTE).with_shadow(true);
    let decision = limits.check("s", &shadow).await.expect("an answer");
    assert!(decision.allowed && decision.shadowed);
    let all = x.peer.violations(MINUTE).await.expect("an answer");
    let a: Vec<_> = all.iter().filter(|found| found.subject == "a").collect();
    assert_eq!(a.iter().map(|found| found.count).collect::<Vec<_>>(), [1, 2, 4, 8]);
    assert_eq!(a[0].policy.as_deref(), Some("login"));
    assert_eq!((a[0].limit, a[0].window, a[0].kind), (1, MINUTE, ViolationKind::Denied));
    assert!(all.iter().any(|found| found.kind == ViolationKind::Shadow && found.subject == "s"));
    let theirs = x.peer.tenant("acme").expect("a tenant");
    let of_acme = theirs.violations(MINUTE).await.expect("an answer");
    assert!(of_acme.len() == 4 && of_acme.iter().all(|found| found.subject == "b"));
    let top = x.peer.top_offenders(2).await.expect("an answer");
    assert_eq!(top.iter().map(|top| top.denials).collect::<Vec<_>>(), [8, 8], "{top:?}");
    let top = theirs.top_offenders(9).await.expect("an answer");
    assert_eq!(top.iter().map(|top| &*top.subject).collect::<Vec<_>>(), ["b"]);
}

async fn everybody_hears_of_a_violation_once(x: Stage) {
    let quota = Quota::sliding_window(0, MINUTE);
    x.limits.check("before", &quota).await.expect("an answer");
    let mut ears = [
        x.limits.subscribe_violations().await.expect("heard"),
        x.peer.subscribe_violations().await.expect("heard"),
    ];
    for subject in ["a", "b", "a", "a", "a"] {
        x.limits.without_fast_deny().check(subject, &quota).await.expect("an answer");
    }
    for ear in &mut ears {
        let mut heard = Vec::new();
        while heard.len() < 4 {
            let next = tokio::time::timeout(SECOND * 10, ear.next()).await;
            let violation = next.expect("is told").expect("an answer");
            heard.push((violation.subject, violation.count));
        }
        heard.sort();
        let expected = [("a", 1), ("a", 2), ("a", 4), ("b", 1)];
        assert_eq!(heard, expected.map(|(subject, count)| (subject.to_owned(), count)));
    }
}

async fn an_alert_reaches_one_of_a_group(x: Stage) {
    let quota = Quota::sliding_window(0, MINUTE);
    let (heard, mut alerts) = tokio::sync::mpsc::unbounded_channel();
    let mut listeners = Vec::new();
    for limits in [&x.limits, &x.peer, &x.limits, &x.peer] {
        let mut ear = limits.subscribe_alerts("pager").await.expect("heard");
        let heard = heard.clone();
        listeners.push(super::locks::background(async move {
            while let Ok(alert) = ear.next().await {
                if heard.send(alert).is_err() {
                    return;
                }
            }
        }));
    }
    for round in 0..8 {
        for subject in ["a", "b", "c"] {
            let limits = if round % 2 == 0 { &x.limits } else { &x.peer };
            limits.without_fast_deny().check(subject, &quota).await.expect("an answer");
        }
    }
    // The last one's alert comes after all others of its shard; then each shard had its turn.
    let mut subjects = Vec::new();
    while subjects.len() < 3 {
        let alert = tokio::time::timeout(SECOND * 10, alerts.recv()).await.expect("is told");
        subjects.push(alert.expect("somebody listens").subject);
    }
    subjects.sort();
    assert_eq!(subjects, ["a", "b", "c"]);
    let more = tokio::time::timeout(SECOND / 2, alerts.recv()).await;
    assert!(more.is_err(), "told twice: {more:?}");
    listeners.iter().for_each(tokio::task::JoinHandle::abort);
}

async fn hostile_subjects_never_collide(x: Stage) {
    let quota = Quota::sliding_window(1, MINUTE);
    let subjects =
        ["a", "a:b", "a%3Ab", "{a}", "}", "*", "[a]", "a\r\n", "a\0", "é", "🔒", " ", "::", "-"];
    for subject in subjects {
        assert!(x.limits.check(subject, &quota).await.expect("an answer").allowed, "{subject:?}");
    }
    for tenant in subjects {
        let limits = x.limits.tenant(tenant).expect("a tenant");
        let named = quota.clone().with_name(tenant);
        for quota in [&quota, &named] {
            assert!(limits.check("a", quota).await.expect("an answer").allowed, "{tenant:?}");
        }
    }
    for subject in subjects {
        assert!(!x.peer.check(subject, &quota).await.expect("an answer").allowed, "{subject:?}");
    }
}

async fn bad_calls_are_misuse(x: Stage) {
    let year = Duration::from_hours(24 * 365);
    let good = [
        Quota::sliding_window(1, Duration::from_micros(1)),
        Quota::sliding_window(1, year),
        Quota::sliding_window(1, Duration::from_hours(24 * 30)),
        Quota::sliding_window(Quota::MAX, SECOND),
        Quota::gcra(1, year, 1),
        Quota::gcra(1_000_000_000, SECOND, 1000),
        Quota::fixed_window(0, SECOND),
    ];
    for quota in &good {
        x.limits.check("a", quota).await.expect("an answer");
    }
    let bad = [
        Quota::sliding_window(1, Duration::ZERO),
        Quota::sliding_window(1, Duration::from_nanos(999)),
        Quota::sliding_window(1, year * 2),
        Quota::sliding_window(u64::MAX, SECOND),
        Quota::gcra(0, SECOND, 1),
        Quota::gcra(u64::MAX, SECOND, u64::MAX),
        Quota::fixed_window(1, Duration::MAX),
        Quota::sliding_window(1, SECOND).with_name(""),
        Quota::sliding_window(1, SECOND).with_near_limit(0.0),
    ];
    for quota in &bad {
        let error = x.limits.check("a", quota).await.expect_err("it cannot be");
        assert_eq!(error.kind(), ErrorKind::Misuse, "{quota:?}");
    }
    let quota = &good[1];
    let long = "x".repeat(513);
    for subject in ["", &long] {
        let error = x.limits.check(subject, quota).await.expect_err("it cannot be");
        assert_eq!(error.kind(), ErrorKind::Misuse);
        assert!(x.limits.tenant(subject).is_err());
    }
}
