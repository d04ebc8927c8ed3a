//! Waiting, names and seeds for tests; and the only place of this crate that reads a clock.
//!
//! It does not measure durations for assertions: tests bound those from their own stamps.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::Instant;

/// How often [`eventually`] looks.
const POLL: Duration = Duration::from_millis(5);

/// The clock behind the proxy's delays.
#[expect(clippy::disallowed_methods, reason = "the harness has no Clock to take: it IS the world")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Locks, also after a panic elsewhere: what is kept in these locks is whole at all times.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Polls `condition` every 5 ms until it holds.
///
/// It looks at least once, and a look that hangs ends with the deadline too.
///
/// # Panics
/// With `what` if the condition does not hold by the deadline.
///
/// # Cancel safety
/// Cancel safe as far as `condition` is.
pub async fn eventually(deadline: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let holds = async {
        while !condition().await {
            tokio::time::sleep(POLL).await;
        }
    };
    let outcome = tokio::time::timeout(deadline, holds).await;
    assert!(outcome.is_ok(), "not within {deadline:?}: {what}");
}

/// A key prefix that no other test uses, in this process or another; letters, digits and dashes.
#[must_use]
pub fn fresh_prefix() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("t{}-{n}-{:08x}", std::process::id(), rand::random::<u32>())
}

/// The seed of this process: the environment's `SEED`, or a random one.
///
/// The first call prints `SEED=…` to stderr, past the capture of the test runner, so that a failed
/// run can be repeated.
///
/// # Panics
/// If `SEED` is set and not a number: a typing error must not pass for a repetition.
#[must_use]
pub fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let seed = match std::env::var("SEED") {
            Ok(text) => text.trim().parse().expect("SEED must be an unsigned number"),
            Err(_) => rand::random(),
        };
        // Whether the line could be printed does not matter to the test.
        let _ = writeln!(std::io::stderr(), "SEED={seed}");
        seed
    })
}

/// A random number generator that starts at [`seed`].
#[must_use]
pub fn rng() -> StdRng {
    StdRng::seed_from_u64(seed())
}
