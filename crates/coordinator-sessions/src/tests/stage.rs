//! A backend whose wall clock the test sets to the µs.

use crate::{
    backend::{Backend, Index, Place},
    embedded::Embedded,
    store::Store,
};
use coordinator_core::clock::ManualClock;
use std::{sync::Arc, time::Duration};

/// A backend, and its time.
pub(super) struct Stage {
    pub(super) backend: Arc<dyn Backend>,
    clock: ManualClock,
    now: i64,
    store: Store,
    #[cfg(feature = "redis")]
    pub(super) connection: Option<coordinator_core::redis::Connection>,
    #[cfg(feature = "redis")]
    pub(super) server: Option<coordinator_harness::RedisServer>,
    /// What the server's clock says without an offset.
    #[cfg(feature = "redis")]
    zero: i64,
}

/// 2030-01-01, in µs.
pub(super) const START: i64 = 1_893_456_000_000_000;

impl Stage {
    pub(super) fn embedded() -> Self {
        let clock = ManualClock::new();
        let store = Store::memory().with_clock(Arc::new(clock.clone()));
        let backend: Arc<dyn Backend> = Arc::new(Embedded { store: store.clone() });
        let mut stage = Self {
            backend,
            clock,
            now: START,
            store,
            #[cfg(feature = "redis")]
            connection: None,
            #[cfg(feature = "redis")]
            server: None,
            #[cfg(feature = "redis")]
            zero: 0,
        };
        stage.set_embedded(START);
        stage
    }

    pub(super) fn broken(fault: super::broken::Fault) -> Self {
        let mut stage = Self::embedded();
        let good = Embedded { store: stage.store.clone() };
        stage.backend = Arc::new(super::broken::Broken { good, fault });
        stage
    }

    #[cfg(feature = "redis")]
    pub(super) async fn redis() -> Self {
        Self::redis_of(coordinator_harness::RedisServer::builder()).await
    }

    #[cfg(feature = "redis")]
    pub(super) async fn redis_of(server: coordinator_harness::Builder) -> Self {
        use coordinator_core::{Config, redis::Connection};
        use coordinator_harness::fresh_prefix;
        let server = server.with_clock_shim().start().await.expect("a server");
        server.stop_clock().await.expect("the clock stops");
        // Else the server forgets what has expired at a time of its choice, which counts where the
        // clock is set back.
        let expiry = server.command(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).await;
        expiry.expect("an answer").ok().expect("it is allowed");
        let answer = server.command(&["TIME"]).await.expect("an answer");
        let parts: Vec<i64> = answer
            .as_array()
            .expect("two numbers")
            .iter()
            .map(|part| part.as_int().expect("a number"))
            .collect();
        let clock = ManualClock::new();
        let config = Config::from_url(&server.url())
            .expect("a URL")
            .with_prefix(&fresh_prefix())
            .expect("a prefix")
            // How busy this machine is, is not what is tested.
            .with_command_timeout(Duration::from_secs(30))
            .with_clock(Arc::new(clock.clone()));
        let connection = Connection::connect(config).await.expect("a connection");
        let backend = Arc::new(crate::redis::Redis::new(&connection));
        let zero = parts[0] * 1_000_000 + parts[1];
        let mut stage = Self {
            backend,
            clock,
            now: 0,
            store: Store::memory(),
            connection: Some(connection),
            server: Some(server),
            zero,
        };
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
            server.set_clock_offset_us(now - self.zero).await.expect("the clock moves");
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

    /// A session's hash is deleted by hand.
    pub(super) async fn loses(&self, place: Place) {
        #[cfg(feature = "redis")]
        if self.server.is_some() {
            self.admin(place.shard, "s", &place.id.encode(), |key| vec!["DEL".to_owned(), key])
                .await;
            return;
        }
        let key = format!("s{}:s:{}", place.shard, place.id.encode());
        let done = self.store.step(move |tx| tx.remove(&key)).await;
        assert!(done.expect("an answer"), "there was none");
    }

    /// What is stored of a session is broken.
    pub(super) async fn breaks(&self, place: Place) {
        #[cfg(feature = "redis")]
        if self.server.is_some() {
            let command = |key| ["HSET".to_owned(), key, "m".to_owned(), "short".to_owned()].into();
            self.admin(place.shard, "s", &place.id.encode(), command).await;
            return;
        }
        let key = format!("s{}:s:{}", place.shard, place.id.encode());
        let until = self.now / 1000 + 200_000_000;
        let done = self.store.step(move |tx| tx.put(&key, &"short", Some(until))).await;
        done.expect("an answer");
    }

    /// A member of an index gets another score by hand, or is taken out of it.
    pub(super) async fn lists(&self, shard: u16, index: &Index, id: &str, score: Option<i64>) {
        let (set, id) = (index.key(), id.to_owned());
        #[cfg(feature = "redis")]
        if self.server.is_some() {
            let command = |key| match score {
                Some(score) => vec!["ZADD".to_owned(), key, score.to_string(), id],
                None => vec!["ZREM".to_owned(), key, id],
            };
            self.admin(shard, &set, "", command).await;
            return;
        }
        let set = format!("s{shard}:{set}");
        let done = self.store.step(move |tx| match score {
            Some(score) => tx.rank(&set, &id, score),
            None => tx.unrank(&set, &id).map(drop),
        });
        done.await.expect("an answer");
    }

    #[cfg(feature = "redis")]
    pub(super) fn key(&self, shard: u16, kind: &str, name: &str) -> String {
        let connection = self.connection.as_ref().expect("a connection");
        connection.keyspace().shard("s", shard).key(kind, name)
    }

    #[cfg(feature = "redis")]
    async fn admin(
        &self,
        shard: u16,
        kind: &str,
        name: &str,
        command: impl FnOnce(String) -> Vec<String>,
    ) {
        let server = self.server.as_ref().expect("a server");
        let done = server.command(&command(self.key(shard, kind, name))).await;
        done.expect("an answer").ok().expect("done");
    }
}
