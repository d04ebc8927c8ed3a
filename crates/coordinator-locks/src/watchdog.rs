//! The watchdog: one task per client and shard renews what is held there, in one batch.
//!
//! Shards are independent: a node that hangs delays no renewal on another. Loss is not announced
//! from here alone; every lease carries its own alarm.

use crate::{
    backend::{Backend, Renewal, Renewed, SHARDS},
    lease::{LossReason, State},
    tasks,
};
use coordinator_core::clock::{Instant, until};
use rand::RngExt as _;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// How many leases one script renews.
const BATCH: usize = 500;

/// How many leases may pile up before those that have ended are swept out.
const SWEEP: usize = 256;

#[derive(Debug)]
pub(crate) struct Watchdog {
    shards: Vec<OnceLock<Arc<Desk>>>,
    /// Dropped with this, which ends the tasks.
    open: watch::Sender<()>,
}

/// Where leases are handed to a shard's task. Most are given up before they are due, so the task is
/// not woken for one that is due after its next look.
#[derive(Debug)]
struct Desk {
    inbox: Mutex<Inbox>,
    sooner: Notify,
}

#[derive(Debug)]
struct Inbox {
    leases: Vec<Watched>,
    /// When the task looks here next; `None` if nothing is due.
    next: Option<Instant>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Watched {
    lease: Arc<State>,
    due: Instant,
}

impl Watchdog {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| OnceLock::new()).collect(), open: watch::channel(()).0 }
    }

    /// Renews a lease from a third of its ttl on, until it ends; must be called within a runtime.
    pub(crate) fn watch(&self, backend: &Arc<dyn Backend>, lease: Arc<State>, sent: Instant) {
        // Counted from when it was sent, however late the task comes to look at it.
        let Some((due, _)) = lease.next_renewal(sent) else {
            return;
        };
        let shard = lease.shard;
        let desk = self.shards[usize::from(shard)].get_or_init(|| {
            let inbox = Inbox { leases: Vec::new(), next: None, sweep_at: SWEEP };
            let desk = Arc::new(Desk { inbox: Mutex::new(inbox), sooner: Notify::new() });
            tasks::spawn(keep(backend.clone(), shard, desk.clone(), self.open.subscribe()));
            desk
        });
        desk.hand_in(Watched { lease, due });
    }
}

impl Desk {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_in(&self, watched: Watched) {
        let mut inbox = self.inbox();
        let due = watched.due;
        inbox.leases.push(watched);
        if inbox.leases.len() >= inbox.sweep_at {
            inbox.leases.retain(|watched| lives(&watched.lease));
            inbox.sweep_at = (inbox.leases.len() * 2).max(SWEEP);
        }
        if inbox.next.is_none_or(|next| due < next) {
            inbox.next = Some(due);
            self.sooner.notify_one();
        }
    }
}

/// Whether a lease has not ended; one that has says so, if nobody did.
fn lives(lease: &State) -> bool {
    match lease.loss() {
        Some(reason) => {
            lease.end(reason);
            false
        }
        None => true,
    }
}

/// What is watched, by when it is due; the number tells apart what is due at once.
type Schedule = BTreeMap<(Instant, u64), Arc<State>>;

/// Runs until the locks and every guard are dropped.
async fn keep(
    backend: Arc<dyn Backend>,
    shard: u16,
    desk: Arc<Desk>,
    mut open: watch::Receiver<()>,
) {
    let clock = backend.clock().clone();
    let mut schedule = Schedule::new();
    let mut next_id = 0_u64;
    loop {
        let next = {
            let mut inbox = desk.inbox();
            for Watched { lease, due } in inbox.leases.drain(..) {
                next_id += 1;
                schedule.insert((due, next_id), lease);
            }
            schedule.retain(|_, lease| lives(lease));
            inbox.next = schedule.first_key_value().map(|((due, _), _)| *due);
            inbox.next
        };
        let alarm = async {
            match next {
                Some(due) => clock.sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = open.changed() => return,
            () = desk.sooner.notified() => {}
            () = alarm => renew_due(&*backend, shard, &mut schedule).await,
        }
    }
}

/// Renews everything that is due now or soon.
async fn renew_due(backend: &dyn Backend, shard: u16, schedule: &mut Schedule) {
    let clock = backend.clock();
    let now = clock.now();
    let slack = schedule.first_key_value().map_or(Duration::ZERO, |(_, lease)| lease.ttl / 20);
    let later = schedule.split_off(&(now + slack, u64::MAX));
    let due = std::mem::replace(schedule, later);
    let mut due = due.into_iter().map(|((_, id), lease)| (id, lease)).peekable();
    while due.peek().is_some() {
        let sent = clock.now();
        let (mut asked, mut leases) = (Vec::new(), Vec::new());
        for (id, lease) in due.by_ref().take(BATCH) {
            if let Some(reason) = lease.loss() {
                lease.end(reason);
            } else if let Some((_, ttl)) = lease.next_renewal(sent) {
                let (name, token) = (lease.name.clone(), lease.token.clone());
                leases.push(Renewal { name, token, ttl });
                asked.push((id, lease, ttl));
            }
        }
        let Some(shortest) = asked.iter().map(|(_, lease, _)| lease.ttl).min() else { continue };
        for (_, lease, _) in &asked {
            // Until there is an answer; whoever's time is over meanwhile shall say why.
            lease.note_unreachable();
        }
        // Time for several attempts inside the lease, however patient a single command is.
        let limit = sent + (shortest / 6).min(backend.step_timeout() * 2);
        match until(&**clock, limit, backend.renew(shard, &leases)).await {
            Some(Ok(statuses)) => {
                for ((id, lease, ttl), status) in asked.into_iter().zip(statuses) {
                    if let Some(due) = settle(&lease, status, sent, ttl) {
                        schedule.insert((due, id), lease);
                    }
                }
            }
            failed => {
                let error = match failed {
                    Some(Err(error)) => error.chain(),
                    _ => "no answer".to_owned(),
                };
                tracing::debug!(shard, error, leases = asked.len(), "a renewal failed");
                for (id, lease, _) in asked {
                    schedule.insert((retry_at(&lease, clock.now()), id), lease);
                }
            }
        }
    }
}

/// Takes an answer in; when to renew next, if at all.
fn settle(lease: &State, status: Renewed, sent: Instant, ttl: Duration) -> Option<Instant> {
    let reason = match status {
        Renewed::Prolonged => {
            lease.prolong(sent, ttl);
            return lease.next_renewal(sent).map(|(due, _)| due);
        }
        Renewed::Gone => LossReason::Vanished,
        Renewed::HeldByAnother => LossReason::Stolen,
        Renewed::ForceReleased => LossReason::ForceReleased,
        Renewed::Released => LossReason::Released,
    };
    lease.end(reason);
    None
}

/// A failed renewal is tried again inside the lease, which it does not end.
fn retry_at(lease: &State, now: Instant) -> Instant {
    let delay = (lease.ttl / 20).clamp(Duration::from_millis(10), Duration::from_millis(500));
    now + delay + delay.mul_f64(rand::rng().random_range(0.0..0.5))
}
