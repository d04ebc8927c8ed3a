//! Proofs that the harness keeps its promises: a harness that fails to inject a fault makes every
//! test above it worthless.

mod link;
mod proxy;
mod server;
mod topology;
