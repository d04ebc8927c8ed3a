//! Invalidations that could not be made because no server answered: they are made when one does.
//!
//! It keeps no values, and nothing of it outlives the process.

use crate::{
    backend::{Backend, Key, Tag},
    tasks,
};
use coordinator_core::{Error, Result};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    orders: Mutex<HashSet<Order>>,
}

impl Queue {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend, orders: Mutex::default() }
    }

    fn orders(&self) -> MutexGuard<'_, HashSet<Order>> {
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
        let more = new.iter().filter(|order| !orders.contains(*order)).count();
        if orders.len() + more > ORDERS_MAX {
            return Err(why);
        }
        let idle = orders.is_empty();
        orders.extend(new);
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
        let orders = self.orders();
        !orders.is_empty() && orders.contains(order)
    }

    /// Makes what is queued; whether nothing is left.
    async fn replay(&self) -> bool {
        let orders: Vec<Order> = self.orders().iter().cloned().collect();
        for order in orders {
            let made = match &order {
                Order::Key(key) => self.backend.invalidate(std::slice::from_ref(key)).await,
                Order::Expire(key) => self.backend.expire(std::slice::from_ref(key)).await,
                Order::Tag(tag) => self.backend.untag(std::slice::from_ref(tag)).await,
            };
            match made {
                Err(error) if error.is_retryable() => return false,
                Err(error) => {
                    tracing::warn!(error = error.chain(), "a queued invalidation was refused");
                }
                Ok(_) => {}
            }
            self.orders().remove(&order);
        }
        self.orders().is_empty()
    }
}
