//! Topics that are announced to whoever listens, and kept for nobody: at most once, the loss
//! counted.

use crate::{
    backend::{Announced, Backend, Feed, Heard},
    cursor::Cursor,
    envelope::{Event, Head, RawEvent, frame},
    events::{Events, in_ms},
    gap::Lost,
    subscribe::Unreadable,
    telemetry,
};
use bytes::Bytes;
use coordinator_core::{BoxFuture, Error, Result, key::Name};
use futures::future::{Either, select};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

const STEP: &str = "events.announce";
/// How often the count is looked at where nothing is heard.
const LOOK: Duration = Duration::from_secs(2);
/// For how long what was counted may be on its way.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

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
        let feed = self.backend().follow(&self.topic).await?;
        let base = self.backend().announced(&self.topic).await?;
        let alarm = self.backend().clock().sleep(LOOK);
        Ok(LiveSubscription {
            live: self.clone(),
            feed,
            alarm,
            last: base,
            unsure: false,
            counted: None,
            waiting: None,
            data: PhantomData,
        })
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

/// The announcements on a topic.
pub struct LiveSubscription<T> {
    live: Live,
    feed: Box<dyn Feed<Announced>>,
    alarm: BoxFuture<'static, ()>,
    /// The number of the last that was heard, or counted.
    last: u64,
    /// Something may have been missed.
    unsure: bool,
    /// So many were announced a while ago.
    counted: Option<u64>,
    /// Told after the loss before it.
    waiting: Option<Bytes>,
    data: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for LiveSubscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveSubscription").field("topic", &self.live.topic).finish_non_exhaustive()
    }
}

impl<T: DeserializeOwned> LiveSubscription<T> {
    /// The next announcement, or how many were missed. Waits for as long as it takes.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing that was heard is lost by dropping the future.
    pub async fn next(&mut self) -> LiveItem<T> {
        loop {
            if let Some(envelope) = self.waiting.take() {
                return told(&envelope);
            }
            if self.unsure
                && let Ok(count) = self.live.backend().announced(&self.live.topic).await
            {
                self.unsure = false;
                if count < self.last {
                    // The count began anew.
                    self.last = count;
                    return LiveItem::Lost(Lost::AtLeast(count));
                }
                self.counted = Some(count);
                self.alarm = self.live.backend().clock().sleep(ON_ITS_WAY);
            }
            let heard = match select(self.feed.next(), &mut self.alarm).await {
                Either::Left((heard, _)) => heard,
                Either::Right(_) => {
                    self.alarm = self.live.backend().clock().sleep(LOOK);
                    let last = self.last;
                    match self.counted.take() {
                        Some(count) if count > last => {
                            self.last = count;
                            return LiveItem::Lost(Lost::Exactly(count - last));
                        }
                        Some(_) => Heard::Noise,
                        None => Heard::Lost,
                    }
                }
            };
            match heard {
                Heard::It((number, envelope)) => {
                    if let Some(lost) = self.heard(number) {
                        self.waiting = Some(envelope);
                        return LiveItem::Lost(lost);
                    }
                    return told(&envelope);
                }
                Heard::Noise => {}
                Heard::Lost => self.unsure = true,
            }
        }
    }

    /// What lies between the last announcement and this one.
    fn heard(&mut self, number: u64) -> Option<Lost> {
        // Not later: announced while it began to listen, or told as lost and come all the same, or
        // the count began anew, which the next look finds.
        let last = std::mem::replace(&mut self.last, number);
        (number > last + 1).then(|| Lost::Exactly(number - last - 1))
    }
}

fn told<T: DeserializeOwned>(envelope: &Bytes) -> LiveItem<T> {
    let raw = RawEvent::new(Cursor::START, envelope);
    match raw.typed() {
        Ok(event) => LiveItem::Event(event),
        Err(error) => {
            telemetry::unreadable();
            LiveItem::Unreadable(Unreadable { why: error.chain(), raw })
        }
    }
}
