//! What a backend in process shows of itself: counts, and neither subjects nor tokens.

use super::Embedded;
use std::fmt;

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Embedded");
        shown.field("clock", &self.clock);
        if let Ok(state) = self.state.try_lock() {
            shown.field("limits", &state.limits.len());
            shown.field("slots", &state.slots.len());
            shown.field("denials", &state.denials.len());
        }
        shown.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use crate::{Quota, RateLimiter};
    use std::time::Duration;

    #[tokio::test]
    async fn only_counts_are_shown() {
        let limits = RateLimiter::embedded();
        let denied = Quota::fixed_window(0, Duration::from_secs(9));
        limits.check("alice", &denied).await.expect("an answer");
        limits.increment("alice", &denied, 1).await.expect("an answer");
        let shown = format!("{limits:?}");
        assert!(!shown.contains("alice"), "{shown}");
        assert!(shown.contains("limits: 1, slots: 0, denials: 1"), "{shown}");
    }
}
