//! A session as it was found.

use super::{Data, NewSession, data::Seal, from_ms, options::Options};
use crate::{
    backend::{Place, Record},
    token::{Reference, Token},
};
use coordinator_core::{Error, Result, key::Name};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// A session as it was when it was found: a copy, which changes no more.
#[derive(Debug, Clone)]
pub struct Session {
    pub(crate) place: Place,
    token: Option<Token>,
    reference: Reference,
    user: Option<String>,
    company: Option<String>,
    crew: Option<String>,
    data: Data,
    version: u64,
    schema: u32,
    created_ms: i64,
    last_ms: i64,
    expiry_ms: i64,
    read_ms: i64,
    idle_ms: i64,
    absolute_ms: i64,
}

impl Session {
    pub(crate) fn new(
        options: &Options,
        place: Place,
        record: Record,
        token: Option<Token>,
    ) -> Result<Self> {
        if record.names.checksum() != record.checksum {
            let why = "the names of a session are not what was written";
            return Err(Error::corrupt("sessions.load", why));
        }
        let decoded = |name: &str| {
            let name = (!name.is_empty()).then(|| Name::decode(name)).transpose()?;
            Ok::<_, Error>(name.map(|name| name.as_str().to_owned()))
        };
        Ok(Self {
            place,
            token,
            reference: Reference::new(&options.reference_key, &place.id),
            user: decoded(&record.names.user)?,
            company: decoded(&record.names.company)?,
            crew: decoded(&record.names.crew)?,
            data: Data::new(record.fields, Seal::new(place.id, options.ring.clone())),
            version: record.version,
            schema: record.schema,
            created_ms: record.created,
            last_ms: record.last,
            expiry_ms: record.expiry,
            read_ms: record.now,
            idle_ms: record.idle_ms,
            absolute_ms: record.absolute_ms,
        })
    }

    /// The token to give to the client: of a new session, and where a rotation replaced the one
    /// that was asked with.
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// What the session is called in lists, logs and events.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Whose it is; `None`: nobody's yet.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The company that the user is of.
    pub fn company(&self) -> Option<&str> {
        self.company.as_deref()
    }

    /// The crew that the user is of.
    pub fn crew(&self) -> Option<&str> {
        self.crew.as_deref()
    }

    /// A value, in the shape in which it was set.
    ///
    /// # Errors
    /// As [`Data::get`].
    pub fn get<T: DeserializeOwned>(&self, field: &str) -> Result<Option<T>> {
        self.data.get(field)
    }

    /// What [`NewSession::metadata`] set.
    ///
    /// # Errors
    /// As [`Data::get`].
    pub fn metadata<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        self.data.get(NewSession::METADATA)
    }

    /// All values.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// Counts the changes, from 1.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The version of its data; see [`SessionData`](crate::SessionData).
    pub fn schema(&self) -> u32 {
        self.schema
    }

    /// When it was created, as time since the Unix epoch on the backend's clock.
    pub fn created_at(&self) -> Duration {
        from_ms(self.created_ms)
    }

    /// When it was last active, likewise, as it is written down: at most one throttle ago if it
    /// has been active since.
    pub fn last_activity(&self) -> Duration {
        from_ms(self.last_ms)
    }

    /// How long it had to live when it was found, if it is not used any more.
    pub fn expires_in(&self) -> Duration {
        from_ms(self.expiry_ms - self.read_ms)
    }

    /// Its idle timeout.
    pub fn idle_timeout(&self) -> Duration {
        from_ms(self.idle_ms)
    }

    /// Its absolute timeout.
    pub fn absolute_timeout(&self) -> Duration {
        from_ms(self.absolute_ms)
    }
}
