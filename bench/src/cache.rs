//! The cache of this workspace beside a bare client, moka and the caches of others.

mod far;
mod many;
mod near;
mod sizes;
mod stale;
mod stampede;
mod stores;
mod values;

use crate::{Plan, report::Report};
use anyhow::Result;
use coordinator_harness::RedisServer;

pub(crate) async fn run(
    plan: &Plan,
    wanted: impl Fn(&str) -> bool,
    server: &RedisServer,
    report: &mut Report,
) -> Result<()> {
    if wanted(near::TITLE) {
        near::run(plan, server, report).await?;
    }
    for scene in far::SCENES.iter().filter(|scene| wanted(scene.title)) {
        far::run(plan, scene, server, report).await?;
    }
    if wanted(many::TITLE) {
        many::run(plan, server, report).await?;
    }
    if wanted(stampede::TITLE) {
        stampede::run(plan, server, report).await?;
    }
    if wanted(stale::TITLE) {
        stale::run(plan, server, report).await?;
    }
    if wanted(sizes::TITLE) {
        sizes::run(plan, server, report).await?;
    }
    Ok(())
}
