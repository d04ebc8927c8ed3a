//! Where the backend does not answer: the budget of a call, and what the failure policies say.

use crate::{
    backend::{Ask, Call, How, Place, Taken},
    decision::Decision,
    limiter::{Charge, RateLimiter},
    outage::FailurePolicy,
    quota::Quota,
    telemetry,
};
use coordinator_core::{Error, ErrorKind, Result, clock::until};
use std::time::Duration;

/// A budget shorter than this opens no breaker.
const PATIENCE: Duration = Duration::from_millis(20);

impl RateLimiter {
    /// Waits for the backend as long as every limit can afford. Nobody is asked while nobody has
    /// answered for a while.
    pub(crate) async fn within_budget<T>(
        &self,
        charges: &[Charge<'_>],
        asked: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        const STEP: &str = "ratelimit.check";
        let covered = charges.iter().filter(|charge| charge.quota.failure != FailurePolicy::Report);
        let Some(budget) = covered.map(|charge| charge.quota.budget).min() else {
            return asked.await;
        };
        let (breaker, clock) = (&self.inner.breaker, self.inner.backend.clock());
        let now = clock.now();
        if !breaker.allows(now) {
            let why = "nobody has answered within the budget for a while";
            return Err(Error::new(ErrorKind::Unavailable, STEP).with_source(why));
        }
        let answer = until(&**clock, now + budget, asked).await;
        let answer = answer.unwrap_or_else(|| {
            let why = "no answer came within the budget";
            Err(Error::new(ErrorKind::Indeterminate, STEP).with_source(why))
        });
        match &answer {
            // A budget that nobody could keep says nothing of the others.
            Err(error) if error.is_retryable() => {
                if clock.now().saturating_since(now) >= PATIENCE || budget >= PATIENCE {
                    breaker.failed(clock.now());
                }
            }
            _ => breaker.answered(),
        }
        answer
    }

    /// What the limits' own policies decide.
    pub(crate) async fn fall_back(
        &self,
        charges: &[Charge<'_>],
        how: How,
        error: Error,
    ) -> Result<Vec<Decision>> {
        if !covered(charges, &error) {
            return Err(error);
        }
        tracing::debug!(error = %error.chain(), "limits fall back");
        let mut each = Vec::with_capacity(charges.len());
        for charge in charges {
            let Charge { quota, cost, .. } = *charge;
            let allowed = match quota.failure {
                FailurePolicy::Open => true,
                FailurePolicy::Local { .. } | FailurePolicy::Report => false,
                FailurePolicy::Closed => how == How::Always,
            };
            each.push(Decision::blind(quota, allowed || quota.shadow, cost));
        }
        self.ask_locally(charges, how, &mut each).await?;
        for (charge, decision) in charges.iter().zip(&each) {
            telemetry::decided(decision, charge.quota);
        }
        Ok(each)
    }

    /// Decides what has a local share, all of it or, where another limit denies, none.
    async fn ask_locally(
        &self,
        charges: &[Charge<'_>],
        how: How,
        each: &mut [Decision],
    ) -> Result<()> {
        let local: Vec<_> = (0..charges.len()).filter(|n| share(&charges[*n]).is_some()).collect();
        if local.is_empty() {
            return Ok(());
        }
        let denied = |(n, decision): (usize, &Decision)| !decision.allowed && !local.contains(&n);
        let others_deny = each.iter().enumerate().any(denied);
        let asks = local.iter().map(|n| self.local_ask(&charges[*n], how));
        let asks = asks.collect::<Result<Vec<_>>>()?;
        if others_deny {
            return Ok(());
        }
        let call = Call { asks, once: None, check_epochs: false };
        let Taken::Decided { taken, standings } = self.inner.local().take_all(&call).await? else {
            return Ok(());
        };
        for (n, standing) in local.into_iter().zip(&standings) {
            let quota = charges[n].quota;
            let fits = standing.taken > 0 || !taken && standing.retry_us == Some(0);
            let decision = &mut each[n];
            *decision = decision.clone().with_taken(standing.taken);
            decision.allowed = fits || quota.shadow;
            decision.used = standing.used;
            decision.remaining = local_limit(&charges[n]).saturating_sub(standing.used);
            // What does not fit into the share may fit into the limit.
            let later = (charges[n].cost <= quota.limit()).then_some(quota.budget);
            decision.retry_after = standing.retry_us.map(Duration::from_micros).or(later);
            decision.reset_after = Duration::from_micros(standing.reset_us);
        }
        Ok(())
    }

    fn local_ask(&self, charge: &Charge<'_>, how: How) -> Result<Ask> {
        let mut place: Place = self.place(charge.subject, charge.quota)?;
        // One process, one memory: epochs and shards mean nothing here.
        place.shard = 0;
        let mut terms = charge.quota.terms;
        terms.limit = local_limit(charge);
        Ok(Ask { place, terms, cost: charge.cost, how, near: 0, unasked: None })
    }

    /// Tells the local limits what the backend allowed this process.
    pub(crate) async fn keep_warm(&self, charges: &[Charge<'_>], each: &[Decision]) {
        let mut asks = Vec::new();
        for (charge, decision) in charges.iter().zip(each) {
            if share(charge).is_some() && decision.taken() > 0 {
                let taken = Charge { cost: decision.taken(), ..*charge };
                asks.extend(self.local_ask(&taken, How::Always).ok());
            }
        }
        if !asks.is_empty() {
            let call = Call { asks, once: None, check_epochs: false };
            // It is in this process, and cannot fail.
            let _ = self.inner.local().take_all(&call).await;
        }
    }
}

fn share(charge: &Charge<'_>) -> Option<f64> {
    match charge.quota.failure {
        FailurePolicy::Local { share } => Some(share),
        _ => None,
    }
}

/// The share of the limit that this process may allow by itself.
fn local_limit(charge: &Charge<'_>) -> u64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a limit below 2^44"
    )]
    let limit = (charge.quota.limit() as f64 * share(charge).unwrap_or(1.0)) as u64;
    limit.clamp(charge.quota.limit().min(1), charge.quota.limit())
}

/// Whether the failure policies decide after this error.
fn covered(charges: &[Charge<'_>], error: &Error) -> bool {
    // A shadow refuses nobody, also where nobody can say.
    let silent =
        |charge: &Charge<'_>| charge.quota.failure == FailurePolicy::Report && !charge.quota.shadow;
    // A wrong call is no outage.
    error.kind() != ErrorKind::Misuse && !charges.iter().any(silent)
}

/// Decisions about what takes nothing.
pub(crate) fn blindly(
    charges: &[Charge<'_>],
    allowed: impl Fn(&Quota) -> bool,
    error: Error,
) -> Result<Vec<Decision>> {
    if !covered(charges, &error) {
        return Err(error);
    }
    let blind = |charge: &Charge<'_>| {
        Decision::blind(charge.quota, allowed(charge.quota), charge.cost).with_taken(0)
    };
    Ok(charges.iter().map(blind).collect())
}
