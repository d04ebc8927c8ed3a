//! Loading what is not there: one loader per key and process, one per fleet while the holder of
//! the lease lives, and nothing stored that was loaded before it was ended.

use crate::{
    backend::{Claimed, Key, Token, Version},
    cache::{Cache, Core, Draft, Look, ms},
    chance,
    entry::Hit,
    error::LoadError,
    flight::{Joined, Landed, Outcome, Passenger, Pilot},
    lease::{self, Held},
    loader::{Loader, Loading},
    slot::Slot,
    tasks,
    watch::{CANARY, GOOD, Waiter},
};
use coordinator_core::ErrorKind;
use futures::{
    FutureExt as _,
    future::{Either, pending, select},
};
use std::{
    error::Error as StdError,
    future::Future,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How many failed keys are remembered before the oldest knowledge goes.
const FAILED_MAX: usize = 4096;

impl<T> Cache<T>
where
    T: Send + Sync + 'static,
{
    /// The value of a key, loaded if there is none in its time.
    ///
    /// One loader runs per key in this process, and one in all instances while the one that runs it
    /// lives; the others wait for what it brings. It runs as a task of its own: whoever drops the
    /// future loses nothing. What is [ended](Self::invalidate) while it is loaded is given to
    /// those who asked before, and not stored.
    ///
    /// Where no server answers the loader runs all the same, once in each process.
    ///
    /// # Errors
    /// As the loader failed, see [`LoadError`], unless there is a stale value within its grace.
    ///
    /// # Cancel safety
    /// Cancel safe: the load goes on.
    pub async fn get_or_load<F, L, E>(&self, key: &str, loader: F) -> Result<Hit<T>, LoadError>
    where
        F: FnOnce(Loading<T>) -> L + Send + 'static,
        L: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let loader = |loading| {
            let load = loader(loading);
            async move { load.await.map(Some) }
        };
        match self.load(key, loader).await? {
            Some(hit) => Ok(hit),
            None => Err(LoadError::Negative),
        }
    }

    /// The same with a loader that may find that there is no value, which is remembered for
    /// [`with_negative`](crate::CacheBuilder::with_negative).
    ///
    /// # Errors
    /// As [`get_or_load`](Self::get_or_load).
    ///
    /// # Cancel safety
    /// Cancel safe: the load goes on.
    pub async fn get_or_load_optional<F, L, E>(
        &self,
        key: &str,
        loader: F,
    ) -> Result<Option<Hit<T>>, LoadError>
    where
        F: FnOnce(Loading<T>) -> L + Send + 'static,
        L: Future<Output = Result<Option<T>, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.load(key, loader).await
    }

    async fn load<F, L, E>(&self, key: &str, loader: F) -> Outcome<T>
    where
        F: FnOnce(Loading<T>) -> L + Send + 'static,
        L: Future<Output = Result<Option<T>, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let core = &self.core;
        if let Some(slot) = core.near(key) {
            core.counts.near();
            if core.is_early(&slot) {
                core.refresh(core.key(key)?, &slot, Loader::new(loader));
            }
            return Ok(slot.fresh());
        }
        // Apart, so that whoever finds it here carries none of it.
        Box::pin(self.load_far(core.key(key)?, loader)).await
    }

    async fn load_far<F, L, E>(&self, key: Key, loader: F) -> Outcome<T>
    where
        F: FnOnce(Loading<T>) -> L + Send + 'static,
        L: Future<Output = Result<Option<T>, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let core = &self.core;
        let (seen, stale) = match core.look(&key).await {
            Ok(Look::Fresh(slot)) => {
                core.counts.far();
                if core.is_early(&slot) {
                    core.refresh(key, &slot, Loader::new(loader));
                }
                return Ok(slot.fresh());
            }
            Ok(Look::Stale(slot)) => (Some(slot.version), slot.hit(true)),
            Ok(Look::Dead(version)) => (version, None),
            Ok(Look::Absent) => (None, None),
            // Without a server: what was kept here, and the loader.
            Err(_) => (None, core.last(&key).and_then(|slot| slot.hit(true))),
        };
        core.counts.miss();
        if core.is_throttled(&key)
            && let Some(hit) = core.in_grace(stale.clone())
        {
            return Ok(Some(core.give(hit)));
        }
        loop {
            let pilot = match core.flights.join(key.key.as_str()) {
                Joined::Pilot(pilot) => pilot,
                Joined::Passenger(seat) => match core.ride(&key, seat, stale.clone()).await {
                    Some(outcome) => return outcome,
                    // It was for several keys, and given up, or brought others: it is our turn.
                    None => continue,
                },
            };
            let seat = pilot.passenger();
            let flown_key = key.clone();
            let (flown, given, flying) = (Loader::new(loader), stale.clone(), core.clone());
            tasks::spawn(async move {
                let outcome = flying.fly(&key, &pilot, (seen, given), true, flown).await;
                pilot.land(outcome);
            });
            let landed = core.ride(&flown_key, seat, stale).await;
            return landed.unwrap_or(Err(LoadError::Ended));
        }
    }
}

impl<T> Core<T>
where
    T: Send + Sync + 'static,
{
    /// What a load that is under way brings, or a stale value: where it fails, or takes too long.
    /// None if it brings nothing of this key.
    async fn ride(
        &self,
        key: &Key,
        seat: Passenger<T>,
        stale: Option<Hit<T>>,
    ) -> Option<Outcome<T>> {
        let mut landed = pin!(self.landed(key, seat));
        let landed = match self.options.soft.filter(|_| stale.is_some()) {
            None => landed.await,
            Some(soft) => {
                let late = self.shared.backend.clock().sleep(soft);
                match select(landed.as_mut(), late).await {
                    Either::Left((landed, _)) => landed,
                    Either::Right(_) => match self.in_grace(stale.clone()) {
                        Some(hit) => return Some(Ok(Some(self.give(hit)))),
                        None => landed.await,
                    },
                }
            }
        };
        let Landed::Outcome(outcome) = landed else { return None };
        Some(match outcome {
            Ok(hit) => Ok(hit.map(|hit| if hit.stale { self.give(hit) } else { hit })),
            Err(error) => match self.in_grace(stale) {
                Some(hit) => Ok(Some(self.give(hit))),
                None => Err(error),
            },
        })
    }

    /// How a load ended, for one who waits. Whoever makes one for several keys may not be polled,
    /// and holds nobody up for longer than that may take.
    pub(crate) async fn landed(&self, key: &Key, mut seat: Passenger<T>) -> Landed<T> {
        let options = &self.options;
        let limit = options.hard.saturating_mul(2).saturating_add(options.wait);
        let late = self.shared.backend.clock().sleep(limit);
        match select(pin!(seat.landed()), late).await {
            Either::Left((landed, _)) => landed,
            Either::Right(_) => {
                self.flights.detach(key.key.as_str());
                Landed::Lost
            }
        }
    }

    /// Counts a stale value that is given.
    pub(crate) fn give(&self, hit: Hit<T>) -> Hit<T> {
        // One that was expired by hand does not say when.
        let known = hit.soft_ms > 0;
        let past = self.shared.backend.now_ms().saturating_sub(hit.soft_ms);
        self.counts.stale(known.then(|| Duration::from_millis(past)));
        hit
    }

    /// Whether it is time to load anew what is still in its time: XFetch.
    pub(crate) fn is_early(&self, slot: &Slot<T>) -> bool {
        let load = Duration::from_micros(u64::from(slot.load_us));
        let left = slot.soft_ms.saturating_sub(self.shared.backend.now_ms());
        chance::is_early(&self.dice, Duration::from_millis(left), load, self.options.beta)
    }

    /// Loads anew in the background, unless somebody does.
    fn refresh(self: &Arc<Self>, key: Key, slot: &Slot<T>, loader: Loader<T>) {
        if let Joined::Pilot(pilot) = self.flights.join(key.key.as_str()) {
            // Whoever joins it came after the value's time.
            let (core, seen, hit) = (self.clone(), slot.version, slot.hit(true));
            tasks::spawn(async move {
                let outcome = core.fly(&key, &pilot, (Some(seen), hit), false, loader).await;
                pilot.land(outcome);
            });
        }
    }

    fn is_throttled(&self, key: &Key) -> bool {
        let now = self.shared.backend.clock().now();
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let at = failed.get(key.key.as_str());
        at.is_some_and(|at| now.saturating_since(*at) < self.options.throttle)
    }

    fn note_failure(&self, key: &Key) {
        let now = self.shared.backend.clock().now();
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() >= FAILED_MAX {
            failed.retain(|_, at| now.saturating_since(*at) < self.options.throttle);
            if failed.len() >= FAILED_MAX {
                failed.clear();
            }
        }
        failed.insert(key.key.as_str().into(), now);
    }

    /// Loads a key, or waits for whoever does.
    async fn fly(
        self: &Arc<Self>,
        key: &Key,
        pilot: &Pilot<T>,
        (seen, stale): (Option<Version>, Option<Hit<T>>),
        waits: bool,
        loader: Loader<T>,
    ) -> Outcome<T> {
        let token = Token::random();
        let (lease, stale) = match self.claim(key, token, seen, stale, waits).await {
            Turn::Found(outcome) => return Ok(outcome),
            Turn::Leased(stale) => (Lease::Ours(token), stale),
            Turn::Late(stale) => (Lease::Theirs, stale),
            Turn::Alone(stale) => (Lease::Unknown, stale),
        };
        match self.run(key, pilot, lease, stale.clone(), loader).await {
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                self.counts.failed();
                self.note_failure(key);
                // That may have ended while it was loaded.
                let Some(hit) = self.in_grace(stale) else { return Err(error) };
                tracing::debug!(key = %key.key, %error, "a load failed: the stale value is given");
                Ok(Some(hit))
            }
        }
    }

    /// Asks for the lease until it is there, a value is, or it was waited for long enough.
    async fn claim(
        &self,
        key: &Key,
        token: Token,
        mut seen: Option<Version>,
        mut stale: Option<Hit<T>>,
        waits: bool,
    ) -> Turn<T> {
        let backend = &self.shared.backend;
        let clock = backend.clock();
        let lease_ms = ms(self.options.lease);
        let began = clock.now();
        self.shared.watch.begin().await;
        loop {
            // Before it is asked: whatever ends the wait from then on is heard.
            let waiter = self.shared.watch.wait_for(key);
            let mut woken = pin!(waiter.woken());
            woken.as_mut().enable();
            let ticket = self.ticket(key);
            let left_ms = match backend.claim(key, token, seen, lease_ms).await {
                Ok(Claimed::Mine) => return Turn::Leased(stale),
                Ok(Claimed::Held { left_ms }) => left_ms,
                Ok(Claimed::Value(bytes)) => match self.judge(key, bytes, ticket).await {
                    Ok(Look::Fresh(slot)) => return Turn::Found(slot.fresh()),
                    Ok(Look::Stale(slot)) => {
                        (seen, stale) = (Some(slot.version), slot.hit(true));
                        continue;
                    }
                    Ok(Look::Dead(version)) => {
                        (seen, stale) = (version, None);
                        continue;
                    }
                    Ok(Look::Absent) | Err(_) => return Turn::Alone(stale),
                },
                Err(error) => {
                    tracing::debug!(key = %key.key, error = error.chain(), "no lease was had");
                    if error.kind() == ErrorKind::Indeterminate {
                        // What is loaded now is not stored: nobody should wait for it.
                        self.give_up(key, token);
                    }
                    return Turn::Alone(stale);
                }
            };
            if !waits && let Some(hit) = self.in_grace(stale.clone()) {
                return Turn::Found(Some(hit));
            }
            let left = self.options.wait.saturating_sub(clock.now().saturating_since(began));
            if left.is_zero() {
                return Turn::Late(stale);
            }
            let lapse = Duration::from_millis(left_ms.saturating_add(1)).min(left);
            self.counts.waited();
            let _ = select(woken, clock.sleep(lapse)).await;
        }
    }

    /// Runs the loader, under a lease if there is one, and stores what it brings.
    async fn run(
        self: &Arc<Self>,
        key: &Key,
        pilot: &Pilot<T>,
        lease: Lease,
        stale: Option<Hit<T>>,
        loader: Loader<T>,
    ) -> Outcome<T> {
        let backend = &self.shared.backend;
        let clock = backend.clock().clone();
        let stale = self.in_grace(stale);
        let loading = Loading::new(self.shared.clone(), &self.options, stale);
        let waiter = self.shared.watch.wait_for(key);
        let token = if let Lease::Ours(token) = lease { Some(token) } else { None };
        // Given up however this ends, but by the answers below.
        let mut held = Held {
            backend: backend.clone(),
            token: token.unwrap_or_else(Token::random),
            lease: self.options.lease,
            keys: token.map(|_| key.clone()).into_iter().collect(),
        };
        let theirs = self.theirs(key, pilot, lease).await;
        if token.is_some() {
            // What a tag stands for may change from here on.
            for tag in &self.options.tags {
                loading.tag(tag).await;
            }
        }
        let (began, loaded_ms) = (clock.now(), backend.now_ms());
        self.counts.load();
        let lost = AtomicBool::new(false);
        let loaded = {
            let call = loader.begin(loading.clone());
            let load = AssertUnwindSafe(call).catch_unwind();
            let keep = async {
                match token {
                    Some(token) => self.keep(key, pilot, token, &waiter, &lost).await,
                    None => self.keep_unleased(key, pilot, theirs, &waiter).await,
                }
            };
            let (load, keep) = (pin!(load), pin!(keep));
            match select(load, select(clock.sleep(self.options.hard), keep)).await {
                Either::Left((Ok(loaded), _)) => loaded,
                Either::Left((Err(_panic), _)) => Err(LoadError::Panicked),
                Either::Right(_) => Err(LoadError::TimedOut(self.options.hard)),
            }
        };
        let load = clock.now().saturating_since(began);
        let lost = lost.load(Ordering::Acquire);
        let token = token.filter(|_| !lost);
        let stored = match (&loaded, token) {
            (Ok(value), Some(token)) => {
                self.store(key, token, value.as_ref(), loaded_ms, load, &loading).await
            }
            (_, token) => Stored::No(token),
        };
        match stored {
            Stored::No(_) if lost => {
                self.counts.refused();
                held.keys.clear();
            }
            Stored::Yes => held.keys.clear(),
            Stored::Refused => {
                self.counts.refused();
                pilot.ended();
                held.keys.clear();
            }
            Stored::No(token) => {
                // Whoever waits need not wait for the lease's end.
                let gone = match token {
                    Some(token) => backend.release(key, token).await.is_ok(),
                    None => false,
                };
                if gone {
                    held.keys.clear();
                }
            }
        }
        Ok(loaded?.map(|value| Hit::loaded(value, loaded_ms)))
    }

    /// Renews a lease, at a third of its time, until it is lost; never ends.
    ///
    /// Whoever ends the key ends the lease. Who comes after that must not be given what this load
    /// brings, so it is looked whenever the lease changes, and each second in any case.
    async fn keep(
        &self,
        key: &Key,
        pilot: &Pilot<T>,
        token: Token,
        waiter: &Waiter,
        lost: &AtomicBool,
    ) {
        let backend = &self.shared.backend;
        let third = self.options.lease / 3;
        let mut held = Ok(true);
        let mut sure = backend.clock().now();
        let mut due = sure + third;
        loop {
            let mut woken = pin!(waiter.woken());
            woken.as_mut().enable();
            // Without an answer it is asked again; the fill finds out in any case.
            let (asked, joined) = (backend.clock().now(), pilot.joined());
            if let Ok(true) = held {
                held = backend.holder(key).await.map(|holder| holder == Some(token));
            }
            if let Ok(true) = held {
                pilot.sure(joined);
                sure = asked;
            } else if asked.saturating_since(sure) >= GOOD {
                self.flights.detach(key.key.as_str());
            }
            if let Ok(false) = held {
                lost.store(true, Ordering::Release);
                pilot.ended();
                return pending().await;
            }
            let pause = due.saturating_since(backend.clock().now()).min(CANARY);
            held = match select(woken, backend.clock().sleep(pause)).await {
                Either::Right(_) if backend.clock().now() >= due => {
                    // No more often: whoever waits for this load is woken by it, in vain.
                    let renewed = backend.renew(key, token, ms(self.options.lease)).await;
                    let pause = if renewed.is_ok() { third } else { third.min(CANARY) };
                    due = backend.clock().now() + pause;
                    renewed
                }
                _ => Ok(true),
            };
        }
    }

    /// Whose another instance's lease is: whoever ends the key takes it away.
    async fn theirs(&self, key: &Key, pilot: &Pilot<T>, lease: Lease) -> Option<Token> {
        let Lease::Theirs = lease else { return None };
        let holder = self.shared.backend.holder(key).await.ok()?;
        if holder.is_none() {
            // That may just have been.
            pilot.ended();
        }
        holder
    }

    /// The same without a lease: who comes later joins this load no more once another instance's
    /// lease changed hands, nor after [`GOOD`], since a change may go unheard. Never ends.
    async fn keep_unleased(
        &self,
        key: &Key,
        pilot: &Pilot<T>,
        theirs: Option<Token>,
        waiter: &Waiter,
    ) {
        let backend = &self.shared.backend;
        let mut late = backend.clock().sleep(GOOD);
        loop {
            let mut woken = pin!(waiter.woken());
            woken.as_mut().enable();
            let joined = pilot.joined();
            // It may have changed before.
            if theirs.is_some()
                && let Ok(now) = backend.holder(key).await
            {
                if now != theirs {
                    pilot.ended();
                    break;
                }
                pilot.sure(joined);
            }
            if let Either::Right(_) = select(woken, &mut late).await {
                break;
            }
        }
        self.flights.detach(key.key.as_str());
        pending::<()>().await;
    }

    async fn store(
        &self,
        key: &Key,
        token: Token,
        value: Option<&T>,
        loaded_ms: u64,
        load: Duration,
        loading: &Loading<T>,
    ) -> Stored {
        let Some(kept) = loading.kept(value.is_none()) else { return Stored::No(Some(token)) };
        let draft =
            Draft { value, ttl: kept.ttl, stale: kept.stale, loaded_ms, load, tags: kept.tags };
        let put = match self.seal(key, draft).await {
            Ok(put) => put,
            Err(error) => {
                tracing::warn!(key = %key.key, error = error.chain(), "a value is not stored");
                return Stored::No(Some(token));
            }
        };
        match self.shared.backend.fill(&put, token).await {
            Ok(true) => Stored::Yes,
            Ok(false) => Stored::Refused,
            Err(error) => {
                tracing::debug!(key = %key.key, error = error.chain(), "a value is not stored");
                self.give_up(key, token);
                Stored::No(None)
            }
        }
    }

    fn give_up(&self, key: &Key, token: Token) {
        let backend = self.shared.backend.clone();
        lease::give_up(backend, token, vec![key.clone()], self.options.lease);
    }
}

/// What became of a value that was loaded.
enum Stored {
    Yes,
    /// It was ended while it was loaded.
    Refused,
    /// Not, and the lease may still be there.
    No(Option<Token>),
}

/// Whose turn it is to load.
enum Turn<T> {
    /// There is a value, or that there is none is known.
    Found(Option<Hit<T>>),
    /// Ours, and what it brings is stored.
    Leased(Option<Hit<T>>),
    /// Ours, since another's took too long, and what it brings is not stored.
    Late(Option<Hit<T>>),
    /// Ours, and what it brings is not stored: nobody told of a lease.
    Alone(Option<Hit<T>>),
}

/// Whose the lease of a key is while we load it.
#[derive(Debug, Clone, Copy)]
enum Lease {
    Ours(Token),
    /// Another instance's.
    Theirs,
    Unknown,
}
