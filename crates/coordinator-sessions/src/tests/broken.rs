//! Backends with planted faults, each of which the contract must catch.

use crate::{
    backend::{
        Alerts, Backend, Count, Created, Crowded, Departure, Found, From, Happened, Index, Listed,
        Moving, Names, New, Next, Origin, Patch, Patched, Place, Raise, Reaped, Record, Rotated,
        Swept, Verified, Whole, Written,
    },
    embedded::Embedded,
    token::Digest,
};
use coordinator_core::{BoxFuture, Result, clock::Clock};
use std::{sync::Arc, time::Duration};

macro_rules! faults {
    ($($fault:ident)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Fault {
            $($fault),*
        }

        pub(super) const ALL: &[Fault] = &[$(Fault::$fault),*];
    };
}

faults! {
    RevivesTheDead
    LeavesNoGrave
    ComparesNoDigest
    ComparesNoVersion
    ForgetsTokens
    ForgetsFields
    RaisesNoEpoch
    LowersEpochs
    TakesInWhatIsStale
    GivesASecondSuccessor
    HonoursForNoTime
    HonoursForever
    ForgivesReplays
    TouchesAlways
    TouchesNever
    IsIdleForever
    EndsEarly
    LivesForever
    ExtendsNothing
    EnforcesNoCap
    EvictsTheNewest
    EvictsForWhatIsThere
    CountsWhatIsReplaced
    LeavesWhatIsReplaced
    SettlesBeforeArrival
    SettlesNothing
    SettlesAnyMove
    DecidesAgain
    TakesInWhatIsLate
    SweepsAll
    SweepsFromTheStart
    TellsTwice
    TellsNoNames
    TellsNoReason
    ReadsFromTheEntry
    SaysNeverMore
    ListsOneLess
    ListsTheDead
    HidesTheUnreadable
    HidesStrays
    CountsTheDead
    MendsNothing
    MendsUnasked
}

#[derive(Debug)]
pub(super) struct Broken {
    pub(super) good: Embedded,
    pub(super) fault: Fault,
}

impl Broken {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// Forgets that a session was ended.
    async fn exhume(&self, place: Place) -> Result<bool> {
        let key = format!("s{}:t:{}", place.shard, place.id.encode());
        self.good.store.step(move |tx| tx.remove(&key)).await
    }

    /// The digest that opens a session, whoever asks.
    async fn master(&self, place: Place, digest: &Digest) -> Result<Digest> {
        Ok(match self.good.load(place, None, None).await? {
            Found::Live((record, _)) => record.digest,
            _ => *digest,
        })
    }

    async fn key(&self, place: Place, digest: &Digest) -> Result<Digest> {
        if self.is(Fault::ComparesNoDigest) {
            self.master(place, digest).await
        } else {
            Ok(*digest)
        }
    }

    fn throttle(&self, throttle_ms: i64) -> i64 {
        match self.fault {
            Fault::TouchesAlways => 0,
            Fault::TouchesNever => i64::MAX / 4,
            _ => throttle_ms,
        }
    }

    fn next(&self, next: &Next) -> Next {
        let mut next = next.clone();
        match self.fault {
            Fault::HonoursForever => next.grace_ms = i64::MAX / 4,
            Fault::HonoursForNoTime => next.grace_ms = 1,
            Fault::EnforcesNoCap => next.cap = None,
            _ => {}
        }
        next
    }
}

impl Backend for Broken {
    fn clock(&self) -> &Arc<dyn Clock> {
        self.good.clock()
    }

    fn create<'a>(&'a self, new: &'a New) -> BoxFuture<'a, Result<Created>> {
        Box::pin(async move {
            let mut changed = new.clone();
            match (self.fault, &mut changed.origin) {
                (Fault::EnforcesNoCap, _) => changed.cap = None,
                (Fault::LeavesWhatIsReplaced, _) => changed.replaces = None,
                (Fault::CountsWhatIsReplaced, _) => {
                    changed.replaces = None;
                    let made = self.good.create(&changed).await?;
                    if let (Created::Made { .. }, Some(id)) = (made, new.replaces) {
                        let before = Place { id, ..new.place };
                        self.good.invalidate(before, None, "replaced").await?;
                    }
                    return Ok(made);
                }
                (Fault::EvictsTheNewest, _) => {
                    if let (Some(cap), Created::Full { .. }) = (
                        &mut changed.cap,
                        self.good.create(&New { cap: refusing(new), ..new.clone() }).await?,
                    ) && cap.policy != Crowded::Refuse
                    {
                        let index = Index::User(new.names.user.clone());
                        let all = self.good.list(new.place.shard, &index, None, 100).await?;
                        if let Some((id, _)) = all.sessions.last() {
                            let last = Place { id: *id, ..new.place };
                            self.good.invalidate(last, None, "cap").await?;
                        }
                    }
                }
                (Fault::EvictsForWhatIsThere, _) if new.cap.is_some() => {
                    let index = Index::User(new.names.user.clone());
                    let all = self.good.list(new.place.shard, &index, None, 100).await?;
                    let own = |(id, _): &(_, Record)| *id == new.place.id;
                    if all.sessions.iter().any(own) {
                        self.good
                            .invalidate(Place { id: all.sessions[0].0, ..new.place }, None, "cap")
                            .await?;
                    }
                }
                (Fault::IsIdleForever, _) => changed.idle_ms = i64::MAX / 4,
                (Fault::LivesForever, _) => changed.absolute_ms = i64::MAX / 4,
                (
                    Fault::TakesInWhatIsStale,
                    Origin::Arrives(before) | Origin::Restored(before, _),
                ) => (before.of_user, before.of_company) = (None, None),
                (Fault::TakesInWhatIsLate, Origin::Arrives(_)) => {
                    self.exhume(new.place).await?;
                }
                _ => {}
            }
            let created = self.good.create(&changed).await?;
            if created == Created::Buried && self.is(Fault::RevivesTheDead) {
                self.exhume(new.place).await?;
                return self.good.create(&changed).await;
            }
            Ok(created)
        })
    }

    fn load<'a>(
        &'a self,
        place: Place,
        digest: Option<&'a Digest>,
        throttle_ms: Option<i64>,
    ) -> BoxFuture<'a, Result<Found<crate::backend::Known>>> {
        Box::pin(async move {
            let digest = digest.filter(|_| !self.is(Fault::ComparesNoDigest));
            if let (Fault::ForgivesReplays, Some(digest)) = (self.fault, digest)
                && self.master(place, digest).await? != *digest
            {
                return Ok(Found::Absent);
            }
            let throttle = throttle_ms.map(|throttle| self.throttle(throttle));
            let found = self.good.load(place, digest, throttle).await?;
            Ok(match found {
                Found::Live((record, _))
                    if self.is(Fault::EndsEarly) && record.now + 1 >= record.expiry =>
                {
                    Found::Expired
                }
                other => other,
            })
        })
    }

    fn patch<'a>(
        &'a self,
        place: Place,
        digest: &'a Digest,
        throttle_ms: i64,
        patch: &'a Patch,
    ) -> BoxFuture<'a, Result<Found<Patched>>> {
        Box::pin(async move {
            let mut patch = patch.clone();
            match self.fault {
                Fault::ComparesNoVersion => patch.version = None,
                Fault::ForgetsTokens => {
                    patch.token = rand::random();
                    patch.version = None;
                }
                Fault::ForgetsFields => {
                    if let Found::Live((record, _)) = self.good.load(place, None, None).await? {
                        let fields = record.fields.into_iter().map(|(field, _)| field);
                        let set = |field: &String| patch.set.iter().any(|(name, _)| name == field);
                        let others: Vec<_> = fields.filter(|field| !set(field)).collect();
                        patch.removed.extend(others);
                    }
                }
                _ => {}
            }
            let key = self.key(place, digest).await?;
            self.good.patch(place, &key, self.throttle(throttle_ms), &patch).await
        })
    }

    fn extend<'a>(
        &'a self,
        place: Place,
        digest: &'a Digest,
        throttle_ms: i64,
        idle_ms: Option<i64>,
        absolute_ms: Option<i64>,
    ) -> BoxFuture<'a, Result<Found<Written>>> {
        Box::pin(async move {
            let key = self.key(place, digest).await?;
            let extends = !self.is(Fault::ExtendsNothing);
            let (idle, absolute) = (idle_ms.filter(|_| extends), absolute_ms.filter(|_| extends));
            self.good.extend(place, &key, throttle_ms, idle, absolute).await
        })
    }

    fn rotate<'a>(
        &'a self,
        place: Place,
        digest: &'a Digest,
        throttle_ms: i64,
        next: &'a Next,
    ) -> BoxFuture<'a, Result<Found<Rotated>>> {
        Box::pin(async move {
            let key = if self.is(Fault::GivesASecondSuccessor) {
                self.master(place, digest).await?
            } else {
                self.key(place, digest).await?
            };
            self.good.rotate(place, &key, throttle_ms, &self.next(next)).await
        })
    }

    fn depart<'a>(
        &'a self,
        place: Place,
        digest: Option<&'a Digest>,
        departure: Option<&'a Departure>,
    ) -> BoxFuture<'a, Result<Found<Moving>>> {
        Box::pin(async move {
            let changed = departure.map(|departure| Departure {
                next: self.next(&departure.next),
                ..departure.clone()
            });
            let mut found = self.good.depart(place, digest, changed.as_ref()).await?;
            if let Found::Live(moving) = &mut found {
                if self.is(Fault::SettlesBeforeArrival) {
                    self.good.settle(place, &moving.digest).await?;
                }
                if let (Fault::DecidesAgain, Some(departure)) = (self.fault, departure) {
                    (moving.shard, moving.digest) = (departure.shard, departure.next.digest);
                }
            }
            Ok(found)
        })
    }

    fn settle<'a>(&'a self, place: Place, to: &'a Digest) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            if self.is(Fault::SettlesNothing) {
                return Ok(matches!(self.good.depart(place, None, None).await?, Found::Live(_)));
            }
            if self.is(Fault::SettlesAnyMove)
                && let Found::Live(moving) = self.good.depart(place, None, None).await?
            {
                return self.good.settle(place, &moving.digest).await;
            }
            self.good.settle(place, to).await
        })
    }

    fn invalidate<'a>(
        &'a self,
        place: Place,
        digest: Option<&'a Digest>,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<Found<()>>> {
        Box::pin(async move {
            let digest = digest.filter(|_| !self.is(Fault::ComparesNoDigest));
            let found = self.good.invalidate(place, digest, reason).await?;
            if self.is(Fault::LeavesNoGrave) {
                self.exhume(place).await?;
            }
            Ok(found)
        })
    }

    fn epoch<'a>(
        &'a self,
        shard: u16,
        whole: Whole<'a>,
        raise: Raise<'a>,
    ) -> BoxFuture<'a, Result<i64>> {
        Box::pin(async move {
            let before = self.good.epoch(shard, whole, Raise::No).await?;
            let now = i64::try_from(self.clock().unix_time().as_millis()).unwrap_or(i64::MAX);
            Ok(match (self.fault, raise) {
                (Fault::RaisesNoEpoch, Raise::Above(_)) => now.max(before + 1),
                (Fault::LowersEpochs, Raise::To(least, _)) if least < before => least,
                _ => self.good.epoch(shard, whole, raise).await?,
            })
        })
    }

    fn sweep<'a>(
        &'a self,
        shard: u16,
        index: &'a Index,
        skip: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Swept>> {
        Box::pin(async move {
            let skip = if self.is(Fault::SweepsFromTheStart) { 0 } else { skip };
            if self.is(Fault::SweepsAll) {
                let all = self.good.list(shard, index, None, limit).await?;
                for (id, _) in all.sessions {
                    self.good.invalidate(Place { shard, id }, None, "left").await?;
                }
            }
            self.good.sweep(shard, index, skip, limit).await
        })
    }

    fn reap(&self, shard: u16, limit: usize) -> BoxFuture<'_, Result<Reaped>> {
        Box::pin(async move {
            let reaped = self.good.reap(shard, limit).await?;
            let next = reaped.next.filter(|_| !self.is(Fault::SaysNeverMore));
            Ok(Reaped { next, ..reaped })
        })
    }

    fn list<'a>(
        &'a self,
        shard: u16,
        index: &'a Index,
        after: Option<&'a (i64, String)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Listed>> {
        Box::pin(async move {
            let mut listed = self.good.list(shard, index, after, limit).await?;
            if self.is(Fault::ListsOneLess) && listed.next.is_some() {
                listed.sessions.pop();
            }
            if self.is(Fault::HidesTheUnreadable) {
                listed.unreadable.clear();
            }
            if self.is(Fault::ListsTheDead)
                && let Some((_, record)) = listed.sessions.first_mut()
            {
                record.expiry = record.now;
            }
            Ok(listed)
        })
    }

    fn count<'a>(&'a self, shards: &'a [u16], index: &'a Index) -> BoxFuture<'a, Result<Count>> {
        Box::pin(async move {
            let mut count = self.good.count(shards, index).await?;
            if self.is(Fault::CountsTheDead) {
                count.living += count.overdue;
            }
            Ok(count)
        })
    }

    fn verify<'a>(
        &'a self,
        shard: u16,
        index: &'a Index,
        skip: u64,
        limit: usize,
        mend: bool,
    ) -> BoxFuture<'a, Result<Verified>> {
        let mend = match self.fault {
            Fault::MendsNothing => false,
            Fault::MendsUnasked => true,
            _ => mend,
        };
        Box::pin(async move {
            let mut verified = self.good.verify(shard, index, skip, limit, mend).await?;
            if self.is(Fault::HidesStrays) {
                verified.strays = 0;
            }
            Ok(verified)
        })
    }

    fn happened(
        &self,
        shard: u16,
        from: From,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Happened>>> {
        Box::pin(async move {
            let from = match from {
                From::After(_) if self.is(Fault::ReadsFromTheEntry) => {
                    From::Ago(Duration::from_hours(24))
                }
                from => from,
            };
            let mut all = self.good.happened(shard, from, limit).await?;
            if self.is(Fault::TellsTwice) {
                let twice = |one: Happened| {
                    let again = (one.event == "expired").then(|| one.clone());
                    std::iter::once(one).chain(again)
                };
                all = all.into_iter().flat_map(twice).collect();
            }
            for one in &mut all {
                match self.fault {
                    Fault::TellsNoNames => one.names = Names::default(),
                    Fault::TellsNoReason => one.reason.clear(),
                    _ => {}
                }
            }
            Ok(all)
        })
    }

    fn listen(&self, shard: u16) -> BoxFuture<'_, Result<Box<dyn Alerts>>> {
        self.good.listen(shard)
    }
}

/// The cap of a session, refusing.
fn refusing(new: &New) -> Option<crate::backend::Cap> {
    new.cap.map(|cap| crate::backend::Cap { policy: Crowded::Refuse, ..cap })
}
