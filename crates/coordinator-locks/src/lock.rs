//! One lock by its name, and how to ask for it.

use crate::{
    Guard, Lease, Locks, acquire,
    outcome::{Outcome, WithError},
    owner::Owner,
    telemetry,
};
use coordinator_core::{Error, Result, key::Name};
use std::{future::Future, time::Duration};

/// The longest ttl and wait.
pub(crate) const LONGEST: Duration = Duration::from_hours(8760);
/// The shortest ttl: below it the allowance for drift and a round trip leave nothing.
const SHORTEST: Duration = Duration::from_millis(10);
/// The highest priority of a waiter.
const HIGHEST_PRIORITY: u8 = 100;
/// The longest description of a task, in bytes.
const TASK_MAX_BYTES: usize = 128;

/// One lock and how to ask for it; nothing happens until it is acquired.
#[derive(Debug, Clone)]
pub struct Lock {
    locks: Locks,
    name: std::result::Result<Name, String>,
    options: Options,
}

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) ttl: Duration,
    pub(crate) wait: Duration,
    pub(crate) max_hold: Option<Duration>,
    pub(crate) watchdog: bool,
    pub(crate) task: Option<String>,
    pub(crate) fair: bool,
    pub(crate) priority: u8,
    pub(crate) owner: Option<Owner>,
}

impl Options {
    /// Whether it stands in the backend's queue itself, and not behind others of this process,
    /// where nobody would see for whom an owner waits.
    pub(crate) fn own_place(&self) -> bool {
        self.fair || self.priority > 0 || self.owner.is_some()
    }
}

impl Lock {
    pub(crate) fn new(locks: &Locks, name: Result<Name>, ttl: Duration) -> Self {
        let wait = Duration::from_secs(10);
        Self {
            locks: locks.clone(),
            name: name.map_err(|error| error.chain()),
            options: Options {
                ttl,
                wait,
                max_hold: None,
                watchdog: true,
                task: None,
                fair: false,
                priority: 0,
                owner: None,
            },
        }
    }

    /// How long the lease lasts without renewal, 10 ms to a year: a dead holder blocks others for
    /// at most this long.
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.options.ttl = ttl;
        self
    }

    /// How long to wait for another holder, at most a year; zero does not wait.
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.options.wait = wait;
        self
    }

    /// The longest that the watchdog keeps the lock, so that work that hangs does not hold it for
    /// ever. Default: no limit.
    pub fn with_max_hold(mut self, max_hold: Duration) -> Self {
        self.options.max_hold = Some(max_hold);
        self
    }

    /// Whether the watchdog renews the lease from a third of its ttl on. Default: it does.
    pub fn with_watchdog(mut self, watchdog: bool) -> Self {
        self.options.watchdog = watchdog;
        self
    }

    /// Whether this waiter is served in the order of arrival among the waiters of all processes.
    /// Default: it is not; a process has one place in the queue for all who wait there, so that
    /// processes take turns and each serves its own waiters in order. A place of one's own costs
    /// the server an entry.
    pub fn with_fair(mut self, fair: bool) -> Self {
        self.options.fair = fair;
        self
    }

    /// Waits with priority, 0 to 100: each step is worth ten seconds of waiting, so that whoever
    /// waits for long enough is served before those of higher priority who come later. Default 0.
    /// A priority above 0 is a place of one's own, as with [`with_fair`](Self::with_fair).
    pub fn with_priority(mut self, priority: u8) -> Self {
        self.options.priority = priority;
        self
    }

    /// Acquires on behalf of an owner: see [`Owner`]. Owners wait in places of their own, as with
    /// [`with_fair`](Self::with_fair).
    pub fn with_owner(mut self, owner: &Owner) -> Self {
        self.options.owner = Some(owner.clone());
        self
    }

    /// What the holder does, at most 128 bytes; shown to whoever asks who holds the lock.
    pub fn with_task(mut self, task: &str) -> Self {
        self.options.task = Some(task.to_owned());
        self
    }

    /// Acquires the lock, waiting in line for another holder.
    ///
    /// One round trip if nobody holds it. Attempts without an answer are repeated with the same
    /// token within the wait.
    ///
    /// # Errors
    /// By the deadline, which is the wait or, if that is longer, the command timeout:
    /// [`Unavailable`](coordinator_core::ErrorKind::Unavailable) or
    /// [`Indeterminate`](coordinator_core::ErrorKind::Indeterminate) without an answer (whatever
    /// was left on the server is then cleaned up in the background),
    /// [`Rejected`](coordinator_core::ErrorKind::Rejected) if the server refuses,
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) for a name, ttl, wait or task out of bounds
    /// or after [`Locks::close`].
    ///
    /// # Cancel safety
    /// Cancel safe: dropping the future at any point loses the place in line, and what it may have
    /// acquired is given up in the background.
    pub async fn acquire(&self) -> Result<Outcome> {
        let ended = match self.check() {
            // Most of it is spent waiting: it is kept off the caller's stack.
            Ok(name) => Box::pin(self.ask(name)).await,
            Err(error) => Err(error),
        };
        telemetry::count(&ended);
        ended
    }

    async fn ask(&self, name: &Name) -> Result<Outcome> {
        let inner = &self.locks.inner;
        inner.start();
        match &self.options.owner {
            None => acquire::acquire(inner, name, &self.options).await,
            Some(owner) => owner.enter(inner, name, &self.options).await,
        }
    }

    /// Acquires the lock if nobody holds it; `None` if another does.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    /// As [`acquire`](Self::acquire).
    pub async fn try_acquire(&self) -> Result<Option<Guard>> {
        match self.clone().with_wait(Duration::ZERO).acquire().await? {
            Outcome::Acquired(guard) => Ok(Some(guard)),
            Outcome::TimedOut { .. } | Outcome::Deadlock { .. } => Ok(None),
        }
    }

    /// Acquires the lock, runs `work` and releases it; see [`Locks::with`].
    ///
    /// # Errors
    /// As [`Locks::with`].
    ///
    /// # Cancel safety
    /// As [`Locks::with`].
    pub async fn with<T, F: Future<Output = T>>(
        &self,
        work: impl FnOnce(Lease) -> F,
    ) -> Result<T, WithError> {
        let outcome = self.acquire().await.map_err(WithError::Failed)?;
        let guard = outcome.acquired().map_err(WithError::Refused)?;
        let done = guard.run(work(guard.lease().clone())).await.map_err(WithError::Lost)?;
        if let Err(error) = guard.release().await {
            tracing::debug!(error = %error.chain(), "a release is left to the background");
        }
        Ok(done)
    }

    fn check(&self) -> Result<&Name> {
        const STEP: &str = "locks.acquire";
        let name = self.name.as_ref().map_err(|why| Error::misuse(STEP, why))?;
        if self.locks.inner.is_closed() {
            return Err(Error::misuse(STEP, "the locks are closed"));
        }
        check_ttl(self.options.ttl)?;
        if self.options.wait > LONGEST {
            return Err(Error::misuse(STEP, "the wait is longer than a year"));
        }
        if let Some(hold) = self.options.max_hold {
            check_ttl(hold)?;
        }
        if self.options.priority > HIGHEST_PRIORITY {
            return Err(Error::misuse(STEP, "a priority is 0 to 100"));
        }
        if self.options.task.as_ref().is_some_and(|task| task.len() > TASK_MAX_BYTES) {
            return Err(Error::misuse(STEP, "a task is described in at most 128 bytes"));
        }
        Ok(name)
    }
}

pub(crate) fn check_ttl(ttl: Duration) -> Result<()> {
    if ttl < SHORTEST || ttl > LONGEST {
        return Err(Error::misuse("locks.ttl", "a ttl or hold is 10 ms to a year"));
    }
    Ok(())
}
