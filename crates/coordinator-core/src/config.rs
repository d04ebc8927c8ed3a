//! What to connect to and how: from a URL, from the environment, or built by hand.
//!
//! Nothing here connects; nothing here is ever printed with a secret in it.

mod breaker;
mod credentials;
mod env;
mod url;

pub use breaker::BreakerPolicy;
pub use credentials::{CredentialSource, Credentials, Secret};

use crate::{
    Error, Result,
    clock::{Clock, SystemClock},
    key::Keyspace,
};
use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

/// A host and its port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// A host name or an IP address, IPv6 without brackets.
    pub name: String,
    /// The TCP port.
    pub port: u16,
}

/// Where the state lives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// In this process; `file` keeps what parts persist (sessions, documents, conversations).
    /// Locks are never persisted.
    Embedded {
        /// A redb file, or memory alone.
        file: Option<PathBuf>,
    },
    /// One server.
    Standalone(Host),
    /// One server on this machine, by its socket's path.
    Unix(PathBuf),
    /// A cluster, by some of its nodes; the rest is discovered.
    Cluster(Vec<Host>),
    /// A master that Sentinels watch over.
    Sentinel {
        /// Some of the Sentinels.
        hosts: Vec<Host>,
        /// The name they give the master.
        service: String,
    },
}

/// TLS towards the server; there is no falling back to plain text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// A PEM file of the authorities to trust; without it the system's.
    pub ca: Option<PathBuf>,
    /// A PEM file with the client's certificate chain; needs `key`.
    pub cert: Option<PathBuf>,
    /// A PEM file with the client's private key; needs `cert`.
    pub key: Option<PathBuf>,
    /// The name to expect in the server's certificate, in place of the host's.
    pub sni: Option<String>,
}

/// What a service does when it finds no server at its start; locks never fall back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fallback {
    /// Starting fails.
    #[default]
    None,
    /// Other parts run embedded, in memory.
    Memory,
    /// Other parts run embedded, in this file.
    File(PathBuf),
}

/// Which version of the protocol to speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// The older one, for proxies and services that know no other. Following invalidations
    /// needs [`Resp3`](Self::Resp3).
    Resp2,
    /// The one that every supported server speaks.
    #[default]
    Resp3,
}

/// How to reach the state and how long to wait for it.
///
/// ```
/// use coordinator_core::config::Config;
/// use std::time::Duration;
///
/// let config = Config::from_url("redis://app:secret@127.0.0.1:6379/2")?
///     .with_prefix("shop")?
///     .with_command_timeout(Duration::from_millis(500));
/// assert!(!format!("{config:?}").contains("secret"));
/// # Ok::<(), coordinator_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Config {
    endpoint: Endpoint,
    keyspace: Keyspace,
    database: Option<u8>,
    protocol: Protocol,
    tls: Option<Tls>,
    credentials: Credentials,
    sentinel_credentials: Credentials,
    fallback: Fallback,
    command_timeout: Duration,
    connect_timeout: Duration,
    max_in_flight: usize,
    max_connections: usize,
    session_ttl: Option<Duration>,
    document_ttl: Option<Duration>,
    breaker: Option<BreakerPolicy>,
    clock: Arc<dyn Clock>,
}

impl Config {
    /// The default of [`with_prefix`](Self::with_prefix).
    pub const PREFIX: &'static str = "coordinator";
    /// The default of [`with_command_timeout`](Self::with_command_timeout).
    pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
    /// The default of [`with_connect_timeout`](Self::with_connect_timeout).
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

    /// State in this process alone, in memory.
    pub fn embedded() -> Self {
        Self::new(Endpoint::Embedded { file: None })
    }

    /// Defaults around an endpoint.
    ///
    /// # Panics
    /// Never: the default prefix is a prefix.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            keyspace: Keyspace::new(Self::PREFIX).expect("the default prefix is plain"),
            database: None,
            protocol: Protocol::default(),
            tls: None,
            credentials: Credentials::default(),
            sentinel_credentials: Credentials::default(),
            fallback: Fallback::None,
            command_timeout: Self::COMMAND_TIMEOUT,
            connect_timeout: Self::CONNECT_TIMEOUT,
            max_in_flight: 10_000,
            max_connections: 10,
            session_ttl: None,
            document_ttl: None,
            breaker: Some(BreakerPolicy::default()),
            clock: Arc::new(SystemClock),
        }
    }

    /// Reads a URL.
    ///
    /// | URL | state |
    /// |---|---|
    /// | `redis://[user:pass@]host[:port][/db]` | one server |
    /// | `rediss://…` | the same over TLS; so `rediss-cluster://`, `rediss-sentinel://` |
    /// | `redis-cluster://h1[:port],h2[:port]` | a cluster |
    /// | `redis-sentinel://h1[:port],h2[:port]/service[/db]` | a master behind Sentinels |
    /// | `unix:///path/to/redis.sock` | one server by its socket |
    /// | `embedded://` | this process, in memory |
    /// | `embedded:///path/file.redb` | this process, with a file |
    ///
    /// User and password are percent-decoded. Query parameters: `ca`, `cert`, `key`, `sni` (TLS),
    /// `protocol=resp2` or `resp3`, `fallback=memory` or `fallback=file:PATH`, `breaker=off`; an
    /// unknown one is an error.
    ///
    /// # Errors
    /// [`Misuse`](crate::ErrorKind::Misuse), saying what is wrong and never quoting credentials.
    pub fn from_url(url: &str) -> Result<Self> {
        url::parse(url)
    }

    /// Reads the environment: `USE_REDIS=0` (with `COORDINATOR_FILE`), else `COORDINATOR_URL`,
    /// else `REDIS_URL`, else `REDIS_HOST` with `REDIS_PORT` and `REDIS_DB`, else embedded, which
    /// is logged once at warn.
    ///
    /// `COORDINATOR_PREFIX` (or `REDIS_KEY_PREFIX`), `REDIS_PASSWORD`, `COORDINATOR_TLS_CA`,
    /// `_CERT`, `_KEY` and `_SNI`, `REDIS_MAX_CONNECTIONS`, `SESSION_TTL` and `REDIS_TTL_SECONDS`
    /// add what the URL leaves open.
    ///
    /// # Errors
    /// [`Misuse`](crate::ErrorKind::Misuse) naming the variable that cannot be read.
    pub fn from_env() -> Result<Self> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// [`from_env`](Self::from_env) with another source of variables.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self> {
        env::read(&lookup)
    }

    /// Applies the variables that add to a URL (prefix, TLS, TTLs) without choosing the endpoint.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub fn with_lookup(self, lookup: impl Fn(&str) -> Option<String>) -> Result<Self> {
        env::overlay(self, &lookup)
    }

    /// The prefix of every key and channel. Default `coordinator`.
    ///
    /// # Errors
    /// [`Misuse`](crate::ErrorKind::Misuse), see [`Keyspace::new`].
    pub fn with_prefix(mut self, prefix: &str) -> Result<Self> {
        self.keyspace = Keyspace::new(prefix)?;
        Ok(self)
    }

    /// How long one command may take, its answer included. Default 2 s.
    pub fn with_command_timeout(mut self, timeout: Duration) -> Self {
        self.command_timeout = timeout;
        self
    }

    /// How long one attempt to connect may take, TLS and authentication included. Default 3 s.
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How many commands may wait for their answers at once. Default 10,000.
    pub fn with_max_in_flight(mut self, commands: usize) -> Self {
        self.max_in_flight = commands.max(1);
        self
    }

    /// How many connections this process may open to a server. Default 10, 4 to 1,000.
    ///
    /// One carries commands, one messages and one invalidations; the rest are for blocking reads.
    pub fn with_max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.clamp(4, 1000);
        self
    }

    /// The numbered database; clusters have just 0.
    pub fn with_database(mut self, database: u8) -> Self {
        self.database = Some(database);
        self
    }

    /// Which version of the protocol to speak. Default [`Protocol::Resp3`].
    pub fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// TLS towards the server.
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Who to be at the server.
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// Who to be at the Sentinels, where they ask; a renewing source is read once.
    pub fn with_sentinel_credentials(mut self, credentials: Credentials) -> Self {
        self.sentinel_credentials = credentials;
        self
    }

    /// What to do when no server is found at the start. Default [`Fallback::None`].
    pub fn with_fallback(mut self, fallback: Fallback) -> Self {
        self.fallback = fallback;
        self
    }

    /// When calls stop waiting for a server that does not answer. Default
    /// [`BreakerPolicy::default`]: after a second of silence.
    pub fn with_breaker(mut self, policy: BreakerPolicy) -> Self {
        self.breaker = Some(policy);
        self
    }

    /// Every call waits for itself, however long nobody has answered.
    pub fn without_breaker(mut self) -> Self {
        self.breaker = None;
        self
    }

    /// Where the time comes from. Default [`SystemClock`].
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where the state lives.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether the state lives in this process.
    pub fn is_embedded(&self) -> bool {
        matches!(self.endpoint, Endpoint::Embedded { .. })
    }

    /// The keys of this application.
    pub fn keyspace(&self) -> &Keyspace {
        &self.keyspace
    }

    /// The numbered database, if one was chosen.
    pub fn database(&self) -> Option<u8> {
        self.database
    }

    /// Which version of the protocol to speak.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// TLS, if it is on.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Who to be at the server.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Who to be at the Sentinels.
    pub fn sentinel_credentials(&self) -> &Credentials {
        &self.sentinel_credentials
    }

    /// What to do when no server is found at the start.
    pub fn fallback(&self) -> &Fallback {
        &self.fallback
    }

    /// How long one command may take.
    pub fn command_timeout(&self) -> Duration {
        self.command_timeout
    }

    /// How long one attempt to connect may take.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// How many commands may wait for their answers at once.
    pub fn max_in_flight(&self) -> usize {
        self.max_in_flight
    }

    /// How many connections this process may open to a server.
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// The idle timeout of sessions from `SESSION_TTL`, where it is set.
    pub fn session_ttl(&self) -> Option<Duration> {
        self.session_ttl
    }

    /// The default TTL of documents and conversations from `REDIS_TTL_SECONDS`, where it is set.
    pub fn document_ttl(&self) -> Option<Duration> {
        self.document_ttl
    }

    /// When calls stop waiting for a server that does not answer; `None` is never.
    pub fn breaker(&self) -> Option<&BreakerPolicy> {
        self.breaker.as_ref()
    }

    /// Where the time comes from.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Checks what single setters cannot: called before connecting.
    ///
    /// # Errors
    /// [`Misuse`](crate::ErrorKind::Misuse) for a timeout of zero or over an hour, a client
    /// certificate without its key or the other way round, or a database in a cluster.
    pub fn validate(&self) -> Result<()> {
        let fault = |why: &str| Err(Error::misuse("config", why));
        for timeout in [self.command_timeout, self.connect_timeout] {
            if timeout.is_zero() || timeout > Duration::from_hours(1) {
                return fault("a timeout must be more than zero and at most an hour");
            }
        }
        if let Some(tls) = &self.tls
            && tls.cert.is_some() != tls.key.is_some()
        {
            return fault("a client certificate (cert) and its key go together");
        }
        if matches!(self.endpoint, Endpoint::Cluster(_)) && self.database.unwrap_or(0) != 0 {
            return fault("a cluster has just database 0");
        }
        Ok(())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("endpoint", &self.endpoint)
            .field("prefix", &self.keyspace.prefix())
            .field("database", &self.database)
            .field("protocol", &self.protocol)
            .field("tls", &self.tls)
            .field("credentials", &self.credentials)
            .field("fallback", &self.fallback)
            .field("command_timeout", &self.command_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}
