//! The adapter in process: the executable specification of the scripts, over the store.

mod session;
mod steps;

use crate::{
    backend::{
        Alerts, Backend, Count, Created, Departure, EPOCH_TTL, Found, From, Happened, Index,
        Listed, Moving, New, Next, Patch, Patched, Place, Raise, Reaped, Record, Rotated, Swept,
        Verified, Whole, Written,
    },
    store::{Blob, Store, Tx},
    token::{Digest, Id, Wrapped},
};
use coordinator_core::{BoxFuture, Result, clock::Clock};
use session::{Epoch, Grave, Session, Shard, Standing};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use steps::{create, depart, list, patch, refusal, rotate, verify};
use tokio::sync::watch;

/// Sessions, documents and conversations over a store; each port is implemented beside its noun.
#[derive(Debug, Clone)]
pub(crate) struct Embedded {
    pub(crate) store: Store,
}

impl Embedded {
    /// Runs a step on one shard.
    async fn on<T: Send + 'static>(
        &self,
        shard: u16,
        step: impl FnOnce(&mut Shard<'_, '_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.store.step(move |tx: &mut Tx<'_>| step(&mut Shard::new(tx, shard))).await
    }
}

impl Backend for Embedded {
    fn clock(&self) -> &Arc<dyn Clock> {
        self.store.clock()
    }

    fn create<'a>(&'a self, new: &'a New) -> BoxFuture<'a, Result<Created>> {
        let new = new.clone();
        Box::pin(self.on(new.place.shard, move |shard| create(shard, new)))
    }

    fn load<'a>(
        &'a self,
        place: Place,
        digest: Option<&'a Digest>,
        throttle_ms: Option<i64>,
    ) -> BoxFuture<'a, Result<Found<crate::backend::Known>>> {
        let (id, digest) = (place.id, digest.copied());
        Box::pin(self.on(place.shard, move |shard| {
            let (mut session, grace) = match shard.standing(&id, digest.as_ref())? {
                Standing::Live(session, grace) => (session, grace),
                other => return refusal(shard, &id, other),
            };
            let now = shard.now();
            if throttle_ms.is_some_and(|throttle| session.touch(now, throttle)) {
                shard.keep(&id, &session)?;
                shard.index(&id, &session)?;
            }
            let wrapped = if grace == Some(1) { shard.wrapped(&id)? } else { None };
            Ok(Found::Live((session.record(now), wrapped)))
        }))
    }

    fn patch<'a>(
        &'a self,
        place: Place,
        digest: &'a Digest,
        throttle_ms: i64,
        change: &'a Patch,
    ) -> BoxFuture<'a, Result<Found<Patched>>> {
        let (digest, change) = (*digest, change.clone());
        Box::pin(
            self.on(place.shard, move |shard| {
                patch(shard, &place.id, &digest, throttle_ms, change)
            }),
        )
    }

    fn extend<'a>(
        &'a self,
        place: Place,
        digest: &'a Digest,
        throttle_ms: i64,
        idle_ms: Option<i64>,
        absolute_ms: Option<i64>,
    ) -> BoxFuture<'a, Result<Found<Written>>> {
        let (id, digest) = (place.id, *digest);
        Box::pin(self.on(place.shard, move |shard| {
            let mut session = match shard.standing(&id, Some(&digest))? {
                Standing::Live(session, _) => session,
                other => return refusal(shard, &id, other),
            };
            let (idle, absolute) = (session.idle, session.absolute);
            session.idle = idle_ms.unwrap_or(idle);
            session.absolute = absolute_ms.unwrap_or(absolute);
            if session.idle < idle || session.absolute < absolute {
                // A copy from before lives by what it was then: so long nothing may revive this
                // one.
                session.longest = Some(session.longest.unwrap_or(0).max(absolute));
            }
            session.last = shard.now();
            session.expiry = session.ends(throttle_ms);
            if session.expiry <= shard.now() {
                shard.bury(&id, &session, "expired", "")?;
                return Ok(Found::Expired);
            }
            shard.keep(&id, &session)?;
            shard.index(&id, &session)?;
            Ok(Found::Live(session.written(shard.now())))
        }))
    }

    fn rotate<'a>(
        &'a self,
        place: Place,
        digest: &'a Digest,
        throttle_ms: i64,
        next: &'a Next,
    ) -> BoxFuture<'a, Result<Found<Rotated>>> {
        let (digest, next) = (*digest, next.clone());
        Box::pin(
            self.on(place.shard, move |shard| rotate(shard, &place.id, &digest, throttle_ms, next)),
        )
    }

    fn depart<'a>(
        &'a self,
        place: Place,
        digest: Option<&'a Digest>,
        departure: Option<&'a Departure>,
    ) -> BoxFuture<'a, Result<Found<Moving>>> {
        let (digest, departure) = (digest.copied(), departure.cloned());
        Box::pin(
            self.on(place.shard, move |shard| depart(shard, &place.id, digest.as_ref(), departure)),
        )
    }

    fn settle<'a>(&'a self, place: Place, to: &'a Digest) -> BoxFuture<'a, Result<bool>> {
        let named = *to;
        Box::pin(self.on(place.shard, move |shard| {
            let id = place.id;
            let Some(session) = shard.session(&id)? else { return Ok(false) };
            let Some(to) = session.moving.clone() else { return Ok(false) };
            if to.digest != named.0 {
                return Ok(false);
            }
            let until = shard.now() + to.grace;
            let Session { digest, version, .. } = session;
            let grave = Grave::Moved { shard: to.shard, until, digest, version };
            shard.entomb(&id, &session, &grave)?;
            shard.keep_wrapped(&id, Wrapped(to.wrapped), to.grace)?;
            shard.unindex(&id, &session)?;
            Ok(true)
        }))
    }

    fn invalidate<'a>(
        &'a self,
        place: Place,
        digest: Option<&'a Digest>,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<Found<()>>> {
        let (id, digest, reason) = (place.id, digest.copied(), reason.to_owned());
        Box::pin(self.on(place.shard, move |shard| match shard.standing(&id, digest.as_ref())? {
            Standing::Live(session, _) => {
                shard.bury(&id, &session, "invalidated", &reason)?;
                Ok(Found::Live(()))
            }
            other => refusal(shard, &id, other),
        }))
    }

    fn epoch<'a>(
        &'a self,
        shard: u16,
        whole: Whole<'a>,
        raise: Raise<'a>,
    ) -> BoxFuture<'a, Result<i64>> {
        let key = whole.key();
        let (least, reason) = match raise {
            Raise::No => (0, String::new()),
            Raise::Above(reason) => (-1, reason.to_owned()),
            Raise::To(least, reason) => (least, reason.to_owned()),
        };
        Box::pin(self.on(shard, move |shard| {
            let before = shard.epoch_at(&key)?.number;
            if least == 0 || least > 0 && least <= before {
                return Ok(before);
            }
            let number = if least > 0 { least } else { shard.now().max(before + 1) };
            let ttl = i64::try_from(EPOCH_TTL.as_millis()).unwrap_or(i64::MAX);
            shard.keep_epoch(&key, &Epoch { number, reason }, ttl)?;
            Ok(number)
        }))
    }

    fn sweep<'a>(
        &'a self,
        shard: u16,
        index: &'a Index,
        skip: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Swept>> {
        let index = index.clone();
        Box::pin(self.on(shard, move |shard| {
            let members = shard.members(&index, skip, limit)?;
            let (seen, mut ended) = (members.len(), 0);
            for id in members.iter().filter_map(|member| Id::decode(member)) {
                let Some(session) = shard.passing(&id)? else { continue };
                if let Some(reason) = shard.revoked(&session)? {
                    shard.bury(&id, &session, "invalidated", &reason)?;
                    ended += 1;
                }
            }
            let left = u64::try_from(seen).unwrap_or(u64::MAX) - ended;
            Ok(Swept { ended, left, more: seen == limit })
        }))
    }

    fn reap(&self, shard: u16, limit: usize) -> BoxFuture<'_, Result<Reaped>> {
        Box::pin(self.on(shard, move |shard| {
            let now = shard.now();
            let mut due = shard.ranked(&Index::All, (i64::MIN, ""), limit)?;
            due.retain(|(_, expiry)| *expiry <= now);
            let (seen, mut ended) = (due.len(), 0);
            for (member, _) in due {
                let session = match Id::decode(&member) {
                    Some(id) => shard.passing(&id)?.map(|session| (id, session)),
                    None => None,
                };
                match session {
                    None => {
                        shard.discard(&member)?;
                        shard.announce(&member, "expired", None, "vanished")?;
                        ended += 1;
                    }
                    Some((id, session)) if session.expiry > now => {
                        shard.rank(&Index::All, &id, session.expiry)?;
                    }
                    Some((id, session)) => {
                        match shard.revoked(&session)? {
                            Some(reason) => shard.bury(&id, &session, "invalidated", &reason)?,
                            None => shard.bury(&id, &session, "expired", "")?,
                        }
                        ended += 1;
                    }
                }
            }
            let next = shard.ranked(&Index::All, (i64::MIN, ""), 1)?.pop();
            let next = next.map(|(_, expiry)| {
                Duration::from_millis(u64::try_from((expiry - now).max(0)).unwrap_or(0))
            });
            Ok(Reaped { ended, more: seen == limit, next })
        }))
    }

    fn list<'a>(
        &'a self,
        shard: u16,
        index: &'a Index,
        after: Option<&'a (i64, String)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Listed>> {
        let (index, after) = (index.clone(), after.cloned());
        Box::pin(self.on(shard, move |shard| list(shard, &index, after, limit)))
    }

    fn count<'a>(&'a self, shards: &'a [u16], index: &'a Index) -> BoxFuture<'a, Result<Count>> {
        let (shards, index) = (shards.to_vec(), index.clone());
        Box::pin(self.store.step(move |tx: &mut Tx<'_>| {
            let mut sum = Count::default();
            for number in shards {
                let mut shard = Shard::new(tx, number);
                let count = shard.count(&index)?;
                sum.living += count.living;
                sum.overdue += count.overdue;
                sum.late_ms = sum.late_ms.max(count.late_ms);
            }
            Ok(sum)
        }))
    }

    fn verify<'a>(
        &'a self,
        shard: u16,
        index: &'a Index,
        skip: u64,
        limit: usize,
        mend: bool,
    ) -> BoxFuture<'a, Result<Verified>> {
        let index = index.clone();
        Box::pin(self.on(shard, move |shard| verify(shard, &index, skip, limit, mend)))
    }

    fn indexes(&self, shard: u16) -> BoxFuture<'_, Result<Vec<Index>>> {
        Box::pin(self.on(shard, |shard| shard.names()))
    }

    fn in_file(&self) -> bool {
        self.store.in_file()
    }

    fn happened(
        &self,
        shard: u16,
        from: From,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Happened>>> {
        Box::pin(self.on(shard, move |shard| shard.happened(from, limit)))
    }

    fn listen(&self, _shard: u16) -> BoxFuture<'_, Result<Box<dyn Alerts>>> {
        let mut changes = self.store.changes();
        changes.mark_unchanged();
        let alerts: Box<dyn Alerts> = Box::new(Changes(changes));
        Box::pin(std::future::ready(Ok(alerts)))
    }
}

#[derive(Debug)]
struct Changes(watch::Receiver<u64>);

impl Alerts for Changes {
    fn next(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

/// The fields of a session, in order.
type Fields = BTreeMap<String, Blob>;

impl Session {
    fn written(&self, now: i64) -> Written {
        Written { version: self.version, expiry: self.expiry, now }
    }

    fn record(&self, now: i64) -> Record {
        let fields = self.fields.iter().map(|(field, value)| (field.clone(), value.0.clone()));
        Record {
            version: self.version,
            created: self.created,
            last: self.last,
            expiry: self.expiry,
            now,
            idle_ms: self.idle,
            absolute_ms: self.absolute,
            of_user: self.of_user,
            of_company: self.of_company,
            schema: self.schema,
            checksum: self.checksum,
            names: self.names.clone().into(),
            digest: Digest(self.digest),
            fields: fields.collect(),
        }
    }
}
