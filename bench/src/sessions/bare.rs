//! The scripts of sessions, sent by the bare client: the keys and arguments are those that the
//! library sends, recorded with MONITOR. Only what no two calls may have in common is drawn anew.

use crate::{peers, wire};
use anyhow::{Context as _, Result, bail, ensure};
use coordinator_harness::RedisServer;
use fred::{
    interfaces::LuaInterface as _,
    types::{Key, Value},
};
use rand::RngExt as _;
use std::{
    str,
    sync::atomic::{AtomicUsize, Ordering},
};

/// The length of an id in a key.
const ID: usize = 16;

/// What is drawn anew in each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fresh {
    /// Nothing: the step may be repeated.
    Nothing,
    /// The id, in both keys too, and the digest.
    Session,
    /// The token of the write: with the same one nothing is written.
    Write,
}

/// Calls that take turns, sent by the bare client.
pub(crate) struct Bare {
    client: peers::Client,
    calls: Vec<Call>,
    next: AtomicUsize,
    fresh: Fresh,
}

struct Call {
    hash: String,
    keys: Vec<Key>,
    args: Vec<Value>,
}

impl Call {
    fn read(sent: &[Vec<u8>]) -> Result<Self> {
        let [_, hash, count, rest @ ..] = sent else { bail!("no call of a script") };
        let count = str::from_utf8(count)?.parse()?;
        let (keys, args) = rest.split_at_checked(count).context("as many keys as it says")?;
        Ok(Self {
            hash: str::from_utf8(hash)?.to_owned(),
            keys: keys.iter().map(|key| Key::from(key.as_slice())).collect(),
            args: args.iter().map(|arg| bytes(arg)).collect(),
        })
    }
}

fn bytes(bytes: &[u8]) -> Value {
    Value::Bytes(bytes.to_vec().into())
}

impl Bare {
    /// Records what the library sends in some work.
    pub(crate) async fn record<T>(
        client: peers::Client,
        server: &RedisServer,
        fresh: Fresh,
        work: impl Future<Output = Result<T>>,
    ) -> Result<(T, Self)> {
        let (made, sent) = wire::sent_by(server, work).await?;
        ensure!(!sent.is_empty(), "no script was run");
        let calls = sent.iter().map(|sent| Call::read(sent)).collect::<Result<Vec<_>>>()?;
        Ok((made, Self { client, calls, next: AtomicUsize::new(0), fresh }))
    }

    /// Sends the next one; whether its answer leads with 1, for done, or is the id of an event.
    pub(crate) async fn done(&self) -> Result<bool> {
        let call = &self.calls[self.next.fetch_add(1, Ordering::Relaxed) % self.calls.len()];
        let (mut keys, mut args) = (call.keys.clone(), call.args.clone());
        match self.fresh {
            Fresh::Nothing => {}
            Fresh::Session => {
                let id = id();
                for key in &mut keys {
                    let key_bytes = key.as_bytes();
                    let prefix = key_bytes.len().checked_sub(ID).context("a key with an id")?;
                    *key = Key::from([&key_bytes[..prefix], &id].concat().as_slice());
                }
                args[0] = bytes(&id);
                args[1] = bytes(&rand::rng().random::<[u8; 32]>());
            }
            Fresh::Write => args[2] = bytes(&rand::rng().random::<[u8; 8]>()),
        }
        let answer: Value = self.client.evalsha(call.hash.as_str(), keys, args).await?;
        match answer {
            Value::Array(fields) => Ok(fields.first().and_then(Value::as_u64) == Some(1)),
            Value::String(id) => Ok(id.contains('-')),
            _ => bail!("neither an array nor an id"),
        }
    }
}

/// As an id looks: 16 characters of base64url.
fn id() -> [u8; ID] {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bits: u128 = rand::rng().random();
    [0; ID].map(|_: u8| {
        bits >>= 6;
        DIGITS[usize::from(u8::try_from(bits & 63).unwrap_or_default())]
    })
}
