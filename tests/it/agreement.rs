//! The same seeded steps on both backends give the same answers: embedded is the specification of
//! the scripts.

use crate::stage::Stage;
use coordinator_harness::rng;
use coordinator_locks::{Detached, Fence, FenceCheck, Outcome, Token};
use rand::RngExt as _;
use std::time::Duration;

const NAMES: [&str; 3] = ["a", "b:{c}", "d\n"];
const STEPS: usize = 600;

/// A step, drawn once and played on both.
#[derive(Debug, Clone, Copy)]
enum Step {
    Acquire {
        name: usize,
        ttl_ms: u64,
    },
    /// Renews the n-th token ever granted, for a name that may be another's.
    Renew {
        name: usize,
        grant: usize,
        ttl_ms: u64,
    },
    Release {
        name: usize,
        grant: usize,
    },
    Force {
        name: usize,
    },
    Show {
        name: usize,
    },
    /// Shows the n-th grant to the register of its own name.
    Admit {
        grant: usize,
    },
    Elapse {
        ms: u64,
    },
}

/// One backend's side of the play.
struct Side {
    stage: Stage,
    granted: Vec<Detached>,
}

impl Side {
    /// Plays a step and tells what came of it, with fences as their rank among all granted.
    async fn play(&mut self, step: Step) -> String {
        let locks = &self.stage.locks;
        match step {
            Step::Acquire { name, ttl_ms } => {
                let lock = locks.named(NAMES[name]).with_ttl(Duration::from_millis(ttl_ms));
                match lock.with_wait(Duration::ZERO).acquire().await.expect("an answer") {
                    Outcome::Acquired(guard) => {
                        self.granted.push(guard.detach());
                        format!("granted {:?}", self.rank(self.granted.len() - 1))
                    }
                    Outcome::TimedOut { holder } => {
                        let fence = holder.map(|holder| holder.fence);
                        format!("held {:?}", self.who(NAMES[name], fence))
                    }
                    other => format!("{other:?}"),
                }
            }
            Step::Renew { name, grant, ttl_ms } => match self.token(grant) {
                Some(token) => {
                    let ttl = Duration::from_millis(ttl_ms);
                    format!("{:?}", locks.renew(NAMES[name], &token, ttl).await.expect("an answer"))
                }
                None => String::new(),
            },
            Step::Release { name, grant } => match self.token(grant) {
                Some(token) => {
                    format!("{:?}", locks.release(NAMES[name], &token).await.expect("an answer"))
                }
                None => String::new(),
            },
            Step::Force { name } => {
                let forced = locks.force_release(NAMES[name], "a test").await.expect("an answer");
                format!("forced {:?}", self.who(NAMES[name], forced.map(|held| held.holder.fence)))
            }
            Step::Show { name } => {
                let held = locks.show(NAMES[name]).await.expect("an answer");
                let ttl_s = held.as_ref().map(|held| (held.ttl.as_millis() + 250) / 500);
                format!("{:?} {ttl_s:?}", self.who(NAMES[name], held.map(|held| held.holder.fence)))
            }
            Step::Admit { grant } => {
                let Some(granted) = self.pick(grant) else {
                    return String::new();
                };
                let (name, fence) = (granted.name.clone(), granted.fence);
                let owner = granted.token.expose().to_owned();
                let register = locks.fence_register();
                let answer = register.check(&name, fence, &owner).await.expect("an answer");
                format!("admitted {}", answer.is_admitted())
            }
            Step::Elapse { ms } => {
                self.stage.elapse(Duration::from_millis(ms)).await;
                String::new()
            }
        }
    }

    fn pick(&self, grant: usize) -> Option<&Detached> {
        self.granted.get(grant % self.granted.len().max(1))
    }

    fn token(&self, grant: usize) -> Option<Token> {
        self.pick(grant).map(|granted| granted.token.clone())
    }

    /// How many earlier grants of the same name have a fence as high or higher: always none.
    fn rank(&self, grant: usize) -> usize {
        let of = &self.granted[grant];
        let earlier = self.granted[..grant].iter().filter(|earlier| earlier.name == of.name);
        earlier.filter(|earlier| earlier.fence >= of.fence).count()
    }

    /// Which grant a fence of a name belongs to.
    fn who(&self, name: &str, fence: Option<Fence>) -> Option<usize> {
        let is = |granted: &Detached| granted.name == name && Some(granted.fence) == fence;
        self.granted.iter().position(is)
    }
}

fn draw(rng: &mut impl rand::Rng) -> Step {
    let name = rng.random_range(0..NAMES.len());
    let grant = rng.random_range(0..1000);
    let ttl_ms = rng.random_range(1..=6) * 1000;
    match rng.random_range(0..20) {
        0..=6 => Step::Acquire { name, ttl_ms },
        7..=9 => Step::Renew { name, grant, ttl_ms },
        10..=12 => Step::Release { name, grant },
        13 => Step::Force { name },
        14..=15 => Step::Show { name },
        16 => Step::Admit { grant },
        // Never on the edge of a whole second, where a millisecond would decide.
        _ => Step::Elapse { ms: rng.random_range(0..4) * 1000 + 500 },
    }
}

#[tokio::test]
async fn both_backends_answer_the_same_steps_the_same() {
    let mut rng = rng();
    let mut embedded = Side { stage: Stage::embedded(), granted: Vec::new() };
    let mut redis = Side { stage: Stage::redis().await, granted: Vec::new() };
    let mut played = Vec::new();
    let (mut grants, mut refusals) = (0, 0);
    for _ in 0..STEPS {
        let step = draw(&mut rng);
        played.push(step);
        let (one, other) = (embedded.play(step).await, redis.play(step).await);
        grants += usize::from(one.starts_with("granted 0"));
        refusals += usize::from(one.starts_with("held"));
        assert_eq!(one, other, "after {:?}", &played[played.len().saturating_sub(12)..]);
        assert!(!one.starts_with("granted") || one == "granted 0", "a fence fell: {one}");
    }
    // A play in which nothing happens proves nothing.
    assert!(grants > 20 && refusals > 20, "{grants} grants, {refusals} refusals");
}
