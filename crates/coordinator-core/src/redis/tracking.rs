//! Invalidations: the server says which keys of a prefix changed.
//!
//! It does not report FLUSHALL (the client drops that notice) and keeps no values; the cache part
//! finds both out with a [`Prober`].

use super::{Connection, classify, link::Link, setup::Role};
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use fred::{
    clients::Client,
    error::Error as FredError,
    interfaces::{
        ClientInterface, ClusterInterface, EventInterface, KeysInterface, TrackingInterface,
    },
    types::{
        Value,
        client::{Invalidation as FredInvalidation, Toggle},
        config::Server,
    },
};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::sync::{
    Notify,
    broadcast::{Receiver, error::RecvError},
};

const PROBE: &str = "core.probe";

/// What a [`Tracking`] yields.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invalidation {
    /// This key changed, or is gone.
    Key(Bytes),
    /// Invalidations may have been missed: forget everything that begins with the prefix.
    All,
}

/// Follows the changes of all keys with a prefix, on every primary, over a link of its own.
#[derive(Debug)]
pub struct Tracking {
    link: Link,
    prefix: String,
    invalidations: Receiver<FredInvalidation>,
    reconnects: Receiver<Server>,
    queued: VecDeque<Invalidation>,
    armed: bool,
    /// A probe found a server that tells us nothing.
    deaf: Arc<Notify>,
    patience: Duration,
}

/// Asks the servers whether a [`Tracking`] still hears all of them.
///
/// It asks down the very links that invalidations come by: an answer tells that whatever changed
/// before the question is told, too, and stands in the queue of [`Tracking::next`] or is about to.
#[derive(Debug, Clone)]
pub struct Prober {
    pub(super) client: Client,
    pub(super) deaf: Arc<Notify>,
}

/// What a [`Prober`] read at one primary.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probed {
    /// Which of the keys is this primary's.
    pub key: usize,
    /// Its value.
    pub value: Option<Bytes>,
}

impl Connection {
    /// Follows the changes of all keys that begin with `prefix`; what changes from its return on
    /// is reported.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) without a connection,
    /// [`Rejected`](crate::ErrorKind::Rejected) if access rules forbid it.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn track(&self, prefix: &str) -> Result<Tracking> {
        self.check_open("core.track")?;
        let link = Link::connect(self.config(), Role::Invalidations).await?;
        let client = link.client();
        let (invalidations, mut reconnects) = (client.invalidation_rx(), client.reconnect_rx());
        // The first connection announced itself before we listened; anything left is of the same.
        while reconnects.try_recv().is_ok() {}
        let mut tracking = Tracking {
            prefix: prefix.to_owned(),
            invalidations,
            reconnects,
            queued: VecDeque::new(),
            armed: true,
            deaf: Arc::new(Notify::new()),
            patience: self.config().command_timeout(),
            link,
        };
        tracking.arm().await?;
        Ok(tracking)
    }
}

impl Tracking {
    /// For whoever looks whether all servers are heard.
    pub fn prober(&self) -> Prober {
        Prober { client: self.link.client().clone(), deaf: self.deaf.clone() }
    }

    /// The next change. After a lost link it goes on by itself, beginning with
    /// [`Invalidation::All`].
    ///
    /// # Cancel safety
    /// Cancel safe: no invalidation is lost by dropping the future.
    pub async fn next(&mut self) -> Invalidation {
        loop {
            if let Some(invalidation) = self.queued.pop_front() {
                return invalidation;
            }
            if !self.armed {
                self.rearm().await;
                // What changed before it was armed again went unseen.
                self.armed = true;
                return Invalidation::All;
            }
            tokio::select! {
                biased;
                made = self.reconnects.recv() => match made {
                    // Told at once, and once more when it is armed again.
                    Ok(_) | Err(RecvError::Lagged(_)) => {
                        self.armed = false;
                        self.queued.push_back(Invalidation::All);
                    }
                    Err(RecvError::Closed) => self.reconnects = self.link.client().reconnect_rx(),
                },
                () = self.deaf.notified() => {
                    self.armed = false;
                    self.queued.push_back(Invalidation::All);
                }
                told = self.invalidations.recv() => match told {
                    Ok(told) => self.queued.extend(
                        told.keys.into_iter().map(|key| Invalidation::Key(key.into_bytes())),
                    ),
                    Err(RecvError::Lagged(_)) => self.queued.push_back(Invalidation::All),
                    Err(RecvError::Closed) => {
                        self.invalidations = self.link.client().invalidation_rx();
                    }
                },
            }
        }
    }

    /// Arms every primary: the client would arm just one.
    async fn arm(&mut self) -> Result<()> {
        let client = self.link.client();
        let Some(state) = client.cached_cluster_state() else {
            let prefix = self.prefix.as_str();
            let armed = client.start_tracking(prefix, true, false, false, false).await;
            return or_is_armed(client, armed).await;
        };
        for node in state.unique_primary_nodes() {
            let at = client.with_cluster_node(node);
            let prefix = self.prefix.clone();
            let armed = at.client_tracking::<Value, _, _>(
                Toggle::On,
                None,
                prefix,
                true,
                false,
                false,
                false,
            );
            let armed = armed.await.map(drop);
            or_is_armed(&at, armed).await?;
        }
        Ok(())
    }

    async fn rearm(&mut self) {
        let mut delay = Duration::from_millis(50);
        while let Err(error) = self.arm().await {
            tracing::warn!(error = %error.chain(), "invalidations could not be armed again");
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(self.patience);
        }
    }
}

/// A server that is armed already refuses to be armed once more, as the prefixes overlap: whoever
/// gave up waiting for the first answer cannot know.
async fn or_is_armed<C: ClientInterface + Sync>(
    client: &C,
    armed: std::result::Result<(), FredError>,
) -> Result<()> {
    let Err(error) = armed else { return Ok(()) };
    match client.client_trackinginfo::<Value>().await {
        Ok(info) if says(&info, "bcast") => Ok(()),
        _ => Err(classify::read("core.track", &error)),
    }
}

impl Prober {
    /// Whether every primary is heard, and what it has for the first of `keys` that is its own; of
    /// a primary without any of them nothing is read.
    ///
    /// One that does not tell of changes has the tracking armed anew.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) if a primary does not answer or tells nothing,
    /// [`Rejected`](ErrorKind::Rejected) if access rules forbid to ask.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn probe(&self, keys: &[String]) -> Result<Vec<Probed>> {
        let wrong = |error| classify::read(PROBE, &error);
        let Some(state) = self.client.cached_cluster_state() else {
            let info = self.client.client_trackinginfo::<Value>().await.map_err(wrong)?;
            self.check(&info)?;
            let Some(key) = keys.first() else { return Ok(Vec::new()) };
            let value = self.client.get(key.as_str()).await.map_err(wrong)?;
            return Ok(vec![Probed { key: 0, value }]);
        };
        let mut probed = Vec::new();
        for node in state.unique_primary_nodes() {
            let at = self.client.with_cluster_node(&node);
            let info = at.client_trackinginfo::<Value>().await.map_err(wrong)?;
            self.check(&info)?;
            let slot = |key: &String| fred::util::redis_keyslot(key.as_bytes());
            let own = |key: &String| state.get_server(slot(key)) == Some(&node);
            if let Some(key) = keys.iter().position(own) {
                let value = at.get(keys[key].as_str()).await.map_err(wrong)?;
                probed.push(Probed { key, value });
            }
        }
        Ok(probed)
    }

    fn check(&self, info: &Value) -> Result<()> {
        if says(info, "bcast") {
            return Ok(());
        }
        self.deaf.notify_one();
        Err(Error::new(ErrorKind::Unavailable, PROBE)
            .with_source("a server does not tell of changes"))
    }
}

/// Whether a word stands anywhere in an answer.
fn says(value: &Value, word: &str) -> bool {
    match value {
        Value::Array(values) => values.iter().any(|value| says(value, word)),
        Value::Map(map) => map.iter().any(|(_, value)| says(value, word)),
        value => value.as_str().is_some_and(|text| text == word),
    }
}

impl Connection {
    /// One of `keys` for each primary that has some of them, by their places: a script that is run
    /// with these runs once on each of those servers.
    pub fn one_per_primary(&self, keys: &[String]) -> Vec<usize> {
        let Some(state) = self.inner.link().client().cached_cluster_state() else {
            return keys.first().map(|_| 0).into_iter().collect();
        };
        let mut seen = Vec::new();
        let mut places = Vec::new();
        for (place, key) in keys.iter().enumerate() {
            let server = state.get_server(fred::util::redis_keyslot(key.as_bytes()));
            if !seen.contains(&server) {
                seen.push(server);
                places.push(place);
            }
        }
        places
    }
}
