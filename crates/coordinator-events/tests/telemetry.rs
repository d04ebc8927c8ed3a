//! What a process counts of its events: one test, because a recorder is the process's.

use coordinator_core::clock::ManualClock;
use coordinator_events::{
    Cursor, Delivery, Events, Item, LiveItem, METRICS, Position, Settled, SlowReader, Subscription,
    Work,
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Far beyond what anything here takes.
const LONG: Duration = Duration::from_mins(1);
const LEASE: Duration = Duration::from_secs(3);

struct Scene {
    events: Events,
    clock: ManualClock,
    snapshotter: Snapshotter,
}

impl Scene {
    /// What was counted since the last look.
    fn counted(&self) -> BTreeMap<String, u64> {
        let mut counted = BTreeMap::new();
        for (key, _, _, value) in self.snapshotter.snapshot().into_vec() {
            let key = key.key();
            assert!(METRICS.iter().any(|metric| metric.name() == key.name()), "{}", key.name());
            let mut name = key.name().trim_start_matches("coordinator_events_").to_owned();
            for label in key.labels() {
                name += &format!(" {}", label.value());
            }
            match value {
                DebugValue::Counter(0) => {}
                DebugValue::Counter(count) => drop(counted.insert(name, count)),
                other => panic!("{name}: {other:?}"),
            }
        }
        // Looks happen when they like.
        counted.remove("repairs_total");
        counted
    }

    #[track_caller]
    fn is(&self, expected: &[(&str, u64)]) {
        let expected: BTreeMap<_, _> =
            expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        assert_eq!(self.counted(), expected);
    }

    async fn publish(&self, scope: &str, number: u32) -> Cursor {
        let published = self.events.publish(scope, "n", &number).await.expect("published");
        published.cursor().expect("not fenced")
    }

    async fn open(&self, scope: &str, from: Position) -> Subscription<u32> {
        self.events.subscribe(scope).from(from).open().await.expect("it opens")
    }
}

async fn item(subscription: &mut Subscription<u32>) -> Item<u32> {
    let next = tokio::time::timeout(LONG, subscription.next()).await;
    next.expect("an item in time").expect("it goes on")
}

/// The next gap; how many events it is of.
async fn gap(subscription: &mut Subscription<u32>) -> u64 {
    loop {
        if let Item::Gap(gap) = item(subscription).await {
            return gap.lost.count();
        }
    }
}

#[tokio::test]
async fn metrics_are_as_the_manual_says() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().expect("the only recorder");
    let clock = ManualClock::new();
    let events = Events::embedded_with_clock(Arc::new(clock.clone()));
    let scene = Scene { events, clock, snapshotter };
    publishing(&scene).await;
    reading(&scene).await;
    lagging(&scene).await;
    listening(&scene).await;
    working(&scene).await;
}

async fn publishing(scene: &Scene) {
    let publish = || scene.events.publish("s", "n", &1);
    let first = publish().idempotent("k").await.expect("published").cursor().expect("a place");
    for (again, there) in [
        (publish().idempotent("k"), true),
        (publish().fenced(first), true),
        (publish().fenced("1-0".parse().expect("a cursor")), false),
    ] {
        let published = again.await.expect("an answer");
        assert_eq!(published.cursor().is_some(), there, "{published:?}");
    }
    scene.events.publish("", "n", &1).await.expect_err("is misuse");
    scene.is(&[
        ("published_total published", 2),
        ("published_total duplicate", 1),
        ("published_total fenced", 1),
        ("published_total failed", 1),
    ]);
}

async fn reading(scene: &Scene) {
    let events = &scene.events;
    let first = scene.publish("r", 0).await;
    for number in 1..3 {
        scene.publish("r", number).await;
    }
    let third = scene.publish("r", 3).await;
    events.trim("r", third).await.expect("a trim");
    let text = events.publish("r", "n", "no number").await.expect("published");
    let mut late = scene.open("r", Position::After(first)).await;
    assert_eq!(gap(&mut late).await, 3);
    assert!(matches!(item(&mut late).await, Item::Unreadable(_)));
    assert_eq!(Some(late.cursor()), text.cursor());
    scene.is(&[
        ("published_total published", 5),
        ("gaps_total trimmed", 1),
        ("lost_total trimmed", 3),
        ("unreadable_total", 1),
    ]);
    scene.clock.advance(Events::RETENTION.1 * 2);
    scene.publish("r", 9).await;
    gap(&mut late).await;
    scene.is(&[("published_total published", 1), ("gaps_total reset", 1)]);
}

async fn lagging(scene: &Scene) {
    let small = scene.events.clone().with_local_ring(4, 1 << 20);
    let slow = small.subscribe("l").slow_reader(SlowReader::DropOldest);
    let mut slow = slow.open::<u32>().await.expect("it opens");
    let mut quick = scene.open("l", Position::Now).await;
    for number in 0..20 {
        scene.publish("l", number).await;
        assert!(matches!(item(&mut quick).await, Item::Event(_)));
    }
    assert_eq!(gap(&mut slow).await, 16);
    scene.is(&[
        ("published_total published", 20),
        ("gaps_total lagged", 1),
        ("lost_total lagged", 16),
    ]);
}

async fn listening(scene: &Scene) {
    let small = scene.events.clone().with_local_ring(4, 1 << 20);
    let topic = small.live("t").expect("a topic");
    let mut slow = topic.subscribe::<u32>().await.expect("it listens");
    let mut quick = topic.subscribe::<u32>().await.expect("it listens");
    for number in 0..20 {
        topic.publish("n", &number).await.expect("announced");
        let next = tokio::time::timeout(LONG, quick.next()).await.expect("in time");
        assert!(matches!(next, LiveItem::Event(_)), "{next:?}");
    }
    let next = tokio::time::timeout(LONG, slow.next()).await.expect("in time");
    assert!(matches!(next, LiveItem::Lost(lost) if lost.count() == 16), "{next:?}");
    scene.is(&[("live_lost_total lagged", 16)]);
}

async fn working(scene: &Scene) {
    for number in 0..5 {
        scene.publish("w", number).await;
    }
    let group = scene.events.group("w", "g").expect("a group").with_lease(LEASE);
    let mut one = group.consumer("one").await.expect("a consumer");
    let work = one.at_once::<u32>().await.expect("an answer").into_iter();
    let mut all = work.filter_map(|work| match work {
        Work::Delivery(delivery) => Some(delivery),
        _ => None,
    });
    let mut next = || -> Delivery<u32> { all.next().expect("five") };
    for _ in 0..2 {
        assert_eq!(next().ack().await.expect("an answer"), Settled::Done);
    }
    assert_eq!(next().retry("no").await.expect("an answer"), Settled::Done);
    assert_eq!(next().bury("never").await.expect("an answer"), Settled::Buried);
    let late = next();
    scene.clock.advance(LEASE * 2);
    let mut two = group.consumer("two").await.expect("a consumer");
    let _taken = two.at_once::<u32>().await.expect("an answer");
    assert_eq!(late.ack().await.expect("an answer"), Settled::Gone);
    scene.is(&[
        ("published_total published", 5),
        ("deliveries_total acked", 2),
        ("deliveries_total retried", 1),
        ("deliveries_total buried", 1),
        ("deliveries_total gone", 1),
    ]);
}
