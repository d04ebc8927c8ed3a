//! Backends that break one promise each, as hand-written locks do.

use crate::{
    backend::{
        Acquired, Admitted, Awaited, Backend, Claim, Client, Line, Logged, Queued, Released,
        Renewal, Renewed, Seen, Standing, Surrender, Wait, Wakeups,
    },
    embedded::Embedded,
    token::Token,
};
use coordinator_core::{
    BoxFuture, Error, ErrorKind, Result, clock::Clock, health::Finding, key::Name,
};
use std::{
    sync::{
        Arc, OnceLock,
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
    OrdersByAClientsClock,
    LetsOthersPassTheQueue,
    DropsHeartbeats,
    ForgetsWhoLeft,
    StampsWhenWritten,
    TellsTwice,
    NeverAnswersHeartbeats,
    /// The first place that is given up stays for a while, as on a link that was just cut.
    GivesTheFirstPlaceUpLate,
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
    Fault::OrdersByAClientsClock,
    Fault::LetsOthersPassTheQueue,
    Fault::DropsHeartbeats,
    Fault::ForgetsWhoLeft,
    Fault::StampsWhenWritten,
    Fault::TellsTwice,
];

fn renewal(lease: &Surrender) -> Renewal {
    let (name, token) = (lease.name.clone(), lease.token.clone());
    Renewal { name, token, ttl: Duration::from_millis(1) }
}

#[derive(Debug)]
pub(super) struct Broken {
    good: Embedded,
    fault: Fault,
    counter: AtomicU64,
    first_place: OnceLock<Token>,
}

impl Broken {
    pub(super) fn new(good: Embedded, fault: Fault) -> Self {
        Self { good, fault, counter: AtomicU64::new(0), first_place: OnceLock::new() }
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
            if let Some(stand) = &mut claim.stand
                && self.has(Fault::OrdersByAClientsClock)
            {
                // One that runs backwards, say.
                let ticket = u64::MAX / 2 - self.counter.fetch_add(1, Ordering::Relaxed);
                stand.ticket.get_or_insert(ticket);
            }
            let answer = self.good.acquire(&claim).await?;
            if self.has(Fault::GivesTheFirstPlaceUpLate) && matches!(answer, Acquired::Held { .. })
            {
                self.first_place.get_or_init(|| claim.token.clone());
            }
            Ok(match answer {
                Acquired::Held { holder: None, .. } if self.has(Fault::LetsOthersPassTheQueue) => {
                    Acquired::Granted { fence: self.counter.fetch_add(1, Ordering::Relaxed) }
                }
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
                return Ok(Released { was_held, next: None, ticket: None });
            }
            if self.first_place.get() == Some(&lease.token)
                && self.counter.fetch_add(1, Ordering::Relaxed) < 4
            {
                return Err(Error::new(ErrorKind::Unavailable, "test.release"));
            }
            let mut lease = lease.clone();
            if self.has(Fault::ForgetsWhoLeft)
                && self.good.renew(0, &[renewal(&lease)]).await?[0] != Renewed::Prolonged
            {
                return Ok(Released { was_held: false, next: None, ticket: None });
            }
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

    fn heartbeat<'a>(
        &'a self,
        shard: u16,
        client: &'a Client,
        hears: bool,
        waits: &'a [Wait],
    ) -> BoxFuture<'a, Result<Vec<Standing>>> {
        Box::pin(async move {
            if self.has(Fault::NeverAnswersHeartbeats) {
                std::future::pending::<()>().await;
            }
            if self.has(Fault::DropsHeartbeats) {
                return Ok(vec![Standing::Waits; waits.len()]);
            }
            self.good.heartbeat(shard, client, hears, waits).await
        })
    }

    fn waiters<'a>(&'a self, name: &'a Name, limit: u64) -> BoxFuture<'a, Result<Vec<Queued>>> {
        self.good.waiters(name, limit)
    }

    fn wait_for<'a>(
        &'a self,
        owner: &'a Name,
        wait: &'a Awaited,
        lease: Duration,
    ) -> BoxFuture<'a, Result<()>> {
        self.good.wait_for(owner, wait, lease)
    }

    fn wait_no_more<'a>(&'a self, owner: &'a Name, token: &'a Token) -> BoxFuture<'a, Result<()>> {
        self.good.wait_no_more(owner, token)
    }

    fn waits_of<'a>(&'a self, owner: &'a Name) -> BoxFuture<'a, Result<Vec<Awaited>>> {
        self.good.waits_of(owner)
    }

    fn listen<'a>(
        &'a self,
        shard: u16,
        client: &'a Client,
    ) -> BoxFuture<'a, Result<Box<dyn Wakeups>>> {
        Box::pin(async move {
            if self.has(Fault::WakesNobody) {
                return self.good.listen(shard, &Client::random()).await;
            }
            self.good.listen(shard, client).await
        })
    }

    fn log<'a>(&'a self, lines: &'a [Line]) -> BoxFuture<'a, Result<()>> {
        if self.has(Fault::StampsWhenWritten) {
            let late = |line: &Line| Line { age: Duration::ZERO, ..line.clone() };
            let late: Vec<_> = lines.iter().map(late).collect();
            return Box::pin(async move { self.good.log(&late).await });
        }
        if self.has(Fault::TellsTwice) {
            let other = |line: &Line| Line {
                id: self.counter.fetch_add(1, Ordering::Relaxed).to_string(),
                ..line.clone()
            };
            let others: Vec<_> = lines.iter().map(other).collect();
            return Box::pin(async move { self.good.log(&others).await });
        }
        self.good.log(lines)
    }

    fn read_log(&self, since: Duration, limit: u64) -> BoxFuture<'_, Result<Vec<Logged>>> {
        self.good.read_log(since, limit)
    }

    fn audit(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        self.good.audit()
    }
}
