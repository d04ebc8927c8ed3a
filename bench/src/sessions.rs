//! Sessions and conversations of this workspace beside bare scripts and the stores of others.

pub(crate) mod bare;
mod expiry;
mod lists;
mod memory;
mod peers;
mod people;
mod steps;
mod stores;
mod talks;

use crate::{Plan, report::Report};
use anyhow::Result;
use coordinator_harness::RedisServer;

pub(crate) async fn run(
    plan: &Plan,
    wanted: impl Fn(&str) -> bool,
    server: &RedisServer,
    report: &mut Report,
) -> Result<()> {
    if wanted(steps::TITLE) {
        steps::run(plan, server, report).await?;
    }
    if wanted(memory::TITLE) {
        memory::run(report).await?;
    }
    if wanted(lists::TITLE) {
        lists::run(plan, report).await?;
    }
    if wanted(talks::TITLE) {
        talks::run(plan, server, report).await?;
    }
    if wanted(expiry::TITLE) {
        expiry::run(plan, report).await?;
    }
    let (speed, right) = (wanted(peers::SPEED), wanted(peers::RIGHT));
    if speed || right {
        peers::run(plan, server, report, speed, right).await?;
    }
    Ok(())
}
