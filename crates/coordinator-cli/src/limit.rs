//! `coordinator limit …`: limits that processes share, for shell scripts, and what limits would
//! have done to a log.
//!
//! What is said on the command line, and one connection for whichever verb it is.

mod ask;
mod offenders;
mod replay;
mod rule;
mod view;

use self::rule::{Algorithm, Asked, Rule};
use crate::{
    access_log::Format,
    cli::duration,
    context::{Context, Need},
    failure::{Failure, exit},
};
use clap::{Args, Subcommand, ValueEnum};
use coordinator::{Coordinator, Error, ErrorKind, config::Fallback, key::Name};
use std::{path::PathBuf, time::Duration};

/// The arguments of `limit`.
#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    #[command(subcommand)]
    verb: LimitVerb,
}

#[derive(Debug, Subcommand)]
enum LimitVerb {
    /// Ask whether a call may go on, and take it from the limit if so
    #[command(after_help = CHECK_HELP)]
    Check(CheckArgs),
    /// Say what `check` would, and take nothing
    #[command(after_help = "Exit codes: 0 there is room, 1 there is none.\n\n\
        Example:\n  coordinator limit peek user:42 --rule 100/60s --json")]
    Peek(PeekArgs),
    /// Forget what was taken from a limit
    #[command(after_help = "Other processes may refuse from memory for a second more.\n\n\
        Example:\n  coordinator limit reset user:42 --rule 100/60s")]
    Reset(LimitsArgs),
    /// Tell who was refused, the last of them last
    #[command(after_help = "Denials are recorded with the first in a window, and when their \
        number reaches a power of two.\n\n\
        Example:\n  coordinator limit violations --since 15m --json | jq '.[].subject'")]
    Violations(ViolationsArgs),
    /// Tell who is refused most often, the worst first; the ranking begins anew each day
    #[command(after_help = "Example:\n  coordinator limit top --count 3")]
    Top(TopArgs),
    /// Replay an access log on its own timestamps: who would have been refused
    #[command(after_help = REPLAY_HELP)]
    Replay(ReplayArgs),
}

const CHECK_HELP: &str = "\
A rule is LIMIT/WINDOW: 100/60s is 100 in every minute. Several rules are checked as one, from all
of them or from none; they are limits of one tenant, named with --all-of. SUBJECT2=LIMIT/WINDOW is
a rule for another subject than SUBJECT.

A call with an --id counts once, however often it is sent within ten minutes.

Exit codes: 0 allowed, 1 over the limit.

Examples:
  coordinator limit check mail:alice --rule 100/1h && sendmail alice@example.org
  coordinator limit check user:42 --rule 10/1s --rule company=500/1s --all-of acme --json";

const REPLAY_HELP: &str = "\
The lines are sorted by their own time first. A request at t counts those admitted in
(t - WINDOW, t]; what would have been refused counts for nothing. Lines that cannot be read are
counted and the first few are shown. No server is asked.

Examples:
  coordinator limit replay access.log --rule 30/60s --by ip
  zcat access.log.*.gz | coordinator limit replay - --rule 5/1s --by ip+path --json";

/// Whose limits, and which.
#[derive(Debug, Args)]
struct LimitsArgs {
    /// Who is limited: any text of 1 to 512 bytes
    subject: String,
    /// So many in so long, as 100/60s; with SUBJECT2= before it, of another subject
    #[arg(long = "rule", value_name = "RULE", required = true, value_parser = rule::parse)]
    rules: Vec<Rule>,
    /// How it is counted
    #[arg(long, value_enum, value_name = "A", default_value_t)]
    algorithm: Algorithm,
    /// Whose limits they are, as a company; needed where several are checked as one
    #[arg(long, value_name = "TENANT")]
    all_of: Option<String>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    peek: PeekArgs,
    /// What the call is known by: sent again it counts once
    #[arg(long, value_name = "ID")]
    id: Option<String>,
}

#[derive(Debug, Args)]
struct PeekArgs {
    #[command(flatten)]
    limits: LimitsArgs,
    /// How much the call takes of each limit; 0 takes nothing
    #[arg(long, value_name = "N", default_value_t = 1)]
    cost: u64,
}

#[derive(Debug, Args)]
struct ViolationsArgs {
    /// How long ago it may have been recorded
    #[arg(long, value_name = "DUR", default_value = "1h", value_parser = duration)]
    since: Duration,
    /// Of this tenant alone
    #[arg(long, value_name = "TENANT")]
    all_of: Option<String>,
}

#[derive(Debug, Args)]
struct TopArgs {
    /// How many at the most
    #[arg(long, value_name = "N", default_value_t = 10)]
    count: usize,
    /// Of this tenant alone
    #[arg(long, value_name = "TENANT")]
    all_of: Option<String>,
}

#[derive(Debug, Args)]
struct ReplayArgs {
    /// The access log; - reads stdin
    log: PathBuf,
    /// So many in so long, as 30/60s
    #[arg(long, value_name = "RULE", value_parser = rule::parse)]
    rule: Rule,
    /// Who is limited
    #[arg(long, value_enum, value_name = "BY", default_value_t = By::Ip)]
    by: By,
    /// How the lines are written
    #[arg(long, value_enum, value_name = "F", default_value_t = Format::Combined)]
    format: Format,
    /// How it is counted
    #[arg(long, value_enum, value_name = "A", default_value_t)]
    algorithm: Algorithm,
    /// How many of the worst to tell of
    #[arg(long, value_name = "N", default_value_t = 10)]
    worst: usize,
}

/// Whom a replay limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// Each address by itself
    Ip,
    /// Each path by itself, taken with its query
    Path,
    /// Each address at each path
    #[value(name = "ip+path")]
    IpAndPath,
}

/// Runs the verb.
pub(crate) async fn run(args: &LimitArgs, context: &Context) -> Result<u8, Failure> {
    match &args.verb {
        LimitVerb::Replay(args) => replay::run(args, context.json).await,
        verb => over_a_backend(verb, context).await,
    }
}

async fn over_a_backend(verb: &LimitVerb, context: &Context) -> Result<u8, Failure> {
    // What can be found wrong without a server is.
    let (asked, tenant) = match verb {
        LimitVerb::Check(CheckArgs { peek: PeekArgs { limits, .. }, .. })
        | LimitVerb::Peek(PeekArgs { limits, .. })
        | LimitVerb::Reset(limits) => (Some(Asked::read(limits)?), &limits.all_of),
        LimitVerb::Violations(ViolationsArgs { all_of, .. })
        | LimitVerb::Top(TopArgs { all_of, .. }) => (None, all_of),
        LimitVerb::Replay(_) => (None, &None),
    };
    if let LimitVerb::Check(CheckArgs { id: Some(id), .. }) = verb {
        Name::new(id)?;
    }
    if let Some(tenant) = tenant {
        Name::new(tenant)?;
    }
    let alone_is_fine = matches!(verb, LimitVerb::Check(_) | LimitVerb::Peek(_));
    let config = if alone_is_fine {
        context.config(Need::EmbeddedIsFine)?
    } else {
        // There is nothing to see in a process that has just begun.
        context.config(Need::SharedLimits)?.with_fallback(Fallback::None)
    };
    let coordinator = Coordinator::with_config(config).await?;
    let limits = match tenant {
        Some(tenant) => coordinator.limits().tenant(tenant)?,
        None => coordinator.limits().clone(),
    };
    let asked = asked.unwrap_or_default();
    let done = match verb {
        LimitVerb::Check(args) => {
            let id = args.id.as_deref();
            ask::check(&asked, args.peek.cost, id, &limits, context.json).await
        }
        LimitVerb::Peek(args) => ask::peek(&asked, args.cost, &limits, context.json).await,
        LimitVerb::Reset(_) => ask::reset(&asked, &limits, context.json).await,
        LimitVerb::Violations(args) => {
            offenders::violations(args.since, &limits, context.json).await
        }
        LimitVerb::Top(args) => offenders::top(args.count, &limits, context.json).await,
        LimitVerb::Replay(_) => Ok(exit::DONE),
    };
    coordinator.close().await;
    done
}

/// Why a limit could not be asked.
fn unasked(error: Error) -> Failure {
    if error.kind() != ErrorKind::Indeterminate {
        return Failure::from(error);
    }
    let advice = "it may have been counted; only a call with an --id may be repeated without \
                  counting twice";
    Failure::new(exit::UNAVAILABLE, format!("{} ({advice})", error.chain()))
}
