//! Several keys at once: one round trip per node, and a loader that is asked for what is missing
//! alone.

use crate::{
    backend::{Backend, Claimed, Key, Put, Token, Version},
    cache::{Cache, Core, Draft, Look, ms},
    entry::{Entry, Hit},
    error::LoadError,
    loader::Kept,
    queue::{Invalidated, Order},
    tasks,
};
use coordinator_core::Result;
use futures::{
    FutureExt as _,
    future::{Either, join_all, select},
};
use std::{
    collections::HashMap, error::Error as StdError, future::Future, panic::AssertUnwindSafe,
    sync::Arc,
};

impl<T> Cache<T>
where
    T: Send + Sync + 'static,
{
    /// The values of several keys, in their order, those that are given twice included.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn get_many<K: AsRef<str>>(&self, keys: &[K]) -> Result<Vec<Option<Hit<T>>>> {
        Ok(self.core.find(keys).await?.into_iter().map(Found::hit).collect())
    }

    /// Stores several values, each with its own outcome, in their order. Of two for one key the
    /// later one stays.
    ///
    /// # Errors
    /// None of its own.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open which are stored.
    pub async fn set_many<K: AsRef<str>>(&self, values: &[(K, &T)]) -> Vec<Result<()>> {
        let core = &self.core;
        let entry = Entry::new();
        let sealed = join_all(values.iter().map(async |(key, value)| {
            let key = core.key(key.as_ref())?;
            self.put(&key, value, &entry).await
        }));
        let mut outcomes = Vec::new();
        let (mut puts, mut places) = (Vec::new(), Vec::new());
        for (place, put) in sealed.await.into_iter().enumerate() {
            outcomes.push(put.map(|put: Put| {
                core.forget(&put.key);
                puts.push(put);
                places.push(place);
            }));
        }
        for (place, stored) in places.into_iter().zip(core.shared.backend.set_many(&puts).await) {
            outcomes[place] = stored;
        }
        core.forget_all(puts.iter().map(|put| &put.key));
        outcomes
    }

    /// Ends several values at once: see [`invalidate`](Self::invalidate).
    ///
    /// # Errors
    /// As [`invalidate`](Self::invalidate).
    ///
    /// # Cancel safety
    /// As [`invalidate`](Self::invalidate).
    pub async fn invalidate_many<K: AsRef<str>>(&self, keys: &[K]) -> Result<Invalidated> {
        let core = &self.core;
        let keys: Vec<Key> =
            keys.iter().map(|key| core.key(key.as_ref())).collect::<Result<_>>()?;
        core.forget_all(&keys);
        let outcome = core.shared.backend.invalidate(&keys).await;
        core.forget_all(&keys);
        match outcome {
            Ok(count) => Ok(Invalidated::Done(count)),
            Err(error) if error.is_retryable() => {
                let orders = keys.into_iter().map(Order::Key).collect();
                core.shared.queue.later(orders, error)
            }
            Err(error) => Err(error),
        }
    }

    /// The values of several keys by key, those that are missing loaded together: the loader is
    /// called once, with these alone, each once; what it does not bring is absent. Not at all if
    /// nothing is missing.
    ///
    /// A key that another instance loads at this moment is loaded here as well, and not stored.
    ///
    /// # Errors
    /// As [`get_or_load`](Self::get_or_load).
    ///
    /// # Cancel safety
    /// Dropping the future drops the loader; nothing is stored then.
    pub async fn get_or_load_many<K, F, L, E>(
        &self,
        keys: &[K],
        loader: F,
    ) -> Result<HashMap<String, Hit<T>>, LoadError>
    where
        K: AsRef<str>,
        F: FnOnce(Vec<String>) -> L + Send,
        L: Future<Output = Result<HashMap<String, T>, E>> + Send,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let core = &self.core;
        let mut hits = HashMap::new();
        let mut missing: Vec<(Key, Option<Version>)> = Vec::new();
        let mut stale = HashMap::new();
        let found = match core.find(keys).await {
            Ok(found) => found,
            // Without a server all are loaded.
            Err(error) if error.is_retryable() => {
                keys.iter().map(|_| Found::Absent(None)).collect()
            }
            Err(error) => return Err(error.into()),
        };
        for (key, found) in keys.iter().zip(found) {
            let name = key.as_ref();
            match found {
                Found::Hit(hit) => drop(hits.insert(name.to_owned(), hit)),
                Found::Negative => {}
                Found::Stale(hit) => {
                    missing.push((core.key(name)?, hit.version));
                    stale.insert(name.to_owned(), hit);
                }
                Found::Absent(version) => missing.push((core.key(name)?, version)),
            }
        }
        missing.sort_by(|(a, _), (b, _)| a.key.as_str().cmp(b.key.as_str()));
        missing.dedup_by(|(a, _), (b, _)| a.key == b.key);
        if missing.is_empty() {
            return Ok(hits);
        }
        match core.load_many(&missing, loader).await {
            Ok(loaded) => hits.extend(loaded),
            Err(error) => {
                // All or none: a caller cannot tell what is missing from what is not there.
                for (key, _) in &missing {
                    let hit = core.in_grace(stale.remove(key.key.as_str()));
                    let Some(hit) = hit else { return Err(error) };
                    hits.insert(key.key.as_str().to_owned(), core.give(hit));
                }
            }
        }
        Ok(hits)
    }
}

/// Leases that are given up when whoever loads stops.
struct Held {
    backend: Arc<dyn Backend>,
    token: Token,
    keys: Vec<Key>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.keys.is_empty() || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (backend, token, keys) = (self.backend.clone(), self.token, self.keys.split_off(0));
        tasks::spawn(async move {
            let _ = join_all(keys.iter().map(|key| backend.release(key, token))).await;
        });
    }
}

/// What was found for one of several keys.
enum Found<T> {
    Hit(Hit<T>),
    Negative,
    Stale(Hit<T>),
    Absent(Option<Version>),
}

impl<T> Found<T> {
    fn hit(self) -> Option<Hit<T>> {
        match self {
            Self::Hit(hit) => Some(hit),
            _ => None,
        }
    }
}

impl<T> Core<T>
where
    T: Send + Sync + 'static,
{
    /// Looks for several keys, here first.
    async fn find<K: AsRef<str>>(&self, keys: &[K]) -> Result<Vec<Found<T>>> {
        let near: Vec<_> = keys.iter().map(|key| self.near(key.as_ref())).collect();
        let mut asked = Vec::new();
        for (key, slot) in keys.iter().zip(&near) {
            if slot.is_none() {
                asked.push(self.key(key.as_ref())?);
            }
        }
        if self.near.is_some() && !asked.is_empty() {
            self.shared.watch.begin().await;
        }
        self.shared.backend.learn().await?;
        let tickets: Vec<_> = asked.iter().map(|key| self.ticket(key)).collect();
        let read =
            if asked.is_empty() { Vec::new() } else { self.shared.backend.fetch(&asked).await? };
        let judged =
            join_all(asked.iter().zip(read).zip(tickets).map(async |((key, bytes), ticket)| {
                match bytes {
                    Some(bytes) => self.judge(key, bytes, ticket).await,
                    None => Ok(Look::Absent),
                }
            }));
        let mut judged = judged.await.into_iter();
        near.into_iter()
            .map(|slot| {
                if let Some(slot) = slot {
                    self.counts.near();
                    return Ok(slot.hit(false).map_or(Found::Negative, Found::Hit));
                }
                let look = judged.next().expect("each that is not near was asked for")?;
                Ok(match look {
                    Look::Fresh(slot) => {
                        self.counts.far();
                        slot.hit(false).map_or(Found::Negative, Found::Hit)
                    }
                    Look::Stale(slot) => {
                        self.counts.miss();
                        let version = slot.version;
                        slot.hit(true).map_or(Found::Absent(Some(version)), Found::Stale)
                    }
                    Look::Dead(version) => {
                        self.counts.miss();
                        Found::Absent(version)
                    }
                    Look::Absent => {
                        self.counts.miss();
                        Found::Absent(None)
                    }
                })
            })
            .collect()
    }

    /// Loads several keys at once, and stores those whose lease was had.
    async fn load_many<F, L, E>(
        &self,
        missing: &[(Key, Option<Version>)],
        loader: F,
    ) -> Result<HashMap<String, Hit<T>>, LoadError>
    where
        F: FnOnce(Vec<String>) -> L + Send,
        L: Future<Output = Result<HashMap<String, T>, E>> + Send,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let backend = &self.shared.backend;
        let tags = self.tags(&[])?;
        let token = Token::random();
        let mut held = Held { backend: backend.clone(), token, keys: Vec::new() };
        // A batch is not renewed: its lease lasts for as long as its loader may take.
        let lease_ms = ms(self.options.lease.max(self.options.hard));
        let claims = join_all(missing.iter().map(async |(key, seen)| {
            matches!(backend.claim(key, token, *seen, lease_ms).await, Ok(Claimed::Mine))
        }));
        // Before they are asked for: a claim whose answer is lost was perhaps made.
        held.keys = missing.iter().map(|(key, _)| key.clone()).collect();
        let mine = claims.await;
        let kept = Kept::of(&self.options);
        let captured = self.capture(tags, kept.ttl.saturating_add(kept.stale)).await;
        let (began, loaded_ms) = (backend.clock().now(), backend.now_ms());
        self.counts.load();
        let names = missing.iter().map(|(key, _)| key.key.as_str().to_owned()).collect();
        let load = AssertUnwindSafe(async move { loader(names).await }).catch_unwind();
        let loaded =
            match select(std::pin::pin!(load), backend.clock().sleep(self.options.hard)).await {
                Either::Left((Ok(Ok(loaded)), _)) => Ok(loaded),
                Either::Left((Ok(Err(error)), _)) => Err(LoadError::loader(error)),
                Either::Left((Err(_panic), _)) => Err(LoadError::Panicked),
                Either::Right(_) => Err(LoadError::TimedOut(self.options.hard)),
            };
        let load = backend.clock().now().saturating_since(began);
        if loaded.is_err() {
            self.counts.failed();
        }
        let values = loaded.as_ref().ok();
        let _ = join_all(missing.iter().zip(mine).filter(|(_, mine)| *mine).map(
            async |((key, _), _)| {
                let value = values.and_then(|values| values.get(key.key.as_str()));
                let (Some(value), Ok(tags)) = (value, &captured) else {
                    let _ = backend.release(key, token).await;
                    return;
                };
                let (ttl, stale, tags) = (kept.ttl, kept.stale, tags.clone());
                let draft = Draft { value: Some(value), ttl, stale, loaded_ms, load, tags };
                match self.seal(key, draft).await {
                    Ok(put) => {
                        if let Ok(false) = backend.fill(&put, token).await {
                            self.counts.refused();
                        }
                    }
                    Err(_) => drop(backend.release(key, token).await),
                }
            },
        ))
        .await;
        held.keys.clear();
        let wanted = |name: &String| missing.iter().any(|(key, _)| key.key.as_str() == name);
        Ok(loaded?
            .into_iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, value)| (name, Hit::loaded(value, loaded_ms)))
            .collect())
    }
}
