//! The server's time as this process knows it: what a server said of it, and how long ago by a
//! clock that nobody sets. It asks no server.

use coordinator_core::clock::Clock;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicI64, Ordering},
};

/// For how long what was learnt is good, in µs.
const GOOD_US: i64 = 60_000_000;
/// By how much the wall clock may part from the other one until the time is learnt anew, in µs: it
/// was set, or the machine slept, through which the other one stands still.
const PARTED_US: i64 = 100_000;
/// By one in how much two clocks may part.
const DRIFT: i64 = 2000;

/// What one answer told, in µs.
#[derive(Debug, Clone, Copy)]
struct Sample {
    ahead: i64,
    round_trip: i64,
    at: i64,
}

#[derive(Debug)]
pub(super) struct ServerTime {
    clock: Arc<dyn Clock>,
    /// By how much the server's time is ahead of the clock's monotonic one.
    ahead_us: AtomicI64,
    /// The same of the wall clock, when it was last learnt.
    wall_us: AtomicI64,
    /// Until when nobody needs to ask; 0 for not known at all.
    good_until_us: AtomicI64,
    best: Mutex<Option<Sample>>,
}

/// When a server was asked for its time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    at: i64,
    wall_ahead: i64,
}

fn us(time: std::time::Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

impl ServerTime {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let zero = || AtomicI64::new(0);
        let (ahead_us, wall_us, good_until_us) = (zero(), zero(), zero());
        Self { clock, ahead_us, wall_us, good_until_us, best: Mutex::default() }
    }

    fn passed_us(&self) -> i64 {
        us(self.clock.now().since_start())
    }

    /// By how much the wall clock is ahead of the monotonic one.
    fn wall_ahead_us(&self) -> i64 {
        us(self.clock.unix_time()).saturating_sub(self.passed_us())
    }

    pub(super) fn asked(&self) -> Asked {
        Asked { at: self.passed_us(), wall_ahead: self.wall_ahead_us() }
    }

    /// A server said that it is `server_ms`, between `asked` and now.
    pub(super) fn learn(&self, asked: Asked, server_ms: i64) {
        let at_us = self.passed_us();
        let wall_ahead = self.wall_ahead_us();
        if wall_ahead.saturating_sub(asked.wall_ahead).saturating_abs() >= PARTED_US {
            // Said before the machine slept, for all that is known.
            return;
        }
        let round_trip_us = at_us - asked.at;
        let ahead_us = server_ms.saturating_mul(1000) - (asked.at + round_trip_us / 2);
        self.wall_us.store(wall_ahead, Ordering::Relaxed);
        let mut best = self.best.lock().unwrap_or_else(PoisonError::into_inner);
        // The shorter the way, the less it can be wrong. One that another contradicts is over.
        let stays = best.is_some_and(|best| {
            let age = at_us - best.at;
            let doubt = i64::midpoint(best.round_trip, round_trip_us) + 1000 + age / DRIFT;
            let agrees = (ahead_us - best.ahead).abs() <= doubt;
            age < GOOD_US && best.round_trip < round_trip_us && agrees
        });
        if !stays {
            *best = Some(Sample { ahead: ahead_us, round_trip: round_trip_us, at: at_us });
            self.ahead_us.store(ahead_us, Ordering::Relaxed);
            self.good_until_us.store((at_us + GOOD_US).max(1), Ordering::Release);
        }
    }

    /// Whether it was learnt, lately, and the machine did not sleep since.
    pub(super) fn is_known(&self) -> bool {
        self.passed_us() < self.good_until_us.load(Ordering::Acquire)
            && self.parted_us().saturating_abs() < PARTED_US
    }

    /// Whether it was learnt, however long ago, and the machine did not sleep since.
    pub(super) fn is_good_enough(&self) -> bool {
        self.good_until_us.load(Ordering::Acquire) != 0
            && self.parted_us().saturating_abs() < PARTED_US
    }

    /// By how much the clocks parted since it was learnt.
    fn parted_us(&self) -> i64 {
        self.wall_ahead_us().saturating_sub(self.wall_us.load(Ordering::Relaxed))
    }

    /// In ms since the Unix epoch; by this machine's clock as long as nobody told it.
    pub(super) fn now_ms(&self) -> u64 {
        let now = if self.good_until_us.load(Ordering::Acquire) == 0 {
            us(self.clock.unix_time())
        } else {
            self.passed_us().saturating_add(self.ahead_us.load(Ordering::Relaxed))
        };
        u64::try_from(now / 1000).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator_core::clock::ManualClock;
    use std::time::Duration;

    struct Scene {
        clock: ManualClock,
        time: ServerTime,
    }

    impl Scene {
        fn new() -> Self {
            let clock = ManualClock::new();
            Self { time: ServerTime::new(Arc::new(clock.clone())), clock }
        }

        fn pass(&self, ms: u64) {
            self.clock.advance(Duration::from_millis(ms));
        }

        /// An answer that took so long both ways together.
        fn answer(&self, server_ms: i64, ms: u64) {
            let asked = self.time.asked();
            self.pass(ms);
            self.time.learn(asked, server_ms);
        }
    }

    #[test]
    fn the_answer_with_the_shortest_way_is_believed_while_it_is_young() {
        let scene = Scene::new();
        assert!(!scene.time.is_known());
        scene.answer(1_000_000, 100);
        assert!(scene.time.is_known());
        assert_eq!(scene.time.now_ms(), 1_000_050, "it was said in the midst");
        // All the way was on the way here.
        scene.answer(1_000_050, 10);
        assert_eq!(scene.time.now_ms(), 1_000_055);
        scene.answer(1_000_055, 40);
        assert_eq!(scene.time.now_ms(), 1_000_095, "a longer way tells less");
        scene.pass(59_949);
        assert!(scene.time.is_known());
        scene.pass(11);
        assert!(!scene.time.is_known());
        assert_eq!(scene.time.now_ms(), 1_060_055, "as well as it is known");
        scene.answer(1_060_055, 40);
        assert!(scene.time.is_known());
        assert_eq!(scene.time.now_ms(), 1_060_075, "but the best was too old");
    }

    #[test]
    fn an_answer_that_contradicts_is_believed_however_long_its_way() {
        let scene = Scene::new();
        scene.answer(1_000_000, 0);
        scene.answer(2_000_000, 40);
        assert_eq!(scene.time.now_ms(), 2_000_020, "another server, or it was set");
        scene.answer(1_900_000, 80);
        assert_eq!(scene.time.now_ms(), 1_900_040);
    }

    #[test]
    fn an_answer_that_waited_while_the_machine_slept_tells_nothing() {
        let scene = Scene::new();
        let (wall, asked) = (scene.clock.unix_time(), scene.time.asked());
        scene.pass(1);
        scene.clock.set_unix_time(wall + Duration::from_mins(10));
        scene.time.learn(asked, 1_000_000);
        assert!(!scene.time.is_known() && !scene.time.is_good_enough());
        scene.answer(1_600_000, 2);
        assert_eq!((scene.time.now_ms(), scene.time.is_known()), (1_600_001, true));
        scene.pass(120_000);
        assert!(!scene.time.is_known() && scene.time.is_good_enough());
    }

    #[test]
    fn a_wall_clock_that_is_set_changes_nothing_but_has_it_learnt_anew() {
        let scene = Scene::new();
        scene.answer(1_000_000, 10);
        let wall = scene.clock.unix_time();
        for wrong in [wall + Duration::from_hours(1), wall - Duration::from_secs(5)] {
            scene.clock.set_unix_time(wrong);
            let now = scene.time.now_ms();
            assert_eq!(now, 1_000_005);
            assert!(!scene.time.is_known());
            scene.answer(1_000_005, 0);
            assert_eq!((scene.time.now_ms(), scene.time.is_known()), (1_000_005, true));
        }
        // A worse answer that says the same is an answer.
        scene.clock.set_unix_time(wall);
        scene.answer(1_000_005, 2);
        assert_eq!((scene.time.now_ms(), scene.time.is_known()), (1_000_007, true));
    }
}
