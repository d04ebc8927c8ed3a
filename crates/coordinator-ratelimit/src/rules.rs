//! Rules: which quotas a request must pass, by user, company and endpoint; replaced while running.

mod operator;

use crate::{
    decision::{Decision, Decisions},
    limiter::{Charge, RateLimiter},
    quota::Quota,
};
use coordinator_core::{Error, Result, key::Name};
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

/// Whom a rule counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// One user, by operation.
    User,
    /// One company, by operation.
    Company,
    /// One endpoint, of one company.
    Endpoint,
    /// One endpoint, of everybody.
    Everybody,
}

impl Scope {
    /// `user`, `company`, `endpoint` or `everybody`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Company => "company",
            Self::Endpoint => "endpoint",
            Self::Everybody => "everybody",
        }
    }
}

/// Quotas by scope, each for an operation or an endpoint, and one of each scope for the others.
///
/// ```
/// use coordinator_ratelimit::{Quota, RateLimiter, Request, Rules};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let minute = Duration::from_secs(60);
/// let rules = Rules::new()
///     .user_default(Quota::sliding_window(60, minute))
///     .user("search", Quota::sliding_window(10, minute))
///     .company("search", Quota::sliding_window(100, minute))
///     .endpoint("/v1/search", Quota::sliding_window(1000, minute));
/// let limits = RateLimiter::embedded().with_rules(rules)?;
///
/// let request =
///     Request::new("search").with_user("42").with_company("acme").with_endpoint("/v1/search");
/// assert!(limits.check(&request).await?.allowed);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Rules {
    user: Quotas,
    company: Quotas,
    endpoint: Quotas,
    everybody: Quotas,
    split: bool,
}

#[derive(Debug, Clone, Default)]
struct Quotas {
    named: HashMap<String, Quota>,
    default: Option<Quota>,
}

impl Quotas {
    fn of(&self, name: &str) -> Option<&Quota> {
        self.named.get(name).or(self.default.as_ref())
    }

    fn all(&self) -> impl Iterator<Item = &Quota> {
        self.named.values().chain(&self.default)
    }
}

impl Rules {
    /// No rules: everything is allowed.
    pub fn new() -> Self {
        Self::default()
    }

    /// What each user may do of an operation.
    pub fn user(mut self, operation: &str, quota: Quota) -> Self {
        self.user.named.insert(operation.to_owned(), quota);
        self
    }

    /// What each user may do of each operation without a rule of its own.
    pub fn user_default(mut self, quota: Quota) -> Self {
        self.user.default = Some(quota);
        self
    }

    /// What each company may do of an operation.
    pub fn company(mut self, operation: &str, quota: Quota) -> Self {
        self.company.named.insert(operation.to_owned(), quota);
        self
    }

    /// What each company may do of each operation without a rule of its own.
    pub fn company_default(mut self, quota: Quota) -> Self {
        self.company.default = Some(quota);
        self
    }

    /// What each company may ask of an endpoint.
    pub fn endpoint(mut self, endpoint: &str, quota: Quota) -> Self {
        self.endpoint.named.insert(endpoint.to_owned(), quota);
        self
    }

    /// What each company may ask of each endpoint without a rule of its own.
    pub fn endpoint_default(mut self, quota: Quota) -> Self {
        self.endpoint.default = Some(quota);
        self
    }

    /// What all companies together may ask of an endpoint. Such a rule shares no place with the
    /// others and needs [`split`](Self::split).
    pub fn everybody(mut self, endpoint: &str, quota: Quota) -> Self {
        self.everybody.named.insert(endpoint.to_owned(), quota);
        self
    }

    /// Allows rules for everybody, which are asked after the others, in a second round trip; what
    /// the others took is given back where such a rule denies.
    pub fn split(mut self) -> Self {
        self.split = true;
        self
    }

    /// Whether they can be kept.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) for a quota that cannot be used, for slots,
    /// and for rules that a cluster could not check at once, without [`split`](Self::split).
    pub fn validate(&self) -> Result<()> {
        const STEP: &str = "ratelimit.rules";
        let scopes = [&self.user, &self.company, &self.endpoint, &self.everybody];
        for quota in scopes.into_iter().flat_map(Quotas::all) {
            quota.validate()?;
            if quota.is_concurrency() {
                return Err(Error::misuse(STEP, "slots are taken with `enter`, not by rules"));
            }
        }
        if !self.split && self.everybody.all().next().is_some() {
            let why = "a rule for everybody shares no place with the others: add `split`";
            return Err(Error::misuse(STEP, why));
        }
        Ok(())
    }
}

/// What rules are asked about.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    operation: &'a str,
    user: Option<&'a str>,
    company: Option<&'a str>,
    endpoint: Option<&'a str>,
    cost: u64,
    id: Option<&'a str>,
}

impl<'a> Request<'a> {
    /// A request for an operation, of nobody known, with a cost of 1.
    pub fn new(operation: &'a str) -> Self {
        Self { operation, user: None, company: None, endpoint: None, cost: 1, id: None }
    }

    /// Whose it is. Users of different companies are different users.
    pub fn with_user(mut self, user: &'a str) -> Self {
        self.user = Some(user);
        self
    }

    /// Whose user's it is.
    pub fn with_company(mut self, company: &'a str) -> Self {
        self.company = Some(company);
        self
    }

    /// What is asked.
    pub fn with_endpoint(mut self, endpoint: &'a str) -> Self {
        self.endpoint = Some(endpoint);
        self
    }

    /// What it costs each limit; default 1.
    pub fn with_cost(mut self, cost: u64) -> Self {
        self.cost = cost;
        self
    }

    /// An id, with which it counts once however often it is sent
    /// ([`RateLimiter::once`]).
    pub fn with_id(mut self, id: &'a str) -> Self {
        self.id = Some(id);
        self
    }
}

/// What the rules decided of a request.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Ruling {
    /// Whether it may go on.
    pub allowed: bool,
    /// Each rule that it was asked against; without one, it is allowed.
    pub each: Vec<(Scope, Decision)>,
    quotas: Vec<Quota>,
}

impl Ruling {
    /// The quota of each rule, in the order of [`each`](Self::each).
    pub fn quotas(&self) -> &[Quota] {
        &self.quotas
    }

    /// As [`Decisions::retry_after`].
    pub fn retry_after(&self) -> Option<Duration> {
        self.decisions().retry_after()
    }

    /// The rules that denied it.
    pub fn denied(&self) -> impl Iterator<Item = (Scope, &Decision)> {
        let denied = self.each.iter().filter(|(_, decision)| !decision.allowed);
        denied.map(|(scope, decision)| (*scope, decision))
    }

    /// The decisions alone.
    pub fn decisions(&self) -> Decisions {
        Decisions::of(self.each.iter().map(|(_, decision)| decision.clone()).collect())
    }
}

/// Limits by rules; clones share them. From [`RateLimiter::with_rules`].
#[derive(Debug, Clone)]
pub struct RuledLimiter {
    limits: RateLimiter,
    rules: Arc<RwLock<Arc<Rules>>>,
}

impl RateLimiter {
    /// Limits by rules.
    ///
    /// # Errors
    /// As [`Rules::validate`].
    pub fn with_rules(&self, rules: Rules) -> Result<RuledLimiter> {
        rules.validate()?;
        let rules = Arc::new(RwLock::new(Arc::new(rules)));
        Ok(RuledLimiter { limits: self.clone(), rules })
    }
}

impl RuledLimiter {
    /// The limiter that the rules ask, to give back what was taken.
    pub fn limits(&self) -> &RateLimiter {
        &self.limits
    }

    /// The rules now.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the rules, for requests from now on. What was consumed stays consumed where the
    /// window stays the same. Other instances have rules of their own.
    ///
    /// # Errors
    /// As [`Rules::validate`]; then the old ones stay.
    pub fn replace(&self, rules: Rules) -> Result<()> {
        rules.validate()?;
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        Ok(())
    }

    /// Takes from every limit that has a rule for the request, or from none; in one round trip, but
    /// for rules for everybody.
    ///
    /// All limits of a company are in one place. A request without a company has its user as
    /// tenant, and one without a user its endpoint.
    ///
    /// # Errors
    /// As [`RateLimiter::check_all`].
    ///
    /// # Cancel safety
    /// As [`RateLimiter::check`]; with rules for everybody what was taken may stay taken.
    pub async fn check(&self, request: &Request<'_>) -> Result<Ruling> {
        let rules = self.rules();
        let (own, tenant) = own(&rules, request)?;
        let mut each = Vec::with_capacity(own.len() + 1);
        let mut quotas: Vec<_> = own.iter().map(|(.., quota)| (*quota).clone()).collect();
        if let Some(tenant) = tenant.filter(|_| !own.is_empty()) {
            let limits = self.limits.tenant(&tenant)?;
            let charges: Vec<_> = own
                .iter()
                .map(|(_, subject, quota)| Charge::new(subject, quota).with_cost(request.cost))
                .collect();
            let decided = limits.check_all_once(&charges, request.id).await?;
            each.extend(own.iter().map(|(scope, ..)| *scope).zip(decided.each));
        }
        if let Some((subject, quota)) = everybody(&rules, request)? {
            let decision = self.ask_everybody(&subject, quota, request, &each).await?;
            each.push((Scope::Everybody, decision));
            quotas.push(quota.clone());
        }
        Ok(Ruling { allowed: each.iter().all(|(_, decision)| decision.allowed), each, quotas })
    }

    /// Asks a limit of everybody's after the others, and gives back what they took if it denies.
    async fn ask_everybody(
        &self,
        subject: &str,
        quota: &Quota,
        request: &Request<'_>,
        each: &[(Scope, Decision)],
    ) -> Result<Decision> {
        if each.iter().any(|(_, decision)| !decision.allowed) {
            let charge = Charge::new(subject, quota).with_cost(request.cost);
            return self.limits.look_on(charge).await;
        }
        let decided = match request.id {
            Some(id) => self.limits.once(id)?.check_cost(subject, quota, request.cost).await,
            None => self.limits.check_cost(subject, quota, request.cost).await,
        };
        if decided.as_ref().map_or(true, |decision| !decision.allowed) {
            // Collected: over an await a closure would keep the future from being `Send`.
            let taken: Vec<_> = each.iter().map(|(_, decision)| decision).collect();
            self.limits.give_all_back(taken).await;
        }
        decided
    }
}

type Own<'a> = Vec<(Scope, String, &'a Quota)>;

/// The limits of a request that are in one place, and whose place that is.
fn own<'a>(rules: &'a Rules, request: &Request<'_>) -> Result<(Own<'a>, Option<String>)> {
    let name = |kind, parts: &[&str]| Ok(Name::composed(kind, parts)?.as_str().to_owned());
    let mut own = Vec::with_capacity(3);
    let operation = request.operation;
    if let (Some(user), Some(quota)) = (request.user, rules.user.of(operation)) {
        own.push((Scope::User, name("user", &[operation, user])?, quota));
    }
    if let (Some(company), Some(quota)) = (request.company, rules.company.of(operation)) {
        own.push((Scope::Company, name("company", &[operation, company])?, quota));
    }
    let endpoint = request.endpoint.and_then(|asked| Some((asked, rules.endpoint.of(asked)?)));
    if let Some((asked, quota)) = endpoint {
        own.push((Scope::Endpoint, name("endpoint", &[asked])?, quota));
    }
    let tenant = match (request.company, request.user, request.endpoint) {
        (Some(company), ..) => Some(name("company", &[company])?),
        (None, Some(user), _) => Some(name("user", &[user])?),
        (None, None, Some(endpoint)) => Some(name("endpoint", &[endpoint])?),
        (None, None, None) => None,
    };
    Ok((own, tenant))
}

fn everybody<'a>(rules: &'a Rules, request: &Request<'_>) -> Result<Option<(String, &'a Quota)>> {
    let Some(endpoint) = request.endpoint else { return Ok(None) };
    let Some(quota) = rules.everybody.of(endpoint) else { return Ok(None) };
    Ok(Some((Name::composed("everybody", &[endpoint])?.as_str().to_owned(), quota)))
}
