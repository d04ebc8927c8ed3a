//! The cache of this workspace.

use super::{Face, Loader, TTL};
use crate::cache::values::Crew;
use anyhow::{Context as _, Result, ensure};
use coordinator_cache::{Cache, Caches, Entry, Near};
use coordinator_core::{Config, redis::Connection};
use std::convert::Infallible;

#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    Far,
    Near,
    /// Every value has a tag. Tags' versions are kept near where something hears of changes.
    Tagged {
        heard: bool,
    },
}

pub(super) struct Ours {
    cache: Cache<Crew>,
    tags: Vec<String>,
    /// What makes it hear of changes.
    _near: Option<Cache<Crew>>,
}

impl Ours {
    pub(super) async fn open(url: &str, way: Way) -> Result<Self> {
        let caches = Caches::redis(&Connection::connect(Config::from_url(url)?).await?);
        let near = caches.cache("near").with_ttl(TTL).with_near(Near::entries(100_000)).build()?;
        let far = caches.cache("crews").with_ttl(TTL).build()?;
        let tags = match way {
            Way::Tagged { .. } => vec!["company:7".to_owned()],
            Way::Far | Way::Near => Vec::new(),
        };
        if let Way::Near | Way::Tagged { heard: true } = way {
            // The first look has it hear.
            ensure!(near.get("nobody").await?.is_none(), "there is none");
        }
        Ok(match way {
            Way::Far | Way::Tagged { heard: false } => Self { cache: far, tags, _near: None },
            Way::Near => Self { cache: near, tags, _near: None },
            Way::Tagged { heard: true } => Self { cache: far, tags, _near: Some(near) },
        })
    }
}

impl Face for Ours {
    async fn get(&self, key: &str) -> Result<Option<u64>> {
        Ok(self.cache.get(key).await?.map(|crew| crew.version))
    }

    async fn set(&self, key: &str, crew: &Crew) -> Result<()> {
        let entry = Entry::new().tags(self.tags.iter().map(String::as_str));
        Ok(self.cache.set_with(key, crew, entry).await?)
    }

    async fn load(&self, key: &str, loader: Loader) -> Result<u64> {
        let load = |_| async move { Ok::<_, Infallible>(loader().await) };
        Ok(self.cache.get_or_load(key, load).await?.version)
    }

    async fn invalidate(&self, key: &str) -> Result<()> {
        let ended = self.cache.invalidate(key).await?;
        matches!(ended, coordinator_cache::Invalidated::Done(_))
            .then_some(())
            .context("the server answers")
    }
}
