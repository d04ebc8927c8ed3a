//! Sessions.

mod backend;
pub mod conversations;
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

pub use conversations::{Conversation, Conversations, Message, Party};
#[cfg(feature = "redis")]
#[doc(hidden)]
pub use redis::SCRIPTS;
pub use sessions::{
    CapPolicy, Created, Data, Filter, Lookup, NewSession, Page, Patch, Rotated, Rotation, Session,
    SessionEvent, SessionEventKind, SessionEvents, SessionPage, Sessions, Stats, Updated,
    Verification,
};
pub use store::Store;
pub use token::{Reference, Token};
pub use vault::KeyRing;
