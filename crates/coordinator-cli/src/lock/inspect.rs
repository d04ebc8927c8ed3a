//! `lock list` and `lock show`: who holds what. Nothing is changed here.

use super::view::{LockView, millis, stamp};
use crate::{
    failure::{Failure, exit},
    output,
};
use coordinator::locks::{HeldLock, Locks};
use serde_json::json;
use std::time::Duration;

/// All locks, by name.
pub(super) async fn list(locks: &Locks, json: bool) -> Result<u8, Failure> {
    let held = locks.list().await?;
    if json {
        output::json(&held.iter().map(LockView::from).collect::<Vec<_>>())?;
    } else {
        let header = ["NAME", "HOST", "PID", "SINCE", "FENCE", "TTL", "WAITERS"];
        output::line(&output::table(&header, held.iter().map(row)))?;
    }
    Ok(exit::DONE)
}

/// One lock.
pub(super) async fn show(name: &str, locks: &Locks, json: bool) -> Result<u8, Failure> {
    match locks.show(name).await? {
        Some(held) if json => output::json(&LockView::from(&held))?,
        Some(held) => {
            let names = ["name", "host", "pid", "since", "fence", "ttl", "waiters"];
            let rows = names.into_iter().zip(row(&held));
            let rows = rows.map(|(name, value)| vec![name.to_owned(), value]);
            output::line(&output::table(&[], rows))?;
        }
        None if json => {
            output::json(&json!({ "name": name, "holder": null }))?;
            return Ok(exit::REFUSED);
        }
        None => {
            output::note(format_args!("lock {name} is not held"));
            return Ok(exit::REFUSED);
        }
    }
    Ok(exit::DONE)
}

fn row(held: &HeldLock) -> Vec<String> {
    let ttl = Duration::from_millis(millis(held.ttl));
    vec![
        held.name.clone(),
        held.holder.host.clone(),
        held.holder.pid.to_string(),
        stamp(held.holder.since),
        held.holder.fence.to_string(),
        humantime::format_duration(ttl).to_string(),
        held.waiters.to_string(),
    ]
}
