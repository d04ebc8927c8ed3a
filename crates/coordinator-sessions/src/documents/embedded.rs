//! The adapter in process: the executable specification of the scripts.

use super::backend::{
    Backend, Item, LAST_TTL_MS, Listed, Past, Place, SWEPT, Slice, Stored, TRIMMED, Token, Write,
    Wrote,
};
use crate::{
    embedded::Embedded,
    store::{Blob, Tx},
};
use coordinator_core::{BoxFuture, Error, ErrorKind, Result, clock::Clock, key::Name};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A value with its version, as it is stored, now or formerly.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u64,
    updated_us: u64,
    data: Blob,
}

/// What became of a write, for when it is delivered again.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    version: u64,
    updated_us: u64,
    until_ms: u64,
}

/// The keys of a document, as on a server, behind the part's letter.
struct Keys {
    doc: String,
    past: String,
    names: String,
    ends: String,
    last: String,
}

impl Keys {
    fn of(place: &Place) -> Self {
        let (shard, key) = (place.shard, place.key());
        Self {
            doc: format!("d{shard}:doc:{key}"),
            past: format!("d{shard}:past:{key}"),
            names: names(shard, &place.namespace),
            ends: ends(shard, &place.namespace),
            last: format!("d{shard}:last"),
        }
    }
}

fn names(shard: u16, namespace: &Name) -> String {
    format!("d{shard}:names:{}", namespace.encoded())
}

fn ends(shard: u16, namespace: &Name) -> String {
    format!("d{shard}:ends:{}", namespace.encoded())
}

fn once(place: &Place, token: &Token) -> String {
    format!("d{}:once:{}:{}", place.shard, place.key(), token.id.encoded())
}

/// Takes some names that have ended out of the index.
fn trim(tx: &mut Tx<'_>, names: &str, ends: &str, some: usize) -> Result<()> {
    for (name, end) in tx.ranked(ends, (i64::MIN, ""), some)? {
        if end < tx.now_ms() {
            tx.unrank(names, &name)?;
            tx.unrank(ends, &name)?;
        }
    }
    Ok(())
}

fn signed(ms: u64) -> i64 {
    ms.try_into().unwrap_or(i64::MAX)
}

fn unsigned(ms: i64) -> u64 {
    ms.try_into().unwrap_or(0)
}

fn after(tx: &Tx<'_>, ttl_ms: u64) -> i64 {
    tx.now_ms().saturating_add(signed(ttl_ms))
}

fn put(tx: &mut Tx<'_>, place: &Place, write: &Write) -> Result<Wrote> {
    let (keys, once) = (Keys::of(place), once(place, &write.token));
    if let Some(Mark { version, updated_us, until_ms }) = tx.get(&once)? {
        return Ok(Wrote::Stored { version, updated_us, until_ms });
    }
    let before: Option<Record> = tx.get(&keys.doc)?;
    let current = before.as_ref().map(|before| before.version);
    if !write.condition.holds(current) {
        return Ok(Wrote::Conflict(current));
    }
    let updated_us = unsigned(tx.now_us());
    let last: u64 = tx.get(&keys.last)?.unwrap_or(0);
    let version = updated_us.max(last + 1).max(current.map_or(0, |current| current + 1));
    let kept = if write.keep_ttl { tx.until(&keys.doc)? } else { None };
    let until = kept.map_or(after(tx, write.ttl_ms), |kept| kept.max(after(tx, 1)));

    let mut past: Vec<Record> = tx.get(&keys.past)?.unwrap_or_default();
    if let Some(before) = before {
        past.insert(0, before);
    }
    past.truncate(write.history.try_into().unwrap_or(usize::MAX));
    if past.is_empty() {
        tx.remove(&keys.past)?;
    } else {
        tx.put(&keys.past, &past, Some(until))?;
    }
    let record = Record { version, updated_us, data: Blob(write.data.to_vec()) };
    tx.put(&keys.doc, &record, Some(until))?;
    trim(tx, &keys.names, &keys.ends, TRIMMED)?;
    tx.rank(&keys.names, place.name.encoded(), 0)?;
    tx.rank(&keys.ends, place.name.encoded(), until)?;
    tx.put(&keys.last, &version, Some(after(tx, LAST_TTL_MS)))?;
    let until_ms = unsigned(until);
    let mark = Mark { version, updated_us, until_ms };
    tx.put(&once, &mark, Some(after(tx, write.token.ttl_ms)))?;
    Ok(Wrote::Stored { version, updated_us, until_ms })
}

fn get(tx: &Tx<'_>, place: &Place) -> Result<Option<Stored>> {
    let keys = Keys::of(place);
    let Some(record) = tx.get::<Record>(&keys.doc)? else { return Ok(None) };
    let left = tx.until(&keys.doc)?.map(|until| unsigned(until - tx.now_ms()));
    let past: Vec<Record> = tx.get(&keys.past)?.unwrap_or_default();
    Ok(Some(Stored {
        version: record.version,
        updated_us: record.updated_us,
        left_ms: left,
        former: past.len() as u64,
        data: record.data.0,
    }))
}

fn history(tx: &Tx<'_>, place: &Place, limit: u64) -> Result<Vec<Past>> {
    let past: Vec<Record> = tx.get(&Keys::of(place).past)?.unwrap_or_default();
    let limit = limit.try_into().unwrap_or(usize::MAX);
    let past = past.into_iter().take(limit).map(|Record { version, updated_us, data }| Past {
        version,
        updated_us,
        data: data.0,
    });
    Ok(past.collect())
}

fn extend(tx: &mut Tx<'_>, place: &Place, ttl_ms: u64) -> Result<Option<u64>> {
    let keys = Keys::of(place);
    let Some(record) = tx.get::<Record>(&keys.doc)? else { return Ok(None) };
    let before = tx.until(&keys.doc)?.unwrap_or(0);
    let until = after(tx, ttl_ms).max(before);
    if until > before {
        tx.put(&keys.doc, &record, Some(until))?;
        if let Some(past) = tx.get::<Vec<Record>>(&keys.past)? {
            tx.put(&keys.past, &past, Some(until))?;
        }
        tx.rank(&keys.ends, place.name.encoded(), until)?;
    }
    Ok(Some(unsigned(until)))
}

fn delete(tx: &mut Tx<'_>, place: &Place, token: &Token) -> Result<bool> {
    let (keys, once) = (Keys::of(place), once(place, token));
    if tx.until(&once)?.is_some() {
        return Ok(true);
    }
    let deleted = tx.remove(&keys.doc)?;
    tx.remove(&keys.past)?;
    tx.unrank(&keys.names, place.name.encoded())?;
    tx.unrank(&keys.ends, place.name.encoded())?;
    if deleted {
        let until = after(tx, token.ttl_ms);
        tx.put(&once, &Mark { version: 0, updated_us: 0, until_ms: 0 }, Some(until))?;
    }
    Ok(deleted)
}

fn list(tx: &mut Tx<'_>, slice: &Slice) -> Result<Listed> {
    let (shard, prefix) = (slice.shard, slice.prefix.as_str());
    let (names, ends) = (names(shard, &slice.namespace), ends(shard, &slice.namespace));
    trim(tx, &names, &ends, SWEPT)?;
    let from = if slice.after.as_str() > prefix { slice.after.as_str() } else { prefix };
    let mut found = tx.ranked(&names, (0, from), slice.limit)?;
    // The name that is the prefix itself stands before what is ranked behind it.
    if from == prefix && from != slice.after && tx.score(&names, from)?.is_some() {
        found.insert(0, (from.to_owned(), 0));
        found.truncate(slice.limit);
    }
    found.retain(|(name, _)| name.starts_with(prefix));
    let more = found.len() == slice.limit;
    let mut items = Vec::new();
    for (name, _) in found {
        let place = format!("d{shard}:doc:{}:{name}", slice.namespace.encoded());
        let (version, updated_us, bytes) = match tx.get::<Record>(&place) {
            Ok(Some(record)) => (record.version, record.updated_us, record.data.0.len() as u64),
            Ok(None) => {
                tx.unrank(&names, &name)?;
                tx.unrank(&ends, &name)?;
                continue;
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => (0, 0, 0),
            Err(error) => return Err(error),
        };
        let left_ms = tx.until(&place)?.map(|until| unsigned(until - tx.now_ms()));
        items.push(Item { name, version, updated_us, left_ms, bytes });
    }
    Ok(Listed { items, more })
}

/// A step of documents names itself, not the store below it.
fn told<T>(step: &'static str, done: Result<T>) -> Result<T> {
    done.map_err(|error| Error::new(error.kind(), step).with_source(error))
}

impl Backend for Embedded {
    fn clock(&self) -> &Arc<dyn Clock> {
        self.store.clock()
    }

    fn put<'a>(&'a self, place: &'a Place, write: &'a Write) -> BoxFuture<'a, Result<Wrote>> {
        let (place, write) = (place.clone(), write.clone());
        Box::pin(async move {
            told("sessions.doc_put", self.store.step(move |tx| put(tx, &place, &write)).await)
        })
    }

    fn get<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<Option<Stored>>> {
        let place = place.clone();
        Box::pin(async move {
            told("sessions.doc_get", self.store.step(move |tx| get(tx, &place)).await)
        })
    }

    fn history<'a>(&'a self, place: &'a Place, limit: u64) -> BoxFuture<'a, Result<Vec<Past>>> {
        let place = place.clone();
        Box::pin(async move {
            told(
                "sessions.doc_history",
                self.store.step(move |tx| history(tx, &place, limit)).await,
            )
        })
    }

    fn extend<'a>(&'a self, place: &'a Place, ttl_ms: u64) -> BoxFuture<'a, Result<Option<u64>>> {
        let place = place.clone();
        Box::pin(async move {
            told("sessions.doc_extend", self.store.step(move |tx| extend(tx, &place, ttl_ms)).await)
        })
    }

    fn delete<'a>(&'a self, place: &'a Place, token: &'a Token) -> BoxFuture<'a, Result<bool>> {
        let (place, token) = (place.clone(), token.clone());
        Box::pin(async move {
            told("sessions.doc_delete", self.store.step(move |tx| delete(tx, &place, &token)).await)
        })
    }

    fn list<'a>(&'a self, slice: &'a Slice) -> BoxFuture<'a, Result<Listed>> {
        let slice = slice.clone();
        Box::pin(async move {
            told("sessions.doc_list", self.store.step(move |tx| list(tx, &slice)).await)
        })
    }

    fn count<'a>(&'a self, namespace: &'a Name, shard: u16) -> BoxFuture<'a, Result<u64>> {
        let ends = ends(shard, namespace);
        Box::pin(async move {
            let count = self.store.step(move |tx| tx.count_from(&ends, tx.now_ms()));
            told("sessions.doc_count", count.await)
        })
    }
}
