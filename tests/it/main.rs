//! One integration binary: every suite on every backend, through the public API alone.

mod agreement;
mod cache;
mod conversations;
mod documents;
mod events;
mod faults;
mod graph;
mod limits;
mod locks;
mod owners;
mod queue;
mod sessions;
mod stage;
mod topology;
