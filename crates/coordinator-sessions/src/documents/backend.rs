//! The port: the atomic steps of documents, which every backend implements.
//!
//! A value is bytes here. No encoding, no retrying and no gathering of pages happens below this
//! line.

use coordinator_core::{BoxFuture, Result, clock::Clock, key::Name};
use std::{fmt, sync::Arc};

/// How many shards documents are spread over, for ever: it is part of the key layout.
pub(crate) const SHARDS: u16 = 64;

/// For how long the last version of a shard is remembered, in ms: 1,000 days.
pub(crate) const LAST_TTL_MS: u64 = 1000 * 24 * 60 * 60 * 1000;

/// How many names that have ended a write takes out of the index besides.
pub(crate) const TRIMMED: usize = 8;

/// How many a listing does.
pub(crate) const SWEPT: usize = 100;

/// Where a document is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) shard: u16,
    pub(crate) namespace: Name,
    pub(crate) name: Name,
}

impl Place {
    pub(crate) fn new(namespace: &Name, name: &Name) -> Self {
        // A sum, since the two together may be longer than a name.
        let shard = (namespace.shard(SHARDS) + name.shard(SHARDS)) % SHARDS;
        Self { shard, namespace: namespace.clone(), name: name.clone() }
    }

    /// `<namespace>:<name>`, both encoded.
    pub(crate) fn key(&self) -> String {
        format!("{}:{}", self.namespace.encoded(), self.name.encoded())
    }
}

/// Which version must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    Any,
    Absent,
    Version(u64),
}

impl Condition {
    /// Whether it holds; `None` is no document.
    pub(crate) fn holds(self, current: Option<u64>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => current.is_none(),
            Self::Version(version) => current == Some(version),
        }
    }
}

/// What tells one write or delete from another, and for how long it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) id: Name,
    pub(crate) ttl_ms: u64,
}

/// A value to be written.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) condition: Condition,
    pub(crate) ttl_ms: u64,
    /// A document that is there keeps its end.
    pub(crate) keep_ttl: bool,
    /// How many former values are kept.
    pub(crate) history: u64,
    pub(crate) data: Arc<[u8]>,
    pub(crate) token: Token,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrote {
    Stored {
        version: u64,
        updated_us: u64,
        /// When it ends.
        until_ms: u64,
    },
    /// The version that is there instead, if any.
    Conflict(Option<u64>),
}

/// A document as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) version: u64,
    pub(crate) updated_us: u64,
    /// `None` if it was told by hand to stay.
    pub(crate) left_ms: Option<u64>,
    /// How many former values there are.
    pub(crate) former: u64,
    pub(crate) data: Vec<u8>,
}

/// A former value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Past {
    pub(crate) version: u64,
    pub(crate) updated_us: u64,
    pub(crate) data: Vec<u8>,
}

/// Names to list: those of one shard, in the order of their encoded bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) shard: u16,
    pub(crate) namespace: Name,
    /// Behind this encoded name; empty for the first.
    pub(crate) after: String,
    /// What encoded names begin with.
    pub(crate) prefix: String,
    pub(crate) limit: usize,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) name: String,
    /// 0 if what is there cannot be read.
    pub(crate) version: u64,
    pub(crate) updated_us: u64,
    pub(crate) left_ms: Option<u64>,
    pub(crate) bytes: u64,
}

/// Some names of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) items: Vec<Item>,
    /// Whether there may be more behind them; then either some are told, or names that had ended
    /// were taken out of the index.
    pub(crate) more: bool,
}

/// The steps of documents.
pub(crate) trait Backend: Send + Sync + fmt::Debug {
    fn clock(&self) -> &Arc<dyn Clock>;

    /// Writes a value if the condition holds, with a version that is above all that the shard has
    /// given out. A write that is delivered again tells what became of it the first time.
    fn put<'a>(&'a self, place: &'a Place, write: &'a Write) -> BoxFuture<'a, Result<Wrote>>;

    fn get<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<Option<Stored>>>;

    /// The latest former values, the newest first.
    fn history<'a>(&'a self, place: &'a Place, limit: u64) -> BoxFuture<'a, Result<Vec<Past>>>;

    /// Lets a document live at least so long from now on; answers when it ends, in ms.
    fn extend<'a>(&'a self, place: &'a Place, ttl_ms: u64) -> BoxFuture<'a, Result<Option<u64>>>;

    /// Deletes a document and its former values; whether it was there. A delete that is delivered
    /// again deletes nothing that was written in between.
    fn delete<'a>(&'a self, place: &'a Place, token: &'a Token) -> BoxFuture<'a, Result<bool>>;

    fn list<'a>(&'a self, slice: &'a Slice) -> BoxFuture<'a, Result<Listed>>;

    /// How many documents of a namespace a shard has.
    fn count<'a>(&'a self, namespace: &'a Name, shard: u16) -> BoxFuture<'a, Result<u64>>;
}
