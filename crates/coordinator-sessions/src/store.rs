//! Where embedded state is kept: redb, in memory or in a file, and one way to change it.
//!
//! It offers what the scripts have on a server: values that expire, sets ordered by score, and
//! capped logs, in transactions that happen wholly or not at all. It knows nothing of sessions,
//! documents or conversations; nothing outside this crate sees it but as [`Store`].

mod blob;
mod tx;

pub(crate) use blob::Blob;
pub(crate) use tx::Tx;

use coordinator_core::{
    Error, ErrorKind, Result,
    clock::{Clock, SystemClock},
};
use redb::{Database, backends::InMemoryBackend};
use std::{fmt, path::Path, sync::Arc};
use tokio::sync::watch;

/// The layout of a file, written into it: a file of another layout is refused, not guessed at.
const LAYOUT: u64 = 1;

/// Where sessions, documents and conversations of one process are kept: in memory, or in a file
/// that survives a restart and a crash. Clones share it.
///
/// ```
/// use coordinator_sessions::{Documents, Sessions, Store};
///
/// let store = Store::memory(); // or Store::file("/var/lib/shop/state.redb")?
/// let sessions = Sessions::embedded_in(&store);
/// let documents = Documents::embedded_in(&store);
/// ```
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    clock: Arc<dyn Clock>,
}

struct Inner {
    database: Database,
    in_file: bool,
    /// Counts the changes, for those that wait for one.
    changes: watch::Sender<u64>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("in_file", &self.inner.in_file).finish_non_exhaustive()
    }
}

impl Store {
    /// In memory: gone with the last clone.
    ///
    /// # Panics
    /// Never: memory has no file that could be in the way.
    pub fn memory() -> Self {
        let backend = InMemoryBackend::new();
        let database = Database::builder().create_with_backend(backend);
        let store = Self::over(database.expect("an empty database in memory"), false);
        store.expect("its tables")
    }

    /// In a file, which is created if it is not there. Every acknowledged change is on disk.
    ///
    /// One process at a time opens a file.
    ///
    /// # Errors
    /// [`Misuse`](ErrorKind::Misuse) if it cannot be opened or created, also because another
    /// process has it open; [`Corrupt`](ErrorKind::Corrupt) if it is something else, or of a later
    /// version.
    pub fn file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let database = Database::create(path).map_err(|error| {
            use redb::DatabaseError as E;
            let why = format!("{}: {error}", path.display());
            match error {
                E::DatabaseAlreadyOpen | E::TransactionInProgress => {
                    Error::misuse("store.open", format!("{why}: close what has it open"))
                }
                E::Storage(redb::StorageError::Io(ref io))
                    if io.kind() != std::io::ErrorKind::InvalidData =>
                {
                    Error::misuse("store.open", why)
                }
                _ => Error::corrupt("store.open", why),
            }
        })?;
        Self::over(database, true)
    }

    /// On another clock, for tests: its wall clock decides what has expired.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    fn over(database: Database, in_file: bool) -> Result<Self> {
        let (changes, _) = watch::channel(0);
        let inner = Inner { database, in_file, changes };
        let store = Self { inner: Arc::new(inner), clock: Arc::new(SystemClock) };
        store.transact(|tx| match tx.layout()? {
            None => tx.set_layout(LAYOUT),
            Some(LAYOUT) => Ok(()),
            Some(other) => Err(Error::corrupt(
                "store.open",
                format!("the file has layout {other}, this version knows {LAYOUT}"),
            )),
        })?;
        Ok(store)
    }

    /// Whether it survives this process.
    pub(crate) fn in_file(&self) -> bool {
        self.inner.in_file
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Counts up after each change, for those that wait for one.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Runs one step: all it changes is kept, on disk where there is a file, or nothing if it
    /// fails. A step that changes nothing writes nothing.
    pub(crate) async fn step<T: Send + 'static>(
        &self,
        step: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if !self.inner.in_file {
            return self.transact(step);
        }
        let store = self.clone();
        crate::tasks::blocking(move || store.transact(step)).await
    }

    fn now_us(&self) -> i64 {
        i64::try_from(self.clock.unix_time().as_micros()).unwrap_or(i64::MAX)
    }

    fn transact<T>(&self, step: impl FnOnce(&mut Tx<'_>) -> Result<T>) -> Result<T> {
        let write = self.inner.database.begin_write().map_err(|error| failed(&error))?;
        // The time is read inside: steps see it in the order in which they happen.
        let mut tx = Tx::new(&write, self.now_us())?;
        let done = step(&mut tx)?;
        let changed = tx.end()?;
        if changed {
            write.commit().map_err(|error| failed(&error))?;
            self.inner.changes.send_modify(|count| *count += 1);
        } else {
            write.abort().map_err(|error| failed(&error))?;
        }
        Ok(done)
    }
}

/// A file that cannot be read or written: surely not applied, and not to be believed either.
fn failed(error: &dyn fmt::Display) -> Error {
    Error::new(ErrorKind::Unavailable, "store").with_source(error.to_string())
}
