//! Random steps on both backends, with the same answers.

use super::{crew, entry, name, stage::Stage, take};
use crate::{
    backend::{Attempt, Defer, Entry, From, Take},
    cursor::Id,
};
use coordinator_harness::seed;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::collections::BTreeMap;

const STEPS: usize = 4000;

fn some<T: Clone>(random: &mut StdRng, all: &[T]) -> T {
    all[random.random_range(0..all.len())].clone()
}

#[derive(Debug, Clone)]
enum Step {
    Publish(Entry),
    Read(From, usize),
    Trim(Id),
    Announce,
    Announced,
    Take(Take),
    Ack(Attempt),
    Defer(Attempt, Defer),
    Bury(Attempt),
    Revive(Id, bool),
    Letters(u64),
    Standing,
    Forget,
    Elapse(u64),
    Delete,
    Lose(Id),
    SetBack(Id),
}

fn step(random: &mut StdRng, ids: &[Id], buried: Option<Id>, number: usize) -> Step {
    // Mostly those of late.
    let recent = &ids[ids.len().saturating_sub(12)..];
    let id = some(random, recent);
    let attempt = Attempt { id, token: [random.random_range(1..4); 8] };
    match random.random_range(0..100) {
        0..35 => {
            let once = some(random, &[None, None, None, Some("k"), Some("l")]);
            Step::Publish(Entry {
                epoch: some(random, &[0, id.epoch, id.epoch, id.epoch, id.epoch + 7]),
                check: random.random_bool(0.2),
                strict: random.random_bool(0.1),
                once: once.map(|key| (name(key), random.random_range(1..2000))),
                ttl_ms: some(random, &[5000, 60_000]),
                prolongs: random.random_bool(0.5),
                ..entry(u8::try_from(number % 256).expect("a byte"))
            })
        }
        35..45 => {
            let from = some(random, &[From::First, From::Last, From::At(id), From::At(id.next())]);
            Step::Read(from, some(random, &[1, 3, 100]))
        }
        45..48 => Step::Trim(id),
        48..51 => Step::Announce,
        51..52 => Step::Announced,
        52..70 => Step::Take(Take {
            begin: some(random, &[None, Some(Id::START), Some(id)]),
            deliveries: some(random, &[1, 2, 3]),
            lease_ms: some(random, &[1, 100, 1000]),
            ttl_ms: some(random, &[3000, 60_000]),
            // Few enough for some to come again.
            token: [random.random_range(1..4); 8],
            seat: random.random_range(1..3),
            ..take(some(random, &["one", "two"]), some(random, &[1, 2, 9]))
        }),
        70..76 => Step::Ack(attempt),
        76..82 => Step::Defer(
            attempt,
            Defer {
                in_ms: some(random, &[0, 1, 500]),
                reason: some(random, &["", "no"]).to_owned(),
                deliveries: some(random, &[1, 2, 3]),
                ttl_ms: 60_000,
            },
        ),
        82..85 => Step::Bury(attempt),
        85..88 => {
            // Few of those of late are dead letters.
            let dead = buried.filter(|_| random.random_bool(0.5));
            Step::Revive(dead.unwrap_or(id), random.random_bool(0.7))
        }
        88..90 => Step::Letters(random.random_range(0..3)),
        90..92 => Step::Standing,
        92..98 => Step::Elapse(some(random, &[1, 1, 1, 50, 100, 499, 1000, 1000, 3000, 61_000])),
        98 => some(random, &[Step::Forget, Step::Delete, Step::Lose(id)]),
        _ => Step::SetBack(id),
    }
}

async fn answer(stage: &mut Stage, step: &Step) -> String {
    let crew = crew("a", "g");
    let (scope, topic, backend) = (&crew.scope, name("t"), stage.backend.clone());
    match step {
        Step::Publish(entry) => format!("{:?}", backend.publish(scope, entry).await),
        Step::Read(from, limit) => format!("{:?}", backend.read(scope, *from, *limit).await),
        Step::Trim(id) => format!("trimmed {:?}", backend.trim(scope, *id).await),
        Step::Announce => format!("announced {:?}", backend.announce(&topic, "x".into()).await),
        Step::Announced => format!("count {:?}", backend.announced(&topic).await),
        Step::Take(take) => format!("{:?}", backend.take(&crew, take).await),
        Step::Ack(attempt) => format!("acked {:?}", backend.ack(&crew, *attempt).await),
        Step::Defer(attempt, defer) => {
            format!("{:?}", backend.defer(&crew, *attempt, defer).await)
        }
        Step::Bury(attempt) => {
            format!("buried {:?}", backend.bury(&crew, *attempt, "why", 60_000).await)
        }
        Step::Revive(id, again) => {
            format!("revived {:?}", backend.revive(&crew, *id, *again, 60_000).await)
        }
        Step::Letters(skip) => format!("{:?}", backend.letters(&crew, *skip, 5).await),
        Step::Standing => format!("{:?}", backend.standing(&crew).await),
        Step::Forget => format!("forgot {:?}", backend.forget(&crew).await),
        Step::Elapse(ms) => {
            stage.elapse(*ms).await;
            String::new()
        }
        Step::Delete => {
            if backend.read(scope, From::Last, 1).await.expect("an answer").is_some() {
                stage.delete(scope).await;
            }
            String::new()
        }
        Step::Lose(id) => {
            stage.lose(scope, *id).await;
            String::new()
        }
        Step::SetBack(id) => {
            let page = backend.read(scope, From::First, 1000).await.expect("an answer");
            let there = page.is_some_and(|page| page.events.iter().any(|event| event.id == *id));
            if there {
                stage.set_back(scope, *id).await;
            }
            String::new()
        }
    }
}

#[tokio::test]
async fn both_backends_answer_the_same() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut one, mut other) = (Stage::embedded().await, Stage::redis().await);
    let mut kinds = BTreeMap::<String, usize>::new();
    let mut ids = vec![Id { epoch: one.now_ms(), number: 0 }];
    let mut buried = None;
    for number in 0..STEPS {
        let step = step(&mut random, &ids, buried, number);
        let (embedded, redis) = (answer(&mut one, &step).await, answer(&mut other, &step).await);
        assert_eq!(embedded, redis, "SEED={seed}, step {number}: {step:?}");
        if let (Step::Bury(attempt), "buried Ok(true)") = (&step, embedded.as_str()) {
            buried = Some(attempt.id);
        }
        if let Some(rest) = embedded.strip_prefix("Ok(New(Id { epoch: ") {
            let mut numbers = rest
                .split(|char: char| !char.is_ascii_digit())
                .filter_map(|digits| digits.parse::<u64>().ok());
            let (epoch, number) = (numbers.next(), numbers.next());
            ids.push(Id { epoch: epoch.expect("an epoch"), number: number.expect("a number") });
        }
        let kind: String = embedded.chars().take_while(|c| !c.is_ascii_digit()).take(30).collect();
        *kinds.entry(kind).or_default() += 1;
    }
    // What was never answered was not compared.
    for wanted in [
        "Ok(New(",
        "Ok(Before(",
        "Ok(Fenced(",
        "Ok(None)",
        "Ok(Some(Page",
        "acked Ok(Done)",
        "acked Ok(Before)",
        "acked Ok(Gone)",
        "Ok(Done)",
        "Ok(Buried)",
        "Ok(Gone)",
        "buried Ok(true)",
        "revived Ok(true)",
        "Ok([Letter",
        "Ok(Some(Standing",
    ] {
        assert!(
            kinds.keys().any(|kind| kind.starts_with(wanted)),
            "SEED={seed}: {wanted} {kinds:#?}"
        );
    }
}
