//! Sessions.

mod conversations;
mod documents;
mod embedded;
mod store;
mod tasks;

#[cfg(feature = "redis")]
#[doc(hidden)]
pub use documents::SCRIPTS as DOCUMENT_SCRIPTS;
pub use documents::{
    Document, DocumentEntry, DocumentPage, DocumentStats, Documents, Focus, Focuses, Former,
    ListRequest, Namespace, PastFocus, Put, PutRequest, Updated,
};
pub use store::Store;

/// The book's page, so that its examples compile and run.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide/documents.md")]
struct DocumentsInTheBook;
