//! Problem details (RFC 9457): what the body of a refusal is, whoever refuses.

use serde::Serialize;

/// Type and title of the answer where nobody can say.
pub(crate) const BUSY: (&str, &str) = (
    "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
    "Request cannot be satisfied due to temporary server capacity constraints",
);
/// Those of the answer of a server that is built wrongly.
pub(crate) const BROKEN: (&str, &str) = ("about:blank", "Internal Server Error");

/// The media type of the body.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

#[derive(Debug, Serialize)]
pub(crate) struct Problem<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) title: &'static str,
    pub(crate) status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<&'static str>,
    #[serde(rename = "violated-policies", skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) violated: &'a [&'a str],
    /// Why there is no session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<&'static str>,
}

impl Problem<'_> {
    pub(crate) fn new(
        (kind, title): (&'static str, &'static str),
        status: http::StatusCode,
    ) -> Self {
        let status = status.as_u16();
        Self { kind, title, status, detail: None, violated: &[], session: None }
    }

    pub(crate) fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and a number are JSON")
    }
}
