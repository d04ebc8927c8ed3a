//! Durable, resumable events that instances of a service share, over Redis or Valkey or in
//! process: every subscriber sees each once and in order, or is told how many it missed.
//!
//! ```
//! use coordinator_events::{Events, Item, Position};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let events = Events::embedded(); // or Events::redis(&connection)
//!
//! // Read the position first, then the state: what happens in between is not missed.
//! let position = events.position("crew:42").await?;
//! events.publish("crew:42", "task_started", &"sweep").await?;
//!
//! let after = Position::After(position);
//! let mut crew = events.subscribe("crew:42").from(after).open::<String>().await?;
//! match crew.next().await {
//!     Some(Item::Event(event)) => assert_eq!(event.data, "sweep"),
//!     other => panic!("{other:?}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//! * A publish that was acknowledged has a place in its scope. A subscriber sees each place once
//!   and in order, or a [`Gap`] in its stead, with how many events were missed and why.
//! * [`Subscribe::open`] returns when the subscription is live: what is published after it comes.
//! * Lost links, killed servers, overflowing buffers, slow readers, panicking handlers and payloads
//!   that cannot be decoded end no subscription.
//! * A slow reader loses nothing that is kept, and takes no memory.
//! * What a group was given is delivered until it is settled, or becomes a dead letter.
//!
//! # Not guaranteed
//! * That an event survives its server, where that loses what it acknowledged: readers that had it
//!   are told, see [`GapReason::RolledBack`].
//! * An order between scopes.
//! * That a publish without an answer was not published: repeat it with an
//!   [idempotency key](Publish::idempotent).
//! * That a group delivers once: at least once.
//! * Anything at all of [live topics](Events::live), but that their loss is counted.
//!
//! # Features
//! * `redis` (default): [`Events::redis`]. The embedded backend is always there.

mod age;
mod asked;
mod backend;
mod consumer;
mod cursor;
mod embedded;
mod envelope;
mod epochs;
mod events;
mod gap;
mod group;
mod hub;
mod live;
mod pages;
mod publish;
mod reader;
#[cfg(feature = "redis")]
mod redis;
mod ring;
mod settle;
mod subscribe;
mod tasks;
mod telemetry;
#[cfg(test)]
mod tests;
mod topic;
mod under_way;

pub use consumer::{Consumer, Delivered, Delivery, Work};
pub use cursor::Cursor;
pub use envelope::{Event, RawEvent};
pub use events::Events;
pub use gap::{Gap, GapReason, Lost};
pub use group::{DeadLetter, Group, GroupStatus};
pub use live::{Live, LiveItem, LiveSubscription};
pub use publish::{Ack, Publish, Published};
#[cfg(feature = "redis")]
#[doc(hidden)]
pub use redis::SCRIPTS;
pub use settle::Settled;
pub use subscribe::{
    Item, Position, RawItem, RawSubscription, SlowReader, Subscribe, Subscription, Unreadable,
};
pub use telemetry::METRICS;
