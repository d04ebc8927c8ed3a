//! Tasks that call again and again.

use anyhow::Result;
use std::time::{Duration, Instant};

/// So many tasks call for so long; what the calls said, and how long it took in all.
pub(crate) async fn drive<F, C, T>(
    tasks: usize,
    time: Duration,
    call: F,
) -> Result<(Vec<T>, Duration)>
where
    F: Fn() -> C + Clone + Send + 'static,
    C: Future<Output = Result<T>> + Send,
    T: Send + 'static,
{
    let start = Instant::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let call = call.clone();
            tokio::spawn(async move {
                let mut said = Vec::new();
                while start.elapsed() < time {
                    said.push(call().await?);
                }
                anyhow::Ok(said)
            })
        })
        .collect();
    let mut said = Vec::new();
    for task in tasks {
        said.extend(task.await??);
    }
    Ok((said, start.elapsed()))
}

/// How many there were per second.
pub(crate) fn rate(count: usize, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let count = count as f64;
    count / time.as_secs_f64()
}
