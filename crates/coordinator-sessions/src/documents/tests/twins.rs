//! The same seeded steps on both backends give the same answers: embedded is the specification of
//! the scripts.

use super::{name, stage::Stage, token};
use crate::documents::backend::{Condition, Place, Slice, Write, Wrote};
use coordinator_harness::rng;
use rand::{RngExt as _, rngs::StdRng};
use std::fmt::Debug;

const STEPS: usize = 6000;
const NAMES: [&str; 5] = ["a", "a:b", "a%3Ab", "{a}*\n", "b"];

/// One step, drawn once and played on both.
#[derive(Debug, Clone)]
enum Step {
    /// On the version of an earlier write, counted back from the last, if it says so.
    Put {
        place: Place,
        write: Write,
        earlier: Option<usize>,
    },
    Get(Place),
    History(Place, u64),
    Extend(Place, u64),
    Delete(Place, u8),
    List(Slice),
    Count(Place),
    Move(i64),
}

struct Side {
    stage: Stage,
    versions: Vec<u64>,
}

/// All in one shard: they share its last version and, in a namespace, its index.
fn draw_place(rng: &mut StdRng) -> Place {
    let namespace = ["n", "n:m"][rng.random_range(0..2)];
    let document = NAMES[rng.random_range(0..NAMES.len())];
    Place { shard: 7, namespace: name(namespace), name: name(document) }
}

fn draw(rng: &mut StdRng) -> Step {
    let place = draw_place(rng);
    let ttl_ms = [1, 50, 300, 2000][rng.random_range(0..4)];
    match rng.random_range(0..100) {
        0..40 => {
            let condition = match rng.random_range(0..4) {
                0 => Condition::Absent,
                1 => Condition::Version(1),
                _ => Condition::Any,
            };
            let length = rng.random_range(0..40);
            let write = Write {
                condition,
                ttl_ms,
                keep_ttl: rng.random_range(0..3) == 0,
                history: rng.random_range(0..4),
                data: (0..length).map(|_| rng.random()).collect(),
                token: super::Token {
                    ttl_ms: 400,
                    ..token(&format!("p{}", rng.random_range(0..200)))
                },
            };
            let earlier = (rng.random_range(0..2) == 0).then(|| rng.random_range(0..4));
            Step::Put { place, write, earlier }
        }
        40..50 => Step::Get(place),
        50..58 => Step::History(place, rng.random_range(1..4)),
        58..64 => Step::Extend(place, ttl_ms),
        64..70 => Step::Delete(place, rng.random_range(0..20)),
        70..80 => Step::List(Slice {
            shard: 7,
            namespace: place.namespace,
            after: ["", "", "a", "a%3Ab", "zz"][rng.random_range(0..5)].to_owned(),
            prefix: ["", "", "a", "a%3A", "c"][rng.random_range(0..5)].to_owned(),
            limit: rng.random_range(1..5),
        }),
        80..84 => Step::Count(place),
        _ => Step::Move(match rng.random_range(0..6) {
            0 => rng.random_range(0..900_000),
            1 => 1000,
            2 => 1,
            _ => rng.random_range(0..60_000),
        }),
    }
}

fn shown(answer: impl Debug) -> String {
    format!("{answer:?}")
}

impl Side {
    async fn play(&mut self, step: &Step, now: i64) -> String {
        let backend = self.stage.backend.clone();
        match step {
            Step::Put { place, write, earlier } => {
                let mut write = write.clone();
                if let Some(back) = earlier
                    && let Some(at) = self.versions.len().checked_sub(back + 1)
                {
                    write.condition = Condition::Version(self.versions[at]);
                }
                let wrote = backend.put(place, &write).await.expect("an answer");
                if let Wrote::Stored { version, .. } = wrote {
                    self.versions.push(version);
                }
                shown(wrote)
            }
            Step::Get(place) => shown(backend.get(place).await.expect("an answer")),
            Step::History(place, limit) => {
                shown(backend.history(place, *limit).await.expect("an answer"))
            }
            Step::Extend(place, ttl_ms) => {
                shown(backend.extend(place, *ttl_ms).await.expect("an answer"))
            }
            Step::Delete(place, number) => {
                let token = super::Token { ttl_ms: 400, ..token(&format!("d{number}")) };
                shown(backend.delete(place, &token).await.expect("an answer"))
            }
            Step::List(slice) => shown(backend.list(slice).await.expect("an answer")),
            Step::Count(place) => {
                let count = backend.count(&place.namespace, place.shard).await;
                shown(count.expect("an answer"))
            }
            Step::Move(us) => {
                self.stage.set(now + us).await;
                String::new()
            }
        }
    }
}

#[tokio::test]
async fn both_backends_give_the_same_answers() {
    let mut rng = rng();
    let side = |stage| Side { stage, versions: Vec::new() };
    let (mut ours, mut theirs) = (side(Stage::embedded()), side(Stage::redis().await));
    let mut played = Vec::new();
    let (mut stored, mut conflicts, mut found) = (0, 0, 0);
    for number in 0..STEPS {
        let step = draw(&mut rng);
        let now = i64::try_from(ours.stage.now_us()).expect("not so late");
        let (here, there) = (ours.play(&step, now).await, theirs.play(&step, now).await);
        stored += usize::from(here.starts_with("Stored"));
        conflicts += usize::from(here.starts_with("Conflict"));
        found += usize::from(here.starts_with("Some(Stored"));
        played.push(format!("{step:?} -> {here}"));
        let recent = played.iter().rev().take(6).rev().cloned().collect::<Vec<_>>().join("\n");
        assert_eq!(here, there, "step {number}; embedded left, redis right\n{recent}");
    }
    // A play in which nothing happens proves nothing.
    let often = stored > 300 && conflicts > 300 && found > 50;
    assert!(often, "{stored} stored, {conflicts} conflicts, {found} found");
}
