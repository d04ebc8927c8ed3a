//! Random steps on both backends, with the same answers.

use super::{key, name, stage::Stage, token, value};
use crate::backend::{Key, Put, Version};
use bytes::Bytes;
use coordinator_harness::seed;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::collections::BTreeMap;

const STEPS: usize = 6000;

fn some<T: Clone>(random: &mut StdRng, all: &[T]) -> T {
    all[random.random_range(0..all.len())].clone()
}

#[derive(Debug, Clone)]
enum Step {
    Get(Key),
    Fetch(Vec<Key>),
    Versions(Vec<&'static str>),
    Capture(Vec<&'static str>, u64, u64),
    Claim(Key, u8, Option<u64>, u64),
    Renew(Key, u8, u64),
    Release(Key, u8),
    Fill(Put, u8),
    Set(Put),
    SetMany(Vec<Put>),
    Invalidate(Vec<Key>),
    Expire(Vec<Key>),
    DropIf(Key, Bytes),
    Untag(Vec<&'static str>),
    Scan(&'static str),
    Mark(u64),
    Elapse(u64),
}

fn any_key(random: &mut StdRng) -> Key {
    let text = some(random, &["a", "b", "c:{d}", "*"]);
    if random.random_bool(0.8) { key(text) } else { Key::new(name("other"), name(text)) }
}

fn any_put(random: &mut StdRng) -> Put {
    let version = random.random_range(0..6);
    let whole = value(version);
    let broken = Bytes::from_static(b"\x02broken");
    let value = some(random, &[whole.clone(), whole.clone(), whole.clone(), whole, broken]);
    Put { key: any_key(random), value, ttl_ms: some(random, &[1, 100, 1000, 5000]) }
}

fn step(random: &mut StdRng) -> Step {
    let key = any_key(random);
    let count = random.random_range(0..4);
    let keys = (0..count).map(|_| any_key(random)).collect();
    let tags = (0..count).map(|_| some(random, &["x", "y:1", "z"])).collect();
    let number = random.random_range(1..4);
    let ms = some(random, &[1, 100, 1000, 3000]);
    match random.random_range(0..100) {
        0..5 => Step::Get(key),
        5..10 => Step::Fetch(keys),
        10..15 => Step::Versions(tags),
        15..22 => Step::Capture(tags, random.random_range(1..100), ms),
        22..42 => {
            let seen = random.random_bool(0.5).then(|| random.random_range(0..6));
            Step::Claim(key, number, seen, ms)
        }
        42..46 => Step::Renew(key, number, ms),
        46..50 => Step::Release(key, number),
        50..64 => Step::Fill(any_put(random), number),
        64..68 => Step::Set(any_put(random)),
        68..72 => Step::SetMany((0..count).map(|_| any_put(random)).collect()),
        72..76 => Step::Invalidate(keys),
        76..80 => Step::Expire(keys),
        80..84 => Step::DropIf(key, any_put(random).value),
        84..87 => Step::Untag(tags),
        87..89 => Step::Scan(some(random, &["crew", "other", "c"])),
        89..90 => Step::Mark(random.random_range(1..100)),
        _ => Step::Elapse(some(random, &[1, 1, 50, 99, 100, 999, 1000, 3000])),
    }
}

async fn answer(stage: &mut Stage, step: &Step) -> String {
    let backend = stage.backend.clone();
    let named = |tags: &[&str]| tags.iter().map(|tag| name(tag)).collect::<Vec<_>>();
    match step {
        Step::Get(key) => format!("got {:?}", backend.get(key).await),
        Step::Fetch(keys) => format!("fetched {:?}", backend.fetch(keys).await),
        Step::Versions(tags) => format!("versions {:?}", backend.versions(&named(tags)).await),
        Step::Capture(tags, fresh, ms) => {
            let fresh = Version(*fresh);
            format!("captured {:?}", backend.capture(&named(tags), fresh, *ms).await)
        }
        Step::Claim(key, number, seen, ms) => {
            format!("{:?}", backend.claim(key, token(*number), seen.map(Version), *ms).await)
        }
        Step::Renew(key, number, ms) => {
            format!("renewed {:?}", backend.renew(key, token(*number), *ms).await)
        }
        Step::Release(key, number) => {
            format!("released {:?}", backend.release(key, token(*number)).await)
        }
        Step::Fill(put, number) => format!("filled {:?}", backend.fill(put, token(*number)).await),
        Step::Set(put) => format!("set {:?}", backend.set(put).await),
        Step::SetMany(puts) => format!("set {:?}", backend.set_many(puts).await),
        Step::Invalidate(keys) => format!("invalidated {:?}", backend.invalidate(keys).await),
        Step::Expire(keys) => format!("expired {:?}", backend.expire(keys).await),
        Step::DropIf(key, bytes) => format!("dropped {:?}", backend.drop_if(key, bytes).await),
        Step::Untag(tags) => format!("untagged {:?}", backend.untag(&named(tags)).await),
        Step::Scan(ns) => {
            let mut page = backend.scan(&name(ns), 0, 0).await.expect("an answer");
            page.keys.sort_by_key(Key::encoded);
            page.keys.dedup();
            format!("scanned {page:?}")
        }
        Step::Mark(fresh) => format!("mark {:?}", backend.mark(0, Version(*fresh)).await),
        Step::Elapse(ms) => {
            stage.elapse(*ms).await;
            format!("now {}", backend.now_ms())
        }
    }
}

#[tokio::test]
async fn both_backends_answer_the_same() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut one, mut other) = (Stage::embedded().await, Stage::redis().await);
    let mut kinds = BTreeMap::<String, usize>::new();
    for number in 0..STEPS {
        let step = step(&mut random);
        // Every step is delivered twice now and then.
        for _ in 0..=u8::from(random.random_bool(0.1)) {
            let embedded = answer(&mut one, &step).await;
            let redis = answer(&mut other, &step).await;
            assert_eq!(embedded, redis, "SEED={seed}, step {number}: {step:?}");
            *kinds.entry(embedded.chars().take(24).collect()).or_default() += 1;
        }
    }
    // What was never answered was not compared.
    for wanted in [
        "got Ok(Some(",
        "got Ok(None)",
        "fetched Ok([Some(",
        "versions Ok([Some(",
        "captured Ok([Version(",
        "Ok(Mine)",
        "Ok(Value(",
        "Ok(Held { left_ms: ",
        "renewed Ok(true)",
        "renewed Ok(false)",
        "released Ok(true)",
        "filled Ok(true)",
        "filled Ok(false)",
        "invalidated Ok(2)",
        "expired Ok(1)",
        "dropped Ok(true)",
        "dropped Ok(false)",
        "untagged Ok(2)",
        "scanned Scanned { keys: ",
        "mark Ok(Version(",
    ] {
        let seen = kinds.keys().any(|kind| wanted.starts_with(kind) || kind.starts_with(wanted));
        assert!(seen, "SEED={seed}: {wanted} {kinds:#?}");
    }
}
