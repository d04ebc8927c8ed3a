//! The focus of a user or a conversation: what it is about now, and what it was about before.

use super::{Document, Namespace, Updated};
use coordinator_core::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// How many things before the current one are remembered.
const PREVIOUS: usize = 10;

/// What somebody is at, and the ten things before that.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Focus {
    /// What it is about now.
    pub current: String,
    /// Since when, in ms since the Unix epoch on the clock of the process that said so.
    pub since_ms: u64,
    /// What is known of it.
    #[serde(default)]
    pub context: BTreeMap<String, Value>,
    /// What it was about before, the latest first.
    #[serde(default)]
    pub previous: Vec<PastFocus>,
}

/// What somebody was at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PastFocus {
    /// What it was about.
    pub focus: String,
    /// Since when, in ms since the Unix epoch.
    pub since_ms: u64,
    /// Until when, likewise.
    pub until_ms: u64,
    /// What was known of it.
    #[serde(default)]
    pub context: BTreeMap<String, Value>,
}

/// The focuses of users or conversations, from [`Documents::focus`](super::Documents::focus).
///
/// ```
/// use coordinator_sessions::Documents;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let focuses = Documents::embedded().focus();
/// focuses.switch("user:42", "invoice 7").await?;
/// focuses.note("user:42", "customer", "acme").await?;
/// focuses.switch("user:42", "invoice 8").await?;
///
/// let focus = focuses.current("user:42").await?.expect("it lives for a day").value;
/// assert_eq!(focus.current, "invoice 8");
/// assert_eq!(focus.previous[0].focus, "invoice 7");
/// assert_eq!(focus.previous[0].context["customer"], "acme");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Focuses {
    namespace: Namespace,
}

impl Focuses {
    pub(super) fn new(namespace: Namespace) -> Self {
        Self { namespace }
    }

    /// The documents behind it: to list, count, extend or delete them.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// What somebody is at.
    ///
    /// # Errors
    /// As [`Namespace::get`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn current(&self, of: &str) -> Result<Option<Document<Focus>>> {
        self.namespace.get(of).await
    }

    /// Turns to something, with an empty context; what was current goes among the previous ones,
    /// of which ten are remembered. To turn to what is current already changes nothing but the end.
    ///
    /// # Errors
    /// As [`Namespace::update`].
    ///
    /// # Cancel safety
    /// As [`Namespace::update`].
    pub async fn switch(&self, of: &str, to: &str) -> Result<Updated<Focus>> {
        let now = self.namespace.clock().unix_time().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let turn = |before: Option<Focus>| {
            let Some(before) = before else {
                return Some(Focus { current: to.to_owned(), since_ms: now, ..Focus::default() });
            };
            if before.current == to {
                return Some(before);
            }
            let Focus { current: focus, since_ms, context, mut previous } = before;
            previous.insert(0, PastFocus { focus, since_ms, until_ms: now, context });
            previous.truncate(PREVIOUS);
            let context = BTreeMap::new();
            Some(Focus { current: to.to_owned(), since_ms: now, context, previous })
        };
        self.namespace.revise(of, turn).await
    }

    /// Adds to what is known of the current focus, or replaces it; [`Updated::Absent`] without one.
    ///
    /// # Errors
    /// As [`Namespace::update`].
    ///
    /// # Cancel safety
    /// As [`Namespace::update`].
    pub async fn note(
        &self,
        of: &str,
        key: &str,
        value: impl Into<Value>,
    ) -> Result<Updated<Focus>> {
        let value = value.into();
        let note = |focus: &mut Focus| {
            focus.context.insert(key.to_owned(), value.clone());
        };
        self.namespace.update(of, note).await
    }

    /// Forgets what somebody is and was at; whether there was anything.
    ///
    /// # Errors
    /// As [`Namespace::delete`].
    ///
    /// # Cancel safety
    /// As [`Namespace::delete`].
    pub async fn clear(&self, of: &str) -> Result<bool> {
        self.namespace.delete(of).await
    }
}
