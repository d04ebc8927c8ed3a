//! State that the instances of a service share, and turns that they take: one face for the parts.
//!
//! Each part is a crate of its own and can be used alone; this one wires them to one connection.
//!
//! ```
//! use coordinator::Coordinator;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Or `connect("redis://…")`, or `from_env()`.
//! let coordinator = Coordinator::embedded();
//! let guard = coordinator.locks().acquire("invoice:42").await?.acquired()?;
//! guard.release().await?;
//! coordinator.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//! Those of the parts: [`locks`], [`ratelimit`], [`sessions`], [`events`], [`cache`].
//!
//! # Not guaranteed
//! * That embedded state is shared: it belongs to this process and to the clones of one
//!   [`Coordinator`].
//!
//! # Features
//! * `redis` (default): Redis and Valkey. Without it only embedded URLs are understood.

mod coordinator;

pub use coordinator::Coordinator;
pub use coordinator_cache as cache;
pub use coordinator_core::{
    Config, Error, ErrorKind, Result, clock, config, health, key, telemetry,
};
pub use coordinator_events as events;
pub use coordinator_locks as locks;
pub use coordinator_ratelimit as ratelimit;
pub use coordinator_sessions as sessions;

/// The book's pages with Rust in them, so that their examples compile and run.
#[cfg(doctest)]
mod book {
    #[doc = include_str!("../../../README.md")]
    struct Readme;
    #[doc = include_str!("../../../docs/introduction.md")]
    struct Introduction;
    #[doc = include_str!("../../../docs/guide/locks.md")]
    struct Locks;
    #[doc = include_str!("../../../docs/guide/ratelimits.md")]
    struct RateLimits;
    #[doc = include_str!("../../../docs/guide/sessions.md")]
    struct Sessions;
    #[doc = include_str!("../../../docs/guide/events.md")]
    struct Events;
    #[doc = include_str!("../../../docs/guide/cache.md")]
    struct Cache;
    #[doc = include_str!("../../../docs/guide/configuration.md")]
    struct Configuration;
    #[doc = include_str!("../../../docs/guide/topology.md")]
    struct Topology;
    #[doc = include_str!("../../../docs/guide/troubleshooting.md")]
    struct Troubleshooting;
}
