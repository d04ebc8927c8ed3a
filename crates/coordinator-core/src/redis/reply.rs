//! What a script answers, in our own terms.

use crate::{Error, Result};
use bytes::Bytes;
use fred::types::Value;

/// What a script answered.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Reply {
    /// A whole number.
    Int(i64),
    /// A text or bytes.
    Bytes(Bytes),
    /// Nothing.
    Nil,
    /// Several answers.
    Array(Vec<Reply>),
}

impl Reply {
    pub(super) fn from_value(step: &'static str, value: Value) -> Result<Self> {
        Ok(match value {
            Value::Integer(number) => Self::Int(number),
            Value::Boolean(truth) => Self::Int(truth.into()),
            Value::Bytes(bytes) => Self::Bytes(bytes),
            Value::String(text) => Self::Bytes(text.into_inner()),
            Value::Null => Self::Nil,
            Value::Array(values) => Self::Array(
                values
                    .into_iter()
                    .map(|value| Self::from_value(step, value))
                    .collect::<Result<_>>()?,
            ),
            _ => return Err(Error::corrupt(step, "an answer of an unexpected type")),
        })
    }

    /// Checks the law that keeps replies apart from pub/sub messages and redirections: an integer,
    /// a text that begins with a digit, or an array that begins with an integer.
    pub(super) fn leads_with_number(&self) -> bool {
        match self {
            Self::Int(_) => true,
            Self::Bytes(text) => text.first().is_some_and(u8::is_ascii_digit),
            Self::Array(items) => matches!(items.first(), Some(Self::Int(_))),
            Self::Nil => false,
        }
    }

    /// Reads the answer field by field; what is no array reads as one field.
    pub fn fields(self, step: &'static str) -> Fields {
        let items = match self {
            Self::Array(items) => items,
            single => vec![single],
        };
        Fields { step, items: items.into_iter() }
    }
}

/// Reads a script's answer field by field; a wrong shape is
/// [`Corrupt`](crate::ErrorKind::Corrupt).
#[derive(Debug)]
pub struct Fields {
    step: &'static str,
    items: std::vec::IntoIter<Reply>,
}

impl Fields {
    fn wrong(&self, expected: &str) -> Error {
        Error::corrupt(self.step, format!("{expected} was expected in the answer"))
    }

    /// The next field, a whole number.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is none or missing.
    pub fn int(&mut self) -> Result<i64> {
        match self.items.next() {
            Some(Reply::Int(number)) => Ok(number),
            _ => Err(self.wrong("a number")),
        }
    }

    /// The next field, a whole number that is not negative.
    ///
    /// # Errors
    /// As [`int`](Self::int).
    pub fn unsigned(&mut self) -> Result<u64> {
        u64::try_from(self.int()?).map_err(|_| self.wrong("a number of zero or more"))
    }

    /// The next field, bytes.
    ///
    /// # Errors
    /// As [`int`](Self::int).
    pub fn bytes(&mut self) -> Result<Bytes> {
        match self.items.next() {
            Some(Reply::Bytes(bytes)) => Ok(bytes),
            _ => Err(self.wrong("bytes")),
        }
    }

    /// The next field, text.
    ///
    /// # Errors
    /// As [`int`](Self::int).
    pub fn text(&mut self) -> Result<String> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes.into()).map_err(|_| self.wrong("text"))
    }

    /// The next field, an array, to be read field by field.
    ///
    /// # Errors
    /// As [`int`](Self::int).
    pub fn array(&mut self) -> Result<Fields> {
        match self.items.next() {
            Some(Reply::Array(items)) => Ok(Fields { step: self.step, items: items.into_iter() }),
            _ => Err(self.wrong("an array")),
        }
    }

    /// Whether every field was read.
    pub fn is_empty(&self) -> bool {
        self.items.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_order_and_shapes_are_checked() {
        let reply = Reply::Array(vec![
            Reply::Int(1),
            Reply::Bytes("x".into()),
            Reply::Array(vec![Reply::Int(-2)]),
        ]);
        assert!(reply.leads_with_number());
        let mut fields = reply.fields("test");
        assert_eq!(fields.unsigned().expect("a number"), 1);
        assert_eq!(fields.text().expect("text"), "x");
        assert!(fields.array().expect("an array").unsigned().is_err());
        assert!(fields.is_empty());
        assert!(fields.int().is_err());
    }

    #[test]
    fn an_answer_that_leads_with_text_is_no_answer() {
        assert!(Reply::Bytes("1-message".into()).leads_with_number());
        assert!(!Reply::Bytes("message".into()).leads_with_number());
        assert!(!Reply::Bytes(Bytes::new()).leads_with_number());
        assert!(!Reply::Array(vec![Reply::Bytes("message".into())]).leads_with_number());
        assert!(!Reply::Nil.leads_with_number());
    }
}
