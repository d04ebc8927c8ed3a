//! When a connection's breaker opens and how often it asks whether it may close.

use std::time::Duration;

/// When calls stop waiting for a server that does not answer.
///
/// The breaker opens when [`failures`](Self::with_failures) signs of silence in a row (no link, a
/// lost link, a timeout) have come in over at least [`silence`](Self::with_silence), and no answer
/// of any kind between them. An error in the server's words is an answer.
/// While it is open, calls fail at once and unsent. One probe at a time asks the server, and the
/// first answer closes the breaker.
/// In a cluster it opens only while there is no link at all: one dead node is no reason to refuse
/// calls to the others.
///
/// ```
/// use coordinator_core::config::{BreakerPolicy, Config};
/// use std::time::Duration;
///
/// let policy = BreakerPolicy::default().with_silence(Duration::from_millis(300));
/// let config = Config::from_url("redis://127.0.0.1")?.with_breaker(policy);
/// # Ok::<(), coordinator_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    failures: u32,
    silence: Duration,
    window: Duration,
    probe_interval: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            failures: 5,
            silence: Duration::from_secs(1),
            window: Duration::from_secs(10),
            probe_interval: Duration::from_millis(250),
        }
    }
}

impl BreakerPolicy {
    /// How many signs of silence in a row open it. Default 5, at least 1.
    ///
    /// While there is no link the connection itself counts one every 100 ms.
    pub fn with_failures(mut self, failures: u32) -> Self {
        self.failures = failures.max(1);
        self
    }

    /// Over how long a time they must have come in. Default 1 s: a link that is lost and made anew
    /// within that time opens nothing.
    pub fn with_silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    /// After how long without another one the count begins anew. Default 10 s.
    pub fn with_window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// How long an open breaker waits before each probe at most; a random part of up to half is
    /// taken off. Default 250 ms, 10 ms to 10 s. A new link is probed at once.
    pub fn with_probe_interval(mut self, interval: Duration) -> Self {
        self.probe_interval = interval.clamp(Duration::from_millis(10), Duration::from_secs(10));
        self
    }

    /// How many signs of silence in a row open it.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Over how long a time they must have come in.
    pub fn silence(&self) -> Duration {
        self.silence
    }

    /// After how long without another one the count begins anew.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// How long an open breaker waits before each probe at most.
    pub fn probe_interval(&self) -> Duration {
        self.probe_interval
    }
}
