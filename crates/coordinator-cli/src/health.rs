//! `coordinator health`: how the server is, as a table or as one JSON document.

use crate::{
    context::{Context, Need},
    failure::{Failure, exit},
    output,
};
use coordinator::{
    Coordinator, ErrorKind,
    config::Endpoint,
    health::{Finding, Health, Severity, Status},
};
use serde::Serialize;
use std::time::Duration;

/// How many round trips the percentiles are drawn from, and for how long at most.
const ROUND_TRIPS: usize = 50;
const ROUND_TRIPS_LAST: Duration = Duration::from_millis(500);

/// The answer's keys; what the server does not say is null.
#[derive(Serialize)]
struct View<'a> {
    status: String,
    latency_ms: Option<f64>,
    latency_p50_ms: Option<f64>,
    latency_p95_ms: Option<f64>,
    latency_p99_ms: Option<f64>,
    latency_count: u64,
    server: Option<&'a str>,
    version: Option<&'a str>,
    role: Option<&'a str>,
    replicas: Option<u64>,
    used_memory_bytes: Option<u64>,
    connected_clients: Option<u64>,
    uptime_seconds: Option<u64>,
    maxmemory_policy: Option<&'a str>,
    clock_offset_ms: Option<i64>,
    findings: Vec<FindingView<'a>>,
}

#[derive(Serialize)]
struct FindingView<'a> {
    severity: String,
    code: &'a str,
    message: &'a str,
    advice: &'a str,
}

impl<'a> View<'a> {
    fn new(health: &'a Health) -> Self {
        let said = |text: &'a str| (!text.is_empty()).then_some(text);
        // Nothing was measured of a server that did not answer.
        let answered = !health.latency.is_zero() || health.status != Status::Unavailable;
        let ms = |latency: Duration| latency.as_secs_f64() * 1e3;
        let latencies = &health.latencies;
        Self {
            status: health.status.to_string(),
            latency_ms: answered.then_some(ms(health.latency)),
            latency_p50_ms: latencies.p50.map(ms),
            latency_p95_ms: latencies.p95.map(ms),
            latency_p99_ms: latencies.p99.map(ms),
            latency_count: latencies.count,
            server: said(&health.server),
            version: said(&health.version),
            role: said(&health.role),
            replicas: health.replicas,
            used_memory_bytes: health.used_memory_bytes,
            connected_clients: health.connected_clients,
            uptime_seconds: health.uptime.map(|uptime| uptime.as_secs()),
            maxmemory_policy: health.maxmemory_policy.as_deref(),
            clock_offset_ms: health.clock_offset_ms,
            findings: health
                .findings
                .iter()
                .map(|finding| FindingView {
                    severity: finding.severity.to_string(),
                    code: finding.code,
                    message: &finding.message,
                    advice: finding.advice,
                })
                .collect(),
        }
    }

    fn table(&self) -> String {
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let ms = |value: Option<f64>| value.map(|ms| format!("{ms:.3} ms"));
        let text = |value: Option<&str>| value.map(ToOwned::to_owned);
        let rows = [
            ("status", Some(self.status.clone())),
            ("latency", ms(self.latency_ms)),
            ("latency p50", ms(self.latency_p50_ms)),
            ("latency p95", ms(self.latency_p95_ms)),
            ("latency p99", ms(self.latency_p99_ms)),
            ("server", text(self.server)),
            ("version", text(self.version)),
            ("role", text(self.role)),
            ("replicas", number(self.replicas)),
            ("used memory", self.used_memory_bytes.map(|used| format!("{used} bytes"))),
            ("connected clients", number(self.connected_clients)),
            ("uptime", self.uptime_seconds.map(|seconds| format!("{seconds} s"))),
            ("maxmemory policy", text(self.maxmemory_policy)),
            ("clock offset", self.clock_offset_ms.map(|ms| format!("{ms} ms"))),
        ];
        let findings = self.findings.iter().map(|finding| {
            let FindingView { severity, code, message, advice } = finding;
            vec![severity.clone(), format!("{code}: {message}; {advice}")]
        });
        let rows = rows.into_iter().filter_map(|(name, value)| Some(vec![name.to_owned(), value?]));
        output::table(&[], rows.chain(findings))
    }
}

/// A connection that was just made has no latencies yet: this gives it some.
async fn sample(coordinator: &Coordinator) {
    let Some(connection) = coordinator.connection() else { return };
    let round_trips = async {
        for _ in 0..ROUND_TRIPS {
            if connection.ping().await.is_err() {
                break;
            }
        }
    };
    // What is wrong with the server is for the health check to say.
    let _ = tokio::time::timeout(ROUND_TRIPS_LAST, round_trips).await;
}

/// Runs the verb.
pub(crate) async fn run(context: &Context) -> Result<u8, Failure> {
    let config = context.config(Need::EmbeddedIsFine)?;
    let memory = matches!(config.endpoint(), Endpoint::Embedded { .. });
    let mut health = match Coordinator::with_config(config).await {
        Ok(coordinator) => {
            sample(&coordinator).await;
            let health = coordinator.health().await;
            coordinator.close().await;
            health
        }
        Err(error) if error.kind() == ErrorKind::Misuse => return Err(error.into()),
        Err(error) => {
            let failure = Failure::from(error);
            if !context.json {
                return Err(failure);
            }
            // Who reads JSON reads stdout: the document comes in any case.
            output::note(&failure);
            Health::unavailable(failure.to_string())
        }
    };
    if memory {
        health.add([Finding::new(
            Severity::Note,
            "embedded",
            "no server is used: state is in this process alone",
            "name a server with --url or COORDINATOR_URL if instances shall share it",
        )]);
    }
    let view = View::new(&health);
    if context.json {
        output::json(&view)?;
    } else {
        output::line(&view.table())?;
    }
    Ok(match health.status {
        Status::Healthy | Status::Degraded => exit::DONE,
        _ => exit::UNAVAILABLE,
    })
}
