//! The adapter over Redis and Valkey: keys, and one static script per step.

use crate::{
    backend::{
        Acked, Again, Announced, Attempt, Backend, Before, COUNTED_MS, Crew, Defer, Deferred,
        Entry, Feed, From, Heard, Letter, PAGE_BYTES, Page, Posted, SHARDS, Standing, Stored, Take,
        Taken,
    },
    cursor::{Id, Nonce},
};
use bytes::Bytes;
use coordinator_core::{
    BoxFuture, Error, ErrorKind, Result,
    clock::Clock,
    key::{Name, Shard},
    redis::{Arg, Connection, Fields, Message, Reply, Script, Subscription},
};
use std::{sync::Arc, time::Duration};

macro_rules! of_streams {
    ($file:literal) => {
        concat!(include_str!("redis/stream.lua"), include_str!($file))
    };
}

macro_rules! of_groups {
    ($file:literal) => {
        concat!(
            include_str!("redis/stream.lua"),
            include_str!("redis/group.lua"),
            include_str!($file)
        )
    };
}

static PUBLISH: Script = Script::new("events.publish", of_streams!("redis/publish.lua"));
static PROLONG: Script = Script::new("events.prolong", include_str!("redis/prolong.lua"));
static READ: Script = Script::new("events.read", of_streams!("redis/read.lua"));
static TRIM: Script = Script::new("events.trim", include_str!("redis/trim.lua"));
static ANNOUNCE: Script = Script::new("events.announce", include_str!("redis/announce.lua"));
static ANNOUNCED: Script = Script::new("events.announced", include_str!("redis/announced.lua"));
static TAKE: Script = Script::new(
    "events.take",
    concat!(
        include_str!("redis/stream.lua"),
        include_str!("redis/group.lua"),
        include_str!("redis/told.lua"),
        include_str!("redis/take.lua")
    ),
);
static ACK: Script = Script::new("events.ack", of_groups!("redis/ack.lua"));
static DEFER: Script = Script::new("events.defer", of_groups!("redis/defer.lua"));
static BURY: Script = Script::new("events.bury", of_groups!("redis/bury.lua"));
static REVIVE: Script = Script::new("events.revive", of_groups!("redis/revive.lua"));
static LETTERS: Script = Script::new("events.letters", of_groups!("redis/letters.lua"));
static STANDING: Script = Script::new("events.standing", of_groups!("redis/standing.lua"));
static FORGET: Script = Script::new("events.forget", include_str!("redis/forget.lua"));

/// Every script of this crate, for warming up and for tests.
#[doc(hidden)]
pub static SCRIPTS: &[&Script] = &[
    &PUBLISH, &PROLONG, &READ, &TRIM, &ANNOUNCE, &ANNOUNCED, &TAKE, &ACK, &DEFER, &BURY, &REVIVE,
    &LETTERS, &STANDING, &FORGET,
];

#[derive(Debug)]
pub(crate) struct Redis {
    connection: Connection,
    /// The shards' key bases, built once.
    shards: Vec<Shard>,
}

impl Redis {
    pub(crate) fn new(connection: &Connection) -> Self {
        let keyspace = connection.keyspace();
        Self {
            shards: (0..SHARDS).map(|shard| keyspace.shard("e", shard)).collect(),
            connection: connection.clone(),
        }
    }

    fn shard(&self, name: &Name) -> &Shard {
        &self.shards[usize::from(name.shard(SHARDS))]
    }

    pub(crate) fn stream(&self, scope: &Name) -> String {
        self.shard(scope).key("ev", scope.encoded())
    }

    fn topic(&self, topic: &Name) -> String {
        self.shard(topic).key("live", topic.encoded())
    }

    /// The stream, how far the group is, its work, and its dead letters.
    fn keys(&self, crew: &Crew) -> Vec<String> {
        let shard = self.shard(&crew.scope);
        let of = format!("{}:{}", crew.scope.encoded(), crew.group.encoded());
        let mut keys = vec![self.stream(&crew.scope)];
        keys.extend(["at", "due", "work", "died", "dead"].map(|kind| shard.key(kind, &of)));
        keys
    }

    async fn fields(
        &self,
        script: &'static Script,
        keys: Vec<String>,
        args: Vec<Arg>,
    ) -> Result<Fields> {
        Ok(self.connection.run(script, keys, args).await?.fields(script.name()))
    }

    /// Waits until so many replicas have an event; why they do not.
    async fn replicated(
        &self,
        scope: &Name,
        posted: Posted,
        entry: &Entry,
        replicas: u32,
        wait: Duration,
    ) -> std::result::Result<(), String> {
        // Others may have been promised that it lives for longer.
        let (stream, args) = (self.stream(scope), vec![number(entry.ttl_ms)]);
        let replicated = self.connection.replicated(&PROLONG, &stream, args, replicas, wait).await;
        let count = replicated.map_err(|error| error.chain())?;
        if count < u64::from(replicas) {
            return Err(format!("{count} of {replicas} replicas have it"));
        }
        // Those may be replicas of a server that took over meanwhile, and never had it.
        let (id, nonce) = match posted {
            Posted::New(id) => (id, Some(&entry.frame[..])),
            Posted::Before(id) => (id, None),
            Posted::Fenced(_) => return Ok(()),
        };
        let page = self.read(scope, From::At(id), 1).await.map_err(|error| error.chain())?;
        let is_it = |event: &Stored| nonce.is_none_or(|nonce| nonce.starts_with(&event.nonce));
        let has = page.is_some_and(|page| match page.events.first() {
            Some(event) if event.id == id => is_it(event),
            // It went since, as old ones go; those after it are of its own epoch.
            _ => page.last.epoch == id.epoch && page.last >= id,
        });
        if has { Ok(()) } else { Err("the server does not have it any more".to_owned()) }
    }

    /// What a consumer was told last.
    fn told(&self, crew: &Crew, take: &Take) -> String {
        let (scope, group) = (crew.scope.encoded(), crew.group.encoded());
        let of = format!("{scope}:{group}:{:016x}", take.seat);
        self.shard(&crew.scope).key("told", &of)
    }

    /// Whether a step found what it was to change.
    async fn done(&self, script: &'static Script, crew: &Crew, args: Vec<Arg>) -> Result<bool> {
        Ok(self.fields(script, self.keys(crew), args).await?.int()? == 1)
    }
}

fn number(value: u64) -> Arg {
    i64::try_from(value).unwrap_or(i64::MAX).into()
}

fn size(value: usize) -> Arg {
    number(value as u64)
}

fn text(value: &impl ToString) -> Arg {
    value.to_string().as_str().into()
}

fn token(attempt: Attempt) -> Arg {
    Bytes::copy_from_slice(&attempt.token).into()
}

fn strange(step: &'static str) -> Error {
    Error::corrupt(step, "what is stored there is no event")
}

fn id(step: &'static str, fields: &mut Fields) -> Result<Id> {
    fields.text()?.parse().map_err(|()| strange(step))
}

fn lossy(fields: &mut Fields) -> Result<String> {
    Ok(String::from_utf8_lossy(&fields.bytes()?).into_owned())
}

fn small(step: &'static str, fields: &mut Fields) -> Result<u32> {
    fields.unsigned()?.try_into().map_err(|_| strange(step))
}

/// Nonce and envelope. What is too short for both was not written by us: it stands there like
/// any other event, and is unreadable, so that nobody has to stop in front of it.
fn apart(mut frame: Bytes) -> (Nonce, Bytes) {
    let mut nonce = [0; 8];
    if frame.len() < nonce.len() {
        return (nonce, frame);
    }
    let envelope = frame.split_off(nonce.len());
    nonce.copy_from_slice(&frame);
    (nonce, envelope)
}

/// What stands before the id where an epoch begins; `*` elsewhere.
fn before(text: &str) -> Option<Before> {
    match text {
        "*" => Some(Before::Dense),
        "" => Some(Before::Nothing),
        id => id.parse().ok().map(Before::Last),
    }
}

fn stored(step: &'static str, fields: &mut Fields) -> Result<Stored> {
    let id = id(step, fields)?;
    let said = fields.bytes()?;
    let before = std::str::from_utf8(&said).ok().and_then(before).unwrap_or(Before::Dense);
    let (nonce, envelope) = apart(fields.bytes()?);
    Ok(Stored { id, before, nonce, envelope })
}

/// As `id`, or `id<before`, then nonce and envelope.
fn told(payload: &Bytes) -> Option<Stored> {
    let end = payload.iter().take(100).position(|byte| *byte == b' ')?;
    let head = std::str::from_utf8(&payload[..end]).ok()?;
    let (id, before) = match head.split_once('<') {
        Some((id, text)) => (id, before(text)?),
        None => (head, Before::Dense),
    };
    let frame = payload.slice(end + 1..);
    let (nonce, envelope) = (frame.len() >= 8).then(|| apart(frame))?;
    Some(Stored { id: id.parse().ok()?, before, nonce, envelope })
}

fn announced(payload: &Bytes) -> Option<Announced> {
    let end = payload.iter().take(24).position(|byte| *byte == b' ')?;
    let number = std::str::from_utf8(&payload[..end]).ok()?.parse().ok()?;
    Some((number, payload.slice(end + 1..)))
}

/// A channel, and how its messages are read.
struct Channel<T> {
    subscription: Subscription,
    read: fn(&Bytes) -> Option<T>,
}

impl<T: Send> Feed<T> for Channel<T> {
    fn next(&mut self) -> BoxFuture<'_, Heard<T>> {
        Box::pin(async {
            match self.subscription.next().await {
                Message::Payload(payload) => (self.read)(&payload).map_or(Heard::Noise, Heard::It),
                _ => Heard::Lost,
            }
        })
    }
}

impl Backend for Redis {
    fn clock(&self) -> &Arc<dyn Clock> {
        self.connection.clock()
    }

    fn generation(&self) -> u64 {
        self.connection.generation()
    }

    fn publish<'a>(&'a self, scope: &'a Name, entry: &'a Entry) -> BoxFuture<'a, Result<Posted>> {
        Box::pin(async move {
            let shard = self.shard(scope);
            let stream = self.stream(scope);
            let mut keys = vec![stream.clone(), shard.key("reign", scope.encoded())];
            let mut once_ms = 0;
            if let Some((key, ms)) = &entry.once {
                keys.push(shard.key("once", &format!("{}:{}", scope.encoded(), key.encoded())));
                once_ms = *ms;
            }
            // Whoever waits for a link through a failover sends to another server than it knew.
            self.connection.ready(PUBLISH.name()).await?;
            let other = |known| known != self.connection.generation();
            let check = entry.check || entry.generation.is_some_and(other);
            let ways = [(check, 'c'), (check || entry.prolongs, 'l'), (entry.strict, 's')];
            let how: String = ways.iter().filter_map(|(is, way)| is.then_some(*way)).collect();
            let args = vec![
                format!("{}-*", entry.epoch).into(),
                entry.frame.clone().into(),
                number(entry.keep),
                how.into(),
                number(entry.ttl_ms),
                number(once_ms),
            ];
            let reply = self.connection.run(&PUBLISH, keys, args).await?;
            let is_new = matches!(reply, Reply::Bytes(_));
            let mut fields = reply.fields(PUBLISH.name());
            let posted = if is_new {
                Posted::New(id(PUBLISH.name(), &mut fields)?)
            } else if fields.int()? == 0 {
                return Ok(Posted::Fenced(fields.unsigned()?));
            } else {
                Posted::Before(id(PUBLISH.name(), &mut fields)?)
            };
            if let Some((replicas, wait_ms)) = entry.replicas {
                let wait = Duration::from_millis(wait_ms);
                self.replicated(scope, posted, entry, replicas, wait).await.map_err(|why| {
                    Error::new(ErrorKind::Indeterminate, PUBLISH.name()).with_source(why)
                })?;
            }
            Ok(posted)
        })
    }

    fn read<'a>(
        &'a self,
        scope: &'a Name,
        from: From,
        limit: usize,
    ) -> BoxFuture<'a, Result<Option<Page>>> {
        Box::pin(async move {
            const STEP: &str = "events.read";
            let from = match from {
                From::First => "-".into(),
                From::At(id) => text(&id),
                From::Last => "$".into(),
            };
            let keys = vec![self.stream(scope)];
            let mut fields =
                self.fields(&READ, keys, vec![from, size(limit), size(PAGE_BYTES)]).await?;
            if fields.int()? == 0 {
                return Ok(None);
            }
            let last = id(STEP, &mut fields)?;
            let count = fields.unsigned()?;
            let events = (0..count).map(|_| stored(STEP, &mut fields)).collect::<Result<_>>()?;
            Ok(Some(Page { last, events }))
        })
    }

    fn trim<'a>(&'a self, scope: &'a Name, first: Id) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let keys = vec![self.stream(scope)];
            let mut fields = self.fields(&TRIM, keys, vec![text(&first)]).await?;
            fields.int()?;
            fields.unsigned()
        })
    }

    fn listen<'a>(&'a self, scope: &'a Name) -> BoxFuture<'a, Result<Box<dyn Feed<Stored>>>> {
        Box::pin(async move {
            let subscription = self.connection.subscribe(&self.stream(scope)).await?;
            Ok(Box::new(Channel { subscription, read: told }) as Box<dyn Feed<Stored>>)
        })
    }

    fn announce<'a>(&'a self, topic: &'a Name, what: Bytes) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let args = vec![what.into(), number(COUNTED_MS)];
            let mut fields = self.fields(&ANNOUNCE, vec![self.topic(topic)], args).await?;
            fields.int()?;
            fields.unsigned()
        })
    }

    fn announced<'a>(&'a self, topic: &'a Name) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let mut fields = self.fields(&ANNOUNCED, vec![self.topic(topic)], Vec::new()).await?;
            fields.int()?;
            fields.unsigned()
        })
    }

    fn follow<'a>(&'a self, topic: &'a Name) -> BoxFuture<'a, Result<Box<dyn Feed<Announced>>>> {
        Box::pin(async move {
            let subscription = self.connection.subscribe(&self.topic(topic)).await?;
            let channel = Channel { subscription, read: announced };
            Ok(Box::new(channel) as Box<dyn Feed<Announced>>)
        })
    }

    fn take<'a>(&'a self, crew: &'a Crew, take: &'a Take) -> BoxFuture<'a, Result<Taken>> {
        Box::pin(async move {
            const STEP: &str = "events.take";
            let args = vec![
                take.consumer.as_str().into(),
                size(take.most),
                number(take.lease_ms),
                number(take.deliveries.into()),
                take.begin.map_or_else(|| "$".into(), |id| text(&id)),
                number(take.ttl_ms),
                Bytes::copy_from_slice(&take.token).into(),
                size(PAGE_BYTES),
            ];
            let mut keys = self.keys(crew);
            keys.push(self.told(crew, take));
            let mut fields = self.fields(&TAKE, keys, args).await?;
            fields.int()?;
            let due_ms = fields.int()?.try_into().ok();
            let (left_ms, buried) = (fields.unsigned()?, fields.unsigned()?);
            let from = match fields.text()?.as_str() {
                "*" => None,
                from => Some(from.parse().map_err(|()| strange(STEP))?),
            };
            let to = id(STEP, &mut fields)?;
            let (due, new) = (fields.unsigned()?, fields.unsigned()?);
            let again = (0..due)
                .map(|_| {
                    let id = id(STEP, &mut fields)?;
                    let deliveries = small(STEP, &mut fields)?;
                    let (nonce, envelope) = apart(fields.bytes()?);
                    Ok(Again { id, deliveries, nonce, envelope })
                })
                .collect::<Result<_>>()?;
            let new = (0..new).map(|_| stored(STEP, &mut fields)).collect::<Result<_>>()?;
            Ok(Taken { due_ms, left_ms, buried, again, from, to, new })
        })
    }

    fn ack<'a>(&'a self, crew: &'a Crew, attempt: Attempt) -> BoxFuture<'a, Result<Acked>> {
        Box::pin(async move {
            let args = vec![text(&attempt.id), token(attempt)];
            Ok(match self.fields(&ACK, self.keys(crew), args).await?.int()? {
                0 => Acked::Gone,
                1 => Acked::Done,
                _ => Acked::Before,
            })
        })
    }

    fn defer<'a>(
        &'a self,
        crew: &'a Crew,
        attempt: Attempt,
        defer: &'a Defer,
    ) -> BoxFuture<'a, Result<Deferred>> {
        Box::pin(async move {
            let args = vec![
                text(&attempt.id),
                token(attempt),
                number(defer.in_ms),
                defer.reason.as_str().into(),
                number(defer.deliveries.into()),
                number(defer.ttl_ms),
            ];
            Ok(match self.fields(&DEFER, self.keys(crew), args).await?.int()? {
                0 => Deferred::Gone,
                1 => Deferred::Done,
                _ => Deferred::Buried,
            })
        })
    }

    fn bury<'a>(
        &'a self,
        crew: &'a Crew,
        attempt: Attempt,
        reason: &'a str,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<bool>> {
        let args = vec![text(&attempt.id), token(attempt), reason.into(), number(ttl_ms)];
        Box::pin(self.done(&BURY, crew, args))
    }

    fn revive<'a>(
        &'a self,
        crew: &'a Crew,
        id: Id,
        again: bool,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<bool>> {
        let args = vec![text(&id), Arg::from(i64::from(again)), number(ttl_ms)];
        Box::pin(self.done(&REVIVE, crew, args))
    }

    fn letters<'a>(
        &'a self,
        crew: &'a Crew,
        skip: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Letter>>> {
        Box::pin(async move {
            const STEP: &str = "events.letters";
            let args = vec![number(skip), size(limit)];
            let mut fields = self.fields(&LETTERS, self.keys(crew), args).await?;
            fields.int()?;
            let count = fields.unsigned()?;
            (0..count)
                .map(|_| {
                    let id = id(STEP, &mut fields)?;
                    let at_ms = fields.unsigned()?;
                    let deliveries = small(STEP, &mut fields)?;
                    let (consumer, reason) = (lossy(&mut fields)?, lossy(&mut fields)?);
                    let (nonce, envelope) = apart(fields.bytes()?);
                    Ok(Letter { id, at_ms, deliveries, consumer, reason, nonce, envelope })
                })
                .collect()
        })
    }

    fn standing<'a>(&'a self, crew: &'a Crew) -> BoxFuture<'a, Result<Option<Standing>>> {
        Box::pin(async move {
            const STEP: &str = "events.standing";
            let mut fields = self.fields(&STANDING, self.keys(crew), Vec::new()).await?;
            if fields.int()? == 0 {
                return Ok(None);
            }
            Ok(Some(Standing {
                under_way: fields.unsigned()?,
                due: fields.unsigned()?,
                dead: fields.unsigned()?,
                at: id(STEP, &mut fields)?,
                last: id(STEP, &mut fields)?,
            }))
        })
    }

    fn forget<'a>(&'a self, crew: &'a Crew) -> BoxFuture<'a, Result<bool>> {
        Box::pin(self.done(&FORGET, crew, Vec::new()))
    }
}
