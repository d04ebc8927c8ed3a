//! Fast deny: denials that still hold are repeated without asking anybody.

use crate::{
    backend::{Kind, Terms},
    decision::Decision,
};
use coordinator_core::{clock::Instant, key::Name};
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How many denials are remembered.
const ROOM: usize = 10_000;
/// For how long one may be believed: a reset elsewhere is seen after that.
const MAX_AGE: Duration = Duration::from_millis(500);
/// How often those that hold no longer are looked for, at most: all of them are gone through.
const SWEEP: Duration = Duration::from_millis(100);

/// The denials that this process knows of.
#[derive(Debug, Default)]
pub(crate) struct FastDeny {
    hasher: RandomState,
    known: Mutex<HashMap<u64, Denial>>,
    /// When they were last swept; only taken while `known` is.
    swept: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Denial {
    tenant: Option<Name>,
    policy: Arc<str>,
    subject: Box<str>,
    terms: Terms,
    cost: u64,
    /// Until when it surely holds.
    until: Instant,
    /// When it was answered, and when it fits then.
    answered: Instant,
    retry: Duration,
    decision: Decision,
    /// How often it was repeated.
    repeated: u64,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) tenant: Option<&'a Name>,
    pub(crate) policy: &'a Arc<str>,
    pub(crate) subject: &'a str,
}

impl FastDeny {
    fn hash(&self, question: Question<'_>) -> u64 {
        let tenant = question.tenant.map_or("", Name::encoded);
        self.hasher.hash_one((tenant, &**question.policy, question.subject))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Denial>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The denial of a call that would surely be denied again.
    ///
    /// A denial holds for costs as high and limits as low: what is used does not fall before its
    /// `retry_after`, but for a reset or a refund.
    pub(crate) fn deny(
        &self,
        question: Question<'_>,
        terms: &Terms,
        cost: u64,
        now: Instant,
    ) -> Option<Decision> {
        let hash = self.hash(question);
        let mut known = self.known();
        let denial = known.get_mut(&hash).filter(|denial| denial.is_of(question))?;
        let same = terms.kind == denial.terms.kind && terms.step == denial.terms.step
            || terms.kind == Kind::Log;
        if now >= denial.until || cost < denial.cost || terms.limit > denial.terms.limit || !same {
            return None;
        }
        denial.repeated += 1;
        let passed = now.saturating_since(denial.answered);
        let mut decision = denial.decision.clone();
        decision.limit = terms.limit;
        decision.remaining = terms.limit.saturating_sub(decision.used);
        // More than was asked for then may take longer than it: no sooner, at least.
        let retry = (cost <= terms.limit).then(|| denial.retry.saturating_sub(passed));
        Some(decision.repeated(retry, passed))
    }

    /// How many calls were denied since the backend was last asked; they are counted there.
    pub(crate) fn unasked(&self, question: Question<'_>) -> u64 {
        let hash = self.hash(question);
        let mut known = self.known();
        let denial = known.get_mut(&hash).filter(|denial| denial.is_of(question));
        denial.map_or(0, |denial| std::mem::take(&mut denial.repeated))
    }

    /// Counts denials again that could not be told.
    pub(crate) fn put_back(&self, question: Question<'_>, unasked: u64) {
        let hash = self.hash(question);
        let mut known = self.known();
        let denial = known.get_mut(&hash).filter(|denial| denial.is_of(question));
        if let Some(denial) = denial {
            denial.repeated += unasked;
        }
    }

    /// Remembers a denial that was asked for and answered then.
    pub(crate) fn remember(
        &self,
        question: Question<'_>,
        (terms, cost): (&Terms, u64),
        decision: &Decision,
        (asked, answered): (Instant, Instant),
    ) {
        let Some(retry) = decision.retry_after.filter(|_| !decision.allowed) else { return };
        // The backend's clock may run a little faster than ours.
        let surely = retry - retry / 100;
        let denial = Denial {
            tenant: question.tenant.cloned(),
            policy: question.policy.clone(),
            subject: question.subject.into(),
            terms: *terms,
            cost,
            until: asked + surely.min(MAX_AGE),
            answered,
            retry,
            decision: decision.clone(),
            repeated: 0,
        };
        let hash = self.hash(question);
        let mut known = self.known();
        if known.len() >= ROOM && !known.contains_key(&hash) {
            let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
            if swept.is_none_or(|swept| asked >= swept + SWEEP) {
                *swept = Some(asked);
                known.retain(|_, denial| denial.until > asked);
            }
            if known.len() >= ROOM {
                // No room, as far as is known: one more is asked for instead.
                return;
            }
        }
        known.insert(hash, denial);
    }

    /// Forgets what is known of a subject.
    pub(crate) fn forget(&self, question: Question<'_>) {
        let hash = self.hash(question);
        self.known().remove(&hash);
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.known().clear();
    }
}

impl Denial {
    fn is_of(&self, question: Question<'_>) -> bool {
        *self.subject == *question.subject
            && *self.policy == **question.policy
            && self.tenant.as_ref() == question.tenant
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backend::Standing, decision::Source, quota::Quota};

    #[test]
    fn a_full_memory_is_swept_ten_times_a_second_at_most() {
        let ms = Duration::from_millis;
        let quota = Quota::sliding_window(1, Duration::from_secs(1));
        let standing =
            Standing { taken: 0, used: 1, retry_us: Some(50_000), reset_us: 0, receipt: [0; 3] };
        let denial = Decision::of(&quota, &standing, false, Source::Redis);
        let fast = FastDeny::default();
        let start = Instant::from_start(ms(1000));
        let remember = |n: usize, asked| {
            let subject = format!("subject-{n}");
            let question = Question { tenant: None, policy: &quota.policy, subject: &subject };
            fast.remember(question, (&quota.terms, 1), &denial, (asked, asked));
            fast.known().len()
        };
        for n in 0..ROOM {
            remember(n, start);
        }
        assert_eq!(remember(ROOM, start), ROOM, "all of them hold");
        // None of them holds, which nobody looks at yet.
        assert_eq!(remember(ROOM, start + ms(99)), ROOM);
        assert_eq!(remember(ROOM, start + SWEEP), 1);
    }
}
