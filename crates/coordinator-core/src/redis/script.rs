//! Scripts: one atomic step each, known by its hash.

use super::{Connection, Reply, classify};
use crate::{Error, Result, telemetry::Step};
use bytes::Bytes;
use fred::{
    interfaces::LuaInterface,
    types::{Key, Value},
};
use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};
use tracing::Instrument as _;

/// A Lua script: one atomic step of a part.
///
/// It answers an integer, a text that begins with a digit, or an array that begins with an
/// integer, takes the time from `TIME`, and is safe to run twice with the same token.
///
/// ```
/// use coordinator_core::redis::Script;
///
/// static ONE: Script = Script::new("example.one", "return 1");
/// assert_eq!(ONE.name(), "example.one");
/// ```
#[derive(Debug)]
pub struct Script {
    step: Step,
    source: &'static str,
    hash: OnceLock<String>,
}

impl Script {
    /// A script named after its part and step, such as `locks.acquire`.
    pub const fn new(name: &'static str, source: &'static str) -> Self {
        Self { step: Step::new(name), source, hash: OnceLock::new() }
    }

    /// Its name, which is also the step of its errors.
    pub fn name(&self) -> &'static str {
        self.step.name()
    }

    /// Its Lua text.
    pub fn source(&self) -> &'static str {
        self.source
    }

    /// The SHA-1 of its text in hex, as the server knows it.
    pub fn hash(&self) -> &str {
        self.hash.get_or_init(|| fred::util::sha1_hash(self.source))
    }
}

/// An argument of a script: a number or bytes.
#[derive(Debug, Clone)]
pub struct Arg(Value);

impl Arg {
    /// Bytes, copied.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Value::Bytes(Bytes::copy_from_slice(bytes)))
    }

    pub(super) fn into_value(self) -> Value {
        self.0
    }
}

impl From<i64> for Arg {
    fn from(number: i64) -> Self {
        Self(Value::Integer(number))
    }
}

impl From<String> for Arg {
    fn from(text: String) -> Self {
        Self(Value::Bytes(text.into()))
    }
}

impl From<Bytes> for Arg {
    fn from(bytes: Bytes) -> Self {
        Self(Value::Bytes(bytes))
    }
}

impl From<&str> for Arg {
    fn from(text: &str) -> Self {
        Self(Value::Bytes(Bytes::copy_from_slice(text.as_bytes())))
    }
}

impl Connection {
    /// Runs a script with EVALSHA, and with EVAL where the server does not know it yet.
    ///
    /// All keys are in one slot. It is sent at most once per call, except that a server without
    /// the script gets its text.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if it was surely not applied,
    /// [`Indeterminate`](crate::ErrorKind::Indeterminate) if it perhaps was,
    /// [`Rejected`](crate::ErrorKind::Rejected) if the server refused it,
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the answer leads with no number.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the script runs.
    pub async fn run(&self, script: &Script, keys: Vec<String>, args: Vec<Arg>) -> Result<Reply> {
        let span = tracing::debug_span!("script", step = script.name());
        self.run_in_span(script, keys, args, None).instrument(span).await
    }

    /// As [`run`](Self::run), and sets `sent` at the moment from which on it was perhaps sent:
    /// while it is unset, whatever the outcome, nothing was.
    ///
    /// For callers that drop the future, or clean up after errors.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the script runs if `sent` is set.
    pub async fn run_telling(
        &self,
        script: &Script,
        keys: Vec<String>,
        args: Vec<Arg>,
        sent: &AtomicBool,
    ) -> Result<Reply> {
        let span = tracing::debug_span!("script", step = script.name());
        self.run_in_span(script, keys, args, Some(sent)).instrument(span).await
    }

    async fn run_in_span(
        &self,
        script: &Script,
        keys: Vec<String>,
        args: Vec<Arg>,
        sent: Option<&AtomicBool>,
    ) -> Result<Reply> {
        let turn = self.turn(&script.step).await?;
        if let Some(sent) = sent {
            sent.store(true, Ordering::Release);
        }
        let client = turn.client();
        let keys: Vec<Key> = keys.into_iter().map(Key::from).collect();
        let args: Vec<Value> = args.into_iter().map(Arg::into_value).collect();
        // Clones of bytes are cheap; they are needed again only where the script is unknown.
        // A seam: concurrent runs of one step could be coalesced into one here.
        let mut answer =
            client.evalsha::<Value, _, _, _>(script.hash(), keys.clone(), args.clone()).await;
        if let Err(error) = &answer
            && classify::is_redirected(error)
        {
            answer = client.evalsha(script.hash(), keys.clone(), args.clone()).await;
        }
        if let Err(error) = &answer
            && classify::is_noscript(error)
        {
            tracing::debug!("the server does not know the script, sending its text");
            answer = client.eval(script.source, keys, args).await;
        }
        turn.end(answer, |answer| {
            let step = script.name();
            let value = answer.map_err(|error| classify::command(step, &error))?;
            let reply = Reply::from_value(step, value)?;
            if reply.leads_with_number() {
                Ok(reply)
            } else {
                Err(Error::corrupt(step, "the answer leads with no number"))
            }
        })
    }
}
