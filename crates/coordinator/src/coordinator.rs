//! The facade: one configuration, one connection, every part. It decides nothing.

use coordinator_cache::Caches;
use coordinator_core::{
    Config, Result,
    config::Endpoint,
    health::{Health, State},
};
#[cfg(feature = "redis")]
use coordinator_core::{config::Fallback, redis::Connection};
use coordinator_events::Events;
use coordinator_locks::Locks;
use coordinator_ratelimit::RateLimiter;
use coordinator_sessions::{Conversations, Documents, Sessions, Store};
use std::time::Duration;

/// Every part over one backend; clones share it.
#[derive(Debug, Clone)]
pub struct Coordinator {
    config: Config,
    locks: Locks,
    limits: RateLimiter,
    events: Events,
    caches: Caches,
    persisted: Persisted,
    #[cfg(feature = "redis")]
    connection: Option<Connection>,
}

impl Coordinator {
    /// Connects to what a URL names; see [`Config::from_url`].
    ///
    /// # Errors
    /// As [`with_config`](Self::with_config), and [`Misuse`](coordinator_core::ErrorKind::Misuse)
    /// for a URL that cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::with_config(Config::from_url(url)?).await
    }

    /// Connects to what the environment names; see [`Config::from_env`].
    ///
    /// # Errors
    /// As [`with_config`](Self::with_config), and [`Misuse`](coordinator_core::ErrorKind::Misuse)
    /// for a variable that cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn from_env() -> Result<Self> {
        Self::with_config(Config::from_env()?).await
    }

    /// State in this process alone, in memory.
    pub fn embedded() -> Self {
        let config = Config::embedded();
        let store = Store::memory().with_clock(config.clock().clone());
        Self::in_process(config, &store)
    }

    fn in_process(config: Config, store: &Store) -> Self {
        Self {
            locks: Locks::embedded_with_clock(config.clock().clone()),
            limits: RateLimiter::embedded_with_clock(config.clock().clone()),
            events: Events::embedded_with_clock(config.clock().clone()),
            caches: Caches::embedded_with_clock(config.clock().clone()),
            persisted: Persisted::embedded_in(store, &config),
            config,
            #[cfg(feature = "redis")]
            connection: None,
        }
    }

    /// Connects to what a configuration names. A server that is not found is an error, unless the
    /// configuration has a fallback ([`Config::with_fallback`]): then the connection is sought on
    /// in the background, and locks, which never fall back, are unavailable until it is found.
    ///
    /// # Errors
    /// [`Unavailable`](coordinator_core::ErrorKind::Unavailable) if no server is found,
    /// [`Rejected`](coordinator_core::ErrorKind::Rejected) if it refuses us,
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) for a wrong configuration.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn with_config(config: Config) -> Result<Self> {
        config.validate()?;
        if let Endpoint::Embedded { file } = config.endpoint() {
            let store = match file {
                Some(path) => Store::file(path)?,
                None => Store::memory(),
            };
            let store = store.with_clock(config.clock().clone());
            return Ok(Self::in_process(config, &store));
        }
        Self::over_redis(config).await
    }

    #[cfg(feature = "redis")]
    async fn over_redis(config: Config) -> Result<Self> {
        let (connection, found) = match Connection::connect(config.clone()).await {
            Err(error) if error.is_retryable() && *config.fallback() != Fallback::None => {
                tracing::warn!(error = %error.chain(), "no server was found, falling back");
                (Connection::open(config.clone())?, false)
            }
            connected => (connected?, true),
        };
        let (limits, events, caches, persisted) = if found {
            let (limits, events) = (RateLimiter::redis(&connection), Events::redis(&connection));
            let caches = Caches::redis(&connection);
            (limits, events, caches, Persisted::redis(&connection, &config))
        } else {
            let store = match config.fallback() {
                Fallback::File(path) => Store::file(path)?,
                _ => Store::memory(),
            };
            let store = store.with_clock(config.clock().clone());
            let limits = RateLimiter::embedded_with_clock(config.clock().clone());
            let events = Events::embedded_with_clock(config.clock().clone());
            let caches = Caches::embedded_with_clock(config.clock().clone());
            (limits, events, caches, Persisted::embedded_in(&store, &config))
        };
        let locks = Locks::redis(&connection);
        let connection = Some(connection);
        Ok(Self { config, locks, limits, events, caches, persisted, connection })
    }

    #[cfg(not(feature = "redis"))]
    fn over_redis(_config: Config) -> std::future::Ready<Result<Self>> {
        let why = "this build has no redis feature: only embedded:// works";
        std::future::ready(Err(coordinator_core::Error::misuse("connect", why)))
    }

    /// What it was configured with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Locks.
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// Rate limits. After a fallback they are this process's own.
    pub fn limits(&self) -> &RateLimiter {
        &self.limits
    }

    /// Events. After a fallback they are this process's own.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Caches. After a fallback they are this process's own.
    pub fn caches(&self) -> &Caches {
        &self.caches
    }

    /// Sessions. After a fallback they are this process's own, in memory or in the file that the
    /// configuration names.
    pub fn sessions(&self) -> &Sessions {
        &self.persisted.sessions
    }

    /// State documents; after a fallback as [`sessions`](Self::sessions).
    pub fn documents(&self) -> &Documents {
        &self.persisted.documents
    }

    /// Conversations; after a fallback as [`sessions`](Self::sessions).
    pub fn conversations(&self) -> &Conversations {
        &self.persisted.conversations
    }

    /// The state of the connection now; an embedded backend is always connected.
    pub fn state(&self) -> State {
        #[cfg(feature = "redis")]
        if let Some(connection) = &self.connection {
            return connection.state();
        }
        State::Connected
    }

    /// The connection, to watch its state or to build parts by hand; `None` when embedded.
    #[cfg(feature = "redis")]
    pub fn connection(&self) -> Option<&Connection> {
        self.connection.as_ref()
    }

    /// How the backend is; never fails, an unreachable server is an answer too.
    ///
    /// # Cancel safety
    /// Cancel safe.
    #[cfg_attr(
        not(feature = "redis"),
        expect(clippy::unused_async, reason = "without a server nobody is asked")
    )]
    pub async fn health(&self) -> Health {
        #[cfg(feature = "redis")]
        if let Some(connection) = &self.connection {
            return connection.health().await;
        }
        Health::embedded()
    }

    /// Gives up what was dropped, waiting for that at most five seconds, and closes the
    /// connection. Later calls are [`Misuse`](coordinator_core::ErrorKind::Misuse).
    ///
    /// # Cancel safety
    /// Cancel safe: what is left closes when the last clone is dropped.
    pub async fn close(&self) {
        if !self.locks.close(Duration::from_secs(5)).await {
            tracing::warn!("some locks could not be given up and expire by themselves");
        }
        #[cfg(feature = "redis")]
        if let Some(connection) = &self.connection {
            connection.close().await;
        }
    }
}

/// What a file keeps where there is one.
#[derive(Debug, Clone)]
struct Persisted {
    sessions: Sessions,
    documents: Documents,
    conversations: Conversations,
}

impl Persisted {
    fn embedded_in(store: &Store, config: &Config) -> Self {
        Self::with_timeouts(
            Sessions::embedded_in(store),
            Documents::embedded_in(store),
            Conversations::embedded_in(store),
            config,
        )
    }

    #[cfg(feature = "redis")]
    fn redis(connection: &Connection, config: &Config) -> Self {
        Self::with_timeouts(
            Sessions::redis(connection),
            Documents::redis(connection),
            Conversations::redis(connection),
            config,
        )
    }

    fn with_timeouts(
        sessions: Sessions,
        documents: Documents,
        conversations: Conversations,
        config: &Config,
    ) -> Self {
        let sessions = match config.session_ttl() {
            Some(idle) => sessions.with_idle_timeout(idle),
            None => sessions,
        };
        let (documents, conversations) = match config.document_ttl() {
            Some(ttl) => (documents.with_ttl(ttl), conversations.with_ttl(ttl)),
            None => (documents, conversations),
        };
        Self { sessions, documents, conversations }
    }
}
