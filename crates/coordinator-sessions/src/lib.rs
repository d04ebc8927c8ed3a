//! Sessions.

pub mod conversations;
mod documents;
mod embedded;
mod store;
mod tasks;

#[cfg(feature = "redis")]
#[doc(hidden)]
pub use conversations::SCRIPTS as CONVERSATION_SCRIPTS;
pub use conversations::{Conversation, Conversations, Message, Party};
pub use store::Store;

/// The book's pages on this part, so that their examples compile and run.
#[cfg(doctest)]
mod book {
    #[doc = include_str!("../../../docs/guide/conversations.md")]
    struct Conversations;
}
