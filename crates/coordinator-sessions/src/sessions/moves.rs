//! Sessions that move between shards: whoever comes upon one carries it on.
//!
//! A move is three steps: it departs, arrives elsewhere, and what it left is settled. Each may be
//! the last that its mover takes; each is told to whoever comes next, and is safe to take again.

use super::{Lookup, Sessions};
use crate::{
    backend::{self, Before, Cap, Crowded, Found, Moving, New, Origin, Place},
    token::{Digest, Token},
};
use coordinator_core::{BoxFuture, Error, ErrorKind, Result};

/// How often a token is followed: a session moves when its user changes, which is rare.
const HOPS: usize = 8;

impl Sessions {
    /// Asks for a session where it is, following it where it went; with the token that it has
    /// there.
    pub(super) async fn follow<'a, T>(
        &'a self,
        token: &Token,
        step: impl Fn(Place, Digest) -> BoxFuture<'a, Result<Found<T>>>,
    ) -> Result<(Lookup<T>, Token)> {
        self.begin().await;
        let mut at = token.clone();
        for _ in 0..HOPS {
            let moved = match step(at.place(), at.digest()).await? {
                Found::Live(value) => return Ok((Lookup::Live(value), at)),
                Found::Absent => return Ok((Lookup::Absent, at)),
                Found::Expired => return Ok((Lookup::Expired, at)),
                Found::Revoked(reason) => return Ok((Lookup::Revoked { reason }, at)),
                Found::Moved(moved) => moved,
            };
            if moved.here && !self.carry_on(at.place()).await? {
                // It went on in the meantime, or was ended.
                continue;
            }
            let there = Place { shard: moved.shard, id: at.place().id };
            if moved.late {
                // The token was replaced long ago: whoever still has it may have stolen it.
                let ended = self.inner.backend.invalidate(there, None, "replayed").await?;
                let reason = match ended {
                    Found::Revoked(reason) => reason,
                    Found::Expired => return Ok((Lookup::Expired, at)),
                    _ => "replayed".to_owned(),
                };
                return Ok((Lookup::Revoked { reason }, at));
            }
            let Some(wrapped) = &moved.wrapped else { return Ok((Lookup::Absent, at)) };
            at = at.unwrap(wrapped, moved.shard);
        }
        let why = "the session moved too often";
        Err(Error::corrupt("sessions.follow", why))
    }

    /// Takes the steps of a move that are left, whoever began it; whether it moves.
    async fn carry_on(&self, place: Place) -> Result<bool> {
        match self.inner.backend.depart(place, None, None).await? {
            Found::Live(moving) => self.arrive(place, moving, true).await.map(|_| true),
            _ => Ok(false),
        }
    }

    /// How many sessions a user may have when one comes that cannot be refused any more: it can
    /// only make room.
    pub(super) fn room(&self) -> Option<Cap> {
        self.options.cap.map(|cap| match cap.policy {
            Crowded::Refuse => Cap { policy: Crowded::Oldest, ..cap },
            _ => cap,
        })
    }

    /// The second and the third step; how it stands after them: it may have been revoked or have
    /// expired on its way.
    /// That it has another token and user is told where it arrives, once.
    pub(super) async fn arrive(
        &self,
        from: Place,
        moving: Moving,
        announced: bool,
    ) -> Result<Lookup<()>> {
        let Moving { shard, of_user, names, checksum, digest, record, .. } = moving;
        if names.checksum() != checksum {
            let why = "the names of a session that moves are not what was written";
            return Err(Error::corrupt("sessions.arrive", why));
        }
        let same_company = names.company == record.names.company;
        let new = New {
            place: Place { shard, id: from.id },
            digest,
            idle_ms: record.idle_ms,
            absolute_ms: record.absolute_ms,
            throttle_ms: self.options.throttle_ms(),
            schema: record.schema,
            fields: record.fields,
            // Its token may have been given out.
            cap: self.room(),
            replaces: None,
            origin: Origin::Arrives(Before {
                created: record.created,
                last: record.now,
                version: record.version + 1,
                of_user: (!names.user.is_empty()).then_some(of_user),
                of_company: same_company.then_some(record.of_company),
            }),
            names,
            announced,
        };
        let stands = match self.inner.backend.create(&new).await? {
            // Buried: it arrived, and was ended there.
            backend::Created::Made { .. } | backend::Created::Exists | backend::Created::Buried => {
                Lookup::Live(())
            }
            backend::Created::Stale => Lookup::Revoked { reason: "revoked".to_owned() },
            backend::Created::Late => Lookup::Expired,
            backend::Created::Full { .. } => {
                return Err(Error::new(ErrorKind::Unavailable, "sessions.arrive"));
            }
        };
        self.inner.backend.settle(from, &digest).await?;
        Ok(stands)
    }
}
