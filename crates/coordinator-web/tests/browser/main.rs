//! A page in a real Chromium follows a scope with its own `EventSource`, while its connections are
//! cut in the middle of what they carry.
//!
//! `cargo xtask test --browser` runs it, with a browser that it installs where it may.

mod cutter;

use axum::{
    Router,
    extract::State,
    response::Html,
    routing::{get, post},
};
use coordinator::events::{Cursor, Events};
use coordinator_web::events::{Sse, SseBody};
use cutter::Cutter;
use http::{Response, request::Parts};
use serde::Deserialize;
use std::{
    collections::HashSet,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::{net::TcpListener, sync::mpsc};

const SCOPE: &str = "case:7";
/// A browser may take its time, above all to start.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the page says it has seen.
#[derive(Debug, Deserialize)]
struct Report {
    kind: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    data: String,
}

const PAGE: &str = "<!doctype html><title>follows</title><script>
  let told = Promise.resolve();
  const tell = what => {
    const body = JSON.stringify(what);
    told = told.then(() => fetch('REPORT', { method: 'POST', mode: 'no-cors', body }));
  };
  const events = new EventSource('/events');
  for (const kind of ['update', 'gap', 'done'])
    events.addEventListener(kind, e => tell({ kind, id: e.lastEventId, data: e.data }));
  events.onopen = () => tell({ kind: 'open' });
  events.onerror = () =>
    tell({ kind: events.readyState === EventSource.CLOSED ? 'closed' : 'cut' });
</script>";

#[derive(Clone)]
struct Service {
    sse: Sse,
    page: String,
    reports: mpsc::UnboundedSender<Report>,
}

async fn follow(State(service): State<Service>, parts: Parts) -> Response<SseBody> {
    service.sse.answer(&parts, [SCOPE]).await
}

/// A service, and what pages report to it.
async fn serve(sse: Sse) -> (SocketAddr, mpsc::UnboundedReceiver<Report>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let (reports, reported) = mpsc::unbounded_channel();
    // Past the cutter, so that what the page says arrives.
    let page = PAGE.replace("REPORT", &format!("http://{addr}/report"));
    let report = async |State(service): State<Service>, text: String| {
        let report = serde_json::from_str(&text).expect("a report");
        service.reports.send(report).expect("the test listens");
    };
    let app = Router::new()
        .route("/", get(async |State(service): State<Service>| Html(service.page)))
        .route("/events", get(follow))
        .route("/report", post(report))
        .with_state(Service { sse, page, reports });
    cutter::background(async move { axum::serve(listener, app).await.expect("a service") });
    (addr, reported)
}

/// A browser that ends with the test, also if that is killed.
struct Browser {
    child: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "chromium", "--headless=new", "--no-sandbox"])
            .args(["--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("setpriv and chromium: cargo xtask test --browser installs them");
        Self { child, _profile: profile }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The next report of one of these kinds; the others are counted by nobody.
async fn report(reports: &mut mpsc::UnboundedReceiver<Report>, kinds: &[&str]) -> Report {
    let wanted = async {
        loop {
            let report = reports.recv().await.expect("the service lives");
            if kinds.contains(&&*report.kind) {
                return report;
            }
        }
    };
    let what = format!("a page that reports one of {kinds:?}");
    tokio::time::timeout(PATIENCE, wanted).await.expect(&what)
}

async fn publish(events: &Events, kind: &str, number: u64) -> Cursor {
    let published = events.publish(SCOPE, kind, &number).await.expect("a publish");
    published.cursor().expect("it is published")
}

#[tokio::test]
async fn a_page_resumes_through_cuts_and_is_told_of_gaps() {
    // This process remembers fewer than it will miss, or it would give them in spite of the trim.
    let events = Events::embedded().with_local_ring(4, 1024 * 1024);
    let sse =
        Sse::new(events.clone()).with_terminal(["done"]).with_retry(Duration::from_millis(20));
    let (addr, mut reports) = serve(sse).await;
    let cutter = Cutter::start(addr).await;
    let _browser = Browser::open(&format!("http://{}/", cutter.addr()));
    report(&mut reports, &["open"]).await;

    // Through cuts at any byte it sees what everybody sees.
    cutter.cut_at_random(true);
    let mut ids = HashSet::new();
    for number in 0..300 {
        let at = publish(&events, "update", number).await.to_string();
        // Each connection carries some, and many are cut.
        if number % 3 == 2 {
            for number in number - 2..=number {
                let seen = report(&mut reports, &["update", "gap", "done", "closed"]).await;
                assert_eq!((&*seen.kind, seen.data), ("update", number.to_string()));
                assert!(ids.insert(seen.id.clone()));
                assert!(seen.id == at || number % 3 < 2, "{} {at}", seen.id);
            }
        }
    }
    assert!(cutter.cuts() >= 10, "only {} cuts: nothing was shown", cutter.cuts());

    // What is trimmed while it is away, it is told.
    cutter.cut_at_random(false);
    cutter.refuse(true);
    report(&mut reports, &["cut"]).await;
    let mut last = Cursor::START;
    for number in 300..308 {
        last = publish(&events, "update", number).await;
    }
    events.trim(SCOPE, last).await.expect("a trim");
    publish(&events, "update", 308).await;
    cutter.refuse(false);
    let gap = report(&mut reports, &["update", "gap", "done", "closed"]).await;
    let told = r#"{"scope":"case:7","lost":8,"at_least":false,"reason":"trimmed"}"#;
    assert_eq!((&*gap.kind, &*gap.data), ("gap", told));
    let seen = report(&mut reports, &["update", "gap", "done", "closed"]).await;
    assert_eq!((&*seen.kind, &*seen.data), ("update", "308"));

    // A finished scope is left for good.
    publish(&events, "done", 309).await;
    let seen = report(&mut reports, &["update", "gap", "done", "closed"]).await;
    assert_eq!((&*seen.kind, &*seen.data), ("done", "309"));
    report(&mut reports, &["closed"]).await;
}
