//! `lock list` and `lock show`: who holds what, and who waits for it. Nothing is changed here.

use super::view::{LockView, age, longest, millis, stamp};
use crate::{
    failure::{Failure, exit},
    output,
};
use coordinator::locks::{HeldLock, Locks, Waiter};
use serde_json::json;
use std::time::Duration;

/// What stands where there is nothing to tell.
const NONE: &str = "-";

/// All locks, by name.
pub(super) async fn list(locks: &Locks, json: bool) -> Result<u8, Failure> {
    let mut held = Vec::new();
    for lock in locks.list().await? {
        let waiting = waiting(locks, &lock).await?;
        held.push((lock, waiting));
    }
    if json {
        let views = held.iter().map(|(lock, waiting)| LockView::new(lock, waiting));
        output::json(&views.collect::<Vec<_>>())?;
    } else {
        let header = ["NAME", "HOST", "PID", "SINCE", "FENCE", "TTL", "WAITERS", "LONGEST WAIT"];
        let rows = held.iter().map(|(lock, waiting)| row(lock, waiting));
        output::line(&output::table(&header, rows))?;
    }
    Ok(exit::DONE)
}

/// One lock.
pub(super) async fn show(name: &str, locks: &Locks, json: bool) -> Result<u8, Failure> {
    let Some(held) = locks.show(name).await? else {
        if json {
            output::json(&json!({ "name": name, "holder": null }))?;
        } else {
            output::note(format_args!("lock {name} is not held"));
        }
        return Ok(exit::REFUSED);
    };
    let waiting = waiting(locks, &held).await?;
    if json {
        output::json(&LockView::new(&held, &waiting).with_waiting(&waiting))?;
        return Ok(exit::DONE);
    }
    let names = ["name", "host", "pid", "since", "fence", "ttl", "waiters", "longest wait"];
    let mut rows: Vec<_> = names.into_iter().zip(row(&held, &waiting)).collect();
    rows.insert(3, ("owner", or_none(held.holder.owner.as_deref())));
    let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]);
    output::line(&output::table(&[], rows))?;
    if !waiting.is_empty() {
        let header = ["HOST", "PID", "OWNER", "PRIORITY", "WAITED", "TASK"];
        let rows = waiting.iter().map(|waiter| {
            vec![
                waiter.host.clone(),
                waiter.pid.to_string(),
                or_none(waiter.owner.as_deref()),
                waiter.priority.to_string(),
                age(waiter.waited),
                or_none(waiter.task.as_deref()),
            ]
        });
        output::line(&format!("\n{}", output::table(&header, rows)))?;
    }
    Ok(exit::DONE)
}

async fn waiting(locks: &Locks, held: &HeldLock) -> Result<Vec<Waiter>, Failure> {
    if held.waiters == 0 {
        return Ok(Vec::new());
    }
    let limit = usize::try_from(held.waiters).unwrap_or(usize::MAX);
    Ok(locks.waiters(&held.name, limit).await?)
}

fn or_none(text: Option<&str>) -> String {
    text.unwrap_or(NONE).to_owned()
}

fn row(held: &HeldLock, waiting: &[Waiter]) -> Vec<String> {
    let ttl = Duration::from_millis(millis(held.ttl));
    vec![
        held.name.clone(),
        held.holder.host.clone(),
        held.holder.pid.to_string(),
        stamp(held.holder.since),
        held.holder.fence.to_string(),
        humantime::format_duration(ttl).to_string(),
        held.waiters.to_string(),
        longest(waiting).map_or_else(|| NONE.to_owned(), age),
    ]
}
