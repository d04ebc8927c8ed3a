//! Ways to tell somebody of something over the server, behind one face.

mod bare;
mod ours;
mod redis_rs;
mod sea;

use anyhow::Result;
use futures::future::BoxFuture;

/// A channel.
pub(crate) trait Channel: Send + Sync {
    /// Publishes a text once; `number` tells it from others, so that it may be sent again.
    fn publish<'a>(&'a self, number: u64, text: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Listens, from now on as far as it can tell.
    fn listen(&self) -> BoxFuture<'_, Result<Box<dyn Listener>>>;
}

/// Who listens to a channel.
pub(crate) trait Listener: Send {
    /// The next text; none for whatever else came.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<String>>>;
}

/// A way to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    way: Way,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Durable,
    Live,
    Bare,
    RedisRs,
    Sea,
}

pub(crate) const OURS: &str = "ours";

pub(crate) const PEERS: [Peer; 5] = [
    Peer { name: OURS, way: Way::Durable },
    Peer { name: "ours, a live topic", way: Way::Live },
    Peer { name: "fred 10, PUBLISH", way: Way::Bare },
    Peer { name: "redis-rs 1, PUBLISH", way: Way::RedisRs },
    Peer { name: "sea-streamer-redis 1.0.0-rc.5", way: Way::Sea },
];

impl Peer {
    /// Connects to a channel of this name.
    pub(crate) async fn open(self, url: &str, name: &str) -> Result<Box<dyn Channel>> {
        match self.way {
            Way::Durable => ours::durable(url, name).await,
            Way::Live => ours::live(url, name).await,
            Way::Bare => bare::open(url, name).await,
            Way::RedisRs => redis_rs::open(url, name).await,
            Way::Sea => sea::open(url, name).await,
        }
    }
}
