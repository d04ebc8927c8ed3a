//! Where sessions, documents and conversations are kept, and what their verbs have in common.

use crate::{
    context::{Context, Need},
    failure::{Failure, exit},
    output,
};
use coordinator::{
    Coordinator, Error, ErrorKind,
    config::{Endpoint, Fallback},
    health::State,
};
use std::{
    io::{self, Read as _},
    time::{Duration, SystemTime},
};

/// The longest value that is read from stdin.
const STDIN_MAX: u64 = 32 * 1024 * 1024;
/// The calendar of tables ends with the year 9999.
const LATEST: Duration = Duration::from_secs(253_402_300_799);

/// Connects, and says so where nothing outlives this process or another place is worked on than
/// the one that was named.
pub(crate) async fn open(context: &Context) -> Result<Coordinator, Failure> {
    let mut config = context.config(Need::EmbeddedIsFine)?;
    if matches!(config.endpoint(), Endpoint::Embedded { file: None }) {
        output::note(
            "nothing is kept: without a server or a file this ends with this process (name one \
             with --url redis://HOST, --url embedded:///path/file.redb or COORDINATOR_URL)",
        );
    }
    if *config.fallback() == Fallback::Memory {
        // Memory that ends with this command would be no place at all.
        config = config.with_fallback(Fallback::None);
    }
    let file = match config.fallback() {
        Fallback::File(path) if !config.is_embedded() => Some(path.display().to_string()),
        _ => None,
    };
    let coordinator = Coordinator::with_config(config).await?;
    if let Some(file) = file
        && coordinator.state() == State::Disconnected
    {
        output::note(format_args!("no server was found: this is done in {file} alone"));
    }
    Ok(coordinator)
}

/// A failure that leaves open whether something was done; what to do then.
pub(crate) fn unsure(error: Error, advice: &str) -> Failure {
    if error.kind() == ErrorKind::Indeterminate {
        return Failure::new(exit::UNAVAILABLE, format!("{} ({advice})", error.chain()));
    }
    Failure::from(error)
}

/// An answer that this version does not know.
pub(crate) fn unknown() -> Failure {
    Failure::new(exit::UNAVAILABLE, "an answer of a newer library")
}

/// What an argument says, or stdin if that is `-`.
pub(crate) fn said(argument: &str) -> Result<String, Failure> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut text = String::new();
    let read = io::stdin().lock().take(STDIN_MAX).read_to_string(&mut text);
    read.map_err(|error| Failure::usage(format!("cannot read stdin: {error}")))?;
    Ok(text)
}

/// Whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A moment as time since the Unix epoch, for people and programs.
pub(crate) fn moment(since: Duration) -> String {
    humantime::format_rfc3339_micros(SystemTime::UNIX_EPOCH + since.min(LATEST)).to_string()
}

/// A span for people, in seconds where there are any.
pub(crate) fn span(ms: u64) -> String {
    let whole = if ms < 1000 { ms } else { ms - ms % 1000 };
    humantime::format_duration(Duration::from_millis(whole)).to_string()
}
