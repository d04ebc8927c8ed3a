//! What a cache gives and what it takes: a value with its age, and how long to keep one.

use crate::backend::Version;
use std::{fmt, ops::Deref, sync::Arc, time::Duration};

/// A value from a cache. Clones share it; it derefs to the value.
pub struct Hit<T> {
    pub(crate) value: Arc<T>,
    pub(crate) stale: bool,
    /// Its soft expiry, by the backend's time; 0 if it was made stale before it.
    pub(crate) soft_ms: u64,
    /// From when on it is given to nobody, by the backend's time.
    pub(crate) hard_ms: u64,
    pub(crate) loaded_ms: u64,
    pub(crate) version: Option<Version>,
}

impl<T> Hit<T> {
    /// Whether it is past its time, and given because nothing newer could be had, or as it is
    /// loaded anew at this moment.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// When its loader began, or when it was set, as time since the Unix epoch.
    pub fn loaded_at(&self) -> Duration {
        Duration::from_millis(self.loaded_ms)
    }

    /// The value, shared with the cache.
    pub fn shared(&self) -> Arc<T> {
        self.value.clone()
    }

    /// What a loader brought: nobody gives it later.
    pub(crate) fn loaded(value: T, loaded_ms: u64) -> Self {
        let (value, never) = (Arc::new(value), u64::MAX);
        Self { value, stale: false, soft_ms: never, hard_ms: never, loaded_ms, version: None }
    }
}

impl<T: Clone> Hit<T> {
    /// The value as one's own.
    pub fn into_inner(self) -> T {
        Arc::unwrap_or_clone(self.value)
    }
}

impl<T> Clone for Hit<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), ..*self }
    }
}

impl<T> Deref for Hit<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Hit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple(if self.stale { "Stale" } else { "Hit" }).field(&self.value).finish()
    }
}

/// What a cache knows of a key.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Lookup<T> {
    /// A value.
    Hit(Hit<T>),
    /// That there is none: its loader said so.
    Negative,
    /// Nothing.
    Absent,
}

impl<T> Lookup<T> {
    /// The value, if there is one.
    pub fn hit(self) -> Option<Hit<T>> {
        match self {
            Self::Hit(hit) => Some(hit),
            Self::Negative | Self::Absent => None,
        }
    }
}

/// How one entry is kept, where it differs from its cache's others.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    pub(crate) ttl: Option<Duration>,
    pub(crate) stale: Option<Duration>,
    pub(crate) tags: Vec<String>,
}

impl Entry {
    /// As the cache's others.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fresh for so long, to the millisecond.
    pub fn ttl(ttl: Duration) -> Self {
        Self { ttl: Some(ttl), ..Self::default() }
    }

    /// Kept for so long after that, for [`Hit::is_stale`].
    pub fn with_stale(mut self, stale: Duration) -> Self {
        self.stale = Some(stale);
        self
    }

    /// Ends when one of these tags is invalidated, in whatever cache; added to those it has. At
    /// most 32 tags of 1 to 512 bytes.
    pub fn tags<I>(mut self, tags: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.tags.extend(tags.into_iter().map(Into::into));
        self
    }
}
