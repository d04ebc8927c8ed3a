//! The adapter over Redis and Valkey: keys, and one static script per step.

use super::backend::{
    Backend, Condition, Item, LAST_TTL_MS, Listed, Past, Place, SHARDS, SWEPT, Slice, Stored,
    TRIMMED, Token, Write, Wrote,
};
use coordinator_core::{
    BoxFuture, Error, Result,
    clock::Clock,
    key::{Name, Shard},
    redis::{Arg, Connection, Fields, Script},
};
use std::sync::Arc;

static DOC_PUT: Script = Script::new("sessions.doc_put", include_str!("redis/doc_put.lua"));
static DOC_GET: Script = Script::new("sessions.doc_get", include_str!("redis/doc_get.lua"));
static DOC_HISTORY: Script =
    Script::new("sessions.doc_history", include_str!("redis/doc_history.lua"));
static DOC_EXTEND: Script =
    Script::new("sessions.doc_extend", include_str!("redis/doc_extend.lua"));
static DOC_DELETE: Script =
    Script::new("sessions.doc_delete", include_str!("redis/doc_delete.lua"));
static DOC_LIST: Script = Script::new("sessions.doc_list", include_str!("redis/doc_list.lua"));
static DOC_COUNT: Script = Script::new("sessions.doc_count", include_str!("redis/doc_count.lua"));

/// Every script of documents, for warming up and for tests.
#[doc(hidden)]
pub static SCRIPTS: &[&Script] =
    &[&DOC_PUT, &DOC_GET, &DOC_HISTORY, &DOC_EXTEND, &DOC_DELETE, &DOC_LIST, &DOC_COUNT];

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
            shards: (0..SHARDS).map(|shard| keyspace.shard("d", shard)).collect(),
            connection: connection.clone(),
        }
    }

    fn shard(&self, shard: u16) -> &Shard {
        &self.shards[usize::from(shard)]
    }

    /// The document, its namespace's names, the same by their end, and its former values.
    fn keys(&self, place: &Place) -> Vec<String> {
        let (shard, name) = (self.shard(place.shard), place.key());
        let namespace = place.namespace.encoded();
        vec![
            shard.key("doc", &name),
            shard.key("names", namespace),
            shard.key("ends", namespace),
            shard.key("past", &name),
        ]
    }

    fn mark(&self, place: &Place, token: &Token) -> String {
        self.shard(place.shard).key("once", &format!("{}:{}", place.key(), token.id.encoded()))
    }

    async fn fields(
        &self,
        script: &'static Script,
        keys: Vec<String>,
        args: Vec<Arg>,
    ) -> Result<Fields> {
        Ok(self.connection.run(script, keys, args).await?.fields(script.name()))
    }
}

fn number(value: u64) -> Arg {
    i64::try_from(value).unwrap_or(i64::MAX).into()
}

fn unreadable(script: &Script) -> Error {
    Error::corrupt(script.name(), "what is stored there is no document")
}

impl Backend for Redis {
    fn clock(&self) -> &Arc<dyn Clock> {
        self.connection.clock()
    }

    fn put<'a>(&'a self, place: &'a Place, write: &'a Write) -> BoxFuture<'a, Result<Wrote>> {
        Box::pin(async move {
            let mut keys = self.keys(place);
            keys.push(self.shard(place.shard).key("last", ""));
            keys.push(self.mark(place, &write.token));
            let args = vec![
                match write.condition {
                    Condition::Any => Arg::from(-1),
                    Condition::Absent => Arg::from(0),
                    Condition::Version(version) => number(version),
                },
                number(write.ttl_ms),
                number(write.keep_ttl.into()),
                number(write.history),
                Arg::from(place.name.encoded()),
                Arg::from_bytes(&write.data),
                number(write.token.ttl_ms),
                number(LAST_TTL_MS),
                number(TRIMMED as u64),
            ];
            let mut fields = self.fields(&DOC_PUT, keys, args).await?;
            match fields.unsigned()? {
                0 => Ok(Wrote::Conflict(Some(fields.unsigned()?).filter(|current| *current > 0))),
                1 => Ok(Wrote::Stored {
                    version: fields.unsigned()?,
                    updated_us: fields.unsigned()?,
                    until_ms: fields.unsigned()?,
                }),
                _ => Err(unreadable(&DOC_PUT)),
            }
        })
    }

    fn get<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<Option<Stored>>> {
        Box::pin(async move {
            let [doc, _, _, past] = self.keys(place).try_into().expect("four keys");
            let mut fields = self.fields(&DOC_GET, vec![doc, past], Vec::new()).await?;
            match fields.unsigned()? {
                0 => Ok(None),
                1 => Ok(Some(Stored {
                    version: fields.unsigned()?,
                    updated_us: fields.unsigned()?,
                    left_ms: fields.int()?.try_into().ok(),
                    former: fields.unsigned()?,
                    data: fields.bytes()?.into(),
                })),
                _ => Err(unreadable(&DOC_GET)),
            }
        })
    }

    fn history<'a>(&'a self, place: &'a Place, limit: u64) -> BoxFuture<'a, Result<Vec<Past>>> {
        Box::pin(async move {
            let [_, _, _, past] = self.keys(place).try_into().expect("four keys");
            let mut fields = self.fields(&DOC_HISTORY, vec![past], vec![number(limit)]).await?;
            let count = fields.int()?;
            if count < 0 {
                return Err(unreadable(&DOC_HISTORY));
            }
            let entry = |_| {
                let mut fields = fields.array()?;
                Ok(Past {
                    version: fields.unsigned()?,
                    updated_us: fields.unsigned()?,
                    data: fields.bytes()?.into(),
                })
            };
            (0..count).map(entry).collect()
        })
    }

    fn extend<'a>(&'a self, place: &'a Place, ttl_ms: u64) -> BoxFuture<'a, Result<Option<u64>>> {
        Box::pin(async move {
            let args = vec![number(ttl_ms), Arg::from(place.name.encoded())];
            let mut fields = self.fields(&DOC_EXTEND, self.keys(place), args).await?;
            if fields.unsigned()? == 0 { Ok(None) } else { fields.unsigned().map(Some) }
        })
    }

    fn delete<'a>(&'a self, place: &'a Place, token: &'a Token) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let mut keys = self.keys(place);
            keys.push(self.mark(place, token));
            let args = vec![Arg::from(place.name.encoded()), number(token.ttl_ms)];
            Ok(self.fields(&DOC_DELETE, keys, args).await?.unsigned()? == 1)
        })
    }

    fn list<'a>(&'a self, slice: &'a Slice) -> BoxFuture<'a, Result<Listed>> {
        Box::pin(async move {
            let (shard, namespace) = (self.shard(slice.shard), slice.namespace.encoded());
            let keys = vec![shard.key("names", namespace), shard.key("ends", namespace)];
            let from = if slice.after.as_str() >= slice.prefix.as_str() && !slice.after.is_empty() {
                format!("({}", slice.after)
            } else {
                format!("[{}", slice.prefix)
            };
            // Encoded names are ASCII, and `~` is the highest letter in them.
            let to = if slice.prefix.is_empty() {
                "+".to_owned()
            } else {
                format!("({}\u{7f}", slice.prefix)
            };
            let args = vec![
                Arg::from(from),
                Arg::from(to),
                number(slice.limit as u64),
                number(SWEPT as u64),
            ];
            let mut fields = self.fields(&DOC_LIST, keys, args).await?;
            let more = fields.unsigned()? == 1;
            let mut items = Vec::new();
            while !fields.is_empty() {
                let mut item = fields.array()?;
                items.push(Item {
                    name: item.text()?,
                    version: item.unsigned()?,
                    updated_us: item.unsigned()?,
                    left_ms: item.int()?.try_into().ok(),
                    bytes: item.unsigned()?,
                });
            }
            Ok(Listed { items, more })
        })
    }

    fn count<'a>(&'a self, namespace: &'a Name, shard: u16) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let keys = vec![self.shard(shard).key("ends", namespace.encoded())];
            self.fields(&DOC_COUNT, keys, Vec::new()).await?.unsigned()
        })
    }
}
