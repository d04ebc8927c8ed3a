//! `multi-tier-cache`: moka before Redis with its invalidation by pub/sub, or its Redis tier alone.
//! Values are MessagePack, as it offers it.

use super::{Loader, Store, TTL};
use crate::cache::values::Crew;
use anyhow::Result;
use futures::future::BoxFuture;
use multi_tier_cache::{
    CacheManager, CacheSerializer, CacheStrategy, CacheTier, InvalidationConfig, L1Cache, L2Cache,
    L2CacheBackend, MokaCacheConfig,
};
use std::sync::Arc;

pub(crate) struct Tiers(CacheManager);

impl Tiers {
    pub(crate) async fn open(url: &str, near: bool) -> Result<Self> {
        let far = Arc::new(L2Cache::with_url(url).await?);
        let mut manager = if near {
            let config = MokaCacheConfig { max_capacity: 100_000, ..MokaCacheConfig::default() };
            let near = Arc::new(L1Cache::new(config)?);
            let told = InvalidationConfig::default();
            CacheManager::new_with_invalidation(near, far, url, told).await?
        } else {
            let far: Arc<dyn L2CacheBackend> = far;
            CacheManager::new_with_tiers(vec![CacheTier::new(far, 1, false, 1, 1.0)], None)?
        };
        manager.set_serializer(CacheSerializer::MsgPack(Default::default()));
        Ok(Self(manager))
    }
}

impl Store for Tiers {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<u64>>> {
        Box::pin(async move {
            let crew: Option<Crew> = self.0.get_typed(key).await?;
            Ok(crew.map(|crew| crew.version))
        })
    }

    fn set<'a>(&'a self, key: &'a str, crew: &'a Crew) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let bytes = rmp_serde::to_vec(crew)?.into();
            // Other instances are told, so that they do not keep what was there.
            Ok(self.0.set_with_broadcast(key, bytes, CacheStrategy::Custom(TTL)).await?)
        })
    }

    fn load<'a>(&'a self, key: &'a str, loader: Loader) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let load = || async move { Ok(loader().await) };
            let strategy = CacheStrategy::Custom(TTL);
            Ok(self.0.get_or_compute_typed(key, strategy, load).await?.version)
        })
    }

    fn invalidate<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { Ok(self.0.invalidate(key).await?) })
    }
}
