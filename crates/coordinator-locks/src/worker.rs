//! The background worker: gives up what a dropped guard or an acquire of unknown outcome left
//! behind, until that is done or has expired by itself.

use crate::{
    backend::{Backend, Surrender},
    tasks,
    token::Token,
    turns::Turns,
};
use coordinator_core::{
    ErrorKind, Result,
    clock::{Instant, until},
    key::Name,
};
use rand::RngExt as _;
use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::sync::{Semaphore, mpsc, watch};

/// How many locks are given up at once.
const AT_ONCE: usize = 64;

/// Takes orders from anywhere, from `Drop` outside a runtime too.
#[derive(Debug)]
pub(crate) struct Worker {
    orders: OnceLock<mpsc::UnboundedSender<Order>>,
    pending: Arc<watch::Sender<Pending>>,
}

/// What is left to do.
#[derive(Debug, Default)]
struct Pending {
    orders: usize,
    /// How many locks and places each owner gives up, where any.
    owners: HashMap<String, usize>,
}

impl Pending {
    fn begin(&mut self, order: &Order) {
        self.orders += 1;
        if let Some(owner) = &order.owner {
            *self.owners.entry(owner.clone()).or_default() += 1;
        }
    }

    fn end(&mut self, order: &Order) {
        self.orders -= 1;
        if let Some(owner) = &order.owner
            && let Some(count) = self.owners.get_mut(owner)
        {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(owner);
            }
        }
    }
}

#[derive(Debug)]
struct Order {
    what: What,
    /// Whose lock or place it is.
    owner: Option<String>,
    /// When it has expired by itself.
    until: Instant,
}

#[derive(Debug)]
enum What {
    /// A lock, or a place in its queue.
    Lock(Surrender),
    /// What an owner was said to wait for.
    Wait { owner: Name, token: Token },
}

impl Worker {
    pub(crate) fn new() -> Self {
        Self { orders: OnceLock::new(), pending: Arc::default() }
    }

    /// Starts the task, once; must be called within a runtime before the first order.
    pub(crate) fn start(&self, backend: &Arc<dyn Backend>, turns: &Arc<Turns>) {
        self.orders.get_or_init(|| {
            let (orders, inbox) = mpsc::unbounded_channel();
            tasks::spawn(serve(backend.clone(), turns.clone(), inbox, self.pending.clone()));
            tasks::spawn(audit(backend.clone()));
            orders
        });
    }

    /// Orders a lock to be given up, or a place in its queue; returns at once.
    pub(crate) fn surrender(&self, lease: Surrender, owner: Option<&str>, until: Instant) {
        let owner = owner.map(str::to_owned);
        self.order(Order { what: What::Lock(lease), owner, until });
    }

    /// Orders an owner's wait to be taken out of the registry; returns at once.
    pub(crate) fn withdraw(&self, owner: Name, token: Token, until: Instant) {
        self.order(Order { what: What::Wait { owner, token }, owner: None, until });
    }

    fn order(&self, order: Order) {
        let Some(orders) = self.orders.get() else {
            return;
        };
        self.pending.send_modify(|pending| pending.begin(&order));
        if let Err(unsent) = orders.send(order) {
            // The runtime is gone: the lock expires by itself.
            self.pending.send_modify(|pending| pending.end(&unsent.0));
        }
    }

    /// Completes when nothing is left to give up.
    pub(crate) async fn idle(&self) {
        let mut pending = self.pending.subscribe();
        // The sender lives as long as self.
        let _ = pending.wait_for(|pending| pending.orders == 0).await;
    }

    /// Completes when an owner has nothing left to give up; cancel safe.
    pub(crate) async fn has_left(&self, owner: &str) {
        let mut pending = self.pending.subscribe();
        let _ = pending.wait_for(|pending| !pending.owners.contains_key(owner)).await;
    }
}

async fn serve(
    backend: Arc<dyn Backend>,
    turns: Arc<Turns>,
    mut inbox: mpsc::UnboundedReceiver<Order>,
    pending: Arc<watch::Sender<Pending>>,
) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(order) = inbox.recv().await {
        let (backend, turns, pending) = (backend.clone(), turns.clone(), pending.clone());
        let Ok(turn) = room.clone().acquire_owned().await else {
            return;
        };
        tasks::spawn(async move {
            give_up(&*backend, &turns, &order).await;
            pending.send_modify(|pending| pending.end(&order));
            drop(turn);
        });
    }
}

/// Gives up until the server said that it is done, or it has expired.
async fn give_up(backend: &dyn Backend, turns: &Turns, order: &Order) {
    let clock = backend.clock();
    let mut delay = Duration::from_millis(20);
    loop {
        let sent = clock.now();
        let limit = sent + backend.step_timeout() * 2;
        let done = async {
            match &order.what {
                What::Lock(lease) => {
                    let released = backend.release(lease).await?;
                    turns.passed_on(lease, &released, sent);
                    Ok(())
                }
                What::Wait { owner, token } => backend.wait_no_more(owner, token).await,
            }
        };
        let done: Option<Result<()>> = until(&**clock, limit, done).await;
        let (error, hopeless) = match done {
            Some(Ok(())) => return,
            // Closed for good: nobody will answer any more.
            Some(Err(error)) => (error.chain(), error.kind() == ErrorKind::Misuse),
            None => ("no answer".to_owned(), false),
        };
        if hopeless || clock.now() >= order.until {
            let name = match &order.what {
                What::Lock(lease) => &lease.name,
                What::Wait { owner, .. } => owner,
            };
            tracing::warn!(%name, error, "a lock or a wait was left to expire");
            return;
        }
        let jitter = Duration::from_millis(rand::rng().random_range(0..20));
        clock.sleep(delay + jitter).await;
        delay = (delay * 2).min(Duration::from_secs(1));
    }
}

/// Says once what of the server's set-up breaks the promises of locks.
async fn audit(backend: Arc<dyn Backend>) {
    for finding in backend.audit().await.unwrap_or_default() {
        let (code, advice) = (finding.code, finding.advice);
        if finding.severity > coordinator_core::health::Severity::Note {
            tracing::warn!(code, advice, "{}", finding.message);
        }
    }
}
