//! The shapes of the answers about sessions: the JSON keys callers rely on, and words for people.

use crate::{
    kept::{millis, moment, span},
    output,
};
use coordinator::sessions::{Lookup, Session};
use serde::Serialize;

/// A session, as far as it is known.
#[derive(Debug, Default, Serialize)]
pub(super) struct SessionView {
    #[serde(rename = "ref")]
    reference: Option<String>,
    user: Option<String>,
    company: Option<String>,
    crew: Option<String>,
    ttl_ms: Option<u64>,
    pub(super) state: &'static str,
    created_at: Option<String>,
    version: Option<u64>,
    /// The names of what it keeps: values may be anybody's affair.
    fields: Vec<String>,
    /// Why it was revoked.
    reason: Option<String>,
}

impl From<&Session> for SessionView {
    fn from(session: &Session) -> Self {
        let text = |name: Option<&str>| name.map(str::to_owned);
        Self {
            reference: Some(session.reference().as_str().to_owned()),
            user: text(session.user()),
            company: text(session.company()),
            crew: text(session.crew()),
            ttl_ms: Some(millis(session.expires_in())),
            state: "live",
            created_at: Some(moment(session.created_at())),
            version: Some(session.version()),
            fields: session.data().fields().map(str::to_owned).collect(),
            reason: None,
        }
    }
}

impl SessionView {
    /// What asking for it came to.
    pub(super) fn of(found: &Lookup<Session>) -> Self {
        match found {
            Lookup::Live(session) => Self::from(session),
            gone => Self { state: state(gone), reason: reason(gone), ..Self::default() },
        }
    }

    /// What it is, on a line of a table.
    fn row(self) -> Vec<String> {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![
            or_none(self.reference),
            or_none(self.user),
            or_none(self.company),
            or_none(self.crew),
            or_none(self.ttl_ms.map(span)),
            or_none(self.created_at),
            self.state.to_owned(),
        ]
    }
}

/// For people.
pub(super) fn table(views: impl IntoIterator<Item = SessionView>) -> String {
    let header = ["REF", "USER", "COMPANY", "CREW", "TTL", "CREATED", "STATE"];
    output::table(&header, views.into_iter().map(SessionView::row))
}

/// The word for what became of a session.
pub(super) fn state<T>(found: &Lookup<T>) -> &'static str {
    match found {
        Lookup::Live(_) => "live",
        Lookup::Expired => "expired",
        Lookup::Revoked { .. } => "revoked",
        _ => "absent",
    }
}

/// Why it was revoked.
pub(super) fn reason<T>(found: &Lookup<T>) -> Option<String> {
    match found {
        Lookup::Revoked { reason } => Some(reason.clone()),
        _ => None,
    }
}
