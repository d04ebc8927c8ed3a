//! `coordinator doc …`: state documents, for shell scripts that share some.

use crate::{
    cli::duration,
    context::Context,
    failure::{Failure, exit},
    kept::{self, millis, moment, said, span, unknown, unsure},
    output,
};
use clap::{Args, Subcommand};
use coordinator::sessions::{
    Document, Documents, Namespace, Put,
    documents::{DocumentEntry, DocumentPage},
};
use serde_json::{Value, json};
use std::time::Duration;

const WRITTEN_PERHAPS: &str =
    "it may have been done; look with `coordinator doc get` before it is done again";

/// The arguments of `doc`.
#[derive(Debug, Args)]
pub(crate) struct DocArgs {
    #[command(subcommand)]
    verb: DocVerb,
}

#[derive(Debug, Subcommand)]
enum DocVerb {
    /// Write a document, whatever was there or on a condition
    #[command(after_help = PUT_HELP)]
    Put(PutArgs),
    /// Print a document
    #[command(after_help = "Without --json the value alone. Exit codes: 0 here it is, 1 there is \
        none.\n\nExample:\n  coordinator doc get plans crew:7 | jq .steps")]
    Get(PlaceArgs),
    /// List the documents of a namespace with their versions
    #[command(after_help = "A --json answer has `documents` and `next`, for --cursor.\n\n\
        Example:\n  coordinator doc list plans crew: --json | jq -r '.documents[].name'")]
    List(ListArgs),
    /// Delete a document and its history
    #[command(after_help = "Exit codes: 0 deleted, 1 there was none.\n\n\
        Example:\n  coordinator doc delete plans crew:7")]
    Delete(PlaceArgs),
}

const PUT_HELP: &str = "\
Each write has a higher version than all before it. With --if-version it is compare-and-set: what
another wrote in between is not overwritten.

Exit codes: 0 written, 1 another version is there.

Examples:
  coordinator doc put plans crew:7 '{\"steps\": [\"look\"]}'
  echo '{\"steps\": []}' | coordinator doc put plans crew:7 --if-version 1893456000000000";

#[derive(Debug, Args)]
struct PlaceArgs {
    /// The namespace: any text of 1 to 512 bytes
    #[arg(value_name = "NS")]
    namespace: String,
    /// The document's name: any text of 1 to 512 bytes
    name: String,
}

#[derive(Debug, Args)]
struct PutArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The value; - reads it from stdin
    #[arg(value_name = "JSON", default_value = "-")]
    value: String,
    /// Only if it has this version; 0: only if there is none
    #[arg(long, value_name = "V")]
    if_version: Option<u64>,
    /// How long it lives from now on [default: REDIS_TTL_SECONDS, 24h]
    #[arg(long, value_name = "DUR", value_parser = duration)]
    ttl: Option<Duration>,
    /// How many former values are kept [default: 5 in orchestration_state, 10 in focus, else 0]
    #[arg(long, value_name = "N")]
    history: Option<u64>,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// The namespace
    #[arg(value_name = "NS")]
    namespace: String,
    /// Only documents whose names begin so
    #[arg(value_name = "NAME", default_value = "", hide_default_value = true)]
    begin: String,
    /// Where the list before ended
    #[arg(long, value_name = "C")]
    cursor: Option<String>,
    /// How many at the most, up to 1000
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
}

/// Runs the verb.
pub(crate) async fn run(args: &DocArgs, context: &Context) -> Result<u8, Failure> {
    let value = match &args.verb {
        DocVerb::Put(args) => Some(read(&args.value)?),
        _ => None,
    };
    let coordinator = kept::open(context).await?;
    let (documents, json) = (coordinator.documents(), context.json);
    let done = match (&args.verb, value) {
        (DocVerb::Put(args), value) => put(args, &value.unwrap_or_default(), documents, json).await,
        (DocVerb::Get(place), _) => get(place, documents, json).await,
        (DocVerb::List(args), _) => list(args, documents, json).await,
        (DocVerb::Delete(place), _) => delete(place, documents, json).await,
    };
    coordinator.close().await;
    done
}

fn read(argument: &str) -> Result<Value, Failure> {
    serde_json::from_str(&said(argument)?)
        .map_err(|error| Failure::usage(format!("the value is no JSON: {error}")))
}

/// The former values that documents of the ready-made namespaces keep: a write trims to them.
fn history(namespace: &str) -> u64 {
    match namespace {
        "orchestration_state" => 5,
        "focus" => 10,
        _ => 0,
    }
}

async fn put(
    args: &PutArgs,
    value: &Value,
    documents: &Documents,
    json: bool,
) -> Result<u8, Failure> {
    let PlaceArgs { namespace, name } = &args.place;
    let kept = args.history.unwrap_or_else(|| history(namespace));
    // JSON is read into whatever type a service has for it.
    let namespace = documents.namespace(namespace)?.with_history(kept).with_json();
    let mut request = namespace.put(name, value);
    if let Some(ttl) = args.ttl {
        request = request.with_ttl(ttl);
    }
    request = match args.if_version {
        Some(0) => request.if_absent(),
        Some(version) => request.if_version(version),
        None => request,
    };
    match request.await.map_err(|error| unsure(error, WRITTEN_PERHAPS))? {
        Put::Stored { version, updated_at, expires_at, .. } => {
            if json {
                // The end is told in whole ms: those that were begun count.
                let lives = expires_at.saturating_sub(updated_at) + Duration::from_micros(999);
                output::json(&json!({
                    "stored": true,
                    "version": version,
                    "updated_at": moment(updated_at),
                    "ttl_ms": millis(lives),
                }))?;
            } else {
                output::line(&format!("version={version}"))?;
            }
            Ok(exit::DONE)
        }
        Put::Conflict { current } => {
            if json {
                output::json(&json!({ "stored": false, "version": current }))?;
            } else {
                output::note(match current {
                    Some(version) => format!("nothing was written: version {version} is there"),
                    None => "nothing was written: there is no such document".to_owned(),
                });
            }
            Ok(exit::REFUSED)
        }
        _ => Err(unknown()),
    }
}

async fn get(place: &PlaceArgs, documents: &Documents, json: bool) -> Result<u8, Failure> {
    let found: Option<Document<Value>> = namespace(place, documents)?.get(&place.name).await?;
    let Some(document) = found else {
        if json {
            output::json(&json!({
                "found": false,
                "value": null,
                "version": null,
                "updated_at": null,
                "ttl_ms": null,
            }))?;
        } else {
            output::note("there is no such document");
        }
        return Ok(exit::REFUSED);
    };
    if json {
        output::json(&json!({
            "found": true,
            "value": document.value,
            "version": document.version,
            "updated_at": moment(document.updated_at),
            "ttl_ms": document.expires_in.map(millis),
        }))?;
    } else {
        output::json(&document.value)?;
    }
    Ok(exit::DONE)
}

fn namespace(place: &PlaceArgs, documents: &Documents) -> Result<Namespace, Failure> {
    Ok(documents.namespace(&place.namespace)?)
}

async fn list(args: &ListArgs, documents: &Documents, json: bool) -> Result<u8, Failure> {
    let namespace = documents.namespace(&args.namespace)?;
    let mut request = namespace.list().with_prefix(&args.begin).with_limit(args.count.into());
    if let Some(cursor) = &args.cursor {
        request = request.after(cursor);
    }
    let DocumentPage { entries, next, .. } = request.await?;
    if json {
        let entries: Vec<_> = entries.iter().map(entry_json).collect();
        output::json(&json!({ "documents": entries, "next": next }))?;
        return Ok(exit::DONE);
    }
    let rows = entries.into_iter().map(|entry| {
        vec![
            entry.name,
            entry.version.to_string(),
            moment(entry.updated_at),
            entry.expires_in.map_or_else(|| "-".to_owned(), |left| span(millis(left))),
            entry.bytes.to_string(),
        ]
    });
    output::line(&output::table(&["NAME", "VERSION", "UPDATED", "TTL", "BYTES"], rows))?;
    if let Some(next) = next {
        output::note(format_args!("there are more, behind --cursor {next}"));
    }
    Ok(exit::DONE)
}

fn entry_json(entry: &DocumentEntry) -> Value {
    json!({
        "name": entry.name,
        "version": entry.version,
        "updated_at": moment(entry.updated_at),
        "ttl_ms": entry.expires_in.map(millis),
        "bytes": entry.bytes,
    })
}

async fn delete(place: &PlaceArgs, documents: &Documents, json: bool) -> Result<u8, Failure> {
    let done = namespace(place, documents)?.delete(&place.name).await;
    let deleted = done.map_err(|error| unsure(error, WRITTEN_PERHAPS))?;
    if json {
        output::json(&json!({ "deleted": deleted }))?;
    } else if deleted {
        output::line("deleted")?;
    } else {
        output::note("there is no such document");
    }
    Ok(if deleted { exit::DONE } else { exit::REFUSED })
}
