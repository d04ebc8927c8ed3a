//! Time as a parameter: the system's clock and one that a test moves by hand.
//!
//! This is the only file that reads the system's clocks.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    ops::{Add, Sub},
    pin::Pin,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};
use tokio::sync::oneshot;

/// A boxed future, as ports return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A moment on a [`Clock`]'s monotonic time line; moments of two clocks do not compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

impl Instant {
    /// The clock's own beginning.
    #[cfg(feature = "redis")]
    pub(crate) const START: Self = Self(Duration::ZERO);

    /// The moment `since_start` after the clock's own beginning.
    pub fn from_start(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// How long after the clock's own beginning this is.
    pub fn since_start(self) -> Duration {
        self.0
    }

    /// The time from `earlier` to this moment, zero if `earlier` is later.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(rhs))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(rhs))
    }
}

/// Where the time comes from: deadlines, leases and waiting all ask it.
///
/// [`SystemClock`] is the default; [`ManualClock`] lets a test move time by hand.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// Now, on a time line that never goes back.
    fn now(&self) -> Instant;

    /// Now, as time since the Unix epoch; it may jump either way.
    fn unix_time(&self) -> Duration;

    /// Completes at `deadline`, at once if that has passed.
    ///
    /// # Cancel safety
    /// Cancel safe: dropping it only forgets the alarm.
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()>;

    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.now() + duration)
    }
}

/// Waits for `work`, at most until `deadline` on `clock`; `None` means that it was dropped
/// unfinished.
///
/// # Cancel safety
/// As cancel safe as `work`.
pub async fn until<T>(
    clock: &dyn Clock,
    deadline: Instant,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let mut alarm = clock.sleep_until(deadline);
    std::future::poll_fn(|context| {
        // Work that is done counts, even at the very deadline.
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        alarm.as_mut().poll(context).map(|()| None)
    })
    .await
}

/// The system's clocks: `CLOCK_MONOTONIC` through tokio, and the wall clock.
///
/// The monotonic clock of Linux stands still while the machine is suspended.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

static START: LazyLock<tokio::time::Instant> = LazyLock::new(|| {
    #[expect(clippy::disallowed_methods, reason = "this file is where time comes from")]
    tokio::time::Instant::now()
});

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        let start = *START;
        #[expect(clippy::disallowed_methods, reason = "this file is where time comes from")]
        let now = tokio::time::Instant::now();
        Instant(now.saturating_duration_since(start))
    }

    fn unix_time(&self) -> Duration {
        #[expect(clippy::disallowed_methods, reason = "this file is where time comes from")]
        let now = std::time::SystemTime::now();
        now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        match START.checked_add(deadline.0) {
            Some(at) => Box::pin(tokio::time::sleep_until(at)),
            None => Box::pin(std::future::pending()),
        }
    }
}

/// A clock that stands still until [`advance`](ManualClock::advance) moves it.
///
/// Clones share one time line.
///
/// ```
/// use coordinator_core::clock::{Clock, ManualClock};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let clock = ManualClock::new();
/// let alarm = clock.sleep(Duration::from_secs(30));
/// clock.advance(Duration::from_secs(30));
/// alarm.await;
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<Mutex<Manual>>);

#[derive(Debug, Default)]
struct Manual {
    now: Duration,
    unix: Duration,
    alarms: BTreeMap<(Duration, u64), oneshot::Sender<()>>,
    next_id: u64,
}

impl ManualClock {
    /// A clock at its beginning; its wall clock says 2030-01-01.
    pub fn new() -> Self {
        let clock = Self::default();
        clock.lock().unix = Duration::from_hours(525_960);
        clock
    }

    /// Moves both time lines forward and wakes what is due.
    pub fn advance(&self, by: Duration) {
        let mut state = self.lock();
        state.now += by;
        state.unix += by;
        let now = state.now;
        while let Some(entry) = state.alarms.first_entry() {
            if entry.key().0 > now {
                break;
            }
            // A sleeper that was dropped has no use for the call.
            let _ = entry.remove().send(());
        }
    }

    /// Sets the wall clock alone, as an operator or a time server does; no alarm fires.
    pub fn set_unix_time(&self, unix: Duration) {
        self.lock().unix = unix;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Manual> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        Instant(self.lock().now)
    }

    fn unix_time(&self) -> Duration {
        self.lock().unix
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let mut state = self.lock();
        // Dropped sleepers leave closed alarms behind; sweeping here keeps the map bounded.
        state.alarms.retain(|_, alarm| !alarm.is_closed());
        if deadline.0 <= state.now {
            return Box::pin(std::future::ready(()));
        }
        let (alarm, rung) = oneshot::channel();
        let id = state.next_id;
        state.next_id += 1;
        state.alarms.insert((deadline.0, id), alarm);
        Box::pin(async move {
            if rung.await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Waker};

    #[test]
    fn manual_alarms_fire_exactly_when_due() {
        let clock = ManualClock::new();
        let mut early = clock.sleep(Duration::from_secs(1));
        let mut late = clock.sleep(Duration::from_secs(2));
        let mut context = Context::from_waker(Waker::noop());
        clock.advance(Duration::from_millis(999));
        assert_eq!(early.as_mut().poll(&mut context), Poll::Pending);
        clock.advance(Duration::from_millis(1));
        assert_eq!(early.as_mut().poll(&mut context), Poll::Ready(()));
        assert_eq!(late.as_mut().poll(&mut context), Poll::Pending);
    }

    #[test]
    fn setting_the_wall_clock_moves_no_deadline() {
        let clock = ManualClock::new();
        let before = clock.now();
        clock.set_unix_time(Duration::from_secs(1));
        assert_eq!(clock.now(), before);
        assert_eq!(clock.unix_time(), Duration::from_secs(1));
    }

    #[test]
    fn instants_saturate() {
        let start = Instant::from_start(Duration::ZERO);
        assert_eq!(start - Duration::from_secs(1), start);
        let end = start + Duration::MAX;
        assert_eq!(end + Duration::from_secs(1), end);
        assert_eq!(start.saturating_since(end), Duration::ZERO);
    }
}
