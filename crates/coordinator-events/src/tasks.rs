//! The one file of this crate that starts background tasks.

use std::future::Future;

/// Starts a task that ends by itself when what it serves is dropped.
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "this file owns the background tasks")]
    drop(tokio::spawn(task));
}
