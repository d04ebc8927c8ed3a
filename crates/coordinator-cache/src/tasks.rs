//! The one file of this crate that starts background tasks.

/// Does work that takes long on a thread for it; none if it panicked, or the runtime ends.
///
/// Dropping the future leaves the work to end by itself.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
