//! `coordinator session …`: user sessions as operators see them.
//!
//! What is said on the command line, and one connection for whichever verb it is. A token is a
//! secret: it is told by `create` alone, and no error repeats one.

mod ask;
mod view;

use crate::{
    cli::duration,
    context::Context,
    failure::Failure,
    kept::{self, said},
};
use clap::{Args, Subcommand};
use coordinator::sessions::{Filter, Token};
use std::{fmt, time::Duration};

/// The arguments of `session`.
#[derive(Debug, Args)]
pub(crate) struct SessionArgs {
    #[command(subcommand)]
    verb: SessionVerb,
}

#[derive(Debug, Subcommand)]
enum SessionVerb {
    /// Create a session and tell its token, this once
    #[command(after_help = "Exit codes: 0 created, 1 the user has as many sessions as may be.\n\n\
        Example:\n  coordinator session create --user ann --company acme --ttl 8h --json")]
    Create(CreateArgs),
    /// Say what is known of a session, without counting that as activity
    #[command(after_help = "Exit codes: 0 it lives, 1 it is absent, expired or revoked.\n\n\
        Example:\n  coordinator session show - <token.txt")]
    Show {
        #[command(flatten)]
        token: TokenArg,
    },
    /// List sessions without their tokens, those that expire first first in each shard
    #[command(after_help = "A --json answer has `sessions` and `next`, for --cursor.\n\n\
        Example:\n  coordinator session list --user ann --json | jq -r '.sessions[].ref'")]
    List(ListArgs),
    /// End a session, all of a user or all of a company; nothing makes them live again
    #[command(after_help = "Exit codes: 0 ended, 1 the one session did not live.\n\n\
        Examples:\n  coordinator session revoke --user ann --reason 'password changed'\n  \
        coordinator session revoke - <token.txt")]
    Revoke(RevokeArgs),
    /// Count sessions
    #[command(after_help = "Example:\n  coordinator session count --company acme")]
    Count(FilterArgs),
    /// Compare the indexes with the sessions
    #[command(after_help = "Orphans are listed and not there, missing ones are there and not \
        listed.\n\n\
        Exit codes: 0 all is well, or was mended, 1 something is not.\n\n\
        Example:\n  coordinator session verify --repair --json")]
    Verify {
        /// Mend what is found
        #[arg(long)]
        repair: bool,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Whose it is
    #[arg(long, value_name = "U")]
    user: String,
    /// The company that the user is of
    #[arg(long, value_name = "C")]
    company: Option<String>,
    /// The crew that the user is of
    #[arg(long, value_name = "X")]
    crew: Option<String>,
    /// After how long without activity it ends [default: SESSION_TTL, 30m]
    #[arg(long, value_name = "DUR", value_parser = duration)]
    ttl: Option<Duration>,
}

#[derive(Debug, Args)]
struct TokenArg {
    /// What `create` told; better -, which reads it from stdin, where `ps` does not show it
    token: Secret,
}

/// A word that is not shown.
#[derive(Clone)]
struct Secret(String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    fn token(&self) -> Result<Token, Failure> {
        Token::parse(said(&self.0)?.trim()).ok_or_else(|| {
            Failure::usage("this is no token of a session, which `session create` tells as v1.…")
        })
    }
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct FilterArgs {
    /// Of this user alone
    #[arg(long, value_name = "U")]
    user: Option<String>,
    /// Of this company alone
    #[arg(long, value_name = "C")]
    company: Option<String>,
    /// Of this crew alone
    #[arg(long, value_name = "X")]
    crew: Option<String>,
}

impl FilterArgs {
    fn read(&self) -> Filter {
        match self {
            Self { user: Some(user), .. } => Filter::user(user),
            Self { company: Some(company), .. } => Filter::company(company),
            Self { crew: Some(crew), .. } => Filter::crew(crew),
            _ => Filter::all(),
        }
    }
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Where the list before ended
    #[arg(long, value_name = "C")]
    cursor: Option<String>,
    /// How many at the most, up to 1000
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    #[command(flatten)]
    whose: WhoseArgs,
    /// Why, told to whoever comes with the token
    #[arg(long, value_name = "R", default_value = "revoked")]
    reason: String,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct WhoseArgs {
    /// The one session with this token; - reads it from stdin
    token: Option<Secret>,
    /// All of this user
    #[arg(long, value_name = "U")]
    user: Option<String>,
    /// All of this company
    #[arg(long, value_name = "C")]
    company: Option<String>,
}

/// Runs the verb.
pub(crate) async fn run(args: &SessionArgs, context: &Context) -> Result<u8, Failure> {
    // A token that is none is found without a server.
    let token = match &args.verb {
        SessionVerb::Show { token: TokenArg { token } }
        | SessionVerb::Revoke(RevokeArgs { whose: WhoseArgs { token: Some(token), .. }, .. }) => {
            Some(token.token()?)
        }
        _ => None,
    };
    let coordinator = kept::open(context).await?;
    let (sessions, json) = (coordinator.sessions(), context.json);
    let done = match (&args.verb, token) {
        (SessionVerb::Create(args), _) => ask::create(args, sessions, json).await,
        (SessionVerb::Show { .. }, Some(token)) => ask::show(&token, sessions, json).await,
        (SessionVerb::List(args), _) => ask::list(args, sessions, json).await,
        (SessionVerb::Revoke(args), Some(token)) => {
            ask::revoke_one(&token, &args.reason, sessions, json).await
        }
        (SessionVerb::Revoke(args), None) => ask::revoke(args, sessions, json).await,
        (SessionVerb::Count(filter), _) => ask::count(&filter.read(), sessions, json).await,
        (SessionVerb::Verify { repair }, _) => ask::verify(*repair, sessions, json).await,
        (SessionVerb::Show { .. }, None) => Err(kept::unknown()),
    };
    coordinator.close().await;
    done
}
