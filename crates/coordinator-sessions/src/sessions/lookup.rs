//! What asking for a session comes to.

/// What asking for a session came to: it lives, or why it does not. That the backend could not be
/// asked is an error, never one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lookup<T> {
    /// It lives.
    Live(T),
    /// There is none with this token, and nothing is known of one.
    Absent,
    /// It was not used for its idle timeout, or has reached its absolute one. Told for an hour;
    /// then it is absent.
    Expired,
    /// It was ended. Told until its absolute timeout would have been reached, and an hour more.
    Revoked {
        /// Why, in the words of whoever did it; `replayed` if a token was used again after it had
        /// been replaced, `cap` if its user had too many sessions.
        reason: String,
    },
}

impl<T> Lookup<T> {
    /// What lives, if it does.
    pub fn live(self) -> Option<T> {
        match self {
            Self::Live(value) => Some(value),
            _ => None,
        }
    }

    /// Whether it lives.
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Live(_))
    }

    /// The same about something else of what lives.
    pub fn map<U>(self, map: impl FnOnce(T) -> U) -> Lookup<U> {
        match self {
            Self::Live(value) => Lookup::Live(map(value)),
            Self::Absent => Lookup::Absent,
            Self::Expired => Lookup::Expired,
            Self::Revoked { reason } => Lookup::Revoked { reason },
        }
    }

    /// Why it does not live, for who knows that it does not.
    pub(crate) fn gone<U>(self) -> Lookup<U> {
        match self {
            Self::Live(_) | Self::Absent => Lookup::Absent,
            Self::Expired => Lookup::Expired,
            Self::Revoked { reason } => Lookup::Revoked { reason },
        }
    }
}
