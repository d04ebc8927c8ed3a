//! `events group …`: a scope as a work queue, its dead letters, and how it stands.

use super::{
    ScopeArg,
    view::{EventView, GapView},
};
use crate::{
    cli::duration,
    failure::{Failure, exit},
    kept::{moment, unsure},
    output,
};
use clap::{Args, Subcommand};
use coordinator::events::{Cursor, DeadLetter, Events, Group, Settled, Work};
use serde::Serialize;
use serde_json::{json, value::RawValue};
use std::time::Duration;

const DONE_PERHAPS: &str = "it may have been done; look with `coordinator events group dead`";
const AGAIN_PERHAPS: &str = "it is perhaps delivered again when its lease is over";
/// How many dead letters the library tells at a time.
const PAGE: usize = 100;

#[derive(Debug, Args)]
pub(super) struct GroupArgs {
    #[command(subcommand)]
    verb: GroupVerb,
}

#[derive(Debug, Subcommand)]
enum GroupVerb {
    /// Say how a group stands
    #[command(after_help = "pending are under way or wait for another try, due of them could be \
        taken now; lag was never taken.\n\nExit codes: 0 here it is, 1 there is no such group.\n\n\
        Example:\n  coordinator events group status orders mailers --json")]
    Status(PlaceArgs),
    /// Take work that is there now: a line of JSON for each event
    #[command(after_help = TAKE_HELP)]
    Take(TakeArgs),
    /// List dead letters: events that were delivered in vain, and why
    #[command(after_help = "A --json answer has `dead` and `next`, for --skip.\n\n\
        Example:\n  coordinator events group dead orders mailers --json | jq -r '.dead[].id'")]
    Dead(DeadArgs),
    /// Deliver a dead letter again, as if for the first time
    #[command(after_help = "Exit codes: 0 it is delivered, 1 there is no such dead letter.\n\n\
        Example:\n  coordinator events group requeue orders mailers 1893456000000-41")]
    Requeue(LetterArgs),
    /// Forget a dead letter
    #[command(after_help = "Exit codes: 0 it is forgotten, 1 there is no such dead letter.\n\n\
        Example:\n  coordinator events group discard orders mailers 1893456000000-41")]
    Discard(LetterArgs),
    /// Forget a group, what it has under way and its dead letters
    #[command(after_help = "Exit codes: 0 it is forgotten, 1 there is no such group.\n\n\
        Example:\n  coordinator events group delete orders mailers")]
    Delete(PlaceArgs),
}

const TAKE_HELP: &str = "\
A line is that of `events tail`, and attempt: which delivery it is. With --ack an event is done when
its line is written; without, it is delivered again when the lease is over, and a dead letter after
five times. A group that is not there yet begins with the first event that is kept. Data that are no
JSON become dead letters.

Exit codes: 0 here it is, 1 there is nothing to do.

Example:
  while job=$(coordinator events group take orders mailers --ack); do ./mail.sh \"$job\"; done";

#[derive(Debug, Args)]
struct PlaceArgs {
    #[command(flatten)]
    scope: ScopeArg,
    /// The group: any text of 1 to 512 bytes
    group: String,
}

#[derive(Debug, Args)]
struct TakeArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// How many at the most
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    count: u16,
    /// They are done as soon as they are printed
    #[arg(long)]
    ack: bool,
    /// For how long they are nobody else's
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = duration)]
    lease: Duration,
    /// Who takes them, for people to read
    #[arg(long, value_name = "NAME", default_value = "coordinator events group take")]
    consumer: String,
}

#[derive(Debug, Args)]
struct DeadArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// How many of the oldest to pass over
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: u64,
}

#[derive(Debug, Args)]
struct LetterArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The event's id
    id: String,
}

impl GroupArgs {
    fn place(&self) -> &PlaceArgs {
        match &self.verb {
            GroupVerb::Status(place) | GroupVerb::Delete(place) => place,
            GroupVerb::Take(args) => &args.place,
            GroupVerb::Dead(args) => &args.place,
            GroupVerb::Requeue(args) | GroupVerb::Discard(args) => &args.place,
        }
    }

    pub(super) fn scope(&self) -> &ScopeArg {
        &self.place().scope
    }
}

/// Runs the verb.
pub(super) async fn run(args: &GroupArgs, events: &Events, json: bool) -> Result<u8, Failure> {
    let PlaceArgs { scope, group } = args.place();
    let scope = &scope.scope;
    let group = events.group(scope, group)?;
    match &args.verb {
        GroupVerb::Status(_) => status(&group, json).await,
        GroupVerb::Take(args) => take(args, scope, &group).await,
        GroupVerb::Dead(args) => dead(args.skip, scope, &group, json).await,
        GroupVerb::Requeue(args) => {
            let done = group.requeue(args.id.parse::<Cursor>()?).await;
            told("requeued", done, "there is no such dead letter", json)
        }
        GroupVerb::Discard(args) => {
            let done = group.discard(args.id.parse::<Cursor>()?).await;
            told("discarded", done, "there is no such dead letter", json)
        }
        GroupVerb::Delete(_) => told("deleted", group.delete().await, "no such group", json),
    }
}

fn told(
    what: &str,
    done: coordinator::Result<bool>,
    otherwise: &str,
    json: bool,
) -> Result<u8, Failure> {
    let done = done.map_err(|error| unsure(error, DONE_PERHAPS))?;
    if json {
        output::json(&json!({ what: done }))?;
    } else if done {
        output::line(what)?;
    } else {
        output::note(otherwise);
    }
    Ok(if done { exit::DONE } else { exit::REFUSED })
}

async fn status(group: &Group, json: bool) -> Result<u8, Failure> {
    let Some(status) = group.status().await? else {
        if json {
            output::json(&json!({ "found": false }))?;
        } else {
            output::note("no such group");
        }
        return Ok(exit::REFUSED);
    };
    if json {
        output::json(&json!({
            "found": true,
            "position": status.position,
            "last": status.last,
            "lag": status.lag,
            "pending": status.pending,
            "due": status.due,
            "dead": status.dead,
        }))?;
        return Ok(exit::DONE);
    }
    let row = vec![
        status.position.to_string(),
        status.last.to_string(),
        status.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string()),
        status.pending.to_string(),
        status.due.to_string(),
        status.dead.to_string(),
    ];
    let header = ["POSITION", "LAST", "LAG", "PENDING", "DUE", "DEAD"];
    output::line(&output::table(&header, [row]))?;
    Ok(exit::DONE)
}

/// An event to work on.
#[derive(Debug, Serialize)]
struct WorkView {
    #[serde(flatten)]
    event: EventView,
    attempt: u32,
}

async fn take(args: &TakeArgs, scope: &str, group: &Group) -> Result<u8, Failure> {
    let group = group.clone().with_batch(args.count.into()).with_lease(args.lease);
    let mut consumer = group.consumer(&args.consumer).await?;
    let mut any = false;
    for work in consumer.at_once::<Box<RawValue>>().await? {
        match work {
            Work::Delivery(delivery) => {
                let (event, attempt) = (EventView::new(scope, delivery.raw()), delivery.attempt());
                // Done when it is told, and not before: what is not told is delivered again.
                output::json(&WorkView { event, attempt })?;
                any = true;
                if args.ack {
                    let settled = delivery.ack().await;
                    if settled.map_err(|error| unsure(error, AGAIN_PERHAPS))? != Settled::Done {
                        output::note("its lease was over before it was done");
                    }
                }
            }
            Work::Gap(gap) => output::json(&GapView::new(&gap))?,
            _ => {}
        }
    }
    Ok(if any { exit::DONE } else { exit::REFUSED })
}

/// A dead letter.
#[derive(Debug, Serialize)]
struct LetterView {
    #[serde(flatten)]
    event: EventView,
    at: String,
    deliveries: u32,
    consumer: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct PageView {
    dead: Vec<LetterView>,
    next: Option<u64>,
}

impl LetterView {
    fn new(scope: &str, letter: &DeadLetter) -> Self {
        Self {
            event: EventView::new(scope, &letter.event),
            at: moment(letter.at),
            deliveries: letter.deliveries,
            consumer: letter.consumer.clone(),
            reason: letter.reason.clone(),
        }
    }
}

async fn dead(skip: u64, scope: &str, group: &Group, json: bool) -> Result<u8, Failure> {
    let letters = group.dead_letters(skip).await?;
    let next = (letters.len() >= PAGE).then(|| skip + PAGE as u64);
    if json {
        let dead = letters.iter().map(|letter| LetterView::new(scope, letter)).collect();
        output::json(&PageView { dead, next })?;
        return Ok(exit::DONE);
    }
    let rows = letters.iter().map(|letter| {
        vec![
            letter.event.cursor().to_string(),
            letter.event.kind().to_owned(),
            moment(letter.at),
            letter.deliveries.to_string(),
            letter.consumer.clone(),
            letter.reason.clone(),
        ]
    });
    let header = ["ID", "TYPE", "AT", "DELIVERIES", "CONSUMER", "REASON"];
    output::line(&output::table(&header, rows))?;
    if let Some(next) = next {
        output::note(format_args!("there are more, behind --skip {next}"));
    }
    Ok(exit::DONE)
}
