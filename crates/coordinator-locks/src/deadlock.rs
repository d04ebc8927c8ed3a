//! Deadlock detection: an owner that waits says so, and walks along who holds what and who waits
//! for what until it comes back to itself.
//!
//! Holders and waits are read one by one, so what was read first may be over. Whatever looks like
//! a circle is therefore read twice more: what stood in both readings, with the same fences and the
//! same waits, stood all the time between them, and so all of it at once.

use crate::{backend::Awaited, client::Inner, outcome::Blocked, token::Holder};
use coordinator_core::{
    Result,
    clock::{Instant, until},
    key::Name,
};
use std::{collections::HashSet, sync::Arc, time::Duration};

/// For how long a wait stands in the registry after it was last said.
const LEASE: Duration = Duration::from_secs(3);
/// How often it is said again, and looked for a circle that others closed; the second time soon,
/// as somebody who began to wait just before may not have said so yet.
const AGAIN: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_millis(30);
/// The time between the two readings of a circle: whoever gave up waiting has said so meanwhile.
const BETWEEN: Duration = Duration::from_millis(20);
/// How many waits one walk looks at.
const STEPS: usize = 256;

/// One wait of an owner, from when it stands in a queue until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    inner: Arc<Inner>,
    owner: Name,
    wait: Awaited,
    /// Who holds the lock once it is granted.
    id: String,
    /// When to look again.
    next: Instant,
    /// Whether the registry may know of it.
    declared: bool,
}

/// An owner that waits for a lock with a holder, exactly as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Edge {
    owner: Name,
    wait: Awaited,
    holder: String,
    fence: u64,
}

impl Watch {
    /// The wait of a claim that will be the holder `id`.
    pub(crate) fn new(inner: &Arc<Inner>, owner: &Name, wait: Awaited, id: &str) -> Self {
        Self {
            inner: inner.clone(),
            owner: owner.clone(),
            wait,
            id: id.to_owned(),
            next: inner.clock().now(),
            declared: false,
        }
    }

    /// Completes when this wait is the one of a circle that has to be given up; cancel safe.
    pub(crate) async fn deadlock(&mut self) -> Vec<Blocked> {
        let clock = self.inner.clock().clone();
        loop {
            clock.sleep_until(self.next).await;
            let left = self.inner.worker.has_left(self.owner.as_str());
            until(&*clock, clock.now() + LEASE, left).await;
            // Bounded: what cannot be left does stand in the way.
            let first = !self.declared;
            match self.look().await {
                Ok(Some(cycle)) => return cycle,
                Ok(None) => {}
                // The next look may do better; until then the wait ends by itself.
                Err(error) => tracing::debug!(error = %error.chain(), "no look at who waits"),
            }
            self.next = clock.now() + if first { SOON } else { AGAIN };
        }
    }

    async fn look(&mut self) -> Result<Option<Vec<Blocked>>> {
        self.declared = true;
        let backend = &self.inner.backend;
        let declare = backend.wait_for(&self.owner, &self.wait, LEASE);
        self.inner.answer("locks.wait_for", declare).await?;
        let begin = self.wait.clone();
        let Some(cycle) = self.walk(begin).await? else { return Ok(None) };
        // Only one of them gives up, and all of them see which.
        let age = |edge: &Edge| (edge.wait.since_us, edge.owner.clone());
        let youngest = cycle.iter().max_by_key(|edge| age(edge));
        if youngest.is_none_or(|edge| edge.wait.token != self.wait.token) {
            return Ok(None);
        }
        for reading in 0..2 {
            if reading > 0 {
                self.inner.clock().sleep(BETWEEN).await;
            }
            for edge in &cycle {
                if !self.stands(edge).await? {
                    return Ok(None);
                }
            }
        }
        let blocked = |edge: Edge| Blocked {
            owner: edge.owner.as_str().to_owned(),
            lock: edge.wait.name.as_str().to_owned(),
            holder: edge.holder,
        };
        Ok(Some(cycle.into_iter().map(blocked).collect()))
    }

    /// Goes from wait to holder to wait, depth first, until a holder is this owner.
    async fn walk(&self, begin: Awaited) -> Result<Option<Vec<Edge>>> {
        // What is left to look at, and how deep it lies.
        let mut todo = vec![(self.owner.clone(), begin, 0)];
        let mut seen = HashSet::new();
        let mut path: Vec<Edge> = Vec::new();
        while let Some((owner, wait, depth)) = todo.pop() {
            if seen.len() >= STEPS || !seen.insert(wait.token.expose().to_owned()) {
                continue;
            }
            path.truncate(depth);
            let Some(holder) = self.holder(&wait.name).await? else { continue };
            if holder.id == self.id {
                // This very wait was granted the lock, and is about to hear of it.
                return Ok(None);
            }
            let Some(name) = holder.owner.as_deref().and_then(|name| Name::new(name).ok()) else {
                continue;
            };
            let fence = holder.fence.get();
            path.push(Edge { owner, wait, holder: name.as_str().to_owned(), fence });
            if name == self.owner {
                return Ok(Some(path));
            }
            let depth = path.len();
            let waits = self.inner.backend.waits_of(&name);
            for wait in self.inner.answer("locks.waits_of", waits).await? {
                todo.push((name.clone(), wait, depth));
            }
        }
        Ok(None)
    }

    async fn holder(&self, name: &Name) -> Result<Option<Holder>> {
        let show = self.inner.backend.show(name);
        Ok(self.inner.answer("locks.show", show).await?.map(|seen| seen.holder))
    }

    /// Whether the wait and the holder are still the ones that were read.
    async fn stands(&self, edge: &Edge) -> Result<bool> {
        let waits = self.inner.backend.waits_of(&edge.owner);
        let waits = self.inner.answer("locks.waits_of", waits).await?;
        let holder = self.holder(&edge.wait.name).await?;
        Ok(waits.contains(&edge.wait)
            && holder.is_some_and(|holder| holder.fence.get() == edge.fence))
    }

    /// Says that it waits no more, before anything else is done on behalf of the owner.
    pub(crate) async fn end(mut self) {
        if !self.declared {
            return;
        }
        let asked = self.inner.backend.wait_no_more(&self.owner, &self.wait.token);
        match self.inner.answer("locks.wait_no_more", asked).await {
            Ok(()) => self.declared = false,
            Err(error) => tracing::debug!(error = %error.chain(), "a wait stays in the registry"),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.declared {
            let until = self.inner.clock().now() + LEASE;
            self.inner.worker.withdraw(self.owner.clone(), self.wait.token.clone(), until);
        }
    }
}
