//! User sessions that stay logged out, state documents and conversations with a window, over Redis
//! or Valkey or in process, in memory or in a file.
//!
//! ```
//! use coordinator_sessions::{Lookup, NewSession, Sessions, Token};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sessions = Sessions::embedded(); // or Sessions::redis(&connection)
//!
//! // Somebody comes, and logs in.
//! let session = sessions.create(NewSession::anonymous()).await?.session()?;
//! let token = session.token().expect("a new session has one");
//! let ann = NewSession::user("ann").company("acme");
//! let session = sessions.login(Some(token), ann).await?.session()?;
//! let token = session.token().expect("a new session has one");
//!
//! // What the client keeps, and what it comes back with.
//! let cookie = token.reveal();
//! let token = Token::parse(&cookie).expect("ours");
//! let found = sessions.load(&token).await?.live().expect("it lives");
//! assert_eq!(found.user(), Some("ann"));
//!
//! // Once this has returned nothing makes it live again.
//! sessions.invalidate(&token, "logout").await?;
//! assert!(matches!(sessions.load(&token).await?, Lookup::Revoked { .. }));
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//! * After [`invalidate`](Sessions::invalidate), [`revoke_user`](Sessions::revoke_user) or
//!   [`revoke_company`](Sessions::revoke_company) returned, nothing that was on its way makes a
//!   session live again: no change, no rotation, no restored copy.
//! * Changes of different fields by different callers all survive;
//!   [`update`](Sessions::update) loses none of the same field either.
//! * A session never ends before its idle timeout, and at most one throttle after it; at its
//!   absolute timeout exactly. The server's clock decides, never a client's.
//! * Parallel rotations come to one token. One that was replaced is honoured for its grace; used
//!   after it, it ends the session.
//! * A user never has more sessions than [`with_cap`](Sessions::with_cap) allows.
//! * Each session that expires is told of once, however many processes reap, without keyspace
//!   notifications.
//! * A token is 32 bytes of the operating system's, of which the server keeps the SHA-256 alone:
//!   who reads the server, logs, events or copies cannot log in with what is there.
//! * A backend that is away is an error and never "no session"; nothing is written after a read
//!   that failed.
//! * [`Documents`] change by compare-and-set; [`Conversations`] keep their newest messages, never
//!   part a call from its answer, and hand back what leaves the window until a summary covers it.
//! * State in a file survives a kill of the process: what was acknowledged is there.
//!
//! # Not guaranteed
//! * What a failover loses: an end that a new master was not told of did not happen.
//! * That a user is ended in one moment with those who log in while it happens.
//! * An order among events of different shards.
//! * That a token which was replaced twice within one grace, the second time by a login, is
//!   followed: its bearer is told that the session is absent, and the session lives on.
//!
//! # Features
//! * `redis` (default): Redis and Valkey. The embedded backend is always there.

mod backend;
pub mod conversations;
pub mod documents;
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
pub use conversations::SCRIPTS as CONVERSATION_SCRIPTS;
pub use conversations::{Conversation, Conversations, Message, Party};
#[cfg(feature = "redis")]
#[doc(hidden)]
pub use documents::SCRIPTS as DOCUMENT_SCRIPTS;
pub use documents::{Document, Documents, Focus, Namespace, Put};
#[cfg(feature = "redis")]
#[doc(hidden)]
pub use redis::SCRIPTS;
#[cfg(feature = "redis")]
#[doc(hidden)]
pub use redis::legacy::SCRIPTS as LEGACY_SCRIPTS;
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

/// The book's pages on this part, so that their examples compile and run.
#[cfg(doctest)]
mod book {
    #[doc = include_str!("../../../docs/guide/conversations.md")]
    struct Conversations;
    #[doc = include_str!("../../../docs/guide/documents.md")]
    struct Documents;
    #[cfg(feature = "redis")]
    #[doc = include_str!("../../../docs/guide/sessions-data.md")]
    struct SessionsData;
}
