//! Caches: what they promise, on every backend, through the public API.

mod batches;
mod changes;
mod globs;
mod grace;
mod loads;
mod values;

use crate::topology::Servers;
use coordinator_cache::{Cache, CacheBuilder, Caches, Loading};
use coordinator_core::{clock::ManualClock, redis::Connection};
use futures::future::BoxFuture;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const SOON: Duration = Duration::from_secs(20);

/// Caches on one backend, and those of another instance.
struct Stage {
    caches: Caches,
    peer: Caches,
    clock: ManualClock,
    servers: Option<Servers>,
}

impl Stage {
    fn embedded() -> Self {
        let clock = ManualClock::new();
        let caches = Caches::embedded_with_clock(Arc::new(clock.clone()));
        Self { peer: caches.sibling(), caches, clock, servers: None }
    }

    async fn redis() -> Self {
        let servers = Servers::start().await;
        let clock = ManualClock::new();
        let config = servers.config().clone().with_clock(Arc::new(clock.clone()));
        let connect = || Connection::connect(config.clone());
        let caches = Caches::redis(&connect().await.expect("a connection"));
        let peer = Caches::redis(&connect().await.expect("a connection"));
        Self { caches, peer, clock, servers: Some(servers) }
    }

    /// Lets time pass, for the server and for its clients.
    async fn elapse(&self, by: Duration) {
        let by = by + Duration::from_millis(2);
        if let Some(servers) = &self.servers {
            servers.advance(by).await;
        }
        self.clock.advance(by);
    }

    fn cache(&self) -> CacheBuilder<String> {
        self.caches.cache("crew-config").with_early_refresh(0.0).with_ttl(MINUTE)
    }

    /// The same of the other instance.
    fn other(&self) -> CacheBuilder<String> {
        self.peer.cache("crew-config").with_early_refresh(0.0).with_ttl(MINUTE)
    }
}

/// Each case of a module, on every backend.
macro_rules! on_every_backend {
    ($($subject:ident { $($case:ident)* })*) => {
        mod embedded {
            $($(#[tokio::test] async fn $case() {
                super::$subject::$case(super::Stage::embedded()).await;
            })*)*
        }
        mod redis {
            $($(#[tokio::test] async fn $case() {
                super::$subject::$case(super::Stage::redis().await).await;
            })*)*
        }
    };
}

on_every_backend! {
    values {
        what_is_set_is_there_for_its_time_and_no_longer
        a_name_of_any_kind_is_a_key_of_its_own
        values_of_another_shape_are_misses
        long_values_are_compressed_and_come_back
        caches_that_cannot_be_are_refused
    }
    loads {
        many_callers_make_one_load
        another_instance_waits_for_the_load_and_is_woken
        what_is_ended_while_it_is_loaded_is_not_stored
        whoever_comes_after_the_end_joins_no_older_load
        a_set_wins_over_the_load_under_way
        a_loader_that_panics_fails_or_dawdles_harms_nobody
        a_caller_that_leaves_loses_nothing
        a_loader_says_how_its_value_is_kept
    }
    grace {
        a_stale_value_stands_in_for_a_failed_load
        what_is_expired_is_loaded_anew_and_kept_for_failures
        a_stale_value_is_given_at_once_where_that_is_wished
        that_there_is_nothing_is_remembered_for_its_own_time
    }
    changes {
        tags_end_what_has_them_in_every_cache
        a_tag_that_ends_while_a_value_is_loaded_ends_it
        a_near_cache_hears_of_the_changes_of_others
    }
    batches {
        patterns_end_what_they_match_and_nothing_else
        several_keys_are_read_stored_loaded_and_ended_at_once
    }
    globs {
        patterns_mean_what_they_say_whatever_keys_hold
        namespaces_and_tags_are_ended_alone_whatever_they_hold
    }
}

/// What brings a text.
type Loader<F> = Box<dyn FnOnce(Loading<String>) -> F + Send>;

/// A loader that counts and brings a text.
fn brings(
    text: &str,
    count: &Arc<AtomicU32>,
) -> Loader<std::future::Ready<Result<String, String>>> {
    let (text, count) = (text.to_owned(), count.clone());
    Box::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok(text))
    })
}

async fn text(cache: &Cache<String>, key: &str) -> Option<String> {
    cache.get(key).await.expect("an answer").map(|hit| hit.to_string())
}

/// A load that stands still until it is told what to bring.
struct Held {
    begun: Arc<Notify>,
    go_on: Arc<Notify>,
}

fn held(text: &str) -> (Held, Loader<BoxFuture<'static, Result<String, String>>>) {
    let held = Held { begun: Arc::default(), go_on: Arc::default() };
    let (begun, go_on, text) = (held.begun.clone(), held.go_on.clone(), text.to_owned());
    let loader = Box::new(move |_| -> BoxFuture<'static, Result<String, String>> {
        Box::pin(async move {
            begun.notify_one();
            go_on.notified().await;
            Ok(text)
        })
    });
    (held, loader)
}
