//! What consumers do where a server fails them.

use super::faulty::{
    Fault::{self, Lost, Not},
    Faulty,
};
use crate::{Consumer, Delivered, Delivery, Events, Group, Settled, Work};
use coordinator_core::{ErrorKind, clock::ManualClock};
use std::{future::Future, sync::Arc, time::Duration};

const AWAY: Fault = Not(ErrorKind::Unavailable);
const REFUSED: Fault = Not(ErrorKind::Rejected);
const LEASE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(10);

struct Scene {
    clock: ManualClock,
    backend: Arc<Faulty>,
    group: Group,
}

impl Scene {
    async fn new(events: u32) -> Self {
        let clock = ManualClock::new();
        let backend = Faulty::new(Arc::new(clock.clone()));
        let all = Events::over(backend.clone());
        for number in 0..events {
            assert!(all.publish("s", "n", &number).await.is_ok());
        }
        let group = all.group("s", "g").expect("a group").with_lease(LEASE);
        Self { clock, backend, group: group.with_max_deliveries(1) }
    }

    async fn consumer(&self) -> Consumer {
        self.group.consumer("one").await.expect("a consumer")
    }

    /// Lets time pass until it is done.
    async fn passing<T>(&self, work: impl Future<Output = T>) -> (T, Duration) {
        let mut work = std::pin::pin!(work);
        let mut passed = Duration::ZERO;
        while passed < LEASE * 10 {
            if let std::task::Poll::Ready(done) = futures::poll!(&mut work) {
                return (done, passed);
            }
            self.clock.advance(TICK);
            passed += TICK;
            tokio::task::yield_now().await;
        }
        panic!("it waits for ever")
    }

    async fn delivery(&self, consumer: &mut Consumer) -> Delivery<u32> {
        match self.passing(consumer.next()).await.0 {
            Ok(Work::Delivery(delivery)) => delivery,
            other => panic!("{other:?}"),
        }
    }

    async fn dead(&self) -> usize {
        self.group.dead_letters(0).await.expect("an answer").len()
    }
}

#[tokio::test]
async fn done_work_is_done_though_its_ack_had_no_answer() {
    for faults in [&[AWAY, AWAY, AWAY][..], &[Lost], &[Lost, Lost, AWAY]] {
        let scene = Scene::new(1).await;
        let mut one = scene.consumer().await;
        let delivery = scene.delivery(&mut one).await;
        scene.backend.fail("ack", faults);
        let (settled, took) = scene.passing(delivery.ack()).await;
        assert_eq!(settled.expect("an answer"), Settled::Done, "{faults:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        scene.clock.advance(LEASE * 2);
        assert!(one.at_once::<u32>().await.expect("an answer").is_empty());
        assert_eq!(scene.dead().await, 0, "{faults:?}");
    }
}

#[tokio::test]
async fn an_ack_is_asked_again_until_its_lease_is_over_and_no_longer() {
    let scene = Scene::new(1).await;
    let mut one = scene.consumer().await;
    let delivery = scene.delivery(&mut one).await;
    scene.backend.fail("ack", &[AWAY; 1000]);
    scene.clock.advance(LEASE / 2);
    assert_eq!(delivery.extend().await.expect("an answer"), Settled::Done);
    let (settled, took) = scene.passing(delivery.ack()).await;
    assert_eq!(settled.expect_err("nobody answers").kind(), ErrorKind::Unavailable);
    assert!((LEASE..=LEASE + TICK).contains(&took), "{took:?}");
    let asked = scene.backend.calls("ack");
    assert!((30..80).contains(&asked), "{asked}");
    // A refusal is one at once.
    let scene = Scene::new(1).await;
    let mut one = scene.consumer().await;
    let delivery = scene.delivery(&mut one).await;
    scene.backend.fail("ack", &[REFUSED]);
    assert_eq!(delivery.ack().await.expect_err("refused").kind(), ErrorKind::Rejected);
}

#[tokio::test]
async fn an_ack_that_was_lost_says_nothing_of_a_lease_that_is_over() {
    let scene = Scene::new(1).await;
    let group = scene.group.clone().with_max_deliveries(3);
    let mut one = group.consumer("one").await.expect("a consumer");
    let delivery = scene.delivery(&mut one).await;
    // Perhaps applied, but it was not; and then another consumer has it.
    scene.clock.advance(LEASE - TICK);
    scene.backend.fail("ack", &[Not(ErrorKind::Indeterminate)]);
    let mut ack = std::pin::pin!(delivery.ack());
    assert!(futures::poll!(&mut ack).is_pending());
    scene.clock.advance(TICK);
    let mut two = group.consumer("two").await.expect("a consumer");
    let other = scene.delivery(&mut two).await;
    assert_eq!(scene.passing(ack).await.0.expect("an answer"), Settled::Gone);
    assert_eq!(other.ack().await.expect("an answer"), Settled::Done);
}

#[tokio::test]
async fn an_ack_that_was_lost_is_not_done_where_nobody_knows_of_the_delivery() {
    let scene = Scene::new(1).await;
    let mut one = scene.consumer().await;
    let delivery = scene.delivery(&mut one).await;
    scene.backend.fail("ack", &[Not(ErrorKind::Indeterminate)]);
    let mut ack = std::pin::pin!(delivery.ack());
    assert!(futures::poll!(&mut ack).is_pending());
    // As a replica that took over before it heard of the group.
    assert!(scene.group.delete().await.expect("an answer"));
    assert_eq!(scene.passing(ack).await.0.expect("an answer"), Settled::Gone);
    assert_eq!(scene.delivery(&mut one).await.attempt(), 1);
}

#[tokio::test]
async fn a_group_that_is_gone_begins_before_what_was_under_way_and_after_what_was_done() {
    let scene = Scene::new(4).await;
    let mut one = scene.consumer().await;
    for expected in 0..3 {
        let delivery = scene.delivery(&mut one).await;
        assert_eq!(delivery.data, expected);
        if expected != 1 {
            assert_eq!(delivery.ack().await.expect("an answer"), Settled::Done);
        }
    }
    assert!(scene.group.delete().await.expect("an answer"));
    let last = scene.delivery(&mut one).await;
    assert_eq!((last.data, last.ack().await.expect("an answer")), (3, Settled::Gone));
    for expected in 1..4 {
        let delivery = scene.delivery(&mut one).await;
        assert_eq!((delivery.data, delivery.attempt()), (expected, 1));
        assert_eq!(delivery.ack().await.expect("an answer"), Settled::Done);
    }
    // What nobody settles is not awaited for ever.
    scene.clock.advance(LEASE * 3);
    assert!(scene.group.delete().await.expect("an answer"));
    assert!(one.at_once::<u32>().await.expect("an answer").is_empty());
}

#[tokio::test]
async fn an_answer_that_was_lost_hides_nothing_that_came_after_it() {
    let scene = Scene::new(0).await;
    let mut one = scene.consumer().await;
    // It found nothing, and was not heard.
    scene.backend.fail("take", &[Lost]);
    let mut work = std::pin::pin!(one.next::<u32>());
    assert!(futures::poll!(&mut work).is_pending());
    assert!(scene.group.events.publish("s", "n", &7).await.is_ok());
    let (work, took) = scene.passing(work).await;
    assert!(matches!(work, Ok(Work::Delivery(Delivery { data: 7, .. }))), "{work:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn what_failed_or_is_given_up_is_so_though_it_had_no_answer() {
    let scene = Scene::new(2).await;
    let mut one = scene.consumer().await;
    let first = scene.delivery(&mut one).await;
    let second = scene.delivery(&mut one).await;
    scene.backend.fail("defer", &[AWAY, Lost]);
    let (settled, _) = scene.passing(first.retry("no")).await;
    assert_eq!(settled.expect("an answer"), Settled::Buried);
    scene.backend.fail("bury", &[Lost, AWAY]);
    let (settled, _) = scene.passing(second.bury("never")).await;
    assert_eq!(settled.expect("an answer"), Settled::Buried);
    assert_eq!(scene.dead().await, 2);
}

#[tokio::test]
async fn a_take_without_an_answer_is_no_delivery_that_nobody_saw() {
    let scene = Scene::new(3).await;
    let mut one = scene.consumer().await;
    scene.backend.fail("take", &[Lost, AWAY, Lost]);
    let first = scene.delivery(&mut one).await;
    assert_eq!((first.data, first.attempt()), (0, 1));
    assert_eq!(first.ack().await.expect("an answer"), Settled::Done);
    // Nor is one that was dropped while it was asked for, whatever is asked for next.
    for expected in 1..3 {
        assert_eq!(scene.delivery(&mut one).await.data, expected);
    }
    assert!(scene.group.events.publish("s", "n", &3).await.is_ok());
    scene.backend.fail("take", &[Lost]);
    assert!(futures::poll!(std::pin::pin!(one.next::<u32>())).is_pending());
    let work = one.at_once::<u32>().await.expect("an answer");
    assert!(matches!(&work[..], [Work::Delivery(last)] if last.data == 3), "{work:?}");
    assert_eq!(scene.dead().await, 0);
}

#[tokio::test]
async fn a_gap_that_a_lost_answer_told_of_is_told() {
    let scene = Scene::new(4).await;
    let group = scene.group.clone().with_batch(1);
    let mut one = group.consumer("one").await.expect("a consumer");
    assert_eq!(scene.delivery(&mut one).await.data, 0);
    let events = &scene.group.events;
    let mut place = events.position("s").await.expect("a position");
    place.id.number = 2;
    events.trim("s", place).await.expect("a trim");
    // Another process takes what comes next, and its answer is lost.
    let mut two = group.consumer("two").await.expect("a consumer");
    scene.backend.fail("take", &[Lost]);
    match scene.passing(two.next::<u32>()).await.0 {
        Ok(Work::Gap(gap)) => assert_eq!(gap.lost, crate::Lost::Exactly(2)),
        other => panic!("{other:?}"),
    }
    assert_eq!(scene.delivery(&mut two).await.data, 3);
}

#[tokio::test]
async fn whoever_is_refused_work_is_told() {
    for kind in [ErrorKind::Rejected, ErrorKind::Corrupt, ErrorKind::Misuse] {
        let scene = Scene::new(1).await;
        let mut one = scene.consumer().await;
        scene.backend.fail("take", &[AWAY, Not(kind)]);
        let (refused, _) = scene.passing(one.next::<u32>()).await;
        assert_eq!(refused.expect_err("refused").kind(), kind);
        assert_eq!(scene.delivery(&mut one).await.data, 0);
    }
}

#[tokio::test]
async fn a_worker_outlasts_a_failover_and_ends_with_a_refusal_that_lasts() {
    let scene = Scene::new(2).await;
    let (one, handled) = (scene.consumer().await, std::sync::atomic::AtomicU32::new(0));
    let handler = |_: Delivered<u32>| async {
        handled.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // The next refusal is another one.
        scene.backend.fail("take", &[REFUSED; 1000]);
        Ok::<(), String>(())
    };
    scene.backend.fail("take", &[REFUSED; 10]);
    let (ended, took) = scene.passing(one.run(handler)).await;
    assert_eq!(ended.expect_err("refused").kind(), ErrorKind::Rejected);
    assert_eq!(handled.into_inner(), 2);
    assert!(took > LEASE + Duration::from_secs(5), "{took:?}");
    // What is stored there does not mend itself.
    let scene = Scene::new(1).await;
    let one = scene.consumer().await;
    scene.backend.fail("take", &[Not(ErrorKind::Corrupt)]);
    let handler = async |_: Delivered<u32>| Ok::<(), String>(());
    let (ended, took) = scene.passing(one.run(handler)).await;
    assert_eq!((ended.expect_err("corrupt").kind(), took), (ErrorKind::Corrupt, Duration::ZERO));
}
