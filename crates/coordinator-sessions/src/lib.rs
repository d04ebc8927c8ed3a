//! Sessions.

mod conversations;
mod documents;
mod embedded;
mod store;
mod tasks;

pub use store::Store;
