//! The one place that writes: answers to stdout, a line about what went wrong to stderr.

use crate::failure::{Failure, exit};
use comfy_table::{Table, presets};
use serde::Serialize;
use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
};
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// Text without control characters: they are escaped, as a lock may be named anything.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || is_deceptive(character) {
            plain.extend(character.escape_default());
        } else {
            plain.push(character);
        }
    }
    plain
}

/// Invisible characters that break lines or turn the direction of text.
fn is_deceptive(character: char) -> bool {
    matches!(
        character,
        '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

/// Writes to stdout and flushes, so that the caller knows whether it was read.
pub(crate) fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes a line to stdout. A reader that has gone (`| head`) has what it wanted.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    match write(&format!("{text}\n")) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unwritten(&error)),
        _ => Ok(()),
    }
}

/// Writes one JSON document on one line of stdout.
pub(crate) fn json(document: &impl Serialize) -> Result<(), Failure> {
    line(&json_text(document)?)
}

/// One JSON document on one line.
pub(crate) fn json_text(document: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(document)
        .map_err(|error| Failure::new(exit::UNAVAILABLE, format!("write JSON: {error}")))
}

/// Why an answer did not reach stdout.
pub(crate) fn unwritten(error: &io::Error) -> Failure {
    Failure::new(exit::UNAVAILABLE, format!("write to stdout: {error}"))
}

/// Says on stderr what the verb has to say beside its answer. That nobody listens is no error.
pub(crate) fn note(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "coordinator: {}", plain(&text.to_string()));
}

/// Logs to stderr: nothing unless asked for, and of our own crates alone, because clients of
/// servers log what they send, passwords included.
pub(crate) fn log(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // A crate's name is the beginning of its targets, and so is `coordinator` of ours.
        .with_filter(Targets::new().with_target("coordinator", level));
    tracing_subscriber::registry().with(lines).init();
}

/// A table without lines, for people, `cut` and `awk` alike; without a header if that is empty.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header);
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| plain(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_is_printed() {
        assert_eq!(plain("a\r\n\0\u{7}\u{9b}é☃"), "a\\r\\n\\u{0}\\u{7}\\u{9b}é☃");
        assert_eq!(plain("\u{202e}x"), "\\u{202e}x");
    }

    #[test]
    fn a_table_has_a_line_for_each_row() {
        let rows = [vec!["a\nb".to_owned(), "1".to_owned()]];
        let text = table(&["NAME", "N"], rows);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("a\\nb"), "{text}");
    }
}
