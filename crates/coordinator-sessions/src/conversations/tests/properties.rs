//! What holds of every conversation, whatever is appended and summarised: pairs stay whole, a
//! window is never longer than it may be, nothing is lost or there twice.

use super::{
    super::{
        backend::{Added, Batch, Cover, Link, Place},
        window::{Linked, leaving},
    },
    ALL, item, link, place,
    stage::Stage,
};
use coordinator_core::codec;
use coordinator_harness::{rng, seed};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::{collections::BTreeSet, sync::Arc};

/// A message as the property sees it.
#[derive(Debug, Clone)]
struct One {
    tokens: u32,
    calls: Vec<Link>,
    answers: Option<Link>,
}

fn draw(rng: &mut StdRng) -> One {
    let tokens = rng.random_range(0..5);
    let id = |rng: &mut StdRng| link(rng.random_range(0..4));
    match rng.random_range(0..4) {
        0 => {
            let calls = (0..rng.random_range(1..3)).map(|_| id(rng)).collect();
            One { tokens, calls, answers: None }
        }
        1 | 2 => One { tokens, calls: Vec::new(), answers: Some(id(rng)) },
        _ => One { tokens, calls: Vec::new(), answers: None },
    }
}

/// Which message a message answers: the nearest before it with that call.
fn caller(all: &[One], at: usize) -> Option<usize> {
    let link = all[at].answers?;
    (0..at).rev().find(|from| all[*from].calls.contains(&link))
}

#[test]
fn a_call_and_its_answers_stay_and_leave_together() {
    let mut rng = rng();
    for _ in 0..3000 {
        let mut history: Vec<One> = Vec::new();
        let mut window: Vec<usize> = Vec::new();
        for _ in 0..8 {
            let held = window.len();
            for _ in 0..rng.random_range(1..6) {
                window.push(history.len());
                history.push(draw(&mut rng));
            }
            let most = rng.random_range(0..8);
            let budget = rng.random_bool(0.5).then(|| rng.random_range(4..20));
            let all: Vec<One> = window.iter().map(|at| history[*at].clone()).collect();
            let linked: Vec<_> = all
                .iter()
                .map(|one| Linked { tokens: one.tokens, calls: &one.calls, answers: one.answers })
                .collect();
            let leaves = leaving(&linked, held, most, budget);
            let stays: Vec<usize> = (0..all.len()).filter(|at| !leaves[*at]).collect();
            let tokens: u64 = stays.iter().map(|at| u64::from(all[*at].tokens)).sum();
            assert!(stays.len() <= most && budget.is_none_or(|budget| tokens <= budget));
            for at in 0..all.len() {
                match caller(&all, at) {
                    Some(from) => assert_eq!(leaves[at], leaves[from], "{at} of {all:?}"),
                    None if all[at].answers.is_some() => assert!(leaves[at], "{at} of {all:?}"),
                    None => {}
                }
            }
            window = stays.into_iter().map(|at| window[at]).collect();
        }
    }
}

#[test]
fn no_more_leaves_than_must() {
    let mut rng = rng();
    for _ in 0..3000 {
        let all: Vec<One> = (0..rng.random_range(1..10)).map(|_| draw(&mut rng)).collect();
        let most = rng.random_range(0..10);
        let linked: Vec<_> = all
            .iter()
            .map(|one| Linked { tokens: one.tokens, calls: &one.calls, answers: one.answers })
            .collect();
        let leaves = leaving(&linked, 0, most, None);
        let whole: Vec<usize> = (0..all.len())
            .filter(|at| all[*at].answers.is_none() || caller(&all, *at).is_some())
            .collect();
        // The longest tail that fits and splits nothing.
        let splits = |tail: &[usize]| {
            tail.iter().any(|at| caller(&all, *at).is_some_and(|from| !tail.contains(&from)))
        };
        let best = (0..=whole.len())
            .map(|cut| &whole[cut..])
            .find(|tail| tail.len() <= most && !splits(tail));
        let stays: Vec<usize> = (0..all.len()).filter(|at| !leaves[*at]).collect();
        assert_eq!(stays, best.expect("the empty tail"), "most {most} of {all:?}");
    }
}

/// Where each message of a conversation is, of all that was ever appended.
struct Account {
    covered: BTreeSet<u64>,
}

impl Account {
    /// Adds what a summary that was stored covers.
    fn cover(&mut self, sequences: impl IntoIterator<Item = u64>) {
        for sequence in sequences {
            assert!(self.covered.insert(sequence), "{sequence} was covered twice");
        }
    }
}

async fn summariser(stage: &Stage, at: &Place, account: &std::sync::Mutex<Account>, text: u8) {
    let seen = stage.backend.show(at, ALL).await.expect("an answer");
    let Some(seen) = seen else { return };
    // A crash, a slow model, another summariser: whatever happens here.
    tokio::task::yield_now().await;
    let cover = Cover {
        after: seen.head.floor,
        up_to: seen.head.evicted,
        tokens: 1,
        text: vec![text; 4],
        ttl: super::HOUR,
    };
    if seen.pending.is_empty() {
        return;
    }
    let (done, _) = stage.backend.summarise(at, &cover).await.expect("an answer");
    if done {
        let mut account = account.lock().expect("unpoisoned");
        account.cover(seen.pending.iter().map(|kept| kept.sequence));
    }
}

async fn nothing_is_lost_and_no_window_is_too_long(stage: Stage) {
    const APPENDERS: u64 = 20;
    const EACH: u64 = 30;
    let (stage, at) = (Arc::new(stage), place("u", "a"));
    let account = Arc::new(std::sync::Mutex::new(Account { covered: BTreeSet::new() }));
    let mut tasks = tokio::task::JoinSet::new();
    for appender in 0..APPENDERS {
        let (stage, at) = (stage.clone(), at.clone());
        let mut rng = StdRng::seed_from_u64(seed() ^ appender);
        tasks.spawn(async move {
            let mut ranges = Vec::new();
            for n in 0..EACH {
                let count = rng.random_range(1..4);
                let items =
                    (0..count).map(|_| item(&format!("{appender} {n}"), 1)).collect::<Vec<_>>();
                let key = format!("{appender}:{n}").into_bytes();
                let batch = Batch { items, key, window: 5, budget: None, ttl: super::HOUR };
                // Some answers get lost, and the append is sent again.
                for _ in 0..rng.random_range(1..3) {
                    stage.backend.append(&at, &batch).await.expect("an answer");
                }
                match stage.backend.append(&at, &batch).await.expect("an answer") {
                    Added::Before { first, count: known, .. } => {
                        assert_eq!(known, count);
                        ranges.push((first, known));
                    }
                    other => panic!("{other:?}"),
                }
                let seen = stage.backend.show(&at, ALL).await.expect("an answer");
                let seen = seen.expect("it is there");
                assert!(seen.window.len() <= 5, "{} in the window", seen.window.len());
                assert!(seen.window.is_sorted_by_key(|kept| kept.sequence));
            }
            assert!(ranges.is_sorted(), "an appender's own order: {ranges:?}");
            ranges
        });
    }
    let mut summarisers = tokio::task::JoinSet::new();
    for text in 0..3 {
        let (stage, at, account) = (stage.clone(), at.clone(), account.clone());
        summarisers.spawn(async move {
            for _ in 0..400 {
                summariser(&stage, &at, &account, text).await;
                tokio::task::yield_now().await;
            }
        });
    }
    let mut given = BTreeSet::new();
    while let Some(ranges) = tasks.join_next().await {
        for (first, count) in ranges.expect("an appender") {
            for sequence in first..first + count {
                assert!(given.insert(sequence), "{sequence} was given twice");
            }
        }
    }
    while let Some(ended) = summarisers.join_next().await {
        ended.expect("a summariser");
    }
    let seen = stage.backend.show(&at, ALL).await.expect("an answer").expect("it is there");
    let all: BTreeSet<u64> = (1..=seen.head.last).collect();
    assert_eq!(given, all, "sequences without a gap");
    let mut account = account.lock().expect("unpoisoned");
    let lost = usize::try_from(seen.head.lost).expect("few");
    account.cover(seen.window.iter().chain(&seen.pending).map(|kept| kept.sequence));
    assert_eq!(account.covered.len() + lost, all.len(), "lost without a word");
    for kept in seen.window.iter().chain(&seen.pending) {
        codec::unwrap(&kept.body).expect("as it was written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_embedded() {
    nothing_is_lost_and_no_window_is_too_long(Stage::embedded()).await;
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_over_redis() {
    nothing_is_lost_and_no_window_is_too_long(Stage::redis().await).await;
}

async fn after_a_pause_nothing_is_appended(stage: Stage) {
    let (stage, at) = (Arc::new(stage), place("u", "a"));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (stage, at) = (stage.clone(), at.clone());
        tasks.spawn(async move {
            loop {
                let batch = super::said(&["x"]);
                let added = stage.backend.append(&at, &batch).await.expect("an answer");
                if matches!(added, Added::Paused { .. }) {
                    return;
                }
            }
        });
    }
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    stage.backend.pause(&at, b"", super::HOUR).await.expect("paused");
    // From the answer on, nothing comes in, whatever is under way.
    let before = stage.backend.show(&at, ALL).await.expect("an answer").expect("there").head;
    while let Some(ended) = tasks.join_next().await {
        ended.expect("an appender");
    }
    let after = stage.backend.show(&at, ALL).await.expect("an answer").expect("there").head;
    assert_eq!(before.last, after.last);
    assert!(stage.backend.resume(&at).await.expect("resumed"));
    let added = stage.backend.append(&at, &super::said(&["x"])).await.expect("an answer");
    assert!(matches!(added, Added::Now { first, .. } if first == after.last + 1), "{added:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_pause_nothing_is_appended_embedded() {
    after_a_pause_nothing_is_appended(Stage::embedded()).await;
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_pause_nothing_is_appended_over_redis() {
    after_a_pause_nothing_is_appended(Stage::redis().await).await;
}
