//! A backend to play a case on, and the macro that lists the cases.

use coordinator::{Config, Coordinator, events::Events};
use coordinator_harness::{RedisServer, fresh_prefix};

/// Events on one backend.
pub(crate) struct Stage {
    pub(crate) events: Events,
    _server: Option<RedisServer>,
}

impl Stage {
    pub(crate) fn embedded() -> Self {
        Self { events: Events::embedded(), _server: None }
    }

    pub(crate) async fn redis() -> Self {
        let server = RedisServer::start().await.expect("a server");
        let [events] = connect(&server).await;
        Self { events, _server: Some(server) }
    }
}

/// So many processes' events, which are the same.
pub(crate) async fn connect<const N: usize>(server: &RedisServer) -> [Events; N] {
    let config = Config::from_url(&server.url()).expect("a URL");
    let config = config.with_prefix(&fresh_prefix()).expect("a prefix");
    let mut all = Vec::with_capacity(N);
    for _ in 0..N {
        let coordinator = Coordinator::with_config(config.clone()).await.expect("a connection");
        all.push(coordinator.events().clone());
    }
    all.try_into().expect("so many were made")
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
