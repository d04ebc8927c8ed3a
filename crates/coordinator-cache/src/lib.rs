//! A hybrid cache that instances of a service share, over Redis or Valkey or in process: one load
//! per key and fleet, and no value that outlives the end it was told.
//!
//! ```
//! use coordinator_cache::{Caches, Entry, Near};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let caches = Caches::embedded(); // or Caches::redis(&connection)
//! let plans = caches
//!     .cache::<String>("plans")
//!     .with_ttl(Duration::from_secs(300))
//!     .with_stale(Duration::from_secs(3600))
//!     .with_near(Near::entries(10_000))
//!     .build()?;
//!
//! let plan = plans
//!     .get_or_load("42", |load| async move {
//!         load.tag("crew:42").await; // before what it stands for is read
//!         Ok::<_, std::io::Error>("night shift".to_owned())
//!     })
//!     .await?;
//! assert_eq!(*plan, "night shift");
//!
//! plans.set_with("43", &"day shift".to_owned(), Entry::new().tags(["crew:43"])).await?;
//! caches.invalidate_crew("42").await?;
//! assert!(plans.get("42").await?.is_none() && plans.get("43").await?.is_some());
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//! * After [`Cache::invalidate`] or [`Caches::invalidate_tag`] returned `Done`, no instance gives a
//!   value whose load began before it later than [`Caches::STALENESS`] after it, but to who asked
//!   before: neither a near cache, nor a load that was under way, nor a refresh in the background.
//! * One loader runs per key and process, and one in all instances while the one that runs it holds
//!   its lease. One that dies is replaced when its lease ends, 10 s unless set; one for several
//!   keys at once after the longest that a load may take.
//! * Nothing is given past its ttl and its grace, from whatever tier and however long a load takes,
//!   and nothing past its ttl that does not say so ([`Hit::is_stale`]).
//! * A value that cannot be read is a miss, whatever is stored: of another version, shape or
//!   schema, cut, flipped, or compressed to fill the memory.
//! * A caller that leaves loses nothing, and a loader that panics harms nobody.
//!
//! # Not guaranteed
//! * That a value is there: servers evict, and what an outage kept from being stored is not.
//! * [`Caches::STALENESS`] where a server refuses to track keys ([`Hearing::Messages`]): what
//!   expires or is evicted there is not told, and a lost message is found within the ttl alone.
//! * A ttl kept to the ms: the server's time is known here as well as the shortest way there and
//!   back of the last minute tells. Where the *server's* clock is set, what was kept near before
//!   keeps its time; where the machine slept, that is given for at most [`Caches::STALENESS`] after
//!   it woke and a server answered; while none does, a stale value may outlast its grace by as long
//!   as the machine slept.
//! * That a value that is [stale](Hit::is_stale) was not ended while no server could be asked.
//! * One load per fleet while no server answers: then it is one per process, and nothing is stored.
//! * That an invalidation survives its server, where that loses what it acknowledged: after a
//!   failover or a restart a value that was ended may be there again, until its ttl.
//!
//! # Features
//! * `redis` (default): [`Caches::redis`]. The embedded backend is always there.

mod backend;
mod batch;
mod bulk;
mod cache;
mod caches;
mod chance;
mod compress;
mod embedded;
mod entry;
mod envelope;
mod error;
mod flight;
mod lease;
mod load;
mod loader;
mod near;
mod options;
mod pattern;
mod payload;
mod presets;
mod queue;
#[cfg(feature = "redis")]
mod redis;
mod slot;
mod stats;
mod survey;
mod sweep;
mod tasks;
mod telemetry;
#[cfg(test)]
mod tests;
mod walk;
mod watch;

/// What [`Caches::raw`] keeps.
pub use bytes::Bytes;
pub use cache::Cache;
pub use caches::Caches;
pub use compress::Compression;
pub use entry::{Entry, Hit, Lookup};
pub use error::LoadError;
pub use loader::Loading;
pub use options::{CacheBuilder, Near};
pub use presets::{ById, Queries};
pub use queue::Invalidated;
#[cfg(feature = "redis")]
#[doc(hidden)]
pub use redis::SCRIPTS;
pub use stats::Stats;
pub use survey::Survey;
pub use telemetry::METRICS;
pub use watch::Hearing;
