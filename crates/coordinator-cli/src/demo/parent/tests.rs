//! What workers are told, and when a run is over.

use super::*;
use crate::demo::{
    ledger::{Stamp, Write, fenced},
    requests::Request,
};
use coordinator::{clock::ManualClock, events::Cursor};
use futures::FutureExt as _;

fn parent(requests: u64) -> Parent {
    let request = |number| Request { number, client: "c".to_owned(), path: "/".to_owned() };
    let work = Work::listed((1..=requests).map(request).collect());
    let clock = Arc::new(ManualClock::new());
    let parent = Parent::new(clock, work, Ledger::new(fenced, None), 2);
    assert!(parent.welcome(1, 11) && parent.welcome(2, 12));
    parent
}

fn taken(parent: &Parent, worker: u32) -> Option<u64> {
    match parent.next(worker).now_or_never()? {
        Answer::Handle { request, .. } => Some(request.number),
        answer => panic!("{answer:?}"),
    }
}

fn write(parent: &Parent, worker: u32, number: u64) -> Answer {
    let event = Place { of: 0, cursor: Cursor::START };
    let reads = Reads { hits: 10 * number, all: 11 * number };
    let write = Write {
        client: "c".to_owned(),
        number,
        value: number,
        stamp: Stamp { fence: number, owner: "a".to_owned() },
    };
    parent.note(worker, Ask::Write { write, path: "/".to_owned(), cookie: None, event, reads })
}

#[tokio::test]
async fn a_worker_waits_for_what_another_gives_back() {
    let parent = parent(1);
    assert_eq!(taken(&parent, 1), Some(1));
    let waiting = parent.next(2);
    tokio::pin!(waiting);
    assert!(waiting.as_mut().now_or_never().is_none());
    parent.farewell(1);
    assert!(matches!(waiting.await, Answer::Handle { request, .. } if request.number == 1));
    let tally = parent.tally();
    assert_eq!((tally.workers_lost, tally.reassigned), (1, 1));
}

#[tokio::test]
async fn it_is_over_when_all_is_written() {
    let parent = parent(2);
    assert_eq!(taken(&parent, 1), Some(1));
    assert_eq!(taken(&parent, 2), Some(2));
    assert_eq!(taken(&parent, 1), None);
    for number in [1, 2] {
        let (client, path) = ("c".to_owned(), "/".to_owned());
        let admitted = Ask::Admitted { number, client, path, from_us: 0, denials: 3 };
        assert_eq!(parent.note(1, admitted), Answer::Noted);
    }
    assert_eq!(write(&parent, 1, 1), Answer::Accepted);
    assert!(parent.over().now_or_never().is_none());
    assert_eq!(write(&parent, 2, 2), Answer::Accepted);
    parent.over().await;
    assert_eq!(parent.next(1).await, Answer::Over);
    parent.farewell(1);
    assert!(matches!(parent.take_end(), Some(End::Complete)));
    assert_eq!(parent.tally().limited, 6);
    assert!(parent.tally().findings.is_clean());
    assert_eq!(parent.tally().workers_lost, 0);
}

#[tokio::test]
async fn nobody_hands_work_to_the_dead() {
    let parent = parent(1);
    parent.farewell(1);
    assert_eq!(parent.next(1).await, Answer::Over);
    assert!(!parent.welcome(1, 13));
    assert!(!parent.welcome(3, 13));
    // A write that was on its way counts all the same.
    assert_eq!(write(&parent, 1, 1), Answer::Accepted);
}

#[tokio::test]
async fn without_a_living_worker_the_run_has_failed() {
    let parent = parent(1);
    parent.farewell(1);
    parent.farewell(1);
    assert!(parent.over().now_or_never().is_none());
    parent.farewell(2);
    parent.over().await;
    assert!(matches!(parent.take_end(), Some(End::Failed(failure)) if failure.exit == 1));
    assert!(!parent.tally().findings.is_clean());
}

#[tokio::test]
async fn the_first_reason_to_end_stays() {
    let parent = parent(1);
    let message = "down".to_owned();
    parent.note(1, Ask::GiveUp { exit: 3, message });
    parent.finish(End::Interrupted);
    assert!(matches!(parent.take_end(), Some(End::Failed(failure)) if failure.exit == 3));
}
