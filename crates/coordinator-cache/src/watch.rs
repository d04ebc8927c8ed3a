//! Hears of changes for all caches of an owner: who tells near caches, wakes waiters, and knows
//! until when all changes are surely heard of.
//!
//! It keeps no values and asks no loader.

use crate::{
    backend::{Backend, Changed, Feed, Key, Marks, Version},
    tasks, telemetry,
};
use coordinator_core::{
    Result,
    clock::{Clock, Instant},
};
use futures::future::{Either, join, select};
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// How often it is asked whether all changes are heard of.
pub(crate) const CANARY: Duration = Duration::from_secs(1);
/// After how many questions without an answer the link is made anew.
const SILENCES: u32 = 2;
/// For how long an answer is good, from when it was asked for: what is kept near is served so long
/// after its change at the most, whatever becomes of the link.
pub(crate) const GOOD: Duration = Duration::from_secs(2);

/// By how much the clocks may drift apart between two answers, in ms: a clock that is corrected
/// bit by bit stays below it.
const LEAP_MS: u64 = 100;

fn ahead_ms(clock: &dyn Clock) -> u64 {
    let ahead = clock.unix_time().saturating_sub(clock.now().since_start());
    u64::try_from(ahead.as_millis()).unwrap_or(u64::MAX)
}

/// What is known of the changes that are heard of.
#[derive(Debug)]
pub(crate) struct Heard {
    epoch: AtomicU64,
    /// Until when all changes are heard of, in ns after `base`; 0 for not at all.
    until: AtomicU64,
    base: Instant,
    clock: Option<Arc<dyn Clock>>,
    /// By how much the wall clock was ahead of the other one, in ms.
    ahead_ms: AtomicU64,
}

impl Heard {
    fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            epoch: AtomicU64::new(1),
            until: AtomicU64::new(0),
            base: clock.now(),
            ahead_ms: AtomicU64::new(ahead_ms(&*clock)),
            clock: Some(clock),
        }
    }

    /// Nothing is ever missed.
    #[cfg(test)]
    pub(crate) fn always() -> Self {
        use coordinator_core::clock::SystemClock;
        let (base, ahead_ms) = (SystemClock.now(), AtomicU64::new(0));
        Self { epoch: AtomicU64::new(1), until: AtomicU64::new(1), base, clock: None, ahead_ms }
    }

    /// All changes are heard of for so long from now.
    #[cfg(test)]
    pub(crate) fn until(clock: Arc<dyn Clock>, good: Duration) -> Self {
        let heard = Self::new(clock);
        heard.good_until(heard.base + good);
        heard
    }

    /// Now, in ns after `base`.
    pub(crate) fn now_ns(&self) -> u64 {
        let Some(clock) = &self.clock else { return 0 };
        let ns = clock.now().saturating_since(self.base).as_nanos();
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// The epoch, while all changes are heard of.
    pub(crate) fn epoch(&self) -> Option<u64> {
        self.epoch_at(self.now_ns())
    }

    /// The same at a time that was just [read](Self::now_ns).
    pub(crate) fn epoch_at(&self, now_ns: u64) -> Option<u64> {
        let epoch = self.epoch.load(Ordering::Acquire);
        (now_ns < self.until.load(Ordering::Acquire)).then_some(epoch)
    }

    /// Changes may have been missed: whatever is kept is forgotten.
    pub(crate) fn flush(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    fn good_until(&self, until: Instant) {
        if let Some(clock) = &self.clock {
            // What is kept has its time by a clock that stands still while the machine sleeps.
            let ahead_ms = ahead_ms(&**clock);
            if self.ahead_ms.swap(ahead_ms, Ordering::Relaxed).abs_diff(ahead_ms) > LEAP_MS {
                self.flush();
            }
        }
        let ns = until.saturating_since(self.base).as_nanos();
        self.until.store(u64::try_from(ns).unwrap_or(u64::MAX).max(1), Ordering::Release);
    }

    fn bad(&self) {
        self.until.store(0, Ordering::Release);
    }
}

/// Is told of changes in a namespace.
pub(crate) trait Listener: Send + Sync {
    fn changed(&self, key: &str);

    /// Changes may have been missed; what is kept near is of another epoch already.
    fn missed(&self) {}
}

/// How changes are heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hearing {
    /// Not yet: nobody needed to.
    Idle,
    /// The server tracks keys and tells of their changes (`CLIENT TRACKING`).
    Tracking,
    /// The server refuses to track; changes are told by pub/sub. Those that expire are not.
    Messages,
    /// Not now: what is kept near is not served.
    Nothing,
}

/// One per owner.
pub(crate) struct Watch {
    backend: Arc<dyn Backend>,
    pub(crate) heard: Arc<Heard>,
    listeners: Mutex<HashMap<String, Vec<Weak<dyn Listener>>>>,
    tags: Mutex<Option<Weak<dyn Listener>>>,
    waiters: Mutex<HashMap<Key, Weak<Notify>>>,
    begun: AtomicBool,
    /// Whether it was asked once, with whatever answer.
    ready: watch::Sender<bool>,
    /// Whether by messages instead of tracking.
    messages: AtomicBool,
    /// Something says that it should be asked at once.
    ask: Notify,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("heard", &self.heard).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Arc<Self> {
        let heard = Arc::new(Heard::new(backend.clock().clone()));
        Arc::new(Self {
            backend,
            heard,
            listeners: Mutex::default(),
            tags: Mutex::default(),
            waiters: Mutex::default(),
            begun: AtomicBool::new(false),
            ready: watch::channel(false).0,
            messages: AtomicBool::new(false),
            ask: Notify::new(),
        })
    }

    /// How changes are heard of now.
    pub(crate) fn hearing(&self) -> Hearing {
        if !self.begun.load(Ordering::Acquire) {
            Hearing::Idle
        } else if self.heard.epoch().is_none() {
            Hearing::Nothing
        } else if self.messages.load(Ordering::Relaxed) {
            Hearing::Messages
        } else {
            Hearing::Tracking
        }
    }

    pub(crate) fn tell(&self, namespace: &str, listener: Weak<dyn Listener>) {
        let alive = |listener: &Weak<dyn Listener>| listener.strong_count() > 0;
        let mut listeners = lock(&self.listeners);
        // What is gone leaves when there is no more room: a cache made costs nothing on average.
        if listeners.len() == listeners.capacity() {
            listeners.retain(|_, of| of.iter().any(alive));
        }
        let of = listeners.entry(namespace.to_owned()).or_default();
        if of.len() == of.capacity() {
            of.retain(alive);
        }
        of.push(listener);
    }

    /// How many namespaces and listeners are remembered, those that are gone included.
    #[cfg(test)]
    pub(crate) fn told(&self) -> (usize, usize) {
        let listeners = lock(&self.listeners);
        (listeners.len(), listeners.values().map(Vec::len).sum())
    }

    pub(crate) fn tell_tags(&self, listener: Weak<dyn Listener>) {
        *lock(&self.tags) = Some(listener);
    }

    /// Begins to hear, if it has not: returns when the first answer came or none did, but soon.
    /// Cancel safe.
    pub(crate) async fn begin(self: &Arc<Self>) {
        if !self.begun.swap(true, Ordering::AcqRel) {
            tasks::spawn(listen(Arc::downgrade(self), self.backend.clone()));
        }
        if *self.ready.borrow() {
            return;
        }
        let mut ready = self.ready.subscribe();
        let answered = std::pin::pin!(ready.wait_for(|ready| *ready));
        let _ = select(answered, self.backend.clock().sleep(CANARY)).await;
    }

    /// Is woken when the lease of a key changes, from now on.
    pub(crate) fn wait_for(&self, key: &Key) -> Waiter {
        let mut waiters = lock(&self.waiters);
        if let Some(notify) = waiters.get(key).and_then(Weak::upgrade) {
            return Waiter { notify };
        }
        if waiters.len() == waiters.capacity() {
            waiters.retain(|_, notify| notify.strong_count() > 0);
        }
        let notify = Arc::new(Notify::new());
        waiters.insert(key.clone(), Arc::downgrade(&notify));
        Waiter { notify }
    }

    fn flush(&self) {
        telemetry::flushed();
        self.heard.flush();
        self.detach();
    }

    /// Whoever asks from now on joins no load that is under way.
    pub(crate) fn detach(&self) {
        for listener in lock(&self.listeners).values().flatten().filter_map(Weak::upgrade) {
            listener.missed();
        }
    }

    fn dispatch(&self, changed: &Changed) {
        match changed {
            Changed::Value(key) => {
                let mut listeners = lock(&self.listeners);
                if let Some(of) = listeners.get_mut(key.ns.as_str()) {
                    of.retain(|listener| {
                        let listener = listener.upgrade();
                        listener.inspect(|to| to.changed(key.key.as_str())).is_some()
                    });
                }
            }
            Changed::Lease(key) => {
                let waiter = lock(&self.waiters).get(key).and_then(Weak::upgrade);
                if let Some(notify) = waiter {
                    notify.notify_waiters();
                }
            }
            Changed::Tag(tag) => {
                if let Some(tags) = lock(&self.tags).as_ref().and_then(Weak::upgrade) {
                    tags.changed(tag.as_str());
                }
                // Nobody knows which loads have noted it.
                self.detach();
            }
            Changed::Mark => self.ask.notify_one(),
            Changed::All => {
                self.flush();
                for notify in lock(&self.waiters).values().filter_map(Weak::upgrade) {
                    notify.notify_waiters();
                }
            }
        }
    }
}

/// Waits for somebody else's load.
#[derive(Debug)]
pub(crate) struct Waiter {
    notify: Arc<Notify>,
}

impl Waiter {
    /// To be made before it is looked whether there is anything to wait for.
    pub(crate) fn woken(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }
}

/// Opens a feed: by tracking, else by messages.
async fn open(watch: &Watch, backend: &dyn Backend) -> Option<Box<dyn Feed>> {
    match backend.listen().await {
        Ok(feed) => {
            watch.messages.store(false, Ordering::Relaxed);
            return Some(feed);
        }
        Err(error) if error.is_retryable() => {
            tracing::debug!(error = error.chain(), "changes are not heard of yet");
            return None;
        }
        Err(error) => {
            tracing::warn!(
                error = error.chain(),
                "the server refuses to track keys: changes are heard of by messages"
            );
        }
    }
    let feed = backend.hear().await.ok()?;
    watch.messages.store(true, Ordering::Relaxed);
    Some(feed)
}

/// Hears until the owner is gone.
async fn listen(watch: Weak<Watch>, backend: Arc<dyn Backend>) {
    let clock = backend.clock().clone();
    let mut delay = Duration::from_millis(50);
    loop {
        let Some(strong) = watch.upgrade() else { return };
        let feed = open(&strong, &*backend).await;
        let Some(feed) = feed else {
            strong.ready.send_replace(true);
            drop(strong);
            clock.sleep(delay).await;
            delay = (delay * 2).min(CANARY);
            continue;
        };
        drop(strong);
        delay = Duration::from_millis(50);
        hear(&watch, &*backend, feed).await;
        let Some(strong) = watch.upgrade() else { return };
        strong.heard.bad();
        strong.flush();
    }
}

/// Until the owner is gone, or nobody answers: a link may be dead and not know it.
async fn hear(watch: &Weak<Watch>, backend: &dyn Backend, mut feed: Box<dyn Feed>) {
    let clock = backend.clock().clone();
    let prober = feed.prober();
    let ask = async || {
        // Whoever finds all that he wants near asks no server for its time.
        let learnt = select(backend.learn(), clock.sleep(CANARY / 2));
        let heard = async {
            match &prober {
                Some(prober) => prober.probe().await.map(|marks| (marks, true)),
                None => by_messages(backend).await,
            }
        };
        join(learnt, heard).await.1
    };
    let mut marks: HashMap<u16, Option<Version>> = HashMap::new();
    let mut silent = 0;
    loop {
        // Asked in the midst of hearing: an answer must not wait behind what is to be told.
        let asked = clock.now();
        let mut probe = std::pin::pin!(async {
            let late = std::pin::pin!(clock.sleep(CANARY));
            match select(std::pin::pin!(ask()), late).await {
                Either::Left((answer, _)) => answer.ok(),
                Either::Right(_) => None,
            }
        });
        let answer = loop {
            match select(feed.next(), &mut probe).await {
                Either::Left((changed, _)) => match watch.upgrade() {
                    Some(watch) => watch.dispatch(&changed),
                    None => return,
                },
                Either::Right((answer, _)) => break answer,
            }
        };
        let Some(strong) = watch.upgrade() else { return };
        match answer {
            Some((read, heard)) => {
                note(&strong, backend, &mut marks, read, heard).await;
                strong.heard.good_until(asked + GOOD);
                silent = 0;
            }
            None => silent += 1,
        }
        strong.ready.send_replace(true);
        if silent >= SILENCES {
            tracing::debug!("nobody says whether changes are heard of: the link is made anew");
            return;
        }
        drop(strong);
        let mut pause = std::pin::pin!(clock.sleep(CANARY));
        loop {
            let Some(strong) = watch.upgrade() else { return };
            let asked = std::pin::pin!(strong.ask.notified());
            let told = select(feed.next(), select(&mut pause, asked)).await;
            match told {
                Either::Left((changed, _)) => strong.dispatch(&changed),
                Either::Right(_) => break,
            }
        }
    }
}

/// A server without the marker that it had has forgotten everything.
async fn note(
    watch: &Watch,
    backend: &dyn Backend,
    marks: &mut HashMap<u16, Option<Version>>,
    read: Marks,
    heard: bool,
) {
    let mut now = HashMap::new();
    for (node, mark) in read {
        let mark = match mark {
            Some(mark) => Some(mark),
            None => backend.mark(node, Version::random()).await.ok(),
        };
        now.insert(node, mark);
    }
    // Nor is anything known of a node that was not there before.
    if !heard || *marks != now && !marks.is_empty() {
        watch.flush();
    }
    *marks = now;
}

/// Where the link cannot be asked: that scripts tell of changes, and what the servers have.
async fn by_messages(backend: &dyn Backend) -> Result<(Marks, bool)> {
    let heard = backend.keep_hearing().await?;
    let mut marks = Marks::new();
    for node in backend.nodes() {
        marks.push((node, Some(backend.mark(node, Version::random()).await?)));
    }
    Ok((marks, heard))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator_core::clock::ManualClock;

    #[test]
    fn a_machine_that_slept_believes_nothing_of_before() {
        let clock = ManualClock::new();
        let heard = Heard::until(Arc::new(clock.clone()), GOOD);
        clock.advance(CANARY);
        heard.good_until(clock.now() + GOOD);
        assert_eq!(heard.epoch(), Some(1), "time that passes is no sleep");
        // The wall clock alone goes on.
        clock.set_unix_time(clock.unix_time() + CANARY);
        heard.good_until(clock.now() + GOOD);
        assert_eq!(heard.epoch(), Some(2));
        heard.good_until(clock.now() + GOOD);
        assert_eq!(heard.epoch(), Some(2), "once");
    }
}
