//! A backend whose wall clock the test sets to the µs.

use crate::{backend::Backend, embedded::Embedded};
use coordinator_core::clock::ManualClock;
use std::{sync::Arc, time::Duration};

/// A backend, and its time.
pub(super) struct Stage {
    pub(super) backend: Arc<dyn Backend>,
    clock: ManualClock,
    now: i64,
    #[cfg(feature = "redis")]
    pub(super) server: Option<coordinator_harness::FrozenServer>,
}

/// 2030-01-01, in µs.
pub(super) const START: i64 = 1_893_456_000_000_000;

impl Stage {
    pub(super) fn embedded() -> Self {
        let clock = ManualClock::new();
        let backend: Arc<dyn Backend> = Arc::new(Embedded::new(Arc::new(clock.clone())));
        let mut stage = Self {
            backend,
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
        let good = Embedded::new(Arc::new(stage.clock.clone()));
        stage.backend = Arc::new(super::broken::Broken::new(good, fault));
        stage
    }

    #[cfg(feature = "redis")]
    pub(super) async fn redis() -> Self {
        Self::over(coordinator_harness::RedisServer::builder()).await
    }

    /// A server without sharded channels, as before 7.0.
    #[cfg(feature = "redis")]
    pub(super) async fn redis_with_classic_channels() -> Self {
        Self::over(coordinator_harness::RedisServer::builder().without_sharded_channels()).await
    }

    #[cfg(feature = "redis")]
    async fn over(server: coordinator_harness::Builder) -> Self {
        use coordinator_core::{Config, redis::Connection};
        use coordinator_harness::fresh_prefix;
        let server = coordinator_harness::FrozenServer::start(server).await.expect("a server");
        let clock = ManualClock::new();
        let config = Config::from_url(&server.url())
            .expect("a URL")
            .with_prefix(&fresh_prefix())
            .expect("a prefix")
            .with_clock(Arc::new(clock.clone()));
        let connection = Connection::connect(config).await.expect("a connection");
        let backend = Arc::new(crate::redis::Redis::new(&connection));
        let mut stage = Self { backend, clock, now: 0, server: Some(server) };
        stage.set(START).await;
        stage
    }

    fn set_embedded(&mut self, now: i64) {
        let since = Duration::from_micros(u64::try_from(now).expect("after 1970"));
        self.clock.set_unix_time(since);
        self.now = now;
    }

    /// Sets the wall clock, to whatever time.
    pub(super) async fn set(&mut self, now: i64) {
        #[cfg(feature = "redis")]
        if let Some(server) = &self.server {
            server.set_time_us(now).await.expect("the clock moves");
        }
        self.set_embedded(now);
        #[cfg(not(feature = "redis"))]
        std::future::ready(()).await;
    }

    pub(super) async fn elapse(&mut self, by: Duration) {
        let us = i64::try_from(by.as_micros()).expect("not so long");
        self.set(self.now + us).await;
    }

    pub(super) fn now(&self) -> i64 {
        self.now
    }
}
