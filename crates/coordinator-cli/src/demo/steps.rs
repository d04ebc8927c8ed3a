//! The steps of handling one request. Parts that come later add theirs to [`Hands::settle`].

use super::{
    desk::{Desk, Gone},
    herald::Herald,
    keeping::{Keeping, Kept},
    ledger::{Stamp, Write},
    limits::{Limits, micros},
    profiles::Profiles,
    protocol::{Answer, Ask},
    requests::Request,
};
use coordinator::{
    Error,
    clock::Clock,
    locks::{Lease, Locks, LossReason, Outcome},
};
use rand::RngExt as _;
use std::{sync::Arc, time::Duration};

/// A dead worker blocks its clients for this long.
const TTL: Duration = Duration::from_secs(2);
/// How long a lock is waited for before its request is put back.
const WAIT: Duration = Duration::from_millis(250);

/// How a worker goes about its work.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fault that a check is to find")]
pub(crate) struct Manners {
    /// How long the work takes, on average, that is done under the lock.
    pub(crate) work: Duration,
    /// Whether it goes on without noticing that it lost the lock: then the fence alone keeps its
    /// late writes out.
    pub(crate) careless: bool,
    /// Whether it takes far more of the limits than is allowed.
    pub(crate) greedy: bool,
    /// Whether it counts without looking whether others did meanwhile.
    pub(crate) hasty: bool,
    /// Whether it says of some events that they are published, and does not publish them.
    pub(crate) forgetful: bool,
    /// Which run of the demo it is: what is kept is of that alone.
    pub(crate) run: u64,
}

/// What handling a request came to.
#[derive(Debug)]
pub(crate) enum Handled {
    /// It is written, now or before.
    Done,
    /// Others held the lock all the while, or were faster.
    Busy,
    /// The lock was lost on the way; nothing more was done.
    Lost(LossReason),
    /// The ledger had seen a newer holder.
    Stale,
    /// The lock, the session, the document, the profile or the event could not be asked for.
    Failed(Error),
}

/// What is needed to handle requests.
#[derive(Debug, Clone)]
pub(crate) struct Hands {
    pub(crate) desk: Desk,
    pub(crate) locks: Locks,
    pub(crate) limits: Limits,
    pub(crate) keeping: Keeping,
    pub(crate) herald: Herald,
    pub(crate) profiles: Profiles,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) manners: Manners,
}

impl Hands {
    /// Handles a request under the lock of its client.
    pub(crate) async fn handle(&self, request: &Request) -> Result<Handled, Gone> {
        let lock = self
            .locks
            .named(&format!("demo:client:{}", request.client))
            .with_task(&format!("request {}", request.number))
            .with_ttl(TTL)
            .with_wait(WAIT);
        let asked = self.clock.now();
        let guard = match lock.acquire().await {
            Ok(Outcome::Acquired(guard)) => guard,
            Ok(_) => return Ok(Handled::Busy),
            Err(error) => return Ok(Handled::Failed(error)),
        };
        let waited = self.clock.now().saturating_since(asked);
        let work = self.settle(request, guard.lease(), waited);
        let settled = if self.manners.careless { Ok(work.await) } else { guard.run(work).await };
        if let Err(error) = guard.release().await {
            tracing::debug!(error = %error.chain(), "a release is left to the background");
        }
        settled.unwrap_or_else(|reason| Ok(Handled::Lost(reason)))
    }

    /// What is done under the lock: one more request on the client's account, in its session and
    /// in the document of the path, and the event that tells of it.
    async fn settle(
        &self,
        request: &Request,
        lease: &Lease,
        waited: Duration,
    ) -> Result<Handled, Gone> {
        let stamp = Stamp { fence: lease.fence().get(), owner: lease.id().to_owned() };
        let read = Ask::Read {
            client: request.client.clone(),
            path: request.path.clone(),
            stamp: stamp.clone(),
            waited_us: micros(waited),
        };
        let Answer::Account { value, cookie } = self.desk.ask(read).await? else {
            return Ok(Handled::Stale);
        };
        // It is handled only when its event is acknowledged, which takes no time of its own.
        let (kept, event, profile) = tokio::join!(
            self.keeping.visit(request, cookie),
            self.herald.tell(request),
            self.profiles.look_up(request),
        );
        let event = match profile.and(event) {
            Ok(event) => event,
            Err(error) => return Ok(Handled::Failed(error)),
        };
        let cookie = match kept {
            Ok(Kept::Done(cookie)) => cookie,
            Ok(Kept::Contended) => return Ok(Handled::Busy),
            Err(error) => return Ok(Handled::Failed(error)),
        };
        if self.manners.work.is_zero() {
            // At least everybody else may have a go at the same account.
            tokio::task::yield_now().await;
        } else {
            // No two pieces of work are alike, or all workers would march in step.
            let work = self.manners.work.mul_f64(rand::rng().random_range(0.5..1.5));
            self.clock.sleep(work).await;
        }
        let write = Write {
            client: request.client.clone(),
            number: request.number,
            value: value + 1,
            stamp,
        };
        let (path, reads) = (request.path.clone(), self.profiles.reads());
        let write = Ask::Write { write, path, cookie, event, reads };
        Ok(match self.desk.ask(write).await? {
            Answer::Accepted | Answer::AlreadyDone => Handled::Done,
            _ => Handled::Stale,
        })
    }
}
