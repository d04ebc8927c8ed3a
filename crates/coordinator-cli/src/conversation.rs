//! `coordinator conversation …`: conversations by a name of the caller's own, for shell scripts
//! that talk, and for operators who pause what talks.

use crate::{
    context::Context,
    failure::{Failure, exit},
    kept::{self, said, unknown, unsure},
    output,
};
use clap::{Args, Subcommand};
use coordinator::sessions::{
    Conversation, Message,
    conversations::{Append, Appended, Pause, Said, View, WINDOW},
};
use serde_json::{Value, json};
use std::fmt::Write as _;

const APPENDED_PERHAPS: &str =
    "it may have been appended; with a --key it may be sent again and is appended once";

/// The arguments of `conversation`.
#[derive(Debug, Args)]
pub(crate) struct ConversationArgs {
    #[command(subcommand)]
    verb: ConversationVerb,
}

#[derive(Debug, Subcommand)]
enum ConversationVerb {
    /// Append a message
    #[command(after_help = APPEND_HELP)]
    Append(AppendArgs),
    /// Print a conversation: its summary and the messages of its window
    #[command(after_help = "Exit codes: 0 here it is, 1 there is none.\n\n\
        Example:\n  coordinator conversation show ticket-7 --json | jq -r '.messages[].text'")]
    Show {
        #[command(flatten)]
        id: IdArg,
    },
    /// Refuse appends by whatever process from now on
    #[command(after_help = "Exit codes: 0 it is paused, now or before.\n\n\
        Example:\n  coordinator conversation pause ticket-7 --reason 'a person takes over'")]
    Pause {
        #[command(flatten)]
        id: IdArg,
        /// Why, told to whoever appends
        #[arg(long, value_name = "R")]
        reason: Option<String>,
    },
    /// End a pause
    #[command(after_help = "Exit codes: 0 it goes on, also if it was not paused.\n\n\
        Example:\n  coordinator conversation resume ticket-7")]
    Resume {
        #[command(flatten)]
        id: IdArg,
    },
}

const APPEND_HELP: &str = "\
With a --key, a message that is sent again is appended once; the last 128 keys are remembered.
What the window has no room for leaves it, and is told.

Exit codes: 0 appended, now or before, 1 the conversation is paused.

Examples:
  coordinator conversation append ticket-7 --role user 'It is broken.' --key mail-4711
  ./answer.sh | coordinator conversation append ticket-7 --role assistant -";

#[derive(Debug, Args)]
struct IdArg {
    /// The conversation's name
    id: String,
}

#[derive(Debug, Args)]
struct AppendArgs {
    #[command(flatten)]
    id: IdArg,
    /// What is said; - reads it from stdin
    text: String,
    /// Who says it: system, user, assistant, tool or another word
    #[arg(long, value_name = "R")]
    role: String,
    /// What the message is known by: sent again it is appended once
    #[arg(long, value_name = "K")]
    key: Option<String>,
    /// How many messages the window holds: as everybody who appends says
    #[arg(long, value_name = "N", default_value_t = WINDOW)]
    window: usize,
}

/// Runs the verb.
pub(crate) async fn run(args: &ConversationArgs, context: &Context) -> Result<u8, Failure> {
    let message = match &args.verb {
        ConversationVerb::Append(args) => {
            let text = said(&args.text)?;
            // A line break that a command leaves behind its answer is not meant.
            let text = if args.text == "-" { text.trim_end_matches('\n') } else { &*text };
            Some(Message::new(&*args.role, text))
        }
        _ => None,
    };
    let (id, window) = match &args.verb {
        ConversationVerb::Append(AppendArgs { id, window, .. }) => (id, *window),
        ConversationVerb::Show { id }
        | ConversationVerb::Pause { id, .. }
        | ConversationVerb::Resume { id } => (id, WINDOW),
    };
    let coordinator = kept::open(context).await?;
    let talks = coordinator.conversations().clone().with_window(window);
    let talk = talks.open_named(&id.id)?;
    let json = context.json;
    let done = match (&args.verb, message) {
        (ConversationVerb::Append(args), Some(message)) => {
            append(&talk, message, args.key.as_deref(), json).await
        }
        (ConversationVerb::Show { .. }, _) => show(&talk, json).await,
        (ConversationVerb::Pause { reason, .. }, _) => pause(&talk, reason.as_deref(), json).await,
        (ConversationVerb::Resume { .. }, _) => resume(&talk, json).await,
        (ConversationVerb::Append(_), None) => Err(unknown()),
    };
    coordinator.close().await;
    done
}

async fn append(
    talk: &Conversation,
    message: Message,
    key: Option<&str>,
    json: bool,
) -> Result<u8, Failure> {
    let done = talk.append(&[message], key).await;
    match done.map_err(|error| unsure(error, APPENDED_PERHAPS))? {
        Append::Done(appended) => {
            tell_appended(&appended, json)?;
            Ok(exit::DONE)
        }
        Append::Paused(pause) => {
            if json {
                output::json(&json!({ "paused": true, "reason": pause.reason }))?;
            } else {
                output::note(paused(&pause));
            }
            Ok(exit::REFUSED)
        }
        _ => Err(unknown()),
    }
}

fn tell_appended(appended: &Appended, json: bool) -> Result<(), Failure> {
    let Appended { sequences, duplicate, evicted, stats, .. } = appended;
    if json {
        return output::json(&json!({
            "sequence": sequences.end(),
            "duplicate": duplicate,
            "left": evicted.iter().map(in_json).collect::<Vec<_>>(),
            "evicted": stats.evicted,
            "pending": stats.pending,
            "tokens": stats.tokens_in_window,
            "paused": false,
        }));
    }
    for left in evicted.iter().filter(|_| !duplicate) {
        output::note(format_args!("left the window: {}", in_words(left)));
    }
    let before = if *duplicate { ", which it was before" } else { "" };
    output::line(&format!("message {}{before}", sequences.end()))
}

fn in_json(said: &Said) -> Value {
    let mut document = json!(said.message);
    document["sequence"] = said.sequence.into();
    document["tokens"] = said.tokens.into();
    document
}

fn in_words(said: &Said) -> String {
    let mut words = format!("{} {}: {}", said.sequence, said.message.role, said.message.text);
    for call in &said.message.calls {
        let _ = write!(words, " [{} {}]", call.name, call.arguments);
    }
    output::plain(&words)
}

fn paused(pause: &Pause) -> String {
    let why = pause.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    format!("the conversation is paused{why}")
}

async fn show(talk: &Conversation, json: bool) -> Result<u8, Failure> {
    let Some(view) = talk.show().await? else {
        if json {
            output::json(&json!({ "found": false, "messages": [], "summary": null }))?;
        } else {
            output::note("there is no such conversation");
        }
        return Ok(exit::REFUSED);
    };
    let View { summary, window, pause, stats, .. } = &view;
    if json {
        output::json(&json!({
            "found": true,
            "messages": window.iter().map(in_json).collect::<Vec<_>>(),
            "summary": summary,
            "evicted": stats.evicted,
            "pending": stats.pending,
            "tokens": stats.tokens_in_window,
            "tokens_saved": stats.tokens_saved,
            "paused": pause.is_some(),
            "reason": pause.as_ref().and_then(|pause| pause.reason.as_ref()),
            "ttl_ms": kept::millis(stats.expires_in),
        }))?;
        return Ok(exit::DONE);
    }
    if let Some(pause) = pause {
        output::note(paused(pause));
    }
    if let Some(summary) = summary {
        output::line(&format!("before: {}", output::plain(summary)))?;
    }
    for said in window {
        output::line(&in_words(said))?;
    }
    Ok(exit::DONE)
}

async fn pause(talk: &Conversation, reason: Option<&str>, json: bool) -> Result<u8, Failure> {
    let changed = talk.pause(reason).await?;
    tell_pause(true, changed, json)
}

async fn resume(talk: &Conversation, json: bool) -> Result<u8, Failure> {
    let changed = talk.resume().await?;
    tell_pause(false, changed, json)
}

fn tell_pause(paused: bool, changed: bool, json: bool) -> Result<u8, Failure> {
    if json {
        output::json(&json!({ "paused": paused, "changed": changed }))?;
    } else {
        let state = if paused { "paused" } else { "not paused" };
        output::line(&format!("{state}{}", if changed { "" } else { ", as it was before" }))?;
    }
    Ok(exit::DONE)
}
