//! Reads the environment, the names of other set-ups included, so that moving here needs no new
//! variables.

use super::{Config, Credentials, Endpoint, Host, Tls};
use crate::{Error, Result};
use std::time::Duration;

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// An empty variable counts as unset, as shells and compose files leave them.
fn set(lookup: Lookup<'_>, name: &str) -> Option<String> {
    lookup(name).filter(|value| !value.is_empty())
}

fn number<T: std::str::FromStr>(lookup: Lookup<'_>, name: &str) -> Result<Option<T>> {
    set(lookup, name)
        .map(|value| {
            value.parse().map_err(|_| Error::misuse("config.env", format!("{name} is no number")))
        })
        .transpose()
}

pub(super) fn read(lookup: Lookup<'_>) -> Result<Config> {
    overlay(endpoint(lookup)?, lookup)
}

fn endpoint(lookup: Lookup<'_>) -> Result<Config> {
    let off = set(lookup, "USE_REDIS").is_some_and(|value| {
        matches!(value.to_ascii_lowercase().as_str(), "0" | "false" | "no" | "off")
    });
    if off {
        tracing::warn!("USE_REDIS is off: state is embedded, this process alone sees it");
        let file = set(lookup, "COORDINATOR_FILE").map(Into::into);
        return Ok(Config::new(Endpoint::Embedded { file }));
    }
    for name in ["COORDINATOR_URL", "REDIS_URL"] {
        if let Some(url) = set(lookup, name) {
            return Config::from_url(&url);
        }
    }
    let Some(name) = set(lookup, "REDIS_HOST") else {
        tracing::warn!("no URL is configured: state is embedded, this process alone sees it");
        let file = set(lookup, "COORDINATOR_FILE").map(Into::into);
        return Ok(Config::new(Endpoint::Embedded { file }));
    };
    let port = number(lookup, "REDIS_PORT")?.unwrap_or(6379);
    let mut config = Config::new(Endpoint::Standalone(Host { name, port }));
    config.database = number(lookup, "REDIS_DB")?;
    // A host has no scheme to say it with.
    if TLS.iter().any(|name| set(lookup, name).is_some()) {
        config.tls = Some(Tls::default());
    }
    Ok(config)
}

/// What the variables add to an endpoint that was chosen: they fill gaps, never overrule a URL.
pub(super) fn overlay(mut config: Config, lookup: Lookup<'_>) -> Result<Config> {
    if let Some(prefix) =
        set(lookup, "COORDINATOR_PREFIX").or_else(|| set(lookup, "REDIS_KEY_PREFIX"))
    {
        config = config.with_prefix(&prefix)?;
    }
    if let Credentials::None = config.credentials
        && !config.is_embedded()
        && let Some(password) = set(lookup, "REDIS_PASSWORD")
    {
        config.credentials = Credentials::fixed(None, &password);
    }
    if let Some(tls) = &mut config.tls {
        fill_tls(tls, lookup);
    } else if !config.is_embedded() {
        for name in TLS {
            if set(lookup, name).is_some() {
                let why = format!("{name} is set and the URL is not TLS: write rediss://");
                return Err(Error::misuse("config.env", why));
            }
        }
    }
    if let Some(connections) = number(lookup, "REDIS_MAX_CONNECTIONS")? {
        config = config.with_max_connections(connections);
    }
    config.session_ttl = number(lookup, "SESSION_TTL")?.map(Duration::from_secs);
    config.document_ttl = number(lookup, "REDIS_TTL_SECONDS")?.map(Duration::from_secs);
    Ok(config)
}

const TLS: [&str; 4] =
    ["COORDINATOR_TLS_CA", "COORDINATOR_TLS_CERT", "COORDINATOR_TLS_KEY", "COORDINATOR_TLS_SNI"];

fn fill_tls(tls: &mut Tls, lookup: Lookup<'_>) {
    let path = |name| set(lookup, name).map(Into::into);
    tls.ca = tls.ca.take().or_else(|| path("COORDINATOR_TLS_CA"));
    tls.cert = tls.cert.take().or_else(|| path("COORDINATOR_TLS_CERT"));
    tls.key = tls.key.take().or_else(|| path("COORDINATOR_TLS_KEY"));
    tls.sni = tls.sni.take().or_else(|| set(lookup, "COORDINATOR_TLS_SNI"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<Config> {
        let lookup = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Config::from_lookup(lookup)
    }

    fn port(config: &Config) -> u16 {
        match config.endpoint() {
            Endpoint::Standalone(host) => host.port,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_url_set_wins() {
        let both = [("REDIS_URL", "redis://h:2"), ("COORDINATOR_URL", "redis://h:1")];
        assert_eq!(port(&config(&both).expect("a config")), 1);
        assert_eq!(port(&config(&both[..1]).expect("a config")), 2);
        let parts = [("REDIS_HOST", "h"), ("REDIS_PORT", "3"), ("REDIS_DB", "4")];
        let config = config(&parts).expect("a config");
        assert_eq!((port(&config), config.database()), (3, Some(4)));
    }

    #[test]
    fn use_redis_zero_means_embedded() {
        let file = [("USE_REDIS", "0"), ("REDIS_URL", "redis://h"), ("COORDINATOR_FILE", "/f")];
        let config = config(&file).expect("a config");
        assert_eq!(config.endpoint(), &Endpoint::Embedded { file: Some("/f".into()) });
    }

    #[test]
    fn nothing_set_means_embedded() {
        assert!(config(&[]).expect("a config").is_embedded());
        assert!(config(&[("REDIS_URL", "")]).expect("a config").is_embedded());
    }

    #[test]
    fn variables_fill_gaps_and_never_overrule_the_url() {
        let config = config(&[
            ("COORDINATOR_URL", "rediss://u:own@h?ca=/url.pem"),
            ("REDIS_PASSWORD", "other"),
            ("COORDINATOR_TLS_CA", "/env.pem"),
            ("COORDINATOR_TLS_SNI", "name"),
            ("REDIS_KEY_PREFIX", "app:"),
            ("SESSION_TTL", "1800"),
            ("REDIS_TTL_SECONDS", "86400"),
            ("REDIS_MAX_CONNECTIONS", "50"),
        ])
        .expect("a config");
        let tls = config.tls().expect("TLS is on");
        assert_eq!(tls.ca, Some("/url.pem".into()));
        assert_eq!(tls.sni.as_deref(), Some("name"));
        assert_eq!(config.keyspace().prefix(), "app");
        assert_eq!(config.session_ttl(), Some(Duration::from_mins(30)));
        assert_eq!(config.document_ttl(), Some(Duration::from_hours(24)));
        assert_eq!(config.max_connections(), 50);
        match config.credentials() {
            Credentials::Fixed { password, .. } => assert_eq!(password.expose(), "own"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tls_variables_are_never_ignored() {
        let ca = ("COORDINATOR_TLS_CA", "/ca.pem");
        assert!(config(&[("REDIS_URL", "redis://h"), ca]).is_err());
        let host = config(&[("REDIS_HOST", "h"), ca]).expect("a config");
        assert_eq!(host.tls().expect("TLS is on").ca, Some("/ca.pem".into()));
        assert!(config(&[ca]).expect("a config").is_embedded());
    }

    #[test]
    fn a_bad_variable_is_named() {
        let error = config(&[("REDIS_HOST", "h"), ("REDIS_PORT", "x")]).expect_err("no number");
        assert!(error.chain().contains("REDIS_PORT"));
    }
}
