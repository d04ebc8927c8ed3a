//! Invalidations that could not be made because no server answered: they are made when one does.
//!
//! It keeps no values, and nothing of it outlives the process.

use crate::{
    backend::{Backend, Key, Tag},
    tasks,
};
use coordinator_core::{Error, ErrorKind, Result};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// How many are kept at the most.
const ORDERS_MAX: usize = 10_000;
/// How often it is tried.
const AGAIN: Duration = Duration::from_millis(500);

/// What became of an invalidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invalidated {
    /// It is done: so many entries, or tags, were there.
    Done(u64),
    /// No server answered. This process gives what it was no more, and the invalidation is made
    /// when a server answers, if this process lives until then.
    Queued,
}

/// What is to be made up for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    Key(Key),
    Expire(Key),
    Tag(Tag),
}

#[derive(Debug)]
pub(crate) struct Queue {
    backend: Arc<dyn Backend>,
    /// Each with a number of its own, by which it is known whether it was given again.
    orders: Mutex<HashMap<Order, u64>>,
    /// How many there are, to be seen without the lock.
    count: AtomicUsize,
    given: AtomicU64,
}

impl Queue {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        let (count, given) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { backend, orders: Mutex::default(), count, given }
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn orders(&self) -> MutexGuard<'_, HashMap<Order, u64>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The outcome, or its order queued where no server answered.
    pub(crate) fn or_later(
        self: &Arc<Self>,
        outcome: Result<u64>,
        order: impl FnOnce() -> Order,
    ) -> Result<Invalidated> {
        match outcome {
            Ok(count) => Ok(Invalidated::Done(count)),
            Err(error) if error.is_retryable() => self.later(vec![order()], error),
            Err(error) => Err(error),
        }
    }

    /// Queues all of these, or none for want of room: then it is `why`.
    pub(crate) fn later(self: &Arc<Self>, new: Vec<Order>, why: Error) -> Result<Invalidated> {
        let mut orders = self.orders();
        let more = new.iter().filter(|order| !orders.contains_key(*order)).count();
        if orders.len() + more > ORDERS_MAX {
            return Err(why);
        }
        let idle = orders.is_empty();
        for order in new {
            orders.insert(order, self.given.fetch_add(1, Ordering::Relaxed));
        }
        self.count.store(orders.len(), Ordering::Release);
        drop(orders);
        if idle {
            let queue = Arc::downgrade(self);
            let clock = self.backend.clock().clone();
            tasks::spawn(async move {
                loop {
                    clock.sleep(AGAIN).await;
                    let Some(queue) = queue.upgrade() else { return };
                    if queue.replay().await {
                        return;
                    }
                }
            });
        }
        Ok(Invalidated::Queued)
    }

    /// Whether a key's invalidation is still to be made: nothing of it may be believed until then.
    pub(crate) fn holds(&self, order: &Order) -> bool {
        !self.is_empty() && self.orders().contains_key(order)
    }

    /// Makes what is queued; whether nothing is left.
    async fn replay(&self) -> bool {
        let waiting: Vec<(Order, u64)> =
            self.orders().iter().map(|(order, given)| (order.clone(), *given)).collect();
        for (order, given) in waiting {
            let made = match &order {
                Order::Key(key) => self.backend.invalidate(std::slice::from_ref(key)).await,
                Order::Expire(key) => self.backend.expire(std::slice::from_ref(key)).await,
                Order::Tag(tag) => self.backend.untag(std::slice::from_ref(tag)).await,
            };
            if let Err(error) = made
                && error.kind() != ErrorKind::Misuse
            {
                // A master that was demoted, or a disk that is full, refuses for a while; another
                // node may be well.
                tracing::debug!(error = error.chain(), "a queued invalidation is not made yet");
                continue;
            }
            let mut orders = self.orders();
            // Given again meanwhile, it is for what came after this one.
            if orders.get(&order) == Some(&given) {
                orders.remove(&order);
            }
            self.count.store(orders.len(), Ordering::Release);
        }
        self.orders().is_empty()
    }
}
