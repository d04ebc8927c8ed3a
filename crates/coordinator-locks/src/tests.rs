//! Port-level tests: every step delivered twice, on both backends, and broken backends that the
//! contract must catch.

mod broken;
mod contract;
mod log;
mod queue;
#[cfg(feature = "redis")]
mod scripts;
mod waits;

use crate::{
    backend::{Backend, Claim, Client, Renewal, Surrender},
    embedded::Embedded,
    token::{Identity, Token},
};
use contract::{Case, Stage};
use coordinator_core::{clock::ManualClock, key::Name};
use std::{sync::Arc, time::Duration};

const TTL: Duration = Duration::from_secs(10);

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn claim(text: &str) -> Claim {
    let identity = Identity {
        host: "host".into(),
        pid: 7,
        task: Some("task".into()),
        id: "id".into(),
        owner: None,
    };
    Claim {
        name: name(text),
        token: Token::random(),
        ttl: TTL,
        min_fence: 0,
        identity: identity.encode(),
        stand: None,
        sent: Arc::default(),
    }
}

fn surrender(claim: &Claim) -> Surrender {
    Surrender {
        name: claim.name.clone(),
        token: claim.token.clone(),
        tombstone: TTL * 2,
        client: Client::random(),
        min_fence: 0,
        successor: None,
    }
}

fn renewal(claim: &Claim, ttl: Duration) -> Renewal {
    Renewal { name: claim.name.clone(), token: claim.token.clone(), ttl }
}

fn embedded() -> Stage {
    let clock = ManualClock::new();
    let backend: Arc<dyn Backend> = Arc::new(Embedded::new(Arc::new(clock.clone())));
    Stage::new(backend, clock)
}

/// Every case of the contract.
fn all() -> impl Iterator<Item = (&'static str, Case)> {
    let all = [contract::ALL, queue::ALL, waits::ALL, log::ALL];
    all.into_iter().flatten().copied()
}

#[tokio::test]
async fn embedded_keeps_the_contract() {
    let mut broken = Vec::new();
    for (case, check) in all() {
        if let Err(why) = check(embedded()).await {
            broken.push(format!("{case}: {why}"));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn redis_keeps_the_contract() {
    let mut broken = Vec::new();
    for (case, check) in all() {
        if let Err(why) = check(scripts::redis().await).await {
            broken.push(format!("{case}: {why}"));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// There too a waiter whose client hung up is known by its silence.
#[cfg(feature = "redis")]
#[tokio::test]
async fn queues_keep_the_contract_where_channels_are_classic() {
    let mut broken = Vec::new();
    for (case, check) in queue::ALL {
        if let Err(why) = check(scripts::redis_with_classic_channels().await).await {
            broken.push(format!("{case}: {why}"));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[tokio::test]
async fn each_broken_backend_is_caught() {
    for broken in broken::ALL {
        let mut caught = Vec::new();
        for (case, check) in all() {
            let clock = ManualClock::new();
            let good = Embedded::new(Arc::new(clock.clone()));
            let backend: Arc<dyn Backend> = Arc::new(broken::Broken::new(good, *broken));
            if check(Stage::new(backend, clock)).await.is_err() {
                caught.push(case);
            }
        }
        assert!(!caught.is_empty(), "{broken:?} passes as a lock");
    }
}

/// A look that nobody answers must not keep its task busy: nothing else would run beside it.
#[test]
fn an_unanswered_heartbeat_keeps_nobody_busy() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let clock = ManualClock::new();
            let good = Embedded::new(Arc::new(clock.clone()));
            let fault = broken::Fault::NeverAnswersHeartbeats;
            let locks = crate::Locks::over(Arc::new(broken::Broken::new(good, fault)));
            let held = locks.acquire("a").await.expect("an answer").acquired().expect("free");
            let lock = locks.peer().named("a").with_wait(Duration::from_secs(5));
            let time = async {
                for _ in 0..20 {
                    for _ in 0..20 {
                        tokio::task::yield_now().await;
                    }
                    clock.advance(Duration::from_millis(500));
                }
            };
            let (outcome, ()) = futures::join!(lock.acquire(), time);
            let outcome = outcome.expect("an answer");
            assert!(matches!(outcome, crate::Outcome::TimedOut { .. }), "{outcome:?}");
            drop(held);
        });
        done.send(()).expect("somebody waits");
    });
    ended.recv_timeout(Duration::from_secs(20)).expect("it ends");
}

/// Whoever left its claim before another came to stand in line first may be granted the lock before
/// that one: it must hear of it where it stands, or the lock is held by nobody who knows.
#[tokio::test]
async fn a_claim_that_is_granted_out_of_line_is_heard() {
    let locks = crate::Locks::embedded_with_clock(Arc::new(ManualClock::new()));
    let holder = locks.acquire("a").await.expect("an answer").acquired().expect("free");
    let first = locks.inner.lines.enter(&name("a"));
    first.took(&holder.lease().0.token);
    let _ahead = first.first().await;
    let left = async {
        while !first.is_left_to() {
            tokio::task::yield_now().await;
        }
        holder.release().await
    };
    let both = async { futures::join!(locks.acquire("a"), left) };
    let (outcome, released) =
        tokio::time::timeout(Duration::from_secs(5), both).await.expect("hears of it");
    assert_eq!(released.expect("an answer"), crate::Release::Released);
    let guard = outcome.expect("an answer").acquired().expect("was granted");
    assert!(guard.is_valid());
}

/// Lets time pass while something is done.
async fn meanwhile<T>(clock: &ManualClock, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        for _ in 0..20 {
            if let Some(done) = futures::FutureExt::now_or_never(&mut work) {
                return done;
            }
            tokio::task::yield_now().await;
        }
        clock.advance(Duration::from_millis(1));
    }
}

/// An owner that gave up waiting may be granted the lock before its place is taken out of the
/// queue. Until that is done it is the holder, and nobody shall take it for one that waits.
#[tokio::test]
async fn an_owner_is_not_accused_of_what_it_is_about_to_give_up() {
    let clock = ManualClock::new();
    let good = Embedded::new(Arc::new(clock.clone()));
    let fault = broken::Fault::GivesTheFirstPlaceUpLate;
    let locks = crate::Locks::over(Arc::new(broken::Broken::new(good, fault)));
    let holder = locks.acquire("a").await.expect("an answer").acquired().expect("free");
    let job = locks.owner("job").expect("a name").named("a");
    let short = job.clone().with_fair(true).with_wait(Duration::from_millis(50));
    let outcome = meanwhile(&clock, short.acquire()).await.expect("an answer");
    assert!(matches!(outcome, crate::Outcome::TimedOut { .. }), "{outcome:?}");
    holder.release().await.expect("an answer");
    let seen = locks.show("a").await.expect("an answer").expect("it went to the place given up");
    assert_eq!(seen.holder.owner.as_deref(), Some("job"));
    let long = job.with_wait(Duration::from_secs(5));
    let outcome = meanwhile(&clock, long.acquire()).await.expect("an answer");
    assert!(matches!(outcome, crate::Outcome::Acquired(_)), "{outcome:?}");
}
