//! That chance is fair: early refreshes follow their formula, and jitter is uniform. The seeds are
//! fixed, so each test always throws the same.

use super::{key, stage::Stage};
use crate::{Cache, backend::Version, cache::Draft, chance::Dice, slot::Slot};
use rand::{SeedableRng as _, rngs::StdRng};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

const THROWS: u32 = 20_000;

fn seeded(cache: &mut Cache<u32>, seed: u64) {
    let core = Arc::get_mut(&mut cache.core).expect("nobody else has it");
    core.dice = Dice::Seeded(Box::new(Mutex::new(StdRng::seed_from_u64(seed))));
}

/// Fresh for so long still, and loaded in so long.
fn slot(cache: &Cache<u32>, left_ms: u64, load_us: u32) -> Slot<u32> {
    let soft_ms = cache.core.shared.backend.now_ms() + left_ms;
    Slot {
        value: Some(Arc::new(1)),
        version: Version(1),
        soft_ms,
        hard_ms: soft_ms,
        near_ms: soft_ms,
        loaded_ms: 0,
        load_us,
        tags: None,
    }
}

/// `P(-delta * beta * ln(random) >= left) = exp(-left / (delta * beta))`.
#[tokio::test]
async fn early_refreshes_follow_the_published_formula() {
    let stage = Stage::embedded().await;
    for (beta, load_ms) in [(1.0, 100), (0.5, 100), (3.0, 20), (1.0, 4_000_000)] {
        let cache = stage.caches().cache("n").with_early_refresh(beta);
        let mut cache = cache.build().expect("a cache");
        seeded(&mut cache, 11);
        let mean = beta * f64::from(load_ms);
        for share in [0.0, 0.1, 0.5, 1.0, 2.0, 5.0] {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a few thousand seconds in ms"
            )]
            let left_ms = (mean * share) as u64;
            let slot = slot(&cache, left_ms, load_ms * 1000);
            let early = (0..THROWS).filter(|_| cache.core.is_early(&slot)).count();
            let early = f64::from(u32::try_from(early).expect("not so many"));
            #[expect(clippy::cast_precision_loss, reason = "a few thousand seconds in ms")]
            let likely = (-(left_ms as f64) / mean).exp();
            let expected = likely * f64::from(THROWS);
            // Four standard deviations of a binomial.
            let bound = 4.0 * (expected * (1.0 - likely)).sqrt();
            let off = (early - expected).abs();
            assert!(off <= bound, "{beta} {load_ms} {left_ms}: {early}, not {expected}");
        }
    }
}

#[tokio::test]
async fn nothing_is_early_without_a_load_or_a_wish() {
    let stage = Stage::embedded().await;
    let mut cache = stage.caches().cache("n").with_early_refresh(0.0).build().expect("a cache");
    seeded(&mut cache, 11);
    assert!(!cache.core.is_early(&slot(&cache, 0, 1_000_000)));
    let mut cache = stage.caches().cache("n").with_early_refresh(1000.0).build().expect("a cache");
    seeded(&mut cache, 11);
    assert!(!cache.core.is_early(&slot(&cache, 0, 0)));
    assert!(cache.core.is_early(&slot(&cache, 0, 1)));
}

#[tokio::test]
async fn jitter_is_bounded_and_uniform() {
    const BINS: usize = 20;
    const TTL_MS: u64 = 1_000_000;
    let stage = Stage::embedded().await;
    let ttls = async |part: f64| {
        let mut cache = stage.caches().cache("n").with_jitter(part).build().expect("a cache");
        seeded(&mut cache, 12);
        let mut ttls = Vec::new();
        for _ in 0..THROWS {
            let draft = Draft {
                value: Some(&1),
                ttl: Duration::from_millis(TTL_MS),
                stale: Duration::ZERO,
                loaded_ms: 0,
                load: Duration::ZERO,
                tags: Vec::new(),
            };
            ttls.push(cache.core.seal(&key("a"), draft).await.expect("sealed").ttl_ms);
        }
        ttls
    };
    assert!(ttls(0.0).await.iter().all(|ttl| *ttl == TTL_MS));
    for (part, least) in [(0.1, 900_000), (0.5, 500_000), (1.0, 1)] {
        let span = TTL_MS - least + 1;
        let mut bins = [0_u32; BINS];
        for ttl in ttls(part).await {
            assert!((least..=TTL_MS).contains(&ttl), "{part}: {ttl}");
            bins[usize::try_from((ttl - least) * BINS as u64 / span).expect("a bin")] += 1;
        }
        let expected = f64::from(THROWS) / 20.0;
        let chi: f64 = bins.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
        // With 19 degrees of freedom one in a thousand is above 43.8.
        assert!(chi < 43.8, "{part}: {chi} {bins:?}");
    }
}
