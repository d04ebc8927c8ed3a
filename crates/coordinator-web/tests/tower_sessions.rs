//! The store for tower-sessions: what the documentation of `SessionStore` promises, in process and
//! over Redis, and what a service with tower-sessions' own layer gets.

use axum::{Router, body::Body, routing::get};
use coordinator::{
    Config, Coordinator,
    clock::{Clock as _, ManualClock},
    sessions::Documents,
};
use coordinator_harness::{RedisServer, fresh_prefix};
use coordinator_web::tower_sessions::TowerSessionStore;
use futures::future::{join_all, join3};
use http::{
    Request, Response, StatusCode,
    header::{COOKIE, SET_COOKIE},
};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tower::ServiceExt as _;
use tower_sessions::{
    Expiry, Session, SessionManagerLayer, SessionStore,
    session::{Id, Record},
    session_store::Error,
};

const MINUTE: Duration = Duration::from_mins(1);

/// A store on one backend.
struct Stage {
    store: TowerSessionStore,
    documents: Documents,
    clock: ManualClock,
    server: Option<(RedisServer, Coordinator)>,
}

impl Stage {
    fn over(
        documents: Documents,
        clock: ManualClock,
        server: Option<(RedisServer, Coordinator)>,
    ) -> Self {
        let store = TowerSessionStore::new(&documents).with_clock(Arc::new(clock.clone()));
        Self { store, documents, clock, server }
    }

    fn embedded() -> Self {
        let clock = ManualClock::new();
        Self::over(Documents::embedded_with_clock(Arc::new(clock.clone())), clock, None)
    }

    async fn redis() -> Self {
        let server = RedisServer::builder().with_clock_shim().start().await.expect("a server");
        server.stop_clock().await.expect("a clock");
        let config = Config::from_url(&server.url()).expect("a URL");
        let config = config.with_prefix(&fresh_prefix()).expect("a prefix");
        let config = config.with_command_timeout(Duration::from_millis(500));
        let coordinator = Coordinator::with_config(config).await.expect("a server");
        let documents = coordinator.documents().clone();
        Self::over(documents, ManualClock::new(), Some((server, coordinator)))
    }

    async fn elapse(&self, by: Duration) {
        if let Some((server, _)) = &self.server {
            server.advance_clock(by).await.expect("a clock");
        }
        self.clock.advance(by);
    }

    /// A record that ends so much later.
    fn record(&self, ends_in: Duration) -> Record {
        let now = self.clock.unix_time() + ends_in;
        let expiry_date = time::OffsetDateTime::UNIX_EPOCH + now;
        Record { id: Id::default(), data: [("n".to_owned(), json!(1))].into(), expiry_date }
    }

    async fn created(&self) -> Record {
        let mut record = self.record(MINUTE);
        self.store.create(&mut record).await.expect("it is created");
        record
    }

    async fn found(&self, id: &Id) -> Option<Record> {
        self.store.load(id).await.expect("an answer")
    }
}

macro_rules! on_every_backend {
    ($($case:ident)*) => {
        mod embedded {
            $(#[tokio::test] async fn $case() { super::$case(super::Stage::embedded()).await; })*
        }
        mod redis {
            $(#[tokio::test] async fn $case() { super::$case(super::Stage::redis().await).await; })*
        }
    };
}

on_every_backend! {
    a_record_is_loaded_as_it_was_created
    a_taken_id_is_given_to_nobody_else
    a_save_changes_what_is_there
    a_save_creates_nothing
    a_deleted_record_stays_deleted
    a_record_ends_at_its_expiry_date
    namespaces_are_apart
    a_service_keeps_its_sessions
    a_request_in_flight_revives_nothing
}

async fn a_record_is_loaded_as_it_was_created(stage: Stage) {
    let mut record = stage.record(MINUTE + Duration::from_nanos(123_456_789));
    record.data = [
        ("text", json!("J\u{f6}rg \u{1f980} \0")),
        ("none", Value::Null),
        ("yes", json!(true)),
        ("least", json!(i64::MIN)),
        ("most", json!(u64::MAX)),
        ("third", json!(1.0 / 3.0)),
        ("tiny", json!(5e-324)),
        ("large", json!(f64::MAX)),
        ("whole", json!(2.0)),
        ("deep", json!([{"a": [[], {}, [null, {"b": "c"}]]}, "x".repeat(100_000)])),
        ("", json!({})),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let id = record.id;
    stage.store.create(&mut record).await.expect("it is created");
    assert_eq!(record.id, id, "it was free");
    assert_eq!(stage.found(&id).await, Some(record));
    assert_eq!(stage.found(&Id::default()).await, None);

    for edge in [Id(0), Id(-1), Id(i128::MIN), Id(i128::MAX)] {
        let mut record = Record { id: edge, ..stage.record(MINUTE) };
        record.data.clear();
        stage.store.create(&mut record).await.expect("it is created");
        assert_eq!(stage.found(&edge).await, Some(record));
    }
}

async fn a_taken_id_is_given_to_nobody_else(stage: Stage) {
    let first = stage.created().await;
    let creating = (0..20).map(|n| {
        let mut record = Record { id: first.id, ..stage.record(MINUTE) };
        record.data.insert("n".to_owned(), json!(n));
        let store = stage.store.clone();
        async move {
            store.create(&mut record).await.expect("it is created");
            record
        }
    });
    let others = join_all(creating).await;
    let ids: HashSet<_> = others.iter().map(|record| record.id).chain([first.id]).collect();
    assert_eq!(ids.len(), 21, "each has an id of its own");
    for record in others.iter().chain([&first]) {
        assert_eq!(stage.found(&record.id).await.as_ref(), Some(record));
    }
}

async fn a_save_changes_what_is_there(stage: Stage) {
    let mut record = stage.created().await;
    let other = stage.created().await;
    record.data.insert("m".to_owned(), json!("more"));
    record.data.remove("n");
    stage.store.save(&record).await.expect("it is saved");
    assert_eq!(stage.found(&record.id).await.as_ref(), Some(&record));

    // Its end is what the last save says, later or earlier.
    record.expiry_date += MINUTE;
    stage.store.save(&record).await.expect("it is saved");
    stage.elapse(MINUTE + MINUTE / 2).await;
    assert_eq!(stage.found(&record.id).await.as_ref(), Some(&record));
    assert_eq!(stage.found(&other.id).await, None);
    record.expiry_date -= MINUTE;
    stage.store.save(&record).await.expect("it is saved");
    assert_eq!(stage.found(&record.id).await, None);

    // Of many at once one is the last, and none fails.
    let record = stage.created().await;
    let saving = (0..20).map(|n| {
        let mut record = record.clone();
        record.data.insert("n".to_owned(), json!(n));
        let store = stage.store.clone();
        async move { store.save(&record).await }
    });
    assert!(join_all(saving).await.iter().all(Result::is_ok));
    assert!(stage.found(&record.id).await.is_some());
}

fn assert_ended(saved: Result<(), Error>) {
    let Err(Error::Backend(why)) = saved else { panic!("{saved:?}") };
    assert_eq!(why, "the session has ended: nothing was saved");
}

async fn a_save_creates_nothing(stage: Stage) {
    let record = stage.record(MINUTE);
    assert_ended(stage.store.save(&record).await);
    assert_eq!(stage.found(&record.id).await, None);
}

async fn a_deleted_record_stays_deleted(stage: Stage) {
    let record = stage.created().await;
    stage.store.delete(&record.id).await.expect("it is deleted");
    assert_eq!(stage.found(&record.id).await, None);
    assert_ended(stage.store.save(&record).await);
    assert_eq!(stage.found(&record.id).await, None);
    stage.store.delete(&record.id).await.expect("it is gone already");

    let mut lost = 0;
    for _ in 0..60 {
        let record = stage.created().await;
        let saving = || join_all((0..2).map(|_| stage.store.save(&record)));
        let (before, deleted, after) =
            join3(saving(), stage.store.delete(&record.id), saving()).await;
        deleted.expect("it is deleted");
        assert_eq!(stage.found(&record.id).await, None, "no save came after the end");
        lost += before.iter().chain(&after).filter(|saved| saved.is_err()).count();
    }
    assert!(lost > 0, "no save met a delete: the test shows nothing");
}

async fn a_record_ends_at_its_expiry_date(stage: Stage) {
    let record = stage.created().await;
    stage.elapse(MINUTE - Duration::from_millis(1)).await;
    assert_eq!(stage.found(&record.id).await.as_ref(), Some(&record));
    stage.elapse(Duration::from_millis(1)).await;
    assert_eq!(stage.found(&record.id).await, None);
    let longer = Record { expiry_date: record.expiry_date + MINUTE, ..record };
    assert_ended(stage.store.save(&longer).await);
    assert_eq!(stage.found(&longer.id).await, None);

    // The server forgets by itself, whatever this process's clock says.
    let record = stage.created().await;
    if let Some((server, _)) = &stage.server {
        server.advance_clock(MINUTE + Duration::from_millis(2)).await.expect("a clock");
        assert_eq!(stage.found(&record.id).await, None);
    }

    let mut past = stage.record(Duration::ZERO);
    past.expiry_date -= MINUTE;
    stage.store.create(&mut past).await.expect("it is created, and over");
    assert_eq!(stage.found(&past.id).await, None);
    let mut far = stage.record(MINUTE * 60 * 24 * 36_500);
    stage.store.create(&mut far).await.expect("it is created");
    assert_eq!(stage.found(&far.id).await, Some(far));
}

async fn namespaces_are_apart(stage: Stage) {
    let namespace = stage.documents.namespace("another service").expect("a name");
    let other =
        TowerSessionStore::in_namespace(namespace).with_clock(Arc::new(stage.clock.clone()));
    let record = stage.created().await;
    assert_eq!(other.load(&record.id).await.expect("an answer"), None);
    other.delete(&record.id).await.expect("an answer");
    assert_ended(other.save(&record).await);
    assert_eq!(stage.found(&record.id).await, Some(record));
}

/// A service with tower-sessions' own layer.
fn service(stage: &Stage) -> Router {
    let hit = async |session: Session| -> Result<String, StatusCode> {
        let failed = |_| StatusCode::INTERNAL_SERVER_ERROR;
        let hits = session.get::<u32>("hits").await.map_err(failed)?.unwrap_or(0) + 1;
        session.insert("hits", hits).await.map_err(failed)?;
        Ok(hits.to_string())
    };
    let cycle = async |session: Session| session.cycle_id().await.expect("another id");
    let flush = async |session: Session| session.flush().await.expect("it is over");
    // Another request ends the session while this one is at work.
    let store = stage.store.clone();
    let in_flight = move |session: Session| {
        let store = store.clone();
        async move {
            session.insert("hits", 99).await.expect("it is loaded");
            let id = session.id().expect("it has one");
            store.delete(&id).await.expect("it is deleted");
        }
    };
    let expiry = Expiry::OnInactivity(time::Duration::minutes(10));
    Router::new()
        .route("/hit", get(hit))
        .route("/cycle", get(cycle))
        .route("/flush", get(flush))
        .route("/in-flight", get(in_flight))
        .layer(SessionManagerLayer::new(stage.store.clone()).with_expiry(expiry))
}

/// Asks as a browser would; what it was answered, and its cookie from now on.
async fn ask(app: &Router, path: &str, jar: &mut Option<String>) -> Response<Body> {
    let mut request = Request::get(path);
    if let Some(jar) = &*jar {
        request = request.header(COOKIE, jar);
    }
    let request = request.body(Body::empty()).expect("a request");
    let answer = app.clone().oneshot(request).await.expect("routers do not fail");
    if let Some(set) = answer.headers().get(SET_COOKIE) {
        let set = cookie::Cookie::parse(set.to_str().expect("ASCII")).expect("a cookie");
        let ended = set.max_age() == Some(cookie::time::Duration::ZERO);
        *jar = (!ended).then(|| format!("{}={}", set.name(), set.value()));
    }
    answer
}

async fn text(answer: Response<Body>) -> String {
    let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// tower-sessions' own layer reads the system's clock, and so does the store then.
fn on_true_time(stage: Stage) -> Stage {
    let store = TowerSessionStore::new(&stage.documents);
    Stage { store, ..stage }
}

async fn a_service_keeps_its_sessions(stage: Stage) {
    let stage = on_true_time(stage);
    let app = service(&stage);
    let mut jar = None;
    for n in 1..=3 {
        assert_eq!(text(ask(&app, "/hit", &mut jar).await).await, n.to_string());
    }
    let before = jar.clone();
    ask(&app, "/cycle", &mut jar).await;
    assert_ne!(jar, before);
    assert_eq!(text(ask(&app, "/hit", &mut jar).await).await, "4", "it is the same session");
    let mut old = before;
    assert_eq!(text(ask(&app, "/hit", &mut old).await).await, "1", "the id before is nobody's");
    ask(&app, "/flush", &mut jar.clone()).await;
    assert_eq!(text(ask(&app, "/hit", &mut jar).await).await, "1");
}

async fn a_request_in_flight_revives_nothing(stage: Stage) {
    let stage = on_true_time(stage);
    let app = service(&stage);
    let mut jar = None;
    ask(&app, "/hit", &mut jar).await;
    let mut in_flight = jar.clone();
    let answer = ask(&app, "/in-flight", &mut in_flight).await;
    assert_eq!(answer.status(), 500, "what it set was not saved, and that is told");
    assert_eq!(text(ask(&app, "/hit", &mut jar).await).await, "1");
}

#[tokio::test]
async fn nobody_who_reads_the_server_learns_an_id() {
    let stage = Stage::redis().await;
    let record = stage.created().await;
    let (server, _) = stage.server.as_ref().expect("a server");
    let keys = server.command(&["KEYS", "*"]).await.expect("an answer");
    let keys: Vec<_> =
        keys.as_array().expect("an array").iter().filter_map(|k| k.as_str()).collect();
    assert!(keys.iter().any(|key| key.contains("tower-sessions")), "{keys:?}");
    let ids = [record.id.to_string(), record.id.0.to_string(), format!("{:x}", record.id.0)];
    let bytes = [record.id.0.to_le_bytes(), record.id.0.to_be_bytes()];
    for key in keys {
        let ttl = server.command(&["PTTL", key]).await.expect("an answer").as_int();
        assert!(ttl.is_some_and(|ttl| ttl > 0), "{key} has no ttl");
        let dump = format!("{:?}", server.command(&["HGETALL", key]).await);
        assert!(ids.iter().all(|id| !key.contains(id.as_str()) && !dump.contains(id.as_str())));
        for bytes in &bytes {
            let escaped = format!("{bytes:?}");
            assert!(!dump.contains(escaped.trim_matches(['[', ']'])), "{key}");
        }
    }
    let shown = format!("{:?}", stage.store);
    assert_eq!(shown, "TowerSessionStore { namespace: \"tower-sessions\", .. }");
}

#[tokio::test]
async fn a_damaged_record_is_an_error_and_is_not_written_over() {
    let stage = Stage::redis().await;
    let record = stage.created().await;
    let (server, _) = stage.server.as_ref().expect("a server");
    let keys = server.command(&["KEYS", "*"]).await.expect("an answer");
    let mut damaged = 0;
    for key in keys.as_array().expect("an array").iter().filter_map(|key| key.as_str()) {
        let data = server.command(&["HGET", key, "data"]).await.expect("an answer");
        if !data.is_null() && data.clone().ok().is_ok() {
            server.command(&["HSET", key, "data", "\u{1}nonsense"]).await.expect("an answer");
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1);
    assert!(matches!(stage.store.load(&record.id).await, Err(Error::Decode(_))));
    assert!(matches!(stage.store.save(&record).await, Err(Error::Decode(_))));
    assert!(matches!(stage.store.load(&record.id).await, Err(Error::Decode(_))));
    stage.store.delete(&record.id).await.expect("it can be deleted");
    assert_eq!(stage.found(&record.id).await, None);
}

#[tokio::test]
async fn an_outage_is_an_error_and_no_absence() {
    let stage = Stage::redis().await;
    let record = stage.created().await;
    let (server, _) = stage.server.as_ref().expect("a server");
    server.pause().expect("it is paused");
    assert!(matches!(stage.store.load(&record.id).await, Err(Error::Backend(_))));
    assert!(matches!(stage.store.save(&record).await, Err(Error::Backend(_))));
    assert!(matches!(stage.store.delete(&record.id).await, Err(Error::Backend(_))));
    let mut new = stage.record(MINUTE);
    assert!(matches!(stage.store.create(&mut new).await, Err(Error::Backend(_))));
    server.resume().expect("it runs");
}
