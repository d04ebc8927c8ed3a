//! Sessions.

pub mod conversations;
mod documents;
mod embedded;
mod store;
mod tasks;

pub use conversations::{Conversation, Conversations, Message, Party};
pub use store::Store;
