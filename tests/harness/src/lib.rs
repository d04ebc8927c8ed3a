//! What the tests need around the code under test: real servers, real faults, honest waiting.
//!
//! * [`RedisServer`], [`Cluster`], [`Sentinel`]: private servers on free loopback ports that never
//!   outlive the process that started them, not even if that is killed with `kill -9`.
//! * [`Proxy`]: a RESP-aware TCP proxy that delays, holds, cuts and loses single commands or
//!   replies, and whole links.
//! * [`RedisServer::set_clock_offset_ms`]: moves one server's wall clock (not its monotonic one).
//! * [`RedisServer::journal`]: what a server's scripts have written, whoever was told of it.
//! * [`TlsFiles`]: certificates, good and bad.
//! * [`eventually`], [`fresh_prefix`], [`seed`]: waiting on truth instead of sleeping, keys of
//!   one's own, faults that can be repeated.
//!
//! It depends on none of the project's crates, so that every one of them can use it in its own
//! tests. It is not a client: [`Connection`] speaks just enough RESP to ask a server for the truth.
//!
//! ```no_run
//! # async fn f() -> anyhow::Result<()> {
//! use coordinator_harness::{Proxy, RedisServer, Rule};
//!
//! let server = RedisServer::start().await?;
//! let proxy = Proxy::start(server.addr()).await?;
//! // The server executes the second EVALSHA, and the client never hears of it.
//! let lost = proxy.rule(Rule::command("EVALSHA").nth(2).on_reply().cut());
//! // … run the code under test against `proxy.url()` …
//! lost.wait_hit().await;
//! # Ok(())
//! # }
//! ```

mod builder;
mod clock;
mod cluster;
mod frame;
mod frozen;
mod journal;
mod port;
mod process;
mod proxy;
mod resp;
mod sentinel;
mod server;
mod tls;
mod util;

#[cfg(test)]
mod tests;

pub use builder::Builder;
pub use clock::Clock;
pub use cluster::{Cluster, Move};
pub use frozen::FrozenServer;
pub use process::{is_stopped, signal};
pub use proxy::{Proxy, Rule, RuleHandle};
pub use resp::{Connection, Resp};
pub use sentinel::Sentinel;
pub use server::RedisServer;
pub use tls::{CertFiles, TlsFiles};
pub use util::{eventually, fresh_prefix, rng, seed};
