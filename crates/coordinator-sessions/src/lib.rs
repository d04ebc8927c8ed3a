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
