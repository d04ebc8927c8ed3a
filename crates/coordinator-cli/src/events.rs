//! `coordinator events …`: events that processes share, for shell scripts that publish some, follow
//! a scope or work through one as a group.
//!
//! What is said on the command line, and one connection for whichever verb it is.

mod group;
mod tail;
mod view;

use self::{group::GroupArgs, tail::TailArgs};
use crate::{
    context::{Context, Need},
    failure::{Failure, exit},
    kept::{said, unknown, unsure},
    output,
};
use clap::{Args, Subcommand};
use coordinator::{
    Coordinator,
    config::Fallback,
    events::{Cursor, Events, Published},
    key::Name,
};
use serde_json::{Value, json, value::RawValue};

const PUBLISHED_PERHAPS: &str =
    "it may have been published; with a --key it may be sent again and is published once";

/// The arguments of `events`.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    #[command(subcommand)]
    verb: EventsVerb,
}

#[derive(Debug, Subcommand)]
enum EventsVerb {
    /// Publish an event
    #[command(after_help = PUBLISH_HELP)]
    Publish(PublishArgs),
    /// Follow a scope: a line of JSON for each event, and one where events were missed
    #[command(after_help = TAIL_HELP)]
    Tail(TailArgs),
    /// Print the place after the last event of a scope, for tail --from
    #[command(
        after_help = "Read the position first, then the state, then follow: nothing falls in \
        between.\n\nExample:\n  at=$(coordinator events position crew:42)\n  \
        ./state.sh crew:42\n  coordinator events tail crew:42 --from \"$at\""
    )]
    Position {
        #[command(flatten)]
        scope: ScopeArg,
    },
    /// Work through a scope together: each event is for one of a group, until it is done
    Group(GroupArgs),
}

const PUBLISH_HELP: &str = "\
With a --key, what is sent again within five minutes is published once.

Exit codes: 0 published, now or before.

Examples:
  coordinator events publish crew:42 task_started '{\"task\": 7}' --key task-7-started
  ./report.sh | coordinator events publish system report -";

const TAIL_HELP: &str = "\
A line has id, scope, type, source, time and data; where events were missed, gap with lost (at
least so many, if at_least), and reason: trimmed, rolled_back, reset or lagged. It outlasts outages,
and ends when it is told to (Ctrl-C), when nobody reads it any more, or after --count events.

Exit codes: 0 it was ended, 3 there is no server to begin with.

Examples:
  coordinator events tail crew:42 --types 'task_*' | jq .data
  coordinator events tail crew:42 --from 1893456000000-41 --count 10";

/// Which events.
#[derive(Debug, Args)]
struct ScopeArg {
    /// Whose events: any text of 1 to 512 bytes
    scope: String,
}

#[derive(Debug, Args)]
struct PublishArgs {
    #[command(flatten)]
    scope: ScopeArg,
    /// What happened: 1 to 256 bytes without control characters
    #[arg(value_name = "TYPE")]
    kind: String,
    /// The event's data; - reads them from stdin
    #[arg(value_name = "JSON", default_value = "-")]
    data: String,
    /// What the event is known by: sent again it is published once
    #[arg(long, value_name = "K")]
    key: Option<String>,
}

/// Runs the verb.
pub(crate) async fn run(args: &EventsArgs, context: &Context) -> Result<u8, Failure> {
    // What can be found wrong without a server is.
    let scope = match &args.verb {
        EventsVerb::Publish(args) => &args.scope,
        EventsVerb::Tail(args) => &args.scope,
        EventsVerb::Position { scope } => scope,
        EventsVerb::Group(args) => args.scope(),
    };
    Name::new(&scope.scope)?;
    let data = match &args.verb {
        EventsVerb::Publish(args) => Some(read(&args.data)?),
        _ => None,
    };
    // Events of a process that has just begun, and soon ends, are heard by nobody.
    let config = context.config(Need::SharedEvents)?.with_fallback(Fallback::None);
    if let EventsVerb::Tail(args) = &args.verb {
        return tail::run(args, config).await;
    }
    let coordinator = Coordinator::with_config(config).await?;
    let (events, json) = (coordinator.events(), context.json);
    let done = match (&args.verb, data) {
        (EventsVerb::Publish(args), Some(data)) => publish(args, &data, events, json).await,
        (EventsVerb::Position { scope }, _) => position(&scope.scope, events, json).await,
        (EventsVerb::Group(args), _) => group::run(args, events, json).await,
        (EventsVerb::Publish(_) | EventsVerb::Tail(_), _) => Err(unknown()),
    };
    coordinator.close().await;
    done
}

/// JSON as it was written: numbers keep their digits, and objects the order of their names.
fn read(argument: &str) -> Result<Box<RawValue>, Failure> {
    let said = said(argument)?;
    let wrong = |error| Failure::usage(format!("the data are no JSON: {error}"));
    // What is nested too deeply for readers is refused here.
    let _: Value = serde_json::from_str(&said).map_err(wrong)?;
    serde_json::from_str(&said).map_err(wrong)
}

async fn publish(
    args: &PublishArgs,
    data: &RawValue,
    events: &Events,
    json: bool,
) -> Result<u8, Failure> {
    let mut event = events.publish(&args.scope.scope, &args.kind, data);
    if let Some(key) = &args.key {
        event = event.idempotent(key);
    }
    let published = event.await.map_err(|error| unsure(error, PUBLISHED_PERHAPS))?;
    let Some(id) = published.cursor() else { return Err(unknown()) };
    if json {
        let duplicate = matches!(published, Published::Duplicate(_));
        output::json(&json!({ "id": id, "duplicate": duplicate }))?;
    } else {
        output::line(&id.to_string())?;
    }
    Ok(exit::DONE)
}

async fn position(scope: &str, events: &Events, json: bool) -> Result<u8, Failure> {
    let id: Cursor = events.position(scope).await?;
    if json {
        output::json(&json!({ "id": id }))?;
    } else {
        output::line(&id.to_string())?;
    }
    Ok(exit::DONE)
}
