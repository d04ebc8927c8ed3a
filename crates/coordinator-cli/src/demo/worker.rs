//! A worker: one instance of the service, with several requests in hand at a time.

use super::{
    desk::Gone,
    limits::{Admission, Handed},
    protocol::{Answer, Ask},
    requests::Request,
    steps::{Handled, Hands},
    tasks::Tasks,
};
use crate::failure::Failure;
use coordinator::{
    Error, ErrorKind,
    clock::{Clock, Instant},
};
use rand::RngExt as _;
use std::time::Duration;

/// How many requests a worker has in hand: one that waits for a lock does not keep it from others.
const SLOTS: usize = 8;
/// How long a server may be away.
const OUTAGE: Duration = Duration::from_secs(30);
/// How long a server may refuse: it may be changing its role.
const REFUSAL: Duration = Duration::from_secs(5);

/// Trouble with the server: when it began, and how long to pause next.
#[derive(Debug)]
pub(crate) struct Trouble {
    since: Option<Instant>,
    pause: Duration,
}

impl Trouble {
    const SHORTEST: Duration = Duration::from_millis(50);

    pub(crate) fn none() -> Self {
        Self { since: None, pause: Self::SHORTEST }
    }

    /// Pauses before the next try, longer each time.
    ///
    /// # Errors
    /// When it has lasted for too long, or trying again will not help.
    pub(crate) async fn bear(&mut self, clock: &dyn Clock, error: Error) -> Result<(), Failure> {
        let now = clock.now();
        let since = *self.since.get_or_insert(now);
        let limit = match error.kind() {
            ErrorKind::Unavailable | ErrorKind::Indeterminate => OUTAGE,
            ErrorKind::Rejected => REFUSAL,
            _ => Duration::ZERO,
        };
        if now.saturating_since(since) >= limit {
            return Err(Failure::from(error));
        }
        tracing::info!(error = %error.chain(), "trying again");
        let jitter = self.pause.mul_f64(rand::rng().random_range(0.0..0.5));
        clock.sleep(self.pause + jitter).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(1));
        Ok(())
    }
}

/// Handles requests until there are none.
///
/// # Errors
/// If the parent has gone.
///
/// # Cancel safety
/// Dropping it drops what is in hand; the locks are given up in the background.
pub(crate) async fn run(hands: Hands) -> Result<(), Gone> {
    let mut slots = Tasks::new();
    for _ in 0..SLOTS {
        slots.start(slot(hands.clone()));
    }
    while let Some(ended) = slots.next().await {
        // A panic loses its request; leaving hands it to others.
        ended.unwrap_or(Err(Gone))?;
    }
    Ok(())
}

async fn slot(hands: Hands) -> Result<(), Gone> {
    while let Answer::Handle { request, at_us } = hands.desk.ask(Ask::Next).await? {
        let handed = Handed { at_us, received: hands.clock.now() };
        if let Err(failure) = see_to(&hands, &request, handed).await? {
            let Failure { exit, message } = failure;
            hands.desk.ask(Ask::GiveUp { exit, message }).await?;
            return Ok(());
        }
    }
    Ok(())
}

/// Handles a request, or puts it back.
async fn see_to(
    hands: &Hands,
    request: &Request,
    handed: Handed,
) -> Result<Result<(), Failure>, Gone> {
    let number = request.number;
    let mut trouble = Trouble::none();
    loop {
        match hands.admit(request, handed).await? {
            Admission::Granted => break,
            Admission::Full => {
                hands.desk.ask(Ask::PutBack { number }).await?;
                return Ok(Ok(()));
            }
            Admission::Failed(error) => {
                if let Err(failure) = trouble.bear(&*hands.clock, error).await {
                    return Ok(Err(failure));
                }
            }
        }
    }
    trouble = Trouble::none();
    loop {
        match hands.handle(request).await? {
            Handled::Done => return Ok(Ok(())),
            Handled::Busy => {
                hands.desk.ask(Ask::PutBack { number }).await?;
                return Ok(Ok(()));
            }
            // Once more from the beginning, with a lock and a fence of its own.
            Handled::Lost(reason) => {
                tracing::info!(request = number, %reason, "the lock was lost");
                trouble = Trouble::none();
            }
            Handled::Stale => {
                tracing::info!(request = number, "the ledger has seen a newer holder");
                trouble = Trouble::none();
            }
            Handled::Failed(error) => {
                if let Err(failure) = trouble.bear(&*hands.clock, error).await {
                    return Ok(Err(failure));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coordinator::clock::ManualClock;

    /// For how long errors of this kind are borne.
    async fn borne(kind: ErrorKind) -> (Duration, Failure) {
        let clock = ManualClock::new();
        let mut trouble = Trouble::none();
        loop {
            let bearing = trouble.bear(&clock, Error::new(kind, "locks.acquire"));
            let time_flies = async {
                loop {
                    tokio::task::yield_now().await;
                    clock.advance(Duration::from_millis(100));
                }
            };
            let outcome = tokio::select! {
                biased;
                outcome = bearing => outcome,
                () = time_flies => unreachable!("time flies for ever"),
            };
            if let Err(failure) = outcome {
                return (clock.now().since_start(), failure);
            }
        }
    }

    #[tokio::test]
    async fn an_outage_is_borne_for_half_a_minute() {
        for kind in [ErrorKind::Unavailable, ErrorKind::Indeterminate] {
            let (time, failure) = borne(kind).await;
            assert!(time >= OUTAGE && time < OUTAGE + Duration::from_secs(5));
            assert_eq!(failure.exit, 3);
        }
    }

    #[tokio::test]
    async fn a_refusal_is_borne_for_a_moment_and_a_wrong_call_never() {
        let (time, failure) = borne(ErrorKind::Rejected).await;
        assert!(time >= REFUSAL && time < REFUSAL + Duration::from_secs(5));
        assert_eq!(failure.exit, 3);
        let (time, failure) = borne(ErrorKind::Misuse).await;
        assert_eq!((time, failure.exit), (Duration::ZERO, 2));
    }
}
