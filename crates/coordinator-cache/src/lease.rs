//! Leases that were perhaps left behind: whoever waits for them should not have to wait for their
//! end. It claims none.

use crate::{
    backend::{Backend, Key, Token},
    tasks,
};
use futures::future::join_all;
use std::{sync::Arc, time::Duration};

/// How often it is tried.
const AGAIN: Duration = Duration::from_millis(500);

/// Leases that are perhaps there, and given up when whoever loads stops.
pub(crate) struct Held {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) token: Token,
    pub(crate) lease: Duration,
    pub(crate) keys: Vec<Key>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let keys = std::mem::take(&mut self.keys);
        give_up(self.backend.clone(), self.token, keys, self.lease);
    }
}

/// Gives leases up, in the background: until a server answers, or they have ended by themselves.
pub(crate) fn give_up(backend: Arc<dyn Backend>, token: Token, keys: Vec<Key>, lease: Duration) {
    if keys.is_empty() || tokio::runtime::Handle::try_current().is_err() {
        return;
    }
    tasks::spawn(async move {
        let clock = backend.clock().clone();
        let ended = clock.now() + lease;
        let mut left = keys;
        loop {
            let answers = join_all(left.iter().map(|key| backend.release(key, token))).await;
            let unsure = |error: &coordinator_core::Error| error.is_retryable();
            let mut answers = answers.into_iter();
            left.retain(|_| answers.next().is_some_and(|answer| answer.is_err_and(|e| unsure(&e))));
            if left.is_empty() || clock.now() >= ended {
                return;
            }
            clock.sleep(AGAIN).await;
        }
    });
}
