//! `coordinator lock …`: turns between processes, for shell scripts and cron.
//!
//! What is said on the command line, and one connection for whichever verb it is.

mod child;
mod graph;
mod hold;
mod inspect;
mod log;
mod nested;
mod run;
mod view;

use crate::{
    cli::duration,
    context::{Context, Need},
    failure::Failure,
    signals::{self, Signals},
};
use clap::{Args, Subcommand};
use coordinator::{
    Coordinator,
    key::Name,
    locks::{Lock, Locks, Token},
};
use std::{ffi::OsString, time::Duration};

/// The arguments of `lock`.
#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    #[command(subcommand)]
    verb: LockVerb,
}

#[derive(Debug, Subcommand)]
enum LockVerb {
    /// Run a command under a lock, renewing it for as long as the command runs
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
    /// Take a lock over several commands; nobody renews it but you
    #[command(after_help = ACQUIRE_HELP)]
    Acquire(AcquireArgs),
    /// Prolong a lock that was taken with `acquire`
    #[command(after_help = "Exit codes: 0 renewed, 1 lost.\n\n\
        Example:\n  COORDINATOR_TOKEN=$token coordinator lock renew deploy --ttl 5m")]
    Renew(RenewArgs),
    /// Give up a lock that was taken with `acquire`, or take one away by force
    #[command(after_help = "Exit codes: 0 released, 1 it was gone already.\n\n\
        Examples:\n  COORDINATOR_TOKEN=$token coordinator lock release deploy\n  \
        coordinator lock release deploy --force --reason 'build host is gone'")]
    Release(ReleaseArgs),
    /// List the locks that are held
    #[command(after_help = "Example:\n  coordinator lock list --json | jq '.[].name'")]
    List,
    /// Show who holds a lock, and who waits for it
    #[command(after_help = "Exit codes: 0 held, 1 not held.\n\n\
        Example:\n  coordinator lock show deploy")]
    Show {
        /// The lock's name: any text of 1 to 512 bytes
        name: String,
    },
    /// Show who waits for whom, deadlocks marked
    #[command(after_help = "Example:\n  coordinator lock graph --dot | dot -Tsvg > waits.svg")]
    Graph {
        /// As a graph in the DOT language
        #[arg(long)]
        dot: bool,
    },
    /// Tell what happened to locks: who acquired, waited, released, lost
    #[command(after_help = "With --json one document for each entry, on a line of its own.\n\n\
        Example:\n  coordinator lock log --since 15m --lock deploy")]
    Log(LogArgs),
}

const RUN_HELP: &str = "\
The command finds the fencing token in COORDINATOR_FENCE and the name in COORDINATOR_LOCK.
If the lock is lost the command is ended with TERM, after 5 s with KILL.

With --owner, owners that wait for each other in a circle are told so, and the wait that began
last is given up. A run within a run of the same owner may name a lock again: it runs its command
under the outer run's lease, ttl and longest hold. The command finds the owner in
COORDINATOR_OWNER; no run takes it from there, so hand it on with --owner.

Exit codes: the command's own; 1 held by another or a deadlock, 4 the lock was lost while it ran,
126 the command cannot be run, 127 it was not found, 128+N it was ended by signal N.

Examples:
  coordinator lock run nightly --wait 10m -- ./backup.sh
  coordinator lock run stock --wait 1m --owner job-17 -- ./move.sh";

const ACQUIRE_HELP: &str = "\
Whoever has the token can renew and release the lock; it ends by itself after the ttl.

Exit codes: 0 acquired, 1 held by another or a deadlock.

Example:
  held=$(coordinator lock acquire deploy --ttl 5m) || exit; eval \"$held\"; make deploy
  COORDINATOR_TOKEN=$token coordinator lock release deploy";

#[derive(Debug, Args)]
struct RunArgs {
    /// The lock's name: any text of 1 to 512 bytes
    name: String,
    /// How long the lock outlasts us if we die
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = duration)]
    ttl: Duration,
    /// How long to wait if another holds it
    #[arg(long, value_name = "DUR", default_value = "0s", value_parser = duration)]
    wait: Duration,
    #[command(flatten)]
    place: PlaceArgs,
    /// The longest that the command may hold it; then it is lost
    #[arg(long, value_name = "DUR", value_parser = duration)]
    max_hold: Option<Duration>,
    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
struct AcquireArgs {
    /// The lock's name: any text of 1 to 512 bytes
    name: String,
    /// How long the lock lasts, unless it is renewed
    #[arg(long, value_name = "DUR", value_parser = duration)]
    ttl: Duration,
    /// How long to wait if another holds it
    #[arg(long, value_name = "DUR", default_value = "0s", value_parser = duration)]
    wait: Duration,
    #[command(flatten)]
    place: PlaceArgs,
}

/// How to stand in the queue, and for whom.
#[derive(Debug, Args)]
struct PlaceArgs {
    /// Be served in the order of arrival among the waiters of all processes
    #[arg(long)]
    fair: bool,
    /// Wait with priority, 0 to 100: each step is worth 10 s of waiting
    #[arg(long, value_name = "N", default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    priority: u8,
    /// On whose behalf, 1 to 512 bytes of any text; owners that wait in a circle are told
    #[arg(long, value_name = "O")]
    owner: Option<String>,
}

impl PlaceArgs {
    fn lock(&self, locks: &Locks, name: &str) -> Result<Lock, Failure> {
        let mut lock = locks.named(name).with_fair(self.fair).with_priority(self.priority);
        if let Some(owner) = &self.owner {
            lock = lock.with_owner(&locks.owner(owner)?);
        }
        Ok(lock)
    }
}

#[derive(Debug, Args)]
struct LogArgs {
    /// How long ago it may have happened
    #[arg(long, value_name = "DUR", default_value = "1h", value_parser = duration)]
    since: Duration,
    /// What happened to this lock alone
    #[arg(long, value_name = "NAME")]
    lock: Option<String>,
    /// How many entries at the most: the newest
    #[arg(long, value_name = "N", default_value = "1000")]
    limit: usize,
}

#[derive(Debug, Args)]
struct RenewArgs {
    /// The lock's name
    name: String,
    /// How long the lock lasts from now on; never shorter than it did
    #[arg(long, value_name = "DUR", value_parser = duration)]
    ttl: Duration,
    #[command(flatten)]
    token: TokenArg,
}

#[derive(Debug, Args)]
struct ReleaseArgs {
    /// The lock's name
    name: String,
    #[command(flatten)]
    token: TokenArg,
    /// Take it away from whoever holds it
    #[arg(long, requires = "reason", conflicts_with = "token")]
    force: bool,
    /// Why it is taken away, kept with the tombstone of the lease and logged
    // Not `requires = "force"`: clap gives that up when --token, which excludes it, is there.
    #[arg(long, value_name = "R")]
    reason: Option<String>,
}

#[derive(Args)]
struct TokenArg {
    /// What `acquire` answered; better in COORDINATOR_TOKEN, where `ps` does not show it
    // Neither clap's `env`, which would make --force conflict with the variable, nor a value
    // parser, whose errors quote the value.
    #[arg(long, value_name = "T")]
    token: Option<String>,
}

impl std::fmt::Debug for TokenArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenArg(…)")
    }
}

impl TokenArg {
    fn read(&self) -> Result<Token, Failure> {
        let variable = || std::env::var("COORDINATOR_TOKEN").ok();
        let Some(token) = self.token.clone().or_else(variable) else {
            return Err(Failure::usage(
                "no token: give --token, or COORDINATOR_TOKEN in the environment",
            ));
        };
        Ok(Token::parse(token.trim())?)
    }
}

impl LockVerb {
    /// What can be found wrong without a server.
    fn check(&self) -> Result<(), Failure> {
        let name = match self {
            Self::Run(RunArgs { name, .. })
            | Self::Acquire(AcquireArgs { name, .. })
            | Self::Renew(RenewArgs { name, .. })
            | Self::Release(ReleaseArgs { name, .. })
            | Self::Show { name }
            | Self::Log(LogArgs { lock: Some(name), .. }) => name,
            Self::List | Self::Log(_) | Self::Graph { .. } => return Ok(()),
        };
        Name::new(name)?;
        if let Self::Run(RunArgs { place, .. }) | Self::Acquire(AcquireArgs { place, .. }) = self
            && let Some(owner) = &place.owner
        {
            Name::new(owner)?;
        }
        match self {
            Self::Renew(args) => args.token.read().map(drop),
            Self::Release(args) if args.force => Ok(()),
            Self::Release(args) if args.reason.is_some() => {
                Err(Failure::usage("a --reason is given for --force (see --help)"))
            }
            Self::Release(args) => args.token.read().map(drop),
            _ => Ok(()),
        }
    }
}

/// Runs the verb.
pub(crate) async fn run(args: &LockArgs, context: &Context) -> Result<u8, Failure> {
    args.verb.check()?;
    if let (LockVerb::Graph { dot: true }, true) = (&args.verb, context.json) {
        return Err(Failure::usage("either --dot or --json (see --help)"));
    }
    let config = context.config(Need::Redis)?;
    let mut signals = Signals::listen()?;
    let coordinator = tokio::select! {
        connected = Coordinator::with_config(config) => connected?,
        signal = signals.next() => return Ok(signals::code(signal.as_raw())),
    };
    let (locks, json) = (coordinator.locks(), context.json);
    let done = match &args.verb {
        LockVerb::Run(args) => run::run(args, locks, &mut signals).await,
        LockVerb::Acquire(args) => hold::acquire(args, locks, json, &mut signals).await,
        verb => {
            let asked = async {
                match verb {
                    LockVerb::Renew(args) => hold::renew(args, locks, json).await,
                    LockVerb::Release(args) => hold::release(args, locks, json).await,
                    LockVerb::Graph { dot } => graph::show(locks, *dot, json).await,
                    LockVerb::Show { name } => inspect::show(name, locks, json).await,
                    LockVerb::Log(args) => log::log(args, locks, json).await,
                    _ => inspect::list(locks, json).await,
                }
            };
            tokio::select! {
                done = asked => done,
                signal = signals.next() => Ok(signals::code(signal.as_raw())),
            }
        }
    };
    // What was given up in the background is gone before we are.
    coordinator.close().await;
    done
}
