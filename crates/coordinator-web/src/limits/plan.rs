//! What a layer asks about a request, and what it makes of the answers. It speaks no HTTP but the
//! request's head.

use super::{
    asked::Asked,
    fields::{Told, shown},
    key::{Key, Unkeyed},
    layer::Outage,
    limit::{Due, Limit, distinct},
};
use coordinator::{
    Error, ErrorKind, Result,
    clock::{Clock as _, SystemClock, until},
    ratelimit::{Charge, Decisions, Quota, RateLimiter, RuledLimiter, Ruling},
};
use http::{StatusCode, request::Parts};
use std::{fmt, sync::Arc};

type Ask = dyn Fn(&Parts) -> Option<Asked> + Send + Sync;
type RefundOn = dyn Fn(StatusCode) -> bool + Send + Sync;

/// All that a layer was told.
#[derive(Clone)]
pub(super) struct Plan {
    limits: RateLimiter,
    pub(super) tenant: Option<Key>,
    pub(super) each: Vec<(Arc<str>, Limit)>,
    pub(super) rules: Option<(RuledLimiter, Arc<Ask>)>,
    pub(super) refund_on: Option<Arc<RefundOn>>,
    pub(super) outage: Outage,
    pub(super) never_fits: StatusCode,
}

/// What is to be asked about a request.
#[derive(Debug)]
pub(super) struct Asking {
    tenant: Option<String>,
    /// By the limit's place in the plan.
    due: Vec<(usize, Due)>,
    rules: Option<Asked>,
}

/// What was answered about a request.
#[derive(Debug, Default)]
pub(super) struct Answered {
    pub(super) told: Vec<Told>,
    /// How many of them, from the first on, are the rules'.
    ruled: usize,
    /// Nobody could say, and it goes on all the same.
    pub(super) unknown: bool,
}

#[derive(Debug)]
pub(super) enum Verdict {
    Passed(Answered),
    Refused(Answered),
    /// Nobody can say.
    Unknown,
    /// It was asked wrongly, and always will be.
    Broken,
}

impl Plan {
    pub(super) fn new(limits: RateLimiter) -> Self {
        Self {
            limits,
            tenant: None,
            each: Vec::new(),
            rules: None,
            refund_on: None,
            outage: Outage::Refuse,
            never_fits: StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// What there is to ask about a request.
    pub(super) fn asking(&self, parts: &Parts) -> Result<Asking, Unkeyed> {
        let mut due = Vec::with_capacity(self.each.len());
        for (place, (_, limit)) in self.each.iter().enumerate() {
            due.extend(limit.due(parts)?.map(|due| (place, due)));
        }
        let tenant = match &self.tenant {
            Some(tenant) if !due.is_empty() => tenant.find(parts)?,
            _ => None,
        };
        let rules = self.rules.as_ref().and_then(|(_, ask)| ask(parts));
        Ok(Asking { tenant, due, rules: rules.filter(|asked| asked.cost() > 0) })
    }

    /// Asks rules and limits.
    pub(super) async fn ask(&self, asking: Asking) -> Verdict {
        let mut answered = Answered::default();
        if let Some((rules, asked)) = self.rules.as_ref().map(|(rules, _)| rules).zip(asking.rules)
        {
            match rules.check(&asked.request()).await {
                Ok(ruling) => {
                    let allowed = ruling.allowed;
                    answered.told = self.ruled(&ruling);
                    answered.ruled = answered.told.len();
                    if !allowed {
                        return Verdict::Refused(answered);
                    }
                }
                Err(error) => match self.unanswered(&error, false) {
                    Some(verdict) => return verdict,
                    None => answered.unknown = true,
                },
            }
        }
        match self.ask_limits(asking.tenant.as_deref(), &asking.due).await {
            Ok(decisions) => {
                let told = asking.due.iter().zip(decisions.each).map(|((place, _), decision)| {
                    let (name, limit) = &self.each[*place];
                    Told::new(name.clone(), limit.quota(), decision)
                });
                if !decisions.allowed {
                    self.give_back(&mut answered).await;
                    answered.told.extend(told.map(Told::undone));
                    return Verdict::Refused(answered);
                }
                answered.told.extend(told);
            }
            Err(error) => {
                let shadows = asking.due.iter().all(|(n, _)| self.each[*n].1.quota().is_shadow());
                if let Some(verdict) = self.unanswered(&error, shadows) {
                    self.give_back(&mut answered).await;
                    return verdict;
                }
                answered.unknown = true;
            }
        }
        Verdict::Passed(answered)
    }

    async fn ask_limits(&self, tenant: Option<&str>, due: &[(usize, Due)]) -> Result<Decisions> {
        let charges: Vec<_> = due
            .iter()
            .map(|(place, due)| Charge::new(&due.subject, self.quota(*place)).with_cost(due.cost))
            .collect();
        let tenant = tenant.map(|tenant| self.limits.tenant(tenant)).transpose()?;
        match &tenant {
            // One alone is denied from memory where that is known.
            Some(limits) if charges.len() > 1 => limits.check_all(&charges).await,
            Some(limits) => limits.check_split(&charges).await,
            None => self.limits.check_split(&charges).await,
        }
    }

    fn quota(&self, place: usize) -> &Quota {
        self.each[place].1.quota()
    }

    /// What the rules decided. Each has a name that is neither a limit's nor another rule's.
    fn ruled(&self, ruling: &Ruling) -> Vec<Told> {
        let mut told: Vec<Told> = Vec::with_capacity(ruling.each.len());
        for ((scope, decision), quota) in ruling.each.iter().zip(ruling.quotas()) {
            let taken = |name: &str| {
                let (limits, rules) = (self.each.iter().map(|(name, _)| name), told.iter());
                let mut names = limits.chain(rules.map(|told| &told.name));
                names.any(|other| *other == shown(name))
            };
            let name = shown(&distinct(quota.name().unwrap_or(scope.as_str()), taken));
            let one = Told::new(name, quota, decision.clone());
            told.push(if ruling.allowed { one } else { one.undone() });
        }
        told
    }

    /// What becomes of a request about which nobody answered; nothing if it goes on.
    fn unanswered(&self, error: &Error, shadows: bool) -> Option<Verdict> {
        if error.kind() == ErrorKind::Misuse {
            tracing::error!(error = %error.chain(), "limits that cannot work");
            return Some(Verdict::Broken);
        }
        tracing::debug!(error = %error.chain(), "nobody knows whether a request is within limits");
        (self.outage == Outage::Refuse && !shadows).then_some(Verdict::Unknown)
    }

    pub(super) fn refunds(&self, status: StatusCode) -> bool {
        self.refund_on.as_ref().is_some_and(|refund_on| refund_on(status))
    }

    /// Gives back what was taken, as far as that can be done in a moment.
    pub(super) async fn give_back(&self, answered: &mut Answered) {
        let taken = |told: &Told| told.decision.taken() > 0;
        if !answered.told.iter().any(taken) {
            return;
        }
        let deadline = SystemClock.now() + Quota::BUDGET;
        let ruled = answered.ruled;
        let refunds = async {
            for (place, told) in answered.told.iter_mut().enumerate() {
                let limits = match &self.rules {
                    Some((rules, _)) if place < ruled => rules.limits(),
                    _ => &self.limits,
                };
                match limits.refund(&told.decision).await {
                    Ok(units) => told.given_back(units),
                    Err(error) => {
                        tracing::debug!(error = %error.chain(), "a charge was not given back");
                    }
                }
            }
        };
        if until(&SystemClock, deadline, refunds).await.is_none() {
            tracing::debug!("charges were perhaps not given back: no answer came in time");
        }
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("limits", &self.limits)
            .field("tenant", &self.tenant)
            .field("each", &self.each)
            .field("rules", &self.rules.as_ref().map(|(rules, _)| rules))
            .field("refunds", &self.refund_on.is_some())
            .field("outage", &self.outage)
            .field("never_fits", &self.never_fits)
            .finish()
    }
}
