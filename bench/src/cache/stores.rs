//! Caches, behind one face: what a service does with one.

mod bare;
mod cached;
mod naive;
mod ours;
mod tiers;

pub(crate) use bare::decoded;

use super::values::Crew;
use anyhow::Result;
use futures::future::BoxFuture;
use std::{sync::Arc, time::Duration};

/// For how long everything is kept: nothing ends while it is measured.
const TTL: Duration = Duration::from_mins(5);

/// Brings what is not cached.
pub(crate) type Loader = Box<dyn FnOnce() -> BoxFuture<'static, Crew> + Send>;

/// A cache of crews. What is asked for is there decoded; its version is told.
pub(crate) trait Face: Send + Sync + 'static {
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<u64>>> + Send;

    fn set(&self, key: &str, crew: &Crew) -> impl Future<Output = Result<()>> + Send;

    /// What is there, else what the loader brings, which is stored.
    fn load(&self, key: &str, loader: Loader) -> impl Future<Output = Result<u64>> + Send;

    /// Has no instance give what is there now.
    fn invalidate(&self, key: &str) -> impl Future<Output = Result<()>> + Send;
}

/// The same where an allocation for each call does not matter.
pub(crate) trait Store: Send + Sync {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<u64>>>;
    fn set<'a>(&'a self, key: &'a str, crew: &'a Crew) -> BoxFuture<'a, Result<()>>;
    fn load<'a>(&'a self, key: &'a str, loader: Loader) -> BoxFuture<'a, Result<u64>>;
    fn invalidate<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>>;
}

impl<F: Face> Store for F {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<u64>>> {
        Box::pin(Face::get(self, key))
    }

    fn set<'a>(&'a self, key: &'a str, crew: &'a Crew) -> BoxFuture<'a, Result<()>> {
        Box::pin(Face::set(self, key, crew))
    }

    fn load<'a>(&'a self, key: &'a str, loader: Loader) -> BoxFuture<'a, Result<u64>> {
        Box::pin(Face::load(self, key, loader))
    }

    fn invalidate<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(Face::invalidate(self, key))
    }
}

/// Is given a cache of whatever type.
pub(crate) trait Taker {
    type Out;

    fn take<F: Face>(self, cache: F) -> Self::Out;
}

struct Boxed;

impl Taker for Boxed {
    type Out = Arc<dyn Store>;

    fn take<F: Face>(self, cache: F) -> Arc<dyn Store> {
        Arc::new(cache)
    }
}

/// A cache to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    way: Way,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Bare,
    Core,
    Ours(ours::Way),
    Cached { tracking: bool },
    Tiers { near: bool },
    Naive,
}

/// GET, SET and MessagePack, compressed from the same length on, through fred.
pub(crate) const BARE: Peer = Peer { name: "GET and decode, fred", way: Way::Bare };
/// The same through this workspace's connection.
pub(crate) const CORE: Peer = Peer { name: "GET and decode, our connection", way: Way::Core };
pub(crate) const OURS: Peer = Peer { name: "ours", way: Way::Ours(ours::Way::Far) };
pub(crate) const NEAR: Peer =
    Peer { name: "ours, with a near cache", way: Way::Ours(ours::Way::Near) };
pub(crate) const TAGGED: Peer =
    Peer { name: "ours, one tag", way: Way::Ours(ours::Way::Tagged { heard: false }) };
pub(crate) const HEARD: Peer = Peer {
    name: "ours, one tag whose version is kept near",
    way: Way::Ours(ours::Way::Tagged { heard: true }),
};
pub(crate) const CACHED: Peer = Peer { name: "cached 4.1", way: Way::Cached { tracking: false } };
pub(crate) const TRACKED: Peer =
    Peer { name: "cached 4.1, client side caching", way: Way::Cached { tracking: true } };
pub(crate) const TIER: Peer =
    Peer { name: "multi-tier-cache 0.6, its Redis tier", way: Way::Tiers { near: false } };
pub(crate) const TIERS: Peer =
    Peer { name: "multi-tier-cache 0.6", way: Way::Tiers { near: true } };
pub(crate) const NAIVE: Peer = Peer { name: "moka before Redis, by hand", way: Way::Naive };

impl Peer {
    /// An instance of it, with connections of its own.
    pub(crate) async fn open(self, url: &str) -> Result<Arc<dyn Store>> {
        self.open_for(url, Boxed).await
    }

    /// The same for a taker.
    pub(crate) async fn open_for<T: Taker>(self, url: &str, taker: T) -> Result<T::Out> {
        Ok(match self.way {
            Way::Bare => taker.take(bare::Bare::open(url).await?),
            Way::Core => taker.take(bare::Core::open(url).await?),
            Way::Ours(way) => taker.take(ours::Ours::open(url, way).await?),
            Way::Cached { tracking } => taker.take(cached::Cached::open(url, tracking).await?),
            Way::Tiers { near } => taker.take(tiers::Tiers::open(url, near).await?),
            Way::Naive => taker.take(naive::Naive::open(url).await?),
        })
    }
}
