//! A backend whose wall clock the test sets to the ms.

use crate::{
    Caches,
    backend::Backend,
    embedded::{Embedded, MOST},
};
use coordinator_core::clock::ManualClock;
use std::{sync::Arc, time::Duration};

/// 2030-01-01, in µs.
const START: i64 = 1_893_456_000_000_000;

pub(super) struct Stage {
    pub(super) backend: Arc<dyn Backend>,
    clock: ManualClock,
    now: i64,
    pub(super) embedded: Option<Arc<Embedded>>,
    #[cfg(feature = "redis")]
    pub(super) redis: Option<(Arc<crate::redis::Redis>, coordinator_harness::FrozenServer)>,
}

impl Stage {
    pub(super) async fn embedded() -> Self {
        let clock = ManualClock::new();
        let embedded = Arc::new(Embedded::new(Arc::new(clock.clone()), MOST));
        let mut stage = Self {
            backend: embedded.clone(),
            clock,
            now: 0,
            embedded: Some(embedded),
            #[cfg(feature = "redis")]
            redis: None,
        };
        stage.set(START).await;
        stage
    }

    #[cfg(feature = "redis")]
    pub(super) async fn redis() -> Self {
        Self::redis_of(coordinator_harness::RedisServer::builder()).await
    }

    #[cfg(feature = "redis")]
    pub(super) async fn redis_of(server: coordinator_harness::Builder) -> Self {
        use coordinator_core::{Config, redis::Connection};
        let server = coordinator_harness::FrozenServer::start(server).await.expect("a server");
        let clock = ManualClock::new();
        let config = Config::from_url(&server.url())
            .expect("a URL")
            .with_prefix(&coordinator_harness::fresh_prefix())
            .expect("a prefix")
            // How busy this machine is, is not what is tested.
            .with_command_timeout(Duration::from_secs(30))
            .with_clock(Arc::new(clock.clone()));
        let connection = Connection::connect(config).await.expect("a connection");
        let backend = Arc::new(crate::redis::Redis::new(&connection));
        let mut stage = Self {
            backend: backend.clone(),
            clock,
            now: 0,
            embedded: None,
            redis: Some((backend, server)),
        };
        stage.set(START).await;
        stage
    }

    async fn set(&mut self, now: i64) {
        self.set_server(now).await;
        self.set_ours(now);
    }

    async fn set_server(&self, now: i64) {
        #[cfg(feature = "redis")]
        if let Some((_, server)) = &self.redis {
            server.set_time_us(now).await.expect("the clock moves");
        }
        #[cfg(not(feature = "redis"))]
        std::future::ready(now).await;
    }

    fn set_ours(&mut self, now: i64) {
        self.clock.set_unix_time(Duration::from_micros(u64::try_from(now).expect("after 1970")));
        self.now = now;
    }

    /// Time passes, for the server first.
    pub(super) async fn elapse(&mut self, ms: u64) {
        let now = self.now + i64::try_from(ms).expect("not so long") * 1000;
        self.set_server(now).await;
        self.clock.advance(Duration::from_millis(ms));
        self.set_ours(now);
    }

    /// The server's clock is set to so much later, and nobody tells.
    #[cfg(feature = "redis")]
    pub(super) async fn server_is_ahead_by(&mut self, ms: i64) {
        self.now += ms * 1000;
        self.set_server(self.now).await;
    }

    /// Caches over it.
    pub(super) fn caches(&self) -> Caches {
        Caches::over(self.backend.clone())
    }

    /// This process's clock is wrong by so much, until the time is set again.
    pub(super) fn wrong_by(&self, ms: i64) {
        let now = u64::try_from(self.now / 1000 + ms).expect("after 1970");
        self.clock.set_unix_time(Duration::from_millis(now));
    }

    /// Everything is forgotten.
    pub(super) async fn flush(&self) {
        if let Some(embedded) = &self.embedded {
            embedded.flush();
        }
        #[cfg(feature = "redis")]
        if let Some((_, server)) = &self.redis {
            run(server, &["FLUSHALL"]).await;
        }
        #[cfg(not(feature = "redis"))]
        std::future::ready(()).await;
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.now / 1000).expect("after 1970")
    }
}

#[cfg(feature = "redis")]
pub(super) async fn run(server: &coordinator_harness::RedisServer, command: &[&str]) {
    server.command(command).await.expect("an answer").ok().expect("it is done");
}
