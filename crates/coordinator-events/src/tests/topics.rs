//! What subscribers of a live topic share, and what each of them is told.

use super::faulty::{Faulty, Tell};
use crate::{
    Events, Live, LiveItem, LiveSubscription, Lost,
    backend::{Announced, Heard},
    envelope::{Head, frame},
};
use coordinator_core::{ErrorKind, clock::ManualClock};
use futures::future::join_all;
use std::{sync::Arc, time::Duration};

const LOOK: Duration = Duration::from_secs(2);
const ON_ITS_WAY: Duration = Duration::from_millis(500);

struct Scene {
    clock: ManualClock,
    backend: Arc<Faulty>,
    live: Live,
}

impl Scene {
    fn new() -> Self {
        Self::with_ring(1000, 1 << 20)
    }

    fn with_ring(events: usize, bytes: usize) -> Self {
        let clock = ManualClock::new();
        let backend = Faulty::new(Arc::new(clock.clone()));
        let all = Events::over(backend.clone()).with_local_ring(events, bytes);
        Self { clock, live: all.live("t").expect("a topic"), backend }
    }

    async fn open(&self) -> LiveSubscription<u32> {
        self.live.subscribe().await.expect("it listens")
    }

    async fn announce(&self, numbers: std::ops::RangeInclusive<u32>) {
        for number in numbers {
            self.live.publish("n", &number).await.expect("announced");
        }
    }

    async fn pass(&self, time: Duration) {
        settle().await;
        self.clock.advance(time);
        settle().await;
    }
}

/// What can be done without time has been done.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn it(number: u64) -> Heard<Announced> {
    let head = Head {
        kind: "n".into(),
        source: "s".into(),
        time_ms: 0,
        schema: 0,
        traceparent: None,
        content_type: None,
    };
    let framed = frame([0; 8], &head, number.to_string().as_bytes()).expect("a frame");
    Heard::It((number, framed.slice(8..)))
}

fn tell(tell: &Tell, heard: impl IntoIterator<Item = Heard<Announced>>) {
    for heard in heard {
        assert!(tell.send(heard).is_ok(), "nobody listens");
    }
}

async fn item(subscription: &mut LiveSubscription<u32>) -> LiveItem<u32> {
    let next = tokio::time::timeout(Duration::from_secs(10), subscription.next());
    next.await.expect("something in time")
}

async fn lost(subscription: &mut LiveSubscription<u32>) -> Lost {
    match item(subscription).await {
        LiveItem::Lost(lost) => lost,
        other => panic!("{other:?}"),
    }
}

async fn number(subscription: &mut LiveSubscription<u32>) -> u32 {
    match item(subscription).await {
        LiveItem::Event(event) => event.data,
        other => panic!("{other:?}"),
    }
}

async fn nothing(subscription: &mut LiveSubscription<u32>) {
    settle().await;
    assert!(futures::poll!(std::pin::pin!(subscription.next())).is_pending());
}

#[tokio::test]
async fn ten_thousand_subscribers_are_one_subscription_and_one_look() {
    let scene = Scene::new();
    let mut all = join_all((0..10_000).map(|_| scene.open())).await;
    assert_eq!(scene.backend.calls("follow"), 1);
    scene.announce(1..=3).await;
    for subscription in &mut all {
        for expected in 1..=3 {
            assert_eq!(number(subscription).await, expected);
        }
    }
    let looks = scene.backend.calls("announced");
    for expected in 1..=3 {
        scene.pass(LOOK).await;
        assert_eq!(scene.backend.calls("announced"), looks + expected);
        scene.pass(ON_ITS_WAY).await;
    }
}

#[tokio::test]
async fn a_loss_is_told_to_each() {
    let scene = Scene::new();
    let says = scene.backend.tell();
    let (mut one, mut two) = (scene.open().await, scene.open().await);
    scene.announce(1..=5).await;
    tell(&says, [it(1), it(4)]);
    for subscription in [&mut one, &mut two] {
        assert_eq!(number(subscription).await, 1);
        assert_eq!(lost(subscription).await, Lost::Exactly(2));
        assert_eq!(number(subscription).await, 4);
        nothing(subscription).await;
    }
    // The last is not missed by what comes after it, but by a look.
    scene.pass(LOOK).await;
    nothing(&mut one).await;
    scene.pass(ON_ITS_WAY).await;
    for subscription in [&mut one, &mut two] {
        assert_eq!(lost(subscription).await, Lost::Exactly(1));
        nothing(subscription).await;
    }
}

#[tokio::test]
async fn what_was_told_as_lost_does_not_come_as_well() {
    let scene = Scene::new();
    let says = scene.backend.tell();
    let mut one = scene.open().await;
    scene.announce(1..=5).await;
    tell(&says, [it(1), Heard::Lost]);
    assert_eq!(number(&mut one).await, 1);
    // It asks how many there were, and waits for them a while.
    scene.pass(ON_ITS_WAY).await;
    assert_eq!(lost(&mut one).await, Lost::Exactly(4));
    tell(&says, [it(2), it(4), it(7)]);
    assert_eq!(lost(&mut one).await, Lost::Exactly(1));
    assert_eq!(number(&mut one).await, 7);
    // A count that began anew is another.
    tell(&says, [it(2)]);
    assert_eq!(number(&mut one).await, 2);
}

#[tokio::test]
async fn of_a_count_that_went_back_nobody_knows_how_many_were_lost() {
    let scene = Scene::with_ring(8, 1 << 20);
    let says = scene.backend.tell();
    let (mut one, mut slow) = (scene.open().await, scene.open().await);
    scene.announce(1..=5).await;
    tell(&says, [it(7)]);
    assert_eq!(lost(&mut one).await, Lost::Exactly(6));
    assert_eq!(number(&mut one).await, 7);
    tell(&says, [Heard::Lost]);
    assert_eq!(lost(&mut one).await, Lost::AtLeast(0));
    // Nor does a number that nobody counted to end anything.
    tell(&says, [it(u64::MAX)]);
    assert_eq!(lost(&mut one).await, Lost::Exactly(u64::MAX - 6));
    assert!(matches!(item(&mut one).await, LiveItem::Unreadable(_)));
    tell(&says, [it(1)]);
    assert_eq!(number(&mut one).await, 1);
    tell(&says, (2..=9).map(it));
    assert_eq!(number(&mut one).await, 2);
    assert!(matches!(lost(&mut slow).await, Lost::AtLeast(_)));
    assert_eq!(number(&mut slow).await, 2);
}

#[tokio::test]
async fn a_slow_subscriber_is_told_exactly_how_many_it_missed() {
    let scene = Scene::with_ring(4, 1 << 20);
    let (mut fast, mut slow) = (scene.open().await, scene.open().await);
    for expected in 1..=10 {
        scene.announce(expected..=expected).await;
        assert_eq!(number(&mut fast).await, expected);
    }
    assert_eq!(lost(&mut slow).await, Lost::Exactly(6));
    for expected in 7..=10 {
        assert_eq!(number(&mut slow).await, expected);
    }
    nothing(&mut slow).await;
    // Of what did not come to anybody, too.
    let scene = Scene::with_ring(4, 1 << 20);
    let says = scene.backend.tell();
    let mut slow = scene.open().await;
    tell(&says, [1, 2, 5, 6, 7, 10].map(it));
    settle().await;
    // Kept are 6, 7, two that were lost, and 10.
    assert_eq!(lost(&mut slow).await, Lost::Exactly(5));
    assert_eq!((number(&mut slow).await, number(&mut slow).await), (6, 7));
    assert_eq!(lost(&mut slow).await, Lost::Exactly(2));
    assert_eq!(number(&mut slow).await, 10);
    // By bytes.
    let scene = Scene::with_ring(1000, 1);
    let mut slow = scene.open().await;
    scene.announce(1..=10).await;
    settle().await;
    assert_eq!(lost(&mut slow).await, Lost::Exactly(9));
    assert_eq!(number(&mut slow).await, 10);
}

#[tokio::test]
async fn whoever_comes_later_is_told_nothing_of_what_was_announced_before() {
    for (heard, first, second) in [
        // All of it is on its way.
        (&[1, 2, 3, 4][..], &["1", "2", "3", "4"][..], &["4"][..]),
        // Some of it is lost, and some of what comes after it.
        (&[1, 5], &["1", "lost 3", "5"], &["lost 1", "5"]),
        (&[2, 3], &["lost 1", "2", "3"], &[]),
    ] {
        for ring in [100, 1] {
            let scene = Scene::with_ring(ring, 1 << 20);
            let says = scene.backend.tell();
            let mut one = scene.open().await;
            scene.announce(1..=3).await;
            let mut two = scene.open().await;
            let mut told = [Vec::new(), Vec::new()];
            for number in heard {
                tell(&says, [it(*number)]);
                settle().await;
                for (told, subscription) in told.iter_mut().zip([&mut one, &mut two]) {
                    while let std::task::Poll::Ready(item) =
                        futures::poll!(std::pin::pin!(subscription.next()))
                    {
                        told.push(match item {
                            LiveItem::Event(event) => event.data.to_string(),
                            LiveItem::Lost(Lost::Exactly(count)) => format!("lost {count}"),
                            other => panic!("{other:?}"),
                        });
                    }
                }
            }
            assert_eq!(told[1], second, "{heard:?} {ring}");
            if ring > 1 {
                assert_eq!(told[0], first, "{heard:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_first_is_told_nothing_of_what_was_announced_before_it_listened() {
    let scene = Scene::new();
    scene.announce(1..=3).await;
    let says = scene.backend.tell();
    let mut one = scene.open().await;
    // Announced while it began to listen.
    tell(&says, [it(3)]);
    nothing(&mut one).await;
    tell(&says, [it(4)]);
    assert_eq!(number(&mut one).await, 4);
    // Nor does a look find any of it.
    let scene = Scene::new();
    scene.announce(1..=3).await;
    let mut one = scene.open().await;
    for time in [LOOK, ON_ITS_WAY, LOOK] {
        scene.pass(time).await;
        nothing(&mut one).await;
    }
}

#[tokio::test]
async fn whoever_waits_for_a_count_that_began_anew_waits_no_more() {
    let scene = Scene::with_ring(1, 1 << 20);
    let says = scene.backend.tell();
    let _one = scene.open().await;
    scene.announce(1..=5).await;
    tell(&says, [it(2)]);
    settle().await;
    let mut two = scene.open().await;
    tell(&says, [it(1), it(2)]);
    settle().await;
    assert_eq!(number(&mut two).await, 2);
}

#[tokio::test]
async fn a_topic_is_followed_for_as_long_as_somebody_listens() {
    let scene = Scene::new();
    let (one, two) = (scene.open().await, scene.open().await);
    drop(two);
    for _ in 0..20 {
        scene.pass(LOOK).await;
    }
    drop(scene.open().await);
    assert_eq!(scene.backend.calls("follow"), 1);
    drop(one);
    for _ in 0..20 {
        scene.pass(LOOK).await;
    }
    let looks = scene.backend.calls("announced");
    scene.pass(LOOK).await;
    assert_eq!(scene.backend.calls("announced"), looks, "it is not given up");
    let mut again = scene.open().await;
    assert_eq!(scene.backend.calls("follow"), 2);
    scene.announce(1..=1).await;
    assert_eq!(number(&mut again).await, 1);
}

#[tokio::test]
async fn a_topic_that_could_not_be_followed_is_followed_by_whoever_comes_next() {
    use super::faulty::Fault::Not;
    let scene = Scene::new();
    scene.backend.fail("follow", &[Not(ErrorKind::Rejected)]);
    scene.backend.fail("announced", &[Not(ErrorKind::Unavailable)]);
    for expected in [ErrorKind::Rejected, ErrorKind::Unavailable] {
        let error = scene.live.subscribe::<u32>().await.expect_err("it fails");
        assert_eq!(error.kind(), expected);
    }
    let mut one = scene.open().await;
    scene.announce(1..=1).await;
    assert_eq!(number(&mut one).await, 1);
}
