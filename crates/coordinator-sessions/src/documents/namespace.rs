//! A namespace: how its documents are kept, and what is done with one of them.

use super::{
    Document, Former, Inner, ListRequest, PutRequest,
    backend::{Place, SHARDS, Token},
    list,
};
use coordinator_core::{
    Error, Result,
    clock::Clock,
    codec::{Codec, decode},
    key::Name,
};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::{Serialize, de::DeserializeOwned};
use std::{sync::Arc, time::Duration};

/// How long a document lives unless told otherwise.
pub(super) const TTL: Duration = Duration::from_hours(24);
/// The longest that it may.
const TTL_MAX: Duration = Duration::from_hours(24 * 3660);
/// The most former values that are kept.
const HISTORY_MAX: u64 = 1000;
/// For how long a write without an id of the caller's is told from others.
const REMEMBERED_MS: u64 = 60_000;
/// How often an update tries, where other processes write the same document all the time.
const ATTEMPTS: u32 = 100;
/// How many shards are asked at the same time.
const AT_ONCE: usize = 16;

/// The documents of one kind, from [`Documents::namespace`](super::Documents::namespace). Clones
/// are cheap.
#[derive(Debug, Clone)]
pub struct Namespace {
    pub(super) inner: Arc<Inner>,
    pub(super) name: Name,
    pub(super) codec: Codec,
    pub(super) ttl: Duration,
    pub(super) renewed: bool,
    pub(super) history: u64,
    pub(super) attempts: u32,
}

/// A ttl in ms.
pub(super) fn ttl_ms(step: &'static str, ttl: Duration) -> Result<u64> {
    if ttl < Duration::from_millis(1) || ttl > TTL_MAX {
        let why = format!("a document lives 1 ms to 3,660 days, not {ttl:?}");
        return Err(Error::misuse(step, why));
    }
    Ok(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}

/// A token of this call alone.
pub(super) fn token() -> Token {
    let id = Name::new(&format!("{:032x}", rand::random::<u128>())).expect("a short name");
    Token { id, ttl_ms: REMEMBERED_MS }
}

impl Namespace {
    pub(super) fn new(inner: Arc<Inner>, name: Name, ttl: Duration) -> Self {
        Self {
            inner,
            name,
            codec: Codec::MessagePack,
            ttl,
            renewed: true,
            history: 0,
            attempts: ATTEMPTS,
        }
    }

    /// How long a document lives after a write, unless set as
    /// [`Documents::with_ttl`](crate::Documents::with_ttl) says; 1 ms to 3,660 days.
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Values are written as JSON, for those who read the server by eye; otherwise MessagePack.
    /// Either is read, whatever is written.
    pub fn with_json(mut self) -> Self {
        self.codec = Codec::Json;
        self
    }

    /// How many former values of a document are kept, none unless set, at most 1,000. Each write
    /// trims the history to this.
    pub fn with_history(mut self, former: u64) -> Self {
        self.history = former;
        self
    }

    /// Whether an update lets a document live for the namespace's ttl anew, as it does unless set,
    /// or leaves its end alone.
    pub fn with_renewal(mut self, renewed: bool) -> Self {
        self.renewed = renewed;
        self
    }

    /// How often an update tries before it is a conflict, 100 times unless set.
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// How long a document lives after a write.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        self.inner.backend.clock()
    }

    pub(super) fn place(&self, name: &str) -> Result<Place> {
        Ok(Place::new(&self.name, &Name::new(name)?))
    }

    pub(super) fn depth(&self) -> Result<u64> {
        if self.history > HISTORY_MAX {
            let why = format!("{} former values are more than {HISTORY_MAX}", self.history);
            return Err(Error::misuse("documents.put", why));
        }
        Ok(self.history)
    }

    /// Writes a document, whatever was there, or on a condition; await what it answers.
    ///
    /// Names are any text of 1 to 512 bytes. It lives for the namespace's ttl from now on.
    ///
    /// ```
    /// # use coordinator_sessions::{Documents, Put};
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let drafts = Documents::embedded().namespace("drafts")?;
    /// let first = drafts.put("a", &1).if_absent().await?;
    /// let version = first.stored().expect("there was none");
    /// assert_eq!(drafts.put("a", &2).if_absent().await?.stored(), None);
    /// drafts.put("a", &3).if_version(version).with_ttl(Duration::from_mins(5)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn put<T: Serialize + ?Sized>(&self, name: &str, value: &T) -> PutRequest<'_> {
        PutRequest::new(self, name, value)
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`Corrupt`](coordinator_core::ErrorKind::Corrupt) if what is stored is damaged, or of
    /// another shape than `T`; [`Misuse`](coordinator_core::ErrorKind::Misuse) for a name that is
    /// none; [`Unavailable`](coordinator_core::ErrorKind::Unavailable),
    /// [`Indeterminate`](coordinator_core::ErrorKind::Indeterminate) and
    /// [`Rejected`](coordinator_core::ErrorKind::Rejected) as the backend fails. None of them means
    /// that there is no such document.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<Document<T>>> {
        self.read(&self.place(name)?).await
    }

    pub(super) async fn read<T: DeserializeOwned>(
        &self,
        place: &Place,
    ) -> Result<Option<Document<T>>> {
        let Some(stored) = self.inner.backend.get(place).await? else { return Ok(None) };
        Ok(Some(Document {
            value: decode(&stored.data)?,
            version: stored.version,
            updated_at: Duration::from_micros(stored.updated_us),
            expires_in: stored.left_ms.map(Duration::from_millis),
            history: stored.former,
        }))
    }

    /// The latest `limit` values that a document had before, the newest first; as many as there
    /// are.
    ///
    /// # Errors
    /// As [`get`](Self::get), also if only one of them cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn history<T: DeserializeOwned>(
        &self,
        name: &str,
        limit: u64,
    ) -> Result<Vec<Former<T>>> {
        let place = self.place(name)?;
        if limit == 0 {
            return Ok(Vec::new());
        }
        let past = self.inner.backend.history(&place, limit.min(HISTORY_MAX)).await?;
        let former = past.into_iter().map(|past| {
            Ok(Former {
                value: decode(&past.data)?,
                version: past.version,
                updated_at: Duration::from_micros(past.updated_us),
            })
        });
        former.collect()
    }

    /// Lets a document live at least for `ttl` from now on; answers when it ends, as time since the
    /// Unix epoch on the backend's clock, or `None` if there is none. It never shortens a life, and
    /// changes neither value nor version.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) for a ttl under 1 ms or above 3,660 days;
    /// otherwise as [`get`](Self::get).
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it was prolonged; doing it again is harmless.
    pub async fn extend(&self, name: &str, ttl: Duration) -> Result<Option<Duration>> {
        let (place, ttl) = (self.place(name)?, ttl_ms("documents.extend", ttl)?);
        let until = self.inner.backend.extend(&place, ttl).await?;
        Ok(until.map(Duration::from_millis))
    }

    /// Deletes a document and its history; whether it was there.
    ///
    /// What is written under this name later has a higher version, so no write that was conditioned
    /// on a version from before can succeed.
    ///
    /// # Errors
    /// As [`get`](Self::get), except that a damaged value is deleted.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it was deleted.
    pub async fn delete(&self, name: &str) -> Result<bool> {
        self.inner.backend.delete(&self.place(name)?, &token()).await
    }

    /// The documents with their versions and ends, in pages; await what it answers.
    ///
    /// ```
    /// # use coordinator_sessions::Documents;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let drafts = Documents::embedded().namespace("drafts")?;
    /// let mut request = drafts.list().with_prefix("user:").with_limit(50);
    /// loop {
    ///     let page = request.await?;
    ///     for entry in &page.entries {
    ///         println!("{} ends in {:?}", entry.name, entry.expires_in);
    ///     }
    ///     let Some(next) = page.next else { break };
    ///     request = drafts.list().with_prefix("user:").with_limit(50).after(next);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn list(&self) -> ListRequest<'_> {
        ListRequest::new(self)
    }

    /// How many documents there are.
    ///
    /// Shards are counted one after another, some at a time: what comes and goes meanwhile may be
    /// counted or not.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn count(&self) -> Result<u64> {
        let shards =
            stream::iter(0..SHARDS).map(|shard| self.inner.backend.count(&self.name, shard));
        shards.buffered(AT_ONCE).try_fold(0, |sum, count| async move { Ok(sum + count) }).await
    }

    /// How many documents there are, how large they are, and when they were written. It reads the
    /// whole index, a page at a time.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn stats(&self) -> Result<super::DocumentStats> {
        list::stats(self).await
    }
}
