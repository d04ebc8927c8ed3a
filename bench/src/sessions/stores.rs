//! Stores of sessions, behind one face: what a service does with one during its requests.

mod actix;
mod naive;
mod ours;
mod tower;

use crate::Plan;
use anyhow::Result;
use futures::future::BoxFuture;
use std::sync::Arc;

/// How long sessions live where that has to be said.
const TTL_SECONDS: i64 = 1_800;

/// A store of sessions.
pub(crate) trait Store: Send + Sync {
    /// Creates a session with the usual payload; its id, as a client keeps it.
    fn create(&self) -> BoxFuture<'_, Result<String>>;

    /// Looks a session up; how many fields it has, if it is there.
    fn load<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<usize>>>;

    /// Begins a request, which looks its session up.
    fn begin<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Box<dyn Request>>>;

    /// Ends a session, as a logout does.
    fn end<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;

    /// A request that does nothing but set a field, in the best way that the store has.
    fn change<'a>(&'a self, id: &'a str, field: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.begin(id).await?.finish(field).await?;
            Ok(())
        })
    }
}

/// A request that has looked its session up.
pub(crate) trait Request: Send {
    /// Sets a field, and writes what has to be written; the id that the client has from then on,
    /// or none where it is told that there is no session.
    fn finish(self: Box<Self>, field: &str) -> BoxFuture<'_, Result<Option<String>>>;
}

/// A store to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// What creating, loading and changing is called in the table.
    pub(crate) rows: [&'static str; 3],
    /// Whether it runs scripts, and nothing else: what these call is no round trip.
    pub(crate) scripts: bool,
    way: Way,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Ours,
    Tower,
    Actix,
    Naive,
}

pub(crate) const OURS: &str = "ours";
pub(crate) const NAIVE: &str = "GET and SET of one JSON document";

pub(crate) const PEERS: [Peer; 4] = [
    Peer {
        name: OURS,
        rows: ["create: ours", "load: ours", "set a field: ours"],
        scripts: true,
        way: Way::Ours,
    },
    Peer {
        name: "tower-sessions-redis-store 0.16",
        rows: [
            "create: tower-sessions-redis-store 0.16",
            "load: tower-sessions-redis-store 0.16",
            "set a field: tower-sessions-redis-store 0.16",
        ],
        scripts: false,
        way: Way::Tower,
    },
    Peer {
        name: "actix-session 0.11",
        rows: [
            "create: actix-session 0.11",
            "load: actix-session 0.11",
            "set a field: actix-session 0.11",
        ],
        scripts: false,
        way: Way::Actix,
    },
    Peer {
        name: NAIVE,
        rows: [
            "create: SET of one JSON document",
            "load: GET of one JSON document",
            "set a field: GET and SET of one JSON document",
        ],
        scripts: false,
        way: Way::Naive,
    },
];

impl Peer {
    pub(crate) async fn open(self, plan: &Plan) -> Result<Arc<dyn Store>> {
        Ok(match self.way {
            Way::Ours => Arc::new(ours::Ours::open(&plan.url).await?),
            Way::Tower => Arc::new(tower::Tower::open(&plan.url).await?),
            Way::Actix => Arc::new(actix::Actix::open(&plan.url).await?),
            Way::Naive => Arc::new(naive::Naive::open(&plan.url).await?),
        })
    }
}
