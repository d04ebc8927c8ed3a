//! Ending sessions: one by its token or reference, all of a user, all of a company.

use super::{Filter, Lookup, Page, Sessions};
use crate::{
    backend::{Found, Raise, SHARDS, Whole},
    token::{Reference, Token},
};
use coordinator_core::{Error, Result, key::Name};
use futures::stream::{StreamExt as _, iter};

/// How many sessions a step looks at.
const BATCH: usize = 100;
/// How many shards are asked at once.
const AT_ONCE: usize = 16;
/// The longest reason in bytes.
const REASON_MAX_BYTES: usize = 200;

impl Sessions {
    /// Ends a session. Once this has returned, nothing makes it live again, whatever was on its
    /// way: no change, no rotation, no restored copy.
    ///
    /// [`Lookup::Live`]: it lived until now. The reason is told to whoever comes with its token,
    /// and in the events.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`Misuse`](coordinator_core::ErrorKind::Misuse) for a reason of
    /// more than 200 bytes or with control characters.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it has ended.
    pub async fn invalidate(&self, token: &Token, reason: &str) -> Result<Lookup<()>> {
        check_reason(reason)?;
        let backend = &self.inner.backend;
        let found = self
            .follow(token, |place, digest| {
                let reason = reason.to_owned();
                Box::pin(async move { backend.invalidate(place, Some(&digest), &reason).await })
            })
            .await;
        self.inner.local.forget(token);
        Ok(found?.0)
    }

    /// Ends the session of a user that a list calls so; whether it lived.
    ///
    /// # Errors
    /// As [`invalidate`](Self::invalidate): [`Corrupt`](coordinator_core::ErrorKind::Corrupt) if
    /// this one cannot be read, and no other is in its way.
    ///
    /// # Cancel safety
    /// As [`invalidate`](Self::invalidate).
    pub async fn revoke(&self, user: &str, session: &Reference, reason: &str) -> Result<bool> {
        check_reason(reason)?;
        let mut page = Page::first(BATCH);
        loop {
            let (listed, broken) = self.list_with_broken(&Filter::user(user), &page).await?;
            let places = listed.sessions.iter().map(|one| one.place).chain(broken);
            let key = &self.options.reference_key;
            let mut places = places.filter(|place| Reference::new(key, &place.id) == *session);
            if let Some(place) = places.next() {
                let ended = self.inner.backend.invalidate(place, None, reason).await;
                self.inner.local.forget_all();
                return Ok(matches!(ended?, Found::Live(())));
            }
            match listed.next {
                Some(next) => page = page.after(next),
                None => return Ok(false),
            }
        }
    }

    /// Ends all sessions of a user; how many that were. Once this has returned, none that was
    /// created before lives, and none that was on its way then does.
    ///
    /// One step ends them all; those that follow clear up, in batches of 100.
    ///
    /// # Errors
    /// As [`invalidate`](Self::invalidate).
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether they have ended; a second call ends those that
    /// live.
    pub async fn revoke_user(&self, user: &str, reason: &str) -> Result<u64> {
        check_reason(reason)?;
        let name = Name::new(user)?;
        let whole = Whole::User(name.encoded());
        let shard = name.shard(SHARDS);
        let raised = self.inner.backend.epoch(shard, whole, Raise::Above(reason)).await;
        self.inner.local.forget_all();
        raised?;
        self.sweep(shard, whole).await
    }

    /// Ends all sessions of a company; how many that were. As
    /// [`revoke_user`](Self::revoke_user), in every shard.
    ///
    /// # Errors
    /// As [`invalidate`](Self::invalidate). Those in the shards that could be reached have ended
    /// then, and a second call ends the others.
    ///
    /// # Cancel safety
    /// As [`revoke_user`](Self::revoke_user).
    pub async fn revoke_company(&self, company: &str, reason: &str) -> Result<u64> {
        check_reason(reason)?;
        let name = Name::new(company)?;
        let (backend, whole) = (&self.inner.backend, Whole::Company(name.encoded()));
        let raise = |to: Raise<'static>| {
            iter(0..SHARDS)
                .map(move |shard| async move {
                    let to = match to {
                        Raise::To(least, _) => Raise::To(least, reason),
                        _ => Raise::Above(reason),
                    };
                    backend.epoch(shard, whole, to).await
                })
                .buffer_unordered(AT_ONCE)
                .collect::<Vec<Result<i64>>>()
        };
        // Where a shard fails, as while its node is down, those in the others end none the less.
        let raised = raise(Raise::Above("")).await;
        self.inner.local.forget_all();
        let Some(highest) = raised.iter().flatten().max().copied() else {
            // Nobody answers, so nobody is asked again.
            return raised.into_iter().collect::<Result<Vec<_>>>().map(|_| 0);
        };
        // Everywhere the same at last: a session that moves meanwhile finds it higher than the one
        // it knew.
        let raised = raised.into_iter().chain(raise(Raise::To(highest, "")).await);
        let raised = raised.collect::<Result<Vec<_>>>();
        let swept: Vec<_> = iter(0..SHARDS)
            .map(|shard| self.sweep(shard, whole))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        raised?;
        swept.into_iter().sum()
    }

    /// Clears up what a whole revocation ended in a shard.
    async fn sweep(&self, shard: u16, whole: Whole<'_>) -> Result<u64> {
        let (index, mut skip, mut sum) = (whole.index(), 0, 0);
        loop {
            let swept = self.inner.backend.sweep(shard, &index, skip, BATCH).await?;
            skip += swept.left;
            sum += swept.ended;
            if !swept.more {
                return Ok(sum);
            }
        }
    }
}

fn check_reason(reason: &str) -> Result<()> {
    if reason.len() > REASON_MAX_BYTES || reason.chars().any(char::is_control) {
        let why =
            format!("a reason has at most {REASON_MAX_BYTES} bytes and no control characters");
        return Err(Error::misuse("sessions.revoke", why));
    }
    Ok(())
}
