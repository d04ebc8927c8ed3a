//! The adapter in process: the executable specification of the scripts.
//!
//! One mutex, one small transition per step, in whole ms, as keys of a server expire. The time is
//! the wall clock's of its beginning and what has passed since: whoever sets that clock changes
//! nothing here.

mod store;

use crate::{
    backend::{
        Backend, Changed, Claimed, Feed, Key, MARK_MS, Marks, Probe, Put, Scanned, Tag, Token,
        Version,
    },
    envelope,
};
use bytes::Bytes;
use coordinator_core::{
    BoxFuture, Error, ErrorKind, Result,
    clock::{Clock, Instant},
    key::Name,
};
use std::{
    fmt,
    future::ready,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use store::{Place, Store};
use tokio::sync::broadcast::{self, error::RecvError};

/// How many bytes are kept at most, unless it is said.
pub(crate) const MOST: usize = 256 * 1024 * 1024;

pub(crate) struct Embedded {
    clock: Arc<dyn Clock>,
    /// What the wall clock said when the other one said that.
    began: (Duration, Instant),
    store: Mutex<Store>,
}

impl Embedded {
    /// Keeps about `most` bytes at most, names and overhead included.
    pub(crate) fn new(clock: Arc<dyn Clock>, most: usize) -> Self {
        let began = (clock.unix_time(), clock.now());
        Self { clock, began, store: Mutex::new(Store::new(most)) }
    }

    /// Runs a step at this moment, in ms.
    fn step<T>(&self, step: impl FnOnce(&mut Store, u64) -> T) -> T {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        step(&mut store, self.now_ms())
    }

    /// The same, for the answer of a step that cannot fail.
    fn sure<'a, T: Send + 'a>(
        &self,
        step: impl FnOnce(&mut Store, u64) -> T,
    ) -> BoxFuture<'a, Result<T>> {
        Box::pin(ready(Ok(self.step(step))))
    }

    /// As a server does at FLUSHALL.
    #[cfg(test)]
    pub(crate) fn flush(&self) {
        self.step(|store, _| store.flush());
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

/// Nothing is missed in process.
struct Sure;

impl Probe for Sure {
    fn probe(&self) -> BoxFuture<'_, Result<Marks>> {
        Box::pin(ready(Ok(Vec::new())))
    }
}

impl Feed for broadcast::Receiver<Changed> {
    fn prober(&self) -> Option<Arc<dyn Probe>> {
        Some(Arc::new(Sure))
    }

    fn next(&mut self) -> BoxFuture<'_, Changed> {
        Box::pin(async {
            match self.recv().await {
                Ok(changed) => changed,
                Err(RecvError::Lagged(_)) => Changed::All,
                // The last owner is gone: there is nothing more to say, ever.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        })
    }
}

fn of(token: Token) -> Bytes {
    Bytes::copy_from_slice(&token.0)
}

fn bytes_of(version: Version) -> Bytes {
    Bytes::copy_from_slice(&version.0.to_le_bytes())
}

fn version(bytes: &Bytes) -> Option<Version> {
    bytes.as_ref().try_into().ok().map(|bytes| Version(u64::from_le_bytes(bytes)))
}

fn value(key: &Key) -> Place {
    Place::Value(key.clone())
}

fn lease(key: &Key) -> Place {
    Place::Lease(key.clone())
}

/// The version that stands somewhere, kept for `ttl_ms` at least; `fresh` if there is none.
fn captured(store: &mut Store, place: &Place, fresh: Version, ttl_ms: u64, now: u64) -> Version {
    let life = ttl_ms.saturating_mul(2);
    let Some(there) = store.get(place, now).as_ref().and_then(version) else {
        store.put(place, bytes_of(fresh), life, now);
        return fresh;
    };
    if store.left(place, now).is_some_and(|left| left < ttl_ms) {
        store.keep(place, life, now);
    }
    there
}

fn full(step: &'static str) -> Error {
    Error::new(ErrorKind::Rejected, step).with_source("a value is longer than all that is kept")
}

fn set(store: &mut Store, put: &Put, now: u64) -> Result<()> {
    let place = value(&put.key);
    if !store.takes(&place, &put.value) {
        return Err(full("cache.set"));
    }
    store.put(&place, put.value.clone(), put.ttl_ms, now);
    store.remove(&lease(&put.key), now);
    Ok(())
}

fn fill(store: &mut Store, put: &Put, token: Token, now: u64) -> Result<bool> {
    let (place, lease) = (value(&put.key), lease(&put.key));
    if store.get(&lease, now) != Some(of(token)) {
        let there = store.get(&place, now).and_then(|there| envelope::version_of(&there));
        return Ok(there.is_some() && there == envelope::version_of(&put.value));
    }
    if !store.takes(&place, &put.value) {
        return Err(full("cache.fill"));
    }
    store.put(&place, put.value.clone(), put.ttl_ms, now);
    store.remove(&lease, now);
    Ok(true)
}

fn count(there: impl Iterator<Item = bool>) -> u64 {
    there.map(u64::from).sum()
}

impl Backend for Embedded {
    fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    fn learn(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(Ok(())))
    }

    fn now_ms(&self) -> u64 {
        let (wall, at) = self.began;
        let now = wall.saturating_add(self.clock.now().saturating_since(at));
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Bytes>>> {
        self.sure(|store, now| store.get(&value(key), now))
    }

    fn fetch<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<Vec<Option<Bytes>>>> {
        self.sure(|store, now| keys.iter().map(|key| store.get(&value(key), now)).collect())
    }

    fn versions<'a>(&'a self, tags: &'a [Tag]) -> BoxFuture<'a, Result<Vec<Option<Version>>>> {
        self.sure(|store, now| {
            let version = |tag: &Tag| version(&store.get(&Place::Tag(tag.clone()), now)?);
            tags.iter().map(version).collect()
        })
    }

    fn capture<'a>(
        &'a self,
        tags: &'a [Tag],
        fresh: Version,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<Vec<Version>>> {
        self.sure(|store, now| {
            let places = tags.iter().cloned().map(Place::Tag);
            places.map(|place| captured(store, &place, fresh, ttl_ms, now)).collect()
        })
    }

    fn claim<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        seen: Option<Version>,
        lease_ms: u64,
    ) -> BoxFuture<'a, Result<Claimed>> {
        self.sure(|store, now| {
            if let Some(there) = store.get(&value(key), now) {
                let version = envelope::version_of(&there);
                if version.is_some() && version != seen {
                    return Claimed::Value(there);
                }
            }
            let lease = lease(key);
            match (store.get(&lease, now), store.left(&lease, now)) {
                (Some(theirs), Some(left_ms)) if theirs != of(token) => Claimed::Held { left_ms },
                _ => {
                    store.put(&lease, of(token), lease_ms, now);
                    Claimed::Mine
                }
            }
        })
    }

    fn renew<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        lease_ms: u64,
    ) -> BoxFuture<'a, Result<bool>> {
        self.sure(|store, now| {
            let lease = lease(key);
            let mine = store.get(&lease, now) == Some(of(token));
            if mine {
                store.keep(&lease, lease_ms, now);
            }
            mine
        })
    }

    fn holder<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Token>>> {
        self.sure(|store, now| {
            let there = store.get(&lease(key), now)?;
            there.as_ref().try_into().ok().map(Token)
        })
    }

    fn release<'a>(&'a self, key: &'a Key, token: Token) -> BoxFuture<'a, Result<bool>> {
        self.sure(|store, now| {
            let lease = lease(key);
            store.get(&lease, now) == Some(of(token)) && store.remove(&lease, now)
        })
    }

    fn fill<'a>(&'a self, put: &'a Put, token: Token) -> BoxFuture<'a, Result<bool>> {
        Box::pin(ready(self.step(|store, now| fill(store, put, token, now))))
    }

    fn set<'a>(&'a self, put: &'a Put) -> BoxFuture<'a, Result<()>> {
        Box::pin(ready(self.step(|store, now| set(store, put, now))))
    }

    fn set_many<'a>(&'a self, puts: &'a [Put]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(ready(
            self.step(|store, now| puts.iter().map(|put| set(store, put, now)).collect()),
        ))
    }

    fn invalidate<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<u64>> {
        self.sure(|store, now| {
            count(keys.iter().map(|key| {
                store.remove(&lease(key), now);
                store.remove(&value(key), now)
            }))
        })
    }

    fn expire<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<u64>> {
        self.sure(|store, now| {
            count(keys.iter().map(|key| {
                store.remove(&lease(key), now);
                let there = store.get(&value(key), now);
                let stale = there.and_then(|there| envelope::expired(&there));
                let found = stale.is_some();
                if let Some(stale) = stale {
                    store.replace(&value(key), stale, now);
                }
                found
            }))
        })
    }

    fn drop_if<'a>(&'a self, key: &'a Key, seen: &'a Bytes) -> BoxFuture<'a, Result<bool>> {
        self.sure(|store, now| {
            let head = |bytes: &Bytes| bytes.slice(..bytes.len().min(envelope::SEAL));
            let there = store.get(&value(key), now);
            let same =
                there.is_some_and(|there| there.len() == seen.len() && head(&there) == head(seen));
            same && store.remove(&value(key), now)
        })
    }

    fn untag<'a>(&'a self, tags: &'a [Tag]) -> BoxFuture<'a, Result<u64>> {
        self.sure(|store, now| {
            count(tags.iter().map(|tag| store.remove(&Place::Tag(tag.clone()), now)))
        })
    }

    fn nodes(&self) -> Vec<u16> {
        vec![0]
    }

    fn layout(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(ready(Ok(0)))
    }

    fn scan<'a>(&'a self, ns: &'a Name, _: u16, _: u64) -> BoxFuture<'a, Result<Scanned>> {
        self.sure(|store, now| {
            let keys = store.places(now).filter_map(|place| match place {
                Place::Value(key) | Place::Lease(key) if key.ns == *ns => Some(key.clone()),
                _ => None,
            });
            Scanned { keys: keys.collect(), next: 0 }
        })
    }

    fn mark(&self, _: u16, fresh: Version) -> BoxFuture<'_, Result<Version>> {
        self.sure(|store, now| captured(store, &Place::Mark, fresh, MARK_MS, now))
    }

    fn listen(&self) -> BoxFuture<'_, Result<Box<dyn Feed>>> {
        self.sure(|store, _| Box::new(store.listen()) as Box<dyn Feed>)
    }

    fn hear(&self) -> BoxFuture<'_, Result<Box<dyn Feed>>> {
        self.listen()
    }

    fn keep_hearing(&self) -> BoxFuture<'_, Result<bool>> {
        self.sure(|_, _| true)
    }
}
