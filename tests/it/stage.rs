//! A backend to play a case on, whose time the case moves, and the macro that lists the cases.

use coordinator_core::{Config, clock::ManualClock, redis::Connection};
use coordinator_harness::{RedisServer, fresh_prefix};
use coordinator_locks::Locks;
use std::{sync::Arc, time::Duration};

/// Locks on one backend, and a second client of the same ones.
pub(crate) struct Stage {
    pub(crate) locks: Locks,
    /// What another process would be.
    pub(crate) peer: Locks,
    clock: ManualClock,
    server: Option<RedisServer>,
}

impl Stage {
    pub(crate) fn embedded() -> Self {
        let clock = ManualClock::new();
        let locks = Locks::embedded_with_clock(Arc::new(clock.clone()));
        Self { peer: locks.peer(), locks, clock, server: None }
    }

    pub(crate) async fn redis() -> Self {
        let server = RedisServer::builder().with_clock_shim().start().await.expect("a server");
        let clock = ManualClock::new();
        let config = config(&server.url()).with_clock(Arc::new(clock.clone()));
        let connect = || Connection::connect(config.clone());
        let ours = Locks::redis(&connect().await.expect("a connection"));
        let theirs = Locks::redis(&connect().await.expect("a connection"));
        Self { locks: ours, peer: theirs, clock, server: Some(server) }
    }

    /// Lets time pass, for the server and for its clients.
    pub(crate) async fn elapse(&self, by: Duration) {
        if let Some(server) = &self.server {
            // A key lives to the end of its last millisecond.
            let by = by + Duration::from_millis(2);
            server.advance_clock(by).await.expect("the server's clock moves");
        }
        self.clock.advance(by);
    }
}

/// A configuration with a prefix of its own.
pub(crate) fn config(url: &str) -> Config {
    Config::from_url(url).expect("a URL").with_prefix(&fresh_prefix()).expect("a prefix")
}

/// Runs each case on every backend, as `embedded::case` and `redis::case`.
macro_rules! on_every_backend {
    ($($case:ident)*) => {
        mod embedded {
            $(#[tokio::test] async fn $case() {
                super::$case(crate::stage::Stage::embedded()).await;
            })*
        }
        mod redis {
            $(#[tokio::test] async fn $case() {
                super::$case(crate::stage::Stage::redis().await).await;
            })*
        }
    };
}
pub(crate) use on_every_backend;
