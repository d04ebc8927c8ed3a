//! What axum's handlers take: the handle, or a session that lives; and what a client is answered
//! where there is none.

use super::handle::WebSession;
use crate::problem::{BROKEN, BUSY, PROBLEM_JSON, Problem};
use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use coordinator::{
    Error, ErrorKind,
    sessions::{Lookup, Patch, Session, Updated},
};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    request::Parts,
};
use serde::Serialize;
use std::{convert::Infallible, fmt, ops::Deref};

/// Type and title of the answer to a client without a session.
const UNAUTHORIZED: (&str, &str) = ("about:blank", "Unauthorized");

/// Why a handler has no session: an answer, as problem details (RFC 9457).
///
/// | | answer |
/// |---|---|
/// | there is none, it has expired, or it was ended | 401, `"session":"absent"`, `"expired"` or `"revoked"` |
/// | nobody can say | 503, with `Retry-After` |
/// | what is stored is damaged, a wrong call, a route without a layer | 500 |
///
/// A handler that answers `Result<_, SessionRejection>` can use `?` on what a [`WebSession`] fails
/// with.
#[derive(Debug)]
pub struct SessionRejection(Why);

#[derive(Debug)]
enum Why {
    NoLayer,
    Gone(Lookup<()>, HeaderValue),
    Failed(Error),
}

impl SessionRejection {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match &self.0 {
            Why::NoLayer => StatusCode::INTERNAL_SERVER_ERROR,
            Why::Gone(..) => StatusCode::UNAUTHORIZED,
            Why::Failed(error) => match error.kind() {
                ErrorKind::Corrupt | ErrorKind::Misuse => StatusCode::INTERNAL_SERVER_ERROR,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            },
        }
    }

    /// How the session stands, if that is why.
    pub fn standing(&self) -> Option<&Lookup<()>> {
        match &self.0 {
            Why::Gone(found, _) => Some(found),
            _ => None,
        }
    }

    fn session(&self) -> Option<&'static str> {
        self.standing().map(|found| match found {
            Lookup::Expired => "expired",
            Lookup::Revoked { .. } => "revoked",
            _ => "absent",
        })
    }
}

impl fmt::Display for SessionRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Why::NoLayer => f.write_str("the route has no SessionLayer, and its handler wants one"),
            Why::Gone(..) => write!(f, "no session: {}", self.session().unwrap_or_default()),
            Why::Failed(_) => f.write_str("nobody can say what the session is"),
        }
    }
}

impl std::error::Error for SessionRejection {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Why::Failed(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for SessionRejection {
    fn from(error: Error) -> Self {
        Self(Why::Failed(error))
    }
}

impl IntoResponse for SessionRejection {
    fn into_response(self) -> Response {
        let status = self.status();
        let text = match status {
            StatusCode::UNAUTHORIZED => UNAUTHORIZED,
            StatusCode::SERVICE_UNAVAILABLE => BUSY,
            _ => BROKEN,
        };
        let problem = Problem { session: self.session(), ..Problem::new(text, status) };
        let mut response = (status, problem.json()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        match self.0 {
            Why::NoLayer => tracing::error!("a route without a SessionLayer wants a session"),
            Why::Gone(_, challenge) => {
                headers.insert(WWW_AUTHENTICATE, challenge);
            }
            Why::Failed(error) if status == StatusCode::SERVICE_UNAVAILABLE => {
                tracing::warn!(error = %error.chain(), "nobody can say what a session is");
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Why::Failed(error) => {
                tracing::error!(error = %error.chain(), "a session cannot be used");
            }
        }
        response
    }
}

impl WebSession {
    /// The session, or what its client is answered instead; see [`load`](Self::load).
    ///
    /// # Errors
    /// 401 if there is none that lives, 503 or 500 if nobody can say.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn require(&self) -> Result<Session, SessionRejection> {
        self.living(self.load().await?)
    }

    fn living<T>(&self, found: Lookup<T>) -> Result<T, SessionRejection> {
        match found {
            Lookup::Live(value) => Ok(value),
            gone => Err(SessionRejection(Why::Gone(gone.map(|_| ()), self.challenge()))),
        }
    }
}

/// A session that lives: a handler that takes one is not called without, and `Option<LiveSession>`
/// is `None` then. While nobody can say, either is answered with 503.
///
/// It is the [`Session`] as it was found; what is changed through it is changed at the server, and
/// not in this copy.
#[derive(Debug, Clone)]
pub struct LiveSession {
    handle: WebSession,
    session: Session,
}

impl LiveSession {
    /// The handle, for what else is done with a session.
    pub fn handle(&self) -> &WebSession {
        &self.handle
    }

    /// As [`WebSession::set`].
    ///
    /// # Errors
    /// As [`patch`](Self::patch).
    ///
    /// # Cancel safety
    /// As [`WebSession::patch`].
    pub async fn set<T: Serialize + ?Sized>(
        &self,
        field: &str,
        value: &T,
    ) -> Result<Updated, SessionRejection> {
        self.handle.living(self.handle.set(field, value).await?)
    }

    /// As [`WebSession::patch`].
    ///
    /// # Errors
    /// 401 if the session has ended meanwhile, 503 or 500 if it cannot be written.
    ///
    /// # Cancel safety
    /// As [`WebSession::patch`].
    pub async fn patch(&self, patch: Patch) -> Result<Updated, SessionRejection> {
        self.handle.living(self.handle.patch(patch).await?)
    }
}

impl Deref for LiveSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

fn handle(parts: &Parts) -> Result<WebSession, SessionRejection> {
    parts.extensions.get().cloned().ok_or(SessionRejection(Why::NoLayer))
}

/// A route without a layer is answered with 500; `Option<WebSession>` is `None` there.
impl<S: Send + Sync> FromRequestParts<S> for WebSession {
    type Rejection = SessionRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, SessionRejection> {
        handle(parts)
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for WebSession {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for LiveSession {
    type Rejection = SessionRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, SessionRejection> {
        let handle = handle(parts)?;
        let session = handle.require().await?;
        Ok(Self { handle, session })
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for LiveSession {
    type Rejection = SessionRejection;

    async fn from_request_parts(
        parts: &mut Parts,
        _: &S,
    ) -> Result<Option<Self>, SessionRejection> {
        let handle = handle(parts)?;
        let session = handle.load().await?.live();
        Ok(session.map(|session| Self { handle, session }))
    }
}
