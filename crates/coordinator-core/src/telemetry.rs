//! Metrics: their names, and the small vocabulary in which this crate and the parts record them.
//!
//! Everything goes to whatever recorder the process installs for the `metrics` facade, now or
//! later; without one, recording costs a few nanoseconds. Nothing here exports or serves figures.
//!
//! Labels have few values: steps, outcomes and states. A key or a lock's name is never one.

use crate::ErrorKind;
use metrics::{Key, Label, Metadata, SharedString, Unit};
use std::{
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

/// Counter: steps that ended, by `step` (such as `locks.acquire`) and `outcome` (see [`Outcome`]).
pub const OPERATIONS: &str = "coordinator_operations_total";
/// Histogram, seconds: from sending a step to its answer, by `step`; steps that were never sent
/// are not in it.
pub const OPERATION_SECONDS: &str = "coordinator_operation_seconds";
/// Gauge: connections of this process, by `state` (`connected`, `degraded`, `disconnected`).
pub const CONNECTIONS: &str = "coordinator_connections";
/// Gauge: breakers of this process's connections, by `state` (`closed`, `open`, `half_open`).
pub const BREAKERS: &str = "coordinator_breakers";
/// Counter: links for commands that were made anew; in a cluster one for each node.
pub const RECONNECTS: &str = "coordinator_reconnects_total";

/// What each metric of this crate is, for [`describe`] and for the manual.
pub const METRICS: &[Metric] = &[
    Metric::counter(OPERATIONS, "Steps that ended, by step and outcome."),
    Metric::seconds(OPERATION_SECONDS, "From sending a step to its answer, by step."),
    Metric::gauge(CONNECTIONS, "Connections of this process, by state."),
    Metric::gauge(BREAKERS, "Breakers of this process's connections, by state."),
    Metric::counter(RECONNECTS, "Links for commands that were made anew."),
];

static METADATA: Metadata<'static> = Metadata::new("coordinator", metrics::Level::INFO, None);

/// A metric's name and meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    name: &'static str,
    help: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Seconds,
}

impl Metric {
    /// One that only rises; its name ends in `_total`.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Counter }
    }

    /// One that rises and falls.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Gauge }
    }

    /// A histogram of durations; its name ends in `_seconds`.
    pub const fn seconds(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Seconds }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it counts or measures.
    pub fn help(&self) -> &'static str {
        self.help
    }
}

/// Tells the recorder what metrics mean; a part passes its own, core's are [`METRICS`].
///
/// Each new connection describes core's. Whoever installs a recorder later calls this again.
pub fn describe(described: &[Metric]) {
    metrics::with_recorder(|recorder| {
        for Metric { name, help, kind } in described {
            let help = SharedString::const_str(help);
            match kind {
                Kind::Counter => recorder.describe_counter((*name).into(), None, help),
                Kind::Gauge => recorder.describe_gauge((*name).into(), None, help),
                Kind::Seconds => {
                    recorder.describe_histogram((*name).into(), Some(Unit::Seconds), help);
                }
            }
        }
    });
}

/// The labels of one time series, as pairs of name and value.
pub type Labels = &'static [(&'static str, &'static str)];

/// A name with its labels; the facade's form of it is built once, when first needed.
#[derive(Debug)]
struct Series {
    name: &'static str,
    labels: Labels,
    /// Labels whose values are known only while running.
    own: Vec<(&'static str, String)>,
    key: OnceLock<Key>,
}

impl Series {
    const fn new(name: &'static str, labels: Labels) -> Self {
        Self { name, labels, own: Vec::new(), key: OnceLock::new() }
    }

    fn with_label(self, name: &'static str, value: String) -> Self {
        let mut own = self.own;
        own.push((name, value));
        Self { own, key: OnceLock::new(), ..self }
    }

    fn key(&self) -> &Key {
        self.key.get_or_init(|| {
            let fixed = self.labels.iter().map(|(name, value)| label(name, value));
            let own = self.own.iter().map(|(name, value)| Label::new(*name, value.clone()));
            Key::from_parts(self.name, fixed.chain(own).collect::<Vec<_>>())
        })
    }
}

fn label(name: &'static str, value: &'static str) -> Label {
    Label::from_static_parts(name, value)
}

/// Counts up. Made for statics, or for the owner of what it counts.
///
/// ```
/// use coordinator_core::telemetry::Counter;
///
/// static GRANTED: Counter =
///     Counter::new("coordinator_locks_acquires_total", &[("outcome", "granted")]);
/// GRANTED.add(1);
/// ```
#[derive(Debug)]
pub struct Counter(Series);

impl Counter {
    /// A counter by name and labels.
    pub const fn new(name: &'static str, labels: Labels) -> Self {
        Self(Series::new(name, labels))
    }

    /// The same with a label that is known only while running, such as a cache's namespace.
    pub fn with_label(self, name: &'static str, value: impl Into<String>) -> Self {
        Self(self.0.with_label(name, value.into()))
    }

    /// Adds to it.
    pub fn add(&self, count: u64) {
        metrics::with_recorder(|recorder| recorder.register_counter(self.0.key(), &METADATA))
            .increment(count);
    }
}

/// Tells a level. Made for statics.
///
/// A recorder that is installed later sees what is set after that: whoever owns a level sets it
/// again from time to time.
#[derive(Debug)]
pub struct Gauge(Series);

impl Gauge {
    /// A gauge by name and labels.
    pub const fn new(name: &'static str, labels: Labels) -> Self {
        Self(Series::new(name, labels))
    }

    /// The same with a label that is known only while running, such as a cache's namespace.
    pub fn with_label(self, name: &'static str, value: impl Into<String>) -> Self {
        Self(self.0.with_label(name, value.into()))
    }

    /// Sets it.
    pub fn set(&self, level: f64) {
        metrics::with_recorder(|recorder| recorder.register_gauge(self.0.key(), &METADATA))
            .set(level);
    }
}

/// How many there are of something in this process, told as a gauge. Made for statics.
///
/// ```
/// use coordinator_core::telemetry::Level;
///
/// static HELD: Level = Level::new("coordinator_locks_held");
/// let held = HELD.enter();
/// drop(held);
/// ```
#[derive(Debug)]
pub struct Level {
    gauge: Gauge,
    count: Mutex<u32>,
}

impl Level {
    /// A level of none, under a gauge's name.
    pub const fn new(name: &'static str) -> Self {
        Self { gauge: Gauge::new(name, &[]), count: Mutex::new(0) }
    }

    /// One more, until what is answered is dropped.
    pub fn enter(&'static self) -> Counted {
        self.change(|count| count + 1);
        Counted(self)
    }

    /// Told under the lock, so that the last to change it is the last to tell.
    fn change(&self, change: impl FnOnce(u32) -> u32) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count = change(*count);
        self.gauge.set(f64::from(*count));
    }
}

/// One that is counted by a [`Level`] until it is dropped.
#[derive(Debug)]
#[must_use = "it counts until it is dropped"]
pub struct Counted(&'static Level);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.change(|count| count - 1);
    }
}

/// Measures durations, recorded in seconds. Made for statics.
#[derive(Debug)]
pub struct Timing(Series);

impl Timing {
    /// A histogram by name and labels.
    pub const fn new(name: &'static str, labels: Labels) -> Self {
        Self(Series::new(name, labels))
    }

    /// The same with a label that is known only while running, such as a cache's namespace.
    pub fn with_label(self, name: &'static str, value: impl Into<String>) -> Self {
        Self(self.0.with_label(name, value.into()))
    }

    /// Records one duration.
    pub fn record(&self, took: Duration) {
        metrics::with_recorder(|recorder| recorder.register_histogram(self.0.key(), &METADATA))
            .record(took.as_secs_f64());
    }
}

/// How a step ended, as the label `outcome` of [`OPERATIONS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It was answered; a refusal that is a value (held by another, over the limit) is this too.
    Ok,
    /// It was surely not applied.
    Unavailable,
    /// It was perhaps applied.
    Indeterminate,
    /// The server refused it.
    Rejected,
    /// The answer could not be understood.
    Corrupt,
    /// The call was wrong.
    Misuse,
}

impl Outcome {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Ok,
        Self::Unavailable,
        Self::Indeterminate,
        Self::Rejected,
        Self::Corrupt,
        Self::Misuse,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unavailable => "unavailable",
            Self::Indeterminate => "indeterminate",
            Self::Rejected => "rejected",
            Self::Corrupt => "corrupt",
            Self::Misuse => "misuse",
        }
    }
}

impl From<ErrorKind> for Outcome {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::Indeterminate => Self::Indeterminate,
            ErrorKind::Rejected => Self::Rejected,
            ErrorKind::Corrupt => Self::Corrupt,
            ErrorKind::Misuse => Self::Misuse,
        }
    }
}

impl<T> From<&crate::Result<T>> for Outcome {
    fn from(result: &crate::Result<T>) -> Self {
        result.as_ref().err().map_or(Self::Ok, |error| error.kind().into())
    }
}

/// A step whose operations are counted by outcome and timed. Made for statics.
///
/// ```
/// use coordinator_core::telemetry::{Outcome, Step};
/// use std::time::Duration;
///
/// static FILL: Step = Step::new("cache.fill");
/// FILL.record(Outcome::Ok, Duration::from_micros(80));
/// ```
#[derive(Debug)]
pub struct Step {
    name: &'static str,
    keys: OnceLock<Box<StepKeys>>,
}

#[derive(Debug)]
struct StepKeys {
    operations: [Key; 6],
    seconds: Key,
}

impl Step {
    /// A step by the name that its errors have too, such as `locks.acquire`.
    pub const fn new(name: &'static str) -> Self {
        Self { name, keys: OnceLock::new() }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Counts an operation that was not sent, or not timed.
    pub fn count(&self, outcome: Outcome) {
        let key = &self.keys().operations[outcome as usize];
        metrics::with_recorder(|recorder| recorder.register_counter(key, &METADATA)).increment(1);
    }

    /// Counts an operation and records how long it took.
    pub fn record(&self, outcome: Outcome, took: Duration) {
        let keys = self.keys();
        let key = &keys.operations[outcome as usize];
        let (counter, histogram) = metrics::with_recorder(|recorder| {
            let counter = recorder.register_counter(key, &METADATA);
            (counter, recorder.register_histogram(&keys.seconds, &METADATA))
        });
        counter.increment(1);
        histogram.record(took.as_secs_f64());
    }

    fn keys(&self) -> &StepKeys {
        self.keys.get_or_init(|| {
            let step = || label("step", self.name);
            let operations = Outcome::ALL.map(|outcome| {
                let labels = vec![step(), label("outcome", outcome.as_str())];
                Key::from_parts(OPERATIONS, labels)
            });
            let seconds = Key::from_parts(OPERATION_SECONDS, vec![step()]);
            Box::new(StepKeys { operations, seconds })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    #[test]
    fn a_recorder_that_comes_later_sees_what_comes_after_it() {
        static STEP: Step = Step::new("test.step");
        static LEVEL: Gauge = Gauge::new("test_level", &[("state", "full")]);
        static MORE: Counter = Counter::new("test_total", &[]);
        static TIMES: Timing = Timing::new("test_seconds", &[]);
        let own = Counter::new("test_total", &[("a", "b")]).with_label("namespace", "n");
        let all = || {
            STEP.record(Outcome::Ok, Duration::from_millis(250));
            STEP.count(Outcome::Unavailable);
            LEVEL.set(3.0);
            MORE.add(2);
            own.add(5);
            TIMES.record(Duration::from_secs(2));
        };
        all();
        let recorder = DebuggingRecorder::new();
        let seen = metrics::with_local_recorder(&recorder, || {
            describe(METRICS);
            all();
            recorder.snapshotter().snapshot().into_vec()
        });
        let mut seen: Vec<_> = seen
            .into_iter()
            .map(|(key, _, _, value)| {
                let key = key.key();
                let labels: Vec<_> = key
                    .labels()
                    .map(|label| format!("{}={}", label.key(), label.value()))
                    .collect();
                let value = match value {
                    DebugValue::Counter(count) => count.to_string(),
                    DebugValue::Gauge(level) => level.to_string(),
                    DebugValue::Histogram(values) => format!("{values:?}"),
                };
                format!("{} {} {value}", key.name(), labels.join(","))
            })
            .collect();
        seen.sort();
        assert_eq!(
            seen,
            [
                "coordinator_operation_seconds step=test.step [0.25]",
                "coordinator_operations_total step=test.step,outcome=ok 1",
                "coordinator_operations_total step=test.step,outcome=unavailable 1",
                "test_level state=full 3",
                "test_seconds  [2.0]",
                "test_total  2",
                "test_total a=b,namespace=n 5",
            ]
        );
    }

    #[test]
    fn every_outcome_has_its_own_number_and_word() {
        for (number, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, number);
            assert_eq!(format!("{outcome:?}").to_lowercase(), outcome.as_str());
        }
    }

    #[test]
    fn every_metric_is_in_the_manual() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
        let manual = std::fs::read_to_string(path).expect("the manual");
        for metric in METRICS {
            assert!(manual.contains(&format!("`{}`", metric.name())), "{}", metric.name());
            let suffix = match metric.kind {
                Kind::Counter => "_total",
                Kind::Seconds => "_seconds",
                Kind::Gauge => "s",
            };
            assert!(metric.name().ends_with(suffix), "{}", metric.name());
        }
    }
}
