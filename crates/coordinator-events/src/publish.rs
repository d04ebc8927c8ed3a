//! An event on its way.

use crate::{
    backend::{Entry, Posted},
    cursor::{Cursor, Nonce},
    envelope::{self, Head},
    epochs::Known,
    events::{Events, in_ms},
    telemetry::{self, Sent},
};
use coordinator_core::{BoxFuture, Error, Result, key::Name};
use std::{future::IntoFuture, time::Duration};

const PUBLISH: &str = "events.publish";
/// Which part of its life a scope gets on top, so that not every event has to prolong it.
const SPARE: u32 = 16;

/// Who must have an event before its publish is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ack {
    /// The server alone, as it is unless asked otherwise.
    Primary,
    /// So many of its replicas, too, within a time: else the outcome is
    /// [`Indeterminate`](coordinator_core::ErrorKind::Indeterminate). The embedded backend has
    /// none, and acknowledges at once.
    Replicas {
        /// How many.
        count: u32,
        /// How long to wait for them.
        within: Duration,
    },
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "it may not have been published"]
pub enum Published {
    /// It is published, and stands here.
    New(Cursor),
    /// Its idempotency key was used before, for the event that stands here.
    Duplicate(Cursor),
    /// It is not published: the scope is in another epoch than the one it was
    /// [fenced](Publish::fenced) to.
    Fenced {
        /// The one that it is in; 0 for none.
        epoch: u64,
    },
}

impl Published {
    /// Where the event stands; none if it is not published.
    pub fn cursor(self) -> Option<Cursor> {
        match self {
            Self::New(cursor) | Self::Duplicate(cursor) => Some(cursor),
            Self::Fenced { .. } => None,
        }
    }
}

/// An event to be published, from [`Events::publish`]. Awaiting it publishes.
#[derive(Debug)]
#[must_use = "nothing is published until it is awaited"]
pub struct Publish {
    events: Events,
    pub(crate) scope: String,
    pub(crate) kind: String,
    pub(crate) data: Result<Vec<u8>>,
    pub(crate) content_type: Option<String>,
    pub(crate) schema: u32,
    pub(crate) traceparent: Option<String>,
    pub(crate) once: Option<String>,
    pub(crate) ack: Ack,
    pub(crate) fence: Option<Cursor>,
}

impl Publish {
    pub(crate) fn new(
        events: Events,
        scope: &str,
        kind: &str,
        data: Result<Vec<u8>, Error>,
        content_type: Option<String>,
    ) -> Self {
        Self {
            events,
            scope: scope.to_owned(),
            kind: kind.to_owned(),
            data,
            content_type,
            schema: 0,
            traceparent: None,
            once: None,
            ack: Ack::Primary,
            fence: None,
        }
    }

    /// Publishes at most one event with this key in the scope while the key is remembered: who
    /// repeats it is told of the first. Any text of 1 to 512 bytes.
    pub fn idempotent(mut self, key: &str) -> Self {
        self.once = Some(key.to_owned());
        self
    }

    /// The version of the data's schema, 0 unless set.
    pub fn schema_version(mut self, version: u32) -> Self {
        self.schema = version;
        self
    }

    /// The W3C trace context (`traceparent`) that it belongs to.
    pub fn trace(mut self, traceparent: &str) -> Self {
        self.traceparent = Some(traceparent.to_owned());
        self
    }

    /// Who must have it before it is acknowledged.
    pub fn ack(mut self, ack: Ack) -> Self {
        self.ack = ack;
        self
    }

    /// Publishes only if the scope is still in the epoch of this place: a publisher whose past may
    /// have been lost with a server is told [`Published::Fenced`] instead of going on.
    ///
    /// A fenced publish begins no epoch. After a failover somebody has to: whoever was fenced reads
    /// what there is, publishes once without a fence, and is fenced to that place from then on.
    ///
    /// Over Redis that needs the right to ask `INFO`; without it each link that is made anew begins
    /// a new epoch.
    pub fn fenced(mut self, at: Cursor) -> Self {
        self.fence = Some(at);
        self
    }
}

impl IntoFuture for Publish {
    type Output = Result<Published>;
    type IntoFuture = BoxFuture<'static, Result<Published>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let sent = self.send().await;
            telemetry::published(match &sent {
                Ok(Published::New(_)) => Sent::Done,
                Ok(Published::Duplicate(_)) => Sent::Duplicate,
                Ok(Published::Fenced { .. }) => Sent::Fenced,
                Err(_) => Sent::Failed,
            });
            sent
        })
    }
}

impl Publish {
    async fn send(self) -> Result<Published> {
        let Events { inner, options } = &self.events;
        let backend = &inner.backend;
        let scope = Name::new(&self.scope)?;
        let data = self.data?;
        if data.len() > options.payload_max {
            let why = format!("{} bytes are more than {}", data.len(), options.payload_max);
            return Err(Error::misuse(PUBLISH, why));
        }
        if options.keep == 0 || options.ttl < Duration::from_millis(1) {
            return Err(Error::misuse(PUBLISH, "what is published is kept, if shortly"));
        }
        let head = Head {
            kind: self.kind,
            source: options.source.to_string(),
            time_ms: in_ms(backend.clock().unix_time()),
            schema: self.schema,
            traceparent: self.traceparent,
            content_type: self.content_type,
        };
        let nonce: Nonce = rand::random();
        let frame = envelope::frame(nonce, &head, &data)?;
        // Before it is asked: what changes meanwhile is looked for the next time.
        let generation = backend.generation();
        let known = inner.epochs.known(scope.as_str());
        let now = backend.clock().now();
        let fresh = known.filter(|known| {
            let ago = now.saturating_since(known.checked);
            known.generation == generation && ago < options.ttl / 2
        });
        // Where it is prolonged by more than is promised, not every event has to.
        let life = options.ttl.saturating_add(options.ttl / SPARE);
        let entry = Entry {
            epoch: self.fence.map_or_else(|| known.map_or(0, |known| known.epoch), |at| at.epoch()),
            // Nor does a fence trust that the server is the one that the link was made to: a
            // cluster may send it on.
            check: fresh.is_none() || self.fence.is_some(),
            generation: Some(generation),
            strict: self.fence.is_some(),
            frame,
            keep: options.keep,
            ttl_ms: in_ms(life),
            prolongs: fresh.is_none_or(|known| known.lives < now + options.ttl),
            once: match &self.once {
                Some(key) => Some((Name::new(key)?, in_ms(options.remembered).max(1))),
                None => None,
            },
            replicas: match self.ack {
                Ack::Primary => None,
                Ack::Replicas { count, within } => Some((count, in_ms(within))),
            },
        };
        Ok(match backend.publish(&scope, &entry).await? {
            Posted::New(id) => {
                let is_news = fresh.is_none_or(|known| known.epoch != id.epoch);
                if is_news || entry.prolongs {
                    let checked = fresh.map_or(now, |known| known.checked);
                    let (epoch, lives) = (id.epoch, now + life);
                    let known = Known { epoch, generation, checked, lives, swept: None };
                    inner.epochs.learn(scope.as_str(), known);
                }
                self.events.sweep(&scope);
                Published::New(Cursor::new(id, nonce))
            }
            Posted::Before(id) => Published::Duplicate(Cursor { id, nonce: None }),
            Posted::Fenced(epoch) => {
                if epoch > 0 {
                    // What it was published with was not known, but asked for.
                    inner.epochs.forget(scope.as_str());
                }
                Published::Fenced { epoch }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator_core::clock::ManualClock;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_scope_outlives_each_of_its_events_by_what_was_promised() {
        let clock = ManualClock::new();
        let events = Events::embedded_with_clock(Arc::new(clock.clone()));
        let of = |seconds| events.clone().with_retention(100, Duration::from_secs(seconds));
        let (long, short) = (of(32), of(16));
        let there = async || {
            let scope = Name::new("s").expect("a name");
            let page = events.inner.backend.read(&scope, crate::backend::From::First, 1000).await;
            page.expect("an answer").map_or(0, |page| page.events.len())
        };
        // However soon after one another they come, whoever publishes them.
        let mut count = 0;
        for (publisher, seconds) in [(&short, 16), (&long, 32), (&short, 16)] {
            for pause_ms in [1, 999, 1000, 1001, 15_000, 1] {
                clock.advance(Duration::from_millis(pause_ms));
                let posted = publisher.publish("s", "a", &1).await.expect("published");
                assert!(matches!(posted, Published::New(_)));
                count += 1;
            }
            clock.advance(Duration::from_secs(seconds));
            assert_eq!(there().await, count, "after {seconds} s");
        }
        // The last one of the long kind was 32 s before this.
        clock.advance(Duration::from_secs(2));
        assert_eq!(there().await, 0);
    }
}
