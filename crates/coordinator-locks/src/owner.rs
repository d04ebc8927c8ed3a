//! Owners: whoever holds several locks at once. A lock is entered again within its owner, and who
//! waits for whom is looked at between owners.

use crate::{
    Guard, Locks, acquire,
    client::Inner,
    guard::Shares,
    lease::Lease,
    lock::{Lock, Options},
    outcome::Outcome,
};
use coordinator_core::{Result, clock::until, key::Name};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// An owner of several locks, such as a job: one line of work, in one process or in several that
/// wait for each other (a command that runs commands). Clones are the same owner.
///
/// * **Re-entry.** Acquiring a lock that this owner holds answers with another guard of the same
///   lease and fence, at once; the last guard that goes gives the lock up. Two owners made by
///   [`Locks::owner`] do not share guards, even under one name.
/// * **Deadlock detection.** While an owner waits, it is written down for whom. If owners wait for
///   each other in a circle, in whatever processes, the wait that began last comes to
///   [`Outcome::Deadlock`] with the circle; the others go on. It is looked for when a wait begins,
///   which is when a circle closes, and once a second. An owner that waits for a lock which
///   another of the same name holds waits for itself, which is the smallest circle.
///
/// Only waits of owners are seen: a circle that leads through a lock acquired without one is not
/// found, and ends with somebody's wait. Whoever is accused did wait in the circle at the moment
/// when it was found: each wait and each holder in it are looked at twice. A process that died
/// stands in the way for at most the leases of its locks, and three seconds for its waits.
///
/// ```
/// # use coordinator_locks::Locks;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let locks = Locks::embedded();
/// let job = locks.owner("job-17")?;
/// let outer = job.acquire("stock").await?.acquired()?;
/// let inner = job.acquire("stock").await?.acquired()?;
/// assert_eq!(outer.fence(), inner.fence());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Owner {
    locks: Locks,
    name: Name,
    held: Arc<Mutex<HashMap<Name, Arc<Entry>>>>,
}

/// What an owner has of one name; who acquires it first, the others enter again.
type Entry = tokio::sync::Mutex<Option<(Lease, Shares)>>;

impl Owner {
    pub(crate) fn new(locks: &Locks, name: Name) -> Self {
        Self { locks: locks.clone(), name, held: Arc::default() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    pub(crate) fn as_name(&self) -> &Name {
        &self.name
    }

    /// Acquires a lock for this owner with the defaults of [`Locks::named`].
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    pub async fn acquire(&self, name: &str) -> Result<Outcome> {
        self.named(name).acquire().await
    }

    /// A lock by its name, to be acquired for this owner; else as [`Locks::named`].
    pub fn named(&self, name: &str) -> Lock {
        self.locks.named(name).with_owner(self)
    }

    /// Enters a lock that it holds again, or acquires it.
    pub(crate) async fn enter(
        &self,
        inner: &Arc<Inner>,
        name: &Name,
        options: &Options,
    ) -> Result<Outcome> {
        let clock = inner.clock();
        let deadline = clock.now() + options.wait;
        let entry = self.entry(name);
        let Some(mut held) = until(&**clock, deadline, entry.lock()).await else {
            return Ok(Outcome::TimedOut { holder: None });
        };
        if let Some((lease, shares)) = &*held
            && lease.is_valid()
            && shares.enter()
        {
            let guard = Guard::again(inner.clone(), lease.clone(), shares.clone());
            return Ok(Outcome::Acquired(guard));
        }
        let left = Options { wait: deadline.saturating_since(clock.now()), ..options.clone() };
        let outcome = acquire::acquire(inner, name, &left).await?;
        if let Outcome::Acquired(guard) = &outcome {
            *held = Some((guard.lease().clone(), guard.shares().clone()));
        }
        Ok(outcome)
    }

    fn entry(&self, name: &Name) -> Arc<Entry> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= 64 && !held.contains_key(name) {
            let used = |entry: &Arc<Entry>| {
                Arc::strong_count(entry) > 1
                    || entry
                        .try_lock()
                        .is_ok_and(|held| held.as_ref().is_some_and(|(_, shares)| shares.is_held()))
            };
            held.retain(|_, entry| used(entry));
        }
        held.entry(name.clone()).or_default().clone()
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner").field("name", &self.name).finish_non_exhaustive()
    }
}
