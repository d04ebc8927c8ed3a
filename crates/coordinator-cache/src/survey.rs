//! Looking at what is stored, for operators: nothing is changed, counted, loaded or kept near by
//! it.

use crate::{
    backend::Key,
    cache::Cache,
    compress,
    entry::Hit,
    envelope::{self, Limits, Opened},
    walk::Walk,
};
use bytes::Bytes;
use coordinator_core::{Error, Result};
use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

/// How many values are read in one step: they are held at once.
const BATCH: usize = 32;

/// What is stored of a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survey {
    /// Values, those that are past their time or whose tags were invalidated included: they take
    /// memory until their end. What cannot be read is not counted.
    pub entries: u64,
    /// Their bytes before they were compressed.
    pub bytes_in: u64,
    /// Their bytes as they are stored, with their heads; without their keys.
    pub bytes_stored: u64,
}

/// Takes a value apart, of whatever schema.
fn open(stored: &Bytes, most: usize) -> Option<Opened> {
    let schema = stored.get(4..8)?.try_into().expect("they are four");
    envelope::open(stored, Limits { schema: u32::from_le_bytes(schema), most }).ok()
}

impl<T> Cache<T>
where
    T: Send + Sync + 'static,
{
    /// Counts what is stored in this cache's namespace, by whomever and of whatever type.
    ///
    /// It looks through the whole of each server step by step and reads every value of the
    /// namespace; it is meant for operators. What comes or goes meanwhile is counted or not.
    ///
    /// # Errors
    /// [`Unavailable`](coordinator_core::ErrorKind::Unavailable) or
    /// [`Indeterminate`](coordinator_core::ErrorKind::Indeterminate) where no server answers.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn survey(&self) -> Result<Survey> {
        let backend = &self.core.shared.backend;
        // A scan tells of some keys twice. Their hashes suffice to know them again.
        let (hasher, mut seen) = (RandomState::new(), HashSet::new());
        let mut survey = Survey::default();
        let mut walk = Walk::new(&**backend, &self.core.namespace);
        while let Some(mut keys) = walk.next().await? {
            keys.retain(|key| seen.insert(hasher.hash_one(key)));
            for keys in keys.chunks(BATCH) {
                self.count(keys, &mut survey).await?;
            }
        }
        Ok(survey)
    }

    async fn count(&self, keys: &[Key], survey: &mut Survey) -> Result<()> {
        for stored in self.core.shared.backend.fetch(keys).await?.into_iter().flatten() {
            if let Some(opened) = open(&stored, usize::MAX) {
                survey.entries += 1;
                survey.bytes_in += u64::from(opened.meta.raw_len);
                survey.bytes_stored += stored.len() as u64;
            }
        }
        Ok(())
    }

    /// What is stored under a key, of whatever schema, within its grace included: marked as
    /// [stale](Hit::is_stale) then. None if there is none, if that is what is known, or if a tag
    /// of it was invalidated.
    ///
    /// Unlike [`get`](Self::get) it counts nothing, keeps nothing near, and leaves what cannot be
    /// read where it is.
    ///
    /// # Errors
    /// As [`get`](Self::get); [`Corrupt`](coordinator_core::ErrorKind::Corrupt) if it cannot be
    /// read, or not as a `T`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn peek(&self, key: &str) -> Result<Option<Hit<T>>> {
        let core = &self.core;
        let backend = &core.shared.backend;
        backend.learn().await?;
        let Some(stored) = backend.get(&core.key(key)?).await? else { return Ok(None) };
        let unreadable = || Error::corrupt("cache.peek", "a value cannot be read");
        let most = core.options.compression.max_value();
        let opened = open(&stored, most).ok_or_else(unreadable)?;
        let meta = &opened.meta;
        if meta.negative {
            return Ok(None);
        }
        let tags: Vec<_> = meta.tags.iter().map(|(tag, _)| tag.clone()).collect();
        if !tags.is_empty() {
            let now = backend.versions(&tags).await?;
            if meta.tags.iter().zip(now).any(|((_, then), now)| now != Some(*then)) {
                return Ok(None);
            }
        }
        let raw = compress::unpack(&opened).await.map_err(|why| unreadable().with_source(why))?;
        let value = Arc::new(core.form.decode(meta.codec, &raw)?);
        let (now, soft_ms, hard_ms) = (backend.now_ms(), meta.soft_ms, meta.hard_ms);
        let (loaded_ms, version) = (meta.loaded_ms, Some(meta.version));
        let hit = Hit { value, stale: now >= soft_ms, soft_ms, hard_ms, loaded_ms, version };
        Ok(Some(hit).filter(|_| now < hard_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Caches, Compression, Entry};
    use coordinator_core::{ErrorKind, clock::ManualClock};
    use std::time::Duration;

    #[tokio::test]
    async fn what_is_stored_is_counted_once_and_left_alone() {
        let caches = Caches::embedded();
        let texts = caches.cache::<String>("a").with_schema(3).build().expect("a cache");
        let other = caches.cache::<u8>("b").build().expect("a cache");
        for n in 0..100 {
            texts.set(&n.to_string(), &"x".repeat(5000)).await.expect("memory");
        }
        other.set("1", &1).await.expect("memory");
        // Leases are keys too, and no entries: of what is not there, and beside a stale value.
        texts.expire("0").await.expect("memory");
        for key in ["0", "later"] {
            let (begun, begins) = tokio::sync::oneshot::channel();
            let load = |_| {
                begun.send(()).expect("it is waited for");
                std::future::pending::<Result<String, Error>>()
            };
            tokio::select! {
                loaded = texts.get_or_load(key, load) => panic!("{loaded:?}"),
                begun = begins => begun.expect("it begins"),
            }
        }
        // Of another type and schema, by whoever looks at all of them.
        let bytes = caches.cache::<u8>("a").build().expect("a cache");
        let survey = bytes.survey().await.expect("memory");
        assert_eq!((survey.entries, survey.bytes_in), (100, 100 * 5003));
        assert!(survey.bytes_stored > 4400 && survey.bytes_stored < 20_000, "{survey:?}");
        assert_eq!(texts.survey().await.expect("memory"), survey);
        let none = Compression::none();
        let raw = caches.cache::<String>("a").with_compression(none).build().expect("a cache");
        raw.set("0", &"x".repeat(5000)).await.expect("memory");
        let grown = bytes.survey().await.expect("memory");
        assert_eq!((grown.entries, grown.bytes_in), (survey.entries, survey.bytes_in));
        assert!(grown.bytes_stored > survey.bytes_stored + 4000, "{grown:?}");
    }

    #[tokio::test]
    async fn a_look_shows_stale_values_and_drops_nothing() {
        let clock = Arc::new(ManualClock::new());
        let caches = Caches::embedded_with_clock(clock.clone());
        let minute = Duration::from_mins(1);
        let cache = caches.cache::<String>("a").with_schema(3).with_stale(minute);
        let cache = cache.with_ttl(minute).build().expect("a cache");
        cache.set_with("k", &"v".to_owned(), Entry::new().tags(["t"])).await.expect("memory");
        // Neither another schema nor another type is told, and neither is dropped.
        let other = caches.cache::<String>("a").build().expect("a cache");
        let seen = other.peek("k").await.expect("it is read").expect("it is there");
        assert_eq!((seen.as_str(), seen.is_stale()), ("v", false));
        let numbers = caches.cache::<u8>("a").build().expect("a cache");
        assert_eq!(numbers.peek("k").await.expect_err("no number").kind(), ErrorKind::Corrupt);
        clock.advance(minute);
        let seen = other.peek("k").await.expect("it is read").expect("it is there");
        assert!(seen.is_stale());
        assert_eq!(
            (other.stats().misses, other.stats().far_hits, other.stats().unreadable),
            (0, 0, 0)
        );
        assert_eq!(other.survey().await.expect("memory").entries, 1);
        cache.invalidate_tag("t").await.expect("memory");
        assert!(other.peek("k").await.expect("it is read").is_none());
        assert!(other.peek("none").await.expect("it is read").is_none());
        clock.advance(minute + Duration::from_millis(1));
        assert_eq!(other.survey().await.expect("memory").entries, 0);
    }
}
