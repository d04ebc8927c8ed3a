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
            given_up: (0, 0),
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
    /// The numbers that were told as lost because they had not come: the first and the last.
    given_up: (u64, u64),
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
                    // The count began anew, or went back with its server: nobody knows how many
                    // there were.
                    self.last = count;
                    return LiveItem::Lost(Lost::AtLeast(0));
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
                            self.given_up = (last + 1, count);
                            return LiveItem::Lost(Lost::Exactly(count - last));
                        }
                        Some(_) => Heard::Noise,
                        None => Heard::Lost,
                    }
                }
            };
            match heard {
                // It was told as lost, and counts as that.
                Heard::It((number, _)) if self.is_late(number) => {}
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

    fn is_late(&mut self, number: u64) -> bool {
        let late = (self.given_up.0..=self.given_up.1).contains(&number);
        if !late {
            self.given_up = (0, 0);
        }
        late && number > 0
    }

    /// What lies between the last announcement and this one.
    fn heard(&mut self, number: u64) -> Option<Lost> {
        // Not later: announced while it began to listen, or the count began anew, which the next
        // look finds.
        let last = std::mem::replace(&mut self.last, number);
        let next = last.saturating_add(1);
        (number > next).then(|| Lost::Exactly(number - next))
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

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator_core::clock::ManualClock;
    use tokio::sync::mpsc;

    struct Told(mpsc::UnboundedReceiver<Heard<Announced>>);

    impl Feed<Announced> for Told {
        fn next(&mut self) -> BoxFuture<'_, Heard<Announced>> {
            Box::pin(async {
                match self.0.recv().await {
                    Some(heard) => heard,
                    None => std::future::pending().await,
                }
            })
        }
    }

    type Tell = mpsc::UnboundedSender<Heard<Announced>>;

    /// A topic of which so many were announced, and a subscription that hears what it is told.
    async fn scene(announced: u32) -> (ManualClock, Tell, LiveSubscription<u32>) {
        let clock = ManualClock::new();
        let live = Events::embedded_with_clock(Arc::new(clock.clone())).live("t").expect("a topic");
        let mut subscription = live.subscribe().await.expect("it listens");
        let (tell, told) = mpsc::unbounded_channel();
        subscription.feed = Box::new(Told(told));
        for number in 1..=announced {
            live.publish("n", &number).await.expect("announced");
        }
        (clock, tell, subscription)
    }

    fn it(number: u64) -> Heard<Announced> {
        let head = Head {
            kind: "n".into(),
            source: "s".into(),
            time_ms: 0,
            schema: 0,
            traceparent: None,
            content_type: None,
        };
        let framed = frame([0; 8], &head, number.to_string().as_bytes()).expect("a frame");
        Heard::It((number, framed.slice(8..)))
    }

    async fn lost(subscription: &mut LiveSubscription<u32>) -> Lost {
        match subscription.next().await {
            LiveItem::Lost(lost) => lost,
            other => panic!("{other:?}"),
        }
    }

    async fn number(subscription: &mut LiveSubscription<u32>) -> u32 {
        match subscription.next().await {
            LiveItem::Event(event) => event.data,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_was_told_as_lost_does_not_come_as_well() {
        let (clock, tell, mut subscription) = scene(5).await;
        let _ = tell.send(it(1));
        assert_eq!(number(&mut subscription).await, 1);
        let _ = tell.send(Heard::Lost);
        let told = {
            let mut told = std::pin::pin!(lost(&mut subscription));
            // It asks how many there were, and waits for them a while.
            assert!(futures::poll!(&mut told).is_pending());
            clock.advance(ON_ITS_WAY);
            told.await
        };
        assert_eq!(told, Lost::Exactly(4));
        for late in [2, 4, 7] {
            let _ = tell.send(it(late));
        }
        assert_eq!(lost(&mut subscription).await, Lost::Exactly(1));
        assert_eq!(number(&mut subscription).await, 7);
        // A count that began anew is another.
        let _ = tell.send(it(2));
        assert_eq!(number(&mut subscription).await, 2);
    }

    #[tokio::test]
    async fn of_a_count_that_went_back_nobody_knows_how_many_were_lost() {
        let (_clock, tell, mut subscription) = scene(5).await;
        let _ = tell.send(it(7));
        assert_eq!(lost(&mut subscription).await, Lost::Exactly(6));
        assert_eq!(number(&mut subscription).await, 7);
        let _ = tell.send(Heard::Lost);
        assert_eq!(lost(&mut subscription).await, Lost::AtLeast(0));
        // Nor does a number that nobody counted to end anything.
        let _ = tell.send(it(u64::MAX));
        assert_eq!(lost(&mut subscription).await, Lost::Exactly(u64::MAX - 6));
        assert!(matches!(subscription.next().await, LiveItem::Unreadable(_)));
        let _ = tell.send(it(1));
        assert_eq!(number(&mut subscription).await, 1);
    }
}
