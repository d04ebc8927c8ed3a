//! `coordinator session …`: user sessions as operators see them.
//!
//! What is said on the command line, and one connection for whichever verb it is. A token is a
//! secret: it is told by `create` alone, and no error repeats one.

mod ask;
mod copy;
mod view;

use crate::{
    cli::duration,
    context::Context,
    failure::Failure,
    kept::{self, said},
};
use clap::{Args, Subcommand, ValueEnum};
use coordinator::sessions::{Filter, Token};
use std::{fmt, path::PathBuf, time::Duration};

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
        coordinator session revoke --user ann --ref \"$ref\"\n  \
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
    /// Write all sessions to a file, a line of JSON for each
    #[command(after_help = "Nobody is let in by what is in the file: it has no tokens. What \
        sessions keep is in it, so only you can read it. It appears when it is whole.\n\n\
        Example:\n  coordinator session export sessions.ndjson")]
    Export {
        /// Where to; - writes to stdout
        file: PathBuf,
    },
    /// Bring back sessions from a file of `export`, with their tokens
    #[command(after_help = "A session that was ended here stays so. It can be run again.\n\n\
        Example:\n  coordinator session restore sessions.ndjson --mode skip")]
    Restore(RestoreArgs),
    /// Copy all sessions from elsewhere, or those of another program; they stay there as well
    #[command(after_help = MIGRATE_HELP)]
    Migrate(MigrateArgs),
}

const MIGRATE_HELP: &str = "\
From a URL, from a file of embedded sessions, or from a file of `export`. It can be run again and
brings along what is newer there.

With --layout, the sessions of another program: each a JSON or MessagePack map in a text under
LAYOUT:ID. Clients keep their ids, which `Token::of_legacy` reads.

Examples:
  coordinator --url redis://new session migrate --from redis://old
  coordinator --url redis://new session migrate --from /var/lib/shop/state.redb
  coordinator --url redis://new session migrate --from redis://old --layout sess \\
      --user-field passport.user";

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
    /// Of this user the one session that `list` calls so
    #[arg(long = "ref", value_name = "REF", requires = "user",
          conflicts_with_all = ["token", "company"])]
    reference: Option<String>,
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

/// What becomes of a session that is there already.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// It stays as it is
    Skip,
    /// It gives way to one that is newer
    Newer,
    /// It gives way
    Overwrite,
}

#[derive(Debug, Args)]
struct RestoreArgs {
    /// What `export` wrote; - reads stdin
    file: PathBuf,
    /// What becomes of a session that is there already
    #[arg(long, value_enum, value_name = "M", default_value_t = Mode::Newer)]
    mode: Mode,
}

#[derive(Debug, Args)]
struct MigrateArgs {
    /// Where they are: a URL, or a file
    #[arg(long, value_name = "URL_OR_FILE")]
    from: String,
    /// What keys begin with there [default: as here]
    #[arg(long, value_name = "NAME", conflicts_with = "layout")]
    from_prefix: Option<String>,
    /// The sessions of another program, under keys that begin so
    #[arg(long, value_name = "LAYOUT")]
    layout: Option<String>,
    /// Where a session of the other program says whose it is
    #[arg(long, value_name = "FIELD", requires = "layout")]
    user_field: Option<String>,
    /// Where it says of which company
    #[arg(long, value_name = "FIELD", requires = "layout")]
    company_field: Option<String>,
    /// Where it says of which crew
    #[arg(long, value_name = "FIELD", requires = "layout")]
    crew_field: Option<String>,
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
    let source = match &args.verb {
        SessionVerb::Restore(args) => Some(copy::open(&args.file)?),
        _ => None,
    };
    let coordinator = kept::open(context).await?;
    let (sessions, json) = (coordinator.sessions(), context.json);
    let done = match (&args.verb, token, source) {
        (SessionVerb::Create(args), ..) => ask::create(args, sessions, json).await,
        (SessionVerb::Show { .. }, Some(token), _) => ask::show(&token, sessions, json).await,
        (SessionVerb::List(args), ..) => ask::list(args, sessions, json).await,
        (SessionVerb::Revoke(args), Some(token), _) => {
            ask::revoke_one(&token, &args.reason, sessions, json).await
        }
        (SessionVerb::Revoke(args), ..) => ask::revoke(args, sessions, json).await,
        (SessionVerb::Count(filter), ..) => ask::count(&filter.read(), sessions, json).await,
        (SessionVerb::Verify { repair }, ..) => ask::verify(*repair, sessions, json).await,
        (SessionVerb::Export { file }, ..) => copy::export(file, sessions, json).await,
        (SessionVerb::Restore(args), _, Some(source)) => {
            copy::restore(source, args.mode, sessions, json).await
        }
        (SessionVerb::Migrate(args), ..) => copy::migrate(args, &coordinator, context).await,
        (SessionVerb::Show { .. } | SessionVerb::Restore(_), ..) => Err(kept::unknown()),
    };
    coordinator.close().await;
    done
}
