//! Logins: a session that nobody who knew the one before can enter.

use super::{Created, NewSession, Sessions};
use crate::token::Token;
use coordinator_core::Result;

/// Why a session ends whose user has logged in.
const REASON: &str = "replaced";

impl Sessions {
    /// Begins a session for who has logged in, with the data of the one that they had before, and
    /// ends that one, reason `replaced`.
    ///
    /// The new session has an id and a token of its own, and the old token leads nowhere: whoever
    /// planted it, or saw it, does not come along (session fixation). So it is what a login does,
    /// and [`rotate`](Self::rotate), which tells the new token to whoever has the old one, is not.
    /// The data is taken over if the session was nobody's or already this user's
    /// ([`NewSession::carry_over`]); without one, or with one that is gone, there is nothing to
    /// take over. What another request changes in the session before at that very moment may stay
    /// behind.
    ///
    /// The one before does not count towards the [cap](Self::with_cap), so that a user with as many
    /// sessions as may be can log in again where they are logged in, and loses no other.
    ///
    /// Three round trips, two without a session before.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether there is a session that nobody has the token of,
    /// and whether the one before has ended.
    ///
    /// # Examples
    /// ```
    /// # use coordinator_sessions::{Lookup, NewSession, Sessions};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let sessions = Sessions::embedded();
    /// let guest = NewSession::anonymous().set("cart", &["pear"])?;
    /// let guest = sessions.create(guest).await?.session()?;
    /// let planted = guest.token().expect("a token");
    ///
    /// let ann = sessions.login(Some(planted), NewSession::user("ann")).await?.session()?;
    /// assert_eq!(ann.get::<Vec<String>>("cart")?, Some(vec!["pear".to_owned()]));
    /// assert!(matches!(sessions.load(planted).await?, Lookup::Revoked { .. }));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn login(&self, before: Option<&Token>, new: NewSession) -> Result<Created> {
        let found = match before {
            Some(token) => self.peek(token).await?.live().map(|session| (session, token)),
            None => None,
        };
        let Some((session, token)) = found else { return self.create(new).await };
        let created = self.create(new.carry_over(&session)?.replacing(&session)).await?;
        if let Created::Session(_) = &created {
            // Of another user it may be in another shard. The newest token of the one before finds
            // it wherever it is.
            self.invalidate(session.token().unwrap_or(token), REASON).await?;
        }
        Ok(created)
    }
}
