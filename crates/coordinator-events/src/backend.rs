//! The port: the atomic steps of events, which every backend implements.
//!
//! An event is bytes here. No waiting, repairing, decoding or fan-out happens below this line.

use crate::cursor::{Id, Nonce};
use bytes::Bytes;
use coordinator_core::{BoxFuture, Result, clock::Clock, key::Name};
use std::{fmt, sync::Arc};

/// How many shards scopes are spread over, for ever: it is part of the key layout.
#[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "servers alone have it"))]
pub(crate) const SHARDS: u16 = 64;

/// How many events a page holds at most.
pub(crate) const PAGE: usize = 256;

/// After how many bytes a page ends, however few events it holds; it holds two at least: whoever
/// reads on begins with the one that he has.
#[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "servers alone have it"))]
pub(crate) const PAGE_BYTES: usize = 256 * 1024;

/// For how long a topic is counted on after its last announcement, in ms.
pub(crate) const COUNTED_MS: u64 = 24 * 60 * 60 * 1000;

/// An event to be appended.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The epoch as the publisher knows it; 0 for whatever it is.
    pub(crate) epoch: u64,
    /// Whether to look if the server is still the one of the epoch.
    pub(crate) check: bool,
    /// Look, too, if the server may be another by the time it is asked than it was then.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "servers alone have it"))]
    pub(crate) generation: Option<u64>,
    /// Whether to be refused in any other epoch.
    pub(crate) strict: bool,
    /// Nonce and envelope.
    pub(crate) frame: Bytes,
    pub(crate) keep: u64,
    /// For how long the scope lives from then on at least, if it is prolonged.
    pub(crate) ttl_ms: u64,
    /// Whether it is prolonged, as its publisher knows when that is due. In another epoch than the
    /// one that he knows it always is, and where it is looked at.
    pub(crate) prolongs: bool,
    /// An idempotency key, and for how long it is remembered.
    pub(crate) once: Option<(Name, u64)>,
    /// How many replicas must have it, and for how long to wait for them, in ms.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "servers alone have it"))]
    pub(crate) replicas: Option<(u32, u64)>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Posted {
    New(Id),
    /// Its idempotency key was used, for this event.
    Before(Id),
    /// The scope is in this epoch; 0 if in none.
    Fenced(u64),
}

/// What is before an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// The event of its epoch with the number before.
    Dense,
    /// An epoch begins, after this event of another.
    Last(Id),
    /// The scope begins.
    Nothing,
}

/// An event as it is stored, nonce and envelope apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) id: Id,
    pub(crate) before: Before,
    pub(crate) nonce: Nonce,
    pub(crate) envelope: Bytes,
}

/// From where on to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    First,
    /// Itself included.
    At(Id),
    /// The last one alone.
    Last,
}

/// Some events of a scope, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    /// The last id there ever was.
    pub(crate) last: Id,
    pub(crate) events: Vec<Stored>,
}

impl Page {
    /// Whether there are more than these after a place that the page was read from.
    pub(crate) fn is_cut(&self, from: Id) -> bool {
        self.events.last().is_some_and(|end| end.id > from && end.id < self.last)
    }
}

/// What whoever listens hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard<T> {
    It(T),
    /// Something may have been missed.
    Lost,
    /// What came is not of our making.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "servers alone have it"))]
    Noise,
}

/// An announcement with its number.
pub(crate) type Announced = (u64, Bytes);

/// Listens to a channel.
pub(crate) trait Feed<T>: Send {
    /// Cancel safe.
    fn next(&mut self) -> BoxFuture<'_, Heard<T>>;
}

/// Tells one take from every other.
pub(crate) type Token = [u8; 8];

/// Takes work for a consumer of a group.
#[derive(Debug, Clone)]
pub(crate) struct Take {
    pub(crate) consumer: String,
    /// Tells the consumer from others of its name.
    pub(crate) seat: u64,
    /// The same for as long as no answer came.
    pub(crate) token: Token,
    pub(crate) most: usize,
    pub(crate) lease_ms: u64,
    pub(crate) deliveries: u32,
    /// Where a group that is not there begins; none for the end.
    pub(crate) begin: Option<Id>,
    pub(crate) ttl_ms: u64,
}

/// An event that is delivered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Again {
    pub(crate) id: Id,
    pub(crate) deliveries: u32,
    pub(crate) nonce: Nonce,
    pub(crate) envelope: Bytes,
}

/// Work that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    /// When something is due again, in ms.
    pub(crate) due_ms: Option<u64>,
    /// For how long what was taken is still the consumer's.
    pub(crate) left_ms: u64,
    pub(crate) buried: u64,
    pub(crate) again: Vec<Again>,
    /// Up to where was taken before; none if the group was not there.
    pub(crate) from: Option<Id>,
    /// The same now.
    pub(crate) to: Id,
    pub(crate) new: Vec<Stored>,
}

/// A delivery: an event, and the take that it was delivered by. No other delivery of the event has
/// the same, in whatever life of it or of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) id: Id,
    pub(crate) token: Token,
}

/// What became of a delivery that was to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acked {
    Done,
    /// Its event was taken here, and nobody has to do it any more, whoever did or discarded it.
    Before,
    /// It is another's by now, or a dead letter; or nobody took it here.
    Gone,
}

/// When a delivery is due again.
#[derive(Debug, Clone)]
pub(crate) struct Defer {
    pub(crate) in_ms: u64,
    /// Why it failed; empty if it did not.
    pub(crate) reason: String,
    pub(crate) deliveries: u32,
    pub(crate) ttl_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deferred {
    Done,
    Buried,
    /// It was not under way any more.
    Gone,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) id: Id,
    pub(crate) at_ms: u64,
    pub(crate) deliveries: u32,
    pub(crate) consumer: String,
    pub(crate) reason: String,
    pub(crate) nonce: Nonce,
    pub(crate) envelope: Bytes,
}

/// How a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) under_way: u64,
    pub(crate) due: u64,
    pub(crate) dead: u64,
    pub(crate) at: Id,
    pub(crate) last: Id,
}

/// A group of a scope.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Crew {
    pub(crate) scope: Name,
    pub(crate) group: Name,
}

/// The steps. All are atomic; `ttl_ms` counts from the step on.
pub(crate) trait Backend: Send + Sync + fmt::Debug + 'static {
    fn clock(&self) -> &Arc<dyn Clock>;

    /// Changes whenever the server may be another one than before.
    fn generation(&self) -> u64;

    /// Appends an event to a scope and tells who listens.
    fn publish<'a>(&'a self, scope: &'a Name, entry: &'a Entry) -> BoxFuture<'a, Result<Posted>>;

    /// Reads events; none if there is no stream.
    fn read<'a>(
        &'a self,
        scope: &'a Name,
        from: From,
        limit: usize,
    ) -> BoxFuture<'a, Result<Option<Page>>>;

    /// Forgets the events before one; how many there were.
    fn trim<'a>(&'a self, scope: &'a Name, first: Id) -> BoxFuture<'a, Result<u64>>;

    /// Listens to a scope; from then on.
    fn listen<'a>(&'a self, scope: &'a Name) -> BoxFuture<'a, Result<Box<dyn Feed<Stored>>>>;

    /// Announces something on a topic; its number.
    fn announce<'a>(&'a self, topic: &'a Name, what: Bytes) -> BoxFuture<'a, Result<u64>>;

    /// The number of the last announcement, 0 if none.
    fn announced<'a>(&'a self, topic: &'a Name) -> BoxFuture<'a, Result<u64>>;

    /// Listens to a topic; each announcement with its number.
    fn follow<'a>(&'a self, topic: &'a Name) -> BoxFuture<'a, Result<Box<dyn Feed<Announced>>>>;

    /// Takes work; less than was asked for where that is long. While its lease lasts, the
    /// consumer's last token is answered the same again.
    fn take<'a>(&'a self, crew: &'a Crew, take: &'a Take) -> BoxFuture<'a, Result<Taken>>;

    /// Ends a delivery.
    fn ack<'a>(&'a self, crew: &'a Crew, attempt: Attempt) -> BoxFuture<'a, Result<Acked>>;

    /// Sets when a delivery is due again.
    fn defer<'a>(
        &'a self,
        crew: &'a Crew,
        attempt: Attempt,
        defer: &'a Defer,
    ) -> BoxFuture<'a, Result<Deferred>>;

    /// Makes a delivery a dead letter; whether it was under way, or is one already.
    fn bury<'a>(
        &'a self,
        crew: &'a Crew,
        attempt: Attempt,
        reason: &'a str,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<bool>>;

    /// Takes a dead letter away, or gives it another life; whether there was one.
    fn revive<'a>(
        &'a self,
        crew: &'a Crew,
        id: Id,
        again: bool,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<bool>>;

    /// Dead letters, the oldest first.
    fn letters<'a>(
        &'a self,
        crew: &'a Crew,
        skip: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Letter>>>;

    /// How a group stands; none if it is not there.
    fn standing<'a>(&'a self, crew: &'a Crew) -> BoxFuture<'a, Result<Option<Standing>>>;

    /// Forgets a group; whether there was one.
    fn forget<'a>(&'a self, crew: &'a Crew) -> BoxFuture<'a, Result<bool>>;
}
