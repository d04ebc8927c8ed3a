//! Messages: what is said, by whom, with which calls of tools; and how they are stored.

use super::{
    backend::{Item, Kept, Link},
    estimate::Estimator,
    outcome::Said,
};
use coordinator_core::{
    Error, Result,
    codec::{self, Codec},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{borrow::Cow, fmt};

/// The longest message in bytes, as it is stored.
pub const MESSAGE_MAX_BYTES: usize = 1024 * 1024;
/// How many tools one message calls at most.
pub const CALLS_MAX: usize = 128;
/// What every message and every call costs besides its text, in tokens.
const OVERHEAD: u32 = 4;

/// Who says something.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
#[non_exhaustive]
pub enum Role {
    /// Instructions.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool that was called.
    Tool,
    /// Anybody else, by the caller's own word.
    Other(String),
}

impl Role {
    /// Its word: `system`, `user`, `assistant`, `tool` or the caller's own.
    pub fn as_str(&self) -> &str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
            Self::Other(word) => word,
        }
    }
}

impl From<String> for Role {
    fn from(word: String) -> Self {
        match word.as_str() {
            "system" => Self::System,
            "user" => Self::User,
            "assistant" => Self::Assistant,
            "tool" => Self::Tool,
            _ => Self::Other(word),
        }
    }
}

impl From<&str> for Role {
    fn from(word: &str) -> Self {
        word.to_owned().into()
    }
}

impl From<Role> for String {
    fn from(role: Role) -> Self {
        match role {
            Role::Other(word) => word,
            known => known.as_str().to_owned(),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A call of a tool that a message makes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ToolCall {
    /// What the answer names.
    pub id: String,
    /// Which tool.
    pub name: String,
    /// Its arguments.
    pub arguments: serde_json::Value,
}

/// A message of a conversation.
///
/// ```
/// use coordinator_sessions::conversations::{Message, Role};
/// use serde_json::json;
///
/// let call = Message::assistant("I shall look.").with_call("c1", "weather", json!({"at": "Graz"}));
/// let answer = Message::tool("c1", "14 °C");
/// assert_eq!(call.calls[0].id, answer.answers.unwrap());
/// assert_eq!(answer.role, Role::Tool);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub text: String,
    /// Who exactly, where several have one role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The tools it calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<ToolCall>,
    /// The id of the call that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<String>,
    /// What else the caller keeps with it; it costs no tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Value>,
}

impl Message {
    /// A message of this role.
    pub fn new(role: impl Into<Role>, text: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            text: text.into(),
            name: None,
            calls: Vec::new(),
            answers: None,
            metadata: None,
        }
    }

    /// What the person says.
    pub fn user(text: impl Into<String>) -> Self {
        Self::new(Role::User, text)
    }

    /// What the model says.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new(Role::Assistant, text)
    }

    /// Instructions.
    pub fn system(text: impl Into<String>) -> Self {
        Self::new(Role::System, text)
    }

    /// What a tool answers to the call with this id.
    pub fn tool(call: impl Into<String>, text: impl Into<String>) -> Self {
        Self { answers: Some(call.into()), ..Self::new(Role::Tool, text) }
    }

    /// With a name.
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// With a call of a tool.
    pub fn with_call(
        mut self,
        id: impl Into<String>,
        name: impl Into<String>,
        arguments: serde_json::Value,
    ) -> Self {
        self.calls.push(ToolCall { id: id.into(), name: name.into(), arguments });
        self
    }

    /// With what else is kept.
    pub fn with_metadata(mut self, metadata: serde_json::Value) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// What it costs: text, name, and names and arguments of calls by the estimator, and four for
    /// the message and for each call.
    pub fn tokens(&self, estimator: &dyn Estimator) -> u32 {
        let name = self.name.as_deref().map_or(0, |name| estimator.tokens(name));
        let own = OVERHEAD.saturating_add(estimator.tokens(&self.text)).saturating_add(name);
        self.calls.iter().fold(own, |all, call| {
            let arguments = estimator.tokens(&call.arguments.to_string());
            let call = OVERHEAD.saturating_add(estimator.tokens(&call.name));
            all.saturating_add(call).saturating_add(arguments)
        })
    }

    /// Checked, counted and encoded.
    pub(super) fn item(&self, estimator: &dyn Estimator) -> Result<Item> {
        let wrong = |why: &str| Err(Error::misuse("sessions.conversation_append", why));
        if self.calls.len() > CALLS_MAX {
            return wrong("a message calls more than 128 tools");
        }
        if self.answers.is_some() && !self.calls.is_empty() {
            return wrong("a message that answers a call makes none");
        }
        let ids = self.calls.iter().map(|call| &call.id).chain(&self.answers);
        if ids.clone().any(String::is_empty) {
            return wrong("the id of a call is empty");
        }
        let stored = Stored { message: Cow::Borrowed(self) };
        let body = codec::encode(Codec::MessagePack, &stored)?;
        if body.len() > MESSAGE_MAX_BYTES {
            return wrong("a message is longer than a MiB");
        }
        Ok(Item {
            tokens: self.tokens(estimator),
            calls: self.calls.iter().map(|call| link(&call.id)).collect(),
            answers: self.answers.as_deref().map(link),
            body,
        })
    }
}

/// What is stored of a message: a map, so that something may stand beside it one day.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    #[serde(rename = "m")]
    message: Cow<'a, Message>,
}

pub(super) fn said(kept: &Kept) -> Result<Said> {
    let stored: Stored<'_> = codec::decode(&kept.body)?;
    let message = stored.message.into_owned();
    Ok(Said { sequence: kept.sequence, tokens: kept.tokens, message })
}

/// Eight bytes that are the same for the same id, for ever.
fn link(id: &str) -> Link {
    let hash = Sha256::digest(id);
    let mut link = Link::default();
    link.copy_from_slice(&hash[..8]);
    link
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversations::estimate::Bytes;
    use serde_json::json;

    #[test]
    fn what_is_stored_comes_back_and_never_changes() {
        let message = Message::assistant("ja 🦀")
            .with_name("n")
            .with_call("c", "f", json!({"a": [1, null, -2.5]}))
            .with_metadata(json!("x"));
        let item = message.item(&Bytes).expect("an item");
        let kept = Kept { sequence: 1, tokens: item.tokens, body: item.body };
        assert_eq!(said(&kept).expect("a message").message, message);
        // Fixed for ever: what an older version wrote must be read.
        let body = Message::user("hi").item(&Bytes).expect("an item").body;
        assert_eq!(body[5..], *b"\x81\xa1m\x82\xa4role\xa4user\xa4text\xa2hi");
        assert_eq!(link("call_1"), [0x74, 0x19, 0x6f, 0xe7, 0x2e, 0x4c, 0xdc, 0x13]);
    }

    #[test]
    fn what_is_wrong_is_not_sent() {
        let call = |id: &str| Message::assistant("").with_call(id, "f", json!(null));
        let mut both = call("a");
        both.answers = Some("b".into());
        let many = (0..=CALLS_MAX).fold(Message::assistant(""), |message, n| {
            message.with_call(n.to_string(), "f", json!(null))
        });
        let long = Message::user("x".repeat(MESSAGE_MAX_BYTES));
        for wrong in [call(""), Message::tool("", "x"), both, many, long] {
            assert!(wrong.item(&Bytes).is_err());
        }
    }

    #[test]
    fn roles_are_words() {
        for word in ["system", "user", "assistant", "tool", "developer"] {
            assert_eq!(Role::from(word).as_str(), word);
            assert_eq!(serde_json::to_value(Role::from(word)).expect("a word"), word);
        }
        assert_eq!(Role::from("tool"), Role::Tool);
    }
}
