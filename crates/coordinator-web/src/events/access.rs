//! Who may follow which scope: what the service says.

use coordinator::clock::BoxFuture;
use http::request::Parts;
use std::{fmt, sync::Arc};

/// Whether a client may follow a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// It may.
    Allowed,
    /// It may not: the answer is 403, and its browser does not come back.
    Denied,
    /// Nobody can say at the moment: it is told to come back.
    Unknown,
}

impl From<bool> for Access {
    fn from(allowed: bool) -> Self {
        if allowed { Self::Allowed } else { Self::Denied }
    }
}

type Ask = dyn Fn(Parts, String) -> BoxFuture<'static, Access> + Send + Sync;

#[derive(Clone)]
pub(super) struct Authorization(Arc<Ask>);

impl Authorization {
    pub(super) fn new<F, A>(ask: F) -> Self
    where
        F: Fn(Parts, String) -> A + Send + Sync + 'static,
        A: Future<Output: Into<Access>> + Send + 'static,
    {
        Self(Arc::new(move |parts, scope| {
            let asked = ask(parts, scope);
            Box::pin(async move { asked.await.into() })
        }))
    }

    /// Whether all of them may be followed. A denial is one, whatever else nobody can say.
    pub(super) async fn of(&self, parts: &Parts, scopes: &[String]) -> Access {
        let mut access = Access::Allowed;
        for scope in scopes {
            match (self.0)(parts.clone(), scope.clone()).await {
                Access::Allowed => {}
                Access::Denied => return Access::Denied,
                Access::Unknown => access = Access::Unknown,
            }
        }
        access
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorization")
    }
}
