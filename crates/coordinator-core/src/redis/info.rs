//! The health check of a server: one PING, one TIME and one INFO per primary.

use super::{Connection, classify};
use crate::health::{Health, Node};
use fred::{
    interfaces::ClusterInterface,
    prelude::{ClientLike, FredResult},
    types::{ClusterHash, CustomCommand, Value, config::Server},
};
use std::time::Duration;

impl Connection {
    /// Asks the server how it is; never fails, an unreachable server is an answer too.
    ///
    /// Takes at most four times the command timeout.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn health(&self) -> Health {
        let mut health = self.examine().await;
        health.latencies = self.latencies();
        health
    }

    async fn examine(&self) -> Health {
        let latency = match self.ping().await {
            Ok(latency) => latency,
            Err(error) => return Health::unavailable(error.chain()),
        };
        let primaries = self.primaries();
        let mut nodes = Vec::with_capacity(primaries.len());
        for server in primaries {
            let mut node = match self.ask(server.as_ref(), "INFO").await {
                Ok(value) => Node::parse(value.as_str().as_deref().unwrap_or_default()),
                Err(error) if classify::command("core.info", &error).is_retryable() => {
                    return Health::unavailable(classify::read("core.info", &error).chain());
                }
                Err(_) => Node { info_denied: true, ..Node::default() },
            };
            node.clock_offset_ms = self.clock_offset(server.as_ref()).await;
            nodes.push(node);
        }
        Health::from_nodes(latency, &nodes)
    }

    /// The primaries of a cluster, or the one server there is.
    pub(super) fn primaries(&self) -> Vec<Option<Server>> {
        match self.inner.link().client().cached_cluster_state() {
            Some(state) => state.unique_primary_nodes().into_iter().map(Some).collect(),
            None => vec![None],
        }
    }

    async fn ask(&self, server: Option<&Server>, command: &'static str) -> FredResult<Value> {
        let custom = CustomCommand::new_static(command, ClusterHash::Random, false);
        let link = self.inner.link();
        match server {
            Some(server) => {
                link.client()
                    .with_cluster_node(server.clone())
                    .custom::<Value, Value>(custom, Vec::new())
                    .await
            }
            None => link.client().custom::<Value, Value>(custom, Vec::new()).await,
        }
    }

    /// The server's clock minus ours in the middle of the round trip; `None` if it does not tell.
    async fn clock_offset(&self, server: Option<&Server>) -> Option<i64> {
        let (start, before) = (self.clock().now(), self.clock().unix_time());
        let answer = self.ask(server, "TIME").await.ok()?;
        let middle = before + self.clock().now().saturating_since(start) / 2;
        let parts = answer.into_array();
        let number = |index: usize| parts.get(index)?.as_u64();
        let theirs = Duration::from_secs(number(0)?) + Duration::from_micros(number(1)?);
        let (theirs, ours) = (theirs.as_millis(), middle.as_millis());
        Some(i64::try_from(theirs).ok()? - i64::try_from(ours).ok()?)
    }
}
