//! What a body has given out and nobody has written yet.
//!
//! A server asks a body for more only while it has room itself, and a body that is not asked can
//! end nothing. So it gives out less than a server would take: it is asked all the time, and knows
//! by what is dropped how far the client has come. A server that copies what it is given
//! drops all at once: of what is not written then only the kernel knows.

use bytes::Bytes;
use coordinator::clock::{Clock, Instant};
use futures::task::AtomicWaker;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
    time::Duration,
};

/// How many pieces are under way at most, and how long each is: hyper takes 16, and 400 kB.
pub(super) const PIECES: usize = 8;
pub(super) const PIECE: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Flight {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    pieces: AtomicUsize,
    /// When one was written last, or the first was given out, in µs of the clock.
    moved_us: AtomicU64,
    waits: AtomicBool,
    waker: AtomicWaker,
}

impl Inner {
    fn moved(&self) {
        let now = self.clock.now().since_start().as_micros();
        self.moved_us.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

struct Piece {
    bytes: Bytes,
    flight: Arc<Inner>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.flight.moved();
        self.flight.pieces.fetch_sub(1, Ordering::AcqRel);
        if self.flight.waits.swap(false, Ordering::AcqRel) {
            self.flight.waker.wake();
        }
    }
}

impl Flight {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let inner = Inner {
            clock,
            pieces: AtomicUsize::new(0),
            moved_us: AtomicU64::new(0),
            waits: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Gives out a piece.
    pub(super) fn send(&self, bytes: Bytes) -> Bytes {
        if self.inner.pieces.fetch_add(1, Ordering::AcqRel) == 0 {
            self.inner.moved();
        }
        Bytes::from_owner(Piece { bytes, flight: self.inner.clone() })
    }

    /// Whether nothing more can be given out; who is told so is woken when it can.
    pub(super) fn is_full(&self, waker: &Waker) -> bool {
        self.unless(waker, |pieces| pieces < PIECES)
    }

    /// Whether everything was written; who is told that it was not is woken with the next piece.
    pub(super) fn is_empty(&self, waker: &Waker) -> bool {
        !self.unless(waker, |pieces| pieces == 0)
    }

    fn unless(&self, waker: &Waker, fine: impl Fn(usize) -> bool) -> bool {
        let waits = || !fine(self.inner.pieces.load(Ordering::Acquire));
        if !waits() {
            return false;
        }
        self.inner.waker.register(waker);
        self.inner.waits.store(true, Ordering::Release);
        // One may have been dropped before it could know of us.
        waits()
    }

    /// Until when something must be written, if anything is under way.
    pub(super) fn due(&self, deadline: Duration) -> Option<Instant> {
        if self.inner.pieces.load(Ordering::Acquire) == 0 {
            return None;
        }
        let moved = Duration::from_micros(self.inner.moved_us.load(Ordering::Relaxed));
        Some(Instant::from_start(moved) + deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator::clock::ManualClock;
    use std::{sync::atomic::AtomicU32, task::Wake};

    #[derive(Debug, Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_waits_for_room_is_woken_once_and_nobody_else() {
        let flight = Flight::new(Arc::new(ManualClock::new()));
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut pieces: Vec<_> = (0..PIECES - 1).map(|_| flight.send("a".into())).collect();
        assert!(!flight.is_full(&waker));
        pieces.pop();
        assert_eq!(count.0.load(Ordering::Relaxed), 0, "nobody waited");
        pieces.extend([flight.send("a".into()), flight.send("b".into())]);
        assert!(flight.is_full(&waker));
        // A copy is the same piece.
        let copy = pieces[PIECES - 1].clone();
        pieces.pop();
        assert!(flight.is_full(&waker));
        drop(copy);
        assert!(!flight.is_full(&waker));
        pieces.clear();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_deadline_counts_from_what_was_written_last() {
        let clock = ManualClock::new();
        let flight = Flight::new(Arc::new(clock.clone()));
        let second = Duration::from_secs(1);
        assert_eq!(flight.due(second), None);
        clock.advance(second);
        let (one, two) = (flight.send("a".into()), flight.send("b".into()));
        let first = clock.now();
        assert_eq!(flight.due(second), Some(first + second));
        clock.advance(second / 2);
        let late = flight.send("c".into());
        assert_eq!(flight.due(second), Some(first + second), "nothing was written");
        drop(one);
        assert_eq!(flight.due(second), Some(first + second / 2 + second));
        drop((two, late));
        assert_eq!(flight.due(second), None);
    }
}
