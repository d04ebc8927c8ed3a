//! The adapter over Redis and Valkey: keys, and one static script per step.

use super::backend::{
    Added, Backend, Batch, Cover, Edit, FIELDS, Head, Index, Kept, Listed, PENDING, Parts, Place,
    SHARDS, Seen,
};
use coordinator_core::{
    BoxFuture, Error, Result,
    key::{Name, Shard},
    redis::{Arg, Connection, Fields, Script},
};
use std::{fmt, time::Duration};

/// What stands before the scripts that know a conversation.
macro_rules! talk {
    ($($file:literal),+) => {
        concat!(include_str!("redis/conversation_head.lua"), $(include_str!($file)),+)
    };
}

static APPEND: Script = Script::new(
    "sessions.conversation_append",
    talk!("redis/conversation_window.lua", "redis/conversation_append.lua"),
);
static SUMMARISE: Script =
    Script::new("sessions.conversation_summarise", talk!("redis/conversation_summarise.lua"));
static EDIT: Script =
    Script::new("sessions.conversation_edit", talk!("redis/conversation_edit.lua"));
static PAUSE: Script =
    Script::new("sessions.conversation_pause", talk!("redis/conversation_pause.lua"));
static RESUME: Script =
    Script::new("sessions.conversation_resume", talk!("redis/conversation_resume.lua"));
static EXTEND: Script =
    Script::new("sessions.conversation_extend", talk!("redis/conversation_extend.lua"));
static DELETE: Script =
    Script::new("sessions.conversation_delete", include_str!("redis/conversation_delete.lua"));
static SHOW: Script =
    Script::new("sessions.conversation_show", talk!("redis/conversation_show.lua"));
static LIST: Script =
    Script::new("sessions.conversation_list", include_str!("redis/conversation_list.lua"));
static COUNT: Script =
    Script::new("sessions.conversation_count", include_str!("redis/conversation_count.lua"));

/// Every script of conversations, for warming up and for tests.
#[doc(hidden)]
pub static SCRIPTS: &[&Script] =
    &[&APPEND, &SUMMARISE, &EDIT, &PAUSE, &RESUME, &EXTEND, &DELETE, &SHOW, &LIST, &COUNT];

/// The bytes of an item before its links.
const ITEM: usize = 21;

pub(crate) struct Redis {
    connection: Connection,
    /// The shards' key bases, built once.
    shards: Vec<Shard>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}

impl Redis {
    pub(crate) fn new(connection: &Connection) -> Self {
        let keyspace = connection.keyspace();
        Self {
            shards: (0..SHARDS).map(|shard| keyspace.shard("m", shard)).collect(),
            connection: connection.clone(),
        }
    }

    fn shard(&self, shard: u16) -> &Shard {
        &self.shards[usize::from(shard)]
    }

    /// Of a conversation alone: itself, its window, what is pending.
    fn own(&self, place: &Place) -> Vec<String> {
        let (shard, id) = (self.shard(place.shard), place.id.encoded());
        let mut keys = Vec::with_capacity(6);
        keys.extend(["talk", "said", "gone"].map(|kind| shard.key(kind, id)));
        keys
    }

    /// All that an append touches.
    fn keys(&self, place: &Place) -> Vec<String> {
        let shard = self.shard(place.shard);
        let mut keys = self.own(place);
        keys.push(shard.key("keys", place.id.encoded()));
        keys.push(shard.key("all", ""));
        keys.extend(place.user.as_ref().map(|user| shard.key("of", user.encoded())));
        keys
    }

    async fn run(
        &self,
        script: &'static Script,
        keys: Vec<String>,
        args: Vec<Arg>,
    ) -> Result<(i64, Fields)> {
        let mut fields = self.connection.run(script, keys, args).await?.fields(script.name());
        match fields.int()? {
            -1 => Err(Error::corrupt(
                script.name(),
                "the conversation is damaged, or a part of it was deleted",
            )),
            status => Ok((status, fields)),
        }
    }
}

fn number(value: u64) -> Arg {
    i64::try_from(value).unwrap_or(i64::MAX).into()
}

fn count(value: usize) -> Arg {
    i64::try_from(value).unwrap_or(i64::MAX).into()
}

fn ms(duration: Duration) -> Arg {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1).into()
}

fn id(place: &Place) -> Arg {
    Arg::from(place.id.encoded())
}

fn head(fields: &mut Fields) -> Result<Head> {
    let mut fields = fields.array()?;
    Ok(Head {
        ends_in_ms: fields.int()?.max(0).unsigned_abs(),
        age_ms: fields.int()?.max(0).unsigned_abs(),
        last: fields.unsigned()?,
        tokens: fields.unsigned()?,
        evicted: fields.unsigned()?,
        evicted_tokens: fields.unsigned()?,
        floor: fields.unsigned()?,
        covered: fields.unsigned()?,
        lost: fields.unsigned()?,
        summary_tokens: fields.unsigned()?,
    })
}

/// The items of a list; the script has compared their sums.
fn kept(step: &'static str, fields: &mut Fields) -> Result<Vec<Kept>> {
    let mut items = fields.array()?;
    let mut found = Vec::new();
    while !items.is_empty() {
        let item = items.bytes()?;
        let cut = || Error::corrupt(step, "a message is cut short");
        let numbers: &[u8; ITEM] = item.first_chunk().ok_or_else(cut)?;
        let sequence = numbers[9..15].iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
        let tokens = numbers[15..19].iter().fold(0, |all, byte| all << 8 | u32::from(*byte));
        let links = 8 * (usize::from(numbers[19]) + usize::from(numbers[20]));
        let body = item.get(ITEM + links..).ok_or_else(cut)?.to_vec();
        found.push(Kept { sequence, tokens, body });
    }
    Ok(found)
}

impl Backend for Redis {
    fn append<'a>(&'a self, place: &'a Place, batch: &'a Batch) -> BoxFuture<'a, Result<Added>> {
        Box::pin(async move {
            let mut args = Vec::with_capacity(6 + 4 * batch.items.len());
            args.extend([
                id(place),
                ms(batch.ttl),
                count(batch.window),
                batch.budget.map_or(Arg::from(-1), number),
                count(PENDING),
                Arg::from_bytes(&batch.key),
            ]);
            for item in &batch.items {
                args.push(Arg::from(i64::from(item.tokens)));
                args.push(Arg::from_bytes(item.calls.as_flattened()));
                args.push(Arg::from_bytes(item.answers.as_ref().map_or(&[], |link| &link[..])));
                args.push(Arg::from_bytes(&item.body));
            }
            let (status, mut fields) = self.run(&APPEND, self.keys(place), args).await?;
            if status == 3 {
                let for_ms = fields.int()?.max(0).unsigned_abs();
                return Ok(Added::Paused { for_ms, reason: fields.bytes()?.to_vec() });
            }
            let head = head(&mut fields)?;
            let (first, count) = (fields.unsigned()?, fields.unsigned()?);
            let items = kept(APPEND.name(), &mut fields)?;
            Ok(if status == 2 {
                Added::Before { head, first, count, pending: items }
            } else {
                Added::Now { head, first, count, evicted: items }
            })
        })
    }

    fn summarise<'a>(
        &'a self,
        place: &'a Place,
        cover: &'a Cover,
    ) -> BoxFuture<'a, Result<(bool, Head)>> {
        Box::pin(async move {
            let args = vec![
                id(place),
                ms(cover.ttl),
                number(cover.after),
                number(cover.up_to),
                Arg::from(i64::from(cover.tokens)),
                Arg::from_bytes(&cover.text),
            ];
            let (status, mut fields) = self.run(&SUMMARISE, self.keys(place), args).await?;
            Ok((status == 1, head(&mut fields)?))
        })
    }

    fn edit<'a>(&'a self, place: &'a Place, edit: &'a Edit) -> BoxFuture<'a, Result<Option<u64>>> {
        Box::pin(async move {
            let mut args = vec![id(place), ms(edit.ttl), count(FIELDS), count(edit.set.len())];
            for (name, value) in &edit.set {
                args.push(Arg::from(name.as_str()));
                args.push(Arg::from_bytes(value));
            }
            args.extend(edit.remove.iter().map(|name| Arg::from(name.as_str())));
            match self.run(&EDIT, self.keys(place), args).await? {
                (0, mut fields) => fields.unsigned().map(Some),
                _ => Ok(None),
            }
        })
    }

    fn pause<'a>(
        &'a self,
        place: &'a Place,
        reason: &'a [u8],
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let args = vec![id(place), ms(ttl), Arg::from_bytes(reason)];
            Ok(self.run(&PAUSE, self.keys(place), args).await?.0 == 1)
        })
    }

    fn resume<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move { Ok(self.run(&RESUME, self.own(place), Vec::new()).await?.0 == 1) })
    }

    fn extend<'a>(&'a self, place: &'a Place, ttl: Duration) -> BoxFuture<'a, Result<Option<u64>>> {
        Box::pin(async move {
            match self.run(&EXTEND, self.keys(place), vec![id(place), ms(ttl)]).await? {
                (0, _) => Ok(None),
                (_, mut fields) => fields.unsigned().map(Some),
            }
        })
    }

    fn delete<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<bool>> {
        Box::pin(
            async move { Ok(self.run(&DELETE, self.keys(place), vec![id(place)]).await?.0 == 1) },
        )
    }

    fn show<'a>(&'a self, place: &'a Place, parts: Parts) -> BoxFuture<'a, Result<Option<Seen>>> {
        Box::pin(async move {
            let asked = [parts.window, parts.pending, parts.fields];
            let args = asked.into_iter().map(|part| i64::from(part).into()).collect();
            let (status, mut fields) = self.run(&SHOW, self.own(place), args).await?;
            if status == 0 {
                return Ok(None);
            }
            let head = head(&mut fields)?;
            let (for_ms, reason) = (fields.int()?, fields.bytes()?.to_vec());
            let paused = u64::try_from(for_ms).ok().map(|for_ms| (for_ms, reason));
            let summary = fields.bytes()?.to_vec();
            let (mut pairs, mut named) = (fields.array()?, Vec::new());
            while !pairs.is_empty() {
                named.push((pairs.text()?, pairs.bytes()?.to_vec()));
            }
            named.sort_unstable();
            let window = kept(SHOW.name(), &mut fields)?;
            let pending = kept(SHOW.name(), &mut fields)?;
            Ok(Some(Seen { head, paused, summary, fields: named, window, pending }))
        })
    }

    fn list<'a>(
        &'a self,
        index: Index<'a>,
        after: Option<(u64, &'a Name)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>>> {
        Box::pin(async move {
            let key = match index {
                Index::All(shard) => self.shard(shard).key("all", ""),
                Index::Of(user) => self.shard(user.shard(SHARDS)).key("of", user.encoded()),
            };
            let (ends, last) = match after {
                Some((ends, last)) => (number(ends), Arg::from(last.encoded())),
                None => (Arg::from(""), Arg::from("")),
            };
            let (found, mut fields) =
                self.run(&LIST, vec![key], vec![ends, last, count(limit)]).await?;
            let found = (0..found).map(|_| {
                let mut entry = fields.array()?;
                let (ends_ms, ends_in_ms) = (entry.unsigned()?, entry.unsigned()?);
                Ok(Listed { id: Name::decode(&entry.text()?)?, ends_ms, ends_in_ms })
            });
            found.collect()
        })
    }

    fn count(&self, shard: u16) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let keys = vec![self.shard(shard).key("all", "")];
            let (count, _) = self.run(&COUNT, keys, Vec::new()).await?;
            u64::try_from(count).map_err(|_| Error::corrupt(COUNT.name(), "a negative count"))
        })
    }
}
