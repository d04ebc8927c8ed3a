//! What a loader is told, and what it may say of what it brings.

use crate::{
    backend::{Tag, Version},
    cache::ms,
    caches::Shared,
    entry::Hit,
    envelope,
    error::LoadError,
    options::{Options, YEAR},
};
use coordinator_core::{BoxFuture, key::Name};
use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

type Load<T> = BoxFuture<'static, Result<Option<T>, LoadError>>;

/// A loader that was not called yet.
pub(crate) struct Loader<T> {
    call: Box<dyn FnOnce(Loading<T>) -> Load<T> + Send>,
}

impl<T: Send + 'static> Loader<T> {
    pub(crate) fn new<F, L, E>(loader: F) -> Self
    where
        F: FnOnce(Loading<T>) -> L + Send + 'static,
        L: Future<Output = Result<Option<T>, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
        T: Sync,
    {
        // Called within: a panic of the call is one of the load.
        let call = |loading| -> BoxFuture<'static, _> {
            Box::pin(async move { loader(loading).await.map_err(LoadError::loader) })
        };
        Self { call: Box::new(call) }
    }

    pub(crate) fn begin(self, loading: Loading<T>) -> Load<T> {
        (self.call)(loading)
    }
}

/// A load under way: what its loader may say of how the value is kept. Clones share it.
pub struct Loading<T> {
    shared: Arc<Shared>,
    kept: Arc<Mutex<Kept>>,
    stale: Option<Hit<T>>,
}

impl<T> Clone for Loading<T> {
    fn clone(&self) -> Self {
        let (shared, kept) = (self.shared.clone(), self.kept.clone());
        Self { shared, kept, stale: self.stale.clone() }
    }
}

impl<T> fmt::Debug for Loading<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loading").finish_non_exhaustive()
    }
}

/// How a value is kept.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) ttl: Duration,
    pub(crate) stale: Duration,
    pub(crate) tags: Vec<(Tag, Version)>,
    negative: Option<Duration>,
    skip: bool,
}

impl Kept {
    pub(crate) fn of(options: &Options) -> Self {
        Self {
            ttl: options.ttl,
            stale: options.stale,
            tags: Vec::new(),
            negative: options.negative,
            skip: false,
        }
    }
}

impl<T> Loading<T> {
    pub(crate) fn new(shared: Arc<Shared>, options: &Options, stale: Option<Hit<T>>) -> Self {
        Self { shared, kept: Arc::new(Mutex::new(Kept::of(options))), stale }
    }

    fn options(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the value is kept; none if it is not, or if there is none and that is not.
    pub(crate) fn kept(&self, negative: bool) -> Option<Kept> {
        let mut kept = self.options().clone();
        if kept.skip {
            return None;
        }
        if negative {
            (kept.ttl, kept.stale) = (kept.negative?, Duration::ZERO);
        }
        Some(kept)
    }

    /// The value that is past its time, if there is one: for a loader that can find out whether it
    /// changed at all.
    pub fn stale(&self) -> Option<&Hit<T>> {
        self.stale.as_ref()
    }

    /// The value is fresh for so long: a millisecond at least, a year at the most.
    pub fn set_ttl(&self, ttl: Duration) {
        self.options().ttl = ttl.clamp(Duration::from_millis(1), YEAR);
    }

    /// The value is kept for so long after that, a year at the most.
    pub fn set_stale(&self, stale: Duration) {
        self.options().stale = stale.min(YEAR);
    }

    /// The value is given to who waits for it, and not stored.
    pub fn skip_store(&self) {
        self.options().skip = true;
    }

    /// The value ends when this tag is invalidated from now on: to be called before what the tag
    /// stands for is read. Where it cannot be noted, the value is not stored.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn tag(&self, tag: &str) {
        let known = Name::new(tag);
        let Ok(tag) = known else { return self.skip_store() };
        let kept = {
            let kept = self.options();
            if kept.tags.iter().any(|(known, _)| *known == tag) {
                return;
            }
            ms(kept.ttl.saturating_add(kept.stale)).max(1)
        };
        let fresh = Version::random();
        match self.shared.backend.capture(std::slice::from_ref(&tag), fresh, kept).await {
            Ok(versions) => {
                let mut kept = self.options();
                kept.tags.extend(versions.into_iter().map(|version| (tag.clone(), version)));
                kept.skip |= kept.tags.len() > envelope::TAGS_MAX;
            }
            Err(_) => self.skip_store(),
        }
    }
}
