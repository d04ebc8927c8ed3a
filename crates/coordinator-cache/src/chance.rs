//! What is left to chance: how much of a ttl is taken off, and when a value is loaded before its
//! time. It knows no time and no values.

use std::time::Duration;

/// Where chance comes from.
#[derive(Debug)]
pub(crate) enum Dice {
    /// The thread's generator.
    Thread,
    /// Always the same, for tests.
    #[cfg(test)]
    Seeded(Box<std::sync::Mutex<rand::rngs::StdRng>>),
}

impl Dice {
    /// Uniform, 0 included and 1 not.
    pub(crate) fn throw(&self) -> f64 {
        match self {
            Self::Thread => rand::random(),
            #[cfg(test)]
            Self::Seeded(random) => rand::RngExt::random(&mut *random.lock().expect("no panic")),
        }
    }
}

/// Whether it is time to load anew what is fresh for so long still and takes so long to load:
/// XFetch, `now - delta * beta * ln(random) >= expiry` (Vattani et al., VLDB 2015). In a ttl in
/// which it is asked often, the load begins `delta * beta` before the end, about.
pub(crate) fn is_early(dice: &Dice, left: Duration, load: Duration, beta: f64) -> bool {
    if beta == 0.0 || load.is_zero() {
        return false;
    }
    // 1 - [0, 1) is never 0, whose logarithm is none.
    let ahead = -load.as_secs_f64() * beta * (1.0 - dice.throw()).ln();
    ahead >= left.as_secs_f64()
}

/// A ttl less a random part of it, up to this one.
pub(crate) fn jittered(dice: &Dice, ttl: Duration, part: f64) -> Duration {
    if part > 0.0 { ttl.mul_f64(1.0 - part * dice.throw()) } else { ttl }
}
