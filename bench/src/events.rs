//! Events of this workspace beside their bare script, bare pub/sub and what others offer.

mod channels;
mod flood;
mod peers;
mod publish;
mod readers;
mod receive;
mod stalled;
mod storm;

pub(crate) use stalled::stall;

use crate::{Plan, report::Report};
use anyhow::Result;
use coordinator_harness::RedisServer;

/// How long the data of an event are, in bytes of JSON.
const DATA: usize = 256;

/// A text that is so long as JSON.
fn data() -> String {
    "coordinator ".chars().cycle().take(DATA - 2).collect()
}

pub(crate) async fn run(
    plan: &Plan,
    wanted: impl Fn(&str) -> bool,
    server: &RedisServer,
    report: &mut Report,
) -> Result<()> {
    if wanted(publish::SERVER) {
        publish::server(plan, server, report).await?;
    }
    if wanted(publish::CLIENT) {
        publish::client(plan, server, report).await?;
    }
    if wanted(receive::TITLE) {
        receive::run(plan, server, report).await?;
    }
    if wanted(readers::TITLE) {
        readers::run(plan, server, report).await?;
    }
    if wanted(stalled::TITLE) {
        stalled::run(plan, server, report).await?;
    }
    if wanted(storm::TITLE) {
        storm::run(plan, server, report).await?;
    }
    if wanted(peers::SPEED) {
        peers::speed(plan, report).await?;
    }
    if wanted(peers::KILLS) {
        peers::kills(plan, report).await?;
    }
    Ok(())
}
