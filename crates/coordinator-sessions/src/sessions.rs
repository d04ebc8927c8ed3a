//! `Sessions`: what is asked of sessions, and their options.

mod change;
mod data;
mod events;
mod export;
#[cfg(feature = "redis")]
mod legacy;
mod list;
mod local;
mod login;
mod lookup;
mod moves;
mod new;
mod options;
mod packed;
mod reaper;
mod restore;
mod revoke;
mod rotate;
mod session;
mod typed;

pub use change::{Patch, Updated};
pub use data::Data;
pub use events::{SessionEvent, SessionEventKind, SessionEvents};
pub use export::Export;
#[cfg(feature = "redis")]
pub use legacy::{LegacyLayout, Migrated};
pub use list::{Filter, Page, SessionPage, Stats, Verification};
pub use lookup::Lookup;
pub use new::{CapPolicy, Created, NewSession};
pub use restore::{RestoreMode, Restored};
pub use rotate::{Rotated, Rotation};
pub use session::Session;
pub use typed::{SessionData, Typed, TypedSessions};

use crate::{
    backend::{self, Backend, New, Origin, Place, SHARDS},
    embedded::Embedded,
    store::Store,
    token::{Id, Token},
};
use coordinator_core::{Error, Result, clock::Clock};
use data::Seal;
use local::Local;
use options::Options;
use rand::RngExt as _;
use std::{
    fmt,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

/// How often a new session is given another id, should its own be taken.
const ATTEMPTS: usize = 4;

/// User sessions that instances share; clones share one backend and one set of options.
///
/// ```
/// use coordinator_sessions::{Lookup, NewSession, Patch, Sessions, Token};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = Sessions::embedded(); // or Sessions::redis(&connection)
///
/// let session = sessions.create(NewSession::user("ann").company("acme")).await?.session()?;
/// let cookie = session.token().expect("a new session has one").reveal(); // for the client alone
///
/// let token = Token::parse(&cookie).expect("what a client sent");
/// sessions.patch(&token, Patch::new().set("cart", &["pear"])?).await?;
/// let Lookup::Live(session) = sessions.load(&token).await? else { panic!("it lives") };
/// assert_eq!(session.get::<Vec<String>>("cart")?, Some(vec!["pear".to_owned()]));
///
/// sessions.invalidate(&token, "logout").await?;
/// assert!(matches!(sessions.load(&token).await?, Lookup::Revoked { .. }));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Sessions {
    pub(crate) inner: Arc<Inner>,
    options: Arc<Options>,
}

pub(crate) struct Inner {
    pub(crate) backend: Arc<dyn Backend>,
    /// Writers of one session in this process take turns, so that few of them meet a conflict.
    turns: Vec<tokio::sync::Mutex<()>>,
    local: Local,
    reaping: AtomicBool,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("backend", &self.inner.backend).finish_non_exhaustive()
    }
}

impl Sessions {
    /// Sessions over Redis or Valkey.
    #[cfg(feature = "redis")]
    pub fn redis(connection: &coordinator_core::redis::Connection) -> Self {
        Self::over(Arc::new(crate::redis::Redis::new(connection)))
    }

    /// Sessions in this process alone, in memory.
    pub fn embedded() -> Self {
        Self::embedded_in(&Store::memory())
    }

    /// Sessions in this process alone, on another clock: for tests. The wall clock decides, as a
    /// server's does.
    pub fn embedded_with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::embedded_in(&Store::memory().with_clock(clock))
    }

    /// Sessions in a file, which survive a restart and a crash; see [`Store::file`].
    ///
    /// # Errors
    /// As [`Store::file`].
    pub fn embedded_at(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::embedded_in(&Store::file(path)?))
    }

    /// Sessions in a store that is shared with documents and conversations.
    pub fn embedded_in(store: &Store) -> Self {
        Self::over(Arc::new(Embedded { store: store.clone() }))
    }

    pub(crate) fn over(backend: Arc<dyn Backend>) -> Self {
        let inner = Inner {
            backend,
            turns: (0..64).map(|_| tokio::sync::Mutex::default()).collect(),
            local: Local::default(),
            reaping: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner), options: Arc::new(Options::default()) }
    }

    /// Creates a session, and gives out the one copy of its token.
    ///
    /// One round trip. A user who has as many sessions as may be
    /// ([`with_cap`](Self::with_cap)) gets [`Created::Full`], or loses another session, by the
    /// policy.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`Misuse`](coordinator_core::ErrorKind::Misuse) for names that are
    /// empty or too long, too many fields, or timeouts that cannot be.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether there is a session that nobody has the token
    /// of, which expires by itself.
    pub async fn create(&self, new: NewSession) -> Result<Created> {
        let options = &self.options;
        let names = new.names()?;
        let (idle_ms, absolute_ms) = new.timeouts(options)?;
        self.begin().await;
        for _ in 0..ATTEMPTS {
            let place = Place { shard: shard_of(&names.user), id: Id::random()? };
            let token = Token::random(place)?;
            let seal = Seal::new(place.id, options.ring.clone());
            let step = New {
                place,
                digest: token.digest(),
                names: names.clone(),
                idle_ms,
                absolute_ms,
                throttle_ms: options.throttle_ms(),
                schema: new.schema,
                fields: new.fields(&seal)?,
                cap: options.cap,
                replaces: new
                    .replaces
                    .filter(|before| before.shard == place.shard)
                    .map(|one| one.id),
                origin: Origin::New,
                announced: true,
            };
            match self.inner.backend.create(&step).await? {
                backend::Created::Made { written, .. } => {
                    if step.replaces.is_some() {
                        self.inner.local.forget_all();
                    }
                    let record = step.record(&written);
                    let session = Session::new(options, place, record, Some(token))?;
                    return Ok(Created::Session(Box::new(session)));
                }
                backend::Created::Full { live } => return Ok(Created::Full { live }),
                // Somebody has this id, or had.
                _ => {}
            }
        }
        let why = "no free id was found: the random numbers repeat";
        Err(Error::new(coordinator_core::ErrorKind::Unavailable, "sessions.create")
            .with_source(why))
    }

    /// Looks a session up, and counts that as activity: its idle timeout begins anew, which is
    /// written down at most once per [throttle](Self::with_touch_throttle).
    ///
    /// One round trip. A token that was replaced by a rotation within its grace finds the session,
    /// and [`Session::token`] is then the one to use from now on; after its grace it ends the
    /// session, for whoever has it may have stolen it.
    ///
    /// # Errors
    /// [`Unavailable`](coordinator_core::ErrorKind::Unavailable) and
    /// [`Indeterminate`](coordinator_core::ErrorKind::Indeterminate) if the backend is away: that
    /// is not [`Lookup::Absent`]. [`Corrupt`](coordinator_core::ErrorKind::Corrupt) if what is
    /// stored is not what was written, [`Rejected`](coordinator_core::ErrorKind::Rejected) if the
    /// server refuses.
    ///
    /// # Cancel safety
    /// Cancel safe: the lookup counts as activity or not.
    pub async fn load(&self, token: &Token) -> Result<Lookup<Session>> {
        if let Some(stale) = self.options.local_stale
            && let Some(session) = self.inner.local.get(token, stale, self.inner.backend.clock())
        {
            return Ok(Lookup::Live(session));
        }
        let throttle = Some(self.options.throttle_ms());
        let begun = self.options.local_stale.map(|_| self.inner.local.begin(token));
        let found = self.look(token, throttle).await?;
        if let Some(begun) = begun
            && let Lookup::Live(session) = &found
            && session.token().is_none()
        {
            self.inner.local.put(token, session, begun, self.inner.backend.clock());
        }
        Ok(found)
    }

    /// Looks a session up without counting that as activity.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn peek(&self, token: &Token) -> Result<Lookup<Session>> {
        self.look(token, None).await
    }

    async fn look(&self, token: &Token, throttle: Option<i64>) -> Result<Lookup<Session>> {
        let backend = &self.inner.backend;
        let (found, at) = self
            .follow(token, |place, digest| {
                Box::pin(async move { backend.load(place, Some(&digest), throttle).await })
            })
            .await?;
        let Lookup::Live((record, wrapped)) = found else { return Ok(found.gone()) };
        let replaced = match wrapped {
            Some(wrapped) => Some(at.unwrap(&wrapped, at.place().shard)),
            None => (at != *token).then(|| at.clone()),
        };
        Ok(Lookup::Live(Session::new(&self.options, at.place(), record, replaced)?))
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        self.inner.backend.clock()
    }
}

/// Where the sessions of a user are, by the encoded name; anonymous ones are anywhere.
pub(crate) fn shard_of(user: &str) -> u16 {
    if user.is_empty() {
        return rand::rng().random_range(0..SHARDS);
    }
    match coordinator_core::key::Name::decode(user) {
        Ok(name) => name.shard(SHARDS),
        Err(_) => 0,
    }
}

/// Whole ms, as they are stored.
pub(crate) fn in_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

pub(crate) fn from_ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
