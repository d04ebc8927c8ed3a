//! `lock log`: what happened to locks, the newest last. Nothing is changed here.

use super::{
    LogArgs,
    view::{millis, reason},
};
use crate::{
    failure::{Failure, exit},
    output,
};
use coordinator::locks::{Fence, LockEvent, Locks, LogEntry};
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// An entry, with the keys that callers may rely on; what does not apply is left out.
#[derive(Debug, Default, Serialize)]
struct EntryView {
    at_ms: u64,
    event: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    lock: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    holder: HolderView,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waited_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cycle: Vec<String>,
}

/// To whom it happened.
#[derive(Debug, Default, Serialize)]
struct HolderView {
    host: String,
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
}

impl From<&LogEntry> for EntryView {
    fn from(entry: &LogEntry) -> Self {
        let holder =
            HolderView { host: entry.host.clone(), pid: entry.pid, owner: entry.owner.clone() };
        let mut view = Self {
            at_ms: millis(entry.at),
            event: entry.event.name().to_owned(),
            lock: entry.lock.clone(),
            fence: entry.fence.map(Fence::get),
            id: entry.id.clone(),
            holder,
            task: entry.task.clone(),
            ..Self::default()
        };
        match &entry.event {
            LockEvent::Acquired { waited, .. } => view.waited_ms = waited.map(millis),
            LockEvent::TimedOut { waited, .. } => view.waited_ms = Some(millis(*waited)),
            LockEvent::Released { held, .. } => view.held_ms = held.map(millis),
            LockEvent::RenewedLate { left, .. } => view.left_ms = Some(millis(*left)),
            LockEvent::Lost { reason: why, held, .. } => {
                view.reason = Some(reason(*why).to_owned());
                view.held_ms = Some(millis(*held));
            }
            LockEvent::Forced { reason, by, .. } => {
                (view.reason, view.by) = (Some(reason.clone()), Some(by.clone()));
            }
            LockEvent::Deadlock { waited, cycle, .. } => {
                view.waited_ms = Some(millis(*waited));
                view.cycle = cycle.iter().map(ToString::to_string).collect();
            }
            LockEvent::Skipped { count, .. } => view.count = Some(*count),
            _ => {}
        }
        view
    }
}

impl EntryView {
    /// What there is to say beside who and when, for people.
    fn details(&self) -> String {
        let span = |words: &str, ms: Option<u64>| {
            let ms = Duration::from_millis(ms?);
            Some(format!("{words} {}", humantime::format_duration(ms)))
        };
        let details = [
            span("waited", self.waited_ms),
            span("held", self.held_ms),
            span("left", self.left_ms),
            self.reason.clone(),
            self.by.as_ref().map(|by| format!("by {by}")),
            self.count.map(|count| format!("{count} entries are missing")),
            (!self.cycle.is_empty()).then(|| self.cycle.join("; ")),
        ];
        details.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    fn row(self) -> Vec<String> {
        // What a damaged record says may be later than the calendar goes.
        let at = Duration::from_millis(self.at_ms.min(253_402_300_799_000));
        let details = self.details();
        vec![
            humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + at).to_string(),
            self.event,
            self.lock,
            self.fence.map(|fence| fence.to_string()).unwrap_or_default(),
            self.holder.host,
            self.holder.pid.to_string(),
            self.holder.owner.unwrap_or_default(),
            details,
        ]
    }
}

/// What happened, the newest last.
pub(super) async fn log(args: &LogArgs, locks: &Locks, json: bool) -> Result<u8, Failure> {
    let all = args.lock.is_none();
    let mut entries = locks.log(args.since, if all { args.limit } else { usize::MAX }).await?;
    entries.retain(|entry| all || args.lock.as_ref() == Some(&entry.lock));
    entries.drain(..entries.len().saturating_sub(args.limit));
    let entries = entries.iter().map(EntryView::from);
    if json {
        for entry in entries {
            output::json(&entry)?;
        }
    } else {
        let header = ["AT", "EVENT", "LOCK", "FENCE", "HOST", "PID", "OWNER", "DETAILS"];
        output::line(&output::table(&header, entries.map(EntryView::row)))?;
    }
    Ok(exit::DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_what_applies() {
        let view = EntryView {
            at_ms: u64::MAX,
            event: "lost".into(),
            held_ms: Some(1500),
            reason: Some("expired".into()),
            ..EntryView::default()
        };
        assert_eq!(view.details(), "held 1s 500ms, expired");
        assert!(view.row()[0].starts_with("9999-12-31T"));
    }
}
