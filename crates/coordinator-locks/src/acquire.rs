//! Acquiring: attempts, waiting between them, and cleaning up after the ones nobody answered.

use crate::{
    Guard, Lease,
    backend::{Acquired, Claim},
    guard::unanswered,
    lease,
    locks::{Inner, Options},
    outcome::Outcome,
    token::{Fence, Holder, Identity, Token},
    waiting::{Head, Known, Place},
};
use coordinator_core::{
    Error, ErrorKind, Result,
    clock::{Instant, until},
    key::Name,
};
use rand::RngExt as _;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// What one attempt came to.
enum Attempt {
    Granted(Guard),
    Held(Holder, Option<Duration>),
    /// Nothing was won or lost; another attempt is due.
    Again,
}

/// Acquires, waiting as the options say.
pub(crate) async fn acquire(inner: &Arc<Inner>, name: &Name, options: &Options) -> Result<Outcome> {
    let clock = inner.clock().clone();
    let started = clock.now();
    let deadline = started + options.wait;
    // Whoever does not wait still waits for the answer.
    let limit = deadline.max(started + inner.backend.step_timeout());
    let mut claim = Pending::new(inner, name, options);
    if options.wait.is_zero() {
        return claim.once(limit).await;
    }
    let place = inner.lines.enter(name);
    let Some(mut head) = until(&*clock, deadline, place.first()).await else {
        return timed_out(&place);
    };
    let mut backoff = Duration::from_millis(20);
    // Whether the last answer was that another holds it.
    let mut held = false;
    loop {
        if let Some(known) = place.known()
            && (head.listens() || !head.may_listen(clock.now()))
        {
            head.wait(&place, &known, &*clock, deadline).await;
            if clock.now() >= deadline {
                return timed_out(&place);
            }
        }
        if let Some(courtesy) = inner.lines.courtesy(name, clock.now()) {
            clock.sleep_until(courtesy.min(deadline)).await;
        }
        match claim.attempt(limit).await {
            Ok(Attempt::Granted(guard)) => {
                let look_again = head.look_again(clock.now(), Some(guard.remaining()));
                let fence = guard.fence().get();
                let holder = claim.identity.clone().holder(fence, clock.unix_time());
                place.learn(Some(Known { fence, holder: Some(holder), look_again }));
                return Ok(Outcome::Acquired(guard));
            }
            Ok(Attempt::Held(holder, ttl)) => {
                let look_again = head.look_again(clock.now(), ttl);
                let fence = holder.fence.get();
                place.learn(Some(Known { fence, holder: Some(holder), look_again }));
                held = true;
                if head.may_listen(clock.now()) {
                    subscribe(inner, name, &mut head, deadline).await;
                    if head.listens() {
                        // It may have been given up before anybody listened: look once more.
                        continue_looking(&place);
                    }
                }
            }
            Ok(Attempt::Again) => {}
            // The wait ended while the last look was on its way: what was seen before counts.
            Err(error) if held && error.is_retryable() && clock.now() >= deadline => {
                return timed_out(&place);
            }
            Err(error) if error.is_retryable() && clock.now() + backoff < deadline => {
                tracing::debug!(lock = %name, error = %error.chain(), "an attempt failed");
                place.fail(error.chain());
                held = false;
                let jitter = backoff.mul_f64(rand::rng().random_range(0.0..0.5));
                clock.sleep_until((clock.now() + backoff + jitter).min(deadline)).await;
                if clock.now() >= deadline {
                    return Err(error);
                }
                backoff = (backoff * 2).min(Duration::from_millis(500));
            }
            Err(error) => {
                place.fail(error.chain());
                return Err(error);
            }
        }
        if clock.now() >= deadline {
            return timed_out(&place);
        }
    }
}

/// The wait is over. Whoever stands behind one that could not ask has sent nothing either.
fn timed_out(place: &Place) -> Result<Outcome> {
    match place.timed_out() {
        Ok(holder) => Ok(Outcome::TimedOut { holder }),
        Err(why) => Err(Error::new(ErrorKind::Unavailable, "locks.acquire").with_source(why)),
    }
}

/// Keeps who holds it for a timeout to tell, and makes the next look come at once.
fn continue_looking(place: &Place) {
    if let Some(mut known) = place.known() {
        known.look_again = Instant::from_start(Duration::ZERO);
        place.learn(Some(known));
    }
}

async fn subscribe(inner: &Arc<Inner>, name: &Name, head: &mut Head, deadline: Instant) {
    let clock = inner.clock();
    let limit = deadline.min(clock.now() + Duration::from_millis(500));
    let pause = match until(&**clock, limit, inner.backend.listen(name)).await {
        Some(Ok(wakeups)) => return head.listen(wakeups),
        Some(Err(error)) => {
            tracing::warn!(lock = %name, error = %error.chain(), "waiting without wake-ups");
            // Trouble of the moment is soon worth another try; a refusal is not.
            if error.is_retryable() { Duration::from_secs(1) } else { Duration::from_mins(1) }
        }
        None => Duration::from_secs(1),
    };
    head.go_deaf(clock.now() + pause);
}

/// A claim whose outcome is made known: whatever it may have left on the server is given up when
/// it is dropped.
struct Pending<'a> {
    inner: &'a Arc<Inner>,
    options: &'a Options,
    claim: Claim,
    identity: Identity,
    /// Whether the token may have won, or may yet win.
    unsure: bool,
}

impl<'a> Pending<'a> {
    fn new(inner: &'a Arc<Inner>, name: &Name, options: &'a Options) -> Self {
        let identity = Identity {
            host: inner.host.clone(),
            pid: std::process::id(),
            task: options.task.clone(),
            owner: format!("{}-{}-{:08x}", inner.host, std::process::id(), rand::random::<u32>()),
        };
        let claim = Claim {
            name: name.clone(),
            token: Token::random(),
            // A lease longer than the longest hold would outlast its guard.
            ttl: options.max_hold.map_or(options.ttl, |hold| options.ttl.min(hold)),
            min_fence: 0,
            identity: identity.encode(),
            sent: Arc::default(),
        };
        Self { inner, options, claim, identity, unsure: false }
    }

    /// Acquires without waiting for a holder.
    async fn once(&mut self, limit: Instant) -> Result<Outcome> {
        loop {
            match self.attempt(limit).await? {
                Attempt::Granted(guard) => return Ok(Outcome::Acquired(guard)),
                Attempt::Held(holder, _) => {
                    return Ok(Outcome::TimedOut { holder: Some(holder) });
                }
                Attempt::Again if self.inner.clock().now() < limit => {}
                Attempt::Again => {
                    return Err(Error::new(ErrorKind::Unavailable, "locks.acquire")
                        .with_source("the answer came when the lease had ended"));
                }
            }
        }
    }

    async fn attempt(&mut self, limit: Instant) -> Result<Attempt> {
        let clock = self.inner.clock();
        let seen = self.inner.fence_seen(&self.claim.name);
        self.claim.min_fence = seen + 1;
        let before = self.unsure;
        // From the first poll on until there is an answer.
        self.unsure = true;
        self.claim.sent.store(false, Ordering::Release);
        let sent = clock.now();
        let answer = until(&**clock, limit, self.inner.backend.acquire(&self.claim)).await;
        let cut = || {
            if self.claim.sent.load(Ordering::Acquire) {
                return Err(unanswered("locks.acquire"));
            }
            Err(Error::new(ErrorKind::Unavailable, "locks.acquire")
                .with_source("there was no connection by the deadline"))
        };
        match answer.unwrap_or_else(cut) {
            Ok(Acquired::Granted { fence }) => Ok(self.granted(fence, sent)),
            Ok(Acquired::Held { holder, ttl }) => {
                self.unsure = before;
                Ok(Attempt::Held(holder, ttl))
            }
            Ok(Acquired::Refused) => {
                // An earlier attempt had won and was dispossessed before we heard of it.
                self.unsure = false;
                self.claim.token = Token::random();
                Ok(Attempt::Again)
            }
            Err(error) => {
                // Once it was handed over no error proves that it was not applied: the client
                // answers all that is in flight with whatever closed its link.
                if !self.claim.sent.load(Ordering::Acquire) {
                    self.unsure = before;
                }
                Err(error)
            }
        }
    }

    fn granted(&mut self, fence: u64, sent: Instant) -> Attempt {
        let clock = self.inner.clock();
        self.inner.note_fence(&self.claim.name, fence);
        let granted = lease::Granted {
            name: self.claim.name.clone(),
            token: self.claim.token.clone(),
            fence,
            owner: self.identity.owner.clone(),
            ttl: self.claim.ttl,
            sent,
            hold_until: self.options.max_hold.map(|hold| sent + hold),
        };
        let state = Arc::new(lease::State::new(granted, clock.clone()));
        if !state.is_valid() {
            // The answer came too late to be of use.
            self.give_up();
            self.claim.token = Token::random();
            return Attempt::Again;
        }
        self.unsure = false;
        if self.options.watchdog {
            self.inner.watchdog.watch(&self.inner.backend, state.clone(), sent);
        }
        tracing::debug!(lock = %self.claim.name, fence = %Fence::new(fence), "acquired");
        Attempt::Granted(Guard::new(self.inner.clone(), Lease(state)))
    }

    fn give_up(&mut self) {
        self.unsure = false;
        let Claim { name, token, ttl, .. } = &self.claim;
        self.inner.give_up_later(self.inner.surrender(name, token, *ttl), *ttl);
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.unsure {
            self.give_up();
        }
    }
}
