//! `coordinator cache …`: what caches keep, for operators.

use crate::{
    cli::duration,
    context::{Context, Need},
    failure::{Failure, exit},
    kept::{millis, said, unknown, unsure},
    output,
};
use clap::{Args, Subcommand};
use coordinator::{
    Coordinator,
    cache::{Cache, Entry, Invalidated},
    config::Fallback,
};
use serde_json::{Value, json};
use std::time::Duration;

const DONE_PERHAPS: &str = "it may have been done; to do it again is safe";

/// The arguments of `cache`.
#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    verb: CacheVerb,
}

#[derive(Debug, Subcommand)]
enum CacheVerb {
    /// Print a value, as it is stored
    #[command(after_help = GET_HELP)]
    Get(PlaceArgs),
    /// Store a value
    #[command(after_help = SET_HELP)]
    Set(SetArgs),
    /// Delete a value; every instance forgets it
    #[command(
        after_help = "A load that is under way is not stored. Exit codes: 0 deleted, 1 there \
        was none.\n\nExample:\n  coordinator cache delete crew-config 42"
    )]
    Delete(PlaceArgs),
    /// End every value with a tag, in all namespaces
    #[command(after_help = UNTAG_HELP)]
    InvalidateTag(TagArgs),
    /// End every value whose key matches a pattern
    #[command(after_help = INVALIDATE_HELP)]
    Invalidate(PatternArgs),
    /// Count what is stored in a namespace
    #[command(after_help = STATS_HELP)]
    Stats(NamespaceArgs),
}

const GET_HELP: &str = "\
Without --json the value alone. A value past its time is shown while it is kept for the failures of
its source (\"stale\": true), though instances load it anew. Looking changes nothing.

Exit codes: 0 here it is, 1 there is none, 3 it is there and is no JSON.

Example:
  coordinator cache get crew-config 42 | jq .shift";

const SET_HELP: &str = "\
It is stored as JSON, without a schema's version: caches that have one take it for absent.

Examples:
  coordinator cache set crew-config 42 '{\"shift\": \"night\"}' --ttl 1h --tag crew:42
  ./plan.sh | coordinator cache set plans 42 -";

const UNTAG_HELP: &str = "\
It costs the same for one value as for a million. Tags span namespaces: NS does not restrict them.
A --json answer has `invalidated`: 1 if anything had the tag since it was last ended, else 0.

Example:
  coordinator cache invalidate-tag crew-config crew:42";

const INVALIDATE_HELP: &str = "\
`*` stands for any text, `?` for one character, `\\` before one of these for itself. It looks
through all keys of each server, step by step; where that is often, use tags.

Example:
  coordinator cache invalidate crew-config 'eu:*'";

const STATS_HELP: &str = "\
It looks through all keys of each server, step by step, and reads every value of the namespace.
Bytes are those of values before they were compressed, and as they are stored. The hit rate is that
of this process, which has asked for nothing: instances tell theirs as metrics.

Example:
  coordinator cache stats crew-config --json | jq .entries";

#[derive(Debug, Args)]
struct NamespaceArgs {
    /// The namespace: any text of 1 to 512 bytes
    #[arg(value_name = "NS")]
    namespace: String,
}

#[derive(Debug, Args)]
struct PlaceArgs {
    #[command(flatten)]
    of: NamespaceArgs,
    /// The key: any text of 1 to 512 bytes
    key: String,
}

#[derive(Debug, Args)]
struct SetArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The value; - reads it from stdin
    #[arg(value_name = "JSON", default_value = "-")]
    value: String,
    /// For how long it is fresh
    #[arg(long, value_name = "DUR", value_parser = duration, default_value = "5m")]
    ttl: Duration,
    /// A tag that ends it; can be given again
    #[arg(long = "tag", value_name = "T")]
    tags: Vec<String>,
}

#[derive(Debug, Args)]
struct TagArgs {
    #[command(flatten)]
    of: NamespaceArgs,
    /// The tag: any text of 1 to 512 bytes
    tag: String,
}

#[derive(Debug, Args)]
struct PatternArgs {
    #[command(flatten)]
    of: NamespaceArgs,
    /// Which keys
    pattern: String,
}

impl CacheVerb {
    fn namespace(&self) -> &str {
        let (Self::Get(PlaceArgs { of, .. })
        | Self::Set(SetArgs { place: PlaceArgs { of, .. }, .. })
        | Self::Delete(PlaceArgs { of, .. })
        | Self::InvalidateTag(TagArgs { of, .. })
        | Self::Invalidate(PatternArgs { of, .. })
        | Self::Stats(of)) = self;
        &of.namespace
    }
}

/// Runs the verb.
pub(crate) async fn run(args: &CacheArgs, context: &Context) -> Result<u8, Failure> {
    let value = match &args.verb {
        CacheVerb::Set(args) => read(&args.value)?,
        _ => Value::Null,
    };
    let coordinator = open(context).await?;
    let json = context.json;
    // JSON fits every type that a service may have for it.
    let mut builder = coordinator.caches().cache(args.verb.namespace()).with_json();
    if let CacheVerb::Set(args) = &args.verb {
        builder = builder.with_ttl(args.ttl);
    }
    let cache = builder.build()?;
    let done = match &args.verb {
        CacheVerb::Get(place) => get(place, &cache, json).await,
        CacheVerb::Set(args) => set(args, &value, &cache, json).await,
        CacheVerb::Delete(place) => delete(place, &cache, json).await,
        CacheVerb::InvalidateTag(args) => {
            let outcome = cache.invalidate_tag(&args.tag).await;
            match outcome.map_err(|error| unsure(error, DONE_PERHAPS))? {
                Invalidated::Done(count) => tell(count, json),
                // It would be made up for by a process that lives on.
                Invalidated::Queued => {
                    let why = format!("no server answered ({DONE_PERHAPS})");
                    Err(Failure::new(exit::UNAVAILABLE, why))
                }
                _ => Err(unknown()),
            }
        }
        CacheVerb::Invalidate(args) => {
            let outcome = cache.invalidate_pattern(&args.pattern).await;
            tell(outcome.map_err(|error| unsure(error, DONE_PERHAPS))?, json)
        }
        CacheVerb::Stats(_) => stats(&cache, json).await,
    };
    coordinator.close().await;
    done
}

/// Connects, and says so where nothing outlives this process: no file keeps caches.
async fn open(context: &Context) -> Result<Coordinator, Failure> {
    let config = context.config(Need::EmbeddedIsFine)?.with_fallback(Fallback::None);
    if config.is_embedded() {
        output::note(
            "nothing is kept: without a server a cache ends with this process (name one with \
             --url redis://HOST or COORDINATOR_URL)",
        );
    }
    Ok(Coordinator::with_config(config).await?)
}

fn read(argument: &str) -> Result<Value, Failure> {
    serde_json::from_str(&said(argument)?)
        .map_err(|error| Failure::usage(format!("the value is no JSON: {error}")))
}

fn tell(count: u64, json: bool) -> Result<u8, Failure> {
    if json {
        output::json(&json!({ "invalidated": count }))?;
    } else {
        output::line(&format!("invalidated={count}"))?;
    }
    Ok(exit::DONE)
}

async fn get(place: &PlaceArgs, cache: &Cache<Value>, json: bool) -> Result<u8, Failure> {
    let found = cache.peek(&place.key).await?;
    if json {
        let (value, stale) = match &found {
            Some(hit) => (&**hit, hit.is_stale()),
            None => (&Value::Null, false),
        };
        let found = found.is_some();
        output::json(&json!({ "found": found, "value": value, "stale": stale }))?;
    } else if let Some(hit) = &found {
        output::json(&**hit)?;
        if hit.is_stale() {
            output::note("it is stale: instances load it anew, and give it if that fails");
        }
    } else {
        output::note("there is no such value");
    }
    Ok(if found.is_some() { exit::DONE } else { exit::REFUSED })
}

async fn set(
    args: &SetArgs,
    value: &Value,
    cache: &Cache<Value>,
    json: bool,
) -> Result<u8, Failure> {
    let entry = Entry::new().tags(&args.tags);
    let outcome = cache.set_with(&args.place.key, value, entry).await;
    outcome.map_err(|error| unsure(error, DONE_PERHAPS))?;
    if json {
        output::json(&json!({ "stored": true, "ttl_ms": millis(args.ttl) }))?;
    } else {
        output::line("stored")?;
    }
    Ok(exit::DONE)
}

async fn delete(place: &PlaceArgs, cache: &Cache<Value>, json: bool) -> Result<u8, Failure> {
    let outcome = cache.delete(&place.key).await;
    let deleted = outcome.map_err(|error| unsure(error, DONE_PERHAPS))?;
    if json {
        output::json(&json!({ "deleted": deleted }))?;
    } else if deleted {
        output::line("deleted")?;
    } else {
        output::note("there is no such value");
    }
    Ok(if deleted { exit::DONE } else { exit::REFUSED })
}

async fn stats(cache: &Cache<Value>, json: bool) -> Result<u8, Failure> {
    let survey = cache.survey().await?;
    let hit_rate = cache.stats().hit_rate();
    if json {
        output::json(&json!({
            "entries": survey.entries,
            "bytes_in": survey.bytes_in,
            "bytes_stored": survey.bytes_stored,
            "hit_rate": hit_rate,
        }))?;
        return Ok(exit::DONE);
    }
    let figures = [survey.entries, survey.bytes_in, survey.bytes_stored];
    let mut row: Vec<_> = figures.iter().map(ToString::to_string).collect();
    row.push(format!("{hit_rate:.3}"));
    output::line(&output::table(&["ENTRIES", "BYTES IN", "BYTES STORED", "HIT RATE"], [row]))?;
    Ok(exit::DONE)
}
