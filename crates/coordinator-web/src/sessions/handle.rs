//! `WebSession`: the session of the client that a request came from. Sessions that begin are in
//! `fresh.rs`.

use super::carrier::{Carrier, Sent, Tell};
use coordinator::{
    Error, Result,
    sessions::{Data, Lookup, Patch, Rotated, Rotation, Session, Sessions, Token, Updated},
};
use http::{HeaderMap, HeaderValue};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::sync::{Mutex, MutexGuard};

/// The session of the client that a request came from: an extension of the request, and an
/// extractor of axum's. Clones are the same handle.
///
/// Nothing is asked until it is used, and then once per request: what was found is remembered, and
/// so is a failure. Whoever changes the session through it and then looks again asks again.
///
/// What is changed is changed when the call returns; nothing is left to be written at the end of
/// the request, so neither an answer of 500 nor a client that goes away loses any of it. After a
/// failed look nothing is written.
///
/// ```
/// use axum::{Router, routing::{get, post}};
/// use coordinator::sessions::{Created, NewSession, Sessions};
/// use coordinator_web::sessions::{SessionLayer, SessionRejection, WebSession};
///
/// async fn login(session: WebSession) -> Result<&'static str, SessionRejection> {
///     // … after the password was right:
///     match session.login(NewSession::user("ann")).await? {
///         Created::Session(_) => Ok("welcome"),
///         _ => Ok("log out elsewhere first"),
///     }
/// }
///
/// async fn logout(session: WebSession) -> Result<&'static str, SessionRejection> {
///     session.logout("logout").await?;
///     Ok("bye")
/// }
///
/// let app: Router = Router::new()
///     .route("/login", post(login))
///     .route("/logout", post(logout))
///     .layer(SessionLayer::new(Sessions::embedded()));
/// ```
#[derive(Clone)]
pub struct WebSession {
    shared: Arc<Shared>,
}

struct Shared {
    sessions: Sessions,
    carrier: Arc<Carrier>,
    /// Whether the client sent anything for a token.
    sent: bool,
    /// One step at a time.
    work: Mutex<Work>,
    tell: std::sync::Mutex<Tell>,
}

/// What is known so far.
#[derive(Default)]
pub(super) struct Work {
    /// The token to ask with.
    token: Option<Token>,
    /// The same, if another request put it in the place of the one that was sent.
    replaced_by: Option<Token>,
    /// What asking came to.
    pub(super) seen: Option<Result<Lookup<Session>, Error>>,
    /// Whether the request has counted as activity.
    touched: bool,
}

impl Work {
    pub(super) fn token(&self) -> Option<Token> {
        self.token.clone()
    }
}

/// A step that may begin, or why there is nothing to take it on.
enum Begun<'a, T> {
    Live(MutexGuard<'a, Work>, Token),
    Gone(Lookup<T>),
}

/// Why there is nothing that lives, in words of another type.
fn gone<A, B>(found: &Lookup<A>) -> Lookup<B> {
    match found {
        Lookup::Expired => Lookup::Expired,
        Lookup::Revoked { reason } => Lookup::Revoked { reason: reason.clone() },
        _ => Lookup::Absent,
    }
}

impl WebSession {
    /// Why a session was ended that another one of the same client took the place of.
    pub const REPLACED: &'static str = "replaced";

    pub(super) fn new(sessions: Sessions, carrier: Arc<Carrier>, headers: &HeaderMap) -> Self {
        let Sent { token, any } = carrier.sent(headers);
        let work = Mutex::new(Work { token, ..Work::default() });
        let tell = std::sync::Mutex::default();
        Self { shared: Arc::new(Shared { sessions, carrier, sent: any, work, tell }) }
    }

    pub(super) fn sessions(&self) -> &Sessions {
        &self.shared.sessions
    }

    /// For the answer.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        let tell = self.shared.tell.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.shared.carrier.tell(&tell, headers);
    }

    /// What an answer of 401 asks the client for.
    #[cfg_attr(not(feature = "axum"), expect(dead_code, reason = "axum's rejections ask"))]
    pub(super) fn challenge(&self) -> HeaderValue {
        self.shared.carrier.challenge(self.shared.sent)
    }

    fn say(&self, tell: Tell) {
        *self.shared.tell.lock().unwrap_or_else(PoisonError::into_inner) = tell;
    }

    pub(super) async fn work(&self) -> MutexGuard<'_, Work> {
        self.shared.work.lock().await
    }

    /// Looks, if nobody has yet.
    pub(super) async fn seen<'a>(&self, work: &'a mut Work) -> Result<&'a Lookup<Session>> {
        if work.seen.is_none() {
            let sessions = self.sessions();
            let found = match &work.token {
                None => Ok(Lookup::Absent),
                Some(token) if work.touched => sessions.peek(token).await,
                Some(token) => sessions.load(token).await,
            };
            work.touched |= found.is_ok();
            if let Ok(found) = &found {
                self.learn(work, found);
            }
            work.seen = Some(found);
        }
        match work.seen.as_ref().expect("it was looked for") {
            Ok(found) => Ok(found),
            Err(error) => Err(error.duplicate()),
        }
    }

    /// Takes in what was found of the client's token.
    fn learn(&self, work: &mut Work, found: &Lookup<Session>) {
        match found {
            Lookup::Live(session) => {
                if let Some(token) = session.token() {
                    work.replaced_by = Some(token.clone());
                    self.use_from_now_on(work, token.clone());
                }
            }
            gone => self.forget(work, gone),
        }
    }

    pub(super) fn use_from_now_on(&self, work: &mut Work, token: Token) {
        self.say(Tell::Use(token.clone()));
        work.token = Some(token);
    }

    /// Takes in that the session has ended.
    fn forget<T>(&self, work: &mut Work, found: &Lookup<T>) {
        // Who was given another session in its place has that one's token by now, or is about to.
        let replaced = matches!(found, Lookup::Revoked { reason } if reason == Self::REPLACED);
        if work.token.take().is_some() {
            self.say(if replaced { Tell::Nothing } else { Tell::Forget });
        }
        work.seen = Some(Ok(gone(found)));
    }

    async fn begin<T>(&self) -> Result<Begun<'_, T>> {
        let mut work = self.work().await;
        let gone = gone(self.seen(&mut work).await?);
        Ok(match work.token.clone() {
            Some(token) => {
                // From here on nobody knows what the session is, until somebody looks again.
                work.seen = None;
                Begun::Live(work, token)
            }
            None => Begun::Gone(gone),
        })
    }

    fn end<T>(&self, work: &mut Work, done: Result<Lookup<T>>) -> Result<Lookup<T>> {
        if let Ok(gone) = &done
            && !gone.is_live()
        {
            self.forget(work, gone);
        }
        done
    }

    /// The session, as it is found by the first look of the request, or by the first after a
    /// change through this handle. That counts as activity.
    ///
    /// A request without a token that could be one is told [`Lookup::Absent`], and nobody is asked;
    /// so is one with two different tokens.
    ///
    /// # Errors
    /// As [`Sessions::load`]. An outage is never `Absent`. It is remembered as well: a second call
    /// is told the same error, and nobody is asked.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn load(&self) -> Result<Lookup<Session>> {
        self.seen(&mut *self.work().await).await.cloned()
    }

    /// A value of the session; `None` without a session as without such a value.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`Corrupt`](coordinator::ErrorKind::Corrupt) if the value has
    /// another shape.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn get<T: DeserializeOwned>(&self, field: &str) -> Result<Option<T>> {
        match self.seen(&mut *self.work().await).await? {
            Lookup::Live(session) => session.get(field),
            _ => Ok(None),
        }
    }

    /// Sets a value of the session, and leaves its others as they are. Without a session nothing is
    /// set, and none is created: [`create`](Self::create) does that.
    ///
    /// # Errors
    /// As [`patch`](Self::patch).
    ///
    /// # Cancel safety
    /// As [`patch`](Self::patch).
    pub async fn set<T: Serialize + ?Sized>(
        &self,
        field: &str,
        value: &T,
    ) -> Result<Lookup<Updated>> {
        self.patch(Patch::new().set(field, value)?).await
    }

    /// Sets and removes values, as [`Sessions::patch`] does: changes of other values by other
    /// requests survive.
    ///
    /// # Errors
    /// As [`load`](Self::load), and then nothing was written; as [`Sessions::patch`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the change is made; it is made wholly or not.
    pub async fn patch(&self, patch: Patch) -> Result<Lookup<Updated>> {
        match self.begin().await? {
            Begun::Gone(gone) => Ok(gone),
            Begun::Live(mut work, token) => {
                let done = self.sessions().patch(&token, patch).await;
                self.end(&mut work, done)
            }
        }
    }

    /// Changes values by what they are, as [`Sessions::update`] does.
    ///
    /// # Errors
    /// As [`patch`](Self::patch), and what `update` fails with.
    ///
    /// # Cancel safety
    /// As [`patch`](Self::patch).
    pub async fn update(
        &self,
        update: impl FnMut(&mut Data) -> Result<()>,
    ) -> Result<Lookup<Updated>> {
        match self.begin().await? {
            Begun::Gone(gone) => Ok(gone),
            Begun::Live(mut work, token) => {
                let done = self.sessions().update(&token, update).await;
                self.end(&mut work, done)
            }
        }
    }

    /// Gives the session other timeouts, as [`Sessions::extend`] does.
    ///
    /// # Errors
    /// As [`load`](Self::load), and then nothing was written; as [`Sessions::extend`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it has them.
    pub async fn extend(
        &self,
        idle: Option<Duration>,
        absolute: Option<Duration>,
    ) -> Result<Lookup<Duration>> {
        match self.begin().await? {
            Begun::Gone(gone) => Ok(gone),
            Begun::Live(mut work, token) => {
                let done = self.sessions().extend(&token, idle, absolute).await;
                self.end(&mut work, done)
            }
        }
    }

    /// Gives the session another token, as where somebody was asked for a password again. Requests
    /// that are on their way with the one before are let in for the grace, and are told the new
    /// one: all the same one. At a login that would be too kind: [`login`](Self::login).
    ///
    /// [`Rotated::Replaced`]: others replaced the token more than once. Theirs is the one to use,
    /// and this answer tells the client nothing of it.
    ///
    /// # Errors
    /// As [`load`](Self::load), and then nothing was written; as [`Sessions::rotate`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the token was replaced: the old one finds out.
    pub async fn rotate(&self) -> Result<Lookup<Rotated>> {
        match self.begin().await? {
            Begun::Gone(gone) => Ok(gone),
            Begun::Live(mut work, token) => {
                if let Some(token) = work.replaced_by.take() {
                    // Another request was first: one of several rotations is enough.
                    return Ok(Lookup::Live(Rotated::Done(token)));
                }
                let done = self.sessions().rotate(&token, Rotation::new()).await;
                if let Ok(Lookup::Live(Rotated::Done(token))) = &done {
                    self.use_from_now_on(&mut work, token.clone());
                }
                self.end(&mut work, done)
            }
        }
    }

    /// Ends the session, and tells the client to forget its cookie.
    ///
    /// [`Lookup::Live`]: it lived until now.
    ///
    /// # Errors
    /// As [`load`](Self::load), and then nothing was ended; as [`Sessions::invalidate`]. The client
    /// keeps its cookie then, since the session may live on.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it has ended.
    pub async fn logout(&self, reason: &str) -> Result<Lookup<()>> {
        let done = match self.begin().await? {
            Begun::Gone(gone) => gone,
            Begun::Live(mut work, token) => {
                let done = self.sessions().invalidate(&token, reason).await?;
                let reason = reason.to_owned();
                match &done {
                    Lookup::Live(()) => self.forget(&mut work, &Lookup::<()>::Revoked { reason }),
                    gone => self.forget(&mut work, gone),
                }
                done
            }
        };
        // Whatever it is that the client has.
        if self.shared.sent {
            self.say(Tell::Forget);
        }
        Ok(done)
    }

    /// The token that the client is to use from now on, if it is to use another one: of a new
    /// session, or after a rotation. A cookie is written without this; a client that sends a header
    /// is to be told in the answer, and `no-store` with it.
    pub fn new_token(&self) -> Option<Token> {
        match &*self.shared.tell.lock().unwrap_or_else(PoisonError::into_inner) {
            Tell::Use(token) => Some(token.clone()),
            _ => None,
        }
    }
}

/// Without anything that lets anybody in.
impl fmt::Debug for WebSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSession").field("sent", &self.shared.sent).finish_non_exhaustive()
    }
}
