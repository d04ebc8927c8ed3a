//! The subscriber's side of the protocol: how to be sure that the server listens to us.
//!
//! The client answers SUBSCRIBE when it is written and gives a refusal to the next command, so
//! each batch is followed by a PING with a nonce: the right echo proves that all of it was taken.
//! SSUBSCRIBE is answered by the server itself.

use crate::{
    Error, Result,
    config::{Config, Endpoint},
    redis::{classify, link::Link},
};
use fred::{
    clients::Client,
    error::Error as FredError,
    interfaces::{ClientLike, ClusterInterface, FredResult, PubsubInterface},
    types::{Value, config::Server},
};
use futures::future::join_all;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

const STEP: &str = "core.subscribe";
/// How many channels one SUBSCRIBE names, and how many sharded ones are in flight.
const BATCH: usize = 128;

pub(super) struct Wire {
    link: Arc<Link>,
    clustered: bool,
    patience: Duration,
    /// Whether the server knows sharded pub/sub; found out by asking.
    sharded: Option<bool>,
    /// At which node of a cluster a classic channel was subscribed.
    homes: HashMap<String, Server>,
    nonce: u64,
}

impl Wire {
    pub(super) fn new(link: Arc<Link>, config: &Config) -> Self {
        Self {
            link,
            clustered: matches!(config.endpoint(), Endpoint::Cluster(_)),
            patience: config.command_timeout() / 2,
            sharded: None,
            homes: HashMap::new(),
            nonce: 0,
        }
    }

    pub(super) fn client(&self) -> &Client {
        self.link.client()
    }

    pub(super) fn is_up(&self) -> bool {
        self.link.is_up()
    }

    /// Whether subscriptions can end or be in the wrong place without notice: in a cluster.
    pub(super) fn forgets(&self) -> bool {
        self.clustered && self.sharded.is_some()
    }

    /// Sees to it that each channel is subscribed at the node that its slot lives on now.
    pub(super) async fn assert(&mut self, mut channels: Vec<String>) {
        if self.sharded == Some(false) {
            // No node redirects a SUBSCRIBE, so the client must be told to look.
            let client = self.link.client().clone();
            let _ = tokio::time::timeout(self.patience, client.sync_cluster()).await;
            let Some(state) = client.cached_cluster_state() else { return };
            channels.retain(|channel| state.get_server(slot(channel)) != self.homes.get(channel));
        }
        if !channels.is_empty() {
            self.subscribe(channels).await;
        }
    }

    /// Waits a while for the link.
    pub(super) async fn ready(&self) -> bool {
        self.link.ready(self.patience).await
    }

    /// Subscribes to channels; each comes back confirmed or with the reason why not.
    pub(super) async fn subscribe(&mut self, channels: Vec<String>) -> Vec<(String, Result<()>)> {
        let mut outcomes = Vec::with_capacity(channels.len());
        let mut rest = channels.as_slice();
        while self.sharded.is_none() && !rest.is_empty() {
            let outcome = ask_sharded(self.link.client(), &rest[0]).await;
            match outcome {
                Err(error) if is_unknown_command(&error) => self.sharded = Some(false),
                outcome => {
                    if outcome.is_ok() {
                        self.sharded = Some(true);
                    }
                    outcomes.push((rest[0].clone(), settle(outcome)));
                    rest = &rest[1..];
                }
            }
        }
        for batch in rest.chunks(BATCH) {
            if self.sharded == Some(true) {
                // Here the confirmation is the answer itself; one channel a command, since a
                // command's channels must share a slot.
                let client = self.link.client();
                let asked = batch.iter().map(|channel| ask_sharded(client, channel));
                let answers = join_all(asked).await.into_iter().map(settle);
                outcomes.extend(batch.iter().cloned().zip(answers));
            } else {
                outcomes.extend(self.subscribe_classic(batch).await);
            }
        }
        outcomes
    }

    async fn subscribe_classic(&mut self, batch: &[String]) -> Vec<(String, Result<()>)> {
        let Err(error) = self.attempt_classic(batch).await else {
            return batch.iter().map(|channel| (channel.clone(), Ok(()))).collect();
        };
        if batch.len() == 1 || error.is_retryable() {
            let again = || Err(Error::new(error.kind(), STEP).with_source(error.chain()));
            return batch.iter().map(|channel| (channel.clone(), again())).collect();
        }
        // One of them was refused, and the client does not say which.
        let mut outcomes = Vec::with_capacity(batch.len());
        for channel in batch {
            let outcome = self.attempt_classic(std::slice::from_ref(channel)).await;
            outcomes.push((channel.clone(), outcome));
        }
        outcomes
    }

    async fn attempt_classic(&mut self, batch: &[String]) -> Result<()> {
        let outcome = match self.ask_classic(batch).await {
            Ok(()) => {
                let nodes = self.nodes(batch);
                self.echo(nodes).await
            }
            Err(error) => Err(classify::read(STEP, &error)),
        };
        if outcome.is_err() {
            // A refusal shifts every later answer of this link by one: begin it anew.
            self.renew().await;
        }
        outcome
    }

    /// In a cluster a message reaches every node, and yet a channel is subscribed at the node of
    /// its slot: a script there counts no listeners but the node's own.
    async fn ask_classic(&mut self, batch: &[String]) -> FredResult<()> {
        let client = self.link.client().clone();
        let Some(state) = client.cached_cluster_state() else {
            return client.subscribe(batch.to_vec()).await;
        };
        let nodes = state.unique_primary_nodes();
        let mut asked: HashMap<Server, Vec<String>> = HashMap::new();
        for channel in batch {
            let Some(home) = state.get_server(slot(channel)).cloned() else {
                return client.subscribe(batch.to_vec()).await;
            };
            if let Some(old) = self.homes.insert(channel.clone(), home.clone())
                && old != home
                && nodes.contains(&old)
            {
                let _ = client.with_cluster_node(old).unsubscribe(channel.as_str()).await;
            }
            asked.entry(home).or_default().push(channel.clone());
        }
        for (home, channels) in asked {
            client.with_cluster_node(home).subscribe(channels).await?;
        }
        Ok(())
    }

    /// The nodes of a cluster whose links carry these channels; `None` is the one server there is.
    fn nodes(&self, channels: &[String]) -> Vec<Option<Server>> {
        let Some(state) = self.link.client().cached_cluster_state() else { return vec![None] };
        let home = |channel| self.homes.get(channel).or_else(|| state.get_server(slot(channel)));
        let homes: Option<HashSet<_>> = channels.iter().map(|channel| home(channel)).collect();
        match homes {
            Some(homes) => homes.into_iter().cloned().map(Some).collect(),
            // It went somewhere.
            None => state.unique_primary_nodes().into_iter().map(Some).collect(),
        }
    }

    /// Sends a PING with a nonce down these links and checks each echo.
    async fn echo(&mut self, nodes: Vec<Option<Server>>) -> Result<()> {
        self.nonce += 1;
        let nonce = format!("coordinator-{}", self.nonce);
        let client = self.link.client();
        let asked = nodes.into_iter().map(|node| {
            let nonce = nonce.clone();
            async move {
                match node {
                    Some(node) => client.with_cluster_node(node).ping::<Value>(Some(nonce)).await,
                    None => client.ping(Some(nonce)).await,
                }
            }
        });
        for answer in join_all(asked).await {
            let answer = answer.map_err(|error| classify::read(STEP, &error))?;
            // In the older protocol whoever listens is answered like a message: pong and the nonce.
            let echoed = match &answer {
                Value::Array(parts) => parts.last().and_then(Value::as_str),
                answer => answer.as_str(),
            };
            if echoed.as_deref() != Some(nonce.as_str()) {
                return Err(Error::corrupt(STEP, "the server echoed something else"));
            }
        }
        Ok(())
    }

    /// Checks that the link still answers, and begins it anew if not. An error is an answer.
    pub(super) async fn probe(&self) {
        let answer = self.link.client().ping::<Value>(None).await;
        if answer.is_err_and(|error| classify::is_silence(&error)) {
            tracing::warn!("the connection for messages does not answer, beginning it anew");
            self.renew().await;
        }
    }

    /// The link was made anew, perhaps to another version of the server.
    pub(super) fn forget(&mut self) {
        self.sharded = None;
    }

    async fn renew(&self) {
        let anew = self.link.client().force_reconnection();
        let _ = tokio::time::timeout(self.patience, anew).await;
    }

    /// Gives channels up. The client expects no answer to that, and a refusal (Valkey 8 refuses
    /// whoever listens to nothing, as on a link just made anew) would go to the next command.
    pub(super) async fn unsubscribe(&mut self, channels: Vec<String>) {
        let nodes = self.nodes(&channels);
        for batch in channels.chunks(BATCH) {
            self.ask_to_leave(batch).await;
        }
        if self.echo(nodes).await.is_err() {
            self.renew().await;
        }
    }

    /// A failure means the link is lost, and with it the subscription.
    async fn ask_to_leave(&mut self, batch: &[String]) {
        let client = self.link.client().clone();
        if self.sharded == Some(true) {
            let asked = batch.iter().map(|channel| client.sunsubscribe(channel.as_str()));
            let _ = join_all(asked).await;
            return;
        }
        let mut rest = Vec::new();
        for channel in batch {
            match self.homes.remove(channel) {
                Some(home) => {
                    let home = client.with_cluster_node(home);
                    let _ = home.unsubscribe(channel.as_str()).await;
                }
                None => rest.push(channel.clone()),
            }
        }
        if !rest.is_empty() {
            let _ = client.unsubscribe(rest).await;
        }
    }
}

/// Asks once more where the slot has moved meanwhile: the client has learned where to, and says
/// that its one attempt is spent.
async fn ask_sharded(client: &Client, channel: &str) -> FredResult<()> {
    match client.ssubscribe(channel).await {
        Err(error) if error.details().starts_with("Too many") => client.ssubscribe(channel).await,
        outcome => outcome,
    }
}

fn slot(channel: &str) -> u16 {
    fred::util::redis_keyslot(channel.as_bytes())
}

fn settle(outcome: Result<(), FredError>) -> Result<()> {
    outcome.map_err(|error| classify::read(STEP, &error))
}

fn is_unknown_command(error: &FredError) -> bool {
    error.details().to_ascii_lowercase().contains("unknown command")
}
