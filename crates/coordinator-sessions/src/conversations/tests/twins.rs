//! The same seeded steps on both backends give the same answers: embedded is the specification of
//! the scripts.
#![cfg(feature = "redis")]

use super::{
    super::backend::{Batch, Cover, Edit, Index, Item, Parts, Place},
    item, link, name, place,
    stage::Stage,
};
use coordinator_harness::rng;
use rand::{RngExt as _, rngs::StdRng};
use std::{fmt::Debug, time::Duration};

const STEPS: usize = 5000;

/// One step, drawn once and played on both.
#[derive(Debug, Clone)]
enum Step {
    Append(Place, Batch),
    /// From so far behind the floor, and so many from there on.
    Summarise(Place, i64, u64, u8, Duration),
    Edit(Place, Edit),
    Pause(Place, u8, Duration),
    Resume(Place),
    Extend(Place, Duration),
    Delete(Place),
    Show(Place, Parts),
    List(bool, bool, usize),
    Count,
    Move(i64),
}

/// Where the clock goes back nothing ends: what has ended, and is not forgotten yet, would be there
/// again, on one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Time {
    Forward,
    BothWays,
}

fn ttl(rng: &mut StdRng, time: Time) -> Duration {
    let more = if time == Time::BothWays { 3_600_000 } else { 0 };
    Duration::from_millis(more + rng.random_range(1..4000))
}

fn draw_items(rng: &mut StdRng) -> Vec<Item> {
    let count = if rng.random_range(0..40) == 0 { 100 } else { rng.random_range(1..5) };
    let one = |rng: &mut StdRng| {
        let mut item = item(&"x".repeat(rng.random_range(0..40)), rng.random_range(0..6));
        match rng.random_range(0..10) {
            0..3 => {
                let calls = rng.random_range(1..4);
                item.calls = (0..calls).map(|_| link(rng.random_range(0..5))).collect();
            }
            3..7 => item.answers = Some(link(rng.random_range(0..5))),
            _ => {}
        }
        item
    };
    (0..count).map(|_| one(rng)).collect()
}

fn draw(rng: &mut StdRng, time: Time) -> Step {
    let channel = ["a", "b", "c"][rng.random_range(0..3)];
    let at = match rng.random_range(0..12) {
        0 => Place { id: name("named:n"), user: None, ..place("u", "a") },
        _ => place("u", channel),
    };
    match rng.random_range(0..100) {
        0..45 => {
            let key = match rng.random_range(0..3) {
                0 => vec![rng.random_range(0..30); 16],
                _ => Vec::new(),
            };
            let window = [0, 1, 3, 8, 20][rng.random_range(0..5)];
            let budget = [None, None, Some(5), Some(20)][rng.random_range(0..4)];
            let items = draw_items(rng);
            Step::Append(at, Batch { items, key, window, budget, ttl: ttl(rng, time) })
        }
        45..58 => Step::Summarise(
            at,
            if rng.random_range(0..4) == 0 { rng.random_range(-30..4) } else { 0 },
            rng.random_range(0..40),
            rng.random_range(0..3),
            ttl(rng, time),
        ),
        58..66 => {
            let field = |rng: &mut StdRng| format!("c:{}", rng.random_range(0..300));
            let many = if rng.random_range(0..6) == 0 { 60 } else { 2 };
            let mut set: Vec<_> = (0..rng.random_range(0..=many))
                .map(|_| (field(rng), vec![rng.random_range(0..9)]))
                .collect();
            set.sort_unstable();
            set.dedup_by(|one, other| one.0 == other.0);
            let removed = field(rng);
            let remove = if set.iter().any(|(name, _)| *name == removed) {
                Vec::new()
            } else {
                vec![removed]
            };
            Step::Edit(at, Edit { set, remove, ttl: ttl(rng, time) })
        }
        66..69 => Step::Pause(at, rng.random_range(0..3), ttl(rng, time)),
        69..75 => Step::Resume(at),
        75..77 => Step::Extend(at, ttl(rng, time)),
        77 => Step::Delete(at),
        78..86 => Step::Show(
            at,
            Parts { window: rng.random(), pending: rng.random(), fields: rng.random() },
        ),
        86..90 => Step::List(rng.random(), rng.random(), rng.random_range(1..4)),
        90 => Step::Count,
        _ => Step::Move(match rng.random_range(0..10) {
            0 if time == Time::BothWays => -rng.random_range(0..500),
            1 => rng.random_range(0..5000),
            2 => 1,
            _ => rng.random_range(0..300),
        }),
    }
}

fn shown<T: Debug>(answer: coordinator_core::Result<T>) -> String {
    format!("{:?}", answer.map_err(|error| error.kind()))
}

async fn play(stage: &mut Stage, step: &Step) -> String {
    let backend = stage.backend.clone();
    match step {
        Step::Append(at, batch) => shown(backend.append(at, batch).await),
        Step::Summarise(at, behind, many, text, ttl) => {
            let parts = Parts { window: false, pending: false, fields: false };
            let seen = backend.show(at, parts).await.expect("an answer");
            let floor = seen.map_or(0, |seen| seen.head.floor);
            let after = floor.saturating_add_signed(*behind);
            let (up_to, text) = (after + many, vec![*text; 3]);
            let cover = Cover { after, up_to, tokens: 3, text, ttl: *ttl };
            shown(backend.summarise(at, &cover).await)
        }
        Step::Edit(at, edit) => shown(backend.edit(at, edit).await),
        Step::Pause(at, reason, ttl) => shown(backend.pause(at, &[*reason], *ttl).await),
        Step::Resume(at) => shown(backend.resume(at).await),
        Step::Extend(at, ttl) => shown(backend.extend(at, *ttl).await),
        Step::Delete(at) => shown(backend.delete(at).await),
        Step::Show(at, parts) => shown(backend.show(at, *parts).await),
        Step::List(all, on, limit) => {
            let user = name("u");
            let shard = place("u", "a").shard;
            let index = if *all { Index::All(shard) } else { Index::Of(&user) };
            let found = backend.list(index, None, *limit).await.expect("a list");
            let after = found.last().filter(|_| *on).map(|last| (last.ends_ms, &last.id));
            shown(backend.list(index, after, *limit).await)
        }
        Step::Count => shown(backend.count(place("u", "a").shard).await),
        Step::Move(ms) => {
            stage.elapse_by(*ms).await;
            String::new()
        }
    }
}

async fn both_give_the_same_answers(time: Time) {
    let mut rng = rng();
    let (mut ours, mut theirs) = (Stage::embedded(), Stage::redis().await);
    let mut played: Vec<String> = Vec::new();
    for number in 0..STEPS {
        let step = draw(&mut rng, time);
        let (here, there) = (play(&mut ours, &step).await, play(&mut theirs, &step).await);
        played.push(format!("{step:?} -> {here}"));
        let recent = played.iter().rev().take(5).rev().cloned().collect::<Vec<_>>().join("\n");
        assert_eq!(here, there, "step {number}; embedded left, redis right\n{recent}");
    }
}

#[tokio::test]
async fn both_backends_give_the_same_answers() {
    both_give_the_same_answers(Time::Forward).await;
}

#[tokio::test]
async fn both_backends_give_the_same_answers_when_the_clock_goes_back() {
    both_give_the_same_answers(Time::BothWays).await;
}
