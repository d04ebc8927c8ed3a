//! Subscriptions over a backend that fails, hangs and is deaf where the test says so.

use super::name;
use crate::{
    Quota, RateLimiter, Violation, Violations,
    backend::{
        Alerts, Ask, Backend, Call, Entered, Entry, Event, From, Offender, Place, Record, Return,
        SHARDS, Seen, Series, Standing, Taken, Terms,
    },
    embedded::Embedded,
};
use coordinator_core::{
    BoxFuture, Error, ErrorKind, Result,
    clock::{Clock, ManualClock},
    key::Name,
};
use futures::FutureExt as _;
use std::{
    future::pending,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Faults {
    /// Whose records cannot be read.
    unread: Option<u16>,
    /// Where a read has no answer.
    mute: Option<u16>,
    /// Where no claim is answered.
    unclaimed: Option<u16>,
    /// Whether claims are applied and not answered.
    silent: bool,
    /// Whether nobody is told of records.
    deaf: bool,
    /// Where all records are a later version's.
    later: Option<u16>,
}

#[derive(Debug)]
struct Faulty {
    good: Embedded,
    faults: Arc<Mutex<Faults>>,
}

impl Faulty {
    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().expect("unpoisoned")
    }
}

fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "test")
}

impl Backend for Faulty {
    fn clock(&self) -> &Arc<dyn Clock> {
        self.good.clock()
    }

    fn is_remote(&self) -> bool {
        false
    }

    fn take<'a>(&'a self, ask: &'a Ask) -> BoxFuture<'a, Result<Standing>> {
        self.good.take(ask)
    }

    fn take_all<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Taken>> {
        self.good.take_all(call)
    }

    fn peek<'a>(&'a self, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Seen>>> {
        self.good.peek(asks)
    }

    fn refund<'a>(&'a self, back: &'a Return) -> BoxFuture<'a, Result<u64>> {
        self.good.refund(back)
    }

    fn reset<'a>(&'a self, place: &'a Place, terms: &'a Terms) -> BoxFuture<'a, Result<u64>> {
        self.good.reset(place, terms)
    }

    fn epoch<'a>(&'a self, series: &'a Series) -> BoxFuture<'a, Result<u64>> {
        self.good.epoch(series)
    }

    fn reset_policy<'a>(&'a self, series: &'a Series) -> BoxFuture<'a, Result<u64>> {
        self.good.reset_policy(series)
    }

    fn enter<'a>(&'a self, entry: &'a Entry) -> BoxFuture<'a, Result<Entered>> {
        self.good.enter(entry)
    }

    fn stay<'a>(
        &'a self,
        place: &'a Place,
        terms: &'a Terms,
        token: &'a Name,
    ) -> BoxFuture<'a, Result<bool>> {
        self.good.stay(place, terms, token)
    }

    fn leave<'a>(&'a self, place: &'a Place, token: &'a Name) -> BoxFuture<'a, Result<bool>> {
        self.good.leave(place, token)
    }

    fn violations(
        &self,
        shard: u16,
        from: From,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>>> {
        let faults = self.faults();
        if faults.unread == Some(shard) {
            return Box::pin(async { Err(unavailable()) });
        }
        if faults.mute == Some(shard) {
            return Box::pin(pending());
        }
        let later = faults.later == Some(shard);
        let read = self.good.violations(shard, from, limit);
        Box::pin(async move {
            let mut records = read.await?;
            records.iter_mut().filter(|_| later).for_each(|record| record.event = Event::Unknown);
            Ok(records)
        })
    }

    fn top(&self, shard: u16, limit: usize) -> BoxFuture<'_, Result<Vec<Offender>>> {
        self.good.top(shard, limit)
    }

    fn claim<'a>(
        &'a self,
        shard: u16,
        claim: &'a Name,
        claimant: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool>> {
        let faults = self.faults();
        if faults.unclaimed == Some(shard) {
            return Box::pin(async { Err(unavailable()) });
        }
        let claimed = self.good.claim(shard, claim, claimant, ttl);
        if faults.silent {
            return Box::pin(async move {
                claimed.await?;
                pending().await
            });
        }
        claimed
    }

    fn listen(&self, shard: u16) -> BoxFuture<'_, Result<Box<dyn Alerts>>> {
        let faults = self.faults.clone();
        Box::pin(async move {
            let ear = self.good.listen(shard).await?;
            let alerts: Box<dyn Alerts> = Box::new(Ear { ear, faults });
            Ok(alerts)
        })
    }
}

#[derive(Debug)]
struct Ear {
    ear: Box<dyn Alerts>,
    faults: Arc<Mutex<Faults>>,
}

impl Alerts for Ear {
    fn next(&mut self) -> BoxFuture<'_, ()> {
        if self.faults.lock().expect("unpoisoned").deaf {
            return Box::pin(pending());
        }
        self.ear.next()
    }
}

struct Scene {
    limits: RateLimiter,
    faults: Arc<Mutex<Faults>>,
    clock: ManualClock,
}

impl Scene {
    fn new() -> Self {
        let (clock, faults) = (ManualClock::new(), Arc::<Mutex<Faults>>::default());
        let good = Embedded::new(Arc::new(clock.clone()));
        let backend = Arc::new(Faulty { good, faults: faults.clone() });
        let limits = RateLimiter::over(backend).without_fast_deny();
        Self { limits, faults, clock }
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().expect("unpoisoned")
    }

    async fn deny(&self, subject: &str) {
        let quota = Quota::sliding_window(0, SECOND * 60);
        self.limits.check(subject, &quota).await.expect("an answer");
    }
}

fn shard(subject: &str) -> u16 {
    name(subject).shard(SHARDS)
}

/// What comes without waiting, in one call of `next` that is dropped then.
fn at_once(ear: &mut Violations) -> Option<Result<Violation>> {
    ear.next().now_or_never()
}

/// What comes of calling again and again, for as long as a call has an answer or an error.
async fn heard(ear: &mut Violations) -> Vec<String> {
    let mut subjects = Vec::new();
    for _ in 0..100 {
        subjects.extend(at_once(ear).and_then(Result::ok).map(|violation| violation.subject));
        // Else tokio says at some time that nothing is ready, as to any task that never yields.
        tokio::task::yield_now().await;
    }
    subjects
}

#[tokio::test]
async fn an_alert_outlives_a_call_that_is_dropped() {
    let scene = Scene::new();
    let mut ear = scene.limits.subscribe_alerts("pager").await.expect("heard");
    let mut other = scene.limits.subscribe_alerts("pager").await.expect("heard");
    scene.faults().silent = true;
    scene.deny("a").await;
    scene.deny("a").await;
    assert!(at_once(&mut ear).is_none(), "its claim was applied, and not answered");
    scene.faults().silent = false;
    assert_eq!(heard(&mut other).await, [""; 0], "it is claimed");
    assert_eq!(heard(&mut ear).await, ["a"]);
}

#[tokio::test]
async fn a_read_that_is_dropped_is_read_again() {
    let scene = Scene::new();
    let mut ear = scene.limits.subscribe_violations().await.expect("heard");
    scene.faults().mute = Some(shard("a"));
    scene.deny("a").await;
    for _ in 0..3 {
        at_once(&mut ear);
    }
    scene.faults().mute = None;
    assert_eq!(heard(&mut ear).await, ["a"]);
}

#[tokio::test]
async fn a_shard_is_looked_at_however_short_the_calls_are() {
    let scene = Scene::new();
    let mut ear = scene.limits.subscribe_violations().await.expect("heard");
    scene.faults().deaf = true;
    scene.deny("a").await;
    let mut calls = 0;
    let found = loop {
        if let Some(found) = at_once(&mut ear) {
            break found.expect("an answer");
        }
        scene.clock.advance(SECOND);
        calls += 1;
        assert!(calls <= 5, "nobody looks");
    };
    assert_eq!((found.subject.as_str(), calls), ("a", 5));
}

#[tokio::test]
async fn a_busy_shard_does_not_keep_the_others_from_being_looked_at() {
    let scene = Scene::new();
    let quota = Quota::sliding_window(0, SECOND * 60);
    let mut ear = scene.limits.subscribe_violations().await.expect("heard");
    let busy = scene.limits.tenant("busy").expect("a tenant");
    let quiet = "quiet";
    assert_ne!(shard(quiet), shard("busy"));
    for n in 0..3 {
        busy.check(&format!("begin-{n}"), &quota).await.expect("an answer");
    }
    assert_eq!(heard(&mut ear).await.len(), 3);
    scene.faults().deaf = true;
    busy.check("first", &quota).await.expect("an answer");
    for n in 0..3000 {
        busy.check(&format!("{n}"), &quota).await.expect("an answer");
    }
    scene.deny(quiet).await;
    scene.clock.advance(SECOND * 5);
    // Three pages are waiting; it is found among the first few of them.
    let few: Vec<_> = (0..10).filter_map(|_| at_once(&mut ear)?.ok()).collect();
    assert!(few.iter().any(|found| found.subject == quiet), "{few:?}");
}

#[tokio::test]
async fn a_shard_that_fails_silences_no_other() {
    for fault in [
        |faults: &mut Faults, shard| faults.unread = Some(shard),
        |faults: &mut Faults, shard| faults.mute = Some(shard),
        |faults: &mut Faults, shard| faults.unclaimed = Some(shard),
    ] {
        let scene = Scene::new();
        let mut ear = scene.limits.subscribe_alerts("pager").await.expect("heard");
        let subjects = ["a", "b", "c"];
        assert_eq!(subjects.map(shard).iter().collect::<std::collections::HashSet<_>>().len(), 3);
        fault(&mut scene.faults(), shard("b"));
        for round in 0..2 {
            for subject in subjects {
                scene.deny(subject).await;
            }
            let mut told = heard(&mut ear).await;
            told.sort();
            let expected: &[&str] = if round == 0 { &["a", "c"] } else { &[] };
            assert_eq!(told, expected);
        }
        // Heard while the other one fails, and not only looked for.
        scene.deny("e").await;
        assert_eq!(heard(&mut ear).await, ["e"]);
        *scene.faults() = Faults::default();
        assert_eq!(heard(&mut ear).await, ["b"], "nothing is lost");
    }
}

#[tokio::test]
async fn what_a_later_version_writes_is_skipped() {
    let scene = Scene::new();
    let mut ear = scene.limits.subscribe_violations().await.expect("heard");
    scene.faults().later = Some(shard("a"));
    for subject in ["a", "b"] {
        scene.deny(subject).await;
    }
    assert_eq!(heard(&mut ear).await, ["b"]);
    let all = scene.limits.violations(SECOND).await.expect("an answer");
    assert_eq!(all.iter().map(|found| &*found.subject).collect::<Vec<_>>(), ["b"]);
    scene.faults().later = None;
    for _ in 0..2 {
        scene.deny("a").await;
    }
    assert_eq!(heard(&mut ear).await, ["a"], "the next one is read: it has a count of two");
}

/// A page of records that nobody can read has a page behind it.
#[cfg(feature = "redis")]
#[tokio::test]
async fn records_of_a_later_version_hide_none_behind_them() {
    let stage = super::stage::Stage::redis().await;
    let server = stage.server.as_ref().expect("a server");
    let limits = RateLimiter::over(stage.backend.clone()).without_fast_deny();
    let quota = Quota::sliding_window(0, SECOND * 60);
    limits.check("a", &quota).await.expect("an answer");
    let mut ear = limits.subscribe_violations().await.expect("heard");
    let keys = server.command(&["KEYS", "*violations*"]).await.expect("an answer");
    let key = keys.as_array().expect("keys")[0].as_str().expect("text").to_owned();
    let add = "for _ = 1, 1500 do redis.call('XADD', KEYS[1], '*', 'e', ARGV[1]) end return 1";
    for event in ["later", "denied"] {
        let added = server.command(&["EVAL", add, "1", &key, event]).await.expect("an answer");
        assert_eq!(added.as_int(), Some(1));
    }
    limits.check("a", &quota).await.expect("an answer");
    let all = limits.violations(SECOND * 60).await.expect("an answer");
    assert_eq!(all.iter().map(|found| found.count).collect::<Vec<_>>(), [1, 2]);
    let found = tokio::time::timeout(SECOND * 10, ear.next()).await.expect("is told");
    assert_eq!(found.expect("an answer").count, 2);
}
