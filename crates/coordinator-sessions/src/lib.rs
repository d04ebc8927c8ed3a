//! Sessions.

mod backend;
mod conversations;
mod documents;
mod embedded;
#[cfg(feature = "redis")]
mod redis;
mod sessions;
mod store;
mod tasks;
#[cfg(test)]
mod tests;
mod token;
mod vault;

#[cfg(feature = "redis")]
#[doc(hidden)]
pub use redis::{SCRIPTS, legacy::SCRIPTS as LEGACY_SCRIPTS};
pub use sessions::{
    CapPolicy, Created, Data, Export, Filter, Lookup, NewSession, Page, Patch, RestoreMode,
    Restored, Rotated, Rotation, Session, SessionData, SessionEvent, SessionEventKind,
    SessionEvents, SessionPage, Sessions, Stats, Typed, TypedSessions, Updated, Verification,
};
#[cfg(feature = "redis")]
pub use sessions::{LegacyLayout, Migrated};
pub use store::Store;
pub use token::{Reference, Token};
pub use vault::KeyRing;

/// The book's page, so that its examples compile and run.
#[cfg(all(doctest, feature = "redis"))]
#[doc = include_str!("../../../docs/guide/sessions.md")]
struct SessionsInTheBook;
