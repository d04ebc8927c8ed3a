//! Event streams, as pages see them.

mod many;
mod page;
mod parser;
mod redis;
mod service;
mod stage;
mod streams;
mod wire;
