//! The public nouns: the locks of an application, and one lock by its name.

use crate::{
    Guard, Lease, acquire,
    backend::{Backend, Renewal, SHARDS},
    embedded::Embedded,
    fence::FenceRegister,
    guard::{Release, Renew, unanswered},
    lease::LossReason,
    outcome::{Outcome, WithError},
    token::{HeldLock, Token},
    turns::Turns,
    waiting::Lines,
    watchdog::Watchdog,
    worker::Worker,
};
use coordinator_core::{
    Error, Result,
    clock::{Clock, SystemClock, until},
    health::Finding,
    key::Name,
};
use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// The longest ttl and wait.
const LONGEST: Duration = Duration::from_hours(8760);
/// The shortest ttl: below it the allowance for drift and a round trip leave nothing.
const SHORTEST: Duration = Duration::from_millis(10);
/// The highest priority of a waiter.
const HIGHEST_PRIORITY: u8 = 100;
/// The longest description of a task, in bytes.
const TASK_MAX_BYTES: usize = 128;

/// Locks that instances share; clones share one client.
///
/// See the [crate's documentation](crate) for what is guaranteed and what is not.
#[derive(Debug, Clone)]
pub struct Locks {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) lines: Arc<Lines>,
    pub(crate) turns: Arc<Turns>,
    pub(crate) watchdog: Watchdog,
    pub(crate) worker: Worker,
    pub(crate) host: String,
    /// The highest fence seen in each shard: at least that of each name in it, in bounded memory.
    fences: Vec<AtomicU64>,
    closed: AtomicBool,
}

impl Inner {
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        self.backend.clock()
    }

    pub(crate) fn fence_seen(&self, name: &Name) -> u64 {
        self.fences[usize::from(name.shard(SHARDS))].load(Ordering::Acquire)
    }

    pub(crate) fn note_fence(&self, name: &Name, fence: u64) {
        self.fences[usize::from(name.shard(SHARDS))].fetch_max(fence, Ordering::AcqRel);
    }
}

impl Locks {
    /// Locks over Redis or Valkey. The connection stays the caller's to close.
    #[cfg(feature = "redis")]
    pub fn redis(connection: &coordinator_core::redis::Connection) -> Self {
        Self::over(Arc::new(crate::redis::Redis::new(connection)))
    }

    /// Locks in this process: clones share them, another call makes others.
    pub fn embedded() -> Self {
        Self::embedded_with_clock(Arc::new(SystemClock))
    }

    /// [`embedded`](Self::embedded) on a clock of the caller's, for tests.
    pub fn embedded_with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::over(Arc::new(Embedded::new(clock)))
    }

    pub(crate) fn over(backend: Arc<dyn Backend>) -> Self {
        let host = gethostname::gethostname().to_string_lossy().chars().take(64).collect();
        let inner = Inner {
            backend,
            lines: Arc::default(),
            turns: Arc::new(Turns::new()),
            watchdog: Watchdog::new(),
            worker: Worker::new(),
            host,
            fences: (0..SHARDS).map(|_| AtomicU64::new(0)).collect(),
            closed: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Another client of the same locks: it shares no line, watchdog or memory of fences with this
    /// one, just as another process would not.
    pub fn peer(&self) -> Self {
        Self::over(self.inner.backend.clone())
    }

    /// Acquires a lock with the defaults of [`named`](Self::named).
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    pub async fn acquire(&self, name: &str) -> Result<Outcome> {
        self.named(name).acquire().await
    }

    /// Acquires a lock if nobody holds it; `None` if another does.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    pub async fn try_acquire(&self, name: &str) -> Result<Option<Guard>> {
        self.named(name).try_acquire().await
    }

    /// Acquires a lock, runs `work` with a view of it, and releases it. If the lock is lost, the
    /// work is dropped where it stands.
    ///
    /// ```
    /// # use coordinator_locks::Locks;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let locks = Locks::embedded();
    /// let total = locks
    ///     .with("invoice:42", |lease| async move {
    ///         // write(total, lease.fence()).await
    ///         lease.fence().get()
    ///     })
    ///     .await?;
    /// # assert!(total > 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`WithError`]: refused, lost, or failed. A release that fails is left to the background
    /// worker: the work was done.
    ///
    /// # Cancel safety
    /// Dropping the future drops the work and gives the lock up in the background.
    pub async fn with<T, F: Future<Output = T>>(
        &self,
        name: &str,
        work: impl FnOnce(Lease) -> F,
    ) -> Result<T, WithError> {
        self.named(name).with(work).await
    }

    /// A lock by its name: 1 to 512 bytes of any text. It is checked when it is used.
    ///
    /// Defaults: ttl 30 s, wait 10 s, renewed by the watchdog for as long as it is held.
    pub fn named(&self, name: &str) -> Lock {
        Lock::new(self, Name::new(name), Duration::from_secs(30))
    }

    /// The lock of an operation of a crew, named `crew:<crew>:<operation>`; ttl 30 s.
    pub fn crew(&self, crew: &str, operation: &str) -> Lock {
        Lock::new(self, Name::composed("crew", &[crew, operation]), Duration::from_secs(30))
    }

    /// The lock of a task, named `task:<task>`; ttl 60 s.
    pub fn task(&self, task: &str) -> Lock {
        Lock::new(self, Name::composed("task", &[task]), Duration::from_mins(1))
    }

    /// The lock of an operation on a resource, named `resource:<resource>:<operation>`; ttl 15 s.
    pub fn resource(&self, resource: &str, operation: &str) -> Lock {
        let name = Name::composed("resource", &[resource, operation]);
        Lock::new(self, name, Duration::from_secs(15))
    }

    /// Renews a lock that is held by its token alone, for `ttl` from now or longer if it was.
    ///
    /// # Errors
    /// [`Unavailable`](coordinator_core::ErrorKind::Unavailable) or
    /// [`Indeterminate`](coordinator_core::ErrorKind::Indeterminate) without an answer,
    /// [`Rejected`](coordinator_core::ErrorKind::Rejected) if the server refuses,
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) for a name or ttl out of bounds.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the lock was renewed.
    pub async fn renew(&self, name: &str, token: &Token, ttl: Duration) -> Result<Renew> {
        check_ttl(ttl)?;
        let renewal = Renewal { name: Name::new(name)?, token: token.clone(), ttl };
        self.inner.renew(renewal).await
    }

    /// Releases a lock that is held by its token alone. Repeated within a minute, it answers the
    /// same.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the lock was released; release it again.
    pub async fn release(&self, name: &str, token: &Token) -> Result<Release> {
        let name = Name::new(name)?;
        let surrender = self.inner.surrender(&name, token, Duration::from_mins(1));
        let released = self.inner.release(&surrender).await?;
        Ok(if released.was_held { Release::Released } else { Release::AlreadyGone })
    }

    /// Takes a lock away from whoever holds it, and answers from whom. The holder is told with
    /// [`LossReason::ForceReleased`] at its next renewal; until then only its fence keeps its
    /// writes out.
    ///
    /// # Errors
    /// As [`renew`](Self::renew), and [`Misuse`](coordinator_core::ErrorKind::Misuse) for a reason
    /// that is empty or longer than 512 bytes.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the lock was taken away.
    pub async fn force_release(&self, name: &str, reason: &str) -> Result<Option<HeldLock>> {
        const STEP: &str = "locks.force_release";
        if reason.is_empty() || reason.len() > 512 {
            return Err(Error::misuse(STEP, "a reason of 1 to 512 bytes must be given"));
        }
        // The holder is named by its fence, so that a repeated step spares its successor.
        let Some(held) = self.show(name).await? else {
            return Ok(None);
        };
        let clock = self.inner.clock();
        let limit = clock.now() + self.inner.backend.step_timeout() * 2;
        let (name, fence) = (Name::new(name)?, held.holder.fence.get());
        let tombstone = LONGEST.min(held.ttl + Duration::from_hours(1));
        let asked = self.inner.backend.force_release(&name, fence, tombstone, reason);
        let taken = until(&**clock, limit, asked).await.unwrap_or_else(|| Err(unanswered(STEP)))?;
        if taken {
            tracing::warn!(lock = %name, fence, owner = held.holder.owner, reason, "forced");
        }
        Ok(taken.then_some(held))
    }

    /// Who holds a lock, if anybody does.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn show(&self, name: &str) -> Result<Option<HeldLock>> {
        const STEP: &str = "locks.show";
        let name = Name::new(name)?;
        let clock = self.inner.clock();
        let limit = clock.now() + self.inner.backend.step_timeout() * 2;
        let seen = until(&**clock, limit, self.inner.backend.show(&name))
            .await
            .unwrap_or_else(|| Err(unanswered(STEP)))?;
        Ok(seen.map(HeldLock::from))
    }

    /// A page of the held locks: at most `limit` (at least one), and where the next page begins.
    ///
    /// Locks that are taken, renewed or released while paging may be missed or met twice.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn holders(
        &self,
        from: Cursor,
        limit: usize,
    ) -> Result<(Vec<HeldLock>, Option<Cursor>)> {
        const STEP: &str = "locks.list";
        let clock = self.inner.clock();
        let limit = limit.max(1);
        let mut held = Vec::new();
        let mut at = from;
        while at.shard < SHARDS {
            let room = (limit - held.len()) as u64;
            let stop = clock.now() + self.inner.backend.step_timeout() * 2;
            let asked = self.inner.backend.list(at.shard, at.offset, room);
            let (looked_at, seen) =
                until(&**clock, stop, asked).await.unwrap_or_else(|| Err(unanswered(STEP)))?;
            held.extend(seen.into_iter().map(HeldLock::from));
            at = if looked_at < room {
                Cursor { shard: at.shard + 1, offset: 0 }
            } else {
                Cursor { shard: at.shard, offset: at.offset + looked_at }
            };
            if held.len() >= limit {
                return Ok((held, Some(at)));
            }
        }
        Ok((held, None))
    }

    /// Every held lock, by name.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn list(&self) -> Result<Vec<HeldLock>> {
        let mut all = Vec::new();
        let mut from = Some(Cursor::default());
        while let Some(cursor) = from {
            let (page, next) = self.holders(cursor, 500).await?;
            all.extend(page);
            from = next;
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.dedup_by(|a, b| a.name == b.name);
        Ok(all)
    }

    /// A fence checker in the backend of these locks, for resources that cannot check themselves.
    pub fn fence_register(&self) -> FenceRegister {
        FenceRegister::new(self.inner.clone())
    }

    /// What of the server's set-up breaks the promises of locks: eviction, a replica in the
    /// place of a master, an old version, a clock that is off; missing persistence as a note. It
    /// is also looked at once at the first acquire, and all but notes is logged at warn.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn audit(&self) -> Result<Vec<Finding>> {
        self.inner.backend.audit().await
    }

    /// Refuses further acquires and waits until what was dropped is given up, at most `limit`;
    /// whether it all was. Guards that are still held stay held.
    ///
    /// # Cancel safety
    /// Cancel safe: the background worker goes on.
    pub async fn close(&self, limit: Duration) -> bool {
        self.inner.closed.store(true, Ordering::Release);
        let clock = self.inner.clock();
        until(&**clock, clock.now() + limit, self.inner.worker.idle()).await.is_some()
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("backend", &self.backend).finish_non_exhaustive()
    }
}

/// Where a page of [`Locks::holders`] begins; the default is the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Cursor {
    shard: u16,
    offset: u64,
}

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
}

impl Options {
    /// Whether it stands in the backend's queue itself, and not behind others of this process.
    pub(crate) fn own_place(&self) -> bool {
        self.fair || self.priority > 0
    }
}

impl Lock {
    fn new(locks: &Locks, name: Result<Name>, ttl: Duration) -> Self {
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
        let name = self.check()?;
        let inner = &self.locks.inner;
        inner.worker.start(&inner.backend, &inner.turns);
        // Most of it is spent waiting: it is kept off the caller's stack.
        Box::pin(acquire::acquire(inner, name, &self.options)).await
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
            Outcome::TimedOut { .. } => Ok(None),
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
        if self.locks.inner.closed.load(Ordering::Acquire) {
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

fn check_ttl(ttl: Duration) -> Result<()> {
    if ttl < SHORTEST || ttl > LONGEST {
        return Err(Error::misuse("locks.ttl", "a ttl or hold is 10 ms to a year"));
    }
    Ok(())
}

impl From<crate::backend::Seen> for HeldLock {
    fn from(seen: crate::backend::Seen) -> Self {
        let crate::backend::Seen { name, holder, ttl, waiters } = seen;
        Self { name: name.as_str().to_owned(), holder, ttl, waiters }
    }
}

// A lost lock is an error to those who say so with `?`.
impl From<LossReason> for WithError {
    fn from(reason: LossReason) -> Self {
        Self::Lost(reason)
    }
}
