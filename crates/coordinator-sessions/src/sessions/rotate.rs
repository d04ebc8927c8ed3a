//! Rotation: another token for the same session, and other names for it.

use super::{Lookup, Session, Sessions, in_ms, new::encoded};
use crate::{
    backend::{self, Crowded, Departure, Found, Index, Names, Next, Raise, SHARDS, Whole},
    token::Token,
};
use coordinator_core::{Error, ErrorKind, Result, key::Name};

/// What a rotation changes besides the token.
///
/// ```
/// use coordinator_sessions::Rotation;
///
/// let refreshed = Rotation::new(); // the token alone
/// let transferred = Rotation::new().user("ann").company("acme");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Rotation {
    user: Becomes,
    company: Becomes,
    crew: Becomes,
}

/// What becomes of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Becomes {
    #[default]
    Stays,
    Goes,
    Is(String),
}

impl Rotation {
    /// Another token, and everything else as it is.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes it this user's. For a login there is [`Sessions::login`](crate::Sessions::login).
    pub fn user(mut self, user: &str) -> Self {
        self.user = Becomes::Is(user.to_owned());
        self
    }

    /// Another company.
    pub fn company(mut self, company: &str) -> Self {
        self.company = Becomes::Is(company.to_owned());
        self
    }

    /// Another crew.
    pub fn crew(mut self, crew: &str) -> Self {
        self.crew = Becomes::Is(crew.to_owned());
        self
    }

    /// Makes it nobody's: user, company and crew are taken from it.
    pub fn anonymous(mut self) -> Self {
        (self.user, self.company, self.crew) = (Becomes::Goes, Becomes::Goes, Becomes::Goes);
        self
    }

    fn is_plain(&self) -> bool {
        [&self.user, &self.company, &self.crew].into_iter().all(|name| *name == Becomes::Stays)
    }

    fn names(&self, before: &Session) -> Result<Names> {
        let of = |new: &Becomes, before: Option<&str>| match new {
            Becomes::Stays => encoded(before),
            Becomes::Goes => encoded(None),
            Becomes::Is(name) => encoded(Some(name)),
        };
        Ok(Names {
            user: of(&self.user, before.user())?,
            company: of(&self.company, before.company())?,
            crew: of(&self.crew, before.crew())?,
        })
    }
}

/// What rotating a session that lives came to.
#[derive(Debug)]
#[non_exhaustive]
pub enum Rotated {
    /// It has another token: the one that the first of several callers made.
    Done(Token),
    /// The token was replaced more than once already, by others: theirs is the one to use.
    Replaced,
    /// The user has as many sessions as may be, and the policy is to refuse. Nothing is changed.
    Full {
        /// How many live.
        live: u64,
    },
}

impl Rotated {
    /// The token, for callers to whom a refusal is an error.
    ///
    /// # Errors
    /// [`Rejected`](ErrorKind::Rejected) without one.
    pub fn token(self) -> Result<Token> {
        let refused = |why: &str| {
            Err(Error::new(ErrorKind::Rejected, "sessions.rotate").with_source(why.to_owned()))
        };
        match self {
            Self::Done(token) => Ok(token),
            Self::Replaced => refused("the token was replaced already"),
            Self::Full { .. } => refused("the user has as many sessions as may be"),
        }
    }
}

impl Sessions {
    /// Gives a session another token, and other names if it is asked to; the session stays what it
    /// is, with its data, its reference and its absolute timeout.
    ///
    /// Whoever has the old token is told the new one, for the grace: so a rotation shortens the
    /// life of a token, and is no login. There [`login`](Self::login) leaves the old one outside.
    ///
    /// Parallel rotations with one token come to one new token. The old one finds the session for
    /// the [grace](Self::with_rotation_grace), and is told the new one; after it, whoever still
    /// comes with it ends the session. Where the user changes, the session may move to another
    /// shard: three round trips more, of which each may be the last that this process takes.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`Misuse`](ErrorKind::Misuse) for names that cannot be.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the token was replaced: the old one finds out.
    pub async fn rotate(&self, token: &Token, rotation: Rotation) -> Result<Lookup<Rotated>> {
        let rotated = self.rotate_found(token, &rotation).await;
        self.inner.local.forget(token);
        rotated
    }

    async fn rotate_found(&self, token: &Token, rotation: &Rotation) -> Result<Lookup<Rotated>> {
        // Twice, should it move under our hands.
        for _ in 0..2 {
            let (mut at, mut names) = (token.clone(), None);
            if !rotation.is_plain() {
                let found = self.peek(token).await?;
                let Lookup::Live(before) = found else { return Ok(found.gone()) };
                let wanted = rotation.names(&before)?;
                if let Some(replaced) = before.token() {
                    // Somebody else was first: theirs is the one to use, or to go on with.
                    if wanted == Rotation::new().names(&before)? {
                        return Ok(Lookup::Live(Rotated::Done(replaced.clone())));
                    }
                    at = replaced.clone();
                }
                names = Some(wanted);
            }
            let shard = match &names {
                Some(names) if !names.user.is_empty() => Name::decode(&names.user)?.shard(SHARDS),
                _ => at.place().shard,
            };
            let next = at.next(shard)?;
            let step = Next {
                digest: next.digest(),
                wrapped: at.wrap(&next),
                grace_ms: in_ms(self.options.grace).max(1),
                names: names.clone(),
                cap: self.options.cap,
            };
            if shard != at.place().shard
                && let Some(names) = names
            {
                match self.depart(&at, step, shard, names).await? {
                    Some(rotated) => return Ok(rotated),
                    None => continue,
                }
            }
            let (backend, throttle) = (&self.inner.backend, self.options.throttle_ms());
            let (found, now_at) = self
                .follow(&at, |place, digest| {
                    let step = step.clone();
                    Box::pin(async move { backend.rotate(place, &digest, throttle, &step).await })
                })
                .await?;
            return Ok(match found {
                Lookup::Live(backend::Rotated::Done { wrapped: Some(wrapped), .. }) => {
                    let shard = now_at.place().shard;
                    Lookup::Live(Rotated::Done(now_at.unwrap(&wrapped, shard)))
                }
                Lookup::Live(backend::Rotated::Done { wrapped: None, .. }) => {
                    Lookup::Live(Rotated::Replaced)
                }
                Lookup::Live(backend::Rotated::Full { live }) => {
                    Lookup::Live(Rotated::Full { live })
                }
                gone => gone.gone(),
            });
        }
        Err(Error::new(ErrorKind::Unavailable, "sessions.rotate"))
    }

    /// Moves a session to the shard of its next user; `None`: it moved already.
    async fn depart(
        &self,
        at: &Token,
        next: Next,
        shard: u16,
        names: Names,
    ) -> Result<Option<Lookup<Rotated>>> {
        let backend = &self.inner.backend;
        if let Some(cap) = self.options.cap.filter(|cap| cap.policy == Crowded::Refuse) {
            let live = backend.count(&[shard], &Index::User(names.user.clone())).await?.living;
            if live >= u64::from(cap.most) {
                return Ok(Some(Lookup::Live(Rotated::Full { live })));
            }
        }
        // Known before it departs: who is revoked from now on stays so.
        let of_user = backend.epoch(shard, Whole::User(&names.user), Raise::No).await?;
        let departure = Departure { next, shard, of_user, names };
        let found = backend.depart(at.place(), Some(&at.digest()), Some(&departure)).await?;
        Ok(Some(match found {
            Found::Live(moving) => {
                let (wrapped, shard) = (moving.wrapped, moving.shard);
                let stands = self.arrive(at.place(), moving, true).await?;
                stands.map(|()| Rotated::Done(at.unwrap(&wrapped, shard)))
            }
            Found::Absent => Lookup::Absent,
            Found::Expired => Lookup::Expired,
            Found::Revoked(reason) => Lookup::Revoked { reason },
            Found::Moved(_) => return Ok(None),
        }))
    }
}
