//! What the parts of coordinator share: configuration, keys, clock, errors, health and the fenced
//! connection to Redis or Valkey.
//!
//! ```
//! use coordinator_core::{config::Config, key::Name};
//!
//! let config = Config::embedded().with_prefix("shop")?;
//! let name = Name::new("invoice:42")?;
//! let key = config.keyspace().shard("l", name.shard(64)).key("lock", name.encoded());
//! assert!(key.starts_with("shop:1:{l"));
//! # Ok::<(), coordinator_core::Error>(())
//! ```
//!
//! # Guarantees
//! * Two different names never share a key, and no name reaches outside its prefix.
//! * A command returns within the command timeout after it was sent; while there is no link it
//!   waits for one at most half that time, and then it was surely not sent. Where nobody has
//!   answered for a second it fails at once, until a second after the server is back at most.
//! * A reply always belongs to the command it is given to: the client's known faults are fenced
//!   (see `docs/decisions/0001-fred.md`).
//! * A message is delivered, or the subscription says that some may be missing.
//! * No password or token is part of any `Debug`, `Display`, log line or span.
//!
//! # Not guaranteed
//! * Exactly-once execution: a command without an answer was perhaps executed
//!   ([`ErrorKind::Indeterminate`]); scripts are written so that repeating them is harmless.
//! * That the monotonic clock runs while the machine is suspended.
//!
//! # Features
//! * `codec`: how values are stored, for parts that store what callers give them.
//! * `redis` (default): the connection. Without it there are no network dependencies.

pub mod clock;
#[cfg(feature = "codec")]
pub mod codec;
pub mod config;
pub mod error;
pub mod health;
pub mod key;
#[cfg(feature = "redis")]
pub mod redis;
pub mod telemetry;

pub use clock::BoxFuture;
pub use config::Config;
pub use error::{Error, ErrorKind, Result};
