//! The adapter over Redis and Valkey: keys, and one static script per step.

mod channel;
pub(crate) mod legacy;

use crate::{
    backend::{
        Alerts, Backend, Cap, Count, Created, Crowded, Departure, EPOCH_TTL, Existing, FIELDS_MAX,
        Fields, Found, From, Happened, Index, Listed, Moved, Moving, Names, New, Next, Origin,
        Patch, Patched, Place, Raise, Reaped, Record, Rotated, SHARDS, Swept, Verified, Whole,
        Written,
    },
    token::{Digest, Id, Wrapped},
};
use channel::Channel;
use coordinator_core::{
    BoxFuture, Error, Result,
    clock::Clock,
    key::Shard,
    redis::{self, Arg, Connection, Script},
};
use std::{sync::Arc, time::Duration};

/// What stands before the scripts that know what a session is.
macro_rules! sessions {
    ($($file:literal),+) => {
        concat!(
            include_str!("redis/session.lua"),
            include_str!("redis/index.lua"),
            $(include_str!($file)),+
        )
    };
}

static CREATE: Script = Script::new(
    "sessions.create",
    sessions!("redis/answer.lua", "redis/cap.lua", "redis/create.lua"),
);
static LOAD: Script = Script::new("sessions.load", sessions!("redis/answer.lua", "redis/load.lua"));
static PATCH: Script =
    Script::new("sessions.patch", sessions!("redis/answer.lua", "redis/patch.lua"));
static EXTEND: Script =
    Script::new("sessions.extend", sessions!("redis/answer.lua", "redis/extend.lua"));
static ROTATE: Script = Script::new(
    "sessions.rotate",
    sessions!("redis/answer.lua", "redis/cap.lua", "redis/rotate.lua"),
);
static DEPART: Script =
    Script::new("sessions.depart", sessions!("redis/answer.lua", "redis/depart.lua"));
static SETTLE: Script = Script::new("sessions.settle", sessions!("redis/settle.lua"));
static INVALIDATE: Script =
    Script::new("sessions.invalidate", sessions!("redis/answer.lua", "redis/invalidate.lua"));
static EPOCH: Script = Script::new("sessions.epoch", include_str!("redis/epoch.lua"));
static SWEEP: Script = Script::new("sessions.sweep", sessions!("redis/sweep.lua"));
static REAP: Script = Script::new("sessions.reap", sessions!("redis/reap.lua"));
static LIST: Script = Script::new("sessions.list", sessions!("redis/answer.lua", "redis/list.lua"));
static COUNT: Script = Script::new("sessions.count", include_str!("redis/count.lua"));
static VERIFY: Script = Script::new("sessions.verify", sessions!("redis/verify.lua"));
static HAPPENED: Script = Script::new("sessions.happened", include_str!("redis/happened.lua"));

/// Every script of sessions, for warming up and for tests.
#[doc(hidden)]
pub static SCRIPTS: &[&Script] = &[
    &CREATE,
    &LOAD,
    &PATCH,
    &EXTEND,
    &ROTATE,
    &DEPART,
    &SETTLE,
    &INVALIDATE,
    &EPOCH,
    &SWEEP,
    &REAP,
    &LIST,
    &COUNT,
    &VERIFY,
    &HAPPENED,
];

#[derive(Debug)]
pub(crate) struct Redis {
    connection: Connection,
    /// The shards' key bases, built once.
    shards: Vec<Shard>,
}

impl Redis {
    pub(crate) fn new(connection: &Connection) -> Self {
        let keyspace = connection.keyspace();
        Self {
            shards: (0..SHARDS).map(|shard| keyspace.shard("s", shard)).collect(),
            connection: connection.clone(),
        }
    }

    fn shard(&self, shard: u16) -> &Shard {
        &self.shards[usize::from(shard)]
    }

    /// A session's hash and its grave, of which one at most is there: while the slot moves to
    /// another node, whoever names both is told to try again, and no script finds half its keys.
    fn keys(&self, place: Place) -> Vec<String> {
        ["s", "t"].map(|kind| self.shard(place.shard).key(kind, &place.id.encode())).into()
    }

    /// An index and, for the same reason, a key that is never there.
    fn listing(&self, shard: u16, index: &Index) -> Vec<String> {
        vec![self.index(shard, index), self.shard(shard).key("t", "")]
    }

    fn index(&self, shard: u16, index: &Index) -> String {
        self.shard(shard).key(&index.key(), "")
    }

    async fn fields(
        &self,
        script: &'static Script,
        keys: Vec<String>,
        args: Vec<Arg>,
    ) -> Result<redis::Fields> {
        Ok(self.connection.run(script, keys, args).await?.fields(script.name()))
    }
}

fn number(value: u64) -> Arg {
    i64::try_from(value).unwrap_or(i64::MAX).into()
}

fn size(value: usize) -> Arg {
    i64::try_from(value).unwrap_or(i64::MAX).into()
}

fn ms(duration: Duration) -> Arg {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1).into()
}

fn digest_or_none(digest: Option<&Digest>) -> Arg {
    digest.map_or_else(|| Arg::from(""), |digest| Arg::from_bytes(&digest.0))
}

fn maybe(value: Option<i64>) -> Arg {
    value.unwrap_or(-1).into()
}

fn cap(cap: Option<Cap>) -> [Arg; 2] {
    let (most, policy) = cap.map_or((0, 0), |cap| {
        let policy = match cap.policy {
            Crowded::Refuse => 0,
            Crowded::Oldest => 1,
            Crowded::LeastRecent => 2,
        };
        (cap.most, policy)
    });
    [i64::from(most).into(), policy.into()]
}

fn names(names: &Names) -> [Arg; 4] {
    [
        names.user.as_str().into(),
        names.company.as_str().into(),
        names.crew.as_str().into(),
        i64::from(names.checksum()).into(),
    ]
}

fn pairs(args: &mut Vec<Arg>, fields: &Fields) {
    for (field, value) in fields {
        args.push(field.as_str().into());
        args.push(Arg::from_bytes(value));
    }
}

fn of32(bytes: &[u8]) -> Result<[u8; 32]> {
    bytes.try_into().map_err(|_| Error::corrupt("sessions", "a digest or secret of another length"))
}

fn wrapped(fields: &mut redis::Fields) -> Result<Option<Wrapped>> {
    let bytes = fields.bytes()?;
    Ok(if bytes.is_empty() { None } else { Some(Wrapped(of32(&bytes)?)) })
}

fn written(fields: &mut redis::Fields) -> Result<Written> {
    Ok(Written { version: fields.unsigned()?, expiry: fields.int()?, now: fields.int()? })
}

fn small(fields: &mut redis::Fields) -> Result<u32> {
    let wrong = |_| Error::corrupt("sessions", "a number that is too large");
    u32::try_from(fields.unsigned()?).map_err(wrong)
}

fn shard_number(fields: &mut redis::Fields) -> Result<u16> {
    let number = u16::try_from(fields.unsigned()?).ok().filter(|shard| *shard < SHARDS);
    number.ok_or_else(|| Error::corrupt("sessions", "a shard that there is not"))
}

fn three(fields: &mut redis::Fields) -> Result<Names> {
    Ok(Names { user: fields.text()?, company: fields.text()?, crew: fields.text()? })
}

fn record(fields: &mut redis::Fields) -> Result<Record> {
    let mut record = Record {
        version: fields.unsigned()?,
        created: fields.int()?,
        last: fields.int()?,
        expiry: fields.int()?,
        now: fields.int()?,
        idle_ms: fields.int()?,
        absolute_ms: fields.int()?,
        of_user: fields.int()?,
        of_company: fields.int()?,
        schema: small(fields)?,
        checksum: small(fields)?,
        names: three(fields)?,
        digest: Digest(of32(&fields.bytes()?)?),
        fields: Vec::new(),
    };
    for _ in 0..fields.unsigned()? {
        record.fields.push((fields.text()?, fields.bytes()?.to_vec()));
    }
    // The order in a hash is not ours.
    record.fields.sort();
    Ok(record)
}

/// Reads an answer about a session, with `live` for one that lives.
fn found<T>(
    fields: &mut redis::Fields,
    live: impl FnOnce(u64, &mut redis::Fields) -> Result<T>,
) -> Result<Found<T>> {
    Ok(match fields.unsigned()? {
        2 => Found::Absent,
        3 => Found::Expired,
        4 => Found::Revoked(fields.text()?),
        5 => Found::Moved(Moved {
            shard: shard_number(fields)?,
            late: fields.unsigned()? == 1,
            wrapped: wrapped(fields)?,
            here: fields.unsigned()? == 1,
        }),
        code => Found::Live(live(code, fields)?),
    })
}

fn next_args(args: &mut Vec<Arg>, next: &Next) {
    args.push(Arg::from_bytes(&next.digest.0));
    args.push(Arg::from_bytes(&next.wrapped.0));
    args.push(next.grace_ms.max(1).into());
}

impl Backend for Redis {
    fn clock(&self) -> &Arc<dyn Clock> {
        self.connection.clock()
    }

    fn create<'a>(&'a self, new: &'a New) -> BoxFuture<'a, Result<Created>> {
        Box::pin(async move {
            let (mode, before) = match new.origin {
                Origin::New => (0, None),
                Origin::Arrives(before) => (1, Some(before)),
                Origin::Restored(before, Existing::Stays) => (2, Some(before)),
                Origin::Restored(before, Existing::GivesWayToNewer) => (3, Some(before)),
                Origin::Restored(before, Existing::GivesWay) => (4, Some(before)),
            };
            let mut args = vec![Arg::from(new.place.id.encode()), Arg::from_bytes(&new.digest.0)];
            args.extend(names(&new.names));
            args.extend([new.idle_ms.into(), new.absolute_ms.into(), new.throttle_ms.into()]);
            args.push(i64::from(new.schema).into());
            args.extend(cap(new.cap));
            args.push(mode.into());
            let (created, last, version) =
                before.map_or((0, 0, 0), |before| (before.created, before.last, before.version));
            args.extend([created.into(), last.into(), number(version)]);
            args.push(maybe(before.and_then(|before| before.of_user)));
            args.push(maybe(before.and_then(|before| before.of_company)));
            args.push(i64::from(new.announced).into());
            args.push(new.replaces.map_or_else(String::new, |id| id.encode()).into());
            pairs(&mut args, &new.fields);
            let keys = self.keys(new.place);
            let mut fields = self.fields(&CREATE, keys, args).await?;
            Ok(match fields.unsigned()? {
                1 => Created::Made { written: written(&mut fields)?, evicted: fields.unsigned()? },
                2 => Created::Exists,
                3 => Created::Buried,
                4 => Created::Stale,
                5 => Created::Full { live: fields.unsigned()? },
                _ => Created::Late,
            })
        })
    }

    fn load<'a>(
        &'a self,
        place: Place,
        digest: Option<&'a Digest>,
        throttle_ms: Option<i64>,
    ) -> BoxFuture<'a, Result<Found<crate::backend::Known>>> {
        Box::pin(async move {
            let args =
                vec![Arg::from(place.id.encode()), digest_or_none(digest), maybe(throttle_ms)];
            let mut fields = self.fields(&LOAD, self.keys(place), args).await?;
            found(&mut fields, |_, fields| Ok((record(fields)?, wrapped(fields)?)))
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
            let mut args = vec![
                Arg::from(place.id.encode()),
                Arg::from_bytes(&digest.0),
                Arg::from_bytes(&patch.token),
                patch.version.map_or_else(|| Arg::from(-1), number),
                throttle_ms.into(),
                maybe(patch.schema.map(i64::from)),
                i64::from(patch.announced).into(),
                size(FIELDS_MAX),
                size(patch.set.len()),
            ];
            pairs(&mut args, &patch.set);
            args.extend(patch.removed.iter().map(|field| Arg::from(field.as_str())));
            let mut fields = self.fields(&PATCH, self.keys(place), args).await?;
            found(&mut fields, |code, fields| {
                Ok(match code {
                    7 => Patched::Conflict { version: fields.unsigned()? },
                    8 => Patched::TooMany { fields: fields.unsigned()? },
                    _ => Patched::Done(written(fields)?),
                })
            })
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
            let args = vec![
                Arg::from(place.id.encode()),
                Arg::from_bytes(&digest.0),
                maybe(idle_ms),
                maybe(absolute_ms),
                throttle_ms.into(),
            ];
            let mut fields = self.fields(&EXTEND, self.keys(place), args).await?;
            found(&mut fields, |_, fields| written(fields))
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
            let mut args = vec![Arg::from(place.id.encode()), Arg::from_bytes(&digest.0)];
            next_args(&mut args, next);
            args.push(throttle_ms.into());
            args.extend(cap(next.cap));
            args.push(i64::from(next.names.is_some()).into());
            args.extend(names(next.names.as_ref().unwrap_or(&Names::default())));
            let mut fields = self.fields(&ROTATE, self.keys(place), args).await?;
            found(&mut fields, |code, fields| {
                Ok(match code {
                    9 => Rotated::Full { live: fields.unsigned()? },
                    _ => Rotated::Done { written: written(fields)?, wrapped: wrapped(fields)? },
                })
            })
        })
    }

    fn depart<'a>(
        &'a self,
        place: Place,
        digest: Option<&'a Digest>,
        departure: Option<&'a Departure>,
    ) -> BoxFuture<'a, Result<Found<Moving>>> {
        Box::pin(async move {
            let mut args = vec![Arg::from(place.id.encode()), digest_or_none(digest)];
            if let Some(departure) = departure {
                next_args(&mut args, &departure.next);
                args.push(i64::from(departure.shard).into());
                args.push(departure.of_user.into());
                args.extend(names(&departure.names));
            } else {
                args.push("".into());
            }
            let mut fields = self.fields(&DEPART, self.keys(place), args).await?;
            found(&mut fields, |_, fields| {
                Ok(Moving {
                    shard: shard_number(fields)?,
                    of_user: fields.int()?,
                    grace_ms: fields.int()?,
                    checksum: small(fields)?,
                    names: three(fields)?,
                    digest: Digest(of32(&fields.bytes()?)?),
                    wrapped: Wrapped(of32(&fields.bytes()?)?),
                    record: record(fields)?,
                })
            })
        })
    }

    fn settle<'a>(&'a self, place: Place, to: &'a Digest) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let keys = self.keys(place);
            let args = vec![Arg::from(place.id.encode()), digest_or_none(Some(to))];
            Ok(self.fields(&SETTLE, keys, args).await?.unsigned()? == 1)
        })
    }

    fn invalidate<'a>(
        &'a self,
        place: Place,
        digest: Option<&'a Digest>,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<Found<()>>> {
        Box::pin(async move {
            let args = vec![Arg::from(place.id.encode()), digest_or_none(digest), reason.into()];
            let mut fields = self.fields(&INVALIDATE, self.keys(place), args).await?;
            found(&mut fields, |_, _| Ok(()))
        })
    }

    fn epoch<'a>(
        &'a self,
        shard: u16,
        whole: Whole<'a>,
        raise: Raise<'a>,
    ) -> BoxFuture<'a, Result<i64>> {
        Box::pin(async move {
            let (least, reason) = match raise {
                Raise::No => (0, ""),
                Raise::Above(reason) => (-1, reason),
                Raise::To(least, reason) => (least, reason),
            };
            let keys = vec![self.shard(shard).key(&whole.key(), "")];
            let args = vec![Arg::from(least), Arg::from(reason), ms(EPOCH_TTL)];
            self.fields(&EPOCH, keys, args).await?.int()
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
            let keys = self.listing(shard, index);
            let args = vec![Arg::from(index.key()), number(skip), size(limit)];
            let mut fields = self.fields(&SWEEP, keys, args).await?;
            let (ended, left) = (fields.unsigned()?, fields.unsigned()?);
            Ok(Swept { ended, left, more: fields.unsigned()? == 1 })
        })
    }

    fn reap(&self, shard: u16, limit: usize) -> BoxFuture<'_, Result<Reaped>> {
        Box::pin(async move {
            let keys = self.listing(shard, &Index::All);
            let mut fields = self.fields(&REAP, keys, vec![size(limit)]).await?;
            let (ended, more) = (fields.unsigned()?, fields.unsigned()? == 1);
            let next = u64::try_from(fields.int()?).ok().map(Duration::from_millis);
            Ok(Reaped { ended, more, next })
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
            let keys = self.listing(shard, index);
            let (expiry, id) = after.map_or((0, ""), |(expiry, id)| (*expiry, id.as_str()));
            let args = vec![Arg::from(index.key()), Arg::from(expiry), Arg::from(id), size(limit)];
            let mut fields = self.fields(&LIST, keys, args).await?;
            fields.unsigned()?;
            let more = fields.unsigned()? == 1;
            let last = (fields.int()?, fields.text()?);
            let mut broken = fields.array()?;
            let unreadable = (0..broken.unsigned()?).map(|_| Ok((broken.int()?, broken.text()?)));
            let unreadable = unreadable.collect::<Result<_>>()?;
            let mut sessions = Vec::new();
            while !fields.is_empty() {
                let mut one = fields.array()?;
                // Whatever is not an id of ours belongs to nobody.
                if let Some(id) = Id::decode(&one.text()?) {
                    sessions.push((id, record(&mut one)?));
                }
            }
            Ok(Listed { sessions, unreadable, next: more.then_some(last) })
        })
    }

    fn count<'a>(&'a self, shards: &'a [u16], index: &'a Index) -> BoxFuture<'a, Result<Count>> {
        Box::pin(async move {
            let at_once = if self.connection.is_one_keyspace() { shards.len().max(1) } else { 1 };
            let counts = shards.chunks(at_once).map(|shards| async {
                let keys = shards.iter().map(|shard| self.index(*shard, index)).collect();
                let mut fields = self.fields(&COUNT, keys, Vec::new()).await?;
                Ok::<_, Error>(Count {
                    living: fields.unsigned()?,
                    overdue: fields.unsigned()?,
                    late_ms: fields.unsigned()?,
                })
            });
            let counts = futures::future::try_join_all(counts).await?;
            Ok(counts.into_iter().fold(Count::default(), |sum, count| Count {
                living: sum.living + count.living,
                overdue: sum.overdue + count.overdue,
                late_ms: sum.late_ms.max(count.late_ms),
            }))
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
        Box::pin(async move {
            let keys = self.listing(shard, index);
            let args =
                vec![Arg::from(index.key()), number(skip), size(limit), i64::from(mend).into()];
            let mut fields = self.fields(&VERIFY, keys, args).await?;
            let mut verified = Verified {
                seen: fields.unsigned()?,
                left: fields.unsigned()?,
                orphans: fields.unsigned()?,
                missing: fields.unsigned()?,
                unreadable: fields.unsigned()?,
                strays: fields.unsigned()?,
                indexes: Vec::new(),
            };
            for _ in 0..fields.unsigned()? {
                verified.indexes.extend(Index::of_key(&fields.text()?));
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
            let keys = vec![self.shard(shard).key("ev", "")];
            let (after, ago) = match from {
                From::After((ms, sequence)) => (format!("{ms}-{sequence}"), Arg::from(0)),
                From::Newest => ("$".to_owned(), Arg::from(0)),
                From::Ago(ago) => (String::new(), ms(ago)),
            };
            let args = vec![Arg::from(after), ago, size(limit)];
            let mut fields = self.fields(&HAPPENED, keys, args).await?;
            let entries = (0..fields.unsigned()?).map(|_| {
                let mut fields = fields.array()?;
                Ok(Happened {
                    at: (fields.unsigned()?, fields.unsigned()?),
                    event: fields.text()?,
                    id: fields.text()?,
                    names: three(&mut fields)?,
                    version: fields.unsigned()?,
                    reason: fields.text()?,
                })
            });
            entries.collect()
        })
    }

    fn listen(&self, shard: u16) -> BoxFuture<'_, Result<Box<dyn Alerts>>> {
        Box::pin(async move {
            let channel = self.shard(shard).key("ev", "");
            let alerts: Box<dyn Alerts> =
                Box::new(Channel(self.connection.subscribe(&channel).await?));
            Ok(alerts)
        })
    }
}
