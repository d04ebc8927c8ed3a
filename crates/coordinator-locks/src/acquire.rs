//! Acquiring: attempts, waiting between them, and cleaning up after the ones nobody answered.

use crate::{
    Guard, Lease,
    backend::{Acquired, Awaited, Claim, Stand},
    client::{Inner, unanswered},
    deadlock::Watch,
    lease,
    lock::Options,
    log::LockEvent,
    outcome::{Blocked, Outcome},
    telemetry::{self, Counted},
    token::{Holder, Identity, Token},
    turns::{Told, Waiter},
    waiting::Place,
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

/// For how long a claim is left to a holder of this process before it stands in the queue itself.
const MOMENT: Duration = Duration::from_millis(20);

/// For how long a place in the queue is given up again and again, while nobody answers.
const PLACE: Duration = Duration::from_mins(10);

/// What one attempt came to.
enum Attempt {
    Granted(Guard),
    Held(Option<Holder>),
    /// Nothing was won or lost; another attempt is due.
    Again,
}

/// Acquires, waiting as the options say, and tells what it came to.
pub(crate) async fn acquire(inner: &Arc<Inner>, name: &Name, options: &Options) -> Result<Outcome> {
    let started = inner.clock().now();
    let identity = Arc::new(Identity {
        task: options.task.clone(),
        id: format!("{}-{}-{:08x}", inner.host, std::process::id(), rand::random::<u32>()),
        owner: options.owner.as_ref().map(|owner| owner.name().to_owned()),
        ..Identity::new(&inner.host)
    });
    let mut waiting = None;
    let ended = seek(Pending::new(inner, name, options, &identity), &mut waiting).await;
    let took = inner.clock().now().saturating_since(started);
    match &ended {
        Ok(Outcome::Acquired(guard)) => {
            telemetry::WAITED.record(took);
            let waited = waiting.is_some().then_some(took);
            guard.lease().0.tell(LockEvent::Acquired { waited });
        }
        // Who does not wait at all is told, and need not be told of.
        Ok(Outcome::TimedOut { .. }) if !options.wait.is_zero() => {
            inner.journal.tell(name, None, &identity, LockEvent::TimedOut { waited: took });
        }
        Ok(Outcome::Deadlock { cycle }) => {
            let event = LockEvent::Deadlock { waited: took, cycle: cycle.clone() };
            inner.journal.tell(name, None, &identity, event);
        }
        _ => {}
    }
    ended
}

/// Acquires; `waiting` is counted from when another is known to hold the lock.
async fn seek(mut claim: Pending<'_>, waiting: &mut Option<Counted>) -> Result<Outcome> {
    let Pending { inner, options, .. } = claim;
    let name = claim.claim.name.clone();
    let clock = inner.clock().clone();
    let started = clock.now();
    let deadline = started + options.wait;
    // Whoever does not wait still waits for the answer.
    let limit = deadline.max(started + inner.backend.step_timeout());
    if options.wait.is_zero() {
        return claim.once(limit).await;
    }
    let place = inner.lines.enter(&name);
    // One of a process stands in the queue, unless somebody wants a place of its own.
    let mut head = if options.own_place() { None } else { place.try_first() };
    let mut early = None;
    if head.is_none() && !options.own_place() {
        *waiting = Some(telemetry::LOCKS_WAITING.enter());
        claim.leave_to_release(&place);
        tokio::select! {
            biased;
            first = until(&*clock, deadline, place.first()) => match first {
                Some(first) => head = Some(first),
                None => return timed_out(&place),
            },
            // Who left its claim just before another stood in line may be served before it.
            told = claim.told() => early = Some(told),
        }
    }
    let mut backoff = Duration::from_millis(20);
    // Whether the last answer was that another holds it.
    let mut held = false;
    let mut watch = None;
    let mut news = match (early, &head) {
        (Some(told), _) => told,
        (None, Some(_)) => claim.succeed(&place, deadline).await,
        (None, None) => Told::Look,
    };
    let ended = loop {
        let attempt = match std::mem::replace(&mut news, Told::Look) {
            Told::Look => claim.attempt(limit).await,
            Told::Granted { fence, sent } => Ok(claim.granted(fence, sent)),
            Told::Stands { ticket, sent } => {
                claim.stands(ticket, sent);
                Ok(Attempt::Held(None))
            }
        };
        if let Ok(Attempt::Held(holder)) = &attempt {
            place.learn(holder.clone());
            held = true;
            waiting.get_or_insert_with(|| telemetry::LOCKS_WAITING.enter());
            watch = watch.or_else(|| claim.watch());
            let heard = tokio::select! {
                biased;
                told = until(&*clock, deadline, claim.told()) => told.ok_or(None),
                cycle = deadlock(&mut watch) => Err(Some(cycle)),
            };
            match heard {
                Ok(told) => news = told,
                Err(cycle) => {
                    break match cycle {
                        Some(cycle) => Ok(Outcome::Deadlock { cycle }),
                        None => timed_out(&place),
                    };
                }
            }
            continue;
        }
        match attempt {
            Ok(Attempt::Granted(guard)) => {
                let identity = Identity::clone(&claim.identity);
                let holder = identity.holder(guard.fence().get(), clock.unix_time());
                place.learn(Some(holder));
                if head.is_some() {
                    place.took(&guard.lease().0.token);
                }
                break Ok(Outcome::Acquired(guard));
            }
            // Another token: what was said of the old one is taken back.
            Ok(_) => watch = None,
            // The wait ended while the last look was on its way: what was seen before counts.
            Err(error) if held && error.is_retryable() && clock.now() >= deadline => {
                break timed_out(&place);
            }
            Err(error) if error.is_retryable() && clock.now() + backoff < deadline => {
                tracing::debug!(lock = %name, error = %error.chain(), "an attempt failed");
                place.fail(error.chain());
                held = false;
                let jitter = backoff.mul_f64(rand::rng().random_range(0.0..0.5));
                clock.sleep_until((clock.now() + backoff + jitter).min(deadline)).await;
                if clock.now() >= deadline {
                    break Err(error);
                }
                backoff = (backoff * 2).min(Duration::from_millis(500));
            }
            Err(error) => {
                place.fail(error.chain());
                break Err(error);
            }
        }
        if clock.now() >= deadline {
            break timed_out(&place);
        }
    };
    end(inner, watch).await;
    ended
}

/// Completes if waiting is in vain.
async fn deadlock(watch: &mut Option<Watch>) -> Vec<Blocked> {
    match watch {
        Some(watch) => watch.deadlock().await,
        None => std::future::pending().await,
    }
}

/// The owner waits no more: nobody shall take it for one that does, whatever it does next. Where
/// the server does not answer, it is said in the background.
async fn end(inner: &Inner, watch: Option<Watch>) {
    if let Some(watch) = watch {
        let clock = inner.clock();
        until(&**clock, clock.now() + Duration::from_millis(150), watch.end()).await;
    }
}

/// The wait is over. Whoever stands behind one that could not ask has sent nothing either.
fn timed_out(place: &Place) -> Result<Outcome> {
    match place.timed_out() {
        Ok(holder) => Ok(Outcome::TimedOut { holder }),
        Err(why) => Err(Error::new(ErrorKind::Unavailable, "locks.acquire").with_source(why)),
    }
}

/// A claim whose outcome is made known: whatever it may have left on the server is given up when
/// it is dropped.
struct Pending<'a> {
    inner: &'a Arc<Inner>,
    options: &'a Options,
    claim: Claim,
    identity: Arc<Identity>,
    /// Known to those who hear of turns, once it waits.
    waiter: Option<Waiter>,
    /// Whether the token may have won, or may yet win.
    unsure: bool,
}

impl<'a> Pending<'a> {
    fn new(
        inner: &'a Arc<Inner>,
        name: &Name,
        options: &'a Options,
        identity: &Arc<Identity>,
    ) -> Self {
        let identity = identity.clone();
        let claim = Claim {
            name: name.clone(),
            token: Token::random(),
            // A lease longer than the longest hold would outlast its guard.
            ttl: options.max_hold.map_or(options.ttl, |hold| options.ttl.min(hold)),
            min_fence: 0,
            identity: identity.encode(),
            stand: None,
            sent: Arc::default(),
        };
        Self { inner, options, claim, identity, waiter: None, unsure: false }
    }

    /// Acquires without waiting for a holder.
    async fn once(&mut self, limit: Instant) -> Result<Outcome> {
        loop {
            match self.attempt(limit).await? {
                Attempt::Granted(guard) => return Ok(Outcome::Acquired(guard)),
                Attempt::Held(holder) => return Ok(Outcome::TimedOut { holder }),
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
        self.stand();
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
            Ok(Acquired::Held { holder, ticket, .. }) => {
                // Whoever stands in the queue may be granted the lock at any time.
                self.unsure = ticket.is_some();
                if let Some(ticket) = ticket {
                    self.stands(ticket, sent);
                }
                Ok(Attempt::Held(holder))
            }
            Ok(Acquired::Refused) => {
                // An earlier attempt had won and was dispossessed before we heard of it.
                self.begin_anew();
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
            identity: self.identity.clone(),
            ttl: self.claim.ttl,
            sent,
            hold_until: self.options.max_hold.map(|hold| sent + hold),
        };
        let journal = self.inner.journal.clone();
        let state = Arc::new(lease::State::new(granted, clock.clone(), journal));
        if !state.is_valid() {
            // The answer came too late to be of use.
            self.give_up();
            self.begin_anew();
            return Attempt::Again;
        }
        self.unsure = false;
        self.waiter = None;
        if self.options.watchdog {
            self.inner.watchdog.watch(&self.inner.backend, state.clone(), sent);
        }
        state.begin();
        Attempt::Granted(Guard::new(self.inner.clone(), Lease(state)))
    }

    /// Makes this claim known to those who hear of turns, if it waits.
    fn stand(&mut self) {
        if self.options.wait.is_zero() {
            return;
        }
        let (name, turns) = (&self.claim.name, &self.inner.turns);
        if self.waiter.is_none() {
            self.waiter = Some(turns.enter(name, &self.claim.token));
        }
        let ticket = self.claim.stand.as_ref().and_then(|stand| stand.ticket);
        let (priority, hears) = (self.options.priority, turns.hears(name));
        self.claim.stand = Some(Stand { client: turns.client().clone(), ticket, priority, hears });
    }

    /// It stands in the queue, since a request sent then.
    fn stands(&mut self, ticket: u64, sent: Instant) {
        if let (Some(waiter), Some(stand)) = (&self.waiter, &mut self.claim.stand) {
            stand.ticket = Some(ticket);
            self.inner.turns.stands(waiter, sent, stand.hears, &self.inner.backend);
        }
    }

    /// Leaves the claim to a holder of this process: its release brings it along, if this is the
    /// next in line by then, and no request of its own is needed.
    fn leave_to_release(&mut self, place: &Place) {
        self.stand();
        // From here on a release may win the lock for it.
        self.unsure = true;
        place.leave_claim(&self.claim);
    }

    /// First in line: gives a release that may be about to come a moment.
    async fn succeed(&mut self, place: &Place, deadline: Instant) -> Told {
        let mut told = None;
        if place.may_be_taken() && self.waiter.is_some() {
            let clock = self.inner.clock();
            told = until(&**clock, deadline.min(clock.now() + MOMENT), self.told()).await;
        }
        place.take_back();
        told.unwrap_or(Told::Look)
    }

    /// Waits to hear of its turn.
    async fn told(&self) -> Told {
        match &self.waiter {
            Some(waiter) => waiter.told().await,
            None => std::future::pending().await,
        }
    }

    /// Looks out for owners that wait in a circle, if this is one.
    fn watch(&self) -> Option<Watch> {
        let owner = self.options.owner.as_ref()?;
        // Whoever has no ticket waits for a lock on its way to another, and is about to get one.
        let since_us = self.claim.stand.as_ref()?.ticket?;
        let (name, token) = (self.claim.name.clone(), self.claim.token.clone());
        let wait = Awaited { token, name, since_us };
        Some(Watch::new(self.inner, owner.as_name(), wait, &self.identity.id))
    }

    /// Goes on with another token, from the end of the queue.
    fn begin_anew(&mut self) {
        self.unsure = false;
        self.waiter = None;
        self.claim.stand = None;
        self.claim.token = Token::random();
    }

    fn give_up(&mut self) {
        self.unsure = false;
        let Claim { name, token, ttl, stand, .. } = &self.claim;
        // A place in the queue outlives the ttl.
        let within = if stand.is_some() { *ttl + PLACE } else { *ttl };
        let surrender = self.inner.surrender(name, token, *ttl);
        self.inner.give_up_later(surrender, self.identity.owner.as_deref(), within);
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.unsure {
            self.give_up();
        }
    }
}
