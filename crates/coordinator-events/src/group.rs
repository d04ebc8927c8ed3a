//! Groups: the events of a scope as work, each for one consumer, until it is done.

use crate::{
    backend::{Backend, Crew, Take, Taken, Token},
    consumer::Consumer,
    cursor::{Cursor, Id},
    envelope::RawEvent,
    events::{Events, in_ms},
    hub::Hub,
    under_way::UnderWay,
};
use coordinator_core::{Result, key::Name};
use std::{sync::Arc, time::Duration};

/// How many dead letters a page has.
const LETTERS: usize = 100;

/// Consumers that share the events of a scope, from [`Events::group`]: each event is delivered to
/// one of them, and again to another if that one does not finish it in time.
///
/// A group exists from the first time that one of its consumers takes work. What was delivered is
/// kept by the group itself, so that trimming the scope takes no work away.
#[derive(Debug, Clone)]
pub struct Group {
    pub(crate) events: Events,
    pub(crate) crew: Crew,
    pub(crate) options: Options,
    pub(crate) under_way: Arc<UnderWay>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    begin: Option<Id>,
    pub(crate) lease: Duration,
    pub(crate) deliveries: u32,
    pub(crate) backoff: (Duration, Duration),
    ttl: Duration,
    pub(crate) batch: usize,
}

impl Group {
    pub(crate) fn new(events: Events, scope: Name, group: Name) -> Self {
        let options = Options {
            begin: Some(Id::START),
            lease: Duration::from_secs(30),
            deliveries: 5,
            backoff: (Duration::from_secs(1), Duration::from_mins(5)),
            ttl: Duration::from_hours(7 * 24),
            batch: 16,
        };
        let under_way = Arc::default();
        Self { events, crew: Crew { scope, group }, options, under_way }
    }

    /// Where a group begins that is not there yet: with the first event that is kept, unless set.
    pub fn beginning_after(mut self, place: Cursor) -> Self {
        self.options.begin = Some(place.id);
        self
    }

    /// A group that is not there yet begins with what is published after its first
    /// [`consumer`](Self::consumer) came.
    pub fn beginning_now(mut self) -> Self {
        self.options.begin = None;
        self
    }

    /// For how long a delivery is its consumer's, unless it asks for longer: 30 s unless set, 1 ms
    /// at least.
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.options.lease = lease.max(Duration::from_millis(1));
        self
    }

    /// How often an event is delivered before it becomes a dead letter: 5 times unless set.
    pub fn with_max_deliveries(mut self, deliveries: u32) -> Self {
        self.options.deliveries = deliveries.max(1);
        self
    }

    /// How long after a failure an event is delivered again: 1 s, doubled with each failure up to
    /// 5 min, unless set. A fifth more or less, by chance.
    pub fn with_backoff(mut self, first: Duration, most: Duration) -> Self {
        self.options.backoff = (first, most.max(first));
        self
    }

    /// For how long the group is kept after its last step: seven days unless set.
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.options.ttl = ttl.max(Duration::from_millis(1));
        self
    }

    /// How many events a consumer takes at once: 16 unless set. Those it has not begun with are
    /// renewed with the one it works on.
    pub fn with_batch(mut self, events: usize) -> Self {
        self.options.batch = events.clamp(1, 256);
        self
    }

    /// The place after which a group that is not there yet begins, if it is one that was told.
    pub(crate) fn begins_after(&self) -> Option<Id> {
        self.options.begin.filter(|begin| *begin != Id::START)
    }

    pub(crate) fn ttl_ms(&self) -> u64 {
        in_ms(self.options.ttl)
    }

    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.events.inner.backend
    }

    /// A consumer of the group, by a name for operators: any text of 1 to 512 bytes.
    ///
    /// # Errors
    /// As [`Subscribe::open`](crate::Subscribe::open).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn consumer(&self, name: &str) -> Result<Consumer> {
        let name = Name::new(name)?;
        // It is woken by what is published.
        let hub: Arc<Hub> = self.events.hub(&self.crew.scope).await?;
        if self.options.begin.is_none() {
            // From now on: not from when it asks for work.
            self.take((&name, rand::random()), rand::random(), 0, None).await?;
        }
        Ok(Consumer::new(self.clone(), name, hub))
    }

    pub(crate) async fn take(
        &self,
        (consumer, seat): (&Name, u64),
        token: Token,
        most: usize,
        begin: Option<Id>,
    ) -> Result<Taken> {
        let take = Take {
            consumer: consumer.encoded().to_owned(),
            seat,
            token,
            most,
            lease_ms: in_ms(self.options.lease),
            deliveries: self.options.deliveries,
            begin: begin.or(self.options.begin),
            ttl_ms: self.ttl_ms(),
        };
        self.backend().take(&self.crew, &take).await
    }

    /// The dead letters, a hundred at a time, the oldest first; `skip` of them are passed over.
    ///
    /// # Errors
    /// As [`Events::position`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn dead_letters(&self, skip: u64) -> Result<Vec<DeadLetter>> {
        let letters = self.backend().letters(&self.crew, skip, LETTERS).await?;
        let name = |encoded: &str| Name::decode(encoded).map(|name| name.as_str().to_owned());
        Ok(letters
            .into_iter()
            .map(|letter| DeadLetter {
                event: RawEvent::new(Cursor::new(letter.id, letter.nonce), &letter.envelope),
                at: Duration::from_millis(letter.at_ms),
                deliveries: letter.deliveries,
                consumer: name(&letter.consumer).unwrap_or_default(),
                reason: letter.reason,
            })
            .collect())
    }

    /// Delivers a dead letter again, at once and as if for the first time; whether there was one.
    /// Whoever had it before it died cannot settle it any more.
    ///
    /// # Errors
    /// As [`Events::publish`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is delivered.
    pub async fn requeue(&self, event: Cursor) -> Result<bool> {
        self.backend().revive(&self.crew, event.id, true, self.ttl_ms()).await
    }

    /// Forgets a dead letter; whether there was one.
    ///
    /// # Errors
    /// As [`Events::publish`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is forgotten.
    pub async fn discard(&self, event: Cursor) -> Result<bool> {
        self.backend().revive(&self.crew, event.id, false, self.ttl_ms()).await
    }

    /// How the group stands; none if it is not there.
    ///
    /// # Errors
    /// As [`Events::position`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn status(&self) -> Result<Option<GroupStatus>> {
        let standing = self.backend().standing(&self.crew).await?;
        Ok(standing.map(|standing| GroupStatus {
            position: Cursor { id: standing.at, nonce: None },
            last: Cursor { id: standing.last, nonce: None },
            lag: (standing.at.epoch == standing.last.epoch)
                .then(|| standing.last.number.saturating_sub(standing.at.number)),
            pending: standing.under_way,
            due: standing.due,
            dead: standing.dead,
        }))
    }

    /// Forgets the group, what it has under way, and its dead letters; whether there was one.
    ///
    /// # Errors
    /// As [`Events::publish`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is forgotten.
    pub async fn delete(&self) -> Result<bool> {
        self.backend().forget(&self.crew).await
    }
}

/// How a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupStatus {
    /// After the last event that was delivered for the first time.
    pub position: Cursor,
    /// After the last event of the scope.
    pub last: Cursor,
    /// How many events nobody has taken yet; none across epochs, where nobody knows.
    pub lag: Option<u64>,
    /// How many deliveries are under way, or wait to be delivered again.
    pub pending: u64,
    /// How many of these are due.
    pub due: u64,
    /// How many are dead letters.
    pub dead: u64,
}

/// An event that was delivered in vain.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// It, as it came.
    pub event: RawEvent,
    /// When it was given up, as time since the Unix epoch on the backend's clock.
    pub at: Duration,
    /// How often it was delivered.
    pub deliveries: u32,
    /// To whom, the last time.
    pub consumer: String,
    /// Why it failed, the last time; empty if nobody said.
    pub reason: String,
}
