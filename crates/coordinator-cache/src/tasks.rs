//! The one file of this crate that starts background tasks.

/// Does work that takes long on a thread for it; none if it panicked, or the runtime ends.
///
/// Dropping the future leaves the work to end by itself.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// Starts a task that ends by itself when what it serves is done, or dropped.
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "this file owns the background tasks")]
    drop(tokio::spawn(task));
}
