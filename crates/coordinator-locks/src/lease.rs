//! A lease: one acquisition's own clockwork, which knows its end without asking the server.

use crate::{
    backend::SHARDS,
    journal::Journal,
    log::LockEvent,
    telemetry::{self, Counted},
    token::{Fence, Identity, Token},
};
use coordinator_core::{
    clock::{Clock, Instant},
    key::Name,
};
use std::{
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// Why a lease ended before its holder gave it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum LossReason {
    /// Its time was over, and nobody renewed it.
    #[error("the lease ran out")]
    Expired,
    /// The server could not be asked to renew it in time.
    #[error("the server could not be reached in time to renew the lease")]
    Unreachable,
    /// Another holds the lock.
    #[error("another holds the lock")]
    Stolen,
    /// The server no longer knows the lock: flushed, evicted, or lost in a failover.
    #[error("the server no longer knows the lock")]
    Vanished,
    /// Somebody took it away with [`Locks::force_release`](crate::Locks::force_release).
    #[error("the lock was taken away by force")]
    ForceReleased,
    /// The holder gave it up itself.
    #[error("the lock was released")]
    Released,
}

impl LossReason {
    pub(crate) const ALL: [Self; 6] = [
        Self::Expired,
        Self::Unreachable,
        Self::Stolen,
        Self::Vanished,
        Self::ForceReleased,
        Self::Released,
    ];

    /// A stable word for it, as in the log and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Unreachable => "unreachable",
            Self::Stolen => "stolen",
            Self::Vanished => "vanished",
            Self::ForceReleased => "force-released",
            Self::Released => "released",
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// The time that a lease of `ttl` is surely valid for, counted from before it was asked for: 1 %
/// and 2 ms less, for clocks that run at different speeds.
pub(crate) fn validity(ttl: Duration) -> Duration {
    ttl.saturating_sub(ttl / 100).saturating_sub(Duration::from_millis(2))
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Status {
    Held { until: Instant, unreachable: bool },
    Lost(LossReason),
}

/// What a guard, the watchdog and a [`Lease`] share.
pub(crate) struct State {
    pub(crate) name: Name,
    pub(crate) shard: u16,
    pub(crate) token: Token,
    pub(crate) fence: u64,
    pub(crate) identity: Arc<Identity>,
    pub(crate) ttl: Duration,
    /// When it was asked for.
    since: Instant,
    /// The end that no renewal goes beyond.
    hold_until: Option<Instant>,
    clock: Arc<dyn Clock>,
    status: watch::Sender<Status>,
    journal: Arc<Journal>,
    /// Whether its end was told.
    told: AtomicBool,
    /// Until it ends.
    counted: Mutex<Option<Counted>>,
}

/// What a new lease is made of.
pub(crate) struct Granted {
    pub(crate) name: Name,
    pub(crate) token: Token,
    pub(crate) fence: u64,
    pub(crate) identity: Arc<Identity>,
    pub(crate) ttl: Duration,
    pub(crate) sent: Instant,
    pub(crate) hold_until: Option<Instant>,
}

impl State {
    pub(crate) fn new(granted: Granted, clock: Arc<dyn Clock>, journal: Arc<Journal>) -> Self {
        let Granted { name, token, fence, identity, ttl, sent, hold_until } = granted;
        let until = cap(sent + validity(ttl), hold_until);
        let status = watch::channel(Status::Held { until, unreachable: false }).0;
        let shard = name.shard(SHARDS);
        Self {
            name,
            shard,
            token,
            fence,
            identity,
            ttl,
            since: sent,
            hold_until,
            clock,
            status,
            journal,
            told: AtomicBool::new(false),
            counted: Mutex::default(),
        }
    }

    /// Somebody guards it from now on.
    pub(crate) fn begin(&self) {
        *self.counted() = Some(telemetry::LOCKS_HELD.enter());
    }

    fn counted(&self) -> std::sync::MutexGuard<'_, Option<Counted>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When it ends, unless it is renewed; long ago once it is lost.
    pub(crate) fn until(&self) -> Instant {
        match *self.status.borrow() {
            Status::Held { until, .. } => until,
            Status::Lost(_) => Instant::from_start(Duration::ZERO),
        }
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.clock.now() < self.until()
    }

    /// Why it ended, once it has.
    pub(crate) fn loss(&self) -> Option<LossReason> {
        match *self.status.borrow() {
            Status::Lost(reason) => Some(reason),
            Status::Held { until, unreachable } if self.clock.now() >= until => {
                Some(overdue(unreachable))
            }
            Status::Held { .. } => None,
        }
    }

    /// When and for how long to renew it next; `None` if it shall just run out.
    pub(crate) fn next_renewal(&self, sent: Instant) -> Option<(Instant, Duration)> {
        let ttl = match self.hold_until {
            Some(end) if self.until() >= end => return None,
            Some(end) => self.ttl.min(end.saturating_since(sent)),
            None => self.ttl,
        };
        Some((sent + self.ttl / 3, ttl))
    }

    /// A renewal sent at `sent` was confirmed. A lease that has ended stays ended.
    pub(crate) fn prolong(&self, sent: Instant, ttl: Duration) -> bool {
        let renewed = cap(sent + validity(ttl), self.hold_until);
        let now = self.clock.now();
        let mut left = Duration::MAX;
        let prolonged = self.status.send_if_modified(|status| match status {
            Status::Held { until, unreachable } if now < *until => {
                left = until.saturating_since(now);
                *until = renewed.max(*until);
                *unreachable = false;
                true
            }
            _ => false,
        });
        if left < self.ttl / 3 {
            self.tell(LockEvent::RenewedLate { left });
        }
        prolonged
    }

    /// A renewal went unanswered; the lease lasts until its deadline all the same.
    pub(crate) fn note_unreachable(&self) {
        self.status.send_if_modified(|status| match status {
            Status::Held { unreachable, .. } => {
                *unreachable = true;
                false
            }
            Status::Lost(_) => false,
        });
    }

    /// Ends it; the first reason stays.
    pub(crate) fn end(&self, reason: LossReason) {
        let ended = self.status.send_if_modified(|status| match *status {
            Status::Held { .. } => {
                *status = Status::Lost(reason);
                true
            }
            Status::Lost(_) => false,
        });
        if ended {
            self.counted().take();
            if reason != LossReason::Released {
                self.tell_loss(reason);
            }
        }
    }

    /// Why it would be lost now, if it was given up at this moment.
    fn too_late(&self) -> Option<LossReason> {
        match *self.status.borrow() {
            Status::Held { until, unreachable } if self.clock.now() >= until => {
                Some(overdue(unreachable))
            }
            _ => None,
        }
    }

    /// Its holder gives it up; what is told of it waits for [`tell_end`](Self::tell_end).
    pub(crate) fn give_up(&self) -> Parting {
        let parting = Parting { held: self.held(), too_late: self.too_late() };
        self.end(LossReason::Released);
        parting
    }

    /// Tells, once, how it ended: `was_held` is what the backend said, if it was asked.
    pub(crate) fn tell_end(&self, parting: &Parting, was_held: Option<bool>) {
        let loss = match was_held {
            Some(true) => None,
            Some(false) => Some(parting.too_late.unwrap_or(LossReason::Vanished)),
            None => parting.too_late,
        };
        match loss {
            Some(reason) => self.tell_loss(reason),
            None if self.tell_now() => {
                telemetry::HELD_FOR.record(parting.held);
                self.tell(LockEvent::Released { held: Some(parting.held) });
            }
            None => {}
        }
    }

    fn tell_loss(&self, reason: LossReason) {
        if self.tell_now() {
            let held = self.held();
            telemetry::lost(reason);
            telemetry::HELD_FOR.record(held);
            self.tell(LockEvent::Lost { reason, held });
        }
    }

    /// Whether its end was not told before.
    fn tell_now(&self) -> bool {
        !self.told.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn tell(&self, event: LockEvent) {
        self.journal.tell(&self.name, Some(self.fence), &self.identity, event);
    }

    fn held(&self) -> Duration {
        self.clock.now().saturating_since(self.since)
    }

    /// Completes when it has ended, by its own alarm if nobody says so before.
    pub(crate) async fn lost(&self) -> LossReason {
        let mut changes = self.status.subscribe();
        loop {
            let (until, unreachable) = match *changes.borrow_and_update() {
                Status::Lost(reason) => return reason,
                Status::Held { until, unreachable } => (until, unreachable),
            };
            if self.clock.now() >= until {
                self.end(overdue(unreachable));
                continue;
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = self.clock.sleep_until(until) => {}
            }
        }
    }
}

fn cap(until: Instant, end: Option<Instant>) -> Instant {
    end.map_or(until, |end| until.min(end))
}

fn overdue(unreachable: bool) -> LossReason {
    if unreachable { LossReason::Unreachable } else { LossReason::Expired }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("name", &self.name)
            .field("fence", &self.fence)
            .field("id", &self.identity.id)
            .field("status", &*self.status.borrow())
            .finish_non_exhaustive()
    }
}

/// How long a lease was held when its holder gave it up, and whether that was too late.
#[derive(Debug)]
pub(crate) struct Parting {
    held: Duration,
    too_late: Option<LossReason>,
}

/// A view of a held lock: what work under it needs to know. Clones are cheap; dropping one gives
/// nothing up.
#[derive(Debug, Clone)]
pub struct Lease(pub(crate) Arc<State>);

impl Lease {
    /// The lock's name.
    pub fn name(&self) -> &str {
        self.0.name.as_str()
    }

    /// The fencing token: hand it to whatever you write to.
    pub fn fence(&self) -> Fence {
        Fence::new(self.0.fence)
    }

    /// A public id of this acquisition, the second half of a fence check.
    pub fn id(&self) -> &str {
        &self.0.identity.id
    }

    /// When the lease ends unless it is renewed, on the clock of the locks. Counted from before it
    /// was asked for, less 1 % and 2 ms.
    pub fn deadline(&self) -> Instant {
        self.0.until()
    }

    /// The time until [`deadline`](Self::deadline), zero once it is lost.
    pub fn remaining(&self) -> Duration {
        self.0.until().saturating_since(self.0.clock.now())
    }

    /// Whether the lease still lasts, by this process's own clock, without asking anybody. Once
    /// `false`, always `false`.
    pub fn is_valid(&self) -> bool {
        self.0.is_valid()
    }

    /// Completes when the lease has ended, with the reason: at its deadline by this process's own
    /// clock at the latest, whether or not the server can be reached.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lost(&self) -> LossReason {
        self.0.lost().await
    }

    /// Runs `work` and drops it, wherever it stands, as soon as the lease is lost.
    ///
    /// # Errors
    /// The reason of the loss; work that finished first counts.
    ///
    /// # Cancel safety
    /// As cancel safe as `work`.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T, LossReason> {
        // Work that never waits must not begin without the lease either.
        if let Some(reason) = self.0.loss() {
            return Err(reason);
        }
        tokio::select! {
            biased;
            reason = self.lost() => Err(reason),
            done = work => Ok(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator_core::clock::ManualClock;

    fn lease(clock: &ManualClock, ttl: u64, hold: Option<u64>) -> State {
        let granted = Granted {
            name: Name::new("n").expect("a name"),
            token: Token::random(),
            fence: 1,
            identity: Arc::new(Identity::new("h")),
            ttl: Duration::from_secs(ttl),
            sent: clock.now(),
            hold_until: hold.map(|hold| clock.now() + Duration::from_secs(hold)),
        };
        let clock: Arc<dyn Clock> = Arc::new(clock.clone());
        let journal = Arc::new(Journal::new(clock.clone(), "h"));
        State::new(granted, clock, journal)
    }

    #[test]
    fn validity_counts_from_before_sending_less_the_drift() {
        assert_eq!(validity(Duration::from_secs(10)), Duration::from_millis(9_898));
        assert_eq!(validity(Duration::from_millis(1)), Duration::ZERO);
        assert!(validity(Duration::MAX) < Duration::MAX);
    }

    #[test]
    fn a_lease_that_ended_is_never_valid_again() {
        let clock = ManualClock::new();
        let state = lease(&clock, 10, None);
        let sent = clock.now();
        clock.advance(Duration::from_secs(10));
        assert!(!state.is_valid());
        assert!(!state.prolong(sent + Duration::from_secs(9), state.ttl));
        assert!(!state.is_valid());
        assert_eq!(state.loss(), Some(LossReason::Expired));
    }

    #[test]
    fn the_first_reason_stays() {
        let clock = ManualClock::new();
        let state = lease(&clock, 10, None);
        state.end(LossReason::Stolen);
        state.end(LossReason::Released);
        assert_eq!(state.loss(), Some(LossReason::Stolen));
    }

    #[test]
    fn no_renewal_goes_beyond_the_longest_hold() {
        let clock = ManualClock::new();
        let state = lease(&clock, 10, Some(12));
        let (due, _) = state.next_renewal(clock.now()).expect("is renewed");
        clock.advance(due.saturating_since(clock.now()));
        let sent = clock.now();
        assert!(state.prolong(sent, state.ttl));
        assert_eq!(state.until().since_start(), Duration::from_secs(12));
        assert_eq!(state.next_renewal(sent), None);
    }

    #[tokio::test]
    async fn loss_fires_at_the_deadline_without_any_server() {
        let clock = ManualClock::new();
        let state = lease(&clock, 10, None);
        state.note_unreachable();
        clock.advance(validity(state.ttl).checked_sub(Duration::from_millis(1)).unwrap());
        assert!(state.is_valid());
        clock.advance(Duration::from_millis(1));
        assert_eq!(state.lost().await, LossReason::Unreachable);
    }

    #[tokio::test]
    async fn work_is_dropped_when_the_lease_is_lost() {
        let clock = ManualClock::new();
        let lease = Lease(Arc::new(lease(&clock, 10, None)));
        assert_eq!(lease.run(async { 7 }).await, Ok(7));
        let (sender, mut dropped) = tokio::sync::oneshot::channel::<()>();
        let work = async move {
            let _sender = sender;
            std::future::pending::<()>().await;
        };
        clock.advance(Duration::from_secs(11));
        assert_eq!(lease.run(work).await, Err(LossReason::Expired));
        assert!(dropped.try_recv().is_err());
        assert_eq!(lease.run(async { 7 }).await, Err(LossReason::Expired));
    }
}
