//! What a health check reports, and the advice drawn from it. Reading the figures off a server is
//! not done here.

#[cfg(feature = "redis")]
use std::collections::BTreeMap;
use std::{fmt, time::Duration};

/// The state of a connection, watchable while running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Commands and messages flow.
    Connected,
    /// Commands may work, but something is wrong: the last probe failed, or messages are cut off.
    Degraded,
    /// There is no link for commands; reconnecting goes on for as long as it takes.
    Disconnected,
}

/// The state of a connection's breaker; see
/// [`BreakerPolicy`](crate::config::BreakerPolicy).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BreakerState {
    /// Calls are sent.
    Closed,
    /// Calls fail at once and unsent: nobody has answered for a while.
    Open,
    /// As open, and a probe is on its way.
    HalfOpen,
}

/// The verdict of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// Nothing to say.
    Healthy,
    /// It works, and something deserves attention: see the findings.
    Degraded,
    /// It does not work.
    Unavailable,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unavailable => "unavailable",
        })
    }
}

/// How much a [`Finding`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// Good to know; the status stays healthy.
    Note,
    /// A promise may be broken; the status is degraded.
    Warning,
    /// It does not work; the status is unavailable.
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

/// One thing that a health check noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// A stable word for it, such as `eviction-policy`.
    pub code: &'static str,
    /// What was seen.
    pub message: String,
    /// What to do about it.
    pub advice: &'static str,
}

impl Finding {
    /// A finding of a part's own audit.
    pub fn new(
        severity: Severity,
        code: &'static str,
        message: impl Into<String>,
        advice: &'static str,
    ) -> Self {
        Self { severity, code, message: message.into(), advice }
    }
}

/// How long the commands of a connection took in the last minute or a little more, from sending
/// to the answer or the timeout. Percentiles are at most 4 % too high and never too low.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latencies {
    /// How many commands were sent and not given up by their callers.
    pub count: u64,
    /// Half of them took at most this long; `None` if there were none.
    pub p50: Option<Duration>,
    /// 95 of a hundred took at most this long.
    pub p95: Option<Duration>,
    /// 99 of a hundred took at most this long.
    pub p99: Option<Duration>,
}

/// The answer of a health check.
///
/// In a cluster the figures are those of all primaries together: memory and clients summed, the
/// shortest uptime, the oldest version, the largest clock offset.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Health {
    /// The verdict.
    pub status: Status,
    /// The round trip of a PING.
    pub latency: Duration,
    /// How long this connection's commands took of late; of an embedded backend there are none.
    pub latencies: Latencies,
    /// What the server is: `redis`, `valkey` or `embedded`; empty if it does not say.
    pub server: String,
    /// Its version; empty if it does not say.
    pub version: String,
    /// `master`, `replica`, or `embedded`; empty if it does not say.
    pub role: String,
    /// How many replicas are connected.
    pub replicas: Option<u64>,
    /// Memory in use, in bytes.
    pub used_memory_bytes: Option<u64>,
    /// The memory limit, in bytes; 0 is none.
    pub max_memory_bytes: Option<u64>,
    /// Connected clients.
    pub connected_clients: Option<u64>,
    /// Time since the server started.
    pub uptime: Option<Duration>,
    /// What the server does when memory is full.
    pub maxmemory_policy: Option<String>,
    /// The server's clock minus this process's, in milliseconds.
    pub clock_offset_ms: Option<i64>,
    /// What deserves attention, the worst first.
    pub findings: Vec<Finding>,
}

impl Health {
    /// The health of an embedded backend: this process answers at once.
    pub fn embedded() -> Self {
        Self {
            status: Status::Healthy,
            server: "embedded".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: "embedded".to_owned(),
            ..Self::blank()
        }
    }

    /// The health of a server that did not answer, with the reason.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        let finding = Finding::new(
            Severity::Critical,
            "unavailable",
            reason,
            "check that the server runs, that the URL is right and that nothing blocks the way",
        );
        Self { status: Status::Unavailable, findings: vec![finding], ..Self::blank() }
    }

    fn blank() -> Self {
        Self {
            status: Status::Healthy,
            latency: Duration::ZERO,
            latencies: Latencies::default(),
            server: String::new(),
            version: String::new(),
            role: String::new(),
            replicas: None,
            used_memory_bytes: None,
            max_memory_bytes: None,
            connected_clients: None,
            uptime: None,
            maxmemory_policy: None,
            clock_offset_ms: None,
            findings: Vec::new(),
        }
    }

    /// Builds the answer from what the nodes said.
    #[cfg(feature = "redis")]
    pub(crate) fn from_nodes(latency: Duration, nodes: &[Node]) -> Self {
        let sum =
            |field: &str| nodes.iter().filter_map(|node| node.number(field)).reduce(|a, b| a + b);
        let first = |field: &str| nodes.iter().find_map(|node| node.info.get(field)).cloned();
        let valkey = nodes.iter().any(|node| node.info.contains_key("valkey_version"));
        let version_field = if valkey { "valkey_version" } else { "redis_version" };
        let version = nodes
            .iter()
            .filter_map(|node| node.info.get(version_field))
            .min_by_key(|version| version_key(version))
            .cloned();
        let mut health = Self {
            latency,
            server: match (&version, valkey) {
                (None, _) => String::new(),
                (_, true) => "valkey".to_owned(),
                (_, false) => "redis".to_owned(),
            },
            version: version.unwrap_or_default(),
            role: first("role").map(|role| role.replace("slave", "replica")).unwrap_or_default(),
            replicas: sum("connected_slaves"),
            used_memory_bytes: sum("used_memory"),
            max_memory_bytes: sum("maxmemory"),
            connected_clients: sum("connected_clients"),
            uptime: nodes
                .iter()
                .filter_map(|node| node.number("uptime_in_seconds"))
                .min()
                .map(Duration::from_secs),
            maxmemory_policy: first("maxmemory_policy"),
            clock_offset_ms: nodes
                .iter()
                .filter_map(|node| node.clock_offset_ms)
                .max_by_key(|offset| offset.abs()),
            ..Self::blank()
        };
        for node in nodes {
            health.findings.extend(node.findings());
        }
        if latency > Duration::from_millis(50) {
            health.findings.push(Finding::new(
                Severity::Note,
                "latency",
                format!("a round trip took {} ms", latency.as_millis()),
                "keep the service near the server; check its load and SLOWLOG",
            ));
        }
        health.settle();
        health
    }

    /// Adds a part's findings; the status follows the worst.
    pub fn add(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.findings.extend(findings);
        self.settle();
    }

    fn settle(&mut self) {
        self.findings.sort_by(|a, b| b.severity.cmp(&a.severity).then(a.code.cmp(b.code)));
        self.findings.dedup();
        self.status = match self.findings.first().map(|finding| finding.severity) {
            Some(Severity::Critical) => Status::Unavailable,
            Some(Severity::Warning) => Status::Degraded,
            _ => Status::Healthy,
        };
    }
}

/// What one node said of itself.
#[derive(Debug, Default)]
#[cfg(feature = "redis")]
pub(crate) struct Node {
    pub(crate) info: BTreeMap<String, String>,
    pub(crate) info_denied: bool,
    pub(crate) clock_offset_ms: Option<i64>,
}

#[cfg(feature = "redis")]
impl Node {
    pub(crate) fn parse(info: &str) -> Self {
        let info = info
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(field, value)| (field.to_owned(), value.trim().to_owned()))
            .collect();
        Self { info, ..Self::default() }
    }

    fn number(&self, field: &str) -> Option<u64> {
        self.info.get(field)?.parse().ok()
    }

    fn text(&self, field: &str) -> &str {
        self.info.get(field).map_or("", String::as_str)
    }

    fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut add = |severity, code, message: String, advice| {
            found.push(Finding::new(severity, code, message, advice));
        };
        if self.info_denied {
            add(
                Severity::Note,
                "info-denied",
                "the user may not run INFO: eviction, memory and role are unknown".to_owned(),
                "grant +info so that this check can see them",
            );
        }
        let policy = self.text("maxmemory_policy");
        if !policy.is_empty() && policy != "noeviction" {
            add(
                Severity::Warning,
                "eviction-policy",
                format!("maxmemory-policy is {policy}: under memory pressure locks vanish"),
                "set maxmemory-policy noeviction; the volatile-* policies evict locks too",
            );
        }
        if let (Some(used), Some(max)) = (self.number("used_memory"), self.number("maxmemory"))
            && max > 0
            && used.saturating_mul(10) >= max.saturating_mul(9)
        {
            add(
                Severity::Warning,
                "memory",
                format!("{used} of {max} bytes are in use"),
                "raise maxmemory or find what grows; when it is full, writes are refused",
            );
        }
        if self.text("role") == "slave" {
            add(
                Severity::Warning,
                "replica",
                "this server is a replica and refuses writes".to_owned(),
                "connect to the master, or through redis-sentinel:// to whichever is master",
            );
        }
        if self.text("loading") == "1" {
            add(
                Severity::Warning,
                "loading",
                "the server is still loading its data".to_owned(),
                "wait: it refuses commands until it is done",
            );
        }
        if self.text("aof_enabled") == "0" {
            add(
                Severity::Note,
                "no-aof",
                "the append-only file is off: a crash of the server loses state".to_owned(),
                "set appendonly yes, appendfsync everysec",
            );
        }
        if let Some(version) = self.info.get("redis_version")
            && version_key(version) < (6, 2)
        {
            add(
                Severity::Warning,
                "version",
                format!("version {version} is older than 6.2"),
                "upgrade to Redis 6.2, Valkey 7.2 or newer",
            );
        }
        if let Some(offset) = self.clock_offset_ms
            && offset.abs() > 1000
        {
            add(
                Severity::Warning,
                "clock-offset",
                format!("the server's clock differs from this machine's by {offset} ms"),
                "run a time service on both; a clock that jumps ends or prolongs leases",
            );
        }
        found
    }
}

#[cfg(feature = "redis")]
fn version_key(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(all(test, feature = "redis"))]
mod tests {
    use super::*;

    const GOOD: &str = "redis_version:7.0.15\r\nrole:master\r\nconnected_slaves:2\r\n\
        used_memory:100\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\nconnected_clients:3\r\n\
        uptime_in_seconds:60\r\nloading:0\r\naof_enabled:1\r\n";

    fn check(info: &str) -> Health {
        Health::from_nodes(Duration::from_millis(1), &[Node::parse(info)])
    }

    #[test]
    fn a_good_server_is_healthy() {
        let health = check(GOOD);
        assert_eq!((health.status, health.findings.len()), (Status::Healthy, 0));
        assert_eq!((health.server.as_str(), health.version.as_str()), ("redis", "7.0.15"));
        assert_eq!((health.replicas, health.connected_clients), (Some(2), Some(3)));
    }

    #[test]
    fn each_fault_is_found_with_advice() {
        for (from, to, code, status) in [
            ("noeviction", "volatile-lru", "eviction-policy", Status::Degraded),
            ("maxmemory:0", "maxmemory:105", "memory", Status::Degraded),
            ("role:master", "role:slave", "replica", Status::Degraded),
            ("loading:0", "loading:1", "loading", Status::Degraded),
            ("7.0.15", "6.0.9", "version", Status::Degraded),
            ("aof_enabled:1", "aof_enabled:0", "no-aof", Status::Healthy),
        ] {
            let health = check(&GOOD.replace(from, to));
            assert_eq!(health.findings.len(), 1, "{code}");
            assert_eq!((health.findings[0].code, health.status), (code, status));
            assert!(!health.findings[0].advice.is_empty());
        }
    }

    #[test]
    fn clock_offset_and_latency_are_found() {
        let mut node = Node::parse(GOOD);
        node.clock_offset_ms = Some(-7_200_000);
        let health = Health::from_nodes(Duration::from_millis(80), &[node]);
        let codes: Vec<_> = health.findings.iter().map(|finding| finding.code).collect();
        assert_eq!(codes, ["clock-offset", "latency"]);
    }

    #[test]
    fn valkey_is_recognised() {
        let health = check(&GOOD.replace("role:", "valkey_version:8.1.0\r\nrole:"));
        assert_eq!((health.server.as_str(), health.version.as_str()), ("valkey", "8.1.0"));
    }

    #[test]
    fn a_clusters_figures_are_added_up() {
        let nodes = [Node::parse(GOOD), Node::parse(&GOOD.replace("7.0.15", "6.2.1"))];
        let health = Health::from_nodes(Duration::ZERO, &nodes);
        assert_eq!(health.used_memory_bytes, Some(200));
        assert_eq!(health.version, "6.2.1");
    }
}
