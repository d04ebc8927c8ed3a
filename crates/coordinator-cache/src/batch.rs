//! Several keys at once: one round trip per node, and a loader that is asked for what is missing
//! alone.

use crate::{
    backend::{Key, Put, Version},
    bulk::Own,
    cache::{Cache, Core, Look},
    entry::{Entry, Hit},
    error::LoadError,
    flight::{Joined, Landed},
    queue::{Invalidated, Order},
};
use coordinator_core::{Error, Result};
use futures::future::{join, join_all};
use std::{collections::HashMap, error::Error as StdError, future::Future};

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
        // Once for all of them: what a tag stands for before any is written.
        let terms = self.terms(&Entry::new()).await;
        let sealed = join_all(values.iter().map(async |(key, value)| {
            let key = core.key(key.as_ref())?;
            let terms = terms.as_ref().map_err(Error::duplicate)?;
            core.seal(&key, terms.draft(value)).await
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
    /// What another call in this process loads at this moment is waited for, and whoever asks for
    /// one of these keys meanwhile waits for this load. A key that another instance loads is loaded
    /// here as well, and not stored.
    ///
    /// # Errors
    /// As [`get_or_load`](Self::get_or_load), and [`LoadError::Ended`] if another call that was to
    /// bring some of them was dropped or brought what was ended when this one's loader had been
    /// called, or what was found first was past its hard end when the last was loaded.
    ///
    /// # Cancel safety
    /// Dropping the future drops the loader; nothing is stored then, and whoever waited for it
    /// loads by himself.
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
        let Sorted { mut hits, mut missing, mut stale } = core.sort(keys).await?;
        let mut loader = Some(loader);
        let mut failed = Failed { names: Vec::new(), why: None };
        while !missing.is_empty() {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for (key, seen) in missing.drain(..) {
                match core.flights.join(key.key.as_str()) {
                    Joined::Pilot(pilot) => ours.push(Own { key, seen, pilot }),
                    Joined::Passenger(seat) => theirs.push((key, seen, seat)),
                }
            }
            let names: Vec<String> = ours.iter().map(|own| own.key.key.as_str().into()).collect();
            let waits = theirs.into_iter().map(async |(key, seen, seat)| {
                let landed = core.landed(&key, seat).await;
                (key, seen, landed)
            });
            let waits = join_all(waits.collect::<Vec<_>>());
            let (loaded, landed) = join(core.load_many(ours, &mut loader), waits).await;
            match loaded {
                Ok(loaded) => hits.extend(loaded),
                Err(error) => failed.note(names, error),
            }
            for (key, seen, landed) in landed {
                let name = key.key.as_str().to_owned();
                match landed {
                    Landed::Outcome(Ok(Some(hit))) => {
                        hits.insert(name, if hit.stale { core.give(hit) } else { hit });
                    }
                    Landed::Outcome(Ok(None)) | Landed::Missing => {}
                    Landed::Outcome(Err(error)) => failed.note([name], error),
                    Landed::Lost if loader.is_some() => missing.push((key, seen)),
                    Landed::Lost => failed.note([name], LoadError::Ended),
                }
            }
        }
        core.age(&mut hits, &mut failed);
        let Some(error) = failed.why else { return Ok(hits) };
        // All or none: a caller cannot tell what is missing from what is not there.
        for name in failed.names {
            let Some(hit) = core.in_grace(stale.remove(&name)) else { return Err(error) };
            hits.insert(name, core.give(hit));
        }
        Ok(hits)
    }
}

/// What could not be loaded of several keys, and why the first could not.
struct Failed {
    names: Vec<String>,
    why: Option<LoadError>,
}

impl Failed {
    fn note(&mut self, names: impl IntoIterator<Item = String>, why: LoadError) {
        self.names.extend(names);
        self.why.get_or_insert(why);
    }
}

/// What is there of several keys, and what is not.
struct Sorted<T> {
    hits: HashMap<String, Hit<T>>,
    /// Each once.
    missing: Vec<(Key, Option<Version>)>,
    stale: HashMap<String, Hit<T>>,
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
    /// What was found first may be past its time when the last is loaded.
    fn age(&self, hits: &mut HashMap<String, Hit<T>>, failed: &mut Failed) {
        let now = self.shared.backend.now_ms();
        let over: Vec<_> =
            hits.extract_if(|_, hit| hit.hard_ms <= now).map(|(name, _)| name).collect();
        if !over.is_empty() {
            failed.note(over, LoadError::Ended);
        }
        for hit in hits.values_mut().filter(|hit| !hit.stale && hit.soft_ms <= now) {
            hit.stale = true;
            *hit = self.give(hit.clone());
        }
    }

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
                    return Ok(slot.fresh().map_or(Found::Negative, Found::Hit));
                }
                let look = judged.next().expect("each that is not near was asked for")?;
                Ok(match look {
                    Look::Fresh(slot) => {
                        self.counts.far();
                        slot.fresh().map_or(Found::Negative, Found::Hit)
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

    /// Looks for several keys, without a server too: then all of them are missing.
    async fn sort<K: AsRef<str>>(&self, keys: &[K]) -> Result<Sorted<T>, LoadError> {
        let found = match self.find(keys).await {
            Ok(found) => found,
            Err(error) if error.is_retryable() => {
                keys.iter().map(|_| Found::Absent(None)).collect()
            }
            Err(error) => return Err(error.into()),
        };
        let (mut hits, mut missing, mut stale) = (HashMap::new(), Vec::new(), HashMap::new());
        for (key, found) in keys.iter().zip(found) {
            let name = key.as_ref();
            match found {
                Found::Hit(hit) => drop(hits.insert(name.to_owned(), hit)),
                Found::Negative => {}
                Found::Stale(hit) => {
                    missing.push((self.key(name)?, hit.version));
                    stale.insert(name.to_owned(), hit);
                }
                Found::Absent(version) => missing.push((self.key(name)?, version)),
            }
        }
        missing.sort_by(|(a, _), (b, _)| a.key.as_str().cmp(b.key.as_str()));
        missing.dedup_by(|(a, _), (b, _)| a.key == b.key);
        Ok(Sorted { hits, missing, stale })
    }
}
