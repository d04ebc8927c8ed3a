//! Sessions that begin: without a login, and with one.

use super::handle::{WebSession, Work};
use coordinator::{
    Result,
    sessions::{Created, Lookup, NewSession, Session, Token},
};

impl WebSession {
    /// Begins a session, whatever the client had; a session that it had is ended
    /// ([`REPLACED`](Self::REPLACED)), and nothing of it is taken over.
    ///
    /// # Errors
    /// As [`load`](Self::load), and then nothing was written; as
    /// [`Sessions::create`](coordinator::sessions::Sessions::create).
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether there is a session that nobody has the token of,
    /// which expires by itself.
    pub async fn create(&self, new: NewSession) -> Result<Created> {
        let mut work = self.work().await;
        let before = self.before(&mut work).await?;
        self.begin_anew(&mut work, new, before).await
    }

    /// Begins the session of somebody who has just proved who they are. What the client did before
    /// that is taken over, if it did that as nobody or as the same user; what `new` sets goes
    /// before it.
    ///
    /// The token that the client had is worth nothing from now on, and leads nowhere: whoever
    /// planted it, or saw it before the login, has nothing. So it is a new session rather than a
    /// rotation with its grace.
    ///
    /// [`Created::Full`]: the user has as many sessions as may be, that one not counted; nothing is
    /// changed.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    ///
    /// # Cancel safety
    /// As [`create`](Self::create).
    pub async fn login(&self, new: NewSession) -> Result<Created> {
        let mut work = self.work().await;
        if matches!(work.seen, Some(Ok(Lookup::Live(_)))) {
            // What is taken over is what is there now.
            work.seen = None;
        }
        let before = self.before(&mut work).await?;
        let new = match &before {
            Some((session, _)) => new.carry_over(session)?,
            None => new,
        };
        self.begin_anew(&mut work, new, before).await
    }

    /// The session that the client has, as it is now.
    async fn before(&self, work: &mut Work) -> Result<Option<(Session, Token)>> {
        match self.seen(work).await? {
            Lookup::Live(session) => {
                let session = session.clone();
                Ok(work.token().map(|token| (session, token)))
            }
            _ => Ok(None),
        }
    }

    async fn begin_anew(
        &self,
        work: &mut Work,
        new: NewSession,
        before: Option<(Session, Token)>,
    ) -> Result<Created> {
        let new = match &before {
            // So it does not count towards the cap.
            Some((session, _)) => new.replacing(session),
            None => new,
        };
        let created = self.sessions().create(new).await?;
        if let Created::Session(session) = &created {
            if let Some(token) = session.token() {
                self.use_from_now_on(work, token.clone());
            }
            work.seen = Some(Ok(Lookup::Live((**session).clone())));
            if let Some((_, before)) = before
                && let Err(error) = self.sessions().invalidate(&before, Self::REPLACED).await
            {
                // The new one lives, and the client will use it. This one ends by its timeouts.
                tracing::warn!(error = %error.chain(), "a session that was replaced lives on");
            }
        }
        Ok(created)
    }
}
