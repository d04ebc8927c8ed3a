//! How a delivery is settled, and repeated as long as its lease lasts where no answer came.
//!
//! What a consumer is given, and when, is not here.

use crate::{
    backend::{Acked, Attempt, Defer, Deferred},
    events::in_ms,
    group::Group,
    hub::pause_of,
    telemetry::{self, Ended},
};
use coordinator_core::{BoxFuture, ErrorKind, Result, clock::Instant};
use std::time::Duration;

/// The longest reason that is kept, in bytes.
const REASON_MAX: usize = 512;
/// How soon what got no answer is repeated: first, and at the most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settled {
    /// As it was asked.
    Done,
    /// It had been delivered as often as may be: it is a dead letter.
    Buried,
    /// Its time was over, and it is delivered to another consumer, or settled already; or a server
    /// took over that knows nothing of it, and delivers it again.
    Gone,
}

/// A delivery to a consumer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lent {
    pub(crate) attempt: Attempt,
    /// Which delivery of the event it is, from 1 on.
    pub(crate) number: u32,
    /// It is the consumer's until then.
    pub(crate) until: Instant,
}

impl Group {
    /// Asks until there is an answer, or the lease is over: the last try begins as it ends. Whether
    /// an earlier try may have been applied.
    async fn repeated<'a, T>(
        &self,
        until: Instant,
        step: impl Fn() -> BoxFuture<'a, Result<T>>,
    ) -> Result<(T, bool)> {
        let clock = self.backend().clock();
        let (mut pause, mut unsure) = (AGAIN.0, false);
        loop {
            match step().await {
                Ok(done) => return Ok((done, unsure)),
                Err(error) if error.is_retryable() && clock.now() < until => {
                    unsure |= error.kind() == ErrorKind::Indeterminate;
                    tracing::debug!(error = %error.chain(), "a delivery is not settled yet");
                }
                Err(error) => return Err(error),
            }
            clock.sleep_until((clock.now() + pause_of(pause)).min(until)).await;
            pause = (pause * 2).min(AGAIN.1);
        }
    }

    pub(crate) async fn ack(&self, lent: Lent) -> Result<bool> {
        let ack = || self.backend().ack(&self.crew, lent.attempt);
        // Where another server took over meanwhile, it may have been another's to say: it is done.
        let done = match self.repeated(lent.until, ack).await? {
            (Acked::Done, _) => true,
            (Acked::Before, unsure) => unsure,
            (Acked::Gone, _) => false,
        };
        if done {
            self.under_way.settled(lent.attempt.id);
        }
        telemetry::delivered(if done { Ended::Acked } else { Ended::Gone });
        Ok(done)
    }

    pub(crate) async fn extend(&self, attempt: Attempt) -> Result<bool> {
        let defer = self.defer(self.options.lease, "");
        let until = self.until(self.options.lease);
        let done = self.backend().defer(&self.crew, attempt, &defer).await? == Deferred::Done;
        if done {
            self.under_way.lend(attempt.id, until);
        }
        Ok(done)
    }

    pub(crate) async fn retry(
        &self,
        lent: Lent,
        after: Option<Duration>,
        why: &str,
    ) -> Result<Settled> {
        let after = after.unwrap_or_else(|| self.pause(lent.number));
        let why = if why.is_empty() { "it failed" } else { why };
        let defer = self.defer(after, why);
        let retry = || self.backend().defer(&self.crew, lent.attempt, &defer);
        let until = self.until(after);
        let id = lent.attempt.id;
        let (settled, ended) = match self.repeated(lent.until, retry).await?.0 {
            Deferred::Done => {
                self.under_way.lend(id, until);
                (Settled::Done, Ended::Retried)
            }
            Deferred::Buried => {
                self.under_way.settled(id);
                (Settled::Buried, Ended::Buried)
            }
            Deferred::Gone => (Settled::Gone, Ended::Gone),
        };
        telemetry::delivered(ended);
        Ok(settled)
    }

    pub(crate) async fn bury(&self, lent: Lent, why: &str) -> Result<bool> {
        let why = reason(why);
        let bury = || self.backend().bury(&self.crew, lent.attempt, &why, self.ttl_ms());
        let (done, _) = self.repeated(lent.until, bury).await?;
        if done {
            self.under_way.settled(lent.attempt.id);
        }
        telemetry::delivered(if done { Ended::Buried } else { Ended::Gone });
        Ok(done)
    }

    /// How long what is due after a while is awaited, a lease more: whoever takes it then may fail.
    pub(crate) fn until(&self, after: Duration) -> Instant {
        self.backend().clock().now() + after + self.options.lease
    }

    fn defer(&self, after: Duration, why: &str) -> Defer {
        Defer {
            in_ms: in_ms(after),
            reason: reason(why),
            deliveries: self.options.deliveries,
            ttl_ms: self.ttl_ms(),
        }
    }

    /// How long after so many deliveries the next one is due.
    fn pause(&self, deliveries: u32) -> Duration {
        let (first, most) = self.options.backoff;
        let doubled = first.saturating_mul(1 << deliveries.saturating_sub(1).min(20));
        doubled.min(most).mul_f64(0.8 + 0.4 * rand::random::<f64>())
    }
}

/// Of a length, and without zero bytes, which end a text in a script.
fn reason(why: &str) -> String {
    let mut reason: String = why.chars().filter(|char| *char != '\0').collect();
    let mut end = reason.len().min(REASON_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    reason
}
