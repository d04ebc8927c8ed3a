//! `Sse`: what is streamed and to whom, and the answer to a request.

use super::{
    access::{Access, Authorization},
    body::{SseBody, Stream},
    opening::{self, Opened},
    place::SCOPES_MAX,
    shared::{Shared, SseStatus},
    text::Block,
};
use crate::problem::{PROBLEM_JSON, Problem};
use coordinator::{
    clock::{Clock, SystemClock},
    events::{Events, Position},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
    request::Parts,
};
use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const FORBIDDEN: (&str, &str) = ("about:blank", "Forbidden");
const BAD_REQUEST: (&str, &str) = ("about:blank", "Bad Request");

/// Events of scopes for browsers, as `text/event-stream`.
///
/// Clones share their streams; options are of the clone they are set on.
///
/// ```
/// use axum::{Router, extract::{Path, State}, routing::get};
/// use coordinator::events::Events;
/// use coordinator_web::events::{Sse, SseBody};
/// use http::{Response, request::Parts};
///
/// async fn follow(
///     State(sse): State<Sse>,
///     Path(case): Path<String>,
///     parts: Parts,
/// ) -> Response<SseBody> {
///     sse.answer(&parts, [format!("case:{case}")]).await
/// }
///
/// let sse = Sse::new(Events::embedded())
///     .with_terminal(["triage_completed"])
///     .with_authorization(async |parts: Parts, _scope| parts.headers.contains_key("cookie"));
/// let app: Router = Router::new().route("/cases/{case}/events", get(follow)).with_state(sse);
/// ```
#[derive(Clone)]
pub struct Sse {
    events: Events,
    settings: Arc<Settings>,
    shared: Arc<Shared>,
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) types: Vec<String>,
    pub(super) terminal: Arc<[String]>,
    pub(super) start: Position,
    pub(super) keep_alive: Duration,
    pub(super) write_deadline: Duration,
    pub(super) clock: Arc<dyn Clock>,
    authorization: Option<Authorization>,
    max_streams: usize,
    retry: Duration,
}

impl Settings {
    /// When to come back: not all at once.
    fn retry(&self) -> Duration {
        self.retry.mul_f64(1.0 + 0.5 * rand::random::<f64>())
    }

    /// The same for whoever would only come into a crowd.
    pub(super) fn retry_spread(&self) -> Duration {
        self.retry.mul_f64(1.0 + 4.0 * rand::random::<f64>())
    }
}

impl Sse {
    /// Streams of everything in a scope, to everybody: see
    /// [`with_authorization`](Self::with_authorization).
    pub fn new(events: Events) -> Self {
        let settings = Settings {
            types: Vec::new(),
            terminal: Arc::new([]),
            start: Position::Now,
            keep_alive: Duration::from_secs(15),
            write_deadline: Duration::from_secs(30),
            clock: Arc::new(SystemClock),
            authorization: None,
            max_streams: 10_000,
            retry: Duration::from_secs(2),
        };
        Self { events, settings: Arc::new(settings), shared: Arc::new(Shared::new()) }
    }

    fn changed(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }

    /// Only events of these types, as in
    /// [`Subscribe::types`](coordinator::events::Subscribe::types), and the terminal ones.
    pub fn with_types<I: IntoIterator<Item: Into<String>>>(self, types: I) -> Self {
        self.changed(|settings| settings.types.extend(types.into_iter().map(Into::into)))
    }

    /// The types with which a scope is finished. A stream ends after the event with which the last
    /// of its scopes is; whoever comes again has 204, on which a browser stays away. A scope whose
    /// last event is of such a type is finished for newcomers, too.
    pub fn with_terminal<I: IntoIterator<Item: Into<String>>>(self, types: I) -> Self {
        self.changed(|settings| {
            settings.terminal = types.into_iter().map(Into::into).collect();
        })
    }

    /// Where a client begins that says of no place: [`Position::Now`] unless set.
    pub fn with_start(self, start: Position) -> Self {
        self.changed(|settings| settings.start = start)
    }

    /// Who may follow which scope, asked once for each before a stream begins: everybody may
    /// unless set. `true` and `false` will do; a service that cannot say answers
    /// [`Access::Unknown`].
    pub fn with_authorization<F, A>(self, ask: F) -> Self
    where
        F: Fn(Parts, String) -> A + Send + Sync + 'static,
        A: Future<Output: Into<Access>> + Send + 'static,
    {
        self.changed(|settings| settings.authorization = Some(Authorization::new(ask)))
    }

    /// How many streams there are at most: 10,000 unless set. Whoever comes then is told to come
    /// back later.
    pub fn with_max_streams(self, streams: usize) -> Self {
        self.changed(|settings| settings.max_streams = streams)
    }

    /// After what time a client that was cut comes back: 2 s unless set, and up to half as long
    /// again, so that not all come at once; up to five times as long where there are too many.
    pub fn with_retry(self, retry: Duration) -> Self {
        self.changed(|settings| settings.retry = retry)
    }

    /// After what silence a comment is sent: 15 s unless set. Proxies cut what is silent.
    pub fn with_keep_alive(self, every: Duration) -> Self {
        self.changed(|settings| settings.keep_alive = every)
    }

    /// How long a client may take to read nothing: 30 s unless set. Then its stream ends in an
    /// error, with which the server closes the connection.
    ///
    /// It counts while text waits here, behind what the kernel has taken for the client; a client
    /// that is gone without a word is known by the kernel alone: see the book on
    /// `TCP_USER_TIMEOUT`.
    pub fn with_write_deadline(self, deadline: Duration) -> Self {
        self.changed(|settings| settings.write_deadline = deadline)
    }

    /// Another clock, for tests.
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        self.changed(|settings| settings.clock = clock)
    }

    /// Ends all streams, those of clones and of later answers too. Clients come back, and should
    /// find another instance then.
    pub fn drain(&self) {
        self.shared.drain();
    }

    /// How the streams are, those of clones too.
    pub fn status(&self) -> SseStatus {
        self.shared.status()
    }

    /// The answer to a request for the events of one scope, or of up to 16 on one stream.
    ///
    /// A client resumes with the header `Last-Event-ID`, or else with the query's `last_event_id`.
    ///
    /// | answer | when |
    /// |---|---|
    /// | 200 and the stream | |
    /// | 200, `retry`, the end | too many streams, [draining](Self::drain), an outage, [`Access::Unknown`] |
    /// | 204 | all scopes are finished, and the client has had their last events |
    /// | 400 | no scope, more than 16, or one that cannot be |
    /// | 403 | [`Access::Denied`] |
    ///
    /// An id that cannot be read is told as a gap of reason `malformed`, and the stream begins as
    /// for a newcomer: on any other status a browser gives up for ever.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn answer<I>(&self, parts: &Parts, scopes: I) -> Response<SseBody>
    where
        I: IntoIterator<Item: Into<String>>,
    {
        let mut seen = HashSet::new();
        let scopes = scopes.into_iter().map(Into::into);
        let scopes: Vec<String> = scopes.filter(|scope| seen.insert(scope.clone())).collect();
        if scopes.is_empty() || scopes.len() > SCOPES_MAX {
            return problem(StatusCode::BAD_REQUEST, BAD_REQUEST);
        }
        if *self.shared.draining().borrow() {
            return self.later("draining");
        }
        let Some(room) = self.shared.enter(self.settings.max_streams) else {
            return self.later("overloaded");
        };
        if let Some(authorization) = &self.settings.authorization {
            match authorization.of(parts, &scopes).await {
                Access::Allowed => {}
                Access::Denied => return problem(StatusCode::FORBIDDEN, FORBIDDEN),
                Access::Unknown => return self.later("unknown"),
            }
        }
        let resume = opening::resume(parts);
        let opened =
            opening::open(&self.events, &self.settings, &self.shared, &resume, scopes).await;
        let (feed, mut writer, unknown) = match opened {
            Opened::Stream { feed, writer, unknown } => (feed, writer, unknown),
            Opened::Finished => return status(StatusCode::NO_CONTENT, SseBody::whole("")),
            Opened::Wrong => return problem(StatusCode::BAD_REQUEST, BAD_REQUEST),
            Opened::Outage => return self.later("unavailable"),
        };
        writer.open(self.settings.retry());
        for index in unknown {
            writer.malformed(index);
        }
        let stream = Stream::new(self.settings.clone(), room, feed, writer);
        event_stream(SseBody::live(stream))
    }

    /// A stream that ends as it begins.
    fn later(&self, why: &str) -> Response<SseBody> {
        let block = Block::new().comment(why).retry(self.settings.retry_spread());
        event_stream(SseBody::whole(block.end()))
    }
}

fn status(status: StatusCode, body: SseBody) -> Response<SseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn problem(code: StatusCode, text: (&'static str, &'static str)) -> Response<SseBody> {
    let mut response = status(code, SseBody::whole(Problem::new(text, code).json()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    response
}

fn event_stream(body: SseBody) -> Response<SseBody> {
    let mut response = Response::new(body);
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(BUFFERING, HeaderValue::from_static("no"));
    response
}

impl fmt::Debug for Sse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sse")
            .field("settings", &self.settings)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
