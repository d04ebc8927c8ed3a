//! The cache: reading, writing and ending entries.
//!
//! How a value is loaded stands in `load`, what hears of changes in `watch`.

use crate::{
    backend::{Key, Put, Tag, Version},
    caches::{Caches, Shared},
    chance::{self, Dice},
    compress,
    entry::{Entry, Hit, Lookup},
    envelope::{self, Limits, Meta},
    flight::Flights,
    near::{Near, Ticket},
    options::{CacheBuilder, Options, in_range},
    payload::Form,
    queue::{Invalidated, Order},
    slot::Slot,
    stats::{Counts, Stats},
    watch::Listener,
};
use bytes::Bytes;
use coordinator_core::{Error, Result, clock::Instant, key::Name};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

/// Values of one type in a namespace. Clones share everything.
pub struct Cache<T> {
    pub(crate) core: Arc<Core<T>>,
}

impl<T> Clone for Cache<T> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone() }
    }
}

impl<T> fmt::Debug for Cache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("namespace", &self.core.namespace)
            .field("options", &self.core.options)
            .finish_non_exhaustive()
    }
}

pub(crate) struct Core<T> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) namespace: Name,
    pub(crate) options: Options,
    pub(crate) form: Form<T>,
    pub(crate) dice: Dice,
    pub(crate) near: Option<Arc<Near<Slot<T>>>>,
    pub(crate) flights: Arc<Flights<T>>,
    pub(crate) failed: Mutex<HashMap<Arc<str>, Instant>>,
    pub(crate) counts: Counts,
    _ears: Arc<Ears<T>>,
}

/// Is told of changes in the namespace.
struct Ears<T> {
    near: Option<Arc<Near<Slot<T>>>>,
    flights: Arc<Flights<T>>,
}

impl<T: Send + Sync + 'static> Listener for Ears<T> {
    fn missed(&self) {
        self.flights.detach_all();
    }

    fn changed(&self, key: &str) {
        // Whoever comes now may know of the change.
        self.flights.detach(key);
        if let Some(near) = &self.near {
            near.changed(key);
        }
    }
}

impl Listener for Near<Version> {
    fn changed(&self, key: &str) {
        Self::changed(self, key);
    }
}

/// What was found.
pub(crate) enum Look<T> {
    /// In its time.
    Fresh(Slot<T>),
    /// Past its time, within its grace.
    Stale(Slot<T>),
    /// Something that is not to be given: its tag was invalidated, or it cannot be read.
    Dead(Option<Version>),
    Absent,
}

impl<T> Core<T>
where
    T: Send + Sync + 'static,
{
    pub(crate) fn new(
        shared: Arc<Shared>,
        namespace: Name,
        options: Options,
        form: Form<T>,
        near: Option<Arc<Near<Slot<T>>>>,
        counts: Counts,
    ) -> Arc<Self> {
        let flights = Arc::new(Flights::default());
        let ears = Arc::new(Ears { near: near.clone(), flights: flights.clone() });
        let listener: Weak<Ears<T>> = Arc::downgrade(&ears);
        shared.watch.tell(namespace.as_str(), listener);
        let failed = Mutex::default();
        Arc::new(Self {
            shared,
            namespace,
            options,
            form,
            dice: Dice::Thread,
            near,
            flights,
            failed,
            counts,
            _ears: ears,
        })
    }

    pub(crate) fn key(&self, key: &str) -> Result<Key> {
        Ok(Key::new(self.namespace.clone(), Name::new(key)?))
    }

    /// What is kept near and in its time, if all changes of it are heard of.
    pub(crate) fn near(&self, key: &str) -> Option<Slot<T>> {
        let slot = self.near.as_ref()?.get(key)?;
        let same = |(tag, version): &(Tag, Version)| {
            self.shared.tags.get(tag.as_str()).is_some_and(|now| now == *version)
        };
        let same = slot.tags().iter().all(same);
        (same && !self.is_ended(key, slot.tags())).then_some(slot)
    }

    /// What was kept near last, within its grace: for when no server answers.
    pub(crate) fn last(&self, key: &Key) -> Option<Slot<T>> {
        let slot = self.near.as_ref()?.last(key.key.as_str())?;
        // A tag that was ended, and heard of, has no version here any more.
        let same = |(tag, version): &(Tag, Version)| {
            self.shared.tags.last(tag.as_str()).is_some_and(|last| last == *version)
        };
        let kept = self.shared.backend.now_ms() < slot.hard_ms && slot.tags().iter().all(same);
        (kept && !self.is_ended(key.key.as_str(), slot.tags())).then_some(slot)
    }

    /// Whether an end of it waits to be made up for.
    fn is_ended(&self, key: &str, tags: &[(Tag, Version)]) -> bool {
        let queue = &self.shared.queue;
        if queue.is_empty() {
            return false;
        }
        let holds = |tag: &Tag| queue.holds(&Order::Tag(tag.clone()));
        let ended =
            |key: Key| queue.holds(&Order::Key(key.clone())) || queue.holds(&Order::Expire(key));
        self.key(key).is_ok_and(ended) || tags.iter().any(|(tag, _)| holds(tag))
    }

    pub(crate) fn ticket(&self, key: &Key) -> Option<Ticket<Slot<T>>> {
        self.near.as_ref().map(|near| near.ticket(key.key.as_str()))
    }

    /// Looks at the shared value.
    pub(crate) async fn look(&self, key: &Key) -> Result<Look<T>> {
        if self.near.is_some() {
            self.shared.watch.begin().await;
        }
        self.shared.backend.learn().await?;
        let ticket = self.ticket(key);
        if let Some(bytes) = self.shared.backend.get(key).await? {
            return self.judge(key, bytes, ticket).await;
        }
        self.gone(key);
        Ok(Look::Absent)
    }

    /// What is kept here of a key stands in for nothing: it was looked, and is not to be given.
    fn gone(&self, key: &Key) {
        if let Some(near) = &self.near {
            near.forget(key.key.as_str());
        }
    }

    /// What a value that was read is worth.
    pub(crate) async fn judge(
        &self,
        key: &Key,
        bytes: Bytes,
        ticket: Option<Ticket<Slot<T>>>,
    ) -> Result<Look<T>> {
        // None of them is built where nothing waits, as nearly always.
        let waits = !self.shared.queue.is_empty();
        if waits && self.shared.queue.holds(&Order::Key(key.clone())) {
            self.gone(key);
            return Ok(Look::Dead(envelope::version_of(&bytes)));
        }
        let expired = waits && self.shared.queue.holds(&Order::Expire(key.clone()));
        let slot = match self.open(&bytes).await {
            Ok(slot) => slot,
            Err(why) => {
                self.counts.unreadable();
                let error = why.chain();
                tracing::debug!(key = %key.key, error, "a value cannot be read, and is dropped");
                let _ = self.shared.backend.drop_if(key, &bytes).await;
                return Ok(Look::Dead(envelope::version_of(&bytes)));
            }
        };
        if !slot.tags().is_empty() {
            let tags: Vec<Tag> = slot.tags().iter().map(|(tag, _)| tag.clone()).collect();
            let queued = |tag: &Tag| self.shared.queue.holds(&Order::Tag(tag.clone()));
            let versions = self.shared.versions(&tags).await?;
            let mut pairs = slot.tags().iter().zip(versions);
            if pairs.any(|((tag, then), now)| now != Some(*then) || queued(tag)) {
                self.gone(key);
                return Ok(Look::Dead(Some(slot.version)));
            }
        }
        let now = self.shared.backend.now_ms();
        if now < slot.soft_ms && !expired {
            if let Some(ticket) = ticket {
                let left_ms = slot.soft_ms.min(slot.near_ms).saturating_sub(now);
                ticket.keep_for(slot.clone(), Duration::from_millis(left_ms));
            }
            Ok(Look::Fresh(slot))
        } else if slot.value.is_some() && now < slot.hard_ms {
            Ok(Look::Stale(slot))
        } else {
            Ok(Look::Dead(Some(slot.version)))
        }
    }

    async fn open(&self, bytes: &Bytes) -> Result<Slot<T>> {
        let unreadable =
            |why| Error::corrupt("cache.get", "a value cannot be read").with_source(why);
        let limits =
            Limits { schema: self.options.schema, most: self.options.compression.max_value() };
        let opened = envelope::open(bytes, limits).map_err(unreadable)?;
        let raw = compress::unpack(&opened).await.map_err(unreadable)?;
        let Meta { version, hard_ms, loaded_ms, load_us, tags, negative, codec, .. } = opened.meta;
        let soft_ms = opened.meta.soft_ms.min(hard_ms);
        let value = if negative { None } else { Some(Arc::new(self.form.decode(codec, &raw)?)) };
        let near_ms = self.shared.backend.now_ms().saturating_add(ms(self.options.near_ttl));
        let tags = (!tags.is_empty()).then(|| tags.into());
        Ok(Slot { value, version, soft_ms, hard_ms, near_ms, loaded_ms, load_us, tags })
    }
}

pub(crate) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What is to be stored, before it is sealed.
pub(crate) struct Draft<'a, T> {
    /// None for what is known not to be there.
    pub(crate) value: Option<&'a T>,
    pub(crate) ttl: Duration,
    pub(crate) stale: Duration,
    pub(crate) loaded_ms: u64,
    pub(crate) load: Duration,
    pub(crate) tags: Vec<(Tag, Version)>,
}

/// How a value that the caller has is kept.
pub(crate) struct Terms {
    ttl: Duration,
    stale: Duration,
    loaded_ms: u64,
    tags: Vec<(Tag, Version)>,
}

impl Terms {
    pub(crate) fn draft<'a, T>(&self, value: &'a T) -> Draft<'a, T> {
        let Self { ttl, stale, loaded_ms, .. } = *self;
        let (value, load, tags) = (Some(value), Duration::ZERO, self.tags.clone());
        Draft { value, ttl, stale, loaded_ms, load, tags }
    }
}

impl<T> Core<T>
where
    T: Send + Sync + 'static,
{
    /// Tags by name, the cache's own and these, each once.
    pub(crate) fn tags(&self, more: &[String]) -> Result<Vec<Tag>> {
        let mut tags: Vec<Tag> = Vec::new();
        for tag in self.options.tags.iter().chain(more) {
            let tag = Name::new(tag)?;
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        if tags.len() > envelope::TAGS_MAX {
            let why = format!("{} tags are more than {}", tags.len(), envelope::TAGS_MAX);
            return Err(Error::misuse("cache.set", why));
        }
        Ok(tags)
    }

    /// The versions of tags, made where there are none.
    pub(crate) async fn capture(
        &self,
        tags: Vec<Tag>,
        kept: Duration,
    ) -> Result<Vec<(Tag, Version)>> {
        if tags.is_empty() {
            return Ok(Vec::new());
        }
        let fresh = Version::random();
        let versions = self.shared.backend.capture(&tags, fresh, ms(kept).max(1)).await?;
        Ok(tags.into_iter().zip(versions).collect())
    }

    /// A value ready to be stored.
    pub(crate) async fn seal(&self, key: &Key, draft: Draft<'_, T>) -> Result<Put> {
        let ttl = chance::jittered(&self.dice, draft.ttl, self.options.jitter);
        let (ttl_ms, stale_ms) = (ms(ttl).max(1), ms(draft.stale));
        let raw = match draft.value {
            Some(value) => self.form.encode(value)?,
            None => Bytes::new(),
        };
        let (raw_len, compression) = (raw.len(), &self.options.compression);
        let (packed, compressed) = compression.pack(raw).await?;
        let soft_ms = self.shared.backend.now_ms().saturating_add(ttl_ms);
        let meta = Meta {
            version: Version::random(),
            schema: self.options.schema,
            codec: self.form.codec,
            compressed,
            raw_len: u32::try_from(raw_len).unwrap_or(u32::MAX),
            dictionary: None,
            negative: draft.value.is_none(),
            soft_ms,
            hard_ms: soft_ms.saturating_add(stale_ms),
            loaded_ms: draft.loaded_ms,
            load_us: u32::try_from(draft.load.as_micros()).unwrap_or(u32::MAX),
            tags: draft.tags,
        };
        let value = envelope::seal(&meta, &packed)?;
        self.counts.stored(raw_len, value.len());
        Ok(Put { key: key.clone(), value, ttl_ms: ttl_ms.saturating_add(stale_ms) })
    }

    /// A value that is past its time, unless its grace is over by now.
    pub(crate) fn in_grace(&self, hit: Option<Hit<T>>) -> Option<Hit<T>> {
        hit.filter(|hit| self.shared.backend.now_ms() < hit.hard_ms)
    }

    /// The same of several keys.
    pub(crate) fn forget_all<'a>(&self, keys: impl IntoIterator<Item = &'a Key>) {
        for key in keys {
            self.forget(key);
        }
    }

    /// What is kept here of a key is not believed any more.
    pub(crate) fn forget(&self, key: &Key) {
        self.flights.detach(key.key.as_str());
        if let Some(near) = &self.near {
            near.changed(key.key.as_str());
        }
    }
}

impl<T> Cache<T>
where
    T: Send + Sync + 'static,
{
    /// The default of [`CacheBuilder::with_ttl`]: five minutes.
    pub const TTL: Duration = Duration::from_mins(5);

    /// A cache over Redis or Valkey, to be built. Several over one connection are better made from
    /// one [`Caches`].
    #[cfg(feature = "redis")]
    pub fn redis(
        connection: &coordinator_core::redis::Connection,
        namespace: &str,
    ) -> CacheBuilder<T>
    where
        T: Serialize + DeserializeOwned,
    {
        Caches::redis(connection).cache(namespace)
    }

    /// A cache in this process alone, to be built.
    pub fn embedded(namespace: &str) -> CacheBuilder<T>
    where
        T: Serialize + DeserializeOwned,
    {
        Caches::embedded().cache(namespace)
    }

    pub(crate) fn new(core: Arc<Core<T>>) -> Self {
        Self { core }
    }

    /// The value of a key: any text of 1 to 512 bytes. None if there is none, if it is past its
    /// time, or if it is known that there is none.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) for a key that cannot be;
    /// [`Unavailable`](coordinator_core::ErrorKind::Unavailable) where no server answers and
    /// nothing is kept near that is within its grace.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn get(&self, key: &str) -> Result<Option<Hit<T>>> {
        Ok(self.lookup(key).await?.hit())
    }

    /// The same, and whether it is known that there is no value.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lookup(&self, key: &str) -> Result<Lookup<T>> {
        let core = &self.core;
        if let Some(slot) = core.near(key) {
            core.counts.near();
            return Ok(slot.fresh().map_or(Lookup::Negative, Lookup::Hit));
        }
        let key = core.key(key)?;
        match core.look(&key).await {
            Ok(Look::Fresh(slot)) => {
                core.counts.far();
                Ok(slot.fresh().map_or(Lookup::Negative, Lookup::Hit))
            }
            Ok(_) => {
                core.counts.miss();
                Ok(Lookup::Absent)
            }
            Err(error) => {
                let last = core.last(&key).and_then(|slot| slot.hit(true));
                let hit = last.filter(|_| error.is_retryable()).ok_or(error)?;
                Ok(Lookup::Hit(core.give(hit)))
            }
        }
    }

    /// Stores a value.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) for a key that cannot be, or a value that
    /// cannot be serialized or is too long, or a time that cannot be;
    /// [`Unavailable`](coordinator_core::ErrorKind::Unavailable) if it is surely not stored,
    /// [`Indeterminate`](coordinator_core::ErrorKind::Indeterminate) if it perhaps is.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is stored.
    pub async fn set(&self, key: &str, value: &T) -> Result<()> {
        self.set_with(key, value, Entry::new()).await
    }

    /// Stores a value, kept in a way of its own.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    ///
    /// # Cancel safety
    /// As [`set`](Self::set).
    pub async fn set_with(&self, key: &str, value: &T, entry: Entry) -> Result<()> {
        let core = &self.core;
        let key = core.key(key)?;
        let put = self.put(&key, value, &entry).await?;
        core.forget(&key);
        let outcome = core.shared.backend.set(&put).await;
        // What was read before is not kept, and whoever reads now reads what is there now.
        core.forget(&key);
        outcome
    }

    pub(crate) async fn put(&self, key: &Key, value: &T, entry: &Entry) -> Result<Put> {
        let terms = self.terms(entry).await?;
        self.core.seal(key, terms.draft(value)).await
    }

    /// How an entry is kept from now on.
    pub(crate) async fn terms(&self, entry: &Entry) -> Result<Terms> {
        let core = &self.core;
        core.shared.backend.learn().await?;
        let ttl = entry.ttl.unwrap_or(core.options.ttl);
        let stale = entry.stale.unwrap_or(core.options.stale);
        in_range("ttl", ttl, 1)?;
        in_range("grace", stale, 0)?;
        let tags = core.capture(core.tags(&entry.tags)?, ttl + stale).await?;
        let loaded_ms = core.shared.backend.now_ms();
        Ok(Terms { ttl, stale, loaded_ms, tags })
    }

    /// Deletes a value; whether there was one. The same as [`invalidate`](Self::invalidate), but
    /// that nothing is queued where no server answers.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is deleted.
    pub async fn delete(&self, key: &str) -> Result<bool> {
        let core = &self.core;
        let key = core.key(key)?;
        core.forget(&key);
        let outcome = core.shared.backend.invalidate(std::slice::from_ref(&key)).await;
        core.forget(&key);
        Ok(outcome? > 0)
    }

    /// Ends a value: what was loaded before this returns is given by no instance later than
    /// [`Caches::STALENESS`] after it, and a load that is under way is not stored.
    ///
    /// # Errors
    /// As [`set`](Self::set); but where no server answers it is
    /// [queued](Invalidated::Queued), 10,000 of them at the most.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is done.
    pub async fn invalidate(&self, key: &str) -> Result<Invalidated> {
        let core = &self.core;
        let key = core.key(key)?;
        core.forget(&key);
        let outcome = core.shared.backend.invalidate(std::slice::from_ref(&key)).await;
        let outcome = core.shared.queue.or_later(outcome, || Order::Key(key.clone()));
        core.forget(&key);
        outcome
    }

    /// Has a value be past its time from now on, but keeps it for its grace: it is loaded anew, and
    /// given, marked as stale, if that fails.
    ///
    /// # Errors
    /// As [`invalidate`](Self::invalidate).
    ///
    /// # Cancel safety
    /// As [`invalidate`](Self::invalidate).
    pub async fn expire(&self, key: &str) -> Result<Invalidated> {
        let core = &self.core;
        let key = core.key(key)?;
        core.forget(&key);
        let outcome = core.shared.backend.expire(std::slice::from_ref(&key)).await;
        let outcome = core.shared.queue.or_later(outcome, || Order::Expire(key.clone()));
        core.forget(&key);
        outcome
    }

    /// Ends every entry with a tag, in all caches: see [`Caches::invalidate_tag`].
    ///
    /// # Errors
    /// As [`invalidate`](Self::invalidate).
    ///
    /// # Cancel safety
    /// As [`invalidate`](Self::invalidate).
    pub async fn invalidate_tag(&self, tag: &str) -> Result<Invalidated> {
        self.core.shared.untag(Name::new(tag)?).await
    }

    /// The figures of this cache, of this process alone.
    pub fn stats(&self) -> Stats {
        let near = self.core.near.as_ref().map_or(0, |near| near.len());
        self.core.counts.stats(near, self.core.shared.watch.hearing())
    }
}
