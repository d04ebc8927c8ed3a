//! The workers of a run, and how those in this process are started: each is an instance of the
//! service with a client of its own.

use super::{
    desk::Desk,
    herald::Herald,
    keeping::Keeping,
    limits::Limits,
    parent::Parent,
    profiles::Profiles,
    steps::{Hands, Manners},
    tasks::Tasks,
    worker,
};
use crate::failure::Failure;
use coordinator::Coordinator;
use std::{sync::Arc, time::Duration};
use tempfile::TempDir;

/// How long workers may finish what they have in hand once all is over.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// Workers that end by themselves when the parent says that all is over, and at once when this is
/// dropped.
#[derive(Debug)]
pub(crate) struct Crew {
    workers: Tasks<()>,
    pids: Vec<u32>,
    /// Through which those in other processes ask.
    _door: Option<Door>,
}

/// A task that lets workers in, and the folder of its socket.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) _admitting: Tasks<()>,
    pub(crate) _folder: TempDir,
}

impl Crew {
    /// One task for each worker, its process id, and the door if there is one.
    pub(crate) fn new(workers: Tasks<()>, pids: Vec<u32>, door: Option<Door>) -> Self {
        Self { workers, pids, _door: door }
    }

    /// Each worker with its process id.
    pub(crate) fn pids(&self) -> impl Iterator<Item = (u32, u32)> {
        (1..).zip(self.pids.iter().copied())
    }

    /// Waits until all have gone.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn leave(&mut self) {
        while self.workers.next().await.is_some() {}
    }
}

/// Starts the workers `1..=instances`: over Redis each has its own connection, embedded they share
/// the parent's state as peers.
pub(crate) async fn start(
    parent: &Arc<Parent>,
    own: &Coordinator,
    instances: u32,
    manners: Manners,
) -> Result<Crew, Failure> {
    let config = own.config();
    let mut instances_of = Vec::new();
    if config.is_embedded() {
        for _ in 0..instances {
            let limits = Limits::new(&own.limits().peer(), manners.greedy)?;
            let caches = own.caches().sibling();
            instances_of.push((own.locks().peer(), limits, caches, own.clone()));
        }
    } else {
        for _ in 0..instances {
            let coordinator = Coordinator::with_config(config.clone()).await?;
            let limits = Limits::new(coordinator.limits(), manners.greedy)?;
            let caches = coordinator.caches().clone();
            instances_of.push((coordinator.locks().clone(), limits, caches, coordinator));
        }
    }
    let mut workers = Tasks::new();
    for (id, (locks, limits, caches, coordinator)) in (1..).zip(instances_of) {
        let parent = parent.clone();
        let hands = Hands {
            desk: Desk::Here { parent: parent.clone(), worker: id },
            locks,
            limits,
            keeping: Keeping::new(&coordinator, manners.run, manners.hasty)?,
            herald: Herald::new(&coordinator, manners.run, manners.forgetful),
            profiles: Profiles::new(&caches, manners.run, config.clock().clone())?,
            clock: config.clock().clone(),
            manners,
        };
        parent.welcome(id, std::process::id());
        workers.start(async move {
            let clock = hands.clock.clone();
            let dismissed = async {
                parent.over().await;
                clock.sleep(GRACE).await;
            };
            let locks = hands.locks.clone();
            tokio::select! {
                _ = worker::run(hands) => {}
                () = dismissed => {}
            }
            parent.farewell(id);
            locks.close(GRACE).await;
            coordinator.close().await;
        });
    }
    let pids = (0..instances).map(|_| std::process::id()).collect();
    Ok(Crew::new(workers, pids, None))
}
