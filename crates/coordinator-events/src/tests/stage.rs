//! A backend whose wall clock the test sets to the ms.

use crate::{backend::Backend, embedded::Embedded};
use coordinator_core::{clock::ManualClock, key::Name};
use std::{sync::Arc, time::Duration};

/// 2030-01-01, in µs.
const START: i64 = 1_893_456_000_000_000;

pub(super) struct Stage {
    pub(super) backend: Arc<dyn Backend>,
    clock: ManualClock,
    now: i64,
    embedded: Option<Arc<Embedded>>,
    #[cfg(feature = "redis")]
    pub(super) redis: Option<(Arc<crate::redis::Redis>, coordinator_harness::FrozenServer)>,
}

impl Stage {
    pub(super) async fn embedded() -> Self {
        let clock = ManualClock::new();
        let embedded = Arc::new(Embedded::new(Arc::new(clock.clone())));
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
        #[cfg(feature = "redis")]
        if let Some((_, server)) = &self.redis {
            server.set_time_us(now).await.expect("the clock moves");
        }
        #[cfg(not(feature = "redis"))]
        std::future::ready(()).await;
        self.clock.set_unix_time(Duration::from_micros(u64::try_from(now).expect("after 1970")));
        self.now = now;
    }

    pub(super) async fn elapse(&mut self, ms: u64) {
        self.set(self.now + i64::try_from(ms).expect("not so long") * 1000).await;
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.now / 1000).expect("after 1970")
    }

    /// A scope's stream is deleted by hand.
    pub(super) async fn delete(&self, scope: &Name) {
        if let Some(embedded) = &self.embedded {
            assert!(embedded.delete(scope), "there was none");
        }
        #[cfg(feature = "redis")]
        self.command(scope, |key| vec!["DEL".to_owned(), key]).await;
    }

    /// An event is deleted by hand.
    pub(super) async fn lose(&self, scope: &Name, id: crate::cursor::Id) {
        if let Some(embedded) = &self.embedded {
            embedded.lose(scope, id);
        }
        #[cfg(feature = "redis")]
        self.command(scope, |key| vec!["XDEL".to_owned(), key, id.to_string()]).await;
    }

    /// The stream goes back to where it was after this event, under another server's reign.
    pub(super) async fn set_back(&self, scope: &Name, last: crate::cursor::Id) {
        if let Some(embedded) = &self.embedded {
            embedded.set_back(scope, last, true);
        }
        #[cfg(feature = "redis")]
        if let Some((redis, server)) = &self.redis {
            let key = redis.stream(scope);
            // A stream's last id does not go back: it is made anew as it was.
            let all = server.command(&["XRANGE", &key, "-", &last.to_string()]).await;
            let all = all.expect("an answer");
            let left = server.command(&["PTTL", &key]).await.expect("an answer");
            run(server, &["DEL", &key]).await;
            for entry in all.as_array().expect("events") {
                let parts = entry.as_array().expect("an event");
                let id = parts[0].as_str().expect("an id").to_owned();
                let fields: Vec<Vec<u8>> = parts[1]
                    .as_array()
                    .expect("fields")
                    .iter()
                    .map(|field| match field {
                        coordinator_harness::Resp::Bulk(Some(bytes)) => bytes.clone(),
                        other => panic!("{other:?}"),
                    })
                    .collect();
                let mut command: Vec<Vec<u8>> =
                    ["XADD", &key, &id].map(|part| part.as_bytes().to_vec()).into();
                command.extend(fields);
                let command: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
                server.command(&command).await.expect("an answer").ok().expect("it is added");
            }
            let left = left.as_int().expect("a number").to_string();
            run(server, &["PEXPIRE", &key, &left]).await;
            run(server, &["DEL", &key.replace(":ev:", ":reign:")]).await;
        }
    }

    #[cfg(feature = "redis")]
    async fn command(&self, scope: &Name, command: impl FnOnce(String) -> Vec<String>) {
        if let Some((redis, server)) = &self.redis {
            let command = command(redis.stream(scope));
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            run(server, &command).await;
        }
    }
}

#[cfg(feature = "redis")]
pub(super) async fn run(server: &coordinator_harness::RedisServer, command: &[&str]) {
    server.command(command).await.expect("an answer").ok().expect("it is done");
}
