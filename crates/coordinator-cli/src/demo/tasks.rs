//! The one file of the demo that starts tasks.

use std::future::Future;
use tokio::task::JoinSet;

/// Tasks that end, wherever they stand, when this is dropped.
#[derive(Debug)]
pub(crate) struct Tasks<T>(JoinSet<T>);

impl<T: Send + 'static> Tasks<T> {
    pub(crate) fn new() -> Self {
        Self(JoinSet::new())
    }

    /// Starts one.
    pub(crate) fn start(&mut self, task: impl Future<Output = T> + Send + 'static) {
        self.0.spawn(task);
    }

    /// Forgets the ones that have ended.
    pub(crate) fn reap(&mut self) {
        while self.0.try_join_next().is_some() {}
    }

    /// Waits for the next one to end: `None` when there is none left, `Some(None)` if it panicked.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Option<T>> {
        Some(self.0.join_next().await?.ok())
    }
}
