//! What the locks of one client share: its backend, its places in line, and who works for it in the
//! background.

use crate::{
    backend::{Backend, Released, Renewal, Renewed, SHARDS, Surrender},
    guard::Renew,
    journal::Journal,
    lease::LossReason,
    token::Token,
    turns::Turns,
    waiting::Lines,
    watchdog::Watchdog,
    worker::Worker,
};
use coordinator_core::{
    Error, ErrorKind, Result,
    clock::{Clock, until},
    key::Name,
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

pub(crate) struct Inner {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) lines: Arc<Lines>,
    pub(crate) turns: Arc<Turns>,
    pub(crate) watchdog: Watchdog,
    pub(crate) worker: Worker,
    pub(crate) journal: Arc<Journal>,
    pub(crate) host: String,
    /// The highest fence seen in each shard: at least that of each name in it, in bounded memory.
    fences: Vec<AtomicU64>,
    closed: AtomicBool,
}

impl Inner {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        let host: String = gethostname::gethostname().to_string_lossy().chars().take(64).collect();
        let journal = Arc::new(Journal::new(backend.clock().clone(), &host));
        Self {
            backend,
            journal,
            lines: Arc::default(),
            turns: Arc::new(Turns::new()),
            watchdog: Watchdog::new(),
            worker: Worker::new(),
            host,
            fences: (0..SHARDS).map(|_| AtomicU64::new(0)).collect(),
            closed: AtomicBool::new(false),
        }
    }

    /// Starts whoever works in the background; must be called within a runtime.
    pub(crate) fn start(&self) {
        self.worker.start(&self.backend, &self.turns);
        self.journal.start(&self.backend);
    }

    /// Refuses whatever is asked from now on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Waits for the answer of a step, for twice the time that a step may take.
    pub(crate) async fn answer<T>(
        &self,
        step: &'static str,
        asked: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let clock = self.clock();
        let limit = clock.now() + self.backend.step_timeout() * 2;
        until(&**clock, limit, asked).await.unwrap_or_else(|| Err(unanswered(step)))
    }

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

impl Inner {
    pub(crate) fn surrender(&self, name: &Name, token: &Token, ttl: Duration) -> Surrender {
        // As long as an acquire with this token could still arrive, and then some.
        let tombstone = ttl + self.backend.step_timeout() * 2 + Duration::from_secs(10);
        Surrender {
            name: name.clone(),
            token: token.clone(),
            tombstone,
            client: self.turns.client().clone(),
            min_fence: self.fence_seen(name) + 1,
            successor: self.lines.successor(name, token).map(Box::new),
        }
    }

    /// In the background; `owner` is who has it, if it is an owner.
    pub(crate) fn give_up_later(&self, surrender: Surrender, owner: Option<&str>, ttl: Duration) {
        let until = self.clock().now() + ttl + self.backend.step_timeout();
        self.worker.surrender(surrender, owner, until);
    }

    /// Releases, and asks again where no answer came. The lock may pass to another waiter here.
    pub(crate) async fn release(&self, surrender: &Surrender) -> Result<Released> {
        let clock = self.clock();
        let limit = clock.now() + self.backend.step_timeout() * 2;
        let mut delay = Duration::from_millis(10);
        loop {
            let sent = clock.now();
            let error = match until(&**clock, limit, self.backend.release(surrender)).await {
                Some(Ok(released)) => {
                    self.turns.passed_on(surrender, &released, sent);
                    return Ok(released);
                }
                Some(Err(error)) => error,
                None => unanswered("locks.release"),
            };
            if !error.is_retryable() || clock.now() + delay >= limit {
                return Err(error);
            }
            clock.sleep(delay).await;
            delay *= 2;
        }
    }

    pub(crate) async fn renew(&self, renewal: Renewal) -> Result<Renew> {
        let shard = renewal.name.shard(SHARDS);
        let leases = [renewal];
        let statuses = self.answer("locks.renew", self.backend.renew(shard, &leases)).await?;
        Ok(match statuses.first() {
            Some(Renewed::Prolonged) => Renew::Renewed,
            Some(Renewed::HeldByAnother) => Renew::Lost(LossReason::Stolen),
            Some(Renewed::ForceReleased) => Renew::Lost(LossReason::ForceReleased),
            Some(Renewed::Released) => Renew::Lost(LossReason::Released),
            Some(Renewed::Gone) | None => Renew::Lost(LossReason::Vanished),
        })
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("backend", &self.backend).finish_non_exhaustive()
    }
}

pub(crate) fn unanswered(step: &'static str) -> Error {
    Error::new(ErrorKind::Indeterminate, step).with_source("no answer came by the deadline")
}
