//! The shapes of the answers about locks: the JSON keys callers rely on, and words for people.
//! No token is in any of them but the one that `acquire` makes itself.

use coordinator::locks::{HeldLock, Holder, LossReason};
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// Who holds a lock.
#[derive(Debug, Serialize)]
pub(super) struct HolderView {
    host: String,
    pid: u32,
    since_ms: u64,
}

impl From<&Holder> for HolderView {
    fn from(holder: &Holder) -> Self {
        Self { host: holder.host.clone(), pid: holder.pid, since_ms: millis(holder.since) }
    }
}

/// A lock that is held.
#[derive(Debug, Serialize)]
pub(super) struct LockView {
    name: String,
    holder: HolderView,
    fence: u64,
    ttl_ms: u64,
    waiters: u64,
}

impl From<&HeldLock> for LockView {
    fn from(lock: &HeldLock) -> Self {
        Self {
            name: lock.name.clone(),
            holder: HolderView::from(&lock.holder),
            fence: lock.holder.fence.get(),
            ttl_ms: millis(lock.ttl),
            waiters: lock.waiters,
        }
    }
}

/// Milliseconds, as many as fit.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time since the Unix epoch for people.
pub(super) fn stamp(since: Duration) -> String {
    // What a damaged record says may be later than the calendar goes.
    let latest = Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since.min(latest)).to_string()
}

/// Who holds a lock, for people.
pub(super) fn held(name: &str, holder: Option<&Holder>) -> String {
    let advice = "wait with --wait, or look with `coordinator lock show`";
    match holder {
        None => format!("lock {name} is held by another ({advice})"),
        Some(holder) => format!(
            "lock {name} is held by {} pid {} since {} ({advice})",
            holder.host,
            holder.pid,
            stamp(holder.since)
        ),
    }
}

/// A stable word for why a lock was lost.
pub(super) fn reason(reason: LossReason) -> &'static str {
    match reason {
        LossReason::Expired => "expired",
        LossReason::Unreachable => "unreachable",
        LossReason::Stolen => "stolen",
        LossReason::Vanished => "vanished",
        LossReason::ForceReleased => "force-released",
        LossReason::Released => "released",
        _ => "lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_stamp_can_be_shown() {
        assert_eq!(stamp(Duration::ZERO), "1970-01-01T00:00:00Z");
        assert_eq!(stamp(Duration::MAX), "9999-12-31T23:59:59Z");
    }
}
