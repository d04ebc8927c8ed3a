//! Documents: named state with a version, an end and a history, in namespaces.
//!
//! This file is the owner and the namespaces that are ready made; what is done with a document is
//! in `namespace.rs` and beside it.

mod backend;
mod document;
mod embedded;
mod focus;
mod list;
mod namespace;
mod put;
#[cfg(feature = "redis")]
mod redis;
#[cfg(test)]
mod tests;
mod turns;
mod update;

pub use document::{Document, Former};
pub use focus::{Focus, Focuses, PastFocus};
pub use list::{DocumentEntry, DocumentPage, DocumentStats, ListRequest};
pub use namespace::Namespace;
pub use put::{Put, PutRequest};
#[cfg(feature = "redis")]
pub use redis::SCRIPTS;
pub use update::Updated;

use crate::{embedded::Embedded, store::Store};
use backend::Backend;
use coordinator_core::{Result, clock::Clock, key::Name};
use std::{path::Path, sync::Arc, time::Duration};
use turns::Turns;

/// Named documents that the instances of a service share: the state of a conversation, of an
/// orchestration, a focus, a draft. Clones share everything.
///
/// ```
/// use coordinator_sessions::{Documents, Put};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Serialize, Deserialize)]
/// struct Plan { steps: Vec<String> }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let documents = Documents::embedded(); // or Documents::redis(&connection)
/// let plans = documents.namespace("plans")?;
///
/// plans.put("crew:7", &Plan { steps: vec!["look".into()] }).await?;
/// plans.update("crew:7", |plan: &mut Plan| plan.steps.push("leap".into())).await?;
///
/// let plan = plans.get::<Plan>("crew:7").await?.expect("it lives for a day");
/// assert_eq!(plan.value.steps, ["look", "leap"]);
///
/// // Whoever knows only an older version is told, and overwrites nothing.
/// let stale = plans.put("crew:7", &Plan { steps: vec![] }).if_version(plan.version - 1).await?;
/// assert_eq!(stale, Put::Conflict { current: Some(plan.version) });
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Documents {
    inner: Arc<Inner>,
    ttl: Duration,
}

#[derive(Debug)]
struct Inner {
    backend: Arc<dyn Backend>,
    turns: Turns,
}

impl Documents {
    /// Documents on Redis or Valkey.
    #[cfg(feature = "redis")]
    pub fn redis(connection: &coordinator_core::redis::Connection) -> Self {
        Self::over(Arc::new(redis::Redis::new(connection)))
    }

    /// Documents in this process alone, in memory: gone with the last clone.
    pub fn embedded() -> Self {
        Self::embedded_in(&Store::memory())
    }

    /// Documents in a store, beside what else is in it.
    pub fn embedded_in(store: &Store) -> Self {
        Self::over(Arc::new(Embedded { store: store.clone() }))
    }

    /// Documents in a file, which is created if it is not there; they survive a restart.
    ///
    /// # Errors
    /// As [`Store::file`].
    pub fn embedded_at(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::embedded_in(&Store::file(path)?))
    }

    /// Documents in memory on another clock, for tests: its wall clock decides what has expired.
    pub fn embedded_with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::embedded_in(&Store::memory().with_clock(clock))
    }

    pub(crate) fn over(backend: Arc<dyn Backend>) -> Self {
        Self { inner: Arc::new(Inner { backend, turns: Turns::new() }), ttl: namespace::TTL }
    }

    /// How long documents live after a write, 24 h unless set, where their namespace or the write
    /// says nothing else; 1 ms to 3,660 days.
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The documents of one kind: they have a namespace of names, an encoding, a time to live and a
    /// depth of history in common. Any text of 1 to 512 bytes will do.
    ///
    /// It is a handle and nothing is stored for it, so every process configures a namespace the
    /// same way.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) if the name is empty or too long.
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        Ok(Namespace::new(self.inner.clone(), Name::new(name)?, self.ttl))
    }

    fn preset(&self, name: &str) -> Namespace {
        Namespace::new(self.inner.clone(), Name::new(name).expect("a short name"), self.ttl)
    }

    /// The namespace `conversation_state`: what a conversation knows beside its messages. A
    /// document lives for 24 h after its last write, or as [`with_ttl`](Self::with_ttl) says.
    pub fn conversation_state(&self) -> Namespace {
        self.preset("conversation_state")
    }

    /// The namespace `orchestration_state`: where a run of several workers stands. A document
    /// lives for 24 h after its last write, and five former values are kept, to see how it came to
    /// be so.
    pub fn orchestration_state(&self) -> Namespace {
        self.preset("orchestration_state").with_history(5)
    }

    /// The namespace `focus`: what a user or a conversation is about at the moment, and the ten
    /// things before that. A focus lives for 24 h after its last change.
    pub fn focus(&self) -> Focuses {
        Focuses::new(self.preset("focus"))
    }
}
