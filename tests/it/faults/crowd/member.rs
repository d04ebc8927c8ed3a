//! One of the processes: it asks from 64 tasks at once, and writes down what it was told before it
//! asks again, so that what it knew survives it.

use super::{ALONE, COMPANY, TASKS, TENANT, USER, wall_us};
use crate::{faults::background, stage::config};
use coordinator_core::{Error, ErrorKind, redis::Connection};
use coordinator_ratelimit::{Charge, Decision, RateLimiter, Source};
use std::{
    fs::File,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

pub(super) const URL: &str = "COORDINATOR_CROWD_URL";
pub(super) const PREFIX: &str = "COORDINATOR_CROWD_PREFIX";
pub(super) const ROLL: &str = "COORDINATOR_CROWD_ROLL";
pub(super) const NUMBER: &str = "COORDINATOR_CROWD_NUMBER";

/// Whoever was denied comes back when it is told to, or after this.
const BACK: Duration = Duration::from_millis(20);
/// Whoever got no answer comes back after this.
const AGAIN: Duration = Duration::from_millis(5);

/// The name of the test that is such a process.
pub(super) fn test_name() -> String {
    let (_, module) = module_path!().split_once("::").expect("a module of the test binary");
    format!("{module}::one_of_the_crowd")
}

struct Member {
    limits: RateLimiter,
    tenant: RateLimiter,
    number: String,
    roll: File,
    denied: AtomicU64,
    unavailable: AtomicU64,
    indeterminate: AtomicU64,
    stop: AtomicBool,
}

impl Member {
    /// One write per line: whoever is killed leaves whole lines.
    fn note(&self, line: &str) {
        (&self.roll).write_all(format!("{line}\n").as_bytes()).expect("the roll can be written");
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn denial(&self, decision: &Decision) -> Duration {
        assert!(!decision.never_fits());
        if decision.source == Source::Redis {
            self.denied.fetch_add(1, Ordering::Relaxed);
        }
        decision.retry_after.unwrap_or(BACK).min(BACK)
    }

    /// Whether the call may have been applied.
    fn failure(&self, error: &Error) -> bool {
        let count = match error.kind() {
            ErrorKind::Unavailable => &self.unavailable,
            ErrorKind::Indeterminate => &self.indeterminate,
            _ => panic!("{}", error.chain()),
        };
        count.fetch_add(1, Ordering::Relaxed);
        error.kind() == ErrorKind::Indeterminate
    }

    async fn ask_alone(self: Arc<Self>, task: usize) {
        let quota = ALONE.quota();
        for turn in task.. {
            if self.stopped() {
                return;
            }
            let cost = turn as u64 % super::DEAREST + 1;
            let asked = wall_us();
            let pause = match self.limits.check_cost(ALONE.subject, &quota, cost).await {
                Ok(decision) if decision.allowed => {
                    assert_eq!((decision.source, decision.taken()), (Source::Redis, cost));
                    self.note(&format!("alone {cost} {asked} {}", wall_us()));
                    continue;
                }
                Ok(decision) => self.denial(&decision),
                Err(error) => {
                    if self.failure(&error) {
                        self.note("alone?");
                    }
                    AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn ask_both(self: Arc<Self>, task: usize) {
        let (user, company) = (USER.quota(), COMPANY.quota());
        for turn in task.. {
            let cost = turn as u64 % super::DEAREST + 1;
            let charges = [
                Charge::new(USER.subject, &user).with_cost(cost),
                Charge::new(COMPANY.subject, &company).with_cost(cost),
            ];
            let id = format!("{}-{task}-{turn}", self.number);
            let once = self.tenant.once(&id).expect("an id");
            let (asked, mut unsure) = (wall_us(), false);
            let pause = loop {
                if self.stopped() {
                    break None;
                }
                match once.check_all(&charges).await {
                    Ok(decisions) if decisions.allowed => {
                        let taken = |one: &Decision| (one.source, one.taken());
                        assert!(decisions.each.iter().all(|d| taken(d) == (Source::Redis, cost)));
                        self.note(&format!("both {cost} {asked} {}", wall_us()));
                        unsure = false;
                        break Some(Duration::ZERO);
                    }
                    Ok(decisions) => {
                        let (_, first) = decisions.denied().next().expect("a reason");
                        break Some(self.denial(first));
                    }
                    Err(error) => unsure |= self.failure(&error),
                }
                tokio::time::sleep(AGAIN).await;
            };
            // An earlier attempt may have been slower than the last one.
            if unsure {
                self.note("both?");
            }
            let Some(pause) = pause else {
                return;
            };
            tokio::time::sleep(pause).await;
        }
    }
}

/// Not a test by itself: the tests above start it, four times over.
#[tokio::test]
async fn one_of_the_crowd() {
    let Ok(url) = std::env::var(URL) else {
        return;
    };
    let var = |name| std::env::var(name).expect("it is set with the others");
    let config = config(&url).with_prefix(&var(PREFIX)).expect("a prefix");
    let connection = Connection::connect(config).await.expect("a connection");
    let mut limits = RateLimiter::redis(&connection);
    let number = var(NUMBER);
    // Half of the processes remember denials.
    if number.ends_with(['0', '2']) {
        limits = limits.without_fast_deny();
    }
    let member = Arc::new(Member {
        tenant: limits.tenant(TENANT).expect("a name"),
        limits,
        number,
        roll: File::options().create(true).append(true).open(var(ROLL)).expect("a roll"),
        denied: AtomicU64::default(),
        unavailable: AtomicU64::default(),
        indeterminate: AtomicU64::default(),
        stop: AtomicBool::default(),
    });
    let mut orders = BufReader::new(tokio::io::stdin());
    member.note("ready");
    orders.read_line(&mut String::new()).await.expect("an order");
    let mut tasks = Vec::new();
    for task in 0..TASKS / 2 {
        tasks.push(background(member.clone().ask_alone(task)));
        tasks.push(background(member.clone().ask_both(task)));
    }
    // Its end is the end, and so is the other side's.
    orders.read_to_end(&mut Vec::new()).await.expect("an end");
    member.stop.store(true, Ordering::Release);
    for task in tasks {
        task.await.expect("no panic");
    }
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let counts = (&member.denied, &member.unavailable, &member.indeterminate);
    let (denied, unavailable, indeterminate) = (count(counts.0), count(counts.1), count(counts.2));
    member.note(&format!("end {denied} {unavailable} {indeterminate}"));
}
