//! Writing a document: the request with its options, and what became of it.

use super::{
    backend::{Condition, Place, Token, Write, Wrote},
    namespace::{Namespace, token, ttl_ms},
};
use coordinator_core::{BoxFuture, Error, Result, codec::encode, key::Name};
use serde::Serialize;
use std::{future::IntoFuture, sync::Arc, time::Duration};

const STEP: &str = "documents.put";
/// For how long an id of the caller's is remembered, in ms.
const ID_MS: u64 = 10 * 60 * 1000;

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "a conflict means that nothing was written"]
pub enum Put {
    /// It was written.
    #[non_exhaustive]
    Stored {
        /// The version that it has.
        version: u64,
        /// When, as time since the Unix epoch on the backend's clock.
        updated_at: Duration,
        /// When it ends, likewise.
        expires_at: Duration,
    },
    /// Nothing was written: the condition does not hold.
    Conflict {
        /// The version that is there, if any.
        current: Option<u64>,
    },
}

impl Put {
    /// The version that was written.
    pub fn stored(self) -> Option<u64> {
        match self {
            Self::Stored { version, .. } => Some(version),
            Self::Conflict { .. } => None,
        }
    }

    /// Whether it was written.
    pub fn is_stored(self) -> bool {
        self.stored().is_some()
    }
}

/// A document to be written, from [`Namespace::put`]; awaiting it writes.
///
/// # Errors
/// [`Misuse`](coordinator_core::ErrorKind::Misuse), before anything is sent, for a name that is
/// none, a ttl under 1 ms or above 3,660 days, version 0, a value that cannot be serialized or is
/// longer than 16 MiB; [`Corrupt`](coordinator_core::ErrorKind::Corrupt) if what is there is no
/// document; otherwise as [`Namespace::get`].
///
/// # Cancel safety
/// Dropping the future leaves it open whether it was written; with an id it may be sent again.
#[derive(Debug, Clone)]
#[must_use = "nothing is written until it is awaited"]
pub struct PutRequest<'a> {
    namespace: &'a Namespace,
    place: Result<Place, String>,
    data: Result<Arc<[u8]>, String>,
    id: Option<String>,
    condition: Condition,
    ttl: Option<Duration>,
    keep_ttl: bool,
}

impl<'a> PutRequest<'a> {
    pub(super) fn new<T: Serialize + ?Sized>(
        namespace: &'a Namespace,
        name: &str,
        value: &T,
    ) -> Self {
        let why = |error: &Error| {
            std::error::Error::source(error).map_or_else(|| error.chain(), ToString::to_string)
        };
        Self {
            namespace,
            place: namespace.place(name).map_err(|error| why(&error)),
            data: encode(namespace.codec, value).map(Into::into).map_err(|error| why(&error)),
            id: None,
            condition: Condition::Any,
            ttl: None,
            keep_ttl: false,
        }
    }

    /// Only if the document has this version: compare and set.
    pub fn if_version(mut self, version: u64) -> Self {
        self.condition = Condition::Version(version);
        self
    }

    /// Only if there is no such document.
    pub fn if_absent(mut self) -> Self {
        self.condition = Condition::Absent;
        self
    }

    /// How long it lives, in place of the namespace's ttl.
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// A document that is there keeps its end; a new one lives for the ttl.
    pub fn keeping_ttl(mut self) -> Self {
        self.keep_ttl = true;
        self
    }

    /// The caller's id of this write: sent again within ten minutes, after an answer that was lost
    /// say, it tells what became of it the first time and writes nothing, whatever was written or
    /// deleted since. A conflict is not remembered. An id belongs to one document.
    pub fn with_id(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }

    async fn send(self) -> Result<Put> {
        let misuse = |why| Error::misuse(STEP, why);
        let namespace = self.namespace;
        if self.condition == Condition::Version(0) {
            return Err(misuse("no document has version 0: if_absent() is for none".to_owned()));
        }
        let id = |id: String| Ok::<_, Error>(Token { id: Name::new(&id)?, ttl_ms: ID_MS });
        let write = Write {
            condition: self.condition,
            ttl_ms: ttl_ms(STEP, self.ttl.unwrap_or(namespace.ttl))?,
            keep_ttl: self.keep_ttl,
            history: namespace.depth()?,
            data: self.data.map_err(misuse)?,
            token: self.id.map_or_else(|| Ok(token()), id)?,
        };
        let place = self.place.map_err(misuse)?;
        Ok(match namespace.inner.backend.put(&place, &write).await? {
            Wrote::Stored { version, updated_us, until_ms } => Put::Stored {
                version,
                updated_at: Duration::from_micros(updated_us),
                expires_at: Duration::from_millis(until_ms),
            },
            Wrote::Conflict(current) => Put::Conflict { current },
        })
    }
}

impl<'a> IntoFuture for PutRequest<'a> {
    type Output = Result<Put>;
    type IntoFuture = BoxFuture<'a, Result<Put>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
