//! Locks: what they promise, on every backend.

use crate::stage::{Stage, on_every_backend};
use coordinator_core::{ErrorKind, clock::Clock};
use coordinator_harness::eventually;
use coordinator_locks::{
    Admission, Cursor, FenceCheck, Guard, Locks, LossReason, Outcome, Release, Renew, WithError,
};
use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;

const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(30);
const YEAR: Duration = Duration::from_hours(8760);

on_every_backend! {
    one_holds_a_lock_at_a_time
    a_refusal_names_the_holder
    fences_rise_with_every_grant
    waiting_ends_with_the_wait
    a_release_wakes_who_waits
    waiters_of_a_process_are_served_in_order
    a_waiter_that_gives_up_holds_up_nobody
    a_dead_holder_blocks_for_its_ttl_at_most
    the_watchdog_keeps_a_lock_beyond_its_ttl
    the_longest_hold_ends_what_the_watchdog_keeps
    without_the_watchdog_a_lease_ends_by_its_own_clock
    work_stops_when_the_lock_is_lost
    a_stale_owner_can_neither_renew_nor_release
    a_dropped_stale_guard_spares_its_successor
    a_dropped_guard_gives_up_in_the_background
    force_tells_the_holder_and_wakes_who_waits
    a_detached_lock_is_kept_by_its_token
    a_repeated_release_answers_the_same
    renewing_by_hand_never_shortens
    hostile_names_never_collide
    bad_calls_are_misuse
    the_names_of_the_mission_have_their_own_ttls
    what_is_held_is_listed_page_by_page
    the_register_admits_only_the_newest_holder
    with_acquires_runs_and_releases
    closing_refuses_and_waits_for_what_was_dropped
}

/// Starts something that waits, and lets it come to its waiting.
pub(crate) fn background<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    #[expect(clippy::disallowed_methods, reason = "tests own their tasks")]
    tokio::spawn(work)
}

pub(crate) async fn take(locks: &Locks, name: &str) -> Guard {
    locks.acquire(name).await.expect("an answer").acquired().expect("a free lock")
}

async fn is_free(locks: &Locks, name: &str) -> bool {
    locks.show(name).await.expect("an answer").is_none()
}

/// Waits until so many processes wait for a lock.
pub(crate) async fn waited_for(locks: &Locks, name: &str, waiters: u64) {
    eventually(SECOND * 10, "somebody waits", async || {
        let held = locks.show(name).await.expect("an answer");
        held.is_some_and(|held| held.waiters >= waiters)
    })
    .await;
}

async fn one_holds_a_lock_at_a_time(x: Stage) {
    let guard = take(&x.locks, "a").await;
    assert!(guard.is_valid() && guard.remaining() > Duration::ZERO);
    assert!(x.locks.try_acquire("a").await.expect("an answer").is_none());
    assert!(x.peer.try_acquire("a").await.expect("an answer").is_none());
    assert!(x.peer.try_acquire("b").await.expect("an answer").is_some());
    assert_eq!(guard.release().await.expect("an answer"), Release::Released);
    assert!(x.peer.try_acquire("a").await.expect("an answer").is_some());
}

async fn a_refusal_names_the_holder(x: Stage) {
    let guard = x.locks.named("a").with_task("month end").acquire().await.expect("an answer");
    let guard = guard.acquired().expect("a free lock");
    let refused = x.peer.named("a").with_wait(Duration::ZERO).acquire().await.expect("an answer");
    let refused = refused.acquired().expect_err("is held");
    let holder = refused.holder.expect("a holder");
    assert_eq!(holder.pid, std::process::id());
    assert_eq!(holder.task.as_deref(), Some("month end"));
    assert_eq!((holder.fence, holder.id.as_str()), (guard.fence(), guard.id()));
}

async fn fences_rise_with_every_grant(x: Stage) {
    let mut last = None;
    for round in 0..6 {
        let locks = if round % 2 == 0 { &x.locks } else { &x.peer };
        let guard = take(locks, "a").await;
        assert!(Some(guard.fence()) > last);
        last = Some(guard.fence());
        guard.release().await.expect("an answer");
    }
}

async fn waiting_ends_with_the_wait(x: Stage) {
    let guard = take(&x.locks, "a").await;
    let lock = x.peer.named("a").with_wait(SECOND * 5);
    let waiting = background(async move { lock.acquire().await });
    waited_for(&x.locks, "a", 1).await;
    x.elapse(SECOND * 4).await;
    assert!(!waiting.is_finished());
    x.elapse(SECOND).await;
    match waiting.await.expect("no panic").expect("an answer") {
        Outcome::TimedOut { holder } => {
            assert_eq!(holder.expect("a holder").fence, guard.fence());
        }
        other => panic!("{other:?}"),
    }
}

async fn a_release_wakes_who_waits(x: Stage) {
    for locks in [x.locks.clone(), x.peer.clone()] {
        let guard = take(&x.locks, "a").await;
        let waiting = background(async move { take(&locks, "a").await });
        waited_for(&x.locks, "a", 1).await;
        guard.release().await.expect("an answer");
        // No time passes: nobody wakes by looking again.
        let next = waiting.await.expect("no panic");
        next.release().await.expect("an answer");
        eventually(SECOND * 10, "nobody listens any more", async || {
            // A moment of courtesy passes first.
            x.elapse(SECOND).await;
            let held = take(&x.peer, "a").await;
            let waiters = x.peer.show("a").await.expect("an answer").expect("is held").waiters;
            held.release().await.expect("an answer");
            waiters == 0
        })
        .await;
        x.elapse(SECOND).await;
    }
}

async fn waiters_of_a_process_are_served_in_order(x: Stage) {
    let guard = take(&x.locks, "a").await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waiting = Vec::new();
    for number in 0..8 {
        let (locks, order) = (x.locks.clone(), order.clone());
        let (entering, entered) = tokio::sync::oneshot::channel();
        waiting.push(background(async move {
            let acquiring = locks.acquire("a");
            let mut acquiring = std::pin::pin!(acquiring);
            // One poll puts it in line.
            let polled = futures::poll!(acquiring.as_mut());
            assert!(polled.is_pending());
            entering.send(()).expect("somebody waits for it");
            let guard = acquiring.await.expect("an answer").acquired().expect("its turn");
            order.lock().expect("unpoisoned").push(number);
            guard.release().await.expect("an answer");
        }));
        entered.await.expect("it entered");
    }
    waited_for(&x.locks, "a", 1).await;
    guard.release().await.expect("an answer");
    for waiter in waiting {
        waiter.await.expect("no panic");
    }
    assert_eq!(*order.lock().expect("unpoisoned"), (0..8).collect::<Vec<_>>());
}

async fn a_waiter_that_gives_up_holds_up_nobody(x: Stage) {
    let guard = take(&x.locks, "a").await;
    let locks = x.peer.clone();
    let first = background(async move { take(&locks, "a").await });
    waited_for(&x.locks, "a", 1).await;
    let locks = x.peer.clone();
    let second = background(async move { take(&locks, "a").await });
    first.abort();
    assert!(first.await.expect_err("aborted").is_cancelled());
    guard.release().await.expect("an answer");
    second.await.expect("no panic").release().await.expect("an answer");
}

async fn a_dead_holder_blocks_for_its_ttl_at_most(x: Stage) {
    let dead = take(&x.locks, "a").await.detach();
    let locks = x.peer.clone();
    let waiting = background(async move {
        let outcome = locks.named("a").with_wait(YEAR).acquire().await;
        outcome.expect("an answer").acquired().expect("its turn")
    });
    waited_for(&x.locks, "a", 1).await;
    x.elapse(TTL - SECOND * 2).await;
    assert!(!is_free(&x.locks, "a").await);
    eventually(SECOND * 10, "the next one holds it", async || {
        x.elapse(SECOND / 2).await;
        waiting.is_finished()
    })
    .await;
    assert!(waiting.await.expect("no panic").fence() > dead.fence);
}

async fn the_watchdog_keeps_a_lock_beyond_its_ttl(x: Stage) {
    let guard = take(&x.locks, "a").await;
    for _ in 0..6 {
        let before = guard.deadline();
        x.elapse(TTL / 2).await;
        eventually(SECOND * 10, "the lease is renewed", async || guard.deadline() > before).await;
        assert!(guard.is_valid());
    }
    assert!(x.peer.try_acquire("a").await.expect("an answer").is_none());
    assert_eq!(guard.release().await.expect("an answer"), Release::Released);
}

async fn the_longest_hold_ends_what_the_watchdog_keeps(x: Stage) {
    let lock = x.locks.named("a").with_max_hold(TTL * 2);
    let guard = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    let mut left = TTL * 2;
    while left > TTL / 2 {
        let before = guard.deadline();
        x.elapse(TTL / 2).await;
        left -= TTL / 2;
        if left > TTL / 2 {
            eventually(SECOND * 10, "it is renewed", async || guard.deadline() > before).await;
        }
    }
    assert!(guard.is_valid());
    x.elapse(TTL / 2).await;
    assert_eq!(guard.lost().await, LossReason::Expired);
    eventually(SECOND * 10, "the server let it go too", async || {
        x.elapse(SECOND).await;
        is_free(&x.peer, "a").await
    })
    .await;
}

async fn without_the_watchdog_a_lease_ends_by_its_own_clock(x: Stage) {
    let lock = x.locks.named("a").with_watchdog(false);
    let guard = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    // 1 % and 2 ms before the server's end.
    x.elapse(TTL - TTL / 100 - Duration::from_millis(3)).await;
    assert!(guard.is_valid());
    x.elapse(Duration::from_millis(1)).await;
    assert!(!guard.is_valid());
    assert_eq!(guard.lost().await, LossReason::Expired);
    assert_eq!(guard.renew().await.expect("an answer"), Renew::Lost(LossReason::Expired));
}

async fn work_stops_when_the_lock_is_lost(x: Stage) {
    let lock = x.locks.named("a").with_watchdog(false);
    let guard = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    assert_eq!(guard.run(async { 7 }).await, Ok(7));
    let running = background(async move { guard.run(std::future::pending::<()>()).await });
    tokio::task::yield_now().await;
    x.elapse(TTL).await;
    assert_eq!(running.await.expect("no panic"), Err(LossReason::Expired));
}

async fn a_stale_owner_can_neither_renew_nor_release(x: Stage) {
    let stale = take(&x.locks, "a").await.detach();
    x.elapse(TTL).await;
    let next = take(&x.peer, "a").await;
    assert!(next.fence() > stale.fence);
    let renewed = x.locks.renew("a", &stale.token, TTL).await.expect("an answer");
    assert_eq!(renewed, Renew::Lost(LossReason::Stolen));
    let released = x.locks.release("a", &stale.token).await.expect("an answer");
    assert_eq!(released, Release::AlreadyGone);
    assert!(x.locks.try_acquire("a").await.expect("an answer").is_none());
    assert!(next.is_valid());
}

async fn a_dropped_stale_guard_spares_its_successor(x: Stage) {
    let lock = x.locks.named("a").with_watchdog(false);
    let stale = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    x.elapse(TTL).await;
    let next = take(&x.peer, "a").await;
    drop(stale);
    assert!(x.locks.close(SECOND * 10).await);
    assert_eq!(next.release().await.expect("an answer"), Release::Released);
}

async fn a_dropped_guard_gives_up_in_the_background(x: Stage) {
    drop(take(&x.locks, "a").await);
    eventually(SECOND * 10, "it is given up", async || is_free(&x.peer, "a").await).await;
    // Also from a thread without a runtime.
    let guard = take(&x.locks, "a").await;
    std::thread::spawn(move || drop(guard)).join().expect("no panic");
    eventually(SECOND * 10, "it is given up", async || is_free(&x.peer, "a").await).await;
}

async fn force_tells_the_holder_and_wakes_who_waits(x: Stage) {
    let guard = take(&x.locks, "a").await;
    let locks = x.peer.clone();
    let waiting = background(async move { take(&locks, "a").await });
    waited_for(&x.locks, "a", 1).await;
    let forced = x.peer.force_release("a", "the host is gone").await.expect("an answer");
    assert_eq!(forced.expect("was held").holder.fence, guard.fence());
    let next = waiting.await.expect("no panic");
    assert!(next.fence() > guard.fence());
    x.elapse(TTL / 2).await;
    assert_eq!(guard.lost().await, LossReason::ForceReleased);
    assert_eq!(guard.release().await.expect("an answer"), Release::AlreadyGone);
    assert_eq!(next.release().await.expect("an answer"), Release::Released);
    assert!(x.peer.force_release("a", "again").await.expect("an answer").is_none());
}

async fn a_detached_lock_is_kept_by_its_token(x: Stage) {
    let held = take(&x.locks, "a").await.detach();
    assert!(held.remaining > TTL / 2);
    let token = coordinator_locks::Token::parse(held.token.expose()).expect("a token");
    let renewed = x.peer.renew("a", &token, TTL * 2).await.expect("an answer");
    assert_eq!(renewed, Renew::Renewed);
    x.elapse(TTL + SECOND).await;
    assert!(!is_free(&x.locks, "a").await);
    assert_eq!(x.peer.release("a", &token).await.expect("an answer"), Release::Released);
    assert!(is_free(&x.locks, "a").await);
}

async fn a_repeated_release_answers_the_same(x: Stage) {
    let held = take(&x.locks, "a").await.detach();
    for locks in [&x.locks, &x.peer, &x.locks] {
        let released = locks.release("a", &held.token).await.expect("an answer");
        assert_eq!(released, Release::Released);
        let renewed = locks.renew("a", &held.token, TTL).await.expect("an answer");
        assert_eq!(renewed, Renew::Lost(LossReason::Released));
    }
}

async fn renewing_by_hand_never_shortens(x: Stage) {
    let lock = x.locks.named("a").with_watchdog(false);
    let guard = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    x.elapse(TTL / 2).await;
    let before = guard.deadline();
    assert_eq!(guard.renew().await.expect("an answer"), Renew::Renewed);
    assert!(guard.deadline() > before);
    let held = guard.detach();
    x.peer.renew("a", &held.token, SECOND).await.expect("an answer");
    x.elapse(TTL / 2).await;
    assert!(!is_free(&x.peer, "a").await);
}

async fn hostile_names_never_collide(x: Stage) {
    let names = [
        "a",
        "A",
        "a:b",
        "a%3Ab",
        "a%253Ab",
        "{a}",
        "{",
        "}",
        "*",
        "[a]",
        "?",
        "a\r",
        "a\n",
        "a\r\n",
        "a\0",
        "\0",
        "🔒",
        "é",
        "e\u{301}",
        " ",
        "a b",
        "%",
        "lock",
        "held",
        "\u{202e}",
        &"x".repeat(512),
    ];
    let mut guards = Vec::new();
    for name in names {
        let guard = x.locks.try_acquire(name).await.expect("an answer");
        guards.push(guard.unwrap_or_else(|| panic!("{name:?} collides")));
    }
    let listed = x.peer.list().await.expect("an answer");
    assert_eq!(listed.len(), names.len());
    for name in names {
        assert!(listed.iter().any(|held| held.name == name), "{name:?} is not listed");
    }
    for guard in guards {
        assert_eq!(guard.release().await.expect("an answer"), Release::Released);
    }
    assert!(x.peer.list().await.expect("an answer").is_empty());
}

async fn bad_calls_are_misuse(x: Stage) {
    let locks = &x.locks;
    let calls = [
        locks.named(""),
        locks.named(&"x".repeat(513)),
        locks.named(&"x".repeat(64 * 1024)),
        locks.crew("", "plan"),
        locks.named("a").with_ttl(Duration::ZERO),
        locks.named("a").with_ttl(Duration::from_millis(9)),
        locks.named("a").with_ttl(YEAR + SECOND),
        locks.named("a").with_ttl(Duration::MAX),
        locks.named("a").with_wait(YEAR + SECOND),
        locks.named("a").with_wait(Duration::MAX),
        locks.named("a").with_max_hold(Duration::ZERO),
        locks.named("a").with_task(&"x".repeat(129)),
    ];
    for call in calls {
        let error = call.acquire().await.expect_err("is refused");
        assert_eq!(error.kind(), ErrorKind::Misuse, "{}", error.chain());
    }
    let held = take(locks, "a").await.detach();
    let errors = [
        locks.renew("a", &held.token, Duration::ZERO).await.expect_err("no ttl"),
        locks.renew("", &held.token, TTL).await.expect_err("no name"),
        locks.release("", &held.token).await.expect_err("no name"),
        locks.force_release("a", "").await.expect_err("no reason"),
        locks.force_release("a", &"x".repeat(513)).await.expect_err("a long reason"),
        locks.show(&"x".repeat(513)).await.expect_err("a long name"),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Misuse, "{}", error.chain());
    }
}

async fn the_names_of_the_mission_have_their_own_ttls(x: Stage) {
    for (lock, name, ttl) in [
        (x.locks.crew("42", "plan"), "crew:42:plan", 30),
        (x.locks.task("t1"), "task:t1", 60),
        (x.locks.resource("r1", "write"), "resource:r1:write", 15),
        (x.locks.crew("a:b", "c"), "crew:a%3Ab:c", 30),
        (x.locks.crew("a", "b:c"), "crew:a:b%3Ac", 30),
    ] {
        let guard = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
        assert_eq!(guard.name(), name);
        let held = x.peer.show(name).await.expect("an answer").expect("is held");
        assert!(held.ttl <= SECOND * ttl && held.ttl > SECOND * (ttl - 2), "{name}");
        guard.release().await.expect("an answer");
    }
}

async fn what_is_held_is_listed_page_by_page(x: Stage) {
    let mut held = Vec::new();
    for number in 0..40 {
        held.push(take(&x.locks, &format!("n{number:02}")).await);
    }
    let (mut names, mut from) = (Vec::new(), Some(Cursor::default()));
    while let Some(cursor) = from {
        let (page, next) = x.peer.holders(cursor, 7).await.expect("an answer");
        assert!(page.len() <= 7);
        names.extend(page.into_iter().map(|held| held.name));
        from = next;
    }
    names.sort();
    let expected: Vec<_> = (0..40).map(|number| format!("n{number:02}")).collect();
    assert_eq!(names, expected);
    let shown = x.peer.show("n07").await.expect("an answer").expect("is held");
    assert_eq!(shown.holder.fence, held[7].fence());
    // Ended leases are not listed, renewed ones are.
    drop(held.drain(1..).map(Guard::detach).collect::<Vec<_>>());
    let before = held[0].deadline();
    x.elapse(TTL / 2).await;
    eventually(SECOND * 10, "it is renewed", async || held[0].deadline() > before).await;
    x.elapse(TTL / 2).await;
    let listed = x.peer.list().await.expect("an answer");
    let listed: Vec<_> = listed.iter().map(|held| held.name.as_str()).collect();
    assert_eq!(listed, ["n00"]);
}

async fn the_register_admits_only_the_newest_holder(x: Stage) {
    let (register, theirs) = (x.locks.fence_register(), x.peer.fence_register());
    let old = take(&x.locks, "a").await.detach();
    x.elapse(TTL).await;
    let new = take(&x.peer, "a").await;
    for _ in 0..2 {
        let old = register.check("a", old.fence, "old").await.expect("an answer");
        assert!(old.is_admitted());
    }
    let admitted = theirs.check("a", new.fence(), new.id()).await.expect("an answer");
    assert!(admitted.is_admitted());
    let stale = register.check("a", old.fence, "old").await.expect("an answer");
    assert_eq!(stale, Admission::Stale { seen: new.fence() });
    let twin = register.check("a", new.fence(), "forger").await.expect("an answer");
    assert_eq!(twin, Admission::Duplicate { seen: new.fence() });
    assert!(register.check("b", old.fence, "old").await.expect("an answer").is_admitted());
}

async fn with_acquires_runs_and_releases(x: Stage) {
    let fence = x.locks.with("a", |lease| async move { lease.fence() }).await;
    assert!(fence.expect("done").get() > 0);
    assert!(is_free(&x.peer, "a").await);
    let guard = take(&x.locks, "a").await;
    let began = Arc::new(AtomicBool::new(false));
    let begins = began.clone();
    let lock = x.peer.named("a").with_wait(Duration::ZERO);
    let refused = lock.with(|_| async move { begins.store(true, Ordering::SeqCst) }).await;
    assert!(matches!(refused, Err(WithError::Refused(_))), "{refused:?}");
    assert!(!began.load(Ordering::SeqCst));
    guard.release().await.expect("an answer");
}

async fn closing_refuses_and_waits_for_what_was_dropped(x: Stage) {
    let kept = take(&x.locks, "kept").await;
    for number in 0..50 {
        drop(take(&x.locks, &format!("n{number}")).await);
    }
    assert!(x.locks.close(SECOND * 10).await);
    let left = x.peer.list().await.expect("an answer");
    assert_eq!(left.iter().map(|held| held.name.as_str()).collect::<Vec<_>>(), ["kept"]);
    let error = x.locks.acquire("a").await.expect_err("is closed");
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(kept.is_valid());
    assert_eq!(kept.release().await.expect("an answer"), Release::Released);
}

#[test]
fn a_manual_clock_says_when_a_lease_ends() {
    // Deadlines are moments of the locks' own clock.
    let clock = coordinator_core::clock::ManualClock::new();
    clock.advance(TTL);
    assert_eq!(clock.now().since_start(), TTL);
}
