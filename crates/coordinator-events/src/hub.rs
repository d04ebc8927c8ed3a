//! One scope in this process: one subscription and one repair, whatever the number of readers.
//!
//! What is heard is taken only where it follows what was heard before. Whatever else happens (a
//! message too many or too few, a link that was lost, an overflow, silence) is one look at the
//! stream, which repairs it for all readers without a disconnect.

use crate::{
    backend::{Backend, Feed, From, Heard, PAGE, Stored},
    cursor::Cursor,
    ring::{Accepted, Ring},
    tasks, telemetry,
};
use coordinator_core::{BoxFuture, Result, key::Name};
use futures::future::{Either, select};
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OnceCell, watch};

/// How often the stream is looked at where nothing is heard.
const LOOK: Duration = Duration::from_secs(2);
/// How soon a look that failed is repeated: first, and at the most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How much of a scope is kept in this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

pub(crate) struct Hub {
    pub(crate) scope: Name,
    pub(crate) backend: Arc<dyn Backend>,
    room: Room,
    ring: Mutex<Ring>,
    /// The number of slots there ever were.
    head: watch::Sender<u64>,
    live: OnceCell<()>,
    /// How often was asked where the scope ends.
    begun: AtomicU64,
    ends: tokio::sync::Mutex<Ends>,
}

/// Where the scope ended, as it was read last.
#[derive(Debug, Default)]
struct Ends {
    /// How many reads were begun before that one.
    number: u64,
    at: Option<(Cursor, u64)>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Hub {
    pub(crate) fn new(backend: Arc<dyn Backend>, scope: Name, room: Room) -> Self {
        let ring = Mutex::new(Ring::new(room.events, room.bytes, Cursor::START));
        Self {
            scope,
            backend,
            room,
            ring,
            head: watch::channel(0).0,
            live: OnceCell::new(),
            begun: AtomicU64::new(0),
            ends: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// Returns when whatever is published from now on will come.
    pub(crate) async fn live(self: &Arc<Self>) -> Result<()> {
        let begin = async || {
            // Heard first and read afterwards: nothing falls in between.
            let feed = self.backend.listen(&self.scope).await?;
            let at = end(&*self.backend, &self.scope).await?;
            *self.ring() = Ring::new(self.room.events, self.room.bytes, at);
            tasks::spawn(pump(Arc::downgrade(self), feed));
            Ok(())
        };
        self.live.get_or_try_init(begin).await.map(drop)
    }

    /// Where the scope ends now, and the slot from which on what comes later will be. Many who ask
    /// at once share a read.
    pub(crate) async fn now(&self) -> Result<(Cursor, u64)> {
        // A read that begins from here on is late enough.
        let wanted = self.begun.load(Ordering::Acquire);
        let mut ends = self.ends.lock().await;
        if let Some(at) = ends.at.filter(|_| ends.number >= wanted) {
            return Ok(at);
        }
        let number = self.begun.fetch_add(1, Ordering::AcqRel);
        let slot = self.ring().end();
        let at = (end(&*self.backend, &self.scope).await?, slot);
        *ends = Ends { number, at: Some(at) };
        Ok(at)
    }

    fn told(&self) {
        let end = self.ring().end();
        self.head.send_if_modified(|head| std::mem::replace(head, end) != end);
    }

    /// Whether what was heard fits.
    fn accept(&self, stored: Stored) -> bool {
        let accepted = self.ring().accept(stored);
        match accepted {
            Accepted::New => self.told(),
            Accepted::Known => {}
            Accepted::Unsure => return false,
        }
        true
    }

    /// Reads what is missing, if anything is.
    async fn repair(&self) -> Result<()> {
        telemetry::repairs();
        loop {
            let at = self.ring().at;
            let page = self.backend.read(&self.scope, From::At(at.id), PAGE).await?;
            let more = page.as_ref().is_some_and(|page| page.events.len() >= PAGE);
            if page.as_ref().is_some_and(|page| self.ring().diverges(&page.events)) {
                self.go_back().await?;
                continue;
            }
            if self.ring().extend(page) {
                self.told();
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// The server has another event where the ring ends: goes back to the last that both have.
    async fn go_back(&self) -> Result<()> {
        let oldest = self.ring().oldest();
        let mut common = None;
        if let Some(oldest) = oldest {
            let limit = self.room.events.max(PAGE);
            let page = self.backend.read(&self.scope, From::At(oldest.id), limit).await?;
            common = page.and_then(|page| self.ring().last_common(&page.events));
        }
        // Where they have none in common, all that is there is new.
        self.ring().roll_back(common.unwrap_or(Cursor::START));
        self.told();
        Ok(())
    }
}

/// After the last event of a scope.
pub(crate) async fn end(backend: &dyn Backend, scope: &Name) -> Result<Cursor> {
    let page = backend.read(scope, From::Last, 1).await?;
    Ok(page.map_or(Cursor::START, |page| match page.events.last() {
        Some(last) if last.id == page.last => Cursor::new(last.id, last.nonce),
        _ => Cursor { id: page.last, nonce: None },
    }))
}

/// Runs until nobody reads the scope any more.
async fn pump(hub: Weak<Hub>, mut feed: Box<dyn Feed<Stored>>) {
    let Some(clock) = hub.upgrade().map(|hub| hub.backend.clock().clone()) else { return };
    let mut alarm = clock.sleep(LOOK);
    let mut pause = AGAIN.0;
    loop {
        let heard = match select(feed.next(), alarm).await {
            Either::Left((heard, rest)) => {
                alarm = rest;
                heard
            }
            Either::Right(_) => {
                alarm = clock.sleep(LOOK);
                // Silence may be deafness.
                Heard::Lost
            }
        };
        let Some(strong) = hub.upgrade() else { return };
        let fits = match heard {
            Heard::It(stored) => strong.accept(stored),
            Heard::Lost => false,
            Heard::Noise => true,
        };
        if fits {
            continue;
        }
        match strong.repair().await {
            Ok(()) => pause = AGAIN.0,
            Err(error) => {
                tracing::debug!(error = %error.chain(), "a scope could not be read");
                alarm = jittered(&clock, pause);
                pause = (pause * 2).min(AGAIN.1);
            }
        }
    }
}

/// Sleeps for the half of a pause up to all of it.
pub(crate) fn jittered(
    clock: &Arc<dyn coordinator_core::clock::Clock>,
    pause: Duration,
) -> BoxFuture<'static, ()> {
    clock.sleep(pause.mul_f64(0.5 + 0.5 * rand::random::<f64>()))
}
