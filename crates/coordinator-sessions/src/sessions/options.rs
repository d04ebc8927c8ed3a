//! Options: timeouts, caps and what else holds for all sessions of a client.

use super::{Sessions, in_ms, new::CapPolicy};
use crate::{backend::Cap, vault::KeyRing};
use std::{sync::Arc, time::Duration};

/// The longest absolute timeout: graves and epochs are kept as long.
pub(super) const ABSOLUTE_MAX: Duration = Duration::from_hours(24 * 400);

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(super) idle: Duration,
    pub(super) absolute: Duration,
    throttle: Option<Duration>,
    pub(super) grace: Duration,
    pub(super) cap: Option<Cap>,
    pub(crate) ring: Option<Arc<KeyRing>>,
    pub(super) reference_key: Arc<[u8]>,
    pub(super) announces_updates: bool,
    pub(super) local_stale: Option<Duration>,
    pub(super) reaps_every: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            idle: Sessions::IDLE_TIMEOUT,
            absolute: Sessions::ABSOLUTE_TIMEOUT,
            throttle: None,
            grace: Sessions::ROTATION_GRACE,
            cap: None,
            ring: None,
            reference_key: Arc::from(&b"coordinator session reference"[..]),
            announces_updates: false,
            local_stale: None,
            reaps_every: Some(Sessions::REAP_PERIOD),
        }
    }
}

impl Options {
    pub(super) fn throttle_ms(&self) -> i64 {
        let most = (self.idle / 10).min(Duration::from_mins(1));
        in_ms(self.throttle.unwrap_or(most).min(ABSOLUTE_MAX))
    }
}

impl Sessions {
    /// The default of [`with_idle_timeout`](Self::with_idle_timeout): 30 minutes.
    pub const IDLE_TIMEOUT: Duration = Duration::from_mins(30);
    /// The default of [`with_absolute_timeout`](Self::with_absolute_timeout): 12 hours.
    pub const ABSOLUTE_TIMEOUT: Duration = Duration::from_hours(12);
    /// The default of [`with_rotation_grace`](Self::with_rotation_grace): 30 seconds.
    pub const ROTATION_GRACE: Duration = Duration::from_secs(30);
    /// The default of [`with_reaping`](Self::with_reaping): a second.
    pub const REAP_PERIOD: Duration = Duration::from_secs(1);

    fn with(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(Arc::make_mut(&mut self.options));
        self
    }

    /// After how long without activity a new session ends: never earlier, and at most one
    /// [throttle](Self::with_touch_throttle) later. Whole milliseconds, at least one.
    pub fn with_idle_timeout(self, idle: Duration) -> Self {
        self.with(|options| options.idle = idle)
    }

    /// After how long a new session ends, however active: exactly, from its creation on. At most
    /// 400 days, and never less than the idle timeout of the session.
    pub fn with_absolute_timeout(self, absolute: Duration) -> Self {
        self.with(|options| options.absolute = absolute)
    }

    /// How often the activity of a session is written down at most. By default a tenth of the idle
    /// timeout, and at most a minute. What is over 400 days counts as so many.
    pub fn with_touch_throttle(self, throttle: Duration) -> Self {
        self.with(|options| options.throttle = Some(throttle))
    }

    /// For how long a token still finds its session after a rotation replaced it, for requests
    /// that were on their way. At most 400 days: longer than any session lives.
    pub fn with_rotation_grace(self, grace: Duration) -> Self {
        self.with(|options| options.grace = grace.min(ABSOLUTE_MAX))
    }

    /// How many sessions one user may have at once, and what becomes of one more; by default any
    /// number. All clients should say the same. At least 1.
    pub fn with_cap(self, most: u32, policy: CapPolicy) -> Self {
        self.with(|options| options.cap = Some(Cap { most: most.max(1), policy: policy.into() }))
    }

    /// Encrypts what sessions keep; names, times and the versions stay readable. See [`KeyRing`].
    pub fn with_encryption(self, ring: KeyRing) -> Self {
        self.with(|options| options.ring = Some(Arc::new(ring)))
    }

    /// The key of [references](crate::Reference). Without one of your own, who can read the server
    /// can tell which session a log speaks of; nobody can log in with either.
    pub fn with_reference_key(self, key: &[u8]) -> Self {
        self.with(|options| options.reference_key = Arc::from(key))
    }

    /// Tells of changes of fields among the [events](Self::events), too; by default not.
    pub fn with_update_events(self) -> Self {
        self.with(|options| options.announces_updates = true)
    }

    /// Answers [`load`](Self::load) from this process for so long after it asked the backend, and
    /// at most for half the idle timeout of the session. Off by default: a session that was ended
    /// elsewhere is then let in for so long, and activity is counted as late. Changes by this
    /// client are seen at once.
    pub fn with_local_cache(self, stale: Duration) -> Self {
        self.with(|options| options.local_stale = Some(stale))
    }

    /// How often this client ends sessions whose time is over and tells of them; `None`: others do,
    /// or [`reap`](Self::reap) is called. Whether a session lives does not depend on it, but
    /// embedded, what nobody reaps is kept for ever. At least a millisecond. A file is reaped at
    /// its first use as well.
    pub fn with_reaping(self, period: Option<Duration>) -> Self {
        let least = Duration::from_millis(1);
        self.with(|options| options.reaps_every = period.map(|period| period.max(least)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_of_nothing_is_a_millisecond() {
        // Else the reaper would never sleep.
        let of = |period| Sessions::embedded().with_reaping(period).options.reaps_every;
        assert_eq!(of(Some(Duration::ZERO)), Some(Duration::from_millis(1)));
        assert_eq!(of(Some(Duration::from_millis(2))), Some(Duration::from_millis(2)));
        assert_eq!(of(None), None);
    }
}
