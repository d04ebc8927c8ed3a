//! A backend whose wall clock the test sets to the µs.

use crate::{
    documents::backend::{Backend, Past, Place, Slice, Stored, Token, Write, Wrote},
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
    /// Where a file is.
    _folder: Option<tempfile::TempDir>,
    #[cfg(feature = "redis")]
    pub(super) server: Option<coordinator_harness::FrozenServer>,
}

/// 2030-01-01, in µs.
pub(super) const START: i64 = 1_893_456_000_000_000;

impl Stage {
    pub(super) fn embedded() -> Self {
        Self::over(Store::memory(), None)
    }

    pub(super) fn in_a_file() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::file(folder.path().join("documents")).expect("a file");
        Self::over(store, Some(folder))
    }

    pub(super) fn broken(fault: super::broken::Fault) -> Self {
        let mut stage = Self::embedded();
        let good = Embedded { store: Store::memory().with_clock(Arc::new(stage.clock.clone())) };
        stage.backend = Arc::new(super::broken::Broken::new(good, fault));
        stage
    }

    fn over(store: Store, folder: Option<tempfile::TempDir>) -> Self {
        let clock = ManualClock::new();
        let store = store.with_clock(Arc::new(clock.clone()));
        let mut stage = Self {
            backend: Arc::new(Embedded { store }),
            clock,
            now: START,
            _folder: folder,
            #[cfg(feature = "redis")]
            server: None,
        };
        stage.set_embedded(START);
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
        let backend = Arc::new(crate::documents::redis::Redis::new(&connection));
        let (now, server) = (0, Some(server));
        let mut stage = Self { backend, clock, now, _folder: None, server };
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

    pub(super) async fn elapse(&mut self, ms: i64) {
        self.set(self.now + ms * 1000).await;
    }

    pub(super) fn now_us(&self) -> u64 {
        self.now.try_into().expect("after 1970")
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.now_us() / 1000
    }
}

/// The steps, each delivered twice: the second answer is the first one's, and changes nothing.
impl Stage {
    pub(super) async fn put(&self, place: &Place, write: &Write) -> Result<Wrote, String> {
        let first = self.backend.put(place, write).await.map_err(|error| error.chain())?;
        let second = self.backend.put(place, write).await.map_err(|error| error.chain())?;
        same("put", first, &second)
    }

    /// A write that must succeed: its version.
    pub(super) async fn stored(&self, place: &Place, write: &Write) -> Result<u64, String> {
        match self.put(place, write).await? {
            Wrote::Stored { version, .. } => Ok(version),
            Wrote::Conflict(current) => Err(format!("a conflict with {current:?}")),
        }
    }

    pub(super) async fn get(&self, place: &Place) -> Result<Option<Stored>, String> {
        self.backend.get(place).await.map_err(|error| error.chain())
    }

    /// The value alone.
    pub(super) async fn value(&self, place: &Place) -> Result<Option<String>, String> {
        let stored = self.get(place).await?;
        Ok(stored.map(|stored| String::from_utf8_lossy(&stored.data).into_owned()))
    }

    pub(super) async fn history(&self, place: &Place, limit: u64) -> Result<Vec<String>, String> {
        let past = self.backend.history(place, limit).await.map_err(|error| error.chain())?;
        let text = |past: Past| String::from_utf8_lossy(&past.data).into_owned();
        Ok(past.into_iter().map(text).collect())
    }

    pub(super) async fn extend(&self, place: &Place, ttl_ms: u64) -> Result<Option<u64>, String> {
        let first = self.backend.extend(place, ttl_ms).await.map_err(|error| error.chain())?;
        let second = self.backend.extend(place, ttl_ms).await.map_err(|error| error.chain())?;
        same("extend", first, &second)
    }

    pub(super) async fn delete(&self, place: &Place, token: &Token) -> Result<bool, String> {
        let first = self.backend.delete(place, token).await.map_err(|error| error.chain())?;
        let second = self.backend.delete(place, token).await.map_err(|error| error.chain())?;
        same("delete", first, &second)
    }

    /// Names and whether there may be more.
    pub(super) async fn list(&self, slice: &Slice) -> Result<(Vec<String>, bool), String> {
        let listed = self.backend.list(slice).await.map_err(|error| error.chain())?;
        Ok((listed.items.into_iter().map(|item| item.name).collect(), listed.more))
    }

    pub(super) async fn count(&self, of: &Place) -> Result<u64, String> {
        let count = self.backend.count(&of.namespace, of.shard).await;
        count.map_err(|error| error.chain())
    }
}

fn same<T: PartialEq + std::fmt::Debug>(step: &str, first: T, second: &T) -> Result<T, String> {
    if first == *second {
        Ok(first)
    } else {
        Err(format!("{step} delivered again answers {second:?}, not {first:?}"))
    }
}
