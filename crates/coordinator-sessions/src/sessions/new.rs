//! New sessions: whose they are, what is in them, and how many there may be.

use super::{
    Session,
    data::Seal,
    in_ms,
    options::{ABSOLUTE_MAX, Options},
};
use crate::backend::{Crowded, FIELDS_MAX, Fields, Names, New, Origin, Place, Record, Written};
use coordinator_core::{Error, ErrorKind, Result, key::Name};
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};

/// What becomes of one session more than a user may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CapPolicy {
    /// It is not created: [`Created::Full`].
    Reject,
    /// The user's oldest session is ended for it.
    EvictOldest,
    /// The session of the user that was not used for the longest time is ended for it.
    EvictLeastRecent,
}

impl From<CapPolicy> for Crowded {
    fn from(policy: CapPolicy) -> Self {
        match policy {
            CapPolicy::Reject => Self::Refuse,
            CapPolicy::EvictOldest => Self::Oldest,
            CapPolicy::EvictLeastRecent => Self::LeastRecent,
        }
    }
}

/// What creating a session came to.
#[derive(Debug)]
#[non_exhaustive]
pub enum Created {
    /// It lives, and has its token with it.
    Session(Box<Session>),
    /// Its user has as many sessions as may be, and the policy is to refuse.
    Full {
        /// How many live.
        live: u64,
    },
}

impl Created {
    /// The session, for callers to whom a refusal is an error.
    ///
    /// # Errors
    /// [`Rejected`](ErrorKind::Rejected) if its user has as many sessions as may be.
    pub fn session(self) -> Result<Session> {
        match self {
            Self::Session(session) => Ok(*session),
            Self::Full { live } => Err(Error::new(ErrorKind::Rejected, "sessions.create")
                .with_source(format!("the user has {live} sessions already"))),
        }
    }
}

/// A session to create.
///
/// ```
/// use coordinator_sessions::NewSession;
/// use std::time::Duration;
///
/// let new = NewSession::user("ann")
///     .company("acme")
///     .crew("night")
///     .set("theme", &"dark")?
///     .with_idle_timeout(Duration::from_secs(600));
/// # Ok::<(), coordinator_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct NewSession {
    user: Option<String>,
    company: Option<String>,
    crew: Option<String>,
    values: BTreeMap<String, Vec<u8>>,
    pub(super) schema: u32,
    pub(super) replaces: Option<Place>,
    idle: Option<Duration>,
    absolute: Option<Duration>,
}

impl NewSession {
    /// The field that [`metadata`](Self::metadata) writes.
    pub const METADATA: &'static str = "metadata";

    /// A session of a user.
    pub fn user(user: &str) -> Self {
        Self { user: Some(user.to_owned()), ..Self::default() }
    }

    /// A session of nobody yet: [`Sessions::login`](crate::Sessions::login) takes it over.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// The company that the user is of.
    pub fn company(mut self, company: &str) -> Self {
        self.company = Some(company.to_owned());
        self
    }

    /// The crew that the user is of.
    pub fn crew(mut self, crew: &str) -> Self {
        self.crew = Some(crew.to_owned());
        self
    }

    /// What else is known: an address, a device. It is the field [`METADATA`](Self::METADATA).
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn metadata<T: Serialize + ?Sized>(self, metadata: &T) -> Result<Self> {
        self.set(Self::METADATA, metadata)
    }

    /// A field.
    ///
    /// # Errors
    /// [`Misuse`](ErrorKind::Misuse) if the value cannot be serialized or is too long.
    pub fn set<T: Serialize + ?Sized>(mut self, field: &str, value: &T) -> Result<Self> {
        self.values.insert(field.to_owned(), super::data::encode(value)?);
        Ok(self)
    }

    /// Takes over what another session keeps, if that is nobody's or the same user's; what is set
    /// here goes before it. So a login can begin a new session, which no token from before it leads
    /// to, and lose nothing.
    ///
    /// ```
    /// # use coordinator_sessions::{NewSession, Sessions};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let sessions = Sessions::embedded();
    /// let guest = NewSession::anonymous().set("cart", &["pear"])?;
    /// let guest = sessions.create(guest).await?.session()?;
    /// let ann = NewSession::user("ann").carry_over(&guest)?;
    /// let ann = sessions.create(ann).await?.session()?;
    /// assert_eq!(ann.get::<Vec<String>>("cart")?, Some(vec!["pear".to_owned()]));
    ///
    /// let bob = sessions.create(NewSession::user("bob").carry_over(&ann)?).await?.session()?;
    /// assert_eq!(bob.get::<Vec<String>>("cart")?, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) if what is stored is not what was written,
    /// [`Misuse`](ErrorKind::Misuse) without the keys that it was encrypted with.
    pub fn carry_over(mut self, before: &Session) -> Result<Self> {
        let (user, company) = (self.user.as_deref(), self.company.as_deref());
        if before.user().is_some() && (before.user(), before.company()) != (user, company) {
            return Ok(self);
        }
        for field in before.data().fields() {
            if !self.values.contains_key(field)
                && let Some(value) = before.data().bytes(field)?
            {
                self.values.insert(field.to_owned(), value);
            }
        }
        self.schema = self.schema.max(before.schema());
        Ok(self)
    }

    /// Ends a session of the same user in the step that creates this one, reason `replaced`: so it
    /// does not count towards the [cap](crate::Sessions::with_cap), and no other has to go for it.
    /// If this one is refused, it lives on.
    ///
    /// One of somebody else does not count anyway, and lives on unless it is
    /// [ended](crate::Sessions::invalidate); [`Sessions::login`](crate::Sessions::login) does both.
    pub fn replacing(mut self, before: &Session) -> Self {
        self.replaces = Some(before.place);
        self
    }

    /// The version of its data; see [`SessionData`](crate::SessionData).
    pub(crate) fn with_schema(mut self, schema: u32) -> Self {
        self.schema = schema;
        self
    }

    pub(crate) fn with_values(mut self, values: BTreeMap<String, Vec<u8>>) -> Self {
        self.values.extend(values);
        self
    }

    /// Another idle timeout than that of all.
    pub fn with_idle_timeout(mut self, idle: Duration) -> Self {
        self.idle = Some(idle);
        self
    }

    /// Another absolute timeout than that of all.
    pub fn with_absolute_timeout(mut self, absolute: Duration) -> Self {
        self.absolute = Some(absolute);
        self
    }

    pub(super) fn names(&self) -> Result<Names> {
        Ok(Names {
            user: encoded(self.user.as_deref())?,
            company: encoded(self.company.as_deref())?,
            crew: encoded(self.crew.as_deref())?,
        })
    }

    /// Idle and absolute timeout in ms.
    pub(super) fn timeouts(&self, options: &Options) -> Result<(i64, i64)> {
        let idle = self.idle.unwrap_or(options.idle);
        let absolute = match self.absolute {
            Some(absolute) => absolute,
            None => options.absolute.max(idle),
        };
        checked_timeouts(idle, absolute)
    }

    pub(super) fn fields(&self, seal: &Seal) -> Result<Fields> {
        if self.values.len() > FIELDS_MAX {
            let why = format!("a session has at most {FIELDS_MAX} fields");
            return Err(Error::misuse("sessions.create", why));
        }
        let sealed = self.values.iter().map(|(field, value)| {
            super::data::check_field(field)?;
            Ok((field.clone(), seal.close(field, value)?))
        });
        sealed.collect()
    }
}

/// In whole ms, if they can be.
pub(super) fn checked_timeouts(idle: Duration, absolute: Duration) -> Result<(i64, i64)> {
    let misuse = |why: &str| Err(Error::misuse("sessions.timeouts", why));
    if idle.as_millis() == 0 {
        return misuse("the idle timeout is under a millisecond");
    }
    if absolute > ABSOLUTE_MAX {
        return misuse("the absolute timeout is over 400 days");
    }
    if absolute < idle {
        return misuse("the absolute timeout is shorter than the idle timeout");
    }
    Ok((in_ms(idle), in_ms(absolute)))
}

/// A name as it is stored; empty for none.
pub(super) fn encoded(name: Option<&str>) -> Result<String> {
    name.map_or(Ok(String::new()), |name| Ok(Name::new(name)?.encoded().to_owned()))
}

impl New {
    /// What was created, as a lookup would find it.
    pub(super) fn record(self, written: &Written) -> Record {
        let created = match self.origin {
            Origin::New => written.now,
            Origin::Arrives(before) | Origin::Restored(before, _) => before.created,
        };
        Record {
            version: written.version,
            created,
            last: written.now,
            expiry: written.expiry,
            now: written.now,
            idle_ms: self.idle_ms,
            absolute_ms: self.absolute_ms,
            of_user: 0,
            of_company: 0,
            schema: self.schema,
            checksum: self.names.checksum(),
            names: self.names,
            digest: self.digest,
            fields: self.fields,
        }
    }
}
