//! What every verb is told by the global options, and the configuration they come to.

use crate::failure::Failure;
use coordinator::Config;
use std::time::Duration;

/// What a verb needs behind its URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Locks that other processes see too.
    Redis,
    /// Limits that other processes have asked.
    SharedLimits,
    /// Events that other processes publish and hear.
    SharedEvents,
    /// State in this process will do.
    EmbeddedIsFine,
}

/// What every verb is told: the global options.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) url: Option<String>,
    pub(crate) prefix: Option<String>,
    pub(crate) json: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) verbose: u8,
}

impl Context {
    /// The configuration from the options, completed by the environment. `--url` wins over every
    /// variable, `USE_REDIS=0` included.
    pub(crate) fn config(&self, need: Need) -> Result<Config, Failure> {
        self.config_from(need, |name| {
            // A variable that is no UTF-8 is a wrong value, not an absent one.
            std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
        })
    }

    fn config_from(
        &self,
        need: Need,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Config, Failure> {
        let mut config = match &self.url {
            Some(url) => Config::from_url(url)?.with_lookup(lookup)?,
            None => Config::from_lookup(lookup)?,
        };
        if let Some(prefix) = &self.prefix {
            config = config.with_prefix(prefix)?;
        }
        if let Some(timeout) = self.timeout {
            config = config.with_command_timeout(timeout).with_connect_timeout(timeout);
        }
        config.validate()?;
        let why = match need {
            Need::Redis => "a process-local lock protects nobody",
            Need::SharedLimits => "a process that has just begun has limited nobody",
            Need::SharedEvents => "events of this process alone are heard by nobody",
            Need::EmbeddedIsFine => return Ok(config),
        };
        if config.is_embedded() {
            let advice = "name a Redis server with --url redis://HOST or COORDINATOR_URL";
            return Err(Failure::usage(format!("{why}: {advice}")));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator::config::Endpoint;

    fn context(url: Option<&str>) -> Context {
        Context {
            url: url.map(ToOwned::to_owned),
            prefix: None,
            json: false,
            timeout: None,
            verbose: 0,
        }
    }

    fn config(context: &Context, need: Need, env: &[(&str, &str)]) -> Result<Config, Failure> {
        context.config_from(need, |name| {
            let found = env.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn port(config: &Config) -> u16 {
        match config.endpoint() {
            Endpoint::Standalone(host) => host.port,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_option_wins_over_every_variable() {
        let env =
            [("USE_REDIS", "0"), ("COORDINATOR_URL", "redis://h:2"), ("COORDINATOR_PREFIX", "env")];
        let mut context = context(Some("redis://h:1"));
        let read = config(&context, Need::Redis, &env).unwrap();
        assert_eq!((port(&read), read.keyspace().prefix()), (1, "env"));
        context.prefix = Some("option".to_owned());
        let read = config(&context, Need::Redis, &env).unwrap();
        assert_eq!(read.keyspace().prefix(), "option");
    }

    #[test]
    fn without_a_server_a_verb_that_needs_one_is_refused() {
        for env in [
            &[][..],
            &[("COORDINATOR_URL", "embedded://")],
            &[("USE_REDIS", "0"), ("REDIS_URL", "redis://h")],
        ] {
            let refused = config(&context(None), Need::Redis, env).unwrap_err();
            assert_eq!(refused.exit(), 2);
            assert!(refused.to_string().contains("protects nobody"));
            let fine = config(&context(None), Need::EmbeddedIsFine, env).unwrap();
            assert!(fine.is_embedded());
        }
    }

    #[test]
    fn the_timeout_bounds_connecting_and_commands() {
        let mut context = context(Some("redis://h"));
        context.timeout = Some(Duration::from_millis(700));
        let read = config(&context, Need::Redis, &[]).unwrap();
        assert_eq!(read.command_timeout(), Duration::from_millis(700));
        assert_eq!(read.connect_timeout(), Duration::from_millis(700));
        context.timeout = Some(Duration::ZERO);
        assert_eq!(config(&context, Need::Redis, &[]).unwrap_err().exit(), 2);
    }
}
