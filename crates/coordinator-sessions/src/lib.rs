//! Sessions.

mod backend;
mod conversations;
mod documents;
mod embedded;
#[cfg(feature = "redis")]
mod redis;
mod store;
mod tasks;
#[cfg(test)]
mod tests;
mod token;

#[cfg(feature = "redis")]
#[doc(hidden)]
pub use redis::SCRIPTS;
pub use store::Store;
pub use token::{Reference, Token};
