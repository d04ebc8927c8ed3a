//! Backends that break one promise each, as hand-written locks do.

use crate::{
    backend::{
        Acquired, Admitted, Backend, Claim, Released, Renewal, Renewed, Seen, Surrender, Wakeups,
    },
    embedded::Embedded,
};
use coordinator_core::{BoxFuture, Result, clock::Clock, health::Finding, key::Name};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fault {
    ReleasesWithoutComparing,
    RenewsWithoutComparing,
    NeverExpires,
    MintsFencesByCounting,
    ForgetsWhatWasReleased,
    RenewsByShortening,
    AdmitsEverything,
    ForcesWhoeverHolds,
    WakesNobody,
}

pub(super) const ALL: &[Fault] = &[
    Fault::ReleasesWithoutComparing,
    Fault::RenewsWithoutComparing,
    Fault::NeverExpires,
    Fault::MintsFencesByCounting,
    Fault::ForgetsWhatWasReleased,
    Fault::RenewsByShortening,
    Fault::AdmitsEverything,
    Fault::ForcesWhoeverHolds,
    Fault::WakesNobody,
];

#[derive(Debug)]
pub(super) struct Broken {
    good: Embedded,
    fault: Fault,
    counter: AtomicU64,
}

impl Broken {
    pub(super) fn new(good: Embedded, fault: Fault) -> Self {
        Self { good, fault, counter: AtomicU64::new(0) }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// Takes the lock from whoever holds it.
    async fn take_away(&self, name: &Name) -> Result<bool> {
        match self.good.show(name).await? {
            Some(seen) => {
                let fence = seen.holder.fence.get();
                self.good.force_release(name, fence, Duration::from_millis(1), "").await
            }
            None => Ok(false),
        }
    }
}

impl Backend for Broken {
    fn clock(&self) -> &Arc<dyn Clock> {
        self.good.clock()
    }

    fn step_timeout(&self) -> Duration {
        self.good.step_timeout()
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<Acquired>> {
        Box::pin(async move {
            let mut claim = claim.clone();
            if self.has(Fault::NeverExpires) {
                claim.ttl *= 1000;
            }
            let answer = self.good.acquire(&claim).await?;
            Ok(match answer {
                // A counter of its own, which a repeated delivery counts on.
                Acquired::Granted { .. } if self.has(Fault::MintsFencesByCounting) => {
                    Acquired::Granted { fence: self.counter.fetch_add(1, Ordering::Relaxed) }
                }
                other => other,
            })
        })
    }

    fn renew<'a>(
        &'a self,
        shard: u16,
        leases: &'a [Renewal],
    ) -> BoxFuture<'a, Result<Vec<Renewed>>> {
        Box::pin(async move {
            let mut statuses = self.good.renew(shard, leases).await?;
            if self.has(Fault::RenewsWithoutComparing) {
                statuses.fill(Renewed::Prolonged);
            }
            if self.has(Fault::RenewsByShortening)
                && leases.iter().any(|lease| lease.ttl < Duration::from_secs(5))
            {
                for lease in leases {
                    self.take_away(&lease.name).await?;
                }
            }
            Ok(statuses)
        })
    }

    fn release<'a>(&'a self, lease: &'a Surrender) -> BoxFuture<'a, Result<Released>> {
        Box::pin(async move {
            if self.has(Fault::ReleasesWithoutComparing) {
                let was_held = self.take_away(&lease.name).await?;
                return Ok(Released { was_held, woken: 0 });
            }
            let mut lease = lease.clone();
            if self.has(Fault::ForgetsWhatWasReleased) {
                lease.tombstone = Duration::ZERO;
            }
            self.good.release(&lease).await
        })
    }

    fn force_release<'a>(
        &'a self,
        name: &'a Name,
        fence: u64,
        tombstone: Duration,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            if self.has(Fault::ForcesWhoeverHolds) {
                return self.take_away(name).await;
            }
            self.good.force_release(name, fence, tombstone, reason).await
        })
    }

    fn show<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Option<Seen>>> {
        self.good.show(name)
    }

    fn list(&self, shard: u16, offset: u64, limit: u64) -> BoxFuture<'_, Result<(u64, Vec<Seen>)>> {
        self.good.list(shard, offset, limit)
    }

    fn admit<'a>(
        &'a self,
        resource: &'a Name,
        fence: u64,
        owner: &'a str,
        retention: Duration,
    ) -> BoxFuture<'a, Result<Admitted>> {
        Box::pin(async move {
            if self.has(Fault::AdmitsEverything) {
                return Ok(Admitted::Yes);
            }
            self.good.admit(resource, fence, owner, retention).await
        })
    }

    fn listen<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Box<dyn Wakeups>>> {
        Box::pin(async move {
            if self.has(Fault::WakesNobody) {
                let other = Name::new("nobody")?;
                return self.good.listen(&other).await;
            }
            self.good.listen(name).await
        })
    }

    fn audit(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        self.good.audit()
    }
}
