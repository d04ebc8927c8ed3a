//! What every backend promises, step by step; a case answers why it failed, so that it can be shown
//! to fail. Here: how they are run, and what they share.

use super::{
    ABSOLUTE, GRACE, IDLE, THROTTLE, broken, departure, digest, names, new, next, patch, place,
    stage::Stage,
};
use crate::backend::{
    Created, Departure, Found, From, Happened, Index, Moving, Names, New, Next, Patch, Patched,
    Place, Reaped, Record, Rotated, Written,
};
use coordinator_core::BoxFuture;
use std::time::Duration;

type Verdict = Result<(), String>;
type Case = fn(Stage) -> BoxFuture<'static, Verdict>;

macro_rules! ensure {
    ($holds:expr, $($why:tt)*) => {
        if !$holds {
            return Err(format!($($why)*));
        }
    };
}

/// Two values that must be the same.
macro_rules! same {
    ($one:expr, $other:expr) => {
        same!($one, $other, "")
    };
    ($one:expr, $other:expr, $($why:tt)*) => {
        match (&$one, &$other) {
            (one, other) if one != other => {
                let why = format!($($why)*);
                return Err(format!("line {}: {why} {one:?} is not {other:?}", line!()));
            }
            _ => {}
        }
    };
}

macro_rules! cases {
    ($($case:ident)*) => {
        pub(super) const CASES: &[(&str, super::Case)] =
            &[$((stringify!($case), |stage| Box::pin($case(stage)))),*];
    };
}

mod caps;
mod events;
mod indexes;
mod life;
mod moves;
mod revoking;
mod secrets;
mod shortened;
mod time;

fn all() -> impl Iterator<Item = &'static (&'static str, Case)> {
    let files = [
        life::CASES,
        secrets::CASES,
        events::CASES,
        caps::CASES,
        revoking::CASES,
        moves::CASES,
        indexes::CASES,
        time::CASES,
        shortened::CASES,
    ];
    files.into_iter().flatten()
}

fn ok<T>(answer: coordinator_core::Result<T>) -> Result<T, String> {
    answer.map_err(|error| error.chain())
}

fn ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).expect("forwards"))
}

fn nobody() -> Names {
    names("", "")
}

fn ann() -> Names {
    Names { crew: "night".to_owned(), ..names("ann", "acme") }
}

impl Stage {
    fn now_ms(&self) -> i64 {
        self.now() / 1000
    }

    async fn create(&self, new: &New) -> Result<Created, String> {
        ok(self.backend.create(new).await)
    }

    async fn made(&self, new: &New) -> Result<Written, String> {
        match self.create(new).await? {
            Created::Made { written, .. } => Ok(written),
            other => Err(format!("not created: {other:?}")),
        }
    }

    /// A session that most cases begin with: number 1 of shard 0, with secret 1.
    async fn anns(&self) -> Result<Place, String> {
        self.made(&new(place(0, 1), 1, ann())).await?;
        Ok(place(0, 1))
    }

    /// Looks a session up without counting that as activity.
    async fn peek(&self, place: Place, secret: u8) -> Result<Found<Record>, String> {
        let found = ok(self.backend.load(place, Some(&digest(secret)), None).await)?;
        Ok(found.map(|(record, _)| record))
    }

    async fn record(&self, place: Place, secret: u8) -> Result<Record, String> {
        match self.peek(place, secret).await? {
            Found::Live(record) => Ok(record),
            other => Err(format!("it does not live: {other:?}")),
        }
    }

    async fn lives(&self, place: Place, secret: u8) -> Result<bool, String> {
        Ok(matches!(self.peek(place, secret).await?, Found::Live(_)))
    }

    async fn touch(&self, place: Place, secret: u8) -> Result<Found<Record>, String> {
        let found = ok(self.backend.load(place, Some(&digest(secret)), Some(THROTTLE)).await)?;
        Ok(found.map(|(record, _)| record))
    }

    async fn patch(&self, at: Place, secret: u8, patch: &Patch) -> Result<Found<Patched>, String> {
        ok(self.backend.patch(at, &digest(secret), THROTTLE, patch).await)
    }

    async fn extend(
        &self,
        at: Place,
        secret: u8,
        idle: Option<i64>,
        absolute: Option<i64>,
    ) -> Result<Found<Written>, String> {
        ok(self.backend.extend(at, &digest(secret), THROTTLE, idle, absolute).await)
    }

    async fn rotate(&self, at: Place, secret: u8, next: &Next) -> Result<Found<Rotated>, String> {
        ok(self.backend.rotate(at, &digest(secret), THROTTLE, next).await)
    }

    async fn rotated(&self, at: Place, secret: u8, successor: u8) -> Verdict {
        match self.rotate(at, secret, &next(successor)).await? {
            Found::Live(Rotated::Done { .. }) => Ok(()),
            other => Err(format!("not rotated: {other:?}")),
        }
    }

    async fn depart(
        &self,
        at: Place,
        secret: Option<u8>,
        departure: Option<&Departure>,
    ) -> Result<Found<Moving>, String> {
        ok(self.backend.depart(at, secret.map(digest).as_ref(), departure).await)
    }

    async fn settle(&self, at: Place, to: u8) -> Result<bool, String> {
        ok(self.backend.settle(at, &digest(to)).await)
    }

    async fn end(&self, at: Place, reason: &str) -> Result<Found<()>, String> {
        ok(self.backend.invalidate(at, None, reason).await)
    }

    async fn reap(&self, shard: u16, limit: usize) -> Result<Reaped, String> {
        ok(self.backend.reap(shard, limit).await)
    }

    async fn living(&self, shards: &[u16], index: &Index) -> Result<u64, String> {
        Ok(ok(self.backend.count(shards, index).await)?.living)
    }

    /// All that happened in a shard.
    async fn happened(&self, shard: u16) -> Result<Vec<Happened>, String> {
        ok(self.backend.happened(shard, From::After((0, 0)), 10_000).await)
    }

    /// The events of a shard and their reasons.
    async fn told(&self, shard: u16) -> Result<Vec<(String, String)>, String> {
        let all = self.happened(shard).await?.into_iter();
        Ok(all.map(|one| (one.event, one.reason)).collect())
    }

    async fn is_told(&self, shard: u16, events: &[(&str, &str)]) -> Verdict {
        let told = self.told(shard).await?;
        let told: Vec<_> = told.iter().map(|(one, why)| (one.as_str(), why.as_str())).collect();
        same!(told, events);
        Ok(())
    }
}

#[tokio::test]
async fn embedded_keeps_the_contract() {
    let mut broken = Vec::new();
    for (case, check) in all() {
        if let Err(why) = check(Stage::embedded()).await {
            broken.push(format!("{case}: {why}"));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn redis_keeps_the_contract() {
    let mut broken = Vec::new();
    for (case, check) in all() {
        if let Err(why) = check(Stage::redis().await).await {
            broken.push(format!("{case}: {why}"));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[tokio::test]
async fn each_broken_backend_is_caught() {
    for fault in broken::ALL {
        let mut caught = false;
        for (_, check) in all() {
            caught = check(Stage::broken(*fault)).await.is_err();
            if caught {
                break;
            }
        }
        assert!(caught, "{fault:?} passes as a backend");
    }
}
