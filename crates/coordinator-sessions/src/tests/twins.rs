//! The same random steps on both backends have the same answers: embedded specifies the scripts.

use super::{departure, digest, names, new, next, patch, place, stage::Stage};
use crate::{
    backend::{
        Backend, Before, Cap, Crowded, Existing, From, Index, Names, New, Next, Origin, Patch,
        Place, Raise, Whole,
    },
    token::Digest,
};
use coordinator_harness::seed;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::time::Duration;

const STEPS: usize = 6_000;
const USERS: [&str; 3] = ["", "ann", "bob%3A"];
const COMPANIES: [&str; 2] = ["", "acme"];

#[derive(Debug)]
enum Step {
    Create(New),
    Load(Place, Option<Digest>, Option<i64>),
    Patch(Place, Digest, Patch),
    Extend(Place, Digest, Option<i64>, Option<i64>),
    Rotate(Place, Digest, Next),
    Depart(Place, Option<Digest>, Option<crate::backend::Departure>),
    Settle(Place, Digest),
    Invalidate(Place, Option<Digest>),
    Epoch(u16, &'static str, bool, u8),
    Sweep(u16, Index, u64),
    Reap(u16),
    List(u16, Index, usize),
    Count(Index),
    Verify(u16, Index, bool),
    Happened(u16, usize),
    Elapse(Duration),
}

fn some<T: Copy>(random: &mut StdRng, of: &[T]) -> T {
    of[random.random_range(0..of.len())]
}

fn somebody(random: &mut StdRng) -> Names {
    let mut names = names(some(random, &USERS), some(random, &COMPANIES));
    some(random, &["", "crew"]).clone_into(&mut names.crew);
    names
}

fn cap(random: &mut StdRng) -> Option<Cap> {
    let policy = some(random, &[Crowded::Refuse, Crowded::Oldest, Crowded::LeastRecent]);
    random.random_bool(0.5).then(|| Cap { most: random.random_range(1..4), policy })
}

fn index(random: &mut StdRng) -> Index {
    match random.random_range(0..5) {
        0 | 1 => Index::All,
        2 => Index::Company("acme".to_owned()),
        3 => Index::Crew("crew".to_owned()),
        _ => Index::User(some(random, &["ann", "bob%3A"]).to_owned()),
    }
}

fn step(random: &mut StdRng, now: i64, number: usize) -> Step {
    // New ones all the time, since those that are gone stay so.
    let recent = u64::try_from(number / 40).expect("small");
    let place = place(random.random_range(0..2), recent + random.random_range(0..5));
    let number = u8::try_from(number % 250).expect("small");
    // Few secrets, so that many are met again.
    let secret = random.random_range(1..4);
    let holder = digest(random.random_range(1..4));
    let anybody = |random: &mut StdRng| random.random_bool(0.8).then_some(holder);
    let ago = |random: &mut StdRng| random.random_range(0..100_000);
    match random.random_range(0..100) {
        0..16 => {
            let before = Before {
                created: some(random, &[Before::NOW, now / 1000 - 70_000, now / 1000 - 70_000]),
                last: now / 1000 - ago(random),
                version: random.random_range(1..8),
                of_user: some(random, &[None, Some(0), Some(now / 1000), Some(now)]),
                of_company: some(random, &[None, Some(0), Some(now / 1000)]),
            };
            let existing =
                some(random, &[Existing::Stays, Existing::GivesWayToNewer, Existing::GivesWay]);
            let origin = some(
                random,
                &[
                    Origin::New,
                    Origin::New,
                    Origin::New,
                    Origin::Arrives(before),
                    Origin::Restored(before, existing),
                ],
            );
            let (cap, names) = (cap(random), somebody(random));
            // Its own shard, or the other where there is none of this id.
            let replaces = random
                .random_bool(0.2)
                .then(|| super::place(place.shard, recent + random.random_range(0..5)).id);
            let replaces = replaces.filter(|id| *id != place.id);
            Step::Create(New { cap, replaces, origin, ..new(place, secret, names) })
        }
        16..38 => {
            let throttle = some(random, &[None, Some(super::THROTTLE), Some(0)]);
            Step::Load(place, anybody(random), throttle)
        }
        38..52 => {
            let field = some(random, &["a", "b", "c", "m"]);
            let mut patch = patch(some(random, &[number, number, 1]), field, &[number]);
            patch.version = random.random_bool(0.3).then(|| random.random_range(1..5));
            patch.schema = random.random_bool(0.2).then_some(2);
            patch.announced = random.random_bool(0.3);
            if random.random_bool(0.3) {
                patch.removed.push(some(random, &["a", "b", "c", "zz"]).to_owned());
                patch.set.push((some(random, &["a", "d"]).to_owned(), vec![1]));
            }
            Step::Patch(place, holder, patch)
        }
        52..55 => {
            let idle = some(random, &[None, Some(1), Some(90_000)]);
            let absolute = some(random, &[None, Some(700_000), Some(1), Some(9_000)]);
            Step::Extend(place, holder, idle, absolute)
        }
        55..67 => {
            let names = random.random_bool(0.4).then(|| somebody(random));
            Step::Rotate(place, holder, Next { names, cap: cap(random), ..next(secret) })
        }
        67..71 => {
            let departure = departure(secret, some(random, &[0, 1]), somebody(random));
            let departure = random.random_bool(0.7).then_some(departure);
            Step::Depart(place, anybody(random), departure)
        }
        71..73 => Step::Settle(place, digest(secret)),
        73..77 => Step::Invalidate(place, anybody(random)),
        77..79 => {
            let name = some(random, &["ann", "bob%3A", "acme"]);
            Step::Epoch(place.shard, name, name == "acme", random.random_range(0..3))
        }
        79..81 => Step::Sweep(place.shard, index(random), random.random_range(0..3)),
        81..84 => Step::Reap(place.shard),
        84..86 => Step::List(place.shard, index(random), random.random_range(1..5)),
        86..88 => Step::Count(index(random)),
        88..90 => Step::Verify(place.shard, index(random), random.random_bool(0.5)),
        90..92 => Step::Happened(place.shard, random.random_range(1..20)),
        _ => {
            let ms = some(random, &[1, 1, 999, 999, 4_000, 5_001, 10_000, 61_000]);
            let ms = if random.random_bool(0.02) { 4_000_000 } else { ms };
            let spread = random.random_range(0..1000);
            Step::Elapse(Duration::from_micros(ms * 1000 + spread))
        }
    }
}

/// What a step answers, as text.
async fn answer(stage: &mut Stage, step: &Step) -> String {
    let backend: &dyn Backend = &*stage.backend.clone();
    match step {
        Step::Create(new) => format!("{:?}", backend.create(new).await),
        Step::Load(place, digest, throttle) => {
            format!("{:?}", backend.load(*place, digest.as_ref(), *throttle).await)
        }
        Step::Patch(place, digest, patch) => {
            format!("{:?}", backend.patch(*place, digest, super::THROTTLE, patch).await)
        }
        Step::Extend(place, digest, idle, absolute) => {
            let done = backend.extend(*place, digest, super::THROTTLE, *idle, *absolute);
            format!("{:?}", done.await)
        }
        Step::Rotate(place, digest, next) => {
            let done = backend.rotate(*place, digest, super::THROTTLE, next).await;
            format!("{done:?} {:?}", done.as_ref().ok().map(secrets))
        }
        Step::Depart(place, digest, departure) => {
            let done = backend.depart(*place, digest.as_ref(), departure.as_ref()).await;
            format!("{done:?}")
        }
        Step::Settle(place, to) => format!("{:?}", backend.settle(*place, to).await),
        Step::Invalidate(place, digest) => {
            format!("{:?}", backend.invalidate(*place, digest.as_ref(), "over").await)
        }
        Step::Epoch(shard, name, company, raise) => {
            let whole = if *company { Whole::Company(name) } else { Whole::User(name) };
            let raise = match raise {
                0 => Raise::No,
                1 => Raise::Above("risk of {theft}"),
                _ => Raise::To(stage.now() / 1000 + 3, "leaked"),
            };
            format!("{:?}", backend.epoch(*shard, whole, raise).await)
        }
        Step::Sweep(shard, index, skip) => {
            format!("{:?}", backend.sweep(*shard, index, *skip, 3).await)
        }
        Step::Reap(shard) => format!("{:?}", backend.reap(*shard, 3).await),
        Step::List(shard, index, limit) => {
            let mut after = None;
            let mut all = String::new();
            for _ in 0..10 {
                let listed = backend.list(*shard, index, after.as_ref(), *limit).await;
                all += &format!("{listed:?}");
                after = listed.ok().and_then(|listed| listed.next);
                if after.is_none() {
                    break;
                }
            }
            all
        }
        Step::Count(index) => format!("{:?}", backend.count(&[0, 1, 2], index).await),
        Step::Verify(shard, index, mend) => {
            format!("{:?}", backend.verify(*shard, index, 0, 100, *mend).await)
        }
        Step::Happened(shard, limit) => {
            let newest = backend.happened(*shard, From::Newest, 1).await;
            let ago = From::Ago(Duration::from_secs(70));
            format!("{newest:?} {:?}", backend.happened(*shard, ago, *limit).await)
        }
        Step::Elapse(by) => {
            stage.elapse(*by).await;
            String::new()
        }
    }
}

/// What `Debug` hides.
fn secrets(rotated: &crate::backend::Found<crate::backend::Rotated>) -> Option<[u8; 32]> {
    match rotated {
        crate::backend::Found::Live(crate::backend::Rotated::Done { wrapped, .. }) => {
            wrapped.map(|wrapped| wrapped.0)
        }
        _ => None,
    }
}

#[tokio::test]
async fn both_backends_answer_the_same() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut one, mut other) = (Stage::embedded(), Stage::redis().await);
    let mut kinds = std::collections::BTreeMap::<String, usize>::new();
    let mut departed = None;
    for number in 0..STEPS {
        let mut step = step(&mut random, one.now(), number);
        // Few moves would ever be settled by chance.
        if let (Step::Settle(place, to), Some(of)) = (&mut step, departed) {
            (*place, *to) = of;
        }
        let (embedded, redis) = (answer(&mut one, &step).await, answer(&mut other, &step).await);
        assert_eq!(embedded, redis, "SEED={seed}, step {number}: {step:?}");
        match &step {
            Step::Depart(place, _, Some(departure)) if embedded.starts_with("Ok(Live(") => {
                departed = Some((*place, departure.next.digest));
            }
            Step::Settle(..) => departed = None,
            _ => {}
        }
        let kind: String = embedded.chars().take_while(|c| !c.is_ascii_digit()).take(40).collect();
        *kinds.entry(kind).or_default() += 1;
    }
    // What was never answered was not compared.
    for wanted in [
        "Ok(Made",
        "Ok(Exists",
        "Ok(Buried",
        "Ok(Stale",
        "Ok(Full",
        "Ok(Late",
        "Ok(Live",
        "Ok(Absent",
        "Ok(Expired",
        "Ok(Revoked(\"over",
        "Ok(Revoked(\"replayed",
        "Ok(Revoked(\"risk",
        "Ok(Moved",
        "Ok(Live(Conflict",
        "Ok(Live(Done",
        "Ok(true",
        "Ok(Swept",
        "Ok(Reaped",
    ] {
        let met = kinds.keys().any(|kind| kind.starts_with(wanted));
        assert!(met, "SEED={seed}: {wanted} was never answered: {kinds:#?}");
    }
}
