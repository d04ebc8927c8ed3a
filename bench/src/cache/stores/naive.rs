//! What is often written by hand: moka before Redis, one load per process by moka's `get_with`,
//! and a message to the other instances to forget a key.

use super::{Loader, Store, bare::Bare};
use crate::{
    cache::values::Crew,
    peers::{self, Client},
};
use anyhow::Result;
use fred::interfaces::{EventInterface as _, PubsubInterface as _};
use futures::future::BoxFuture;
use moka::future::Cache;
use std::sync::Arc;

const CHANNEL: &str = "forget";

pub(super) struct Naive {
    near: Cache<String, u64>,
    far: Bare,
    /// Hears.
    told: Client,
}

impl Naive {
    pub(super) async fn open(url: &str) -> Result<Self> {
        let (near, far) = (Cache::new(100_000), Bare::open(url).await?);
        let told = peers::roomy(url).await?;
        let (forgets, mut messages) = (near.clone(), told.message_rx());
        tokio::spawn(async move {
            while let Ok(message) = messages.recv().await {
                if let Some(key) = message.value.as_string() {
                    forgets.invalidate(&key).await;
                }
            }
        });
        told.subscribe(CHANNEL).await?;
        Ok(Self { near, far, told })
    }

    async fn forgotten(&self, key: &str) -> Result<()> {
        self.near.invalidate(key).await;
        let _: i64 = self.far.client().publish(CHANNEL, key).await?;
        Ok(())
    }
}

impl Drop for Naive {
    fn drop(&mut self) {
        peers::farewell(&self.told);
    }
}

impl Store for Naive {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<u64>>> {
        Box::pin(async move {
            if let Some(found) = self.near.get(key).await {
                return Ok(Some(found));
            }
            let found = self.far.get(key).await?;
            if let Some(found) = found {
                self.near.insert(key.to_owned(), found).await;
            }
            Ok(found)
        })
    }

    fn set<'a>(&'a self, key: &'a str, crew: &'a Crew) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.far.set(key, crew).await?;
            self.forgotten(key).await
        })
    }

    fn load<'a>(&'a self, key: &'a str, loader: Loader) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let found = self.near.try_get_with(key.to_owned(), self.far.load(key, loader));
            found.await.map_err(|error: Arc<anyhow::Error>| anyhow::anyhow!("{error:#}"))
        })
    }

    fn invalidate<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.far.invalidate(key).await?;
            self.forgotten(key).await
        })
    }
}
