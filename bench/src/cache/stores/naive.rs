//! What is often written by hand: moka before Redis, one load per process by moka's `get_with`,
//! and a message to the other instances to forget a key.

use super::{Face, Loader, bare::Bare};
use crate::{
    cache::values::Crew,
    peers::{self, Client},
};
use anyhow::Result;
use fred::interfaces::{EventInterface as _, PubsubInterface as _};
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

impl Face for Naive {
    async fn get(&self, key: &str) -> Result<Option<u64>> {
        if let Some(found) = self.near.get(key).await {
            return Ok(Some(found));
        }
        let found = self.far.get(key).await?;
        if let Some(found) = found {
            self.near.insert(key.to_owned(), found).await;
        }
        Ok(found)
    }

    async fn set(&self, key: &str, crew: &Crew) -> Result<()> {
        self.far.set(key, crew).await?;
        self.forgotten(key).await
    }

    async fn load(&self, key: &str, loader: Loader) -> Result<u64> {
        let found = self.near.try_get_with(key.to_owned(), self.far.load(key, loader));
        found.await.map_err(|error: Arc<anyhow::Error>| anyhow::anyhow!("{error:#}"))
    }

    async fn invalidate(&self, key: &str) -> Result<()> {
        self.far.invalidate(key).await?;
        self.forgotten(key).await
    }
}
