//! The demo's limits: how often each client may ask, and how often each path may be asked for.
//!
//! Whether they were kept is not known here: [`windows`](super::windows) counts again.

use super::{desk::Gone, protocol::Ask, requests::Request, steps::Hands};
use coordinator::{
    Error, Result,
    clock::Instant,
    ratelimit::{Charge, Decisions, Quota, RateLimiter},
};
use std::time::Duration;

/// How long room is waited for before a request is put back.
const WAIT: Duration = Duration::from_secs(1);

/// So many in so long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) count: u64,
    pub(crate) window: Duration,
}

/// High enough that a run takes no longer for it, and low enough that the busiest feel it.
pub(crate) const PER_CLIENT: Limit = Limit { count: 60, window: Duration::from_millis(200) };
pub(crate) const PER_PATH: Limit = Limit { count: 100, window: Duration::from_millis(250) };

/// How much more a greedy worker takes than is allowed.
const GREED: u64 = 20;

/// What a worker asks before it handles a request.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    limiter: RateLimiter,
    client: Quota,
    path: Quota,
}

impl Limits {
    /// The limits as all workers have them; a greedy one has higher ones.
    pub(crate) fn new(limiter: &RateLimiter, greedy: bool) -> Result<Self> {
        let greed = if greedy { GREED } else { 1 };
        let quota = |limit: Limit, name| {
            let quota = Quota::sliding_window(limit.count * greed, limit.window);
            // Who waits for room violates nothing.
            quota.with_name(name).with_violations(false)
        };
        Ok(Self {
            limiter: limiter.tenant("demo")?,
            client: quota(PER_CLIENT, "client"),
            path: quota(PER_PATH, "path"),
        })
    }

    /// Takes from both or from none.
    async fn take(&self, request: &Request) -> Result<Decisions> {
        let charges =
            [Charge::new(&request.client, &self.client), Charge::new(&request.path, &self.path)];
        self.limiter.check_all(&charges).await
    }
}

/// When a request was handed out by the parent's clock, and when it came here by ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handed {
    pub(crate) at_us: u64,
    pub(crate) received: Instant,
}

impl Handed {
    /// The parent's time at a moment here, or a little earlier: it handed the request out before
    /// it was received.
    fn at_least(self, moment: Instant) -> u64 {
        self.at_us.saturating_add(micros(moment.saturating_since(self.received)))
    }
}

/// Whole µs, as many as fit.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What came of asking.
#[derive(Debug)]
pub(crate) enum Admission {
    /// The request may be handled, and the parent knows.
    Granted,
    /// There was no room for a long time.
    Full,
    /// The limits could not be asked.
    Failed(Error),
}

impl Hands {
    /// Asks both limits until there is room in both, and tells the parent when that was.
    pub(crate) async fn admit(
        &self,
        request: &Request,
        handed: Handed,
    ) -> std::result::Result<Admission, Gone> {
        let began = self.clock.now();
        let mut denials = 0;
        loop {
            let asked = self.clock.now();
            let decisions = match self.limits.take(request).await {
                Ok(decisions) => decisions,
                Err(error) => return Ok(Admission::Failed(error)),
            };
            if decisions.allowed {
                let Request { number, client, path } = request.clone();
                let from_us = handed.at_least(asked);
                let admitted = Ask::Admitted { number, client, path, from_us, denials };
                self.desk.ask(admitted).await?;
                return Ok(Admission::Granted);
            }
            denials += 1;
            if self.clock.now().saturating_since(began) >= WAIT {
                return Ok(Admission::Full);
            }
            self.clock.sleep(decisions.retry_after().unwrap_or(WAIT)).await;
        }
    }
}
