//! Reads connection URLs. Written here because a Redis URL names several hosts, which no URL
//! library reads; errors never quote what stands before the `@`.

use super::{Config, Credentials, Endpoint, Fallback, Host, Protocol, Tls};
use crate::{Error, Result};
use percent_encoding::percent_decode_str;

const DEFAULT_PORT: u16 = 6379;
const DEFAULT_SENTINEL_PORT: u16 = 26379;

fn fault(why: impl Into<String>) -> Error {
    Error::misuse("config.url", why)
}

pub(super) fn parse(url: &str) -> Result<Config> {
    let (scheme, rest) = url
        .split_once("://")
        .ok_or_else(|| fault("a URL begins with a scheme such as redis://"))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if query.contains('@') {
        // What stands before it may be part of a password: nothing of it is quoted.
        return Err(fault("a `?` in a user or password is written %3F"));
    }
    let (scheme, tls) = match scheme {
        "rediss" => ("redis", true),
        "rediss-cluster" => ("redis-cluster", true),
        "rediss-sentinel" => ("redis-sentinel", true),
        other => (other, false),
    };
    let (mut config, file) = match scheme {
        "embedded" => (embedded(rest)?, true),
        "unix" | "redis+unix" => (unix(rest)?, false),
        "redis" | "redis-cluster" | "redis-sentinel" => (network(scheme, rest)?, false),
        _ => {
            return Err(fault(
                "the scheme is none of redis, rediss, redis-cluster, redis-sentinel, unix and \
                 embedded",
            ));
        }
    };
    if tls {
        config.tls = Some(Tls::default());
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if file {
            return Err(fault(format!("embedded:// takes no parameter {name:?}")));
        }
        parameter(&mut config, name, &decode(value)?)?;
    }
    Ok(config)
}

fn embedded(rest: &str) -> Result<Config> {
    let file = match rest {
        "" | "/" => None,
        path if path.starts_with('/') => Some(decode(path)?.into()),
        _ => {
            return Err(fault("embedded:// takes an absolute path, as in embedded:///var/x.redb"));
        }
    };
    Ok(Config::new(Endpoint::Embedded { file }))
}

fn unix(rest: &str) -> Result<Config> {
    let (credentials, path) = authority(rest)?;
    if !path.starts_with('/') {
        return Err(fault("unix:// takes an absolute path, as in unix:///run/redis.sock"));
    }
    let mut config = Config::new(Endpoint::Unix(decode(path)?.into()));
    config.credentials = credentials;
    Ok(config)
}

fn network(scheme: &str, rest: &str) -> Result<Config> {
    let (credentials, rest) = authority(rest)?;
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let port = if scheme == "redis-sentinel" { DEFAULT_SENTINEL_PORT } else { DEFAULT_PORT };
    let mut hosts =
        hosts.split(',').map(|host| parse_host(host, port)).collect::<Result<Vec<_>>>()?;
    let mut database = path;
    let endpoint = match scheme {
        "redis-cluster" => Endpoint::Cluster(hosts),
        "redis-sentinel" => {
            let (service, rest) = path.split_once('/').unwrap_or((path, ""));
            if service.is_empty() {
                return Err(fault(
                    "redis-sentinel:// ends in the service: redis-sentinel://h1,h2/main",
                ));
            }
            database = rest;
            Endpoint::Sentinel { hosts, service: decode(service)? }
        }
        _ if hosts.len() == 1 => Endpoint::Standalone(hosts.remove(0)),
        _ => {
            return Err(fault("redis:// names one host; redis-cluster:// takes several"));
        }
    };
    let mut config = Config::new(endpoint);
    config.credentials = credentials;
    if !database.is_empty() {
        let number =
            database.parse().map_err(|_| fault("the database is a number from 0 to 255"))?;
        config.database = Some(number);
    }
    Ok(config)
}

/// Splits `[user:pass@]rest`; the last `@` before the first `/` counts, so that a password may
/// hold one.
fn authority(rest: &str) -> Result<(Credentials, &str)> {
    let end = rest.find('/').unwrap_or(rest.len());
    let Some(at) = rest[..end].rfind('@') else {
        if rest.contains('@') {
            return Err(fault("a `/` in a user or password is written %2F"));
        }
        return Ok((Credentials::None, rest));
    };
    let (login, rest) = (&rest[..at], &rest[at + 1..]);
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let credentials = match (decode(user)?, decode(password)?) {
        (user, password) if password.is_empty() => {
            if user.is_empty() {
                Credentials::None
            } else {
                return Err(fault("a user stands there without a password (user:pass@)"));
            }
        }
        (user, password) => {
            Credentials::fixed(Some(user.as_str()).filter(|user| !user.is_empty()), &password)
        }
    };
    Ok((credentials, rest))
}

fn parse_host(text: &str, default_port: u16) -> Result<Host> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, rest) = rest.split_once(']').ok_or_else(|| fault("a `[` has no `]`"))?;
            match rest.strip_prefix(':') {
                None if !rest.is_empty() => return Err(fault("a port follows `]:`")),
                port => (name, port),
            }
        }
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    if name.is_empty() {
        return Err(fault("a host is missing"));
    }
    let port = match port {
        None => default_port,
        Some(port) => port.parse().map_err(|_| fault("a port is a number from 0 to 65535"))?,
    };
    Ok(Host { name: name.to_owned(), port })
}

fn parameter(config: &mut Config, name: &str, value: &str) -> Result<()> {
    if value.is_empty() {
        return Err(fault(format!("the parameter {name:?} has no value")));
    }
    match name {
        "ca" | "cert" | "key" | "sni" => {
            let tls = config
                .tls
                .as_mut()
                .ok_or_else(|| fault(format!("{name:?} needs a TLS scheme such as rediss://")))?;
            match name {
                "ca" => tls.ca = Some(value.into()),
                "cert" => tls.cert = Some(value.into()),
                "key" => tls.key = Some(value.into()),
                _ => tls.sni = Some(value.to_owned()),
            }
        }
        "protocol" => {
            config.protocol = match value {
                "resp2" => Protocol::Resp2,
                "resp3" => Protocol::Resp3,
                _ => return Err(fault("protocol is resp2 or resp3")),
            };
        }
        "fallback" => {
            config.fallback = match (value, value.strip_prefix("file:")) {
                ("memory", _) => Fallback::Memory,
                (_, Some(path)) if !path.is_empty() => Fallback::File(path.into()),
                _ => return Err(fault("fallback is memory or file:PATH")),
            };
        }
        "breaker" if value == "off" => config.breaker = None,
        "breaker" => return Err(fault("breaker is off, or not there")),
        _ => return Err(fault(format!("the parameter {name:?} is unknown"))),
    }
    Ok(())
}

fn decode(text: &str) -> Result<String> {
    percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| fault("a percent-encoded part is no UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, port: u16) -> Host {
        Host { name: name.into(), port }
    }

    fn endpoint(url: &str) -> Endpoint {
        parse(url).expect(url).endpoint
    }

    #[test]
    fn every_scheme_is_read() {
        assert_eq!(endpoint("redis://h"), Endpoint::Standalone(host("h", 6379)));
        assert_eq!(endpoint("redis://[::1]:7/3"), Endpoint::Standalone(host("::1", 7)));
        assert_eq!(
            endpoint("redis-cluster://a,b:7001"),
            Endpoint::Cluster(vec![host("a", 6379), host("b", 7001)])
        );
        assert_eq!(
            endpoint("redis-sentinel://a,b:2/main/4"),
            Endpoint::Sentinel {
                hosts: vec![host("a", 26379), host("b", 2)],
                service: "main".into()
            }
        );
        assert_eq!(endpoint("unix:///run/r.sock"), Endpoint::Unix("/run/r.sock".into()));
        assert_eq!(endpoint("embedded://"), Endpoint::Embedded { file: None });
        assert_eq!(
            endpoint("embedded:///x/y.redb"),
            Endpoint::Embedded { file: Some("/x/y.redb".into()) }
        );
        let config = parse("redis-sentinel://a/main/4").expect("a URL");
        assert_eq!(config.database, Some(4));
    }

    #[test]
    fn credentials_are_decoded_and_may_hold_an_at_sign() {
        for (url, user, password) in [
            ("redis://u:p@h", Some("u"), "p"),
            ("redis://:p%40ss%2F@h", None, "p@ss/"),
            ("redis://u:p@ss@h", Some("u"), "p@ss"),
        ] {
            match parse(url).expect(url).credentials {
                Credentials::Fixed { username, password: secret } => {
                    assert_eq!(username.as_deref(), user, "{url}");
                    assert_eq!(secret.expose(), password, "{url}");
                }
                other => panic!("{url}: {other:?}"),
            }
        }
    }

    #[test]
    fn tls_and_fallback_parameters_are_read() {
        let config =
            parse("rediss://h?ca=/a%20b.pem&cert=/c&key=/k&sni=redis.internal&fallback=file:/f")
                .expect("a URL");
        let tls = config.tls.expect("TLS is on");
        assert_eq!(tls.ca, Some("/a b.pem".into()));
        assert_eq!(tls.sni.as_deref(), Some("redis.internal"));
        assert_eq!(config.fallback, Fallback::File("/f".into()));
    }

    #[test]
    fn the_breaker_can_be_switched_off() {
        assert!(parse("redis://h").expect("a URL").breaker.is_some());
        assert!(parse("redis://h?breaker=off").expect("a URL").breaker.is_none());
    }

    #[test]
    fn the_protocol_is_the_newer_one_unless_the_url_says_otherwise() {
        let protocol = |url| parse(url).expect(url).protocol;
        assert_eq!(protocol("redis://h"), Protocol::Resp3);
        assert_eq!(protocol("redis://h?protocol=resp3"), Protocol::Resp3);
        assert_eq!(protocol("redis-cluster://a,b?protocol=resp2"), Protocol::Resp2);
    }

    #[test]
    fn bad_urls_are_refused_without_quoting_the_password() {
        for url in [
            "",
            "h",
            "http://h",
            "redis://",
            "redis://h:x",
            "redis://h/x",
            "redis://a,b",
            "redis-sentinel://h",
            "redis://h?sni=x",
            "redis://h?fallback=disk",
            "redis://h?x=1",
            "redis://h?breaker=on",
            "redis://h?protocol=2",
            "redis://h?ca",
            "embedded://x",
            "embedded://?fallback=memory",
            "unix://x",
            "redis://u:hunter2@",
            "redis://u:hunter2@h:x",
            "redis://u:hunter2@h?x=1",
            "redis://u:hun/ter2@h",
            "redis://u:1234?hunter2@h",
            "redis://u?hunter2@h",
            "hunter2@h://",
            "redis://[::1]6380",
            "redis://[::1",
        ] {
            let error = parse(url).expect_err(url);
            assert_eq!(error.kind(), crate::ErrorKind::Misuse);
            assert!(!error.chain().contains("hunter2"), "{}", error.chain());
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }
}
