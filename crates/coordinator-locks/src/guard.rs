//! The guard: what holds a lock, and gives it up however it ends.

use crate::{
    backend::Renewal,
    client::Inner,
    lease::{Lease, LossReason},
    token::{Fence, Token},
};
use coordinator_core::{Result, clock::Instant};
use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// What became of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Release {
    /// The lock was ours until now.
    Released,
    /// The lock was gone before: its lease ran out, or it was taken away.
    AlreadyGone,
    /// Another guard of the same [`Owner`](crate::Owner) holds it yet.
    StillHeld,
}

/// What became of a renewal by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Renew {
    /// The lease lasts for the ttl from when the renewal was sent, or longer if it did before.
    Renewed,
    /// The lock is not ours any more, with the reason.
    Lost(LossReason),
}

/// A held lock. Dropping it hands the release to a background worker.
///
/// A view of it for the work it protects is [`lease`](Self::lease).
#[must_use = "the lock is given up when the guard is dropped"]
pub struct Guard {
    inner: Arc<Inner>,
    lease: Lease,
    /// Whether dropping it has something to give up.
    armed: bool,
    /// How many guards of one owner share the lease.
    shares: Shares,
}

/// Counts the guards that share a lease; the last one gives it up.
#[derive(Debug, Clone)]
pub(crate) struct Shares(Arc<AtomicUsize>);

impl Shares {
    fn one() -> Self {
        Self(Arc::new(AtomicUsize::new(1)))
    }

    /// One guard more, unless the last one is gone.
    pub(crate) fn enter(&self) -> bool {
        let more = |count| (count > 0).then_some(count + 1);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// One guard fewer; whether it was the last.
    fn leave(&self) -> bool {
        let fewer = |count: usize| count.checked_sub(1);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer) == Ok(1)
    }

    /// None is left to give anything up.
    fn end(&self) {
        self.0.store(0, Ordering::Release);
    }

    pub(crate) fn is_held(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }
}

impl Guard {
    pub(crate) fn new(inner: Arc<Inner>, lease: Lease) -> Self {
        Self { inner, lease, armed: true, shares: Shares::one() }
    }

    /// Another guard of a lease; it has been counted.
    pub(crate) fn again(inner: Arc<Inner>, lease: Lease, shares: Shares) -> Self {
        Self { inner, lease, armed: true, shares }
    }

    pub(crate) fn shares(&self) -> &Shares {
        &self.shares
    }

    /// A view of the lock, to be cloned and passed on.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The lock's name.
    pub fn name(&self) -> &str {
        self.lease.name()
    }

    /// The fencing token: hand it to whatever you write to.
    pub fn fence(&self) -> Fence {
        self.lease.fence()
    }

    /// A public id of this acquisition, the second half of a fence check.
    pub fn id(&self) -> &str {
        self.lease.id()
    }

    /// When the lease ends unless it is renewed; see [`Lease::deadline`].
    pub fn deadline(&self) -> Instant {
        self.lease.deadline()
    }

    /// The time until [`deadline`](Self::deadline), zero once it is lost.
    pub fn remaining(&self) -> Duration {
        self.lease.remaining()
    }

    /// Whether the lease still lasts, without asking anybody; see [`Lease::is_valid`].
    pub fn is_valid(&self) -> bool {
        self.lease.is_valid()
    }

    /// Completes when the lease has ended, with the reason; see [`Lease::lost`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lost(&self) -> LossReason {
        self.lease.lost().await
    }

    /// Runs `work` and drops it as soon as the lease is lost; see [`Lease::run`].
    ///
    /// # Errors
    /// The reason of the loss.
    ///
    /// # Cancel safety
    /// As cancel safe as `work`.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T, LossReason> {
        self.lease.run(work).await
    }

    /// Renews the lease by hand, as the watchdog does by itself. A renewal never shortens.
    ///
    /// # Errors
    /// As [`Locks::renew`](crate::Locks::renew); the lease is not lost by a failed renewal, it
    /// lasts until its deadline.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the lease was renewed.
    pub async fn renew(&self) -> Result<Renew> {
        let state = &self.lease.0;
        if let Some(reason) = state.loss() {
            state.end(reason);
            return Ok(Renew::Lost(reason));
        }
        let sent = self.inner.clock().now();
        let Some((_, ttl)) = state.next_renewal(sent) else {
            return Ok(Renew::Renewed);
        };
        let renewal = Renewal { name: state.name.clone(), token: state.token.clone(), ttl };
        let outcome = self.inner.renew(renewal).await?;
        match outcome {
            Renew::Renewed => {
                state.prolong(sent, ttl);
            }
            Renew::Lost(reason) => state.end(reason),
        }
        Ok(state.loss().map_or(outcome, Renew::Lost))
    }

    /// Gives the lock up and says whether it was still held.
    ///
    /// One round trip; an answer that does not come is asked for again, for at most twice the
    /// command timeout. The answer of a repeated release is that of the first.
    ///
    /// # Errors
    /// As [`Locks::release`](crate::Locks::release); then the background worker goes on trying
    /// until the lock has expired.
    ///
    /// # Cancel safety
    /// Cancel safe: dropping the future hands the release to the background worker.
    pub async fn release(mut self) -> Result<Release> {
        if !self.shares.leave() {
            self.armed = false;
            return Ok(Release::StillHeld);
        }
        // Counted out already; should the release fail, dropping still gives up.
        self.shares = Shares::one();
        let state = &self.lease.0;
        let parting = state.give_up();
        let surrender = self.inner.surrender(&state.name, &state.token, state.ttl);
        let released = self.inner.release(&surrender).await?;
        self.armed = false;
        state.tell_end(&parting, Some(released.was_held));
        Ok(if released.was_held { Release::Released } else { Release::AlreadyGone })
    }

    /// Stops guarding without giving up: whoever has the token goes on, here or in another
    /// process, with [`Locks::renew`](crate::Locks::renew) and
    /// [`Locks::release`](crate::Locks::release). Other guards of the same owner guard no more.
    pub fn detach(mut self) -> Detached {
        self.armed = false;
        self.shares.end();
        let state = &self.lease.0;
        let detached = Detached {
            name: state.name.as_str().to_owned(),
            token: state.token.clone(),
            fence: self.fence(),
            remaining: self.remaining(),
        };
        state.end(LossReason::Released);
        detached
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.armed && self.shares.leave() {
            let state = &self.lease.0;
            let parting = state.give_up();
            state.tell_end(&parting, None);
            let surrender = self.inner.surrender(&state.name, &state.token, state.ttl);
            self.inner.give_up_later(surrender, state.identity.owner.as_deref(), state.ttl);
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&self.lease.0).finish()
    }
}

/// A lock that is held without a guard, from [`Guard::detach`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Detached {
    /// The lock's name.
    pub name: String,
    /// The secret to renew and release it with.
    pub token: Token,
    /// Its fencing token.
    pub fence: Fence,
    /// How long the lease lasts yet.
    pub remaining: Duration,
}
