//! The owner: scopes, and what all of them have in common.

use crate::{
    backend::{Backend, From},
    cursor::Cursor,
    embedded::Embedded,
    envelope::RawEvent,
    epochs::Epochs,
    group::Group,
    hub::{Hub, Room, end},
    live::Live,
    publish::Publish,
    subscribe::Subscribe,
    telemetry,
    topic::Topics,
    under_way::Groups,
};
use coordinator_core::{
    Error, Result,
    clock::{Clock, SystemClock},
    key::Name,
};
use serde::Serialize;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

const PUBLISH: &str = "events.publish";

/// Events of scopes: each scope is one ordered stream.
///
/// Clones share everything; options are of the clone they are set on.
///
/// ```
/// use coordinator_events::{Events, Item};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let events = Events::embedded(); // or Events::redis(&connection)
/// let mut tasks = events.subscribe("crew:42").types(["task_*"]).open::<String>().await?;
///
/// events.publish("crew:42", "crew_renamed", &"night shift").await?;
/// events.publish("crew:42", "task_started", &"sweep").await?;
///
/// match tasks.next().await {
///     Some(Item::Event(event)) => assert_eq!(event.data, "sweep"),
///     other => panic!("{other:?}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Events {
    pub(crate) inner: Arc<Inner>,
    pub(crate) options: Options,
}

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) source: Arc<str>,
    pub(crate) keep: u64,
    pub(crate) ttl: Duration,
    pub(crate) max_age: Option<Duration>,
    pub(crate) remembered: Duration,
    pub(crate) payload_max: usize,
    room: Room,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) backend: Arc<dyn Backend>,
    hubs: Mutex<HashMap<String, Weak<Hub>>>,
    pub(crate) topics: Topics,
    pub(crate) epochs: Epochs,
    pub(crate) groups: Groups,
}

impl Events {
    /// The default of [`with_retention`](Self::with_retention): 10,000 events, for a day after the
    /// last.
    pub const RETENTION: (u64, Duration) = (10_000, Duration::from_hours(24));
    /// The default of [`with_max_payload`](Self::with_max_payload): 1 MiB.
    pub const MAX_PAYLOAD: usize = 1024 * 1024;
    /// The default of [`with_idempotency`](Self::with_idempotency): five minutes.
    pub const IDEMPOTENCY: Duration = Duration::from_mins(5);

    /// Events over Redis or Valkey.
    #[cfg(feature = "redis")]
    pub fn redis(connection: &coordinator_core::redis::Connection) -> Self {
        Self::over(Arc::new(crate::redis::Redis::new(connection)))
    }

    /// Events in this process alone.
    pub fn embedded() -> Self {
        Self::embedded_with_clock(Arc::new(SystemClock))
    }

    /// The same on another clock, for tests.
    pub fn embedded_with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::over(Arc::new(Embedded::new(clock)))
    }

    pub(crate) fn over(backend: Arc<dyn Backend>) -> Self {
        coordinator_core::telemetry::describe(telemetry::METRICS);
        let (keep, ttl) = Self::RETENTION;
        let options = Options {
            source: "coordinator".into(),
            keep,
            ttl,
            max_age: None,
            remembered: Self::IDEMPOTENCY,
            payload_max: Self::MAX_PAYLOAD,
            room: Room { events: 1024, bytes: 4 * 1024 * 1024 },
        };
        let (hubs, topics) = (Mutex::default(), Topics::default());
        let (epochs, groups) = (Epochs::default(), Groups::default());
        let inner = Inner { backend, hubs, topics, epochs, groups };
        Self { inner: Arc::new(inner), options }
    }

    /// Who publishes, as CloudEvents' `source`: `coordinator` unless set.
    pub fn with_source(mut self, source: &str) -> Self {
        self.options.source = source.into();
        self
    }

    /// How many events of a scope are kept at least (a server keeps some hundred more), and for how
    /// long after the last publish (up to a sixteenth longer): 10,000 and a day unless set. Readers
    /// that come later than that are told what they missed.
    ///
    /// Of two publishers to one scope that want other times, it is kept for the longer one.
    pub fn with_retention(mut self, events: u64, ttl: Duration) -> Self {
        (self.options.keep, self.options.ttl) = (events, ttl);
        self
    }

    /// How old an event of a scope may get, by its own time: as old as the scope unless set.
    ///
    /// Older ones go when something is published to the scope by these, at most every sixteenth of
    /// that time, in the background; a scope to which nobody publishes goes as a whole, see
    /// [`with_retention`](Self::with_retention). Readers that come later are told how many they
    /// missed.
    pub fn with_max_age(mut self, age: Duration) -> Self {
        self.options.max_age = Some(age);
        self
    }

    /// For how long an idempotency key is remembered: five minutes unless set.
    pub fn with_idempotency(mut self, remembered: Duration) -> Self {
        self.options.remembered = remembered;
        self
    }

    /// The longest data in bytes that are published: 1 MiB unless set, 15 MiB at the most. Longer
    /// ones are refused before anything is sent.
    pub fn with_max_payload(mut self, bytes: usize) -> Self {
        self.options.payload_max = bytes.min(15 * 1024 * 1024);
        self
    }

    /// How much of a scope or live topic is kept in this process for its readers: 1,024 events and
    /// 4 MiB unless set. Slower readers get by as [`SlowReader`](crate::SlowReader) says, and are
    /// told what they lost of a live topic. For scopes and topics that nobody in this process reads
    /// yet.
    pub fn with_local_ring(mut self, events: usize, bytes: usize) -> Self {
        self.options.room = Room { events, bytes };
        self
    }

    /// An event to be published, as JSON; awaiting it publishes.
    ///
    /// A scope is any text of 1 to 512 bytes; a type one of 1 to 256 without control characters.
    ///
    /// # Errors
    /// Awaiting fails with [`Misuse`](coordinator_core::ErrorKind::Misuse) for a scope, type,
    /// source or trace context that cannot be, data that cannot be serialized or are too long;
    /// [`Unavailable`](coordinator_core::ErrorKind::Unavailable) if it was surely not published;
    /// [`Indeterminate`](coordinator_core::ErrorKind::Indeterminate) if it perhaps was: with an
    /// [idempotency key](Publish::idempotent) it can be repeated;
    /// [`Rejected`](coordinator_core::ErrorKind::Rejected) if the server refuses.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is published.
    pub fn publish<T: Serialize + ?Sized>(&self, scope: &str, kind: &str, data: &T) -> Publish {
        let data = serde_json::to_vec(data).map_err(|error| {
            Error::misuse(PUBLISH, format!("the data cannot be serialized: {error}"))
        });
        Publish::new(self.clone(), scope, kind, data, None)
    }

    /// An event whose data are bytes of a content type of the caller's.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn publish_raw(&self, scope: &str, kind: &str, content_type: &str, data: &[u8]) -> Publish {
        Publish::new(self.clone(), scope, kind, Ok(data.to_vec()), Some(content_type.to_owned()))
    }

    /// A subscription to a scope, to be opened.
    pub fn subscribe(&self, scope: &str) -> Subscribe {
        Subscribe::new(self.clone(), scope)
    }

    /// After the last event of a scope: for whoever reads a state first, and then what happens to
    /// it, [after](crate::Position::After) this place.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) for a scope that cannot be, else as
    /// [`publish`](Self::publish).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn position(&self, scope: &str) -> Result<Cursor> {
        end(&*self.inner.backend, &Name::new(scope)?).await
    }

    /// The last event of a scope, if it is kept: what [`position`](Self::position) is after.
    ///
    /// # Errors
    /// As [`position`](Self::position).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn last(&self, scope: &str) -> Result<Option<RawEvent>> {
        let page = self.inner.backend.read(&Name::new(scope)?, From::Last, 1).await?;
        Ok(page.and_then(|page| {
            let last = page.events.into_iter().last().filter(|last| last.id == page.last)?;
            Some(RawEvent::new(Cursor::new(last.id, last.nonce), &last.envelope))
        }))
    }

    /// Forgets the events of a scope up to a place, the one it is after included; how many these
    /// were. Readers that had not come so far are told.
    ///
    /// # Errors
    /// As [`position`](Self::position).
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether they are forgotten.
    pub async fn trim(&self, scope: &str, up_to: Cursor) -> Result<u64> {
        self.inner.backend.trim(&Name::new(scope)?, up_to.id.next()).await
    }

    /// A topic whose announcements only reach who listens at that moment.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) for a topic that is empty or longer than 512
    /// bytes.
    pub fn live(&self, topic: &str) -> Result<Live> {
        Ok(Live::new(self.clone(), Name::new(topic)?))
    }

    /// A group of consumers that share the events of a scope: each event goes to one of them.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) for a scope or group that is empty or longer
    /// than 512 bytes.
    pub fn group(&self, scope: &str, group: &str) -> Result<Group> {
        Ok(Group::new(self.clone(), Name::new(scope)?, Name::new(group)?))
    }

    /// The scope of what happens to a crew, `crew:<id>`, for [`publish`](Self::publish) and
    /// [`subscribe`](Self::subscribe): what others call the channel `crew:<id>:<type>`.
    pub fn crew(id: &str) -> String {
        format!("crew:{id}")
    }

    /// The scope `system`: what others call the channel `system:<type>`.
    pub const SYSTEM: &'static str = "system";

    /// The live topic `metrics:orchestrator`.
    pub const METRICS: &'static str = "metrics:orchestrator";

    pub(crate) fn source(&self) -> &str {
        &self.options.source
    }

    pub(crate) fn room(&self) -> Room {
        self.options.room
    }

    pub(crate) fn payload_max(&self) -> usize {
        self.options.payload_max
    }

    /// What is heard of a scope in this process, live.
    pub(crate) async fn hub(&self, scope: &Name) -> Result<Arc<Hub>> {
        let hub = self.inner.hub(scope, self.options.room);
        hub.live().await?;
        Ok(hub)
    }
}

/// A thousand years: no server counts to the end of [`Duration::MAX`].
const LONGEST_MS: u64 = 1000 * 365 * 24 * 60 * 60 * 1000;

pub(crate) fn in_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(LONGEST_MS)
}

impl Inner {
    fn hub(&self, scope: &Name, room: Room) -> Arc<Hub> {
        let mut hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hub) = hubs.get(scope.as_str()).and_then(Weak::upgrade) {
            return hub;
        }
        if hubs.len() == hubs.capacity() {
            hubs.retain(|_, hub| hub.strong_count() > 0);
        }
        let hub = Arc::new(Hub::new(self.backend.clone(), scope.clone(), room));
        hubs.insert(scope.as_str().to_owned(), Arc::downgrade(&hub));
        hub
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_event_is_what_the_position_is_after() {
        let events = Events::embedded();
        assert!(events.last("crew:42").await.expect("a look").is_none());
        for kind in ["task_started", "task_done"] {
            let _ = events.publish("crew:42", kind, &1).await.expect("a publish");
            let last = events.last("crew:42").await.expect("a look").expect("an event");
            assert_eq!(last.kind(), kind);
            assert_eq!(last.cursor(), events.position("crew:42").await.expect("a position"));
        }
        events.trim("crew:42", events.position("crew:42").await.unwrap()).await.expect("a trim");
        assert!(events.last("crew:42").await.expect("a look").is_none(), "it is not kept");
    }

    #[tokio::test]
    async fn a_subscription_says_where_it_begins() {
        let events = Events::embedded();
        let _ = events.publish("crew:42", "task_started", &1).await.expect("a publish");
        let position = events.position("crew:42").await.expect("a position");
        for (from, at) in [
            (crate::Position::Now, position),
            (crate::Position::Earliest, Cursor::START),
            (crate::Position::After(position), position),
        ] {
            let opened = events.subscribe("crew:42").from(from).open_raw().await.expect("open");
            assert_eq!(opened.cursor(), at);
        }
    }
}
