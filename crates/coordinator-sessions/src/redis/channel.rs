//! The channel of a shard, on which what happens is announced.

use crate::backend::Alerts;
use coordinator_core::{
    BoxFuture,
    redis::{Message, Subscription},
};

#[derive(Debug)]
pub(super) struct Channel(pub(super) Subscription);

impl Alerts for Channel {
    fn next(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            // What was lost may have been an event.
            drop::<Message>(self.0.next().await);
        })
    }
}
