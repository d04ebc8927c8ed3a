//! The adapter in process: the executable specification of the scripts, over the store.

mod session;

use crate::{
    backend::{
        Alerts, Backend, Before, Count, Created, Crowded, Departure, EPOCH_TTL, Existing,
        FIELDS_MAX, Found, From, Happened, Index, Listed, Moved, Moving, New, Next, Origin, Patch,
        Patched, Place, Raise, Reaped, Record, Rotated, Swept, Verified, Whole, Written,
    },
    store::{Blob, Store, Tx},
    token::{Digest, Id, Wrapped},
};
use coordinator_core::{BoxFuture, Result, clock::Clock};
use session::{Epoch, Grave, Move, Session, Shard, Standing};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
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

/// Turns what is not simply there into an answer; a replay revokes the session.
fn refusal<T>(shard: &mut Shard<'_, '_>, id: &Id, standing: Standing) -> Result<Found<T>> {
    Ok(match standing {
        Standing::Replayed(session) => {
            shard.bury(id, &session, "invalidated", "replayed")?;
            Found::Revoked("replayed".to_owned())
        }
        Standing::Expired => Found::Expired,
        Standing::Revoked(reason) => Found::Revoked(reason),
        Standing::Moving(session) => match &session.moving {
            Some(to) => Found::Moved(Moved {
                shard: to.shard,
                late: false,
                wrapped: Some(Wrapped(to.wrapped)),
                here: true,
            }),
            None => Found::Absent,
        },
        Standing::Moved(moved) => Found::Moved(moved),
        Standing::Absent | Standing::Live(..) => Found::Absent,
    })
}

fn create(shard: &mut Shard<'_, '_>, new: New) -> Result<Created> {
    let now = shard.now();
    let id = new.place.id;
    let (mode, before) = match new.origin {
        Origin::New => (0, None),
        Origin::Arrives(before) => (1, Some(before)),
        Origin::Restored(before, Existing::Stays) => (2, Some(before)),
        Origin::Restored(before, Existing::GivesWayToNewer) => (3, Some(before)),
        Origin::Restored(before, Existing::GivesWay) => (4, Some(before)),
    };
    let (created, last, version) = match before {
        None => (now, now, 1),
        Some(before) if before.created == Before::NOW => (now, now, before.version),
        Some(before) => (before.created, before.last, before.version),
    };
    let expiry = (last + new.idle_ms + new.throttle_ms).min(created + new.absolute_ms);
    let there = shard.session(&id)?;
    if shard.grave(&id)?.is_some() {
        return Ok(Created::Buried);
    }
    if let Some(old) = &there {
        if mode < 2 && old.digest == new.digest.0 {
            return Ok(Created::Made { written: old.written(now), evicted: 0 });
        }
        if mode < 3 || (mode == 3 && (version, last) <= (old.version, old.last)) {
            return Ok(Created::Exists);
        }
    }
    let (user, company) =
        (shard.epoch(&new.names.user, "g")?, shard.epoch(&new.names.company, "gc")?);
    let of_user = before.and_then(|before| before.of_user).unwrap_or(user.number);
    let of_company = before.and_then(|before| before.of_company).unwrap_or(company.number);
    let named = |name: &String| !name.is_empty();
    if named(&new.names.user) && of_user < user.number
        || named(&new.names.company) && of_company < company.number
    {
        return Ok(Created::Stale);
    }
    if now >= expiry {
        return Ok(Created::Late);
    }
    // What was known elsewhere may be of a clock that is ahead: who is revoked from now on is.
    let most =
        |epoch: i64, known: i64| if mode < 2 { known } else { known.min(epoch.max(now - 1)) };
    let (of_user, of_company) = (most(user.number, of_user), most(company.number, of_company));
    let mut leaving = Vec::new();
    if let Some(cap) = new.cap.filter(|_| named(&new.names.user)) {
        let (crowd, live) = shard.crowd(&new.names.user, &id, cap)?;
        if !crowd.is_empty() && cap.policy == Crowded::Refuse {
            return Ok(Created::Full { live });
        }
        leaving = crowd;
    }
    if let Some(old) = &there {
        shard.unindex(&id, old)?;
    }
    let session = Session {
        created,
        last,
        version,
        expiry,
        idle: new.idle_ms,
        absolute: new.absolute_ms,
        of_user,
        of_company,
        schema: new.schema,
        checksum: new.names.checksum(),
        names: new.names.into(),
        digest: new.digest.0,
        token: [0; 8],
        past: None,
        older: Vec::new(),
        moving: None,
        fields: new.fields.into_iter().map(|(field, value)| (field, Blob(value))).collect(),
    };
    shard.keep(&id, &session)?;
    shard.index(&id, &session)?;
    for (other, session) in &leaving {
        shard.bury(other, session, "invalidated", "cap")?;
    }
    if new.announced {
        shard.announce(&id.encode(), "created", Some(&session), "")?;
    }
    let evicted = leaving.len().try_into().unwrap_or(u64::MAX);
    Ok(Created::Made { written: session.written(now), evicted })
}

fn patch(
    shard: &mut Shard<'_, '_>,
    id: &Id,
    digest: &Digest,
    throttle: i64,
    patch: Patch,
) -> Result<Found<Patched>> {
    let mut session = match shard.standing(id, Some(digest))? {
        Standing::Live(session, _) => session,
        other => return refusal(shard, id, other),
    };
    let now = shard.now();
    if session.token == patch.token {
        return Ok(Found::Live(Patched::Done(session.written(now))));
    }
    if patch.version.is_some_and(|version| version != session.version) {
        return Ok(Found::Live(Patched::Conflict { version: session.version }));
    }
    let before = session.fields.len();
    session.fields.extend(patch.set.into_iter().map(|(field, value)| (field, Blob(value))));
    for field in &patch.removed {
        session.fields.remove(field);
    }
    if session.fields.len() > before && session.fields.len() > FIELDS_MAX {
        let fields = session.fields.len().try_into().unwrap_or(u64::MAX);
        return Ok(Found::Live(Patched::TooMany { fields }));
    }
    session.version += 1;
    session.token = patch.token;
    session.schema = patch.schema.unwrap_or(session.schema);
    let touched = session.touch(now, throttle);
    shard.keep(id, &session)?;
    if touched {
        shard.index(id, &session)?;
    }
    if patch.announced {
        shard.announce(&id.encode(), "updated", Some(&session), "")?;
    }
    Ok(Found::Live(Patched::Done(session.written(now))))
}

fn rotate(
    shard: &mut Shard<'_, '_>,
    id: &Id,
    digest: &Digest,
    throttle: i64,
    next: Next,
) -> Result<Found<Rotated>> {
    let now = shard.now();
    let before = match shard.standing(id, Some(digest))? {
        Standing::Live(session, None) => session,
        Standing::Live(session, Some(grace)) => {
            let wrapped = if grace == 1 { shard.wrapped(id)? } else { None };
            return Ok(Found::Live(Rotated::Done { written: session.written(now), wrapped }));
        }
        other => return refusal(shard, id, other),
    };
    let mut session = before.clone();
    let mut leaving = Vec::new();
    if let Some(names) = next.names {
        session.checksum = names.checksum();
        if names.user != before.names.user {
            session.of_user = shard.epoch(&names.user, "g")?.number;
            if let Some(cap) = next.cap.filter(|_| !names.user.is_empty()) {
                let (crowd, live) = shard.crowd(&names.user, id, cap)?;
                if !crowd.is_empty() && cap.policy == Crowded::Refuse {
                    return Ok(Found::Live(Rotated::Full { live }));
                }
                leaving = crowd;
            }
        }
        if names.company != before.names.company {
            session.of_company = shard.epoch(&names.company, "gc")?.number;
        }
        session.names = names.into();
    }
    session.version += 1;
    session.last = now;
    session.expiry = session.ends(throttle);
    if let Some((digest, until)) = session.past.take() {
        session.older.insert(0, (digest[..8].to_vec(), until));
        session.older.truncate(8);
    }
    session.past = Some((before.digest, now + next.grace_ms));
    session.digest = next.digest.0;
    shard.unindex(id, &before)?;
    shard.keep(id, &session)?;
    shard.keep_wrapped(id, next.wrapped, next.grace_ms)?;
    shard.index(id, &session)?;
    for (other, session) in &leaving {
        shard.bury(other, session, "invalidated", "cap")?;
    }
    shard.announce(&id.encode(), "rotated", Some(&session), "")?;
    let written = session.written(now);
    Ok(Found::Live(Rotated::Done { written, wrapped: Some(next.wrapped) }))
}

fn depart(
    shard: &mut Shard<'_, '_>,
    id: &Id,
    digest: Option<&Digest>,
    departure: Option<Departure>,
) -> Result<Found<Moving>> {
    let session = match (shard.standing(id, digest)?, departure) {
        (Standing::Live(mut session, None), Some(departure)) => {
            session.moving = Some(Move {
                shard: departure.shard,
                of_user: departure.of_user,
                grace: departure.next.grace_ms,
                checksum: departure.names.checksum(),
                names: departure.names.into(),
                digest: departure.next.digest.0,
                wrapped: departure.next.wrapped.0,
            });
            shard.keep(id, &session)?;
            session
        }
        (Standing::Moving(session), _) => session,
        (other, _) => return refusal(shard, id, other),
    };
    let Some(to) = session.moving.clone() else { return Ok(Found::Absent) };
    Ok(Found::Live(Moving {
        shard: to.shard,
        of_user: to.of_user,
        grace_ms: to.grace,
        checksum: to.checksum,
        names: to.names.into(),
        digest: Digest(to.digest),
        wrapped: Wrapped(to.wrapped),
        record: session.record(shard.now()),
    }))
}

fn list(
    shard: &mut Shard<'_, '_>,
    index: &Index,
    after: Option<(i64, String)>,
    limit: usize,
) -> Result<Listed> {
    let now = shard.now();
    let after = after.unwrap_or_default();
    let after = if after.0 < now { (now, "~".to_owned()) } else { after };
    let page = shard.ranked(index, (after.0, &after.1), limit)?;
    let mut listed = Listed { sessions: Vec::new(), next: None };
    for (member, _) in &page {
        let Some(id) = Id::decode(member) else { continue };
        if let Standing::Live(session, _) = shard.standing(&id, None)? {
            listed.sessions.push((id, session.record(now)));
        }
    }
    if page.len() == limit {
        listed.next = page.into_iter().next_back().map(|(member, expiry)| (expiry, member));
    }
    Ok(listed)
}

fn verify(
    shard: &mut Shard<'_, '_>,
    index: &Index,
    skip: u64,
    limit: usize,
    mend: bool,
) -> Result<Verified> {
    let page = shard.members(index, skip, limit)?;
    let seen = page.len().try_into().unwrap_or(u64::MAX);
    let mut verified = Verified { seen, left: seen, orphans: 0, missing: 0, indexes: Vec::new() };
    for member in page {
        let session = match Id::decode(&member) {
            Some(id) => shard.session(&id)?.map(|session| (id, session)),
            None => None,
        };
        let Some((id, session)) = session else {
            verified.orphans += 1;
            if mend && *index == Index::All {
                // Its time is told by the reaper.
                shard.due_now(&member)?;
            } else if mend && shard.drop_from(index, &member)? {
                verified.left -= 1;
            }
            continue;
        };
        if !shard.is_indexed(&id, &session, index)? {
            verified.missing += 1;
            if mend {
                shard.index(&id, &session)?;
            }
        }
        let indexes = session.indexes().into_iter().filter(|index| *index != Index::All);
        verified.indexes.extend(indexes);
    }
    Ok(verified)
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
    ) -> BoxFuture<'a, Result<Found<(Record, Option<Wrapped>)>>> {
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
            session.idle = idle_ms.unwrap_or(session.idle);
            session.absolute = absolute_ms.unwrap_or(session.absolute);
            session.last = shard.now();
            session.expiry = session.ends(throttle_ms);
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

    fn settle(&self, place: Place) -> BoxFuture<'_, Result<bool>> {
        Box::pin(self.on(place.shard, move |shard| {
            let id = place.id;
            let Some(session) = shard.session(&id)? else { return Ok(false) };
            let Some(to) = session.moving.clone() else { return Ok(false) };
            let until = shard.now() + to.grace;
            let grave = Grave::Moved { shard: to.shard, until, digest: session.digest };
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
                let Some(session) = shard.session(&id)? else { continue };
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
                    Some(id) => shard.session(&id)?.map(|session| (id, session)),
                    None => None,
                };
                match session {
                    None => {
                        shard.drop_from(&Index::All, &member)?;
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
                std::future::pending().await
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
