//! The text of an event stream, as WHATWG's HTML has it: what cannot be written is refused, and
//! nothing else is known here.

use bytes::Bytes;
use std::{fmt, time::Duration};

/// A line end or a NUL where the format has no room for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused(&'static str);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} holds a line end or a NUL", self.0)
    }
}

impl std::error::Error for Refused {}

/// A block of lines that a browser takes as one.
#[derive(Debug, Default)]
pub(super) struct Block {
    text: String,
}

impl Block {
    pub(super) fn new() -> Self {
        Self::default()
    }

    fn field(mut self, name: &'static str, value: &str) -> Result<Self, Refused> {
        if value.contains(['\r', '\n', '\0']) {
            return Err(Refused(name));
        }
        self.line(name, value);
        Ok(self)
    }

    fn line(&mut self, name: &str, value: &str) {
        self.text.reserve(name.len() + value.len() + 3);
        self.text.push_str(name);
        // One space is taken off by the reader, so that a value may begin with its own.
        self.text.push_str(": ");
        self.text.push_str(value);
        self.text.push('\n');
    }

    /// What whoever resumes comes with.
    pub(super) fn id(self, id: &str) -> Result<Self, Refused> {
        self.field("id", id)
    }

    /// The type of the event.
    pub(super) fn event(self, kind: &str) -> Result<Self, Refused> {
        self.field("event", kind)
    }

    /// Text of any number of lines, which the reader joins with LF, whatever ended them here.
    pub(super) fn data(mut self, data: &str) -> Self {
        let mut rest = data;
        while let Some(at) = rest.find(['\r', '\n']) {
            let (line, end) = rest.split_at(at);
            self.line("data", line);
            rest = end.strip_prefix("\r\n").unwrap_or(&end[1..]);
        }
        self.line("data", rest);
        self
    }

    /// What nobody reads.
    pub(super) fn comment(mut self, comment: &str) -> Self {
        for line in comment.split(['\r', '\n']) {
            self.line("", line);
        }
        self
    }

    /// When to come back.
    pub(super) fn retry(mut self, after: Duration) -> Self {
        self.line("retry", &after.as_millis().to_string());
        self
    }

    /// The block, and the empty line that ends it.
    pub(super) fn end(mut self) -> Bytes {
        self.text.push('\n');
        self.text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::parser::{Parser, Seen};
    use coordinator_harness::rng;
    use rand::RngExt as _;

    fn read(bytes: &Bytes) -> (Parser, Vec<Seen>) {
        let mut parser = Parser::default();
        let seen = parser.push(bytes);
        (parser, seen)
    }

    #[test]
    fn a_block_is_written_as_the_format_has_it() {
        let block = Block::new().id("1-2").and_then(|block| block.event("task_started"));
        let text = block.expect("plain text").data("{\"a\":\n1}").end();
        assert_eq!(text, "id: 1-2\nevent: task_started\ndata: {\"a\":\ndata: 1}\n\n");
        let text = Block::new().comment("a\nb").retry(Duration::from_secs(2)).end();
        assert_eq!(text, ": a\n: b\nretry: 2000\n\n");
        let (parser, events) = read(&text);
        assert_eq!((parser.retry_ms(), events.len()), (Some(2000), 0));
    }

    #[test]
    fn line_ends_and_nul_are_refused_in_ids_and_types() {
        for bad in ["\r", "\n", "\0", "a\r\nb", "a\n", "\na", "a\0b"] {
            assert_eq!(Block::new().id(bad).unwrap_err(), Refused("id"), "{bad:?}");
            assert_eq!(Block::new().event(bad).unwrap_err(), Refused("event"), "{bad:?}");
        }
    }

    #[test]
    fn data_reach_the_reader_with_their_lines() {
        for (data, seen) in [
            ("", ""),
            ("a", "a"),
            (" a", " a"),
            ("a\n", "a\n"),
            ("\n", "\n"),
            ("a\r\nb\rc\n\nd", "a\nb\nc\n\nd"),
            ("\r\r\n", "\n\n"),
            ("data: x\nid: 7\nevent: y", "data: x\nid: 7\nevent: y"),
            (": no comment", ": no comment"),
            ("\u{feff}a\0é\u{2028}", "\u{feff}a\0é\u{2028}"),
        ] {
            let (parser, events) = read(&Block::new().data(data).end());
            let event = Seen { kind: "message".into(), data: seen.into(), id: String::new() };
            assert_eq!(events, [event], "{data:?}");
            assert_eq!(parser.last_id(), "");
        }
    }

    #[test]
    fn whatever_is_drawn_is_refused_or_read_back() {
        let mut rng = rng();
        let alphabet = ['\r', '\n', '\0', ':', ' ', 'a', 'é', '\u{feff}', '\u{2028}', '"', 'd'];
        let mut refused = 0;
        for _ in 0..20_000 {
            let mut draw = |most: usize| -> String {
                let length = rng.random_range(0..=most);
                (0..length).map(|_| alphabet[rng.random_range(0..alphabet.len())]).collect()
            };
            let (id, kind, data) = (draw(3), draw(3), draw(12));
            let block = Block::new().id(&id).and_then(|block| block.event(&kind));
            let bad = |text: &str| text.contains(['\r', '\n', '\0']);
            assert_eq!(block.is_err(), bad(&id) || bad(&kind));
            let Ok(block) = block else {
                refused += 1;
                continue;
            };
            let (parser, events) = read(&block.data(&data).end());
            let kind = if kind.is_empty() { "message".to_owned() } else { kind };
            let data = data.replace("\r\n", "\n").replace('\r', "\n");
            assert_eq!(parser.last_id(), id);
            assert_eq!(events, [Seen { kind, data, id }]);
        }
        assert!((1000..19_000).contains(&refused), "{refused}");
    }
}
