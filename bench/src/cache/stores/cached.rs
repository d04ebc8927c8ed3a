//! `cached`: its asynchronous Redis store, on its default connection. It has no way to load once
//! what many ask for, and says so.

use super::{Face, Loader, TTL};
use crate::cache::values::Crew;
use anyhow::Result;
use cached::{AsyncRedisCache, ConcurrentCachedAsync as _, SerializeCachedAsync as _};

pub(super) struct Cached(AsyncRedisCache<String, Crew>);

impl Cached {
    pub(super) async fn open(url: &str, tracking: bool) -> Result<Self> {
        let store = AsyncRedisCache::builder("crews").ttl(TTL).connection_string(url);
        Ok(Self(store.client_side_caching(tracking).build().await?))
    }
}

impl Face for Cached {
    async fn get(&self, key: &str) -> Result<Option<u64>> {
        Ok(self.0.async_cache_get(&key.to_owned()).await?.map(|crew| crew.version))
    }

    async fn set(&self, key: &str, crew: &Crew) -> Result<()> {
        Ok(self.0.async_cache_set_ref(&key.to_owned(), crew).await?)
    }

    async fn load(&self, key: &str, loader: Loader) -> Result<u64> {
        let crew = self.0.async_cache_get_or_set_with(key.to_owned(), loader).await?;
        Ok(crew.version)
    }

    async fn invalidate(&self, key: &str) -> Result<()> {
        self.0.async_cache_delete(&key.to_owned()).await?;
        Ok(())
    }
}
