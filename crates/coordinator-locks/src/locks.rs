//! The public nouns: the locks of an application, and one lock by its name.

use crate::{
    Guard, Lease,
    backend::{Backend, LOG, Renewal, SHARDS},
    client::Inner,
    embedded::Embedded,
    fence::FenceRegister,
    guard::{Release, Renew},
    lock::{LONGEST, Lock, check_ttl},
    log::{self, LockEvent, LogEntry},
    outcome::{Outcome, WithError},
    owner::Owner,
    telemetry::METRICS,
    token::{HeldLock, Identity, Token, Waiter},
};
use coordinator_core::{
    Error, Result,
    clock::{Clock, SystemClock, until},
    health::Finding,
    key::Name,
};
use std::{future::Future, sync::Arc, time::Duration};

/// Locks that instances share; clones share one client.
///
/// See the [crate's documentation](crate) for what is guaranteed and what is not.
#[derive(Debug, Clone)]
pub struct Locks {
    pub(crate) inner: Arc<Inner>,
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
        coordinator_core::telemetry::describe(METRICS);
        Self { inner: Arc::new(Inner::new(backend)) }
    }

    /// Another client of the same locks: it shares no line, watchdog or memory of fences with this
    /// one, just as another process would not.
    pub fn peer(&self) -> Self {
        Self::over(self.inner.backend.clone()).with_log(self.inner.journal.is_on())
    }

    /// Whether this client, with all its clones, writes what happens into the log that
    /// [`log`](Self::log) reads. Default: it does.
    pub fn with_log(self, log: bool) -> Self {
        self.inner.journal.switch(log);
        self
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

    /// An owner that holds several locks, by a name of 1 to 512 bytes: within it a lock is entered
    /// again, and who waits for whom is looked at so that a deadlock is told. See [`Owner`].
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) for a name out of bounds.
    pub fn owner(&self, name: &str) -> Result<Owner> {
        Ok(Owner::new(self, Name::new(name)?))
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
        if !released.was_held {
            return Ok(Release::AlreadyGone);
        }
        self.inner.start();
        let journal = &self.inner.journal;
        journal.tell(&name, None, journal.us(), LockEvent::Released { held: None });
        Ok(Release::Released)
    }

    /// Takes a lock away from whoever holds it, and answers from whom. The holder is told with
    /// [`ForceReleased`](crate::LossReason::ForceReleased) at its next renewal; until then only
    /// its fence keeps its writes out.
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
        let (name, fence) = (Name::new(name)?, held.holder.fence.get());
        let tombstone = LONGEST.min(held.ttl + Duration::from_hours(1));
        let asked = self.inner.backend.force_release(&name, fence, tombstone, reason);
        let taken = self.inner.answer(STEP, asked).await?;
        if !taken {
            return Ok(None);
        }
        self.inner.start();
        let by = format!("{} pid {}", self.inner.host, std::process::id());
        let event = LockEvent::Forced { reason: reason.to_owned(), by };
        let victim = Arc::new(Identity::from(&held.holder));
        self.inner.journal.tell(&name, Some(fence), &victim, event);
        Ok(Some(held))
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
        let seen = self.inner.answer(STEP, self.inner.backend.show(&name)).await?;
        Ok(seen.map(HeldLock::from))
    }

    /// Who waits for a lock, the next first; at most `limit`. A process that waits without
    /// [`Lock::with_fair`], priority or owner is one waiter, however many wait there.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn waiters(&self, name: &str, limit: usize) -> Result<Vec<Waiter>> {
        const STEP: &str = "locks.waiters";
        let name = Name::new(name)?;
        let asked = self.inner.backend.waiters(&name, limit as u64);
        let queued = self.inner.answer(STEP, asked).await?;
        Ok(queued.into_iter().map(Waiter::from).collect())
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
        let limit = limit.max(1);
        let mut held = Vec::new();
        let mut at = from;
        while at.shard < SHARDS {
            let room = (limit - held.len()) as u64;
            let asked = self.inner.backend.list(at.shard, at.offset, room);
            let (looked_at, seen) = self.inner.answer(STEP, asked).await?;
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

    /// What happened to locks, in all processes, not longer ago than `since`; the newest `limit`
    /// entries, the newest last.
    ///
    /// The log keeps about the newest 10,000 entries, for a week after the last. Each client writes
    /// in the background, within about a second while the backend answers and at most 1,000 entries
    /// a second: it is for people, not for accounts. What this client has to tell is written first.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn log(&self, since: Duration, limit: usize) -> Result<Vec<LogEntry>> {
        const STEP: &str = "locks.read_log";
        let clock = self.inner.clock();
        let patience = clock.now() + self.inner.backend.step_timeout();
        until(&**clock, patience, self.inner.journal.flush()).await;
        let limit = limit.min(LOG) as u64;
        let read = self.inner.backend.read_log(since.min(LONGEST), limit);
        let read = self.inner.answer(STEP, read).await?;
        let mut entries: Vec<_> =
            read.into_iter().rev().map(|one| log::decode(one.at, &one.entry)).collect();
        // They came in the order in which they were written.
        entries.sort_by_key(|entry| entry.at);
        Ok(entries)
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

    /// Refuses further acquires and waits until what was dropped is given up and the log is
    /// written, at most `limit`; whether all was given up. Guards that are still held stay held.
    ///
    /// # Cancel safety
    /// Cancel safe: the background worker goes on.
    pub async fn close(&self, limit: Duration) -> bool {
        self.inner.close();
        let clock = self.inner.clock();
        let limit = clock.now() + limit;
        let idle = until(&**clock, limit, self.inner.worker.idle()).await.is_some();
        until(&**clock, limit, self.inner.journal.flush()).await;
        idle
    }
}

/// Where a page of [`Locks::holders`] begins; the default is the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Cursor {
    shard: u16,
    offset: u64,
}

impl From<crate::backend::Seen> for HeldLock {
    fn from(seen: crate::backend::Seen) -> Self {
        let crate::backend::Seen { name, holder, ttl, waiters } = seen;
        Self { name: name.as_str().to_owned(), holder, ttl, waiters }
    }
}
