//! What a process tells of its locks: one test, because recorders and levels are the process's.

use coordinator_core::clock::{Clock as _, ManualClock};
use coordinator_harness::eventually;
use coordinator_locks::{Locks, LossReason, METRICS, Outcome};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};
use tracing_subscriber::{Layer, layer::SubscriberExt as _};

const SECOND: Duration = Duration::from_secs(1);
/// Far beyond what anything here takes.
const LONG: Duration = Duration::from_mins(1);

/// One event: its level and its fields.
type Told = (tracing::Level, BTreeMap<String, String>);

#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Vec<Told>>>);

impl<S: tracing::Subscriber> Layer<S> for Capture {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        if event.metadata().target() != "coordinator::locks" {
            return;
        }
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        self.0.lock().expect("no panic").push((*event.metadata().level(), fields.0));
    }
}

struct Fields(BTreeMap<String, String>);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl Capture {
    /// What was told of a lock: event and level, and the names of the other fields.
    fn of(&self, lock: &str) -> Vec<String> {
        let told = self.0.lock().expect("no panic");
        let told = told.iter().filter(|(_, fields)| fields["lock"] == lock);
        let line = |(level, fields): &Told| {
            let others = fields.keys().filter(|name| !["event", "lock"].contains(&name.as_str()));
            let others: Vec<_> = others.map(String::as_str).collect();
            format!("{level} {} {}", fields["event"], others.join(" "))
        };
        told.map(line).collect()
    }

    fn field(&self, lock: &str, event: &str, field: &str) -> String {
        let told = self.0.lock().expect("no panic");
        let of = |(_, fields): &&Told| fields["lock"] == lock && fields["event"] == event;
        told.iter().find(of).expect("was told").1[field].clone()
    }
}

/// What was recorded: counts, levels, and how many durations.
#[derive(Default)]
struct Seen(BTreeMap<String, u64>);

impl Seen {
    /// Counters and histograms are emptied by looking, so they add up here.
    fn look(&mut self, snapshotter: &Snapshotter) {
        for (key, _, _, value) in snapshotter.snapshot().into_vec() {
            let labels: String =
                key.key().labels().map(|one| format!(" {}", one.value())).collect();
            let name = key.key().name().to_owned() + &labels;
            assert!(METRICS.iter().any(|metric| metric.name() == key.key().name()), "{name}");
            match value {
                DebugValue::Counter(count) => *self.0.entry(name).or_default() += count,
                DebugValue::Histogram(all) => *self.0.entry(name).or_default() += all.len() as u64,
                DebugValue::Gauge(level) => {
                    self.0.insert(name, level.into_inner() as u64);
                }
            }
        }
    }

    #[track_caller]
    fn is(&self, name: &str, count: u64) {
        let name = format!("coordinator_{name}");
        assert_eq!(self.0.get(&name).copied().unwrap_or_default(), count, "{name}: {:#?}", self.0);
    }
}

#[tokio::test]
async fn events_and_metrics_are_as_the_manual_says() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().expect("the only recorder");
    let capture = Capture::default();
    let subscriber = tracing_subscriber::registry().with(capture.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut seen = Seen::default();
    let clock = ManualClock::new();
    let locks = Locks::embedded_with_clock(Arc::new(clock.clone()));
    let unwatched = |name: &str| locks.named(name).with_ttl(SECOND * 9).with_watchdog(false);
    let mut tokens = Vec::new();

    // Acquired, and released in each way.
    let one = locks.named("a").with_task("t").acquire().await.expect("an answer");
    seen.look(&snapshotter);
    seen.is("locks_held", 1);
    one.acquired().expect("acquired").release().await.expect("released");
    drop(locks.acquire("b").await.expect("an answer"));
    let detached = locks.acquire("c").await.expect("an answer").acquired().expect("acquired");
    let lease = detached.lease().clone();
    tokens.push(detached.detach().token);
    seen.look(&snapshotter);
    seen.is("locks_held", 0);
    drop(lease);
    locks.release("c", &tokens[0]).await.expect("released");
    let holder = ["fence id", "fence id held_ms"];
    assert_eq!(
        capture.of("a"),
        ["DEBUG acquired fence id task", "DEBUG released fence held_ms id task"]
    );
    assert_eq!(
        capture.of("b"),
        [format!("DEBUG acquired {}", holder[0]), "DEBUG released fence held_ms id".to_owned()]
    );
    assert_eq!(capture.of("c"), ["DEBUG acquired fence id", "DEBUG released "]);

    // Waited for, in vain, dropped, refused at once and granted.
    let held = unwatched("d").acquire().await.expect("an answer").acquired().expect("acquired");
    assert!(locks.try_acquire("d").await.expect("an answer").is_none());
    let wait = |by: u64| {
        let lock = locks.peer().named("d").with_wait(SECOND * u32::try_from(by).expect("small"));
        tokio::spawn(async move { lock.acquire().await })
    };
    let (vain, dropped) = (wait(1), wait(100));
    eventually(LONG, "both wait", async || {
        seen.look(&snapshotter);
        seen.0.get("coordinator_locks_waiting") == Some(&2)
    })
    .await;
    dropped.abort();
    assert!(dropped.await.expect_err("aborted").is_cancelled());
    clock.advance(SECOND);
    let vain = vain.await.expect("no panic").expect("an answer");
    assert!(matches!(vain, Outcome::TimedOut { .. }));
    seen.look(&snapshotter);
    seen.is("locks_waiting", 0);
    let lucky = wait(100);
    eventually(LONG, "it waits", async || {
        seen.look(&snapshotter);
        seen.0.get("coordinator_locks_waiting") == Some(&1)
    })
    .await;
    clock.advance(SECOND);
    held.release().await.expect("released");
    eventually(LONG, "it is told", async || {
        clock.advance(Duration::from_millis(10));
        lucky.is_finished()
    })
    .await;
    drop(lucky.await.expect("no panic"));
    let told = capture.of("d");
    assert_eq!(told[1..3], ["INFO timed_out id waited_ms", "DEBUG released fence held_ms id"]);
    assert_eq!(told[3..], ["DEBUG acquired fence id waited_ms", "DEBUG released fence held_ms id"]);
    assert_eq!(capture.field("d", "timed_out", "waited_ms"), "1000");

    // Renewed late, and lost.
    let late = unwatched("e").acquire().await.expect("an answer").acquired().expect("acquired");
    clock.advance(SECOND * 3);
    late.renew().await.expect("an answer");
    clock.advance(SECOND * 7);
    late.renew().await.expect("an answer");
    clock.advance(SECOND * 9);
    assert_eq!(late.lost().await, LossReason::Expired);
    assert_eq!(late.lost().await, LossReason::Expired);
    seen.look(&snapshotter);
    seen.is("locks_held", 0);
    drop(late);
    assert_eq!(
        capture.of("e"),
        [
            "DEBUG acquired fence id",
            "WARN renewed_late fence id left_ms",
            "WARN lost fence held_ms id reason"
        ]
    );
    assert_eq!(capture.field("e", "lost", "reason"), "expired");
    assert_eq!(capture.field("e", "lost", "held_ms"), "19000");
    // One that nobody noticed was over when it was given up.
    let over = unwatched("f").acquire().await.expect("an answer").acquired().expect("acquired");
    clock.advance(SECOND * 10);
    over.release().await.expect("an answer");
    drop(unwatched("f").acquire().await.expect("an answer"));
    assert_eq!(capture.of("f")[1], "WARN lost fence held_ms id reason");
    let owner = locks.owner("job").expect("an owner");
    let own = owner.named("g").acquire().await.expect("an answer").acquired().expect("acquired");
    let again = owner.named("g").acquire().await.expect("an answer");
    seen.look(&snapshotter);
    seen.is("locks_held", 1);
    drop(again);
    locks.force_release("g", "a reason").await.expect("an answer").expect("was held");
    own.renew().await.expect("an answer");
    drop(own);
    assert_eq!(
        capture.of("g"),
        [
            "DEBUG acquired fence id owner",
            "WARN forced fence id owner reason",
            "WARN lost fence held_ms id owner reason"
        ]
    );
    assert_eq!(capture.field("g", "forced", "reason"), "a reason");

    // An owner that waits for another of its name waits for itself.
    let own = owner.named("h").acquire().await.expect("an answer").acquired().expect("acquired");
    let twin = locks.owner("job").expect("an owner");
    let cycle = tokio::spawn(async move { twin.named("h").with_wait(LONG).acquire().await });
    eventually(LONG, "it is found", async || {
        clock.advance(Duration::from_millis(10));
        cycle.is_finished()
    })
    .await;
    let cycle = cycle.await.expect("no panic").expect("an answer");
    assert!(matches!(cycle, Outcome::Deadlock { .. }), "{cycle:?}");
    drop(own);
    assert_eq!(capture.of("h")[1], "WARN deadlock cycle id owner waited_ms");
    assert_eq!(capture.field("h", "deadlock", "cycle"), "job waits for h, held by job");
    locks.named("").acquire().await.expect_err("is misuse");

    seen.look(&snapshotter);
    for (name, count) in [
        ("lock_acquires_total acquired", 11),
        ("lock_acquires_total timed_out", 2),
        ("lock_acquires_total deadlock", 1),
        ("lock_acquires_total misuse", 1),
        ("lock_losses_total expired", 2),
        ("lock_losses_total force-released", 1),
        ("lock_wait_seconds", 10),
        ("lock_hold_seconds", 9),
        ("locks_held", 0),
        ("locks_waiting", 0),
    ] {
        seen.is(name, count);
    }
    let told = format!("{:?}", capture.0.lock().expect("no panic"));
    for token in tokens {
        assert!(!told.contains(token.expose()), "a token was told");
    }
    assert!(clock.now().since_start() > SECOND);
}
