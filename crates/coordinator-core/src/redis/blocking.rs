//! Blocking reads, on links that nothing else waits behind.

use super::{Arg, Connection, Script, classify, link::Link, setup::Role};
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use fred::{
    prelude::ClientLike,
    types::{ClusterHash, CustomCommand, Value},
};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Semaphore;

/// An entry of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamEntry {
    /// Its id, `<ms>-<seq>`.
    pub id: String,
    /// Its fields and values, in order.
    pub fields: Vec<(Bytes, Bytes)>,
}

/// Links that wait for their next blocking read, and leave to open more.
#[derive(Debug)]
pub(super) struct Pool {
    /// None once the connection is closed: what comes back then is closed by being dropped.
    idle: Mutex<Option<Vec<Link>>>,
    room: Semaphore,
}

impl Pool {
    pub(super) fn new(links: usize) -> Self {
        Self { idle: Mutex::new(Some(Vec::new())), room: Semaphore::new(links) }
    }

    fn take(&self) -> Option<Link> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.pop()
    }

    fn give_back(&self, link: Link) {
        if let Some(idle) = &mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner) {
            idle.push(link);
        }
    }

    pub(super) async fn close(&self) {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        for link in idle.unwrap_or_default() {
            link.close().await;
        }
    }
}

impl Connection {
    /// Reads at most `count` entries of a stream that come after the id `after`, waiting up to
    /// `wait` for the first; none came if the answer is empty.
    ///
    /// As many reads can wait at once as the configured connections allow (less the three that
    /// carry commands, messages and invalidations); more wait their turn within `wait`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    /// Cancel safe: reading takes nothing away. The link it waited on is closed.
    pub async fn read_stream(
        &self,
        key: &str,
        after: &str,
        count: u32,
        wait: Duration,
    ) -> Result<Vec<StreamEntry>> {
        const STEP: &str = "core.read_stream";
        let block_ms = in_ms(wait);
        let args: Vec<Value> = vec![
            "COUNT".into(),
            i64::from(count).into(),
            "BLOCK".into(),
            block_ms.into(),
            "STREAMS".into(),
            key.into(),
            after.into(),
        ];
        let hash = ClusterHash::Custom(fred::util::redis_keyslot(key.as_bytes()));
        let command = CustomCommand::new_static("XREAD", hash, true);
        let answer = self.block(STEP, wait, vec![(command, args)]).await?;
        entries(answer).ok_or_else(|| Error::corrupt(STEP, "no stream was answered"))
    }

    /// Waits until `replicas` replicas have all that this process wrote to the server of a key;
    /// answers how many have it after at most `wait`. A script that changes the key goes before.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    /// Cancel safe. The link it waited on is closed.
    pub async fn replicated(
        &self,
        write: &Script,
        key: &str,
        args: Vec<Arg>,
        replicas: u32,
        wait: Duration,
    ) -> Result<u64> {
        const STEP: &str = "core.replicated";
        let hash = ClusterHash::Custom(fred::util::redis_keyslot(key.as_bytes()));
        let command = |name| CustomCommand::new_static(name, hash.clone(), false);
        // WAIT counts from the last write of its own link, so there is one: what is replicated
        // after another write has that one before it.
        let mut change: Vec<Value> = vec![write.source().into(), 1.into(), key.into()];
        change.extend(args.into_iter().map(Arg::into_value));
        let ask: Vec<Value> = vec![i64::from(replicas).into(), in_ms(wait).into()];
        let both = vec![(command("EVAL"), change), (command("WAIT"), ask)];
        let answer = self.block(STEP, wait, both).await?;
        let count = answer.as_u64();
        count.ok_or_else(|| Error::corrupt(STEP, "no number of replicas was answered"))
    }

    /// Sends commands that may block down a link of their own; the answer of the last.
    async fn block(
        &self,
        step: &'static str,
        wait: Duration,
        commands: Vec<(CustomCommand, Vec<Value>)>,
    ) -> Result<Value> {
        self.check_open(step)?;
        let unavailable =
            |why: &str| Error::new(ErrorKind::Unavailable, step).with_source(why.to_owned());
        let Ok(turn) = tokio::time::timeout(wait, self.inner.blocking.room.acquire()).await else {
            return Err(unavailable("every connection for blocking reads is in use"));
        };
        let _turn = turn.map_err(|_| unavailable("the connection is closed"))?;
        let link = match self.inner.blocking.take() {
            Some(link) => link,
            None => Link::connect(self.config(), Role::Blocking).await?,
        };
        if !link.ready(self.patience()).await {
            return Err(unavailable("there is no connection to the server"));
        }
        let limit = wait.saturating_add(self.config().command_timeout());
        let asked = async {
            let mut last = Value::Null;
            for (command, args) in commands {
                last = link.client().custom::<Value, Value>(command, args).await?;
            }
            Ok(last)
        };
        match tokio::time::timeout(limit, asked).await {
            Ok(answered) => {
                self.inner.blocking.give_back(link);
                answered.map_err(|error| classify::read(step, &error))
            }
            // The link may still be blocked: it is closed by being dropped.
            Err(_) => Err(unavailable("no answer came in time")),
        }
    }
}

/// At least 1: to block for 0 ms would be for ever.
fn in_ms(wait: Duration) -> i64 {
    i64::try_from(wait.as_millis()).unwrap_or(i64::MAX).max(1)
}

/// Reads `{key: [[id, [field, value, …]], …]}`, as a map or, in RESP2, as nested arrays.
fn entries(answer: Value) -> Option<Vec<StreamEntry>> {
    let list = match answer {
        Value::Null => return Some(Vec::new()),
        Value::Map(map) => map.inner().into_iter().next()?.1,
        Value::Array(streams) => streams.into_iter().next()?.into_array().into_iter().nth(1)?,
        _ => return None,
    };
    list.into_array()
        .into_iter()
        .map(|entry| {
            let mut parts = entry.into_array().into_iter();
            let id = parts.next()?.into_string()?;
            let mut fields = Vec::new();
            let mut flat = parts.next()?.into_array().into_iter();
            while let (Some(field), Some(value)) = (flat.next(), flat.next()) {
                fields.push((field.into_bytes()?, value.into_bytes()?));
            }
            Some(StreamEntry { id, fields })
        })
        .collect()
}
