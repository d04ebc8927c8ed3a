//! Changes of what a session keeps: field by field without looking, or by compare-and-set.

use super::{
    Data, Lookup, Sessions,
    data::{Seal, check_field},
    from_ms, in_ms,
    new::checked_timeouts,
};
use crate::{
    backend::{self, FIELDS_MAX, Fields, Patched, Place},
    token::{Digest, Token, fill},
};
use coordinator_core::{Error, ErrorKind, Result};
use rand::RngExt as _;
use serde::Serialize;
use std::{collections::BTreeMap, ops::ControlFlow, time::Duration};

/// How often an update is tried while others change the session.
const ATTEMPTS: u32 = 100;
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Fields to set and to remove, whatever the session has besides.
///
/// ```
/// use coordinator_sessions::Patch;
///
/// let patch = Patch::new().set("cart", &["pear"])?.remove("draft");
/// # Ok::<(), coordinator_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Patch {
    /// Encoded, or to be removed.
    fields: BTreeMap<String, Option<Vec<u8>>>,
}

impl Patch {
    /// Changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a field.
    ///
    /// # Errors
    /// As [`Data::set`].
    pub fn set<T: Serialize + ?Sized>(mut self, field: &str, value: &T) -> Result<Self> {
        check_field(field)?;
        self.fields.insert(field.to_owned(), Some(super::data::encode(value)?));
        Ok(self)
    }

    /// Removes a field; one that is not there is none the less.
    pub fn remove(mut self, field: &str) -> Self {
        self.fields.insert(field.to_owned(), None);
        self
    }
}

/// What changing a session that lives came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Updated {
    /// It is changed.
    Done {
        /// Which version it has now.
        version: u64,
        /// How long it has to live, if it is not used any more.
        expires_in: Duration,
    },
    /// There was nothing to change.
    Unchanged,
    /// Others changed it again and again: nothing was changed.
    Conflict {
        /// Which version it had at last.
        version: u64,
    },
    /// Its data is of a version that this program does not know yet, and was left alone; told by
    /// [`TypedSessions::update`](crate::TypedSessions::update) alone.
    Newer {
        /// The version of its data.
        schema: u32,
    },
}

impl Sessions {
    /// Sets and removes fields, and leaves all others as they are: changes of different fields by
    /// different callers all survive; of the same field, the last one does.
    ///
    /// One round trip, without reading. It counts as activity, also where there is nothing to
    /// change. A call sends its change once; should the network deliver it a second time, that
    /// changes nothing, unless others wrote in between: then it is written again, over what they
    /// wrote to the same fields, as any other late change is.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`Misuse`](ErrorKind::Misuse) if the session would have more than
    /// 1000 fields, and nothing is changed then.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the change is made; it is made wholly or not.
    pub async fn patch(&self, token: &Token, patch: Patch) -> Result<Lookup<Updated>> {
        if patch.fields.is_empty() {
            let throttle = Some(self.options.throttle_ms());
            return Ok(self.look(token, throttle).await?.map(|_| Updated::Unchanged));
        }
        let (set, removed): (Vec<_>, Vec<_>) =
            patch.fields.into_iter().partition(|(_, value)| value.is_some());
        let removed = removed.into_iter().map(|(field, _)| field).collect();
        let seal = Seal::new(token.place().id, self.options.ring.clone());
        let set = set.into_iter().map(|(field, value)| {
            let value = seal.close(&field, &value.unwrap_or_default())?;
            Ok((field, value))
        });
        let change = self.change(set.collect::<Result<_>>()?, removed)?;
        self.write(token, &change).await
    }

    /// Reads a session, has `update` change it, and writes what it changed if nobody else changed
    /// the session meanwhile; otherwise once more, with what the other left. So no change is lost,
    /// of whatever field.
    ///
    /// `update` may be called many times. When it fails, nothing is written.
    ///
    /// # Errors
    /// As [`patch`](Self::patch), and what `update` fails with.
    ///
    /// # Cancel safety
    /// As [`patch`](Self::patch).
    ///
    /// # Examples
    /// ```
    /// # use coordinator_sessions::{NewSession, Sessions};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let sessions = Sessions::embedded();
    /// # let session = sessions.create(NewSession::user("ann")).await?.session()?;
    /// # let token = session.token().expect("a token");
    /// let updated = sessions
    ///     .update(token, |data| {
    ///         let visits = data.get::<u64>("visits")?.unwrap_or(0);
    ///         data.set("visits", &(visits + 1))
    ///     })
    ///     .await?;
    /// assert!(updated.is_live());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn update(
        &self,
        token: &Token,
        mut update: impl FnMut(&mut Data) -> Result<()>,
    ) -> Result<Lookup<Updated>> {
        let change = |_, data: &mut Data| update(data).map(|()| ControlFlow::Continue(None));
        self.update_with_schema(token, change).await
    }

    /// The same by the version of the data: `update` says which one to write along, or what comes
    /// of it instead of a change.
    pub(super) async fn update_with_schema(
        &self,
        token: &Token,
        mut update: impl FnMut(u32, &mut Data) -> Result<ControlFlow<Updated, Option<u32>>>,
    ) -> Result<Lookup<Updated>> {
        let turn = token.place().id.bytes()[0] % 64;
        let _turn = self.inner.turns[usize::from(turn)].lock().await;
        let mut version = 0;
        for attempt in 0..ATTEMPTS {
            let found = self.peek(token).await?;
            let Lookup::Live(session) = found else { return Ok(found.gone()) };
            let mut data = session.data().clone();
            let schema = match update(session.schema(), &mut data)? {
                ControlFlow::Continue(schema) => schema,
                ControlFlow::Break(outcome) => return Ok(Lookup::Live(outcome)),
            };
            let (set, removed) = data.changes()?;
            if set.is_empty() && removed.is_empty() {
                return Ok(Lookup::Live(Updated::Unchanged));
            }
            let mut change = self.change(set, removed)?;
            change.version = Some(session.version());
            change.schema = schema.filter(|schema| *schema != session.schema());
            let written = self.write(token, &change).await?;
            let Lookup::Live(Updated::Conflict { version: other }) = written else {
                return Ok(written);
            };
            version = other;
            let most = PAUSE_MAX.min(Duration::from_millis(1 << attempt.min(10)));
            let pause = most.mul_f64(rand::rng().random());
            self.clock().sleep(pause).await;
        }
        Ok(Lookup::Live(Updated::Conflict { version }))
    }

    fn change(&self, set: Fields, removed: Vec<String>) -> Result<backend::Patch> {
        let mut token = [0; 8];
        fill(&mut token)?;
        let announced = self.options.announces_updates;
        Ok(backend::Patch { token, version: None, schema: None, set, removed, announced })
    }

    async fn write(&self, token: &Token, change: &backend::Patch) -> Result<Lookup<Updated>> {
        if change.set.len() + change.removed.len() > 2 * FIELDS_MAX {
            let why = format!("a change of more than {} fields", 2 * FIELDS_MAX);
            return Err(Error::misuse("sessions.patch", why));
        }
        let (backend, throttle) = (&self.inner.backend, self.options.throttle_ms());
        let found = self
            .follow(token, |place: Place, digest: Digest| {
                Box::pin(async move { backend.patch(place, &digest, throttle, change).await })
            })
            .await;
        self.inner.local.forget(token);
        let found = found?.0;
        let Lookup::Live(patched) = found else { return Ok(found.gone()) };
        match patched {
            Patched::Done(written) => Ok(Lookup::Live(Updated::Done {
                version: written.version,
                expires_in: from_ms(written.expiry - written.now),
            })),
            Patched::Conflict { version } => Ok(Lookup::Live(Updated::Conflict { version })),
            Patched::TooMany { fields } => Err(Error::new(ErrorKind::Misuse, "sessions.patch")
                .with_source(format!("{fields} fields are more than {FIELDS_MAX}"))),
        }
    }

    /// Gives a session other timeouts: the idle one from now on, the absolute one counted from its
    /// creation; `None` keeps one as it is. One whose time is over by these expires.
    ///
    /// A session whose life was shortened is remembered after its end for as long as it could have
    /// lived before: no copy from then revives it.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`Misuse`](ErrorKind::Misuse) for a timeout that cannot be.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it has them.
    pub async fn extend(
        &self,
        token: &Token,
        idle: Option<Duration>,
        absolute: Option<Duration>,
    ) -> Result<Lookup<Duration>> {
        checked_timeouts(
            idle.unwrap_or(Duration::from_millis(1)),
            absolute.or(idle).unwrap_or(Duration::from_millis(1)),
        )?;
        let (backend, throttle) = (&self.inner.backend, self.options.throttle_ms());
        let (idle, absolute) = (idle.map(in_ms), absolute.map(in_ms));
        let found = self
            .follow(token, |place, digest| {
                Box::pin(
                    async move { backend.extend(place, &digest, throttle, idle, absolute).await },
                )
            })
            .await;
        self.inner.local.forget(token);
        Ok(found?.0.map(|written| from_ms(written.expiry - written.now)))
    }
}
