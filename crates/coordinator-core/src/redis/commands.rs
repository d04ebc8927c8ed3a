//! The few single-value commands that need no atomic decision.

use super::{Connection, classify};
use crate::{
    Error, Result,
    telemetry::{Outcome, Step},
};
use bytes::Bytes;
use fred::{
    interfaces::KeysInterface,
    prelude::ClientLike,
    types::{Expiration, Value},
};
use std::time::Duration;

/// The largest byte that may begin a stored value. Texts that a reply could be mistaken for
/// (`message`, `ASK …`) begin with letters, so no value may begin with one.
const CODEC_MAX: u8 = 0x1f;

static GET: Step = Step::new("core.get");
static SET: Step = Step::new("core.set");
static DELETE: Step = Step::new("core.delete");
static PING: Step = Step::new("core.ping");

impl Connection {
    /// The value of a key.
    ///
    /// # Errors
    /// As [`run`](Self::run); never [`Indeterminate`](crate::ErrorKind::Indeterminate).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let turn = self.turn(&GET).await?;
        let answer = turn.client().get(key).await;
        turn.end(answer, |answer| answer.map_err(|error| classify::read(GET.name(), &error)))
    }

    /// Sets a key for `ttl` (whole milliseconds, at least one).
    ///
    /// The value begins with a codec byte, `0x01` to `0x1f`: a value that begins with a letter
    /// could be mistaken for a message or a redirection when it is read back.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Misuse`](crate::ErrorKind::Misuse) for a value without a codec
    /// byte or a ttl under a millisecond.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the key is set.
    pub async fn set(&self, key: &str, value: Bytes, ttl: Duration) -> Result<()> {
        let misuse = |why: &str| {
            SET.count(Outcome::Misuse);
            Err(Error::misuse(SET.name(), why))
        };
        if !matches!(value.first(), Some(1..=CODEC_MAX)) {
            return misuse("a stored value begins with a codec byte");
        }
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        if ttl_ms == 0 {
            return misuse("the ttl is under a millisecond");
        }
        let turn = self.turn(&SET).await?;
        let expiry = Some(Expiration::PX(ttl_ms));
        let answer = turn.client().set::<Value, _, _>(key, value, expiry, None, false).await;
        turn.end(answer, |answer| {
            answer.map(|_| ()).map_err(|error| classify::command(SET.name(), &error))
        })
    }

    /// Deletes a key; answers whether it was there.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the key is deleted.
    pub async fn delete(&self, key: &str) -> Result<bool> {
        let turn = self.turn(&DELETE).await?;
        let answer = turn.client().del::<i64, _>(key).await;
        turn.end(answer, |answer| {
            answer
                .map(|deleted| deleted > 0)
                .map_err(|error| classify::command(DELETE.name(), &error))
        })
    }

    /// One round trip that does nothing, and how long it took.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ping(&self) -> Result<Duration> {
        let turn = self.turn(&PING).await?;
        let before = self.clock().now();
        let answer = turn.client().ping::<Value>(None).await;
        turn.end(answer, |answer| answer.map_err(|error| classify::read(PING.name(), &error)))?;
        Ok(self.clock().now().saturating_since(before))
    }
}
