//! The journal: the one place that tells what happened to locks, as tracing events and as entries
//! of the log, which a background task writes in batches.
//!
//! Telling costs the caller a clone or two and never fails; what the log has no room for is
//! counted.

use crate::{
    backend::{Backend, Line},
    log::{self, LockEvent, millis},
    tasks,
    token::Identity,
};
use coordinator_core::{
    Error, ErrorKind,
    clock::{Clock, Instant, until},
    key::Name,
};
use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// How many entries may wait to be written.
const ROOM: usize = 4096;
/// How many entries one client may write within a second.
const A_SECOND: u32 = 1000;
/// How many entries are written at once.
const BATCH: usize = 256;
/// For how long entries are gathered.
const GATHER: Duration = Duration::from_secs(1);
/// The pause after a write that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Where the operations of one client are told; dropping it writes what is left.
pub(crate) struct Journal {
    clock: Arc<dyn Clock>,
    /// Who we are, where it is about no acquisition.
    us: Arc<Identity>,
    on: AtomicBool,
    started: OnceLock<()>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write.
    wake: Notify,
    /// It shall be written at once.
    hurry: Notify,
    /// Up to which number notes were written, or tried at least.
    tried: watch::Sender<u64>,
}

#[derive(Default)]
struct Queue {
    notes: VecDeque<Note>,
    /// How many there were, with those that had no room.
    count: u64,
    /// How many had no room.
    skipped: u64,
    /// The second in which notes are counted, and their count.
    second: Option<(Instant, u32)>,
    /// Up to which number somebody waits for them.
    urgent: u64,
    closed: bool,
}

/// What happened, to whom.
#[derive(Clone)]
struct Note {
    at: Instant,
    lock: Option<Name>,
    fence: Option<u64>,
    identity: Arc<Identity>,
    event: LockEvent,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody waits for what is to be written.
    fn is_urgent(&self) -> bool {
        let queue = self.queue();
        queue.closed || queue.urgent > *self.tried.borrow() || queue.notes.len() >= BATCH
    }
}

impl Journal {
    pub(crate) fn new(clock: Arc<dyn Clock>, host: &str) -> Self {
        Self {
            clock,
            us: Arc::new(Identity::new(host)),
            on: AtomicBool::new(true),
            started: OnceLock::new(),
            shared: Arc::default(),
        }
    }

    /// This process, where it is about no acquisition.
    pub(crate) fn us(&self) -> &Arc<Identity> {
        &self.us
    }

    /// Starts the task that writes, once; must be called within a runtime.
    pub(crate) fn start(&self, backend: &Arc<dyn Backend>) {
        self.started.get_or_init(|| {
            let writer = Writer { us: self.us.clone(), client: rand::random(), number: 0, lost: 0 };
            tasks::spawn(keep(backend.clone(), self.shared.clone(), writer));
        });
    }

    /// Whether entries are written; events are told anyhow.
    pub(crate) fn switch(&self, on: bool) {
        self.on.store(on, Ordering::Release);
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// Tells what happened to a lock, and to whom.
    pub(crate) fn tell(
        &self,
        lock: &Name,
        fence: Option<u64>,
        identity: &Arc<Identity>,
        event: LockEvent,
    ) {
        trace(lock.as_str(), fence, identity, &event);
        if !self.is_on() {
            return;
        }
        let at = self.clock.now();
        let mut queue = self.shared.queue();
        let within = |from: &(Instant, u32)| at.saturating_since(from.0) < Duration::from_secs(1);
        let (from, told) = queue.second.filter(within).unwrap_or((at, 0));
        let first = queue.notes.is_empty() && queue.skipped == 0;
        queue.count += 1;
        if told >= A_SECOND || queue.notes.len() >= ROOM {
            queue.skipped += 1;
        } else {
            queue.second = Some((from, told + 1));
            let (lock, identity) = (Some(lock.clone()), identity.clone());
            queue.notes.push_back(Note { at, lock, fence, identity, event });
        }
        let full = queue.notes.len() == BATCH;
        drop(queue);
        if first {
            self.shared.wake.notify_one();
        }
        if full {
            self.shared.hurry.notify_one();
        }
    }

    /// Completes when everything told so far was written, or could not be.
    pub(crate) async fn flush(&self) {
        if self.started.get().is_none() {
            return;
        }
        let target = {
            let mut queue = self.shared.queue();
            queue.urgent = queue.count;
            queue.count
        };
        let mut tried = self.shared.tried.subscribe();
        if *tried.borrow_and_update() >= target {
            return;
        }
        self.shared.hurry.notify_one();
        // The sender lives as long as self.
        let _ = tried.wait_for(|tried| *tried >= target).await;
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.wake.notify_one();
        self.shared.hurry.notify_one();
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("on", &self.is_on()).finish_non_exhaustive()
    }
}

/// The schema of these events is in docs/operations.md.
fn trace(lock: &str, fence: Option<u64>, identity: &Identity, event: &LockEvent) {
    macro_rules! tell {
        ($level:ident $(, $field:ident = $value:expr)*) => {
            tracing::event!(
                target: "coordinator::locks",
                tracing::Level::$level,
                event = event.name(),
                lock,
                fence,
                id = (!identity.id.is_empty()).then_some(&*identity.id),
                owner = identity.owner.as_deref(),
                task = identity.task.as_deref()
                $(, $field = $value)*
            )
        };
    }
    match event {
        LockEvent::Acquired { waited } => tell!(DEBUG, waited_ms = waited.map(millis)),
        LockEvent::TimedOut { waited } => tell!(INFO, waited_ms = millis(*waited)),
        LockEvent::Released { held } => tell!(DEBUG, held_ms = held.map(millis)),
        LockEvent::RenewedLate { left } => tell!(WARN, left_ms = millis(*left)),
        LockEvent::Lost { reason, held } => {
            tell!(WARN, reason = reason.as_str(), held_ms = millis(*held));
        }
        LockEvent::Forced { reason, .. } => tell!(WARN, reason = &**reason),
        LockEvent::Deadlock { waited, cycle } => {
            let cycle: Vec<_> = cycle.iter().map(ToString::to_string).collect();
            tell!(WARN, waited_ms = millis(*waited), cycle = cycle.join("; "));
        }
        LockEvent::Skipped { .. } | LockEvent::Other { .. } => {}
    }
}

/// Writes until the journal is dropped and nothing is left.
async fn keep(backend: Arc<dyn Backend>, shared: Arc<Shared>, mut writer: Writer) {
    let clock = backend.clock().clone();
    loop {
        shared.wake.notified().await;
        if !shared.is_urgent() {
            tokio::select! {
                () = clock.sleep(GATHER) => {}
                () = shared.hurry.notified() => {}
            }
        }
        if !writer.write_all(&*backend, &shared).await {
            return;
        }
        let queue = shared.queue();
        if !queue.notes.is_empty() || queue.skipped > 0 {
            // They came meanwhile, and are gathered like others.
            shared.wake.notify_one();
        } else if queue.closed {
            return;
        }
    }
}

struct Writer {
    us: Arc<Identity>,
    /// What the ids of its entries begin with.
    client: u64,
    number: u64,
    /// How many entries the backend refused.
    lost: u64,
}

struct Batch {
    lines: Vec<(Instant, Line)>,
    /// How many entries they stand for.
    stands_for: u64,
    /// The number of the last.
    last: u64,
}

/// What became of a write.
enum Wrote {
    Done,
    /// Another try may help.
    Unanswered,
    Refused,
    /// Nobody will answer any more.
    Over,
}

impl Writer {
    /// Writes what there is, again and again where that may help; whether to go on.
    async fn write_all(&mut self, backend: &dyn Backend, shared: &Shared) -> bool {
        let end = shared.queue().count;
        while let Some(batch) = self.take(backend.clock().now(), shared) {
            loop {
                match write(backend, shared, &batch.lines).await {
                    Wrote::Done => break,
                    Wrote::Over => return false,
                    Wrote::Refused => {
                        self.lost += batch.stands_for;
                        pause(backend, shared).await;
                        break;
                    }
                    Wrote::Unanswered => pause(backend, shared).await,
                }
            }
            shared.tried.send_modify(|tried| *tried = (*tried).max(batch.last));
            // What came meanwhile is not written one by one.
            if batch.last >= end && !shared.is_urgent() {
                break;
            }
        }
        true
    }

    fn take(&mut self, now: Instant, shared: &Shared) -> Option<Batch> {
        let (notes, mut skipped, last) = {
            let mut queue = shared.queue();
            let some = queue.notes.len().min(BATCH);
            let notes: Vec<_> = queue.notes.drain(..some).collect();
            let skipped = std::mem::take(&mut queue.skipped);
            (notes, skipped, queue.count - queue.notes.len() as u64)
        };
        if notes.is_empty() && skipped == 0 {
            return None;
        }
        skipped += std::mem::take(&mut self.lost);
        let stands_for = notes.len() as u64 + skipped;
        let missing = (skipped > 0).then(|| Note {
            at: now,
            lock: None,
            fence: None,
            identity: self.us.clone(),
            event: LockEvent::Skipped { count: skipped },
        });
        let lines = notes.into_iter().chain(missing);
        let lines = lines.map(|note| (note.at, self.line(&note))).collect();
        Some(Batch { lines, stands_for, last })
    }

    fn line(&mut self, note: &Note) -> Line {
        self.number += 1;
        let lock = note.lock.as_ref().map_or("", Name::as_str);
        Line {
            id: format!("{:016x}{:x}", self.client, self.number),
            age: Duration::ZERO,
            entry: log::encode(lock, note.fence, &note.identity, &note.event),
        }
    }
}

async fn write(backend: &dyn Backend, shared: &Shared, lines: &[(Instant, Line)]) -> Wrote {
    let clock = backend.clock();
    let now = clock.now();
    let aged =
        |(at, line): &(Instant, Line)| Line { age: now.saturating_since(*at), ..line.clone() };
    let lines: Vec<_> = lines.iter().map(aged).collect();
    let limit = now + backend.step_timeout() * 2;
    let error = match until(&**clock, limit, backend.log(&lines)).await {
        Some(Ok(())) => return Wrote::Done,
        Some(Err(error)) => Some(error),
        None => None,
    };
    let why = error.as_ref().map_or_else(|| "no answer".to_owned(), Error::chain);
    tracing::debug!(error = why, entries = lines.len(), "the log was not written");
    let queue = shared.queue();
    // Whoever waits for the log has waited long enough.
    shared.tried.send_replace(queue.count);
    match error {
        _ if queue.closed => Wrote::Over,
        Some(error) if error.kind() == ErrorKind::Misuse => Wrote::Over,
        Some(error) if !error.is_retryable() => Wrote::Refused,
        _ => Wrote::Unanswered,
    }
}

/// Waits before the next try, unless somebody waits for it.
async fn pause(backend: &dyn Backend, shared: &Shared) {
    tokio::select! {
        () = backend.clock().sleep(PAUSE) => {}
        () = shared.hurry.notified() => {}
    }
}
