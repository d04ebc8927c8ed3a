//! Arguments of scripts and fields of their answers, in the words of the port.

use crate::{
    backend::{Cap, Crowded, Fields, Found, Moved, Names, Next, Record, SHARDS, Written},
    token::{Digest, Wrapped},
};
use coordinator_core::{
    Error, Result,
    redis::{self, Arg},
};
use std::time::Duration;

pub(super) fn number(value: u64) -> Arg {
    i64::try_from(value).unwrap_or(i64::MAX).into()
}

pub(super) fn size(value: usize) -> Arg {
    i64::try_from(value).unwrap_or(i64::MAX).into()
}

pub(super) fn ms(duration: Duration) -> Arg {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1).into()
}

pub(super) fn digest_or_none(digest: Option<&Digest>) -> Arg {
    digest.map_or_else(|| Arg::from(""), |digest| Arg::from_bytes(&digest.0))
}

pub(super) fn maybe(value: Option<i64>) -> Arg {
    value.unwrap_or(-1).into()
}

pub(super) fn cap(cap: Option<Cap>) -> [Arg; 2] {
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

pub(super) fn names(names: &Names) -> [Arg; 4] {
    [
        names.user.as_str().into(),
        names.company.as_str().into(),
        names.crew.as_str().into(),
        i64::from(names.checksum()).into(),
    ]
}

pub(super) fn pairs(args: &mut Vec<Arg>, fields: &Fields) {
    for (field, value) in fields {
        args.push(field.as_str().into());
        args.push(Arg::from_bytes(value));
    }
}

pub(super) fn bytes32(fields: &mut redis::Fields) -> Result<[u8; 32]> {
    let bytes = fields.bytes()?;
    let wrong = |_| Error::corrupt("sessions", "a digest of another length");
    <[u8; 32]>::try_from(&bytes[..]).map_err(wrong)
}

pub(super) fn wrapped(fields: &mut redis::Fields) -> Result<Option<Wrapped>> {
    let bytes = fields.bytes()?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let wrong = |_| Error::corrupt("sessions", "a wrapped secret of another length");
    Ok(Some(Wrapped(<[u8; 32]>::try_from(&bytes[..]).map_err(wrong)?)))
}

pub(super) fn written(fields: &mut redis::Fields) -> Result<Written> {
    Ok(Written { version: fields.unsigned()?, expiry: fields.int()?, now: fields.int()? })
}

pub(super) fn small(fields: &mut redis::Fields) -> Result<u32> {
    let wrong = |_| Error::corrupt("sessions", "a number that is too large");
    u32::try_from(fields.unsigned()?).map_err(wrong)
}

pub(super) fn shard_number(fields: &mut redis::Fields) -> Result<u16> {
    let number = u16::try_from(fields.unsigned()?).ok().filter(|shard| *shard < SHARDS);
    number.ok_or_else(|| Error::corrupt("sessions", "a shard that there is not"))
}

pub(super) fn three(fields: &mut redis::Fields) -> Result<Names> {
    Ok(Names { user: fields.text()?, company: fields.text()?, crew: fields.text()? })
}

pub(super) fn record(fields: &mut redis::Fields) -> Result<Record> {
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
        digest: Digest(bytes32(fields)?),
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
pub(super) fn found<T>(
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

pub(super) fn next_args(args: &mut Vec<Arg>, next: &Next) {
    args.push(Arg::from_bytes(&next.digest.0));
    args.push(Arg::from_bytes(&next.wrapped.0));
    args.push(next.grace_ms.max(1).into());
}
