//! A backend to play a case on, whose time the case moves, and the macro that lists the cases.

use crate::topology::Servers;
pub(crate) use crate::topology::config;
use coordinator_core::{clock::ManualClock, redis::Connection};
use coordinator_locks::Locks;
use std::{sync::Arc, time::Duration};

/// Locks on one backend, and a second client of the same ones.
pub(crate) struct Stage {
    pub(crate) locks: Locks,
    /// What another process would be.
    pub(crate) peer: Locks,
    clock: ManualClock,
    servers: Option<Servers>,
}

impl Stage {
    pub(crate) fn embedded() -> Self {
        let clock = ManualClock::new();
        let locks = Locks::embedded_with_clock(Arc::new(clock.clone()));
        Self { peer: locks.peer(), locks, clock, servers: None }
    }

    pub(crate) async fn redis() -> Self {
        let servers = Servers::start().await;
        let clock = ManualClock::new();
        let config = servers.config().clone().with_clock(Arc::new(clock.clone()));
        let connect = || Connection::connect(config.clone());
        let ours = Locks::redis(&connect().await.expect("a connection"));
        let theirs = Locks::redis(&connect().await.expect("a connection"));
        Self { locks: ours, peer: theirs, clock, servers: Some(servers) }
    }

    /// Lets time pass, for the server and for its clients.
    pub(crate) async fn elapse(&self, by: Duration) {
        if let Some(servers) = &self.servers {
            // A key lives to the end of its last millisecond.
            servers.advance(by + Duration::from_millis(2)).await;
        }
        self.clock.advance(by);
    }
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
