//! An event on its way.

use crate::{cursor::Cursor, events::Events};
use coordinator_core::{BoxFuture, Error, Result};
use std::{future::IntoFuture, time::Duration};

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
        let events = self.events.clone();
        Box::pin(async move { events.send(self).await })
    }
}
