//! What an event says of itself, and how it is written down.
//!
//! Attributes are those of CloudEvents 1.0. Stored is a line of JSON with the attributes, then the
//! data as they came, behind core's codec byte and checksum.

use crate::cursor::{Cursor, Nonce};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use coordinator_core::{Error, ErrorKind, Result, codec};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

/// The content type of data that says none.
pub(crate) const JSON: &str = "application/json";
/// The longest type, source or traceparent in bytes.
pub(crate) const ATTRIBUTE_MAX: usize = 256;

const PUBLISH: &str = "events.publish";
const READ: &str = "events.read";

/// The attributes, as they are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) source: String,
    /// In ms since the Unix epoch.
    #[serde(rename = "time")]
    pub(crate) time_ms: u64,
    #[serde(rename = "v", default, skip_serializing_if = "is_zero")]
    pub(crate) schema: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) traceparent: Option<String>,
    /// None for JSON.
    #[serde(rename = "datacontenttype", default, skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Refuses attributes that a header, a log line or a browser could not carry.
pub(crate) fn check(step: &'static str, what: &str, text: &str) -> Result<()> {
    if text.is_empty() || text.len() > ATTRIBUTE_MAX || text.chars().any(char::is_control) {
        let why =
            format!("the {what} is not 1 to {ATTRIBUTE_MAX} bytes without control characters");
        return Err(Error::misuse(step, why));
    }
    Ok(())
}

/// Nonce and envelope of an event, ready to be stored.
pub(crate) fn frame(nonce: Nonce, head: &Head, data: &[u8]) -> Result<Bytes> {
    check(PUBLISH, "type", &head.kind)?;
    check(PUBLISH, "source", &head.source)?;
    for (what, text) in [("traceparent", &head.traceparent), ("content type", &head.content_type)] {
        if let Some(text) = text {
            check(PUBLISH, what, text)?;
        }
    }
    let mut payload =
        serde_json::to_vec(head).map_err(|error| Error::misuse(PUBLISH, error.to_string()))?;
    payload.push(b'\n');
    payload.extend_from_slice(data);
    let mut frame = nonce.to_vec();
    frame.extend(codec::wrap(codec::Codec::Raw, &payload)?);
    Ok(frame.into())
}

fn corrupt(why: &str) -> Error {
    Error::corrupt(READ, why)
}

/// Attributes and data of an envelope.
fn open(envelope: &Bytes) -> Result<(Head, Bytes)> {
    let (_, payload) = codec::unwrap(envelope)?;
    let end = payload.iter().position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| corrupt("an event without attributes"))?;
    let head = serde_json::from_slice(&payload[..end])
        .map_err(|error| corrupt("the attributes of an event are unreadable").with_source(error))?;
    Ok((head, envelope.slice_ref(&payload[end + 1..])))
}

/// An event as it came, decoded once for all readers of a process.
///
/// Clones share everything.
#[derive(Debug, Clone)]
pub struct RawEvent {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cursor: Cursor,
    opened: Result<(Head, Bytes)>,
    rendered: OnceLock<Bytes>,
}

impl RawEvent {
    pub(crate) fn new(cursor: Cursor, envelope: &Bytes) -> Self {
        let opened = open(envelope);
        Self { inner: Arc::new(Inner { cursor, opened, rendered: OnceLock::new() }) }
    }

    /// Where it stands: whoever resumes after it comes with this.
    pub fn cursor(&self) -> Cursor {
        self.inner.cursor
    }

    /// Whether its attributes can be read at all.
    pub fn is_readable(&self) -> bool {
        self.inner.opened.is_ok()
    }

    fn opened(&self) -> Result<&(Head, Bytes)> {
        let opened = self.inner.opened.as_ref();
        opened.map_err(|error| Error::new(error.kind(), READ).with_source(error.chain()))
    }

    fn head(&self) -> Option<&Head> {
        self.inner.opened.as_ref().ok().map(|(head, _)| head)
    }

    /// Its type; empty if it is not readable.
    pub fn kind(&self) -> &str {
        self.head().map_or("", |head| &head.kind)
    }

    /// Who published it; empty if it is not readable.
    pub fn source(&self) -> &str {
        self.head().map_or("", |head| &head.source)
    }

    /// When it was published by the clock of whoever did, as time since the Unix epoch.
    pub fn time(&self) -> Duration {
        Duration::from_millis(self.head().map_or(0, |head| head.time_ms))
    }

    /// The version of its data's schema, 0 where nothing was said.
    pub fn schema_version(&self) -> u32 {
        self.head().map_or(0, |head| head.schema)
    }

    /// The W3C trace context it was published in.
    pub fn traceparent(&self) -> Option<&str> {
        self.head()?.traceparent.as_deref()
    }

    /// What its data are, `application/json` unless said otherwise.
    pub fn content_type(&self) -> &str {
        self.head().and_then(|head| head.content_type.as_deref()).unwrap_or(JSON)
    }

    /// Its data, as they were published.
    pub fn data(&self) -> Bytes {
        self.inner.opened.as_ref().map(|(_, data)| data.clone()).unwrap_or_default()
    }

    /// Its data, decoded from JSON.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) if it is unreadable, no JSON, or of another shape.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        let (head, data) = self.opened()?;
        if head.content_type.as_deref().is_some_and(|kind| kind != JSON) {
            return Err(corrupt("the data of an event are no JSON"));
        }
        serde_json::from_slice(data).map_err(|error| {
            Error::new(ErrorKind::Corrupt, READ)
                .with_source(format!("an event of type {}: {error}", head.kind))
        })
    }

    /// It as a CloudEvent 1.0 in JSON, for whoever passes events on to other systems: `id` is its
    /// cursor, `subject` the scope; data that are no JSON are `data_base64`, and the schema's
    /// version is the extension `schemaversion`.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) if it is unreadable, or says that its data are JSON and they
    /// are not.
    pub fn to_cloud_event(&self, scope: &str) -> Result<String> {
        let (head, data) = self.opened()?;
        let time = humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + self.time());
        let mut event = serde_json::json!({
            "specversion": "1.0",
            "id": self.cursor().to_string(),
            "source": head.source,
            "type": head.kind,
            "subject": scope,
            "time": time.to_string(),
            "datacontenttype": self.content_type(),
        });
        if head.schema > 0 {
            event["schemaversion"] = head.schema.into();
        }
        if let Some(traceparent) = &head.traceparent {
            event["traceparent"] = traceparent.as_str().into();
        }
        if head.content_type.as_deref().is_none_or(|kind| kind == JSON) {
            event["data"] = self.decode()?;
        } else {
            event["data_base64"] = STANDARD.encode(data).into();
        }
        Ok(event.to_string())
    }

    /// A form of it that all readers of this process share: made by whoever asks first, kept as
    /// long as the event is in memory.
    pub fn rendered(&self, make: impl FnOnce(&Self) -> Bytes) -> Bytes {
        self.inner.rendered.get_or_init(|| make(self)).clone()
    }

    /// The same with its data decoded.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn typed<T: DeserializeOwned>(&self) -> Result<Event<T>> {
        Ok(Event { data: self.decode()?, raw: self.clone() })
    }
}

/// An event with its data.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Event<T> {
    /// What it says.
    pub data: T,
    raw: RawEvent,
}

impl<T> Event<T> {
    /// Where it stands: whoever resumes after it comes with this. As text it is the event's id.
    pub fn cursor(&self) -> Cursor {
        self.raw.cursor()
    }

    /// Its type.
    pub fn kind(&self) -> &str {
        self.raw.kind()
    }

    /// Everything else that is known of it.
    pub fn raw(&self) -> &RawEvent {
        &self.raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            kind: "task_started".into(),
            source: "crew/42".into(),
            time_ms: 5,
            schema: 2,
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            content_type: None,
        }
    }

    fn read(frame: &Bytes) -> RawEvent {
        RawEvent::new(Cursor::START, &frame.slice(8..))
    }

    #[test]
    fn an_event_reads_back() {
        let data = br#"{"n":1}"#;
        let event = read(&frame([1; 8], &head(), data).expect("an event"));
        assert_eq!(event.head(), Some(&head()));
        assert_eq!((event.data().as_ref(), event.content_type()), (data.as_slice(), JSON));
        let decoded: std::collections::HashMap<String, u32> = event.decode().expect("JSON");
        assert_eq!(decoded["n"], 1);
    }

    #[test]
    fn what_no_header_can_carry_is_refused() {
        for kind in ["", "a\nb", "a\rb", "a\0b", &"x".repeat(ATTRIBUTE_MAX + 1)] {
            let head = Head { kind: kind.to_owned(), ..head() };
            let refused = frame([0; 8], &head, b"1").expect_err("it is refused");
            assert_eq!(refused.kind(), ErrorKind::Misuse, "{kind:?}");
        }
    }

    #[test]
    fn it_is_a_cloud_event() {
        let event = read(&frame([1; 8], &head(), br#"{"n":1}"#).expect("an event"));
        let json: serde_json::Value =
            serde_json::from_str(&event.to_cloud_event("crew:42").expect("JSON")).expect("JSON");
        let expected = serde_json::json!({
            "specversion": "1.0", "id": "0-0", "source": "crew/42", "type": "task_started",
            "subject": "crew:42", "time": "1970-01-01T00:00:00.005Z", "schemaversion": 2,
            "datacontenttype": "application/json", "data": {"n": 1},
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        });
        assert_eq!(json, expected);
        let raw = Head { content_type: Some("image/png".into()), ..head() };
        let event = read(&frame([1; 8], &raw, &[0, 255]).expect("an event"));
        assert!(event.to_cloud_event("s").expect("JSON").contains(r#""data_base64":"AP8=""#));
        let broken = read(&frame([1; 8], &head(), b"{").expect("an event"));
        assert!(broken.to_cloud_event("s").is_err());
    }

    #[test]
    fn a_flipped_bit_anywhere_is_unreadable() {
        let good = frame([1; 8], &head(), b"[1,2]").expect("an event");
        for at in 8..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            assert!(!read(&bad.into()).is_readable(), "{at}");
        }
        for end in 8..good.len() {
            assert!(!read(&good.slice(..end)).is_readable(), "{end}");
        }
    }

    #[test]
    fn a_rendering_is_made_once() {
        let event = read(&frame([1; 8], &head(), b"1").expect("an event"));
        assert_eq!(event.rendered(|_| "a".into()), "a");
        assert_eq!(event.clone().rendered(|_| "b".into()), "a");
    }
}
