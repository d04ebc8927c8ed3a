//! A small service: cases are started, get messages and are completed, and a page follows each with
//! a plain `EventSource`.
//!
//! ```sh
//! cargo run -p coordinator-web --example triage            # in this process alone
//! COORDINATOR_URL=redis://localhost cargo run -p coordinator-web --example triage
//! ```
//! With Redis any number of them, by `LISTEN=127.0.0.1:8081` and so on, serve the same cases.
//!
//! The page is at `http://127.0.0.1:8080`. Without a browser:
//! ```sh
//! curl -X POST localhost:8080/cases/42
//! curl -X POST localhost:8080/cases/42/messages -d 'the printer is on fire'
//! curl -N localhost:8080/cases/42/events
//! curl -N localhost:8080/cases/42/events -H 'Last-Event-ID: …'    # what came after that id
//! curl -X POST localhost:8080/cases/42/complete
//! ```
//! Each post answers with the id of its event. The stream of a case that is completed ends with an
//! id of its own; who comes again with that has 204.
#![expect(clippy::print_stdout, reason = "an example says where it listens")]

use axum::{
    Router,
    extract::{Path, State},
    response::Html,
    routing::{get, post},
    serve::ListenerExt as _,
};
use coordinator::{Coordinator, Error, events::Published};
use coordinator_web::events::{Sse, SseBody};
use http::{Response, StatusCode, request::Parts};
use serde_json::{Value, json};
use std::{env, time::Duration};
use tokio::net::TcpListener;

/// The type of the last event of a case.
const COMPLETED: &str = "triage_completed";

#[derive(Clone)]
struct Triage {
    coordinator: Coordinator,
    sse: Sse,
}

/// The id of what was said, on a line.
type Said = Result<String, (StatusCode, &'static str)>;

const GONE: (StatusCode, &str) = (StatusCode::CONFLICT, "the case is completed\n");

impl Triage {
    async fn say(&self, case: &str, kind: &str, data: Value) -> Said {
        let say = self.coordinator.events().publish(&scope(case), kind, &data);
        answer(say.await)
    }

    /// The same, once for each case however often it is asked for.
    async fn say_once(&self, case: &str, kind: &str) -> Said {
        let data = json!({ "case": case });
        let say = self.coordinator.events().publish(&scope(case), kind, &data);
        answer(say.idempotent(kind).await)
    }

    /// Refuses where there is no case, or none any more. A case may be completed right after this:
    /// what is said then is said behind its end, where nobody reads.
    async fn is_open(&self, case: &str) -> Result<(), (StatusCode, &'static str)> {
        match self.coordinator.events().last(&scope(case)).await {
            Ok(Some(last)) if last.kind() == COMPLETED => Err(GONE),
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err((StatusCode::NOT_FOUND, "there is no such case\n")),
            Err(error) => Err(refused(&error)),
        }
    }
}

fn scope(case: &str) -> String {
    format!("case:{case}")
}

fn answer(said: Result<Published, Error>) -> Said {
    match said {
        Ok(Published::New(at) | Published::Duplicate(at)) => Ok(format!("{at}\n")),
        Ok(_) => Err((StatusCode::CONFLICT, "it was not published\n")),
        Err(error) => Err(refused(&error)),
    }
}

fn refused(error: &Error) -> (StatusCode, &'static str) {
    if error.is_retryable() {
        (StatusCode::SERVICE_UNAVAILABLE, "nobody can say at the moment: try again\n")
    } else {
        (StatusCode::BAD_REQUEST, "this cannot be a case\n")
    }
}

/// A case begins.
async fn start(State(triage): State<Triage>, Path(case): Path<String>) -> Said {
    match triage.is_open(&case).await {
        Err(GONE) => Err(GONE),
        _ => triage.say_once(&case, "triage_started").await,
    }
}

/// Somebody says something, and the case is looked at again.
async fn message(State(triage): State<Triage>, Path(case): Path<String>, text: String) -> Said {
    triage.is_open(&case).await?;
    let said = triage.say(&case, "triage_update", json!({ "message": text })).await?;
    let words = text.split_whitespace().count();
    triage.say(&case, "complexity_update", json!({ "complexity": words.min(100) })).await?;
    Ok(said)
}

/// The case is closed: pages that follow it stop by themselves.
async fn complete(State(triage): State<Triage>, Path(case): Path<String>) -> Said {
    match triage.is_open(&case).await {
        Ok(()) | Err(GONE) => triage.say_once(&case, COMPLETED).await,
        Err(refused) => Err(refused),
    }
}

/// What a page's `EventSource` asks for.
async fn follow(
    State(triage): State<Triage>,
    Path(case): Path<String>,
    parts: Parts,
) -> Response<SseBody> {
    triage.sse.answer(&parts, [scope(&case)]).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = env::var("COORDINATOR_URL").unwrap_or_else(|_| "embedded://".to_owned());
    let coordinator = Coordinator::connect(&url).await?;
    let sse = Sse::new(coordinator.events().clone())
        .with_types(["triage_*", "complexity_update"])
        .with_terminal([COMPLETED])
        // A page that comes late is told the whole case.
        .with_start(coordinator::events::Position::Earliest);
    let app = Router::new()
        .route("/", get(async || Html(include_str!("page.html"))))
        .route("/cases/{case}", post(start))
        .route("/cases/{case}/messages", post(message))
        .route("/cases/{case}/complete", post(complete))
        .route("/cases/{case}/events", get(follow))
        .with_state(Triage { coordinator: coordinator.clone(), sse: sse.clone() });
    let listen = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(listen).await?;
    println!("http://{}", listener.local_addr()?);
    let listener = listener.tap_io(|tcp| {
        // Clients that are gone without a word are known by the kernel alone.
        let timeout = Some(Duration::from_secs(30));
        let _ = socket2::SockRef::from(&*tcp).set_tcp_user_timeout(timeout);
    });
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            let _ = tokio::signal::ctrl_c().await;
            sse.drain();
        })
        .await?;
    coordinator.close().await;
    Ok(())
}
