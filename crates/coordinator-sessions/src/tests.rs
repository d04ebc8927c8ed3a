//! Port-level tests of sessions: both backends against each other, on a clock that the tests stop
//! and step; every step delivered twice; broken backends that must be caught.

mod broken;
mod contract;
mod orphans;
#[cfg(feature = "redis")]
mod scripts;
mod stage;
#[cfg(feature = "redis")]
mod twins;

use crate::{
    backend::{
        Backend, Created, Departure, Found, Names, New, Next, Origin, Patch, Patched, Place,
        Record, Written,
    },
    token::{Digest, Id, Wrapped},
};

/// The timeouts and the throttle of the tests, in ms.
const IDLE: i64 = 60_000;
const ABSOLUTE: i64 = 600_000;
const THROTTLE: i64 = 10_000;
const GRACE: i64 = 5_000;

fn place(shard: u16, number: u64) -> Place {
    Place { shard, id: Id::of(number) }
}

fn digest(number: u8) -> Digest {
    // The beginnings differ, as those of hashes do.
    let mut bytes = [number; 32];
    bytes[31] = 0;
    Digest(bytes)
}

fn wrapped(number: u8) -> Wrapped {
    Wrapped([number ^ 0x55; 32])
}

fn names(user: &str, company: &str) -> Names {
    Names { user: user.to_owned(), company: company.to_owned(), crew: String::new() }
}

fn new(place: Place, secret: u8, names: Names) -> New {
    New {
        place,
        digest: digest(secret),
        names,
        idle_ms: IDLE,
        absolute_ms: ABSOLUTE,
        throttle_ms: THROTTLE,
        schema: 1,
        fields: vec![("a".to_owned(), b"1".to_vec())],
        cap: None,
        replaces: None,
        origin: Origin::New,
        announced: true,
    }
}

fn next(secret: u8) -> Next {
    Next {
        digest: digest(secret),
        wrapped: wrapped(secret),
        grace_ms: GRACE,
        names: None,
        cap: None,
    }
}

fn departure(secret: u8, shard: u16, names: Names) -> Departure {
    Departure { next: next(secret), shard, of_user: 0, names }
}

fn patch(token: u8, field: &str, value: &[u8]) -> Patch {
    Patch {
        token: [token; 8],
        version: None,
        schema: None,
        set: vec![(field.to_owned(), value.to_vec())],
        removed: Vec::new(),
        announced: false,
    }
}

/// Creates the session that most tests begin with.
async fn made(backend: &dyn Backend, place: Place, secret: u8, names: Names) -> Written {
    match backend.create(&new(place, secret, names)).await.expect("an answer") {
        Created::Made { written, .. } => written,
        other => panic!("not created: {other:?}"),
    }
}

/// Looks a session up without counting that as activity.
async fn peeked(backend: &dyn Backend, place: Place, secret: u8) -> Found<Record> {
    let found = backend.load(place, Some(&digest(secret)), None).await.expect("an answer");
    found.map(|(record, _)| record)
}

/// Writes a field.
async fn patched(backend: &dyn Backend, place: Place, secret: u8, patch: &Patch) -> Found<Patched> {
    backend.patch(place, &digest(secret), THROTTLE, patch).await.expect("an answer")
}

impl<T> Found<T> {
    /// The same about something else of what lives.
    fn map<U>(self, map: impl FnOnce(T) -> U) -> Found<U> {
        match self {
            Self::Live(value) => Found::Live(map(value)),
            Self::Absent => Found::Absent,
            Self::Expired => Found::Expired,
            Self::Revoked(reason) => Found::Revoked(reason),
            Self::Moved(moved) => Found::Moved(moved),
        }
    }
}
