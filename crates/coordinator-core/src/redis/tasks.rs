//! The one file of this crate that starts background tasks.

use std::future::Future;
use tokio::task::JoinHandle;

/// Starts a task that owns its own end: every caller passes one that stops when what it serves is
/// dropped or closed.
pub(super) fn spawn<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    #[expect(clippy::disallowed_methods, reason = "this file owns the background tasks")]
    tokio::spawn(task)
}
