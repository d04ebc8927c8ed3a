//! How a cache keeps what it is given, and its builder.

use crate::{
    cache::{Cache, Core},
    caches::Caches,
    compress::Compression,
    near::Near as NearTable,
    payload::Form,
    stats::Counts,
};
use coordinator_core::{Error, Result, key::Name};
use serde::{Serialize, de::DeserializeOwned};
use std::{sync::Arc, time::Duration};

const STEP: &str = "cache.build";
/// The longest that anything is kept.
pub(crate) const YEAR: Duration = Duration::from_hours(366 * 24);

/// What is kept in this process, in front of what instances share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Near {
    /// Nothing.
    Off,
    /// So many entries, the most used.
    Entries(u64),
}

impl Near {
    /// So many entries, the most used.
    pub fn entries(entries: u64) -> Self {
        Self::Entries(entries)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) ttl: Duration,
    pub(crate) stale: Duration,
    pub(crate) negative: Option<Duration>,
    pub(crate) jitter: f64,
    pub(crate) near: Near,
    pub(crate) near_ttl: Duration,
    pub(crate) compression: Compression,
    pub(crate) schema: u32,
    pub(crate) beta: f64,
    pub(crate) soft: Option<Duration>,
    pub(crate) hard: Duration,
    pub(crate) lease: Duration,
    pub(crate) wait: Duration,
    pub(crate) throttle: Duration,
    pub(crate) tags: Vec<String>,
}

/// Refuses what is shorter than so many ms, or longer than a year.
pub(crate) fn in_range(what: &str, of: Duration, least: u64) -> Result<()> {
    if of < Duration::from_millis(least) || of > YEAR {
        return Err(Error::misuse(STEP, format!("a {what} of {of:?} cannot be")));
    }
    Ok(())
}

/// Makes a [`Cache`].
#[derive(Debug, Clone)]
#[must_use = "it is built with `build`"]
pub struct CacheBuilder<T> {
    caches: Caches,
    namespace: String,
    options: Options,
    form: Form<T>,
}

impl<T> CacheBuilder<T>
where
    T: Serialize + DeserializeOwned,
{
    /// Values are JSON instead of MessagePack.
    pub fn with_json(mut self) -> Self {
        self.form = Form::json();
        self
    }
}

impl<T> CacheBuilder<T>
where
    T: Send + Sync + 'static,
{
    pub(crate) fn new(caches: Caches, namespace: &str, form: Form<T>) -> Self {
        let options = Options {
            ttl: Cache::<T>::TTL,
            stale: Duration::ZERO,
            negative: None,
            jitter: 0.0,
            near: Near::Off,
            near_ttl: Duration::MAX,
            compression: Compression::zstd(),
            schema: 0,
            beta: 1.0,
            soft: None,
            hard: Duration::from_secs(30),
            lease: Duration::from_secs(10),
            wait: Duration::from_secs(30),
            throttle: Duration::from_secs(1),
            tags: Vec::new(),
        };
        Self { caches, namespace: namespace.to_owned(), options, form }
    }

    /// For how long a value is fresh: five minutes unless set; a year at the most.
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.options.ttl = ttl;
        self
    }

    /// For how long a value is kept after it was fresh, to be given, marked as stale, where its
    /// loader or the server fails, or while it is loaded anew: not at all unless set.
    pub fn with_stale(mut self, stale: Duration) -> Self {
        self.options.stale = stale;
        self
    }

    /// For how long it is known that there is no value, where a loader of
    /// [`get_or_load_optional`](Cache::get_or_load_optional) said so: not at all unless set.
    pub fn with_negative(mut self, ttl: Duration) -> Self {
        self.options.negative = Some(ttl);
        self
    }

    /// Shortens each ttl by a random part of it up to this one, so that what was stored at once
    /// does not end at once: 0 to 1, 0 unless set.
    pub fn with_jitter(mut self, part: f64) -> Self {
        self.options.jitter = part;
        self
    }

    /// What is kept in this process as well: nothing unless set.
    pub fn with_near(mut self, near: Near) -> Self {
        self.options.near = near;
        self
    }

    /// The longest that a value is kept in this process without a look at the shared one: as long
    /// as it is fresh unless set.
    pub fn with_near_ttl(mut self, ttl: Duration) -> Self {
        self.options.near_ttl = ttl;
        self
    }

    /// How values are compressed: zstd from 1 KiB on, unless set.
    pub fn with_compression(mut self, compression: Compression) -> Self {
        self.options.compression = compression;
        self
    }

    /// The version of the values' shape, 0 unless set: a value of another one is absent.
    pub fn with_schema(mut self, version: u32) -> Self {
        self.options.schema = version;
        self
    }

    /// How eagerly a value is loaded anew before its time (XFetch, Vattani et al., VLDB 2015): with
    /// 1, as unless set, the load begins about when it would end with the value's time; 0 for
    /// never, more for earlier.
    pub fn with_early_refresh(mut self, beta: f64) -> Self {
        self.options.beta = beta;
        self
    }

    /// Whoever could have a stale value waits no longer than this for a load; the load goes on.
    /// Unless set, stale values are given for failures alone.
    pub fn with_soft_timeout(mut self, timeout: Duration) -> Self {
        self.options.soft = Some(timeout);
        self
    }

    /// Stale values are given at once, and loaded anew meanwhile: a soft timeout of zero.
    pub fn with_stale_while_revalidate(self) -> Self {
        self.with_soft_timeout(Duration::ZERO)
    }

    /// How long a loader may take: 30 s unless set. Then it is dropped.
    pub fn with_hard_timeout(mut self, timeout: Duration) -> Self {
        self.options.hard = timeout;
        self
    }

    /// For how long a load of this process keeps others from loading the same, should the process
    /// die: 10 s unless set, 100 ms at least. It is renewed while the loader runs.
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.options.lease = lease;
        self
    }

    /// How long to wait for another instance's load before loading by oneself, without storing: 30
    /// s unless set.
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.options.wait = wait;
        self
    }

    /// For how long after a failed load a stale value is given without another attempt: a second
    /// unless set.
    pub fn with_throttle(mut self, throttle: Duration) -> Self {
        self.options.throttle = throttle;
        self
    }

    /// Tags of every entry, besides its own.
    pub fn with_tags<I>(mut self, tags: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.options.tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// The cache.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) for a namespace, tag, ttl, lease or part
    /// that cannot be.
    pub fn build(self) -> Result<Cache<T>> {
        let options = self.options;
        in_range("ttl", options.ttl, 1)?;
        in_range("grace", options.stale, 0)?;
        in_range("lease", options.lease, 100)?;
        in_range("hard timeout", options.hard, 1)?;
        if let Some(negative) = options.negative {
            in_range("negative ttl", negative, 1)?;
        }
        options.compression.check()?;
        if !(0.0..=1.0).contains(&options.jitter) {
            return Err(Error::misuse(STEP, "jitter is a part, 0 to 1"));
        }
        if !(options.beta >= 0.0 && options.beta.is_finite()) {
            return Err(Error::misuse(STEP, "an early refresh is 0 or more"));
        }
        for tag in &options.tags {
            Name::new(tag)?;
        }
        let namespace = Name::new(&self.namespace)?;
        let watch = self.caches.shared.watch.clone();
        let near = match options.near {
            Near::Off => None,
            Near::Entries(entries) => Some(Arc::new(NearTable::new(watch.heard.clone(), entries))),
        };
        let counts = Counts::new(namespace.as_str());
        Ok(Cache::new(Core::new(self.caches.shared, namespace, options, self.form, near, counts)))
    }
}
