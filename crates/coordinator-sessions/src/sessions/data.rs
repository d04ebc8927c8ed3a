//! What a session keeps: named values, written one by one.

use crate::{
    backend::Fields,
    token::Id,
    vault::{self, KeyRing},
};
use coordinator_core::{
    Error, Result,
    codec::{self, Codec},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The longest name of a field in bytes.
const FIELD_MAX_BYTES: usize = 256;

/// Codec byte, checksum and payload.
pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    codec::encode(Codec::MessagePack, value)
}

pub(super) fn check_field(field: &str) -> Result<()> {
    if field.is_empty() || field.len() > FIELD_MAX_BYTES {
        let why = format!("the name of a field has 1 to {FIELD_MAX_BYTES} bytes");
        return Err(Error::misuse("sessions.field", why));
    }
    Ok(())
}

/// How the values of one session are stored: as they are, or encrypted.
#[derive(Debug, Clone)]
pub(crate) struct Seal {
    id: Id,
    ring: Option<Arc<KeyRing>>,
}

impl Seal {
    pub(super) fn new(id: Id, ring: Option<Arc<KeyRing>>) -> Self {
        Self { id, ring }
    }

    pub(super) fn close(&self, field: &str, value: &[u8]) -> Result<Vec<u8>> {
        match &self.ring {
            Some(ring) => ring.close(&self.id, field, value),
            None => Ok(value.to_vec()),
        }
    }

    /// Reads what is encrypted and, while sessions are being encrypted, what is not yet.
    pub(super) fn open(&self, field: &str, stored: &[u8]) -> Result<Vec<u8>> {
        match &self.ring {
            Some(ring) if vault::is_sealed(stored) => ring.open(&self.id, field, stored),
            None if vault::is_sealed(stored) => {
                Err(Error::misuse("sessions.decrypt", "the session is encrypted: give it its keys"))
            }
            _ => Ok(stored.to_vec()),
        }
    }
}

/// The values of a session by name, as [`Sessions::update`](crate::Sessions::update) lends them:
/// what is set and removed here is written, and nothing else.
#[derive(Debug, Clone)]
pub struct Data {
    stored: BTreeMap<String, Vec<u8>>,
    /// Not encrypted yet.
    set: BTreeMap<String, Vec<u8>>,
    removed: BTreeSet<String>,
    seal: Seal,
}

impl Data {
    pub(crate) fn new(fields: Fields, seal: Seal) -> Self {
        let stored = fields.into_iter().collect();
        Self { stored, set: BTreeMap::new(), removed: BTreeSet::new(), seal }
    }

    /// A value, in the shape in which it was set.
    ///
    /// # Errors
    /// [`Corrupt`](coordinator_core::ErrorKind::Corrupt) if it has another shape, or is not what
    /// was written.
    pub fn get<T: DeserializeOwned>(&self, field: &str) -> Result<Option<T>> {
        self.bytes(field)?.map(|bytes| codec::decode(&bytes)).transpose()
    }

    /// A value as it is encoded.
    pub(crate) fn bytes(&self, field: &str) -> Result<Option<Vec<u8>>> {
        if let Some(value) = self.set.get(field) {
            return Ok(Some(value.clone()));
        }
        if self.removed.contains(field) {
            return Ok(None);
        }
        self.stored.get(field).map(|stored| self.seal.open(field, stored)).transpose()
    }

    /// Sets a value.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) if it cannot be serialized or is too long,
    /// or the name is empty or longer than 256 bytes.
    pub fn set<T: Serialize + ?Sized>(&mut self, field: &str, value: &T) -> Result<()> {
        let value = encode(value)?;
        self.set_bytes(field, value)
    }

    pub(crate) fn set_bytes(&mut self, field: &str, value: Vec<u8>) -> Result<()> {
        check_field(field)?;
        self.removed.remove(field);
        if self.stored.contains_key(field) && self.bytes(field)?.as_ref() == Some(&value) {
            // It is what it was: there is nothing to write.
            self.set.remove(field);
            return Ok(());
        }
        self.set.insert(field.to_owned(), value);
        Ok(())
    }

    /// Removes a value.
    pub fn remove(&mut self, field: &str) {
        self.set.remove(field);
        if self.stored.contains_key(field) {
            self.removed.insert(field.to_owned());
        }
    }

    /// The names of all values, in order.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        let stored = self.stored.keys().filter(|field| !self.removed.contains(*field));
        let all: BTreeSet<&str> = stored.chain(self.set.keys()).map(String::as_str).collect();
        all.into_iter()
    }

    /// What is to be written, and what to be removed.
    pub(super) fn changes(&self) -> Result<(Fields, Vec<String>)> {
        let set = self
            .set
            .iter()
            .map(|(field, value)| Ok((field.clone(), self.seal.close(field, value)?)));
        Ok((set.collect::<Result<_>>()?, self.removed.iter().cloned().collect()))
    }
}
