//! Topics that are announced to whoever listens, and kept for nobody: at most once, the loss
//! counted.

use crate::{
    backend::Backend,
    envelope::{Event, Head, RawEvent, frame},
    events::{Events, in_ms},
    gap::Lost,
    subscribe::Unreadable,
    telemetry,
    topic::{Place, Told, Topic},
};
use coordinator_core::{Error, Result, key::Name};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, marker::PhantomData, sync::Arc};
use tokio::sync::watch;

const STEP: &str = "events.announce";

/// A topic, from [`Events::live`].
#[derive(Debug, Clone)]
pub struct Live {
    events: Events,
    topic: Name,
}

impl Live {
    pub(crate) fn new(events: Events, topic: Name) -> Self {
        Self { events, topic }
    }

    fn backend(&self) -> &Arc<dyn Backend> {
        &self.events.inner.backend
    }

    /// Announces an event to whoever listens now; how many there were before it, for a day after
    /// the last.
    ///
    /// # Errors
    /// As [`Events::publish`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is announced.
    pub async fn publish<T: Serialize + ?Sized>(&self, kind: &str, data: &T) -> Result<u64> {
        let data = serde_json::to_vec(data).map_err(|error| {
            Error::misuse(STEP, format!("the data cannot be serialized: {error}"))
        })?;
        if data.len() > self.events.payload_max() {
            let why = format!("{} bytes are more than {}", data.len(), self.events.payload_max());
            return Err(Error::misuse(STEP, why));
        }
        let head = Head {
            kind: kind.to_owned(),
            source: self.events.source().to_owned(),
            time_ms: in_ms(self.backend().clock().unix_time()),
            schema: 0,
            traceparent: None,
            content_type: None,
        };
        let framed = frame([0; 8], &head, &data)?;
        let number = self.backend().announce(&self.topic, framed.slice(8..)).await?;
        Ok(number.saturating_sub(1))
    }

    /// Listens; returns when it is live: whatever is announced from then on comes, or is counted.
    ///
    /// # Errors
    /// As [`Subscribe::open`](crate::Subscribe::open).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn subscribe<T: DeserializeOwned>(&self) -> Result<LiveSubscription<T>> {
        let inner = &self.events.inner;
        let topic = inner.topics.topic(&inner.backend, &self.topic, self.events.room());
        let place = topic.join().await?;
        Ok(LiveSubscription { head: topic.head(), topic, place, data: PhantomData })
    }
}

/// What a [`LiveSubscription`] yields.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LiveItem<T> {
    /// An announcement.
    Event(Event<T>),
    /// So many were missed.
    Lost(Lost),
    /// One that cannot be decoded as asked; the subscription goes on.
    Unreadable(Unreadable),
}

/// The announcements on a topic. Any number of them in this process share one subscription on the
/// server, and what they have not read yet within the
/// [local ring](crate::Events::with_local_ring): whoever is slower is told how many it lost.
pub struct LiveSubscription<T> {
    topic: Arc<Topic>,
    head: watch::Receiver<u64>,
    place: Place,
    data: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for LiveSubscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveSubscription").field("topic", self.topic.name()).finish_non_exhaustive()
    }
}

impl<T: DeserializeOwned> LiveSubscription<T> {
    /// The next announcement, or how many were missed. Waits for as long as it takes.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing that was heard is lost by dropping the future.
    pub async fn next(&mut self) -> LiveItem<T> {
        loop {
            self.head.mark_unchanged();
            match self.topic.next(&mut self.place) {
                Some(Told::Event(raw)) => return decoded(raw),
                Some(Told::Lost(lost)) => return LiveItem::Lost(lost),
                // Only the topic has the sender, and this has the topic.
                None => drop(self.head.changed().await),
            }
        }
    }
}

fn decoded<T: DeserializeOwned>(raw: RawEvent) -> LiveItem<T> {
    match raw.typed() {
        Ok(event) => LiveItem::Event(event),
        Err(error) => {
            telemetry::unreadable();
            LiveItem::Unreadable(Unreadable { why: error.chain(), raw })
        }
    }
}
