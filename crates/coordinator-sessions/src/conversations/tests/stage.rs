//! A backend whose wall clock the test sets to the ms.

use super::super::backend::Backend;
use crate::{embedded::Embedded, store::Store};
use coordinator_core::clock::ManualClock;
use std::{sync::Arc, time::Duration};

/// 2030-01-01, in ms.
pub(super) const START: i64 = 1_893_456_000_000;

/// A backend, and its time.
pub(super) struct Stage {
    pub(super) backend: Arc<dyn Backend>,
    clock: ManualClock,
    now: i64,
    #[cfg(feature = "redis")]
    pub(super) server: Option<coordinator_harness::FrozenServer>,
}

impl Stage {
    pub(super) fn embedded() -> Self {
        let clock = ManualClock::new();
        let store = Store::memory().with_clock(Arc::new(clock.clone()));
        let mut stage = Self {
            backend: Arc::new(Embedded { store }),
            clock,
            now: START,
            #[cfg(feature = "redis")]
            server: None,
        };
        stage.set_embedded(START);
        stage
    }

    pub(super) fn broken(fault: super::broken::Fault) -> Self {
        let mut stage = Self::embedded();
        stage.backend = Arc::new(super::broken::Broken::new(stage.backend, fault));
        stage
    }

    #[cfg(feature = "redis")]
    pub(super) async fn redis() -> Self {
        use coordinator_core::{Config, redis::Connection};
        use coordinator_harness::{RedisServer, fresh_prefix};
        let server = coordinator_harness::FrozenServer::start(RedisServer::builder())
            .await
            .expect("a server");
        let clock = ManualClock::new();
        let config = Config::from_url(&server.url())
            .expect("a URL")
            .with_prefix(&fresh_prefix())
            .expect("a prefix")
            .with_clock(Arc::new(clock.clone()));
        let connection = Connection::connect(config).await.expect("a connection");
        let backend = Arc::new(super::super::redis::Redis::new(&connection));
        let mut stage = Self { backend, clock, now: 0, server: Some(server) };
        stage.set(START).await;
        stage
    }

    fn set_embedded(&mut self, now: i64) {
        let since = Duration::from_millis(u64::try_from(now).expect("after 1970"));
        self.clock.set_unix_time(since);
        self.now = now;
    }

    /// Sets the wall clock, to whatever time in ms.
    pub(super) async fn set(&mut self, now: i64) {
        #[cfg(feature = "redis")]
        if let Some(server) = &self.server {
            server.set_time_us(now * 1000).await.expect("the clock moves");
        }
        self.set_embedded(now);
        #[cfg(not(feature = "redis"))]
        std::future::ready(()).await;
    }

    pub(super) async fn elapse(&mut self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).expect("not so long");
        self.set(self.now + ms).await;
    }

    #[cfg(feature = "redis")]
    pub(super) async fn elapse_by(&mut self, ms: i64) {
        self.set(self.now + ms).await;
    }
}
