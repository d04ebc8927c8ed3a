//! A store for the crate [tower-sessions](https://docs.rs/tower-sessions): whoever has its layer
//! and its handlers can keep them. What this crate's own [`sessions`](crate::sessions) promise
//! beyond that, it cannot.

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use coordinator::{
    Error, ErrorKind,
    clock::{Clock, SystemClock},
    sessions::{Documents, Namespace, Put},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::{collections::HashMap, fmt, sync::Arc, time::Duration};
use time::OffsetDateTime;
use tower_sessions_core::{
    SessionStore,
    session::{Id, Record},
    session_store,
};

/// How often a new record is given another id, should its own be taken.
const IDS: usize = 4;
/// How often a record is saved while others save it.
const ATTEMPTS: usize = 100;
/// The longest time to live of a document.
const LONGEST: Duration = Duration::from_hours(24 * 3660);

/// A `SessionStore` of tower-sessions, over [`Documents`]: Redis, Valkey or in process.
///
/// * `create` never takes the place of another record: it draws another id.
/// * `save` changes a record that is there. One that was deleted or has expired stays so, and the
///   save fails: a request that is in flight during a logout brings nothing back to life.
/// * `load` finds no record after its `expiry_date` or after `delete`; an outage is an error, never
///   `None`.
/// * What is stored has the SHA-256 of the id for a name, and the id nowhere: who reads the server
///   can impersonate nobody.
///
/// A record is one value to tower-sessions, which loads it, changes it and saves it whole: of two
/// requests that change different values of one session at the same time, the later save wins and
/// the other's change is lost. [`WebSession`](crate::sessions::WebSession) loses neither.
///
/// In a `CachingSessionStore` it is the store; it cannot be the cache, which is filled with `save`.
///
/// ```
/// use coordinator::sessions::Documents;
/// use coordinator_web::tower_sessions::TowerSessionStore;
///
/// let documents = Documents::embedded(); // or Documents::redis(&connection)
/// let store = TowerSessionStore::new(&documents);
/// // tower_sessions::SessionManagerLayer::new(store)
/// ```
#[derive(Clone)]
pub struct TowerSessionStore {
    records: Namespace,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for TowerSessionStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TowerSessionStore")
            .field("namespace", &self.records.name())
            .finish_non_exhaustive()
    }
}

/// A record as it is stored: without its id.
#[derive(Serialize, Deserialize)]
struct Stored {
    data: HashMap<String, Value>,
    expires_s: i64,
    expires_ns: u32,
}

/// When a stored record ends.
#[derive(Deserialize)]
struct Ends {
    expires_s: i64,
    expires_ns: u32,
}

impl Ends {
    fn at(&self) -> session_store::Result<OffsetDateTime> {
        OffsetDateTime::from_unix_timestamp(self.expires_s)
            .and_then(|second| second.replace_nanosecond(self.expires_ns))
            .map_err(|error| session_store::Error::Decode(error.to_string()))
    }
}

impl TowerSessionStore {
    /// The namespace of [`new`](Self::new).
    pub const NAMESPACE: &'static str = "tower-sessions";

    /// A store in the namespace `tower-sessions`.
    pub fn new(documents: &Documents) -> Self {
        Self::in_namespace(records(documents))
    }

    /// A store in a namespace of its own, where several services share a server.
    pub fn in_namespace(records: Namespace) -> Self {
        Self { records, clock: Arc::new(SystemClock) }
    }

    /// Another clock, for tests: its wall clock says when an `expiry_date` has come.
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// How long it is until then; nothing if that was before.
    fn left(&self, expiry: OffsetDateTime) -> Duration {
        let now = i128::try_from(self.clock.unix_time().as_nanos()).unwrap_or(i128::MAX);
        let left = expiry.unix_timestamp_nanos().saturating_sub(now);
        Duration::from_nanos(u64::try_from(left.max(0)).unwrap_or(u64::MAX))
    }

    /// Never quite nothing: what is written with an end that has passed is there, and is not found.
    fn ttl(&self, record: &Record) -> Duration {
        self.left(record.expiry_date).clamp(Duration::from_millis(1), LONGEST)
    }
}

fn records(documents: &Documents) -> Namespace {
    documents.namespace(TowerSessionStore::NAMESPACE).expect("a short name")
}

fn name(id: &Id) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(id.0.to_le_bytes()))
}

fn stored(record: &Record) -> Stored {
    Stored {
        data: record.data.clone(),
        expires_s: record.expiry_date.unix_timestamp(),
        expires_ns: record.expiry_date.nanosecond(),
    }
}

fn told(error: &Error) -> session_store::Error {
    match error.kind() {
        ErrorKind::Corrupt => session_store::Error::Decode(error.chain()),
        ErrorKind::Misuse => session_store::Error::Encode(error.chain()),
        _ => session_store::Error::Backend(error.chain()),
    }
}

fn failed(why: &str) -> session_store::Error {
    session_store::Error::Backend(why.to_owned())
}

#[async_trait]
impl SessionStore for TowerSessionStore {
    /// One round trip.
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        let value = stored(record);
        for _ in 0..IDS {
            let put = self.records.put(&name(&record.id), &value).if_absent();
            if put.with_ttl(self.ttl(record)).await.map_err(|error| told(&error))?.is_stored() {
                return Ok(());
            }
            record.id = Id::default();
        }
        Err(failed("no free id was found: the random numbers repeat"))
    }

    /// Two round trips. It fails if there is no such record.
    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let (name, value) = (name(&record.id), stored(record));
        for _ in 0..ATTEMPTS {
            let found = self.records.get::<Ends>(&name).await.map_err(|error| told(&error))?;
            let lives = match &found {
                Some(found) => !self.left(found.value.at()?).is_zero(),
                None => false,
            };
            let Some(found) = found.filter(|_| lives) else {
                return Err(failed("the session has ended: nothing was saved"));
            };
            let put = self.records.put(&name, &value).if_version(found.version);
            match put.with_ttl(self.ttl(record)).await.map_err(|error| told(&error))? {
                // Another saved it, or deleted it: that has to be seen first.
                Put::Conflict { .. } => {}
                _ => return Ok(()),
            }
        }
        Err(failed("others save the session again and again: nothing was saved"))
    }

    /// One round trip.
    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let found = self.records.get::<Stored>(&name(id)).await.map_err(|error| told(&error))?;
        let Some(found) = found else { return Ok(None) };
        let Stored { data, expires_s, expires_ns } = found.value;
        let expiry_date = Ends { expires_s, expires_ns }.at()?;
        let lives = !self.left(expiry_date).is_zero();
        Ok(lives.then_some(Record { id: *id, data, expiry_date }))
    }

    /// One round trip.
    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        self.records.delete(&name(id)).await.map_err(|error| told(&error))?;
        Ok(())
    }
}
