//! `multi-tier-cache`: moka before Redis with its invalidation by pub/sub, or its Redis tier alone.
//! Values are MessagePack, as it offers it.

use super::{Face, Loader, TTL};
use crate::cache::values::Crew;
use anyhow::Result;
use multi_tier_cache::{
    CacheManager, CacheSerializer, CacheStrategy, CacheTier, InvalidationConfig, L1Cache, L2Cache,
    L2CacheBackend, MokaCacheConfig, serialization::MsgPackSerializer,
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
        manager.set_serializer(CacheSerializer::MsgPack(MsgPackSerializer));
        Ok(Self(manager))
    }
}

impl Face for Tiers {
    async fn get(&self, key: &str) -> Result<Option<u64>> {
        let crew: Option<Crew> = self.0.get_typed(key).await?;
        Ok(crew.map(|crew| crew.version))
    }

    async fn set(&self, key: &str, crew: &Crew) -> Result<()> {
        let bytes = rmp_serde::to_vec(crew)?.into();
        // Other instances are told, so that they do not keep what was there.
        Ok(self.0.set_with_broadcast(key, bytes, CacheStrategy::Custom(TTL)).await?)
    }

    async fn load(&self, key: &str, loader: Loader) -> Result<u64> {
        let load = || async move { Ok(loader().await) };
        let strategy = CacheStrategy::Custom(TTL);
        Ok(self.0.get_or_compute_typed(key, strategy, load).await?.version)
    }

    async fn invalidate(&self, key: &str) -> Result<()> {
        Ok(self.0.invalidate(key).await?)
    }
}
