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
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::sync::mpsc;

/// How many leases one script renews.
const BATCH: usize = 200;

#[derive(Debug)]
pub(crate) struct Watchdog {
    shards: Vec<OnceLock<mpsc::UnboundedSender<Watched>>>,
}

impl Watchdog {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| OnceLock::new()).collect() }
    }

    /// Renews a lease from a third of its ttl on, until it ends; must be called within a runtime.
    pub(crate) fn watch(&self, backend: &Arc<dyn Backend>, lease: Arc<State>, sent: Instant) {
        // Counted from when it was sent, however late the task comes to look at it.
        let Some((due, _)) = lease.next_renewal(sent) else {
            return;
        };
        let shard = lease.shard;
        let inbox = self.shards[usize::from(shard)].get_or_init(|| {
            let (sender, inbox) = mpsc::unbounded_channel();
            tasks::spawn(keep(backend.clone(), shard, inbox));
            sender
        });
        // A runtime that is gone renews nothing: the lease runs out and says so.
        let _ = inbox.send(Watched { lease, due });
    }
}

#[derive(Debug)]
struct Watched {
    lease: Arc<State>,
    due: Instant,
}

/// Runs until the locks and every guard are dropped.
async fn keep(backend: Arc<dyn Backend>, shard: u16, mut inbox: mpsc::UnboundedReceiver<Watched>) {
    let clock = backend.clock().clone();
    let mut watched: Vec<Watched> = Vec::new();
    loop {
        let next = watched.iter().map(|watched| watched.due).min();
        let alarm = async {
            match next {
                Some(due) => clock.sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            leased = inbox.recv() => match leased {
                Some(leased) => watched.push(leased),
                None => return,
            },
            () = alarm => renew_due(&*backend, shard, &mut watched).await,
        }
    }
}

/// Renews everything that is due now or soon.
async fn renew_due(backend: &dyn Backend, shard: u16, watched: &mut Vec<Watched>) {
    let clock = backend.clock();
    watched.retain(|watched| match watched.lease.loss() {
        Some(reason) => {
            watched.lease.end(reason);
            false
        }
        None => true,
    });
    let now = clock.now();
    let soon = |watched: &Watched| watched.due <= now + watched.lease.ttl / 20;
    let due: Vec<usize> = (0..watched.len()).filter(|&at| soon(&watched[at])).collect();
    let mut over = Vec::new();
    for batch in due.chunks(BATCH) {
        let sent = clock.now();
        let mut asked = Vec::with_capacity(batch.len());
        let mut leases = Vec::with_capacity(batch.len());
        for &at in batch {
            let lease = &watched[at].lease;
            match lease.next_renewal(sent) {
                Some((_, ttl)) => {
                    asked.push((at, ttl));
                    let (name, token) = (lease.name.clone(), lease.token.clone());
                    leases.push(Renewal { name, token, ttl });
                }
                None => over.push(at),
            }
        }
        if leases.is_empty() {
            continue;
        }
        let limit = sent + backend.step_timeout() * 2;
        let answer = until(&**clock, limit, backend.renew(shard, &leases)).await;
        match answer {
            Some(Ok(statuses)) => {
                for ((at, ttl), status) in asked.into_iter().zip(statuses) {
                    if settle(&mut watched[at], status, sent, ttl) {
                        over.push(at);
                    }
                }
            }
            failed => {
                let error = match failed {
                    Some(Err(error)) => error.chain(),
                    _ => "no answer".to_owned(),
                };
                tracing::debug!(shard, error, leases = asked.len(), "a renewal failed");
                for (at, _) in asked {
                    postpone(&mut watched[at], clock.now());
                }
            }
        }
    }
    over.sort_unstable();
    for at in over.into_iter().rev() {
        watched.swap_remove(at);
    }
}

/// Takes the answer in; whether the lease needs no more renewing.
fn settle(watched: &mut Watched, status: Renewed, sent: Instant, ttl: Duration) -> bool {
    let reason = match status {
        Renewed::Prolonged => {
            watched.lease.prolong(sent, ttl);
            return match watched.lease.next_renewal(sent) {
                Some((due, _)) => {
                    watched.due = due;
                    false
                }
                None => true,
            };
        }
        Renewed::Gone => LossReason::Vanished,
        Renewed::HeldByAnother => LossReason::Stolen,
        Renewed::ForceReleased => LossReason::ForceReleased,
        Renewed::Released => LossReason::Released,
    };
    watched.lease.end(reason);
    true
}

/// A failed renewal is tried again inside the lease, which it does not end.
fn postpone(watched: &mut Watched, now: Instant) {
    watched.lease.note_unreachable();
    let delay =
        (watched.lease.ttl / 20).clamp(Duration::from_millis(10), Duration::from_millis(500));
    let jitter = delay.mul_f64(rand::rng().random_range(0.0..0.5));
    watched.due = now + delay + jitter;
}
