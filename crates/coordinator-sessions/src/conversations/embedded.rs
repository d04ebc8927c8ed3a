//! The adapter in process: the executable specification of the scripts.

use super::{
    backend::{
        Added, Backend, Batch, Cover, Edit, FIELDS, Head, Index, Item, Kept, Link, Listed, PENDING,
        Parts, Place, SHARDS, Seen,
    },
    window::{Linked, leaving},
};
use crate::{
    embedded::Embedded,
    store::{Blob, Tx},
};
use coordinator_core::{BoxFuture, Error, Result, codec, key::Name};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// How many keys of appends are remembered.
const KEYS: usize = 128;
/// How many that have ended leave an index with each change.
const SWEPT: usize = 16;

/// All but the lists.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Talk {
    ends: i64,
    born: i64,
    last: u64,
    tokens: u64,
    evicted: u64,
    evicted_tokens: u64,
    floor: u64,
    covered: u64,
    lost: u64,
    summary_tokens: u64,
    paused: Option<(i64, Blob)>,
    summary: Option<Blob>,
    fields: BTreeMap<String, Blob>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Said {
    sequence: u64,
    tokens: u32,
    calls: Vec<Link>,
    answers: Option<Link>,
    body: Blob,
}

/// A key of an append, and what it appended.
#[derive(Debug, Serialize, Deserialize)]
struct Once {
    key: Blob,
    first: u64,
    count: u64,
}

/// A conversation in a transaction.
struct Open<'a> {
    place: &'a Place,
    /// Whether it was there.
    there: bool,
    talk: Talk,
    said: Vec<Said>,
    gone: Vec<Said>,
}

impl Said {
    fn new(item: Item, sequence: u64) -> Self {
        let Item { tokens, calls, answers, body } = item;
        Self { sequence, tokens, calls, answers, body: Blob(body) }
    }

    fn linked(&self) -> Linked<'_> {
        Linked { tokens: self.tokens, calls: &self.calls, answers: self.answers }
    }

    /// As it is handed out, if it is what was written.
    fn kept(&self) -> Result<Kept> {
        codec::unwrap(&self.body.0)?;
        let body = self.body.0.clone();
        Ok(Kept { sequence: self.sequence, tokens: self.tokens, body })
    }
}

fn kept(said: &[Said]) -> Result<Vec<Kept>> {
    said.iter().map(Said::kept).collect()
}

fn key(kind: &str, place: &Place) -> String {
    format!("m:{}:{kind}:{}", place.shard, place.id.encoded())
}

fn index_key(index: Index<'_>) -> String {
    match index {
        Index::All(shard) => format!("m:{shard}:all"),
        Index::Of(user) => format!("m:{}:of:{}", user.shard(SHARDS), user.encoded()),
    }
}

fn ms(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX / 2).max(1)
}

fn since(from: i64, to: i64) -> u64 {
    u64::try_from(to - from).unwrap_or(0)
}

fn length(list: &[impl Sized]) -> u64 {
    u64::try_from(list.len()).unwrap_or(u64::MAX)
}

impl<'a> Open<'a> {
    fn load(tx: &Tx<'_>, place: &'a Place) -> Result<Self> {
        let talk: Option<Talk> = tx.get(&key("talk", place))?;
        let there = talk.is_some();
        let talk = talk.unwrap_or_else(|| Talk { born: tx.now_ms(), ..Talk::default() });
        let said: Vec<Said> = tx.get(&key("said", place))?.unwrap_or_default();
        let gone: Vec<Said> = tx.get(&key("gone", place))?.unwrap_or_default();
        let whole =
            length(&said) == talk.last - talk.evicted && length(&gone) == talk.evicted - talk.floor;
        if !whole {
            return Err(Error::corrupt("store", "a part of the conversation was deleted"));
        }
        Ok(Self { place, there, talk, said, gone })
    }

    fn head(&self, now: i64) -> Head {
        let talk = &self.talk;
        Head {
            ends_in_ms: since(now, talk.ends),
            age_ms: since(talk.born, now),
            last: talk.last,
            tokens: talk.tokens,
            evicted: talk.evicted,
            evicted_tokens: talk.evicted_tokens,
            floor: talk.floor,
            covered: talk.covered,
            lost: talk.lost,
            summary_tokens: talk.summary_tokens,
        }
    }

    /// Writes all but the lists; a conversation that was not there lives from now on.
    fn put(&mut self, tx: &mut Tx<'_>, ttl: Duration) -> Result<()> {
        if !self.there {
            self.talk.ends = tx.now_ms() + ms(ttl);
            self.enlist(tx)?;
        }
        tx.put(&key("talk", self.place), &self.talk, Some(self.talk.ends))
    }

    fn put_window(&self, tx: &mut Tx<'_>) -> Result<()> {
        put_list(tx, &key("said", self.place), &self.said, self.talk.ends)
    }

    fn put_pending(&self, tx: &mut Tx<'_>) -> Result<()> {
        put_list(tx, &key("gone", self.place), &self.gone, self.talk.ends)
    }

    /// Has the indexes know until when it lives.
    fn enlist(&self, tx: &mut Tx<'_>) -> Result<()> {
        for index in indexes(self.place) {
            tx.rank(&index, self.place.id.encoded(), self.talk.ends)?;
            let past = tx.ranked(&index, (i64::MIN, ""), SWEPT)?;
            for (id, ends) in past {
                if ends < tx.now_ms() {
                    tx.unrank(&index, &id)?;
                }
            }
        }
        Ok(())
    }
}

fn indexes(place: &Place) -> Vec<String> {
    let of = place.user.as_ref().map(|user| index_key(Index::Of(user)));
    [index_key(Index::All(place.shard))].into_iter().chain(of).collect()
}

fn put_list<T: Serialize>(tx: &mut Tx<'_>, key: &str, list: &[T], ends: i64) -> Result<()> {
    if list.is_empty() {
        return tx.remove(key).map(drop);
    }
    tx.put(key, &list, Some(ends))
}

fn append(tx: &mut Tx<'_>, place: &Place, batch: Batch) -> Result<Added> {
    let now = tx.now_ms();
    let mut open = Open::load(tx, place)?;
    let mut keys: Vec<Once> = tx.get(&key("keys", place))?.unwrap_or_default();
    if !batch.key.is_empty()
        && let Some(once) = keys.iter().find(|once| once.key.0 == batch.key)
    {
        let (first, count) = (once.first, once.count);
        return Ok(Added::Before {
            head: open.head(now),
            first,
            count,
            pending: kept(&open.gone)?,
        });
    }
    if let Some((from, reason)) = &open.talk.paused {
        return Ok(Added::Paused { for_ms: since(*from, now), reason: reason.0.clone() });
    }
    let (first, count) = (open.talk.last + 1, length(&batch.items));
    let held = open.said.len();
    let mut all = std::mem::take(&mut open.said);
    for item in batch.items {
        open.talk.last += 1;
        open.talk.tokens += u64::from(item.tokens);
        all.push(Said::new(item, open.talk.last));
    }
    let linked: Vec<_> = all.iter().map(Said::linked).collect();
    let leaves = leaving(&linked, held, batch.window, batch.budget);
    let mut evicted = Vec::new();
    for (said, leaves) in all.into_iter().zip(leaves) {
        if leaves {
            evicted.push(said.kept()?);
            open.talk.evicted_tokens += u64::from(said.tokens);
            open.gone.push(said);
        } else {
            open.said.push(said);
        }
    }
    open.talk.evicted += length(&evicted);
    let over = open.gone.len().saturating_sub(PENDING);
    open.talk.floor += length(&open.gone[..over]);
    open.talk.lost += length(&open.gone[..over]);
    open.gone.drain(..over);
    open.talk.ends = open.talk.ends.max(now + ms(batch.ttl));
    open.there = true;
    open.put(tx, batch.ttl)?;
    open.put_window(tx)?;
    open.put_pending(tx)?;
    if !batch.key.is_empty() {
        keys.drain(..keys.len().saturating_sub(KEYS - 1));
        keys.push(Once { key: Blob(batch.key), first, count });
    }
    put_list(tx, &key("keys", place), &keys, open.talk.ends)?;
    open.enlist(tx)?;
    Ok(Added::Now { head: open.head(now), first, count, evicted })
}

fn summarise(tx: &mut Tx<'_>, place: &Place, cover: Cover) -> Result<(bool, Head)> {
    let now = tx.now_ms();
    let mut open = Open::load(tx, place)?;
    let Cover { after, up_to, tokens, text, ttl } = cover;
    let talk = &mut open.talk;
    if talk.covered == up_to && talk.summary.as_ref().is_some_and(|known| known.0 == text) {
        return Ok((true, open.head(now)));
    }
    if after < talk.covered || after > talk.floor || up_to < after || up_to > talk.evicted {
        return Ok((false, open.head(now)));
    }
    // What was dropped as too old since it was read is not lost, then.
    talk.lost -= talk.floor.min(up_to) - after;
    let covered = up_to.saturating_sub(talk.floor);
    talk.floor += covered;
    talk.covered = up_to;
    talk.summary = Some(Blob(text));
    talk.summary_tokens = tokens.into();
    open.gone.drain(..usize::try_from(covered).unwrap_or(usize::MAX));
    open.put(tx, ttl)?;
    open.put_pending(tx)?;
    Ok((true, open.head(now)))
}

fn edit(tx: &mut Tx<'_>, place: &Place, edit: Edit) -> Result<Option<u64>> {
    let mut open = Open::load(tx, place)?;
    let fields = &mut open.talk.fields;
    let before = fields.len();
    for (name, value) in edit.set {
        fields.insert(name, Blob(value));
    }
    // Removing alone makes no conversation.
    let changes = open.there || !fields.is_empty();
    for name in &edit.remove {
        fields.remove(name);
    }
    let after = fields.len();
    if after > before && after > FIELDS {
        return Ok(Some(u64::try_from(before).unwrap_or(u64::MAX)));
    }
    if changes {
        open.put(tx, edit.ttl)?;
    }
    Ok(None)
}

fn pause(tx: &mut Tx<'_>, place: &Place, reason: Vec<u8>, ttl: Duration) -> Result<bool> {
    let mut open = Open::load(tx, place)?;
    let before = open.talk.paused.as_ref().map(|(from, _)| *from);
    open.talk.paused = Some((before.unwrap_or(tx.now_ms()), Blob(reason)));
    open.put(tx, ttl)?;
    Ok(before.is_none())
}

fn resume(tx: &mut Tx<'_>, place: &Place) -> Result<bool> {
    let mut open = Open::load(tx, place)?;
    if open.talk.paused.take().is_none() {
        return Ok(false);
    }
    open.put(tx, Duration::ZERO)?;
    Ok(true)
}

fn extend(tx: &mut Tx<'_>, place: &Place, ttl: Duration) -> Result<Option<u64>> {
    let now = tx.now_ms();
    let mut open = Open::load(tx, place)?;
    if !open.there {
        return Ok(None);
    }
    open.talk.ends = open.talk.ends.max(now + ms(ttl));
    open.put(tx, ttl)?;
    open.put_window(tx)?;
    open.put_pending(tx)?;
    let keys: Vec<Once> = tx.get(&key("keys", place))?.unwrap_or_default();
    put_list(tx, &key("keys", place), &keys, open.talk.ends)?;
    open.enlist(tx)?;
    Ok(Some(since(now, open.talk.ends)))
}

fn delete(tx: &mut Tx<'_>, place: &Place) -> Result<bool> {
    let mut there = false;
    for kind in ["talk", "said", "gone", "keys"] {
        there |= tx.remove(&key(kind, place))?;
    }
    for index in indexes(place) {
        tx.unrank(&index, place.id.encoded())?;
    }
    Ok(there)
}

fn show(tx: &Tx<'_>, place: &Place, parts: Parts) -> Result<Option<Seen>> {
    let open = Open::load(tx, place)?;
    if !open.there {
        return Ok(None);
    }
    let now = tx.now_ms();
    let head = open.head(now);
    let Talk { paused, summary, fields, .. } = open.talk;
    let fields = if parts.fields { fields } else { BTreeMap::new() };
    Ok(Some(Seen {
        head,
        paused: paused.map(|(from, reason)| (since(from, now), reason.0)),
        summary: summary.map(|summary| summary.0).unwrap_or_default(),
        fields: fields.into_iter().map(|(name, value)| (name, value.0)).collect(),
        window: if parts.window { kept(&open.said)? } else { Vec::new() },
        pending: if parts.pending { kept(&open.gone)? } else { Vec::new() },
    }))
}

fn list(
    tx: &Tx<'_>,
    index: &str,
    after: Option<(i64, String)>,
    limit: usize,
) -> Result<Vec<Listed>> {
    let now = tx.now_ms();
    let after = after.filter(|(ends, _)| *ends >= now).unwrap_or((now, String::new()));
    let found = tx.ranked(index, (after.0, &after.1), limit)?;
    let found = found.into_iter().map(|(id, ends)| {
        let (ends_ms, ends_in_ms) = (since(0, ends), since(now, ends));
        Ok(Listed { id: Name::decode(&id)?, ends_ms, ends_in_ms })
    });
    found.collect()
}

impl Backend for Embedded {
    fn append<'a>(&'a self, place: &'a Place, batch: &'a Batch) -> BoxFuture<'a, Result<Added>> {
        let (place, batch) = (place.clone(), batch.clone());
        Box::pin(self.store.step(move |tx| append(tx, &place, batch)))
    }

    fn summarise<'a>(
        &'a self,
        place: &'a Place,
        cover: &'a Cover,
    ) -> BoxFuture<'a, Result<(bool, Head)>> {
        let (place, cover) = (place.clone(), cover.clone());
        Box::pin(self.store.step(move |tx| summarise(tx, &place, cover)))
    }

    fn edit<'a>(
        &'a self,
        place: &'a Place,
        changes: &'a Edit,
    ) -> BoxFuture<'a, Result<Option<u64>>> {
        let (place, changes) = (place.clone(), changes.clone());
        Box::pin(self.store.step(move |tx| edit(tx, &place, changes)))
    }

    fn pause<'a>(
        &'a self,
        place: &'a Place,
        reason: &'a [u8],
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool>> {
        let (place, reason) = (place.clone(), reason.to_vec());
        Box::pin(self.store.step(move |tx| pause(tx, &place, reason, ttl)))
    }

    fn resume<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<bool>> {
        let place = place.clone();
        Box::pin(self.store.step(move |tx| resume(tx, &place)))
    }

    fn extend<'a>(&'a self, place: &'a Place, ttl: Duration) -> BoxFuture<'a, Result<Option<u64>>> {
        let place = place.clone();
        Box::pin(self.store.step(move |tx| extend(tx, &place, ttl)))
    }

    fn delete<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<bool>> {
        let place = place.clone();
        Box::pin(self.store.step(move |tx| delete(tx, &place)))
    }

    fn show<'a>(&'a self, place: &'a Place, parts: Parts) -> BoxFuture<'a, Result<Option<Seen>>> {
        let place = place.clone();
        Box::pin(self.store.step(move |tx| show(tx, &place, parts)))
    }

    fn list<'a>(
        &'a self,
        index: Index<'a>,
        after: Option<(u64, &'a Name)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>>> {
        let index = index_key(index);
        let after = after
            .map(|(ends, id)| (i64::try_from(ends).unwrap_or(i64::MAX), id.encoded().to_owned()));
        Box::pin(self.store.step(move |tx| list(tx, &index, after, limit)))
    }

    fn count(&self, shard: u16) -> BoxFuture<'_, Result<u64>> {
        let index = index_key(Index::All(shard));
        Box::pin(self.store.step(move |tx| tx.count_from(&index, tx.now_ms())))
    }
}
