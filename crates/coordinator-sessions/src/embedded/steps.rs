//! The steps that are more than a few lines, on one shard: what the scripts do, in Rust.

use super::session::{Grave, Move, Session, Shard, Standing, readable};
use crate::{
    backend::{
        Before, Created, Crowded, Departure, Existing, FIELDS_MAX, Found, Index, Listed, Moved,
        Moving, New, Next, Origin, Patch, Patched, Rotated, Verified,
    },
    store::Blob,
    token::{Digest, Id, Wrapped},
};
use coordinator_core::Result;

/// Turns what is not simply there into an answer; a replay revokes the session.
pub(super) fn refusal<T>(
    shard: &mut Shard<'_, '_>,
    id: &Id,
    standing: Standing,
) -> Result<Found<T>> {
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

/// The session that one more replaces, and that goes for it, unless it has ended, or moves.
fn replaced(shard: &Shard<'_, '_>, replaces: Option<Id>) -> Result<Option<(Id, Session)>> {
    let Some(id) = replaces else { return Ok(None) };
    Ok(match readable(shard.standing(&id, None))? {
        Some(Standing::Live(session, _)) => Some((id, session)),
        _ => None,
    })
}

pub(super) fn create(shard: &mut Shard<'_, '_>, new: New) -> Result<Created> {
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
    match shard.grave(&id)? {
        // It may come back, but not as it was before it left.
        None => {}
        Some(Grave::Moved { version: left, .. }) if mode == 1 && left < version => {}
        Some(_) => return Ok(Created::Buried),
    }
    if let Some(old) = &there {
        if mode < 2 && old.digest == new.digest.0 {
            return Ok(Created::Made { written: old.written(now), evicted: 0 });
        }
        let newer = mode == 4 || mode == 3 && (version, last) > (old.version, old.last);
        if !newer || old.moving.is_some() {
            return Ok(Created::Exists);
        }
        if shard.revoked(old)?.is_some() {
            return Ok(Created::Buried);
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
        let (crowd, live) = shard.crowd(&new.names.user, &id, new.replaces.as_ref(), cap)?;
        if !crowd.is_empty() && cap.policy == Crowded::Refuse {
            return Ok(Created::Full { live });
        }
        leaving = crowd;
    }
    let replaced = replaced(shard, new.replaces)?;
    if let Some(old) = &there {
        shard.unindex(&id, old)?;
    }
    let longest = match &there {
        Some(old) => Some(old.ever()),
        None => shard.exhume(&id, created)?,
    };
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
        longest,
        fields: new.fields.into_iter().map(|(field, value)| (field, Blob(value))).collect(),
    };
    shard.keep(&id, &session)?;
    shard.index(&id, &session)?;
    for (other, session) in &leaving {
        shard.bury(other, session, "invalidated", "cap")?;
    }
    if let Some((other, session)) = &replaced {
        shard.bury(other, session, "invalidated", "replaced")?;
    }
    if new.announced {
        let event = if mode == 1 { "rotated" } else { "created" };
        shard.announce(&id.encode(), event, Some(&session), "")?;
    }
    let evicted = leaving.len().try_into().unwrap_or(u64::MAX);
    Ok(Created::Made { written: session.written(now), evicted })
}

pub(super) fn patch(
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

pub(super) fn rotate(
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
                let (crowd, live) = shard.crowd(&names.user, id, None, cap)?;
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

pub(super) fn depart(
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

pub(super) fn list(
    shard: &mut Shard<'_, '_>,
    index: &Index,
    after: Option<(i64, String)>,
    limit: usize,
) -> Result<Listed> {
    let now = shard.now();
    let after = after.unwrap_or_default();
    let after = if after.0 < now { (now, "~".to_owned()) } else { after };
    let page = shard.ranked(index, (after.0, &after.1), limit)?;
    let mut listed = Listed { sessions: Vec::new(), unreadable: Vec::new(), next: None };
    for (member, expiry) in &page {
        let Some(id) = Id::decode(member) else { continue };
        match readable(shard.standing(&id, None))? {
            Some(Standing::Live(session, _)) => listed.sessions.push((id, session.record(now))),
            Some(_) => {}
            None => listed.unreadable.push((*expiry, member.clone())),
        }
    }
    if page.len() == limit {
        listed.next = page.into_iter().next_back().map(|(member, expiry)| (expiry, member));
    }
    Ok(listed)
}

pub(super) fn verify(
    shard: &mut Shard<'_, '_>,
    index: &Index,
    skip: u64,
    limit: usize,
    mend: bool,
) -> Result<Verified> {
    let page = shard.members(index, skip, limit)?;
    let seen = page.len().try_into().unwrap_or(u64::MAX);
    let mut verified = Verified { seen, left: seen, ..Verified::default() };
    for member in page {
        let session = match Id::decode(&member) {
            Some(id) => {
                let Some(session) = readable(shard.session(&id))? else {
                    // It may be mended, but not here.
                    verified.unreadable += 1;
                    continue;
                };
                session.map(|session| (id, session))
            }
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
        if !session.indexes().contains(index) {
            verified.strays += 1;
            if mend && shard.drop_from(index, &member)? {
                verified.left -= 1;
            }
        }
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
