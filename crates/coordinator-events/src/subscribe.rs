//! Subscriptions: the events of a scope from a place on, and what was missed.

use crate::{
    cursor::Cursor,
    envelope::{Event, RawEvent, check},
    events::Events,
    gap::Gap,
    reader::{Read, Reader},
    telemetry,
};
use coordinator_core::{Error, Result, key::Name};
use futures::{FutureExt as _, stream::Stream};
use serde::de::DeserializeOwned;
use std::{future::Future, marker::PhantomData, panic::AssertUnwindSafe};

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Position {
    /// With what is published from now on.
    #[default]
    Now,
    /// With the first event that is kept.
    Earliest,
    /// After an event, or whatever place [`Events::position`] told.
    After(Cursor),
}

/// What happens to a reader that is slower than the scope, once this process keeps no longer what
/// it has not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SlowReader {
    /// It reads the rest from the server: it loses nothing that is kept there.
    #[default]
    Spill,
    /// It goes on with the oldest event that this process keeps, and is told of a gap.
    DropOldest,
    /// It goes on with the latest event, and is told of a gap.
    Latest,
    /// Its subscription ends; it may come again with its cursor.
    Disconnect,
}

/// What a subscription yields.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Item<T> {
    /// An event.
    Event(Event<T>),
    /// Events were missed, here.
    Gap(Gap),
    /// An event that cannot be decoded as asked; the subscription goes on.
    Unreadable(Unreadable),
}

/// An event that could not be decoded.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Unreadable {
    /// It, as it came.
    pub raw: RawEvent,
    /// Why not.
    pub why: String,
}

/// A subscription to be opened, from [`Events::subscribe`].
#[derive(Debug)]
#[must_use = "nothing is heard until it is opened"]
pub struct Subscribe {
    events: Events,
    scope: String,
    types: Vec<String>,
    from: Position,
    policy: SlowReader,
}

impl Subscribe {
    pub(crate) fn new(events: Events, scope: &str) -> Self {
        Self {
            events,
            scope: scope.to_owned(),
            types: Vec::new(),
            from: Position::default(),
            policy: SlowReader::default(),
        }
    }

    /// Only events of these types: `*` stands for any characters, `?` for one; all types unless
    /// set. Events of others are passed over in this process, and gaps are told whatever was in
    /// them.
    pub fn types<I: IntoIterator<Item: Into<String>>>(mut self, types: I) -> Self {
        self.types.extend(types.into_iter().map(Into::into));
        self
    }

    /// Where to begin: [`Position::Now`] unless set.
    pub fn from(mut self, position: Position) -> Self {
        self.from = position;
        self
    }

    /// What happens when this reader is too slow: [`SlowReader::Spill`] unless set.
    pub fn slow_reader(mut self, policy: SlowReader) -> Self {
        self.policy = policy;
        self
    }

    /// Opens it; returns when it is live: whatever is published from then on comes. The data are
    /// decoded from JSON.
    ///
    /// Any number of readers of a scope in this process share one subscription on the server.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) for a scope or type that cannot be;
    /// [`Rejected`](coordinator_core::ErrorKind::Rejected) if access rules forbid the channel;
    /// [`Unavailable`](coordinator_core::ErrorKind::Unavailable) without a server, unless this
    /// process listens to the scope already and it is not to begin [now](Position::Now). Once it is
    /// open, it outlasts outages, and tells only of gaps.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn open<T: DeserializeOwned>(self) -> Result<Subscription<T>> {
        Ok(Subscription { raw: self.open_raw().await?, data: PhantomData })
    }

    /// The same without decoding: for whoever passes events on.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn open_raw(self) -> Result<RawSubscription> {
        let scope = Name::new(&self.scope)?;
        for kind in &self.types {
            check("events.subscribe", "type", kind)?;
        }
        let hub = self.events.hub(&scope).await?;
        let now = match self.from {
            Position::Now => hub.now().await?,
            Position::Earliest | Position::After(_) => (Cursor::START, 0),
        };
        let reader = Reader::new(hub, self.from, now, self.policy);
        let at = reader.at();
        Ok(RawSubscription { reader, types: self.types, at })
    }
}

/// What a [`RawSubscription`] yields.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RawItem {
    /// An event.
    Event(RawEvent),
    /// Events were missed, here.
    Gap(Gap),
    /// Events of other types were passed over, up to here: for whoever keeps the place.
    Passed(Cursor),
}

/// The events of a scope as they come, undecoded.
#[derive(Debug)]
pub struct RawSubscription {
    reader: Reader,
    types: Vec<String>,
    at: Cursor,
}

impl RawSubscription {
    /// The next event, gap, or place up to which events were passed over; none if the subscription
    /// was [disconnected](SlowReader::Disconnect). Waits for as long as it takes.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is lost by dropping the future.
    pub async fn next(&mut self) -> Option<RawItem> {
        Some(match self.reader.next().await? {
            Read::Event(raw) => {
                self.at = raw.cursor();
                let wanted = |pattern: &String| glob(pattern.as_bytes(), raw.kind().as_bytes());
                if self.types.is_empty() || !raw.is_readable() || self.types.iter().any(wanted) {
                    RawItem::Event(raw)
                } else {
                    RawItem::Passed(raw.cursor())
                }
            }
            Read::Gap(gap) => {
                self.at = gap.to;
                telemetry::gap(&gap);
                RawItem::Gap(gap)
            }
        })
    }

    /// After what was yielded last: where another subscription would go on.
    pub fn cursor(&self) -> Cursor {
        self.at
    }
}

/// The events of a scope, decoded.
#[derive(Debug)]
pub struct Subscription<T> {
    raw: RawSubscription,
    data: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Subscription<T> {
    /// The next event or gap; none if the subscription was
    /// [disconnected](SlowReader::Disconnect). Waits for as long as it takes.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is lost by dropping the future.
    pub async fn next(&mut self) -> Option<Item<T>> {
        loop {
            return Some(match self.raw.next().await? {
                RawItem::Event(raw) => match raw.typed() {
                    Ok(event) => Item::Event(event),
                    Err(error) => {
                        telemetry::unreadable();
                        Item::Unreadable(Unreadable { why: chain(&error), raw })
                    }
                },
                RawItem::Gap(gap) => Item::Gap(gap),
                RawItem::Passed(_) => continue,
            });
        }
    }

    /// After what was yielded last: where another subscription would go on.
    pub fn cursor(&self) -> Cursor {
        self.raw.cursor()
    }

    /// Hands each item to a handler, one after the other, for as long as the subscription lasts.
    /// A handler that panics has had its item; the next one comes all the same.
    ///
    /// # Cancel safety
    /// Dropping the future drops the item that is being handled.
    pub async fn for_each<F: Future<Output = ()>>(mut self, mut handler: impl FnMut(Item<T>) -> F) {
        while let Some(item) = self.next().await {
            let handled = AssertUnwindSafe(async { handler(item).await }).catch_unwind().await;
            if handled.is_err() {
                tracing::error!("a handler of events panicked; the next event goes to it again");
            }
        }
    }

    /// The same items as a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Item<T>> + Send
    where
        T: Send,
    {
        futures::stream::unfold(self, |mut subscription| async move {
            subscription.next().await.map(|item| (item, subscription))
        })
    }
}

fn chain(error: &Error) -> String {
    error.chain()
}

/// Whether a text is as a pattern says.
pub(crate) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // After the last star, and what it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            p += 1;
            star = Some((p, t));
        } else if p < pattern.len() && (pattern[p] == b'?' || pattern[p] == text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((after, taken)) = star {
            (p, t) = (after, taken + 1);
            star = Some((after, taken + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_takes_what_it_says() {
        for (pattern, text, takes) in [
            ("*", "", true),
            ("*", "a", true),
            ("", "", true),
            ("", "a", false),
            ("task_*", "task_started", true),
            ("task_*", "task_", true),
            ("task_*", "tasks", false),
            ("*_started", "task_started", true),
            ("*_st*ed", "task_st_ed_started", true),
            ("t?sk", "task", true),
            ("t?sk", "tsk", false),
            ("a*b*c", "abbbcc", true),
            ("a*b*c", "abbbcd", false),
            ("**", "x", true),
            ("[a]", "a", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), takes, "{pattern} {text}");
        }
    }
}
