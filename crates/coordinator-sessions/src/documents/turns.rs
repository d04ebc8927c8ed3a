//! Turns: updates of one document by one process follow each other, so that they do not make each
//! other try again. A courtesy, no lock: who has waited for long goes ahead, and compare-and-set
//! decides.

use super::backend::Place;
use coordinator_core::clock::{Clock, until};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};

/// How many updates may go on at the same time; documents share a turn by chance.
const TURNS: usize = 1024;
/// For how long one waits for the other.
const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Turns(Vec<Mutex<()>>);

impl Turns {
    pub(super) fn new() -> Self {
        Self((0..TURNS).map(|_| Mutex::new(())).collect())
    }

    /// A turn, until it is dropped.
    pub(super) async fn take(
        &self,
        place: &Place,
        clock: &dyn Clock,
    ) -> Option<MutexGuard<'_, ()>> {
        let turns = u16::try_from(TURNS).expect("few");
        let (namespace, name) = (place.namespace.shard(turns), place.name.shard(turns));
        let turn = &self.0[usize::from((namespace + name) % turns)];
        if let Ok(taken) = turn.try_lock() {
            return Some(taken);
        }
        until(clock, clock.now() + PATIENCE, turn.lock()).await
    }
}
