//! The command line: what can be said, and how it is explained. Nothing is done here.

use crate::{
    cache::CacheArgs,
    context::Context,
    conversation::ConversationArgs,
    demo::DemoArgs,
    doc::DocArgs,
    events::EventsArgs,
    failure::{Failure, exit},
    limit::LimitArgs,
    lock::LockArgs,
    output,
    session::SessionArgs,
};
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, error::ErrorKind};
use clap_complete::Shell;
use std::{ffi::OsString, time::Duration};

const EXIT_CODES: &str = "\
Exit codes:
  0  done, allowed, acquired
  1  refused: held by another, over the limit, absent, expired, revoked, a conflict, paused
  2  the call is wrong
  3  Redis is unavailable or refuses us, or the outcome is unknown
  4  the lock was lost while the command ran
  otherwise the code of the command that was run

Environment:
  COORDINATOR_URL, REDIS_URL, or REDIS_HOST with REDIS_PORT and REDIS_DB   in place of --url
  COORDINATOR_PREFIX, REDIS_KEY_PREFIX                                     in place of --prefix
  REDIS_PASSWORD, COORDINATOR_TLS_CA, _CERT, _KEY, _SNI                    what the URL leaves out
  USE_REDIS=0                                                              no server at all
  COORDINATOR_FILE                                                         where state is then
  SESSION_TTL, REDIS_TTL_SECONDS                                           in place of --ttl
  COORDINATOR_TOKEN                                                        in place of --token

Examples:
  coordinator --url redis://127.0.0.1 lock run nightly --wait 10m -- ./backup.sh
  coordinator --url redis://127.0.0.1 limit check mail:alice --rule 100/1h
  coordinator --url redis://127.0.0.1 session revoke --user ann
  coordinator --url redis://127.0.0.1 cache invalidate-tag crew-config crew:42
  coordinator --url redis://127.0.0.1 events tail crew:42";

/// Locks, rate limits, sessions, a cache, events, health and a demonstration over Redis or Valkey.
#[derive(Debug, Parser)]
#[command(name = "coordinator", version, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

const GLOBAL: &str = "Global options";

/// The options of every verb.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where the state lives: redis://[user:pass@]host:port/db, rediss://, redis-cluster://h1,h2,
    /// redis-sentinel://h1,h2/service, embedded:// or embedded:///path/file.redb
    // The variables are not clap's `env`: an explicit URL has to be told from one of those.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "URL")]
    url: Option<String>,
    /// What all keys begin with [default: coordinator]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "NAME")]
    prefix: Option<String>,
    /// Answer with one JSON document on one line
    #[arg(long, global = true, help_heading = GLOBAL)]
    json: bool,
    /// How long connecting, and each command, may take [default: 3s, 2s]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "DUR", value_parser = duration)]
    timeout: Option<Duration>,
    /// Log to stderr; more with -vv and -vvv
    #[arg(short, long, global = true, help_heading = GLOBAL, action = ArgAction::Count)]
    verbose: u8,
}

impl From<Global> for Context {
    fn from(global: Global) -> Self {
        Self {
            url: global.url,
            prefix: global.prefix,
            json: global.json,
            timeout: global.timeout,
            verbose: global.verbose,
        }
    }
}

/// What there is to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Look at what caches keep, store, end and count it
    Cache(CacheArgs),
    /// Say something in a conversation that processes share, read it, pause it
    Conversation(ConversationArgs),
    /// Several instances of one service share a work list; ends with checks that they did
    Demo(DemoArgs),
    /// Read and write documents that processes share, by compare-and-set
    Doc(DocArgs),
    /// Publish events that processes share, follow them, work through them
    Events(EventsArgs),
    /// How the server is, and what should be done about it
    #[command(after_help = "Exit codes: 0 healthy or degraded, 3 unavailable.\n\n\
        Example:\n  coordinator health --url redis://127.0.0.1 --json")]
    Health,
    /// Ask limits that processes share, and what limits would have done to a log
    Limit(LimitArgs),
    /// Take turns with other processes
    Lock(LockArgs),
    /// Create, find, count and end user sessions
    Session(SessionArgs),
    /// Print the completions of a shell
    #[command(after_help = "Example:\n  \
        coordinator completions bash > /etc/bash_completion.d/coordinator")]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

impl Cli {
    /// Reads a command line; what cannot be read is explained, and the exit code is answered.
    pub(crate) fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, u8> {
        Self::try_parse_from(args).map_err(|error| {
            use ErrorKind::{
                DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion,
            };
            match error.kind() {
                DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand => {
                    // A reader that has gone (`| head`) has what it wanted.
                    let _ = error.print();
                }
                _ => output::note(one_line(&error.to_string())),
            }
            u8::try_from(error.exit_code()).unwrap_or(exit::USAGE)
        })
    }
}

/// What clap says over several lines, on one; its usage can be had with --help.
fn one_line(said: &str) -> String {
    let said: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
        .take_while(|line| !line.starts_with("Usage:"))
        .collect();
    let said = said.join(" ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    format!("{} (see --help)", without_credentials(&without_tokens(said)))
}

/// A session's token in the wrong place is quoted back: not with its secret.
fn without_tokens(said: &str) -> String {
    let masked = said.split(' ').map(|word| match word.split_once("v1.") {
        Some((before, _)) => format!("{before}v1.…"),
        None => word.to_owned(),
    });
    masked.collect::<Vec<_>>().join(" ")
}

/// A URL in the wrong place is quoted back: not with the password in it.
fn without_credentials(said: &str) -> String {
    match (said.find("://"), said.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("{}://…{}", &said[..scheme], &said[at..])
        }
        _ => said.to_owned(),
    }
}

/// Prints the completions of a shell.
pub(crate) fn completions(shell: Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "coordinator", &mut script);
    output::line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(exit::DONE)
}

/// A duration as people write it.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write 250ms, 30s or 72h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_what_people_write() {
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "5", "-1s", "1 parsec"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_wrong_call_is_explained_on_one_line_without_a_password() {
        for call in [
            &["coordinator", "redis://app:s3cret@h"][..],
            &["coordinator", "lock", "show", "n", "redis://:s3cret@h/2"],
            &["coordinator", "--timeout", "redis://:s3c@ret@h", "health"],
            &["coordinator", "lock", "run", "n"],
            &["coordinator", "session", "count", "v1.3.s3cs3cs3c"],
            &["coordinator", "session", "show", "v1.3.a", "v1.3.s3cs3c-_"],
            &["coordinator", "session", "list", "--token=v1.3.s3cs3cs3c"],
        ] {
            let error = Cli::try_parse_from(call).unwrap_err();
            let said = one_line(&error.to_string());
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(!said.contains("s3c"), "{said}");
            assert!(said.len() > 20, "{said}");
        }
    }
}
