//! Sessions by the thousand: to a file, from a file, from elsewhere. With a bar on a terminal.

use super::{MigrateArgs, Mode};
use crate::{
    context::Context,
    failure::{Failure, exit},
    output,
};
use coordinator::{
    Config, Coordinator, Error, ErrorKind,
    config::{Endpoint, Fallback},
    sessions::{Filter, LegacyLayout, RestoreMode, Restored, Sessions},
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write},
    path::Path,
};
use tokio::io::{AsyncBufRead, BufReader};

/// How long the last line of an export is at most.
const LAST_LINE_MAX: i64 = 64;

/// A bar on stderr, if that is a terminal.
fn bar(length: Option<u64>, doing: &'static str) -> ProgressBar {
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{msg} {wide_bar} {pos} of {len}"),
        None => (ProgressBar::no_length(), "{msg} {spinner} {pos}"),
    };
    let bar = match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    };
    bar.with_message(doing)
}

fn unwritten(path: &Path, error: &io::Error) -> Failure {
    Failure::new(exit::UNAVAILABLE, format!("cannot write {}: {error}", path.display()))
}

/// Writes all sessions. A file appears when it is whole, and is its owner's alone.
pub(super) async fn export(path: &Path, sessions: &Sessions, json: bool) -> Result<u8, Failure> {
    if path == Path::new("-") {
        let exported = lines(sessions, &mut io::stdout().lock(), path).await?;
        output::note(format_args!("{exported} sessions were exported"));
        return Ok(exit::DONE);
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let why = |error| Failure::usage(format!("cannot write {}: {error}", path.display()));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(why)?;
    let exported = lines(sessions, &mut BufWriter::new(&mut file), path).await?;
    file.as_file().sync_all().map_err(|error| unwritten(path, &error))?;
    file.persist(path).map_err(|error| unwritten(path, &error.error))?;
    if json {
        output::json(&json!({ "exported": exported }))?;
    } else {
        output::line(&format!("{exported} sessions are in {}", path.display()))?;
    }
    Ok(exit::DONE)
}

async fn lines(sessions: &Sessions, to: &mut impl Write, path: &Path) -> Result<u64, Failure> {
    let all = Filter::all();
    let bar = bar(Some(sessions.count(&all).await?), "exporting");
    let mut export = sessions.export(&all)?;
    while let Some(mut line) = export.next_line().await? {
        line.push('\n');
        to.write_all(line.as_bytes()).map_err(|error| unwritten(path, &error))?;
        bar.set_position(export.count());
    }
    to.flush().map_err(|error| unwritten(path, &error))?;
    bar.finish_and_clear();
    Ok(export.count())
}

/// An export to read, and how many sessions it says that it has.
pub(super) struct Source {
    reader: Box<dyn AsyncBufRead + Unpin>,
    count: Option<u64>,
}

/// Opens an export.
pub(super) fn open(path: &Path) -> Result<Source, Failure> {
    if path == Path::new("-") {
        return Ok(Source { reader: Box::new(BufReader::new(tokio::io::stdin())), count: None });
    }
    let why = |error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let mut file = File::open(path).map_err(why)?;
    let count = last_count(&mut file);
    file.rewind().map_err(why)?;
    let file = tokio::fs::File::from_std(file);
    Ok(Source { reader: Box::new(BufReader::new(file)), count })
}

/// What the last line says, for a bar alone: `restore` looks closer.
fn last_count(file: &mut File) -> Option<u64> {
    let length = i64::try_from(file.metadata().ok()?.len()).ok()?;
    file.seek(SeekFrom::End(-LAST_LINE_MAX.min(length))).ok()?;
    let mut tail = String::new();
    file.read_to_string(&mut tail).ok()?;
    let last: Value = serde_json::from_str(tail.lines().last()?).ok()?;
    last["count"].as_u64()
}

/// Brings back what was exported.
pub(super) async fn restore(
    source: Source,
    mode: Mode,
    sessions: &Sessions,
    json: bool,
) -> Result<u8, Failure> {
    let bar = bar(source.count, "restoring");
    let mode = match mode {
        Mode::Skip => RestoreMode::Skip,
        Mode::Newer => RestoreMode::NewerWins,
        Mode::Overwrite => RestoreMode::Overwrite,
    };
    let progress = |sum: &Restored| bar.set_position(sum.seen());
    let restored = sessions.restore_telling(source.reader, mode, progress).await;
    bar.finish_and_clear();
    tell(&restored.map_err(halfway)?, json)
}

/// Why not all was brought along.
fn halfway(error: Error) -> Failure {
    let advice = match error.kind() {
        ErrorKind::Misuse => return Failure::from(error),
        ErrorKind::Corrupt => "what stood before it is restored; export anew",
        _ => "some may be restored; run it again: that is safe",
    };
    Failure::new(exit::UNAVAILABLE, format!("{} ({advice})", error.chain()))
}

fn tell(sum: &Restored, json: bool) -> Result<u8, Failure> {
    let numbers = [
        ("restored", sum.restored),
        ("skipped", sum.skipped),
        ("ended", sum.ended),
        ("expired", sum.expired),
        ("revoked", sum.revoked),
    ];
    tell_numbers(&numbers, json)
}

fn tell_numbers(numbers: &[(&'static str, u64)], json: bool) -> Result<u8, Failure> {
    if json {
        let document: serde_json::Map<_, _> =
            numbers.iter().map(|(key, number)| ((*key).to_owned(), (*number).into())).collect();
        output::json(&document)?;
    } else {
        let header: Vec<String> = numbers.iter().map(|(key, _)| key.to_uppercase()).collect();
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let row = numbers.iter().map(|(_, number)| number.to_string()).collect();
        output::line(&output::table(&header, [row]))?;
    }
    Ok(exit::DONE)
}

/// Brings along the sessions of another place.
pub(super) async fn migrate(
    args: &MigrateArgs,
    coordinator: &Coordinator,
    context: &Context,
) -> Result<u8, Failure> {
    let (sessions, json) = (coordinator.sessions(), context.json);
    if args.from.contains("://") {
        let there = connect(args, coordinator, context).await?;
        let done = match &args.layout {
            Some(layout) => legacy(layout, args, &there, sessions, json).await,
            None => carry(there.sessions(), sessions, json).await,
        };
        there.close().await;
        return done;
    }
    if args.layout.is_some() {
        return Err(Failure::usage(
            "the sessions of another program are on a server: name its URL",
        ));
    }
    let path = Path::new(&args.from);
    let why = |error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let mut first = [0];
    let read = File::open(path).map_err(why)?.read(&mut first).map_err(why)?;
    if first[..read] == *b"{" {
        return restore(open(path)?, Mode::Newer, sessions, json).await;
    }
    carry(&Sessions::embedded_at(path)?, sessions, json).await
}

/// Connects to where the sessions are.
async fn connect(
    args: &MigrateArgs,
    coordinator: &Coordinator,
    context: &Context,
) -> Result<Coordinator, Failure> {
    let here = coordinator.config();
    let prefix = args.from_prefix.as_deref().unwrap_or(here.keyspace().prefix());
    let mut config =
        Config::from_url(&args.from)?.with_prefix(prefix)?.with_fallback(Fallback::None);
    if let Some(timeout) = context.timeout {
        config = config.with_command_timeout(timeout).with_connect_timeout(timeout);
    }
    match config.endpoint() {
        Endpoint::Embedded { file: None } => {
            return Err(Failure::usage("memory has no sessions of another process"));
        }
        // One that is not there would be created.
        Endpoint::Embedded { file: Some(path) } if !path.exists() => {
            return Err(Failure::usage(format!("there is no file {}", path.display())));
        }
        _ => {}
    }
    Ok(Coordinator::with_config(config).await?)
}

async fn carry(there: &Sessions, here: &Sessions, json: bool) -> Result<u8, Failure> {
    let bar = bar(Some(there.count(&Filter::all()).await?), "migrating");
    let progress = |sum: &Restored| bar.set_position(sum.seen());
    let migrated = here.migrate_from_telling(there, RestoreMode::NewerWins, progress).await;
    bar.finish_and_clear();
    tell(&migrated.map_err(halfway)?, json)
}

/// Brings along the sessions of another program.
async fn legacy(
    layout: &str,
    args: &MigrateArgs,
    there: &Coordinator,
    here: &Sessions,
    json: bool,
) -> Result<u8, Failure> {
    let mut layout = LegacyLayout::new(layout);
    if let Some(field) = &args.user_field {
        layout = layout.with_user_field(field);
    }
    if let Some(field) = &args.company_field {
        layout = layout.with_company_field(field);
    }
    if let Some(field) = &args.crew_field {
        layout = layout.with_crew_field(field);
    }
    let Some(connection) = there.connection() else {
        return Err(Failure::usage(
            "the sessions of another program are on a server: name its URL",
        ));
    };
    let bar = bar(None, "migrating");
    let progress = |sum: &coordinator::sessions::Migrated| bar.set_position(sum.seen());
    let migrated = here.migrate_legacy_telling(connection, &layout, progress).await;
    bar.finish_and_clear();
    // Which they were is not told: their keys hold what lets their clients in.
    let sum = migrated.map_err(halfway)?;
    let numbers = [
        ("restored", sum.migrated),
        ("skipped", sum.skipped),
        ("expired", sum.expired),
        ("revoked", sum.revoked),
        ("unreadable", sum.unreadable),
    ];
    tell_numbers(&numbers, json)
}
