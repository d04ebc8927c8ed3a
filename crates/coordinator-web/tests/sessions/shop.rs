//! A small service with sessions, and a browser that keeps its cookie.

use axum::{
    Router,
    body::Body,
    extract::Path,
    response::{IntoResponse, Response as Answer},
    routing::{get, post},
};
use coordinator::sessions::{Created, Lookup, NewSession, Rotated};
use coordinator_web::sessions::{LiveSession, SessionLayer, SessionRejection, WebSession};
use http::{
    Request, Response, StatusCode,
    header::{COOKIE, SET_COOKIE},
};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

type Answered<T> = Result<T, SessionRejection>;

async fn login(session: WebSession, Path(user): Path<String>) -> Answered<Answer> {
    let new = NewSession::user(&user).set("theme", "light")?;
    Ok(match session.login(new).await? {
        Created::Session(_) => {
            session.new_token().expect("a new session has a token").reveal().into_response()
        }
        _ => StatusCode::CONFLICT.into_response(),
    })
}

async fn logout(session: WebSession) -> Answered<String> {
    let before = session.logout("logout").await?;
    let after = session.load().await?.map(|_| ());
    Ok(format!("{before:?} {after:?}"))
}

async fn rotate(session: WebSession) -> Answered<&'static str> {
    Ok(match session.rotate().await? {
        Lookup::Live(Rotated::Done(_)) => "Done",
        Lookup::Live(Rotated::Replaced) => "Replaced",
        _ => "gone",
    })
}

async fn standing(session: WebSession) -> Answered<String> {
    Ok(match session.load().await?.map(|session| session.user().map(str::to_owned)) {
        Lookup::Live(user) => user.unwrap_or_default(),
        gone => format!("{gone:?}"),
    })
}

async fn set(session: LiveSession, Path(pair): Path<(String, String)>) -> Answered<()> {
    session.set(&pair.0, &pair.1).await.map(|_| ())
}

async fn value(session: WebSession, Path(field): Path<String>) -> Answered<String> {
    Ok(session.get::<String>(&field).await?.unwrap_or_else(|| "none".to_owned()))
}

async fn number(session: WebSession, Path(field): Path<String>) -> Answered<String> {
    Ok(session.get::<u64>(&field).await?.unwrap_or_default().to_string())
}

async fn count(session: WebSession) -> Answered<()> {
    let visits = "visits";
    session.update(|data| data.set(visits, &(data.get::<u64>(visits)?.unwrap_or(0) + 1))).await?;
    Ok(())
}

async fn begin(session: WebSession) -> Answered<()> {
    session.create(NewSession::anonymous()).await?.session()?;
    Ok(())
}

async fn begin_and_fail(session: WebSession) -> Answered<StatusCode> {
    session.create(NewSession::anonymous()).await?.session()?;
    session.set("a", "kept").await?;
    Ok(StatusCode::INTERNAL_SERVER_ERROR)
}

async fn set_and_wait(session: LiveSession) -> Answered<()> {
    session.set("a", "kept").await?;
    std::future::pending().await
}

async fn maybe(session: Option<LiveSession>) -> String {
    session.as_ref().and_then(|session| session.user()).unwrap_or("nobody").to_owned()
}

async fn me(session: LiveSession) -> String {
    session.user().unwrap_or("nobody yet").to_owned()
}

/// A service that uses sessions in every way, and one route that uses none.
pub(crate) fn shop(layer: SessionLayer) -> Router {
    Router::new()
        .route("/health", get(async || "well"))
        .route("/me", get(me))
        .route("/maybe", get(maybe))
        .route("/standing", get(standing))
        .route("/login/{user}", post(login))
        .route("/logout", post(logout))
        .route("/rotate", post(rotate))
        .route("/begin", post(begin))
        .route("/begin-and-fail", post(begin_and_fail))
        .route("/set-and-wait", post(set_and_wait))
        .route("/set/{field}/{value}", post(set))
        .route("/get/{field}", get(value))
        .route("/number/{field}", get(number))
        .route("/count", post(count))
        .layer(layer)
}

/// A browser: it keeps one cookie, and sends it, or lines of its own.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) app: Router,
    name: &'static str,
    /// The value of its cookie.
    pub(crate) jar: Option<String>,
    /// Sent in place of it.
    pub(crate) lines: Vec<Vec<u8>>,
}

impl Client {
    pub(crate) fn of(app: Router) -> Self {
        Self { app, name: "__Host-session", jar: None, lines: Vec::new() }
    }

    pub(crate) fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    pub(crate) fn with_line(&self, line: &[u8]) -> Self {
        Self { lines: vec![line.to_vec()], ..self.clone() }
    }

    /// The same browser at another service.
    pub(crate) fn at(&self, app: Router) -> Self {
        Self { app, ..self.clone() }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Response<Body> {
        self.send(Request::get(path)).await
    }

    pub(crate) async fn post(&mut self, path: &str) -> Response<Body> {
        self.send(Request::post(path)).await
    }

    pub(crate) async fn send(&mut self, mut request: http::request::Builder) -> Response<Body> {
        for line in &self.lines {
            request = request.header(COOKIE, &line[..]);
        }
        if let Some(value) = self.jar.as_ref().filter(|_| self.lines.is_empty()) {
            request = request.header(COOKIE, format!("{}={value}", self.name));
        }
        let request = request.body(Body::empty()).expect("a request");
        let answer = self.app.clone().oneshot(request).await.expect("routers do not fail");
        for set in cookies(&answer) {
            let set = cookie::Cookie::parse(set).expect("a cookie");
            if set.name() == self.name {
                let ended = set.max_age() == Some(cookie::time::Duration::ZERO);
                self.jar = (!ended).then(|| set.value().to_owned());
            }
        }
        answer
    }
}

/// The cookies that an answer sets.
pub(crate) fn cookies(answer: &Response<Body>) -> Vec<&str> {
    let all = answer.headers().get_all(SET_COOKIE).iter();
    all.map(|value| value.to_str().expect("ASCII")).collect()
}

pub(crate) async fn text(answer: Response<Body>) -> String {
    let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}
