//! The fenced connection to Redis or Valkey: the only place that names the client library.
//!
//! Parts speak this small vocabulary: run a script, a few single-value commands, subscribe, track,
//! block. The client's faults (`docs/decisions/0001-fred.md`) are fenced here once.

mod blocking;
mod breaker;
mod classify;
mod commands;
mod connection;
mod info;
mod latency;
mod layout;
mod link;
mod monitor;
mod reply;
mod script;
mod setup;
mod subscriber;
mod tally;
mod tasks;
#[cfg(test)]
mod tests;
mod tracking;
mod turn;

pub use blocking::StreamEntry;
pub use connection::Connection;
pub use reply::{Fields, Reply};
pub use script::{Arg, Script};
pub use subscriber::{Message, Subscription};
pub use tracking::{Invalidation, Probed, Prober, Tracking};
