//! The adapter over Redis and Valkey: keys, and one static script per step.

mod feed;
mod time;

use crate::{
    backend::{
        Backend, Claimed, EARS_MS, Feed, Key, MARK_MS, Put, SHARDS, Scanned, Tag, Token, Version,
    },
    envelope,
};
use bytes::Bytes;
use coordinator_core::{
    BoxFuture, Error, ErrorKind, Result,
    clock::Clock,
    key::{Name, Shard},
    redis::{Arg, Connection, Fields, Script},
};
use futures::future::{join_all, try_join_all};
use std::sync::Arc;
use time::ServerTime;

macro_rules! telling {
    ($($file:literal),*) => {
        concat!(include_str!("redis/tell.lua"), $(include_str!($file)),*)
    };
}

macro_rules! reading {
    ($($file:literal),*) => {
        concat!(include_str!("redis/read.lua"), $(include_str!($file)),*)
    };
}

static FETCH: Script = Script::new("cache.fetch", include_str!("redis/fetch.lua"));
static CAPTURE: Script =
    Script::new("cache.capture", telling!("redis/read.lua", "redis/capture.lua"));
static CLAIM: Script =
    Script::new("cache.claim", reading!("redis/value.lua", "redis/clock.lua", "redis/claim.lua"));
static RENEW: Script = Script::new("cache.renew", reading!("redis/renew.lua"));
static RELEASE: Script =
    Script::new("cache.release", telling!("redis/read.lua", "redis/release.lua"));
static FILL: Script = Script::new(
    "cache.fill",
    telling!("redis/read.lua", "redis/value.lua", "redis/clock.lua", "redis/fill.lua"),
);
static SET: Script = Script::new("cache.set", telling!("redis/clock.lua", "redis/set.lua"));
static INVALIDATE: Script = Script::new("cache.invalidate", telling!("redis/invalidate.lua"));
static EXPIRE: Script =
    Script::new("cache.expire", telling!("redis/read.lua", "redis/value.lua", "redis/expire.lua"));
static DROP_IF: Script =
    Script::new("cache.drop_if", telling!("redis/read.lua", "redis/drop_if.lua"));
static UNTAG: Script = Script::new("cache.untag", telling!("redis/untag.lua"));
static SCAN: Script = Script::new("cache.scan", include_str!("redis/scan.lua"));
static TELL_TIME: Script = Script::new(
    "cache.time",
    concat!(include_str!("redis/clock.lua"), include_str!("redis/time.lua")),
);
static HEAR: Script = Script::new("cache.hear", include_str!("redis/hear.lua"));

/// Every script of this crate, for warming up and for tests.
#[doc(hidden)]
pub static SCRIPTS: &[&Script] = &[
    &FETCH,
    &CAPTURE,
    &CLAIM,
    &RENEW,
    &RELEASE,
    &FILL,
    &SET,
    &INVALIDATE,
    &EXPIRE,
    &DROP_IF,
    &UNTAG,
    &SCAN,
    &HEAR,
    &TELL_TIME,
];

/// How many keys a script is given at most, those beside them not counted.
const BATCH: usize = 256;
/// After how many bytes of values a script is given no more.
const BATCH_BYTES: usize = 1024 * 1024;
/// About how many keys a scan looks at in one step.
const SCANNED: i64 = 500;
/// The longest that anything is kept, in ms: what a server still takes for a time.
const FOR_EVER_MS: u64 = 1 << 48;

#[derive(Debug)]
pub(crate) struct Redis {
    connection: Connection,
    /// The shards' key bases, built once.
    shards: Vec<Shard>,
    /// The markers of all shards.
    marks: Arc<[String]>,
    /// How all keys of this part begin.
    base: Arc<str>,
    time: ServerTime,
}

impl Redis {
    pub(crate) fn new(connection: &Connection) -> Self {
        let keyspace = connection.keyspace();
        let shards: Vec<Shard> = (0..SHARDS).map(|shard| keyspace.shard("c", shard)).collect();
        let first = shards[0].key("", "");
        Self {
            marks: shards.iter().map(|shard| shard.key("mark", "")).collect(),
            base: first.strip_suffix("0}:").unwrap_or(&first).into(),
            shards,
            connection: connection.clone(),
            time: ServerTime::new(connection.clock().clone()),
        }
    }

    pub(crate) fn value(&self, key: &Key) -> String {
        self.shards[usize::from(key.shard())].key("val", &key.encoded())
    }

    pub(crate) fn lease(&self, key: &Key) -> String {
        self.shards[usize::from(key.shard())].key("lease", &key.encoded())
    }

    pub(crate) fn tag(&self, tag: &Tag) -> String {
        self.single(tag.shard(SHARDS), "tag", tag.encoded())
    }

    pub(crate) fn marker(&self, node: u16) -> String {
        self.single(node, "mark", "")
    }

    pub(crate) fn ears(&self, shard: u16) -> String {
        self.single(shard, "ears", "")
    }

    fn single(&self, shard: u16, kind: &str, encoded: &str) -> String {
        self.shards[usize::from(shard)].key(kind, encoded)
    }

    async fn fields(
        &self,
        script: &'static Script,
        keys: Vec<String>,
        args: Vec<Arg>,
    ) -> Result<Fields> {
        Ok(self.connection.run(script, keys, args).await?.fields(script.name()))
    }

    /// Runs a script that answers an integer and the server's time, which is noted.
    async fn timed(
        &self,
        script: &'static Script,
        keys: Vec<String>,
        args: Vec<Arg>,
    ) -> Result<(i64, Fields)> {
        let asked = self.time.asked();
        let mut fields = self.fields(script, keys, args).await?;
        let (answer, now) = (fields.int()?, fields.int()?);
        self.time.learn(asked, now);
        Ok((answer, fields))
    }

    /// Indices of things by what one script may reach: a shard, or anything in one keyspace where
    /// no more than that matters.
    fn groups(&self, shards: impl Iterator<Item = u16>, apart: bool) -> Vec<Vec<usize>> {
        let one = !apart && self.connection.is_one_keyspace();
        let mut groups = vec![Vec::new(); usize::from(if one { 1 } else { SHARDS })];
        for (index, shard) in shards.enumerate() {
            groups[if one { 0 } else { usize::from(shard) }].push(index);
        }
        let batches = groups.iter().flat_map(|group| group.chunks(BATCH));
        batches.map(<[usize]>::to_vec).collect()
    }

    /// Reads strings, in their order; the empty one is none.
    async fn read(
        &self,
        keys: Vec<String>,
        shards: impl Iterator<Item = u16>,
    ) -> Result<Vec<Option<Bytes>>> {
        let groups = self.groups(shards, false);
        let answers = try_join_all(groups.iter().map(|group| {
            let keys = group.iter().map(|index| keys[*index].clone()).collect();
            self.fields(&FETCH, keys, Vec::new())
        }));
        let mut read = vec![None; keys.len()];
        for (group, mut fields) in groups.iter().zip(answers.await?) {
            fields.int()?;
            for index in group {
                read[*index] = Some(fields.bytes()?).filter(|bytes| !bytes.is_empty());
            }
        }
        Ok(read)
    }

    /// Runs a script for each shard, its ears first; the sum of the answers, once all are there.
    async fn each_shard(
        &self,
        script: &'static Script,
        shards: impl Iterator<Item = u16> + Clone,
        keys: impl Fn(usize) -> Vec<String>,
    ) -> Result<u64> {
        let groups = self.groups(shards.clone(), true);
        let shards: Vec<u16> = shards.collect();
        let answers = join_all(groups.iter().map(|group| {
            let mut all = vec![self.ears(shards[group[0]])];
            all.extend(group.iter().flat_map(|index| keys(*index)));
            self.fields(script, all, Vec::new())
        }));
        let mut sum = 0;
        for answer in answers.await {
            sum += answer?.unsigned()?;
        }
        Ok(sum)
    }

    fn both(&self, key: &Key) -> Vec<String> {
        vec![self.value(key), self.lease(key)]
    }

    /// Some values of one shard.
    async fn store(&self, puts: &[&Put]) -> Result<()> {
        let Some(first) = puts.first() else { return Ok(()) };
        let mut keys = vec![self.ears(first.key.shard())];
        keys.extend(puts.iter().flat_map(|put| self.both(&put.key)));
        let args = puts.iter().flat_map(|put| [put.value.clone().into(), life(put.ttl_ms)]);
        self.timed(&SET, keys, args.collect()).await.map(drop)
    }

    /// Those of the same shard together, in their order, as long as they are not too many.
    fn batches<'a>(&self, puts: &'a [Put]) -> Vec<Vec<(usize, &'a Put)>> {
        let mut batches = Vec::new();
        for group in self.groups(puts.iter().map(|put| put.key.shard()), true) {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            for index in group {
                let put = &puts[index];
                if bytes > 0 && bytes + put.value.len() > BATCH_BYTES {
                    batches.push(std::mem::take(&mut batch));
                    bytes = 0;
                }
                bytes += put.value.len();
                batch.push((index, put));
            }
            batches.push(batch);
        }
        batches
    }

    async fn captured(
        &self,
        shard: u16,
        keys: Vec<String>,
        fresh: Version,
        ttl_ms: u64,
    ) -> Result<Vec<Version>> {
        let mut all = vec![self.ears(shard)];
        all.extend(keys);
        let args = vec![versioned(fresh).into(), life(ttl_ms)];
        let mut fields = self.fields(&CAPTURE, all, args).await?;
        let count = fields.unsigned()?;
        let version = |_| {
            let strange = || Error::corrupt(CAPTURE.name(), "what is stored there is no version");
            version(&fields.bytes()?).ok_or_else(strange)
        };
        (0..count).map(version).collect()
    }
}

fn life(ms: u64) -> Arg {
    i64::try_from(ms.clamp(1, FOR_EVER_MS)).unwrap_or(1).into()
}

/// A byte 1 and the token.
fn owned(token: Token) -> Arg {
    let mut bytes = [1; 17];
    bytes[1..].copy_from_slice(&token.0);
    Arg::from_bytes(&bytes)
}

/// A byte 1 and the version.
fn versioned(version: Version) -> Bytes {
    let mut bytes = [1; 9];
    bytes[1..].copy_from_slice(&version.0.to_le_bytes());
    Bytes::copy_from_slice(&bytes)
}

fn version(bytes: &[u8]) -> Option<Version> {
    let bytes = bytes.strip_prefix(&[1])?.try_into().ok()?;
    Some(Version(u64::from_le_bytes(bytes)))
}

impl Backend for Redis {
    fn clock(&self) -> &Arc<dyn Clock> {
        self.connection.clock()
    }

    fn learn(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            if self.time.is_known() {
                return Ok(());
            }
            match self.timed(&TELL_TIME, vec![self.marker(0)], Vec::new()).await {
                // That one of many nodes is away is no reason to doubt the others.
                Err(error) if error.is_retryable() && self.time.is_good_enough() => Ok(()),
                told => told.map(drop),
            }
        })
    }

    fn now_ms(&self) -> u64 {
        self.time.now_ms()
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Bytes>>> {
        Box::pin(async move {
            match self.connection.get(&self.value(key)).await {
                // Of another type: it cannot be read by anybody, and is in the way of a value.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    let _ = self.drop_if(key, &Bytes::new()).await;
                    Ok(None)
                }
                there => there,
            }
        })
    }

    fn fetch<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<Vec<Option<Bytes>>>> {
        Box::pin(async move {
            let names = keys.iter().map(|key| self.value(key)).collect();
            self.read(names, keys.iter().map(Key::shard)).await
        })
    }

    fn versions<'a>(&'a self, tags: &'a [Tag]) -> BoxFuture<'a, Result<Vec<Option<Version>>>> {
        Box::pin(async move {
            let names = tags.iter().map(|tag| self.tag(tag)).collect();
            let read = self.read(names, tags.iter().map(|tag| tag.shard(SHARDS))).await?;
            Ok(read.iter().map(|bytes| version(bytes.as_ref()?)).collect())
        })
    }

    fn capture<'a>(
        &'a self,
        tags: &'a [Tag],
        fresh: Version,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<Vec<Version>>> {
        Box::pin(async move {
            let shards = tags.iter().map(|tag| tag.shard(SHARDS));
            let groups = self.groups(shards, true);
            let answers = try_join_all(groups.iter().map(|group| {
                let shard = tags[group[0]].shard(SHARDS);
                let keys = group.iter().map(|index| self.tag(&tags[*index])).collect();
                self.captured(shard, keys, fresh, ttl_ms)
            }));
            let mut versions = vec![fresh; tags.len()];
            for (group, answer) in groups.iter().zip(answers.await?) {
                for (index, version) in group.iter().zip(answer) {
                    versions[*index] = version;
                }
            }
            Ok(versions)
        })
    }

    fn claim<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        seen: Option<Version>,
        lease_ms: u64,
    ) -> BoxFuture<'a, Result<Claimed>> {
        Box::pin(async move {
            let seen = seen.map_or(Bytes::new(), |seen| versioned(seen).slice(1..));
            let args = vec![owned(token), seen.into(), life(lease_ms)];
            let (answer, mut fields) = self.timed(&CLAIM, self.both(key), args).await?;
            Ok(match answer {
                1 => Claimed::Mine,
                2 => Claimed::Value(fields.bytes()?),
                _ => Claimed::Held { left_ms: fields.unsigned()? },
            })
        })
    }

    fn renew<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        lease_ms: u64,
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let args = vec![owned(token), life(lease_ms)];
            Ok(self.fields(&RENEW, vec![self.lease(key)], args).await?.int()? == 1)
        })
    }

    fn holder<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Token>>> {
        Box::pin(async move {
            let there = match self.connection.get(&self.lease(key)).await {
                // Of another type: nobody's.
                Err(error) if error.kind() == ErrorKind::Corrupt => None,
                there => there?,
            };
            Ok(there.and_then(|there| there.strip_prefix(&[1])?.try_into().ok().map(Token)))
        })
    }

    fn release<'a>(&'a self, key: &'a Key, token: Token) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let keys = vec![self.ears(key.shard()), self.lease(key)];
            Ok(self.fields(&RELEASE, keys, vec![owned(token)]).await?.int()? == 1)
        })
    }

    fn fill<'a>(&'a self, put: &'a Put, token: Token) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let key = &put.key;
            let keys = vec![self.ears(key.shard()), self.value(key), self.lease(key)];
            let args = vec![owned(token), put.value.clone().into(), life(put.ttl_ms)];
            Ok(self.timed(&FILL, keys, args).await?.0 == 1)
        })
    }

    fn set<'a>(&'a self, put: &'a Put) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.store(&[put]).await })
    }

    fn set_many<'a>(&'a self, puts: &'a [Put]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(async move {
            let batches = self.batches(puts);
            let answers = join_all(batches.iter().map(async |batch| {
                let puts: Vec<&Put> = batch.iter().map(|(_, put)| *put).collect();
                self.store(&puts).await
            }));
            let mut done: Vec<Result<()>> = puts.iter().map(|_| Ok(())).collect();
            for (batch, answer) in batches.iter().zip(answers.await) {
                if let Err(error) = answer {
                    for (index, _) in batch {
                        done[*index] = Err(error.duplicate());
                    }
                }
            }
            done
        })
    }

    fn invalidate<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let shards = keys.iter().map(Key::shard);
            self.each_shard(&INVALIDATE, shards, |index| self.both(&keys[index])).await
        })
    }

    fn expire<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let shards = keys.iter().map(Key::shard);
            self.each_shard(&EXPIRE, shards, |index| self.both(&keys[index])).await
        })
    }

    fn drop_if<'a>(&'a self, key: &'a Key, value: &'a Bytes) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let head = value.slice(..value.len().min(envelope::SEAL));
            let length = i64::try_from(value.len()).unwrap_or(i64::MAX);
            let keys = vec![self.ears(key.shard()), self.value(key)];
            let args = vec![head.into(), length.into()];
            Ok(self.fields(&DROP_IF, keys, args).await?.int()? == 1)
        })
    }

    fn untag<'a>(&'a self, tags: &'a [Tag]) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let shards = tags.iter().map(|tag| tag.shard(SHARDS));
            self.each_shard(&UNTAG, shards, |index| vec![self.tag(&tags[index])]).await
        })
    }

    fn nodes(&self) -> Vec<u16> {
        let places = self.connection.one_per_primary(&self.marks);
        places.into_iter().filter_map(|shard| u16::try_from(shard).ok()).collect()
    }

    fn layout(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(self.connection.layout())
    }

    fn scan<'a>(&'a self, ns: &'a Name, node: u16, cursor: u64) -> BoxFuture<'a, Result<Scanned>> {
        Box::pin(async move {
            let strange = || Error::corrupt(SCAN.name(), "the cursor is no number");
            // Of all shards: a key whose slot is on its way may be where the slot is not yet.
            let pattern = format!("{}*}}:*:{}:*", self.base, ns.encoded());
            let args = vec![cursor.to_string().into(), pattern.into(), SCANNED.into()];
            let mut fields = self.fields(&SCAN, vec![self.marker(node)], args).await?;
            let count = fields.unsigned()?;
            let next = fields.text()?.parse().map_err(|_| strange())?;
            let mut keys = Vec::new();
            for _ in 0..count {
                use crate::backend::Changed::{Lease, Value};
                if let Some(Value(key) | Lease(key)) = feed::read(&self.base, &fields.bytes()?) {
                    keys.push(key);
                }
            }
            Ok(Scanned { keys, next })
        })
    }

    fn mark(&self, node: u16, fresh: Version) -> BoxFuture<'_, Result<Version>> {
        Box::pin(async move {
            let versions = self.captured(node, vec![self.marker(node)], fresh, MARK_MS).await?;
            Ok(versions.first().copied().unwrap_or(fresh))
        })
    }

    fn listen(&self) -> BoxFuture<'_, Result<Box<dyn Feed>>> {
        Box::pin(async move {
            let tracking = self.connection.track(&self.base).await?;
            let (base, marks) = (self.base.clone(), self.marks.clone());
            let feed = feed::Tracked { tracking, base, marks };
            Ok(Box::new(feed) as Box<dyn Feed>)
        })
    }

    fn hear(&self) -> BoxFuture<'_, Result<Box<dyn Feed>>> {
        Box::pin(async move {
            let ears: Vec<String> = (0..SHARDS).map(|shard| self.ears(shard)).collect();
            let subscribed = ears.iter().map(|ears| self.connection.subscribe(ears));
            let feed = feed::Heard::new(try_join_all(subscribed).await?, self.base.clone());
            self.keep_hearing().await?;
            Ok(Box::new(feed) as Box<dyn Feed>)
        })
    }

    fn keep_hearing(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            let groups = self.groups(0..SHARDS, false);
            let answers = try_join_all(groups.iter().map(|group| {
                let shards = group.iter().filter_map(|index| u16::try_from(*index).ok());
                let ears = shards.map(|shard| self.ears(shard)).collect();
                self.fields(&HEAR, ears, vec![life(EARS_MS)])
            }));
            let mut known = 0;
            for mut fields in answers.await? {
                known += fields.unsigned()?;
            }
            Ok(known == u64::from(SHARDS))
        })
    }
}
