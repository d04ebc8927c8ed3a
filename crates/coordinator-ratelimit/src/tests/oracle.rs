//! Sliding windows against an oracle that counts by brute force: decision, used, retry and reset,
//! with the clock stepping both ways.

use super::{
    ask, call,
    stage::{START, Stage},
};
use crate::{
    backend::{Ask, Call, How, Standing, Taken},
    quota::{Precision, Quota},
};
use coordinator_checkers::rate_window::{Admission, Answer, Oracle, worst_excess};
use coordinator_harness::rng;
use rand::{RngExt as _, rngs::StdRng};
use std::time::Duration;

const SKEW: i64 = 1_000_000;

/// How many steps: few with every commit, many at night.
fn steps() -> usize {
    if std::env::var_os("COORDINATOR_LONG").is_some() { 1_000_000 } else { 50_000 }
}

/// A window, its limit, and the granule that goes with it.
struct Setting {
    window: i64,
    limit: u64,
    precision: Precision,
}

impl Setting {
    fn draw(rng: &mut StdRng) -> Self {
        let windows = [1, 7, 1000, 1_000_000, 60_000_000, 30 * 86_400_000_000];
        let window = windows[rng.random_range(0..windows.len())];
        let limit = [0, 1, 3, 10, 1000, 5_000_000][rng.random_range(0..6)];
        let precision = match rng.random_range(0..3) {
            0 => Precision::Exact,
            1 => Precision::Granules(10),
            _ => Precision::Auto,
        };
        Self { window, limit, precision }
    }

    fn quota(&self, limit: u64) -> Quota {
        let window = Duration::from_micros(self.window.unsigned_abs());
        Quota::sliding_window(limit, window).with_precision(self.precision)
    }

    /// How the clock moves between two calls.
    fn step(&self, rng: &mut StdRng) -> i64 {
        let window = self.window;
        match rng.random_range(0..20) {
            0 => -window / 5 - 1,
            1 => -window,
            2 => 1 - window,
            3 => 2 * window,
            4 => -2 * SKEW,
            5 => -rng.random_range(0..SKEW),
            6 => window - 1,
            7 => window,
            8..11 => 0,
            11 => 1,
            _ => rng.random_range(0..=window / 3 + 1),
        }
    }

    fn cost(&self, rng: &mut StdRng) -> u64 {
        match rng.random_range(0..10) {
            0 => self.limit + 1,
            1 => self.limit.max(1),
            2 => rng.random_range(1..=self.limit / 2 + 1),
            _ => rng.random_range(1..=self.limit / 10 + 1),
        }
    }
}

fn answer(standing: &Standing) -> Answer {
    let Standing { taken, used, retry_us, reset_us, .. } = *standing;
    Answer { taken, used, retry_us, reset_us }
}

async fn asked(stage: &Stage, ask: &Ask, plain: bool) -> Standing {
    if plain && ask.how == How::IfItFits {
        return stage.backend.take(ask).await.expect("an answer");
    }
    let call: Call = call(vec![ask.clone()]);
    match stage.backend.take_all(&call).await.expect("an answer") {
        Taken::Decided { standings, .. } => standings[0],
        other @ Taken::Epochs(_) => panic!("{other:?}"),
    }
}

async fn agrees_with_the_oracle(mut stage: Stage, steps: usize) {
    let mut rng = rng();
    let (mut done, mut forward_only) = (0, 0);
    for round in 0.. {
        if done >= steps {
            break;
        }
        let setting = Setting::draw(&mut rng);
        // Far below 2^53 µs, beyond which a double counts no single µs: that is in the year 2255.
        stage.set(START).await;
        let subject = format!("s{round}");
        let mut oracle = Oracle::new(setting.window, SKEW);
        let mut admitted = Vec::new();
        let mut stepped_back = false;
        for step in 0..rng.random_range(20..400) {
            done += 1;
            // In half of the rounds the clock only goes forward.
            let moved = setting.step(&mut rng);
            let moved = if round % 2 == 0 { moved.max(0) } else { moved };
            stepped_back |= moved < 0;
            if moved != 0 {
                stage.set(stage.now() + moved).await;
            }
            // Limits are arguments: now and then there is another.
            let limit =
                if rng.random_range(0..30) == 0 { setting.limit / 2 } else { setting.limit };
            let quota = setting.quota(setting.limit).with_limit(limit);
            let mut ask = ask(&subject, &quota, setting.cost(&mut rng));
            if rng.random_range(0..40) == 0 {
                ask.how = How::Always;
            }
            let forced = ask.how == How::Always;
            let granule = i64::try_from(ask.terms.step).expect("a granule");
            let expected = oracle.ask(stage.now(), ask.cost, limit, granule, forced);
            let got = asked(&stage, &ask, rng.random()).await;
            let why = format!(
                "round {round} step {step}: window {}, limit {limit}, granule {granule}, cost {}, \
                 forced {forced}, at {}",
                setting.window,
                ask.cost,
                stage.now()
            );
            assert_eq!(answer(&got), expected, "{why}");
            if got.taken > 0 && !forced && limit == setting.limit {
                // No two are admitted in one µs: each has one of its own, as soon as there is one.
                let at = i64::try_from(got.receipt[0]).expect("a time");
                admitted.push(Admission { at, cost: got.taken });
            }
        }
        // While the clock only goes forward nothing needs an oracle: no window is too full.
        if !stepped_back {
            forward_only += 1;
            assert_eq!(worst_excess(&admitted, setting.window, setting.limit), None);
        }
    }
    assert!(forward_only > 0, "nothing was checked without the oracle");
}

#[tokio::test]
async fn embedded_agrees_with_the_oracle() {
    agrees_with_the_oracle(Stage::embedded(), steps()).await;
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn redis_agrees_with_the_oracle() {
    agrees_with_the_oracle(Stage::redis().await, steps()).await;
}
