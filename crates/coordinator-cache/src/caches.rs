//! The owner: what all caches over one backend share.

use crate::{
    backend::{Backend, Tag, Version},
    embedded::{Embedded, MOST},
    near::Near,
    options::CacheBuilder,
    payload::Form,
    queue::{Invalidated, Queue},
    watch::{Hearing, Watch},
};
use bytes::Bytes;
use coordinator_core::{
    Result,
    clock::{Clock, SystemClock},
    key::Name,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

/// How many tags' versions are kept in this process.
const TAGS: u64 = 100_000;

/// Caches over one backend: they share what hears of changes, and tags span them.
///
/// Clones share everything.
#[derive(Debug, Clone)]
pub struct Caches {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) queue: Arc<Queue>,
    /// The versions of tags.
    pub(crate) tags: Arc<Near<Version>>,
}

impl Caches {
    /// Caches over Redis or Valkey.
    #[cfg(feature = "redis")]
    pub fn redis(connection: &coordinator_core::redis::Connection) -> Self {
        Self::over(Arc::new(crate::redis::Redis::new(connection)))
    }

    /// Caches in this process alone.
    pub fn embedded() -> Self {
        Self::embedded_with_clock(Arc::new(SystemClock))
    }

    /// The same on another clock, for tests.
    pub fn embedded_with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::over(Arc::new(Embedded::new(clock, MOST)))
    }

    pub(crate) fn over(backend: Arc<dyn Backend>) -> Self {
        coordinator_core::telemetry::describe(crate::telemetry::METRICS);
        let watch = Watch::new(backend.clone());
        let tags = Arc::new(Near::new(watch.heard.clone(), TAGS));
        let listener: Weak<Near<Version>> = Arc::downgrade(&tags);
        watch.tell_tags(listener);
        let queue = Arc::new(Queue::new(backend.clone()));
        Self { shared: Arc::new(Shared { backend, watch, queue, tags }) }
    }

    /// After how long at the most a value that was ended is given by no instance: two seconds,
    /// where the server tracks keys. Most hear of it within a millisecond; what is lost with a link
    /// is found within this time.
    pub const STALENESS: Duration = crate::watch::GOOD;

    /// Another owner over the same backend, with near caches and loads of its own, as another
    /// instance has them: for tests.
    pub fn sibling(&self) -> Self {
        Self::over(self.shared.backend.clone())
    }

    /// A cache of values of one type in a namespace: any text of 1 to 512 bytes. Caches of one
    /// namespace share their entries.
    pub fn cache<T>(&self, namespace: &str) -> CacheBuilder<T>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        CacheBuilder::new(self.clone(), namespace, Form::serde())
    }

    /// A cache of bytes as they are: for what is encoded already, such as a page or a picture. They
    /// are not serialized, nor copied but by compression.
    ///
    /// What a cache of values stored is absent for one of bytes, and the other way round: give each
    /// a namespace of its own.
    ///
    /// # Examples
    /// ```
    /// use coordinator_cache::{Bytes, Caches};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pages = Caches::embedded().raw("pages").build()?;
    /// pages.set("/", &Bytes::from_static(b"<!doctype html>")).await?;
    /// let page = pages.get("/").await?.expect("it was set");
    /// assert_eq!(page.as_ref(), b"<!doctype html>");
    /// # Ok(())
    /// # }
    /// ```
    pub fn raw(&self, namespace: &str) -> CacheBuilder<Bytes> {
        CacheBuilder::new(self.clone(), namespace, Form::raw())
    }

    /// Ends every entry with a tag, in all caches, at a cost that does not depend on how many there
    /// are.
    ///
    /// # Errors
    /// As [`Cache::invalidate`](crate::Cache::invalidate).
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether they end.
    pub async fn invalidate_tag(&self, tag: &str) -> Result<Invalidated> {
        let tag: Tag = Name::new(tag)?;
        self.shared.untag(tag).await
    }

    /// Ends whatever was kept of a crew: entries with the tag `crew:<id>`.
    ///
    /// # Errors
    /// As [`invalidate_tag`](Self::invalidate_tag).
    ///
    /// # Cancel safety
    /// As [`invalidate_tag`](Self::invalidate_tag).
    pub async fn invalidate_crew(&self, id: &str) -> Result<Invalidated> {
        self.invalidate_tag(&format!("crew:{id}")).await
    }

    /// Ends whatever was kept of a user: entries with the tag `user:<id>`.
    ///
    /// # Errors
    /// As [`invalidate_tag`](Self::invalidate_tag).
    ///
    /// # Cancel safety
    /// As [`invalidate_tag`](Self::invalidate_tag).
    pub async fn invalidate_user(&self, id: &str) -> Result<Invalidated> {
        self.invalidate_tag(&format!("user:{id}")).await
    }

    /// How changes by other instances are heard of now.
    pub fn hearing(&self) -> Hearing {
        self.shared.watch.hearing()
    }
}

impl Shared {
    pub(crate) async fn untag(&self, tag: Tag) -> Result<Invalidated> {
        self.tags.changed(tag.as_str());
        let outcome = self.backend.untag(std::slice::from_ref(&tag)).await;
        let outcome = self.queue.or_later(outcome, || crate::queue::Order::Tag(tag.clone()));
        // What was read before the server forgot it is not kept, either.
        self.tags.changed(tag.as_str());
        self.watch.detach();
        outcome
    }

    /// The versions of tags as they are now, those that nobody has included.
    pub(crate) async fn versions(&self, tags: &[Tag]) -> Result<Vec<Option<Version>>> {
        let mut versions: Vec<_> = tags.iter().map(|tag| self.tags.get(tag.as_str())).collect();
        let missing: Vec<_> = (0..tags.len()).filter(|at| versions[*at].is_none()).collect();
        if missing.is_empty() {
            return Ok(versions);
        }
        let asked: Vec<Tag> = missing.iter().map(|at| tags[*at].clone()).collect();
        let tickets: Vec<_> = asked.iter().map(|tag| self.tags.ticket(tag.as_str())).collect();
        let read = self.backend.versions(&asked).await?;
        for ((at, version), ticket) in missing.into_iter().zip(read).zip(tickets) {
            versions[at] = version;
            if let Some(version) = version {
                ticket.keep(version);
            }
        }
        Ok(versions)
    }
}
