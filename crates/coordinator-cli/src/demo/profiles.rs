//! What a worker looks up: a profile for each path, from a source that takes its time, through a
//! cache that all workers share.
//!
//! How often the cache had it is told to the parent; that it had the right one is checked here.

use super::requests::Request;
use coordinator::{
    Error, ErrorKind, Result,
    cache::{Cache, Caches, Near},
    clock::Clock,
};
use serde::{Deserialize, Serialize};
use std::{convert::Infallible, sync::Arc, time::Duration};

/// What a demo leaves behind is gone so long after it was loaded.
const LIFE: Duration = Duration::from_hours(1);
/// How long the source takes.
const SOURCE: Duration = Duration::from_millis(2);
/// How many a worker keeps itself.
const NEAR: u64 = 1000;

/// What is known of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Profile {
    path: String,
    segments: usize,
}

impl Profile {
    fn of(path: &str) -> Self {
        let segments = path.split('/').filter(|segment| !segment.is_empty()).count();
        Self { path: path.to_owned(), segments }
    }
}

/// The reads of one worker, since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reads {
    pub(crate) hits: u64,
    pub(crate) all: u64,
}

/// The profiles of one run of the demo.
#[derive(Debug, Clone)]
pub(crate) struct Profiles {
    cache: Cache<Profile>,
    clock: Arc<dyn Clock>,
}

impl Profiles {
    /// One worker's, over what all workers of the run `run` share.
    pub(crate) fn new(caches: &Caches, run: u64, clock: Arc<dyn Clock>) -> Result<Self> {
        let cache = caches.cache(&format!("demo:{run:016x}")).with_ttl(LIFE);
        Ok(Self { cache: cache.with_near(Near::entries(NEAR)).build()?, clock })
    }

    /// Looks the profile of a request's path up.
    pub(crate) async fn look_up(&self, request: &Request) -> Result<()> {
        let (path, clock) = (request.path.clone(), self.clock.clone());
        let load = |_| async move {
            clock.sleep(SOURCE).await;
            Ok::<_, Infallible>(Profile::of(&path))
        };
        let found = Box::pin(self.cache.get_or_load(&request.path, load)).await;
        let failed = |error| Error::new(ErrorKind::Unavailable, "demo.profile").with_source(error);
        if *found.map_err(failed)? == Profile::of(&request.path) {
            return Ok(());
        }
        Err(Error::corrupt("demo.profile", "the cache has the profile of another path"))
    }

    /// How often it was looked for one, and how often the cache had it.
    pub(crate) fn reads(&self) -> Reads {
        let stats = self.cache.stats();
        let hits = stats.near_hits + stats.far_hits;
        Reads { hits, all: hits + stats.misses }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator::clock::SystemClock;

    fn request(path: &str) -> Request {
        Request { number: 1, client: "c".to_owned(), path: path.to_owned() }
    }

    #[tokio::test]
    async fn what_one_worker_loaded_the_others_have() {
        let caches = Caches::embedded();
        let worker = |caches: &Caches| Profiles::new(caches, 1, Arc::new(SystemClock));
        let (one, other) = (worker(&caches).unwrap(), worker(&caches.sibling()).unwrap());
        for _ in 0..3 {
            one.look_up(&request("/a/b")).await.expect("memory");
            other.look_up(&request("/a/b")).await.expect("memory");
        }
        assert_eq!(one.reads(), Reads { hits: 2, all: 3 });
        assert_eq!(other.reads(), Reads { hits: 3, all: 3 });
    }

    #[tokio::test]
    async fn planted_a_profile_of_another_path_is_found() {
        let profiles = Profiles::new(&Caches::embedded(), 1, Arc::new(SystemClock)).unwrap();
        profiles.cache.set("/a", &Profile::of("/b")).await.expect("memory");
        let found = profiles.look_up(&request("/a")).await.expect_err("it is another's");
        assert_eq!(found.kind(), ErrorKind::Corrupt);
    }
}
