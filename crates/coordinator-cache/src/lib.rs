//! A hybrid cache that instances of a service share, over Redis or Valkey or in process.
//!
//! # Features
//! * `redis` (default): a cache over Redis or Valkey. The embedded backend is always there.
#![expect(dead_code, reason = "the policy that calls these steps stands above them, in its turn")]

mod backend;
mod compress;
mod embedded;
mod envelope;
mod payload;
#[cfg(feature = "redis")]
mod redis;
mod tasks;
#[cfg(test)]
mod tests;

pub use compress::Compression;
#[cfg(feature = "redis")]
#[doc(hidden)]
pub use redis::SCRIPTS;
