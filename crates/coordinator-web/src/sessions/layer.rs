//! `SessionLayer`: puts a handle into each request, and tells the client of its token with the
//! answer. What happens between is the handle's.

use super::{carrier::Carrier, cookie::SessionCookie, handle::WebSession};
use coordinator::{Result, sessions::Sessions};
use http::{Request, Response};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tower_service::Service;

/// Gives each request its client's session: a layer of tower.
///
/// It asks nobody: the first use of a [`WebSession`] does.
///
/// ```
/// use axum::{Router, routing::get};
/// use coordinator::sessions::Sessions;
/// use coordinator_web::sessions::{LiveSession, SessionLayer};
///
/// async fn me(session: LiveSession) -> String {
///     format!("you are {}", session.user().unwrap_or("nobody yet"))
/// }
///
/// let layer = SessionLayer::new(Sessions::embedded());
/// let app: Router = Router::new()
///     .route("/me", get(me)) // 401 without a session
///     .route("/health", get(async || "well")) // asks for none
///     .layer(layer);
/// ```
#[derive(Debug, Clone)]
pub struct SessionLayer {
    sessions: Sessions,
    carrier: Arc<Carrier>,
}

impl SessionLayer {
    /// A layer with the cookie that [`SessionCookie::new`] is.
    pub fn new(sessions: Sessions) -> Self {
        Self { sessions, carrier: Arc::new(Carrier::Cookie(SessionCookie::new())) }
    }

    /// Another cookie.
    ///
    /// # Errors
    /// As [`SessionCookie::validate`].
    pub fn with_cookie(self, cookie: SessionCookie) -> Result<Self> {
        cookie.validate()?;
        Ok(Self { carrier: Arc::new(Carrier::Cookie(cookie)), ..self })
    }

    /// Takes the token from `Authorization: Bearer …`, and neither reads nor writes a cookie: for
    /// clients that are no browsers. The handler tells them of their token; see
    /// [`WebSession::new_token`].
    pub fn with_bearer(self) -> Self {
        Self { carrier: Arc::new(Carrier::Bearer), ..self }
    }
}

impl<S> tower_layer::Layer<S> for SessionLayer {
    type Service = SessionService<S>;

    fn layer(&self, inner: S) -> SessionService<S> {
        SessionService { inner, layer: self.clone() }
    }
}

/// A service behind a [`SessionLayer`].
#[derive(Debug, Clone)]
pub struct SessionService<S> {
    inner: S,
    layer: SessionLayer,
}

impl<S, B, C> Service<Request<B>> for SessionService<S>
where
    S: Service<Request<B>, Response = Response<C>>,
{
    type Response = Response<C>;
    type Error = S::Error;
    type Future = SessionFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let SessionLayer { sessions, carrier } = &self.layer;
        let session = WebSession::new(sessions.clone(), carrier.clone(), request.headers());
        request.extensions_mut().insert(session.clone());
        SessionFuture { inner: self.inner.call(request), session }
    }
}

pin_project_lite::pin_project! {
    /// What a [`SessionService`] answers.
    #[derive(Debug)]
    pub struct SessionFuture<F> {
        #[pin]
        inner: F,
        session: WebSession,
    }
}

impl<F, C, E> Future for SessionFuture<F>
where
    F: Future<Output = Result<Response<C>, E>>,
{
    type Output = Result<Response<C>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(context))?;
        this.session.tell(response.headers_mut());
        Poll::Ready(Ok(response))
    }
}
