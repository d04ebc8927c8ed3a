//! Events for browsers: what [`coordinator::events`] has, as a stream of server-sent events that
//! resumes where it was cut, and says what is missing.

mod access;
mod body;
mod feed;
mod flight;
mod opening;
#[cfg(test)]
#[path = "../tests/sse/parser.rs"]
mod parser;
mod place;
mod shared;
mod sse;
mod text;
mod writer;

pub use access::Access;
pub use body::{SseBody, Stalled};
pub use shared::SseStatus;
pub use sse::Sse;
