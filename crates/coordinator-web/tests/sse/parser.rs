//! What a browser makes of an event stream: the parser of WHATWG's HTML, in as few lines as it has.

/// An event as a page sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: String,
    pub(crate) data: String,
    pub(crate) id: String,
}

/// A stream that is being read.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    rest: Vec<u8>,
    begun: bool,
    kind: String,
    data: String,
    id: String,
    last_id: String,
    retry_ms: Option<u64>,
}

impl Parser {
    /// The events that end in these bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Seen> {
        self.rest.extend_from_slice(bytes);
        let mut seen = Vec::new();
        // A CR at the very end may be half of a line end.
        while let Some(at) = self.rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
            let cr = self.rest[at] == b'\r';
            if cr && at + 1 == self.rest.len() {
                break;
            }
            let end = if cr && self.rest[at + 1] == b'\n' { at + 2 } else { at + 1 };
            let line: Vec<u8> = self.rest.drain(..end).take(at).collect();
            let line = String::from_utf8(line).expect("UTF-8");
            let line = if self.begun { &*line } else { line.trim_start_matches('\u{feff}') };
            self.begun = true;
            seen.extend(self.line(line));
        }
        seen
    }

    fn line(&mut self, line: &str) -> Option<Seen> {
        if line.is_empty() {
            self.last_id.clone_from(&self.id);
            let kind = std::mem::take(&mut self.kind);
            let mut data = std::mem::take(&mut self.data);
            data.pop()?;
            let kind = if kind.is_empty() { "message".to_owned() } else { kind };
            return Some(Seen { kind, data, id: self.last_id.clone() });
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry_ms = value.parse().ok();
            }
            _ => {}
        }
        None
    }

    /// What the browser would resume with.
    pub(crate) fn last_id(&self) -> &str {
        &self.last_id
    }

    /// When it would come back.
    pub(crate) fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }
}
