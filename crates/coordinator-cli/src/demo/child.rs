//! A worker in a process of its own: `coordinator demo --worker SOCKET --id N`.
//!
//! It ends when there is nothing more to do, and when the parent ends, however that ends.

use super::{
    desk::{Desk, Link},
    herald::Herald,
    keeping::Keeping,
    limits::Limits,
    profiles::Profiles,
    protocol::Ask,
    steps::{Hands, Manners},
    worker::{self, Trouble},
};
use crate::{
    context::{Context, Need},
    failure::{Failure, exit},
};
use coordinator::{Config, Coordinator, config::Fallback};
use std::path::Path;

/// Works for the parent behind `socket`.
pub(crate) async fn run(
    socket: &Path,
    id: u32,
    manners: Manners,
    context: &Context,
) -> Result<u8, Failure> {
    let config = context.config(Need::Redis)?.with_fallback(Fallback::None);
    let (link, _tasks) = Link::connect(socket).await.map_err(|error| {
        let why = format!("cannot reach the parent of worker {id}: {error}");
        Failure::new(exit::REFUSED, why)
    })?;
    let pid = std::process::id();
    // The answer to this and to the worker's last words change nothing.
    let _ = link.ask(&Ask::Hello { id, pid }).await;
    let coordinator = tokio::select! {
        connected = connect(&config) => match connected {
            Ok(coordinator) => coordinator,
            Err(Failure { exit, message }) => {
                let _ = link.ask(&Ask::GiveUp { exit, message }).await;
                return Ok(exit);
            }
        },
        () = link.gone() => return Ok(exit::REFUSED),
    };
    let hands = Hands {
        desk: Desk::There(link.clone()),
        locks: coordinator.locks().clone(),
        limits: Limits::new(coordinator.limits(), manners.greedy)?,
        keeping: Keeping::new(&coordinator, manners.run, manners.hasty)?,
        herald: Herald::new(&coordinator, manners.run, manners.forgetful),
        profiles: Profiles::new(coordinator.caches(), manners.run, config.clock().clone())?,
        clock: config.clock().clone(),
        manners,
    };
    let worked = tokio::select! {
        worked = worker::run(hands) => worked,
        () = link.gone() => Ok(()),
    };
    coordinator.close().await;
    Ok(if worked.is_ok() { exit::DONE } else { exit::REFUSED })
}

async fn connect(config: &Config) -> Result<Coordinator, Failure> {
    let mut trouble = Trouble::none();
    loop {
        match Coordinator::with_config(config.clone()).await {
            Ok(coordinator) => return Ok(coordinator),
            Err(error) => trouble.bear(&**config.clock(), error).await?,
        }
    }
}
