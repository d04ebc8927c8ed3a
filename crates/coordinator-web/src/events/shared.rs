//! What the streams of one process share: how many there are, and whether they are to end.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};
use tokio::sync::watch;

/// How the streams of an [`Sse`](super::Sse) are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SseStatus {
    /// Streams that are open.
    pub streams: usize,
    /// How many clients were told to come back since there were too many.
    pub overloaded: u64,
    /// How many streams were ended since their client did not read.
    pub stalled: u64,
    /// How many events were written as text: what was published while it was followed once,
    /// whatever the number of streams.
    pub encoded: u64,
    /// Whether the streams were told to end.
    pub draining: bool,
}

#[derive(Debug)]
pub(super) struct Shared {
    streams: AtomicUsize,
    overloaded: AtomicU64,
    stalled: AtomicU64,
    encoded: AtomicU64,
    draining: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            streams: AtomicUsize::new(0),
            overloaded: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
            encoded: AtomicU64::new(0),
            draining: watch::Sender::new(false),
        }
    }

    pub(super) fn status(&self) -> SseStatus {
        SseStatus {
            streams: self.streams.load(Ordering::Relaxed),
            overloaded: self.overloaded.load(Ordering::Relaxed),
            stalled: self.stalled.load(Ordering::Relaxed),
            encoded: self.encoded.load(Ordering::Relaxed),
            draining: *self.draining.borrow(),
        }
    }

    pub(super) fn drain(&self) {
        self.draining.send_replace(true);
    }

    pub(super) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    pub(super) fn encoded(&self) {
        self.encoded.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stalled(&self) {
        self.stalled.fetch_add(1, Ordering::Relaxed);
    }

    /// Room for one more stream, if there is any.
    pub(super) fn enter(self: &Arc<Self>, most: usize) -> Option<Room> {
        let add = |streams: usize| (streams < most).then_some(streams + 1);
        let entered = self.streams.fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        if entered.is_err() {
            self.overloaded.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Room(self.clone()))
    }
}

/// The room of a stream, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Room(Arc<Shared>);

impl Room {
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}
