//! Where keys lie, as far as whoever looks through all of them must know. It moves none.

use super::{Connection, classify};
use crate::{Result, telemetry::Step};
use fred::{interfaces::ClusterInterface as _, types::cluster::ClusterRouting};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

static LAYOUT: Step = Step::new("core.layout");

impl Connection {
    /// A number that is another one when keys may lie elsewhere than when it was last asked for:
    /// the link was made anew, perhaps to another server, or slots of the cluster have moved. The
    /// cluster is asked, and from then on [`one_per_primary`](Self::one_per_primary) goes by it.
    ///
    /// A slot that is on its way has not moved: its keys are at both nodes until then.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn layout(&self) -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        if self.is_one_keyspace() {
            self.generation().hash(&mut hasher);
            return Ok(hasher.finish());
        }
        let turn = self.turn(&LAYOUT).await?;
        let client = turn.client().clone();
        let asked = client.sync_cluster().await;
        turn.end(asked, |asked| asked.map_err(|error| classify::read(LAYOUT.name(), &error)))?;
        self.generation().hash(&mut hasher);
        let state = client.cached_cluster_state();
        for range in state.iter().flat_map(ClusterRouting::slots) {
            (range.start, range.end).hash(&mut hasher);
            (range.primary.host.as_bytes(), range.primary.port).hash(&mut hasher);
            range.id.as_bytes().hash(&mut hasher);
        }
        Ok(hasher.finish())
    }
}
