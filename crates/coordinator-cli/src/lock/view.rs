//! The shapes of the answers about locks: the JSON keys callers rely on, and words for people.
//! No token is in any of them but the one that `acquire` makes itself.

use coordinator::locks::{Blocked, HeldLock, Holder, LossReason, Waiter};
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// Who holds a lock.
#[derive(Debug, Serialize)]
pub(super) struct HolderView {
    host: String,
    pid: u32,
    since_ms: u64,
    id: String,
    owner: Option<String>,
}

impl From<&Holder> for HolderView {
    fn from(holder: &Holder) -> Self {
        Self {
            host: holder.host.clone(),
            pid: holder.pid,
            since_ms: millis(holder.since),
            id: holder.id.clone(),
            owner: holder.owner.clone(),
        }
    }
}

/// Who waits for a lock.
#[derive(Debug, Serialize)]
pub(super) struct WaiterView {
    host: String,
    pid: u32,
    task: Option<String>,
    owner: Option<String>,
    priority: u8,
    waited_ms: u64,
}

impl From<&Waiter> for WaiterView {
    fn from(waiter: &Waiter) -> Self {
        Self {
            host: waiter.host.clone(),
            pid: waiter.pid,
            task: waiter.task.clone(),
            owner: waiter.owner.clone(),
            priority: waiter.priority,
            waited_ms: millis(waiter.waited),
        }
    }
}

/// Who waits for whom in a deadlock.
#[derive(Debug, Serialize)]
pub(super) struct BlockedView {
    owner: String,
    lock: String,
    holder: String,
}

impl From<&Blocked> for BlockedView {
    fn from(blocked: &Blocked) -> Self {
        let Blocked { owner, lock, holder, .. } = blocked.clone();
        Self { owner, lock, holder }
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
    longest_wait_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<Vec<WaiterView>>,
}

impl LockView {
    pub(super) fn new(lock: &HeldLock, waiting: &[Waiter]) -> Self {
        Self {
            name: lock.name.clone(),
            holder: HolderView::from(&lock.holder),
            fence: lock.holder.fence.get(),
            ttl_ms: millis(lock.ttl),
            waiters: lock.waiters,
            longest_wait_ms: longest(waiting).map(millis),
            waiting: None,
        }
    }

    /// The same with each waiter.
    pub(super) fn with_waiting(self, waiting: &[Waiter]) -> Self {
        Self { waiting: Some(waiting.iter().map(WaiterView::from).collect()), ..self }
    }
}

/// How long whoever waits for the longest time has waited.
pub(super) fn longest(waiting: &[Waiter]) -> Option<Duration> {
    waiting.iter().map(|waiter| waiter.waited).max()
}

/// How long something has lasted, for people: whole seconds from one on.
pub(super) fn age(lasted: Duration) -> String {
    let whole = match lasted.as_secs() {
        0 => Duration::from_millis(millis(lasted)),
        seconds => Duration::from_secs(seconds),
    };
    humantime::format_duration(whole).to_string()
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

/// Who waits for whom in a deadlock, for people.
pub(super) fn deadlock(cycle: &[Blocked]) -> String {
    let said: Vec<_> = cycle.iter().map(Blocked::to_string).collect();
    format!("deadlock: {}", said.join("; "))
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

    #[test]
    fn ages_are_no_finer_than_people_read() {
        assert_eq!(age(Duration::from_micros(250_999)), "250ms");
        assert_eq!(age(Duration::from_millis(61_999)), "1m 1s");
    }
}
