//! What a process tells of its locks: one test, because recorders and levels are the process's.

use coordinator_core::{Result, clock::ManualClock};
use coordinator_harness::eventually;
use coordinator_locks::{Guard, Lock, Locks, LossReason, METRICS, Outcome, Token};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::task::JoinSet;
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

/// One client of locks whose leases no watchdog renews, and what was recorded of it: counts,
/// levels, and how many durations.
struct Scene {
    locks: Locks,
    clock: ManualClock,
    capture: Capture,
    snapshotter: Snapshotter,
    seen: BTreeMap<String, f64>,
}

impl Scene {
    /// Counters and histograms are emptied by looking, so they add up here.
    fn look(&mut self) {
        for (key, _, _, value) in self.snapshotter.snapshot().into_vec() {
            let key = key.key();
            let mut name = key.name().to_owned();
            assert!(METRICS.iter().any(|metric| metric.name() == name), "{name} is not declared");
            for label in key.labels() {
                name += &format!(" {}", label.value());
            }
            let sum = self.seen.entry(name).or_default();
            match value {
                DebugValue::Counter(count) => *sum += f64::from(u32::try_from(count).expect("few")),
                DebugValue::Histogram(all) => all.iter().for_each(|_| *sum += 1.0),
                DebugValue::Gauge(level) => *sum = level.into_inner(),
            }
        }
    }

    fn level(&mut self, name: &str) -> f64 {
        self.look();
        self.seen.get(&format!("coordinator_{name}")).copied().unwrap_or_default()
    }

    #[track_caller]
    fn is(&mut self, name: &str, expected: u32) {
        let level = self.level(name);
        let same = (level - f64::from(expected)).abs() < 0.5;
        assert!(same, "{name} is {level}, not {expected}: {:#?}", self.seen);
    }

    async fn becomes(&mut self, name: &str, expected: u32) {
        eventually(LONG, name, async || {
            tokio::task::yield_now().await;
            (self.level(name) - f64::from(expected)).abs() < 0.5
        })
        .await;
    }

    async fn acquire(&self, name: &str) -> Guard {
        let lock = self.locks.named(name).with_ttl(SECOND * 9).with_watchdog(false);
        lock.acquire().await.expect("an answer").acquired().expect("acquired")
    }

    /// Moves the clock until somebody has an answer.
    async fn outcome(&self, waiting: &mut JoinSet<Result<Outcome>>) -> Outcome {
        let mut done = None;
        eventually(LONG, "it is answered", async || {
            self.clock.advance(Duration::from_millis(10));
            tokio::task::yield_now().await;
            done = waiting.try_join_next();
            done.is_some()
        })
        .await;
        done.expect("one waited").expect("no panic").expect("an answer")
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
    let clock = ManualClock::new();
    let locks = Locks::embedded_with_clock(Arc::new(clock.clone()));
    let mut scene = Scene { locks, clock, capture, snapshotter, seen: BTreeMap::new() };
    let token = giving_up(&mut scene).await;
    waiting(&mut scene).await;
    losing(&mut scene).await;
    owning(&mut scene).await;
    scene.locks.named("").acquire().await.expect_err("is misuse");
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
        scene.is(name, count);
    }
    let told = format!("{:?}", scene.capture.0.lock().expect("no panic"));
    assert!(!told.contains(token.expose()), "a token was told");
}

async fn giving_up(scene: &mut Scene) -> Token {
    let task = scene.locks.named("a").with_task("t").acquire().await.expect("an answer");
    scene.is("locks_held", 1);
    task.acquired().expect("acquired").release().await.expect("released");
    drop(scene.acquire("b").await);
    scene.is("locks_held", 0);
    let detached = scene.acquire("c").await;
    let lease = detached.lease().clone();
    let token = detached.detach().token;
    scene.is("locks_held", 0);
    drop(lease);
    scene.locks.release("c", &token).await.expect("released");
    let a = ["DEBUG acquired fence id task", "DEBUG released fence held_ms id task"];
    assert_eq!(scene.capture.of("a"), a);
    let b = ["DEBUG acquired fence id", "DEBUG released fence held_ms id"];
    assert_eq!(scene.capture.of("b"), b);
    assert_eq!(scene.capture.of("c"), ["DEBUG acquired fence id", "DEBUG released "]);
    token
}

async fn waiting(scene: &mut Scene) {
    let held = scene.acquire("d").await;
    assert!(scene.locks.try_acquire("d").await.expect("an answer").is_none());
    let (mut waiting, mut aborted) = (JoinSet::new(), JoinSet::new());
    let wait = |wait: Duration| {
        let lock = held_elsewhere(scene, "d").with_wait(wait);
        async move { lock.acquire().await }
    };
    let (vain, dropped, lucky) = (wait(SECOND), wait(LONG), wait(LONG));
    waiting.spawn(vain);
    aborted.spawn(dropped);
    scene.becomes("locks_waiting", 2).await;
    aborted.shutdown().await;
    scene.is("locks_waiting", 1);
    scene.clock.advance(SECOND);
    let vain = scene.outcome(&mut waiting).await;
    assert!(matches!(vain, Outcome::TimedOut { .. }), "{vain:?}");
    scene.is("locks_waiting", 0);
    waiting.spawn(lucky);
    scene.becomes("locks_waiting", 1).await;
    held.release().await.expect("released");
    let lucky = scene.outcome(&mut waiting).await;
    assert!(matches!(lucky, Outcome::Acquired(_)), "{lucky:?}");
    drop(lucky);
    let told = [
        "DEBUG acquired fence id",
        "INFO timed_out id waited_ms",
        "DEBUG released fence held_ms id",
        "DEBUG acquired fence id waited_ms",
        "DEBUG released fence held_ms id",
    ];
    assert_eq!(scene.capture.of("d"), told);
    let waited = scene.capture.field("d", "timed_out", "waited_ms").parse();
    assert!(waited.is_ok_and(|waited: u32| (1000..2000).contains(&waited)));
}

/// The lock as another client sees it.
fn held_elsewhere(scene: &Scene, name: &str) -> Lock {
    scene.locks.peer().named(name)
}

async fn losing(scene: &mut Scene) {
    let late = scene.acquire("e").await;
    scene.clock.advance(SECOND * 3);
    late.renew().await.expect("an answer");
    scene.clock.advance(SECOND * 7);
    late.renew().await.expect("an answer");
    scene.clock.advance(SECOND * 9);
    assert_eq!(late.lost().await, LossReason::Expired);
    assert_eq!(late.lost().await, LossReason::Expired);
    scene.is("locks_held", 0);
    drop(late);
    let told = [
        "DEBUG acquired fence id",
        "WARN renewed_late fence id left_ms",
        "WARN lost fence held_ms id reason",
    ];
    assert_eq!(scene.capture.of("e"), told);
    assert_eq!(scene.capture.field("e", "lost", "reason"), "expired");
    assert_eq!(scene.capture.field("e", "lost", "held_ms"), "19000");
    // One that nobody noticed was over when it was given up.
    let over = scene.acquire("f").await;
    scene.clock.advance(SECOND * 10);
    over.release().await.expect("an answer");
    drop(scene.acquire("f").await);
    assert_eq!(scene.capture.of("f")[1], "WARN lost fence held_ms id reason");
}

async fn owning(scene: &mut Scene) {
    let owner = scene.locks.owner("job").expect("an owner");
    let own = owner.acquire("g").await.expect("an answer").acquired().expect("acquired");
    let again = owner.acquire("g").await.expect("an answer");
    scene.is("locks_held", 1);
    drop(again);
    scene.locks.force_release("g", "why").await.expect("an answer").expect("was held");
    own.renew().await.expect("an answer");
    drop(own);
    let told = [
        "DEBUG acquired fence id owner",
        "WARN forced fence id owner reason",
        "WARN lost fence held_ms id owner reason",
    ];
    assert_eq!(scene.capture.of("g"), told);
    assert_eq!(scene.capture.field("g", "forced", "reason"), "why");
    // An owner that waits for another of its name waits for itself.
    let own = owner.acquire("h").await.expect("an answer").acquired().expect("acquired");
    let twin = scene.locks.owner("job").expect("an owner");
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { twin.named("h").with_wait(LONG).acquire().await });
    let cycle = scene.outcome(&mut waiting).await;
    assert!(matches!(cycle, Outcome::Deadlock { .. }), "{cycle:?}");
    drop(own);
    assert_eq!(scene.capture.of("h")[1], "WARN deadlock cycle id owner waited_ms");
    assert_eq!(scene.capture.field("h", "deadlock", "cycle"), "job waits for h, held by job");
}
