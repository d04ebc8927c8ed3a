//! `cached`: its asynchronous Redis store, on its default connection. It has no way to load once
//! what many ask for, and says so.

use super::{Loader, Store, TTL};
use crate::cache::values::Crew;
use anyhow::Result;
use cached::{AsyncRedisCache, ConcurrentCachedAsync as _, SerializeCachedAsync as _};
use futures::future::BoxFuture;

pub(super) struct Cached(AsyncRedisCache<String, Crew>);

impl Cached {
    pub(super) async fn open(url: &str, tracking: bool) -> Result<Self> {
        let store = AsyncRedisCache::builder("crews").ttl(TTL).connection_string(url);
        Ok(Self(store.client_side_caching(tracking).build().await?))
    }
}

impl Store for Cached {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<u64>>> {
        Box::pin(async move {
            Ok(self.0.async_cache_get(&key.to_owned()).await?.map(|crew| crew.version))
        })
    }

    fn set<'a>(&'a self, key: &'a str, crew: &'a Crew) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { Ok(self.0.async_cache_set_ref(&key.to_owned(), crew).await?) })
    }

    fn load<'a>(&'a self, key: &'a str, loader: Loader) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let crew = self.0.async_cache_get_or_set_with(key.to_owned(), loader).await?;
            Ok(crew.version)
        })
    }

    fn invalidate<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.0.async_cache_delete(&key.to_owned()).await?;
            Ok(())
        })
    }
}
