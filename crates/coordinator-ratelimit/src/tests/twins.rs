//! The same seeded steps on both backends give the same answers: embedded is the specification of
//! the scripts.
#![cfg(feature = "redis")]

use super::{ask, call, name, place, stage::Stage};
use crate::{
    backend::{Ask, Entry, From, How, Return, Series, Taken},
    quota::{Precision, Quota},
};
use coordinator_harness::rng;
use rand::{RngExt as _, rngs::StdRng};
use std::{fmt::Debug, time::Duration};

const STEPS: usize = 6000;

/// One step, drawn once and played on both.
#[derive(Debug, Clone)]
enum Step {
    Take { asks: Vec<Ask>, id: Option<u8> },
    Peek { asks: Vec<Ask> },
    Refund { admission: usize, amount: u64 },
    Reset { ask: Ask },
    ResetPolicy { ask: Ask },
    Enter { subject: u8, token: u8, slots: u64 },
    Stay { subject: u8, token: u8 },
    Leave { subject: u8, token: u8 },
    Violations { after: bool },
    Top,
    Move { us: i64 },
}

fn quotas() -> Vec<Quota> {
    let second = Duration::from_secs(1);
    vec![
        Quota::sliding_window(5, second),
        Quota::sliding_window(50, second * 2).with_precision(Precision::Granules(5)),
        Quota::sliding_window(5_000_000, second * 3).with_near_limit(0.8),
        Quota::gcra(3, second, 7),
        Quota::gcra(7_000_000, second, 3_000_000),
        Quota::gcra(1, Duration::from_hours(24 * 30), 2),
        Quota::fixed_window(10, second).with_near_limit(0.5),
        Quota::fixed_window(1000, Duration::from_millis(1500)),
    ]
}

fn slots(slots: u64) -> Quota {
    Quota::concurrency(slots, Duration::from_secs(2))
}

/// What both sides have in common: admissions to give back, and the newest record.
struct Side {
    stage: Stage,
    admissions: Vec<Return>,
    read: (u64, u64),
}

fn draw_ask(rng: &mut StdRng, quotas: &[Quota]) -> Ask {
    let quota = &quotas[rng.random_range(0..quotas.len())];
    let limit = if rng.random_range(0..20) == 0 { quota.limit() / 2 } else { quota.limit() };
    let quota = quota.clone().with_limit(limit);
    let cost = match rng.random_range(0..8) {
        0 => limit + 1,
        1 => limit.max(1),
        2 => rng.random_range(1..=limit / 2 + 1),
        _ => rng.random_range(1..=limit / 6 + 1),
    };
    let mut ask = ask(&format!("s{}", rng.random_range(0..2)), &quota, cost);
    ask.how = match rng.random_range(0..12) {
        0 => How::Always,
        1 => How::AtMost,
        2 => How::Shadow,
        _ => How::IfItFits,
    };
    ask.unasked = match rng.random_range(0..6) {
        0 => None,
        1 => Some(rng.random_range(1..9)),
        _ => Some(0),
    };
    ask
}

fn draw(rng: &mut StdRng, quotas: &[Quota]) -> Step {
    let asks = |rng: &mut StdRng| {
        let mut asks: Vec<Ask> = Vec::new();
        for _ in 0..rng.random_range(1..4) {
            let ask = draw_ask(rng, quotas);
            if asks.iter().all(|other| other.place != ask.place) {
                asks.push(ask);
            }
        }
        asks
    };
    let (subject, token) = (rng.random_range(0..2), rng.random_range(0..5));
    match rng.random_range(0..100) {
        0..45 => {
            let id = (rng.random_range(0..6) == 0).then(|| rng.random_range(0..4));
            Step::Take { asks: asks(rng), id }
        }
        45..50 => Step::Peek { asks: asks(rng) },
        50..60 => Step::Refund {
            admission: rng.random_range(0..8),
            amount: rng.random_range(1..=5_000_000),
        },
        60 => Step::Reset { ask: draw_ask(rng, quotas) },
        61 => Step::ResetPolicy { ask: draw_ask(rng, quotas) },
        62..67 => Step::Enter { subject, token, slots: rng.random_range(1..4) },
        67..70 => Step::Stay { subject, token },
        70..73 => Step::Leave { subject, token },
        73..75 => Step::Violations { after: rng.random() },
        75 => Step::Top,
        _ => Step::Move {
            us: match rng.random_range(0..20) {
                0 => -3_000_000,
                1 => -rng.random_range(0..1_000_000),
                2 => rng.random_range(0..5_000_000),
                3 => 1,
                _ => rng.random_range(0..300_000),
            },
        },
    }
}

fn shown(answer: impl Debug) -> String {
    format!("{answer:?}")
}

impl Side {
    async fn play(&mut self, step: &Step) -> String {
        let backend = self.stage.backend.clone();
        match step {
            Step::Take { asks, id } => {
                let mut call = call(asks.clone());
                call.once = id.map(|id| (name(&format!("id{id}")), Duration::from_millis(1500)));
                let taken = backend.take_all(&call).await.expect("an answer");
                if let Taken::Decided { standings, .. } = &taken {
                    for (ask, standing) in asks.iter().zip(standings) {
                        if standing.taken > 0 {
                            self.admissions.push(Return {
                                place: ask.place.clone(),
                                terms: ask.terms,
                                amount: standing.taken,
                                receipt: standing.receipt,
                                once: call.once().map(|(_, once, _)| once),
                            });
                        }
                    }
                }
                shown(taken)
            }
            Step::Peek { asks } => shown(backend.peek(asks).await.expect("an answer")),
            Step::Refund { admission, amount } => {
                let place = self.admissions.len().checked_sub(admission + 1);
                let Some(mut back) = place.map(|place| self.admissions[place].clone()) else {
                    return String::new();
                };
                if *amount < back.amount {
                    (back.amount, back.once) = (*amount, None);
                }
                let given = backend.refund(&back).await.expect("an answer");
                let again = backend.refund(&back).await.expect("an answer");
                assert!(given == 0 || again == given, "given back twice: {given}, {again}");
                shown(given)
            }
            Step::Reset { ask } => {
                shown(backend.reset(&ask.place, &ask.terms).await.expect("an answer"))
            }
            Step::ResetPolicy { ask } => {
                let series: Series = ask.place.series();
                shown(backend.reset_policy(&series).await.expect("an answer"))
            }
            Step::Enter { subject, token, slots: count } => {
                let quota = slots(*count);
                let entry = Entry {
                    place: place(&format!("c{subject}"), &quota),
                    terms: quota.terms,
                    token: name(&format!("t{token}")),
                    unasked: Some(0),
                };
                shown(backend.enter(&entry).await.expect("an answer"))
            }
            Step::Stay { subject, token } => {
                let (quota, token) = (slots(1), name(&format!("t{token}")));
                let place = place(&format!("c{subject}"), &quota);
                shown(backend.stay(&place, &quota.terms, &token).await.expect("an answer"))
            }
            Step::Leave { subject, token } => {
                let place = place(&format!("c{subject}"), &slots(1));
                let token = name(&format!("t{token}"));
                shown(backend.leave(&place, &token).await.expect("an answer"))
            }
            Step::Violations { after } => {
                let from =
                    if *after { From::After(self.read) } else { From::Ago(Duration::from_secs(2)) };
                let found = backend.violations(0, from, 50).await.expect("an answer");
                if let Some(last) = found.last() {
                    self.read = last.id;
                }
                shown(found)
            }
            Step::Top => shown(backend.top(0, 5).await.expect("an answer")),
            Step::Move { us } => {
                self.stage.set(self.stage.now() + us).await;
                String::new()
            }
        }
    }
}

#[tokio::test]
async fn both_backends_give_the_same_answers() {
    let mut rng = rng();
    let quotas = quotas();
    let side = |stage| Side { stage, admissions: Vec::new(), read: (0, 0) };
    let (mut ours, mut theirs) = (side(Stage::embedded()), side(Stage::redis().await));
    let mut played = Vec::new();
    for number in 0..STEPS {
        let step = draw(&mut rng, &quotas);
        let (here, there) = (ours.play(&step).await, theirs.play(&step).await);
        played.push(format!("{step:?} -> {here}"));
        let recent = played.iter().rev().take(5).rev().cloned().collect::<Vec<_>>().join("\n");
        assert_eq!(here, there, "step {number}; embedded left, redis right\n{recent}");
    }
}
