//! Small named values that stand beside the messages: context, focus, stats.

use super::backend::Edit;
use coordinator_core::{
    Error, Result,
    codec::{self, Codec},
    key::Name,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fmt, time::Duration};

/// The longest value of a field in bytes, as it is stored.
pub const FIELD_MAX_BYTES: usize = 64 * 1024;
/// How many fields one edit sets and removes at most.
pub const EDIT_MAX: usize = 64;

const STEP: &str = "sessions.conversation_edit";

/// Which fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Section {
    /// What the model is to know: locale, place, preferences.
    Context,
    /// What it is about right now.
    Focus,
    /// What the caller counts.
    Stats,
}

impl Section {
    fn letter(self) -> char {
        match self {
            Self::Context => 'c',
            Self::Focus => 'f',
            Self::Stats => 'n',
        }
    }

    pub(super) fn field(self, name: &str) -> Result<String> {
        Ok(format!("{}:{}", self.letter(), Name::new(name)?.encoded()))
    }
}

/// Fields to set and to remove, in one step; all others stay as they are.
///
/// ```
/// use coordinator_sessions::conversations::{FieldEdit, Section};
///
/// let edit = FieldEdit::new()
///     .set(Section::Context, "locale", &"de-AT")
///     .set(Section::Stats, "turns", &7)
///     .remove(Section::Focus, "draft");
/// ```
#[derive(Debug, Default)]
pub struct FieldEdit {
    /// By field: its new value, or none.
    changes: BTreeMap<String, Option<Vec<u8>>>,
    wrong: Option<Error>,
}

impl FieldEdit {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a field. A value that cannot be serialized, or is longer than [`FIELD_MAX_BYTES`], is
    /// told by [`Conversation::edit`](super::Conversation::edit).
    pub fn set<T: Serialize + ?Sized>(self, section: Section, name: &str, value: &T) -> Self {
        let stored = codec::encode(Codec::MessagePack, value).and_then(|stored| {
            if stored.len() > FIELD_MAX_BYTES {
                return Err(Error::misuse(
                    STEP,
                    format!("a field is longer than {FIELD_MAX_BYTES}"),
                ));
            }
            Ok(Some(stored))
        });
        self.with(section.field(name), stored)
    }

    /// Removes a field.
    pub fn remove(self, section: Section, name: &str) -> Self {
        self.with(section.field(name), Ok(None))
    }

    fn with(mut self, field: Result<String>, change: Result<Option<Vec<u8>>>) -> Self {
        match field.and_then(|field| Ok((field, change?))) {
            Ok((field, change)) => drop(self.changes.insert(field, change)),
            Err(error) => self.wrong = self.wrong.or(Some(error)),
        }
        self
    }

    pub(super) fn checked(self, ttl: Duration) -> Result<Edit> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        if self.changes.len() > EDIT_MAX {
            return Err(Error::misuse(
                STEP,
                format!("an edit changes more than {EDIT_MAX} fields"),
            ));
        }
        let mut edit = Edit { set: Vec::new(), remove: Vec::new(), ttl };
        for (field, change) in self.changes {
            match change {
                Some(value) => edit.set.push((field, value)),
                None => edit.remove.push(field),
            }
        }
        Ok(edit)
    }
}

/// The fields of a section, by name.
#[derive(Clone, Default, PartialEq)]
pub struct Fields {
    values: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

impl Fields {
    pub(super) fn of(section: Section, all: &[(String, Vec<u8>)]) -> Result<Self> {
        let mut values = BTreeMap::new();
        for (field, value) in all {
            if let Some((letter, name)) = field.split_once(':')
                && letter.chars().eq([section.letter()])
            {
                values.insert(Name::decode(name)?.as_str().to_owned(), value.clone());
            }
        }
        Ok(Self { values })
    }

    /// Its names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// A field's value; `None` if there is no such field.
    ///
    /// # Errors
    /// [`Corrupt`](coordinator_core::ErrorKind::Corrupt) if it is damaged or of another shape.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        self.values.get(name).map(|stored| codec::decode(stored)).transpose()
    }
}
