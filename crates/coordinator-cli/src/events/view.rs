//! Events, gaps and dead letters as lines of JSON, with the keys that callers may rely on.

use crate::kept::moment;
use coordinator::events::{Gap, RawEvent};
use serde::Serialize;
use serde_json::value::RawValue;

/// The content type of data that are JSON.
const JSON: &str = "application/json";

/// An event; what it does not have is left out.
#[derive(Debug, Serialize)]
pub(super) struct EventView {
    id: String,
    scope: String,
    #[serde(rename = "type")]
    kind: String,
    source: String,
    time: String,
    /// Null where they are no JSON and no text.
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    schemaversion: u32,
    /// It was damaged where it is stored.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unreadable: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl EventView {
    pub(super) fn new(scope: &str, event: &RawEvent) -> Self {
        let content_type = event.content_type();
        Self {
            id: event.cursor().to_string(),
            scope: scope.to_owned(),
            kind: event.kind().to_owned(),
            source: event.source().to_owned(),
            time: moment(event.time()),
            data: data(&event.data(), content_type),
            datacontenttype: (content_type != JSON).then(|| content_type.to_owned()),
            traceparent: event.traceparent().map(ToOwned::to_owned),
            schemaversion: event.schema_version(),
            unreadable: !event.is_readable(),
        }
    }
}

/// JSON on one line, or a text.
fn data(data: &[u8], content_type: &str) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(data).ok()?;
    if content_type == JSON {
        // In JSON a line break stands between tokens alone.
        return RawValue::from_string(text.replace(['\n', '\r'], " ")).ok();
    }
    serde_json::value::to_raw_value(text).ok()
}

/// Events that were missed, in their place.
#[derive(Debug, Serialize)]
pub(super) struct GapView {
    gap: Missed,
}

#[derive(Debug, Serialize)]
struct Missed {
    lost: u64,
    at_least: bool,
    reason: &'static str,
}

impl GapView {
    pub(super) fn new(gap: &Gap) -> Self {
        Self {
            gap: Missed {
                lost: gap.lost.count(),
                at_least: gap.lost.is_lower_bound(),
                reason: gap.reason.as_str(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(bytes: &[u8], content_type: &str) -> String {
        serde_json::to_string(&data(bytes, content_type)).expect("JSON")
    }

    #[test]
    fn data_are_one_line_and_keep_their_digits() {
        let said = "{\"b\": 123456789012345678901234567890,\r\n\t\"a\": \"x\\ny\"}\n";
        let line = told(said.as_bytes(), JSON);
        assert_eq!(line, "{\"b\": 123456789012345678901234567890,  \t\"a\": \"x\\ny\"}");
    }

    #[test]
    fn what_is_no_json_is_a_text_or_null() {
        assert_eq!(told(b"a\nb", "text/plain"), "\"a\\nb\"");
        assert_eq!(told(&[0xff], "image/png"), "null");
        assert_eq!(told(b"{", JSON), "null");
    }
}
