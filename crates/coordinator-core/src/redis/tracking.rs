//! Invalidations: the server says which keys of a prefix changed.
//!
//! It does not report FLUSHALL (the client drops that notice) and keeps no values; the cache part
//! builds on it with a probe of its own.

use super::{Connection, classify, link::Link, setup::Role};
use crate::Result;
use bytes::Bytes;
use fred::{
    interfaces::{ClientInterface, ClusterInterface, EventInterface, TrackingInterface},
    types::{
        Value,
        client::{Invalidation as FredInvalidation, Toggle},
        config::Server,
    },
};
use std::{collections::VecDeque, time::Duration};
use tokio::sync::broadcast::{Receiver, error::RecvError};

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
    patience: Duration,
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
            patience: self.config().command_timeout(),
            link,
        };
        tracking.arm().await?;
        Ok(tracking)
    }
}

impl Tracking {
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
        let on = |prefix: &str| (Toggle::On, None, prefix.to_owned(), true, false, false, false);
        let wrong = |error| classify::read("core.track", &error);
        match client.cached_cluster_state() {
            Some(state) => {
                for node in state.unique_primary_nodes() {
                    let (toggle, redirect, prefix, bcast, optin, optout, noloop) = on(&self.prefix);
                    client
                        .with_cluster_node(node)
                        .client_tracking::<Value, _, _>(
                            toggle, redirect, prefix, bcast, optin, optout, noloop,
                        )
                        .await
                        .map_err(wrong)?;
                }
            }
            None => client
                .start_tracking(self.prefix.as_str(), true, false, false, false)
                .await
                .map_err(wrong)?,
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
