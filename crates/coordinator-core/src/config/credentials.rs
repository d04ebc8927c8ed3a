//! Who to be at the server: fixed, or fetched anew while running. Never printed.

use crate::{Result, clock::BoxFuture};
use std::{fmt, sync::Arc, time::Duration};

/// A text that no output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself: hand it to whoever needs it, never to a log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Fetches a user and password whenever a connection is made, and every
/// [`refresh_interval`](Self::refresh_interval) on those that are open.
///
/// This is how short-lived tokens (IAM, Vault) and rotated passwords are renewed while running.
pub trait CredentialSource: Send + Sync + fmt::Debug + 'static {
    /// The user, if not the default one, and the password.
    ///
    /// # Errors
    /// Any; the attempt to connect fails with it and is repeated with backoff.
    fn fetch(&self) -> BoxFuture<'_, Result<(Option<String>, Secret)>>;

    /// How often to authenticate anew on an open connection; `None` only when connecting.
    fn refresh_interval(&self) -> Option<Duration> {
        None
    }
}

/// Who to be at the server.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Credentials {
    /// Nobody: the server asks for none.
    #[default]
    None,
    /// The same for as long as the process runs.
    Fixed {
        /// The user, if not the default one.
        username: Option<String>,
        /// The password.
        password: Secret,
    },
    /// Fetched whenever needed.
    Source(Arc<dyn CredentialSource>),
}

impl Credentials {
    /// A user, if not the default one, and a password.
    pub fn fixed(username: Option<&str>, password: &str) -> Self {
        Self::Fixed { username: username.map(str::to_owned), password: Secret::new(password) }
    }

    /// Credentials that a source renews.
    pub fn source(source: impl CredentialSource) -> Self {
        Self::Source(Arc::new(source))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Fixed { .. } => "Fixed(…)",
            Self::Source(_) => "Source(…)",
        })
    }
}
