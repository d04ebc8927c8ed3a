//! Event streams, as pages see them.

mod many;
mod page;
mod parser;
mod streams;
mod wire;
