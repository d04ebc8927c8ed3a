//! Builds the client's configuration from ours; every default that bites is set here.

use crate::{
    Error, Result,
    config::{Config, Credentials, Endpoint, Host, Protocol, Tls},
};
use fred::{
    clients::Client,
    error::{Error as FredError, ErrorKind as FredKind},
    interfaces::FredResult,
    socket2::TcpKeepalive,
    types::{
        RespVersion,
        config::{
            ClusterDiscoveryPolicy, Config as FredConfig, ConnectionConfig, CredentialProvider,
            HostMapping, PerformanceConfig, ReconnectError, ReconnectPolicy, Server, ServerConfig,
            TcpConfig, TlsConfig, TlsConnector, TlsHostMapping,
        },
    },
};
use rand::RngExt as _;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

/// What a connection carries, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Commands,
    Messages,
    Invalidations,
    Blocking,
}

/// How many messages may wait for a slow task before some are reported lost.
const MESSAGES_BUFFERED: usize = 16_384;

pub(super) fn client(config: &Config, role: Role) -> Result<Client> {
    config.validate()?;
    let (username, password, provider) = credentials(config.credentials());
    let fred = FredConfig {
        // Without this the first connection attempt would never end.
        fail_fast: true,
        username,
        password,
        credential_provider: provider,
        server: server(config)?,
        version: match config.protocol() {
            Protocol::Resp2 => RespVersion::RESP2,
            Protocol::Resp3 => RespVersion::RESP3,
        },
        database: config.database(),
        tls: config.tls().map(tls).transpose()?,
        ..FredConfig::default()
    };
    let timeout = config.command_timeout();
    let performance = PerformanceConfig {
        // A blocking read lasts as long as its caller says; it has its own bound.
        default_command_timeout: if role == Role::Blocking { Duration::ZERO } else { timeout },
        broadcast_channel_capacity: match role {
            Role::Messages | Role::Invalidations => MESSAGES_BUFFERED,
            Role::Commands | Role::Blocking => 64,
        },
        ..PerformanceConfig::default()
    };
    let connection = ConnectionConfig {
        connection_timeout: config.connect_timeout(),
        internal_command_timeout: config.connect_timeout(),
        // The client would replay commands in flight.
        max_command_attempts: 1,
        // A command that a node redirects was not executed, and is sent again by us. The client's
        // own way would end its task at an ASK, and with more attempts read the answer of another
        // command as that to ASKING.
        max_redirections: 0,
        // Any other value breaks flushing for ever after one rejection; permits bound the queue.
        max_command_buffer_len: 0,
        reconnect_on_auth_error: matches!(config.credentials(), Credentials::Source(_)),
        reconnect_errors: vec![
            ReconnectError::ClusterDown,
            ReconnectError::Loading,
            ReconnectError::MasterDown,
            ReconnectError::ReadOnly,
        ],
        tcp: TcpConfig {
            nodelay: Some(true),
            // A peer that takes nothing off the wire would block the client's one task for ever.
            // The client's own check for such peers starts anew with every write.
            user_timeout: Some(timeout * 2),
            keepalive: Some(
                TcpKeepalive::new()
                    .with_time(Duration::from_secs(10))
                    .with_interval(Duration::from_secs(5)),
            ),
            ..TcpConfig::default()
        },
        ..ConnectionConfig::default()
    };
    // No limit on attempts: when a policy ends, the client hangs for ever.
    // At its longest delay the client adds no jitter, so that delay itself is drawn.
    let longest = rand::rng().random_range(400..500);
    let mut policy = ReconnectPolicy::new_exponential(0, 50, longest, 2);
    policy.set_jitter(50);
    Ok(Client::new(fred, Some(performance), Some(connection), Some(policy)))
}

fn server(config: &Config) -> Result<ServerConfig> {
    let sni = config.tls().and_then(|tls| tls.sni.as_deref());
    let one = |host: &Host| match sni {
        Some(name) => Server::new_with_tls(host.name.as_str(), host.port, Some(name.to_owned())),
        None => Server::new(host.name.as_str(), host.port),
    };
    let all = |hosts: &[Host]| hosts.iter().map(one).collect();
    Ok(match config.endpoint() {
        Endpoint::Standalone(host) => ServerConfig::Centralized { server: one(host) },
        Endpoint::Unix(path) => ServerConfig::Unix { path: path.clone() },
        Endpoint::Cluster(hosts) => {
            ServerConfig::Clustered { hosts: all(hosts), policy: ClusterDiscoveryPolicy::UseCache }
        }
        Endpoint::Sentinel { hosts, service } => {
            let (username, password, _) = credentials(config.sentinel_credentials());
            ServerConfig::Sentinel {
                hosts: all(hosts),
                service_name: service.clone(),
                username,
                password,
            }
        }
        Endpoint::Embedded { .. } => {
            return Err(Error::misuse("connect", "embedded:// has no server to connect to"));
        }
    })
}

type Login = (Option<String>, Option<String>, Option<Arc<dyn CredentialProvider>>);

fn credentials(credentials: &Credentials) -> Login {
    match credentials {
        Credentials::None => (None, None, None),
        Credentials::Fixed { username, password } => {
            (username.clone(), Some(password.expose().to_owned()), None)
        }
        Credentials::Source(source) => (None, None, Some(Arc::new(Renewed(source.clone())))),
    }
}

/// Our credential source behind the client's trait.
#[derive(Debug)]
struct Renewed(Arc<dyn crate::config::CredentialSource>);

impl CredentialProvider for Renewed {
    fn fetch<'a, 's, 'f>(
        &'a self,
        _server: Option<&'s Server>,
    ) -> crate::BoxFuture<'f, FredResult<(Option<String>, Option<String>)>>
    where
        'a: 'f,
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let (username, password) = self
                .0
                .fetch()
                .await
                .map_err(|error| FredError::new(FredKind::Auth, error.chain()))?;
            Ok((username, Some(password.expose().to_owned())))
        })
    }

    fn refresh_interval(&self) -> Option<Duration> {
        self.0.refresh_interval()
    }
}

fn tls(tls: &Tls) -> Result<TlsConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::misuse("connect.tls", error.to_string()))?
        .with_root_certificates(authorities(tls)?);
    let config = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| unreadable("the client's key", key, &error))?;
            builder
                .with_client_auth_cert(certificates(cert)?, key)
                .map_err(|error| Error::misuse("connect.tls", error.to_string()))?
        }
        _ => builder.with_no_client_auth(),
    };
    let mut tls_config = TlsConfig::from(TlsConnector::from(config));
    if let Some(name) = &tls.sni {
        tls_config.hostnames = TlsHostMapping::Custom(Arc::new(FixedName(name.clone())));
    }
    Ok(tls_config)
}

fn authorities(tls: &Tls) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    match &tls.ca {
        Some(path) => {
            for certificate in certificates(path)? {
                store.add(certificate).map_err(|error| unreadable("the CA", path, &error))?;
            }
        }
        None => {
            // What the system holds and cannot be read is left out, as browsers do.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if store.is_empty() {
        return Err(Error::misuse(
            "connect.tls",
            "there is no authority to trust: name one with ca",
        ));
    }
    Ok(store)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable("a certificate", path, &error))
}

fn unreadable(what: &str, path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::misuse("connect.tls", format!("{what} in {} cannot be read: {error}", path.display()))
}

/// Expects one name of every node: cluster nodes are announced by address.
#[derive(Debug)]
struct FixedName(String);

impl HostMapping for FixedName {
    fn map(&self, _ip: &IpAddr, _default_host: &str) -> Option<String> {
        Some(self.0.clone())
    }
}
