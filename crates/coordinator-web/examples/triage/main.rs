//! A small service: cases are started, get messages and are completed, and a page follows each with
//! a plain `EventSource`.
//!
//! ```sh
//! cargo run -p coordinator-web --example triage            # in this process alone
//! COORDINATOR_URL=redis://localhost cargo run -p coordinator-web --example triage
//! ```
//! With Redis any number of them, by `LISTEN=127.0.0.1:8081` and so on, serve the same cases.
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

#[derive(Clone)]
struct Triage {
    coordinator: Coordinator,
    sse: Sse,
}

impl Triage {
    async fn say(&self, case: &str, kind: &str, data: Value) -> Result<(), StatusCode> {
        let sent = self.coordinator.events().publish(&scope(case), kind, &data).await;
        match sent {
            Ok(Published::New(_) | Published::Duplicate(_)) => Ok(()),
            Ok(_) => Err(StatusCode::CONFLICT),
            Err(error) => Err(status(&error)),
        }
    }
}

fn scope(case: &str) -> String {
    format!("case:{case}")
}

fn status(error: &Error) -> StatusCode {
    if error.is_retryable() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_REQUEST }
}

/// A case begins.
async fn start(State(triage): State<Triage>, Path(case): Path<String>) -> Result<(), StatusCode> {
    triage.say(&case, "triage_started", json!({ "case": case })).await
}

/// Somebody says something, and the case is looked at again.
async fn message(
    State(triage): State<Triage>,
    Path(case): Path<String>,
    text: String,
) -> Result<(), StatusCode> {
    triage.say(&case, "triage_update", json!({ "message": text })).await?;
    let words = text.split_whitespace().count();
    triage.say(&case, "complexity_update", json!({ "complexity": words.min(100) })).await
}

/// The case is closed: pages that follow it stop by themselves.
async fn complete(
    State(triage): State<Triage>,
    Path(case): Path<String>,
) -> Result<(), StatusCode> {
    triage.say(&case, "triage_completed", json!({ "case": case })).await
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
        .with_terminal(["triage_completed"])
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
