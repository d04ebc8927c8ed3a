//! Rate limits of this workspace beside bare scripts and other crates.

mod client;
mod fast;
mod memory;
mod outage;
mod over;
mod peers;
mod server;
mod waiters;

use crate::{Plan, report::Report};
use anyhow::Result;
use coordinator_harness::RedisServer;

/// What is often written by hand.
const NAIVE: &str = include_str!("ratelimit/naive.lua");
/// The same for GCRA.
const GCRA: &str = include_str!("ratelimit/gcra.lua");

pub(crate) async fn run(
    plan: &Plan,
    wanted: impl Fn(&str) -> bool,
    server: &RedisServer,
    report: &mut Report,
) -> Result<()> {
    if wanted(server::TITLE) {
        server::run(plan, server, report).await?;
    }
    if wanted(client::TITLE) {
        client::run(plan, server, report).await?;
    }
    if wanted(memory::TITLE) {
        memory::run(report).await?;
    }
    if wanted(fast::TITLE) {
        fast::run(plan, server, report).await?;
    }
    if wanted(waiters::TITLE) {
        waiters::run(plan, server, report).await?;
    }
    if wanted(outage::TITLE) {
        outage::run(plan, report).await?;
    }
    if wanted(peers::TITLE) {
        peers::run(plan, server, report).await?;
    }
    Ok(())
}
