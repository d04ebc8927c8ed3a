//! Violations: who was denied, and who is near; read, listened to, or claimed by one of several.

use crate::{
    backend::{Alerts, Backend, Event, From, Record, SHARDS},
    limiter::RateLimiter,
};
use coordinator_core::{Error, Result, key::Name};
use futures::stream::{FuturesUnordered, StreamExt as _};
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// How many records are read at once.
const PAGE: usize = 1000;
/// How often a subscription looks without having heard anything.
const LOOK: Duration = Duration::from_secs(5);
/// For how long it is remembered who was given a record.
const CLAIMED: Duration = Duration::from_hours(24 * 7);

/// What happened at a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ViolationKind {
    /// A call was denied.
    Denied,
    /// A call would have been denied, were the quota no shadow.
    Shadow,
    /// The threshold of [`Quota::with_near_limit`](crate::Quota::with_near_limit) was reached.
    Near,
}

impl ViolationKind {
    /// `denied`, `shadow` or `near`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Shadow => "shadow",
            Self::Near => "near",
        }
    }
}

/// A record of a violation. A subject that is denied again and again is recorded with its first
/// denial within a window that begins with it, and when their number reaches a power of two.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// What happened.
    pub kind: ViolationKind,
    /// When, as time since the Unix epoch on the backend's clock.
    pub at: Duration,
    /// Whose subject it is.
    pub tenant: Option<String>,
    /// Who it was.
    pub subject: String,
    /// The quota's name, if it has one.
    pub policy: Option<String>,
    /// How many denials there were since the first.
    pub count: u64,
    /// The limit.
    pub limit: u64,
    /// What was used of it.
    pub used: u64,
    /// What the call would have cost.
    pub cost: u64,
    /// The window.
    pub window: Duration,
    first: bool,
    /// Where it is in its shard's stream.
    id: (u16, u64, u64),
}

impl Violation {
    /// Whether it is the first of its window: the one to alert somebody with.
    pub fn is_first(&self) -> bool {
        self.first
    }

    fn read(shard: u16, record: &Record) -> Result<Self> {
        let named = Named::read(&record.name)?;
        Ok(Self {
            kind: match record.event {
                Event::Denied => ViolationKind::Denied,
                Event::Shadow => ViolationKind::Shadow,
                Event::Near => ViolationKind::Near,
            },
            at: Duration::from_millis(record.id.0),
            tenant: named.tenant,
            subject: named.subject,
            policy: named.policy,
            count: record.count,
            limit: record.limit,
            used: record.used,
            cost: record.cost,
            window: Duration::from_micros(record.span_us),
            first: record.first,
            id: (shard, record.id.0, record.id.1),
        })
    }
}

/// What the name of a place says.
struct Named {
    tenant: Option<String>,
    policy: Option<String>,
    subject: String,
}

impl Named {
    fn read(name: &str) -> Result<Self> {
        let decode = |part: &str| Name::decode(part).map(|name| name.as_str().to_owned());
        let optional = |part: &str| if part.is_empty() { Ok(None) } else { decode(part).map(Some) };
        let parts: Vec<_> = name.split(':').collect();
        let [tenant, _algorithm, policy, _epoch, subject] = parts[..] else {
            return Err(Error::corrupt("ratelimit.violations", "a record of an unknown shape"));
        };
        Ok(Self { tenant: optional(tenant)?, policy: optional(policy)?, subject: decode(subject)? })
    }
}

/// Who is denied often.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Offender {
    /// Whose subject it is.
    pub tenant: Option<String>,
    /// Who it is.
    pub subject: String,
    /// The quota's name, if it has one.
    pub policy: Option<String>,
    /// How many denials were recorded within a day that began with the ranking.
    pub denials: u64,
    /// When it was last recorded, as time since the Unix epoch on the backend's clock.
    pub last: Duration,
}

impl RateLimiter {
    /// The violations of the last so long, of every tenant, the oldest first; about the newest
    /// 10,000 of each of 64 shards are kept, for a week.
    ///
    /// # Errors
    /// Where the backend cannot be asked.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn violations(&self, since: Duration) -> Result<Vec<Violation>> {
        let mut all = Vec::new();
        for shard in self.shards() {
            let mut from = From::Ago(since);
            loop {
                let records = self.inner.backend.violations(shard, from, PAGE).await?;
                let full = records.len() == PAGE;
                let Some(last) = records.last().map(|last| last.id) else { break };
                for record in &records {
                    all.push(Violation::read(shard, record)?);
                }
                from = From::After(last);
                if !full {
                    break;
                }
            }
        }
        all.retain(|violation| self.is_ours(violation.tenant.as_deref()));
        all.sort_by_key(|violation| (violation.at, violation.id));
        Ok(all)
    }

    /// The subjects that are denied most often, the first first: a ranking of the 1,000 worst of
    /// each shard, which begins anew each day.
    ///
    /// # Errors
    /// Where the backend cannot be asked.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn top_offenders(&self, count: usize) -> Result<Vec<Offender>> {
        let mut top = Vec::new();
        for shard in self.shards() {
            // A tenant's shard is others' too.
            let wanted = if self.tenant_name().is_some() { PAGE } else { count };
            for offender in self.inner.backend.top(shard, wanted).await? {
                let Named { tenant, policy, subject } = Named::read(&offender.name)?;
                let last = Duration::from_millis(offender.last_ms);
                let denials = offender.denials;
                top.push(Offender { tenant, subject, policy, denials, last });
            }
        }
        top.retain(|offender| self.is_ours(offender.tenant.as_deref()));
        top.sort_by(|a, b| b.denials.cmp(&a.denials).then_with(|| a.subject.cmp(&b.subject)));
        top.truncate(count);
        Ok(top)
    }

    fn shards(&self) -> std::ops::Range<u16> {
        match self.tenant_name().map(|tenant| tenant.shard(SHARDS)) {
            Some(shard) => shard..shard + 1,
            None => 0..SHARDS,
        }
    }

    fn is_ours(&self, tenant: Option<&str>) -> bool {
        self.tenant_name().is_none_or(|ours| Some(ours.as_str()) == tenant)
    }

    /// Hears of every violation from now on, of this tenant's or of all: each subscriber hears
    /// each of them once, also those of other processes.
    ///
    /// # Errors
    /// Where the backend cannot be asked.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn subscribe_violations(&self) -> Result<Violations> {
        Violations::open(self.clone(), None).await
    }

    /// Hears of the first violation of each window, and shares them with everybody who subscribes
    /// under the same name, in whatever process: each is given to exactly one of them. A process
    /// that dies with an alert in its hands takes it along.
    ///
    /// # Errors
    /// As [`subscribe_violations`](Self::subscribe_violations), and
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) for an empty name or one longer than 256
    /// bytes.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn subscribe_alerts(&self, group: &str) -> Result<Violations> {
        if group.is_empty() || group.len() > 256 {
            return Err(Error::misuse("ratelimit.alerts", "a group's name is 1 to 256 bytes"));
        }
        Violations::open(self.clone(), Some(group.to_owned())).await
    }
}

/// Violations as they happen; from [`RateLimiter::subscribe_violations`] and
/// [`RateLimiter::subscribe_alerts`].
#[derive(Debug)]
pub struct Violations {
    limits: RateLimiter,
    group: Option<String>,
    me: String,
    ears: Vec<Option<Box<dyn Alerts>>>,
    /// Up to which record each shard was read.
    read: Vec<(u64, u64)>,
    found: VecDeque<Violation>,
    /// Shards that may have a new record.
    due: Vec<u16>,
    first: u16,
}

impl Violations {
    async fn open(limits: RateLimiter, group: Option<String>) -> Result<Self> {
        let backend: Arc<dyn Backend> = limits.inner.backend.clone();
        let shards = limits.shards();
        let mut opened = Self {
            me: format!("{:016x}", rand::random::<u64>()),
            ears: Vec::new(),
            read: Vec::new(),
            found: VecDeque::new(),
            due: Vec::new(),
            first: shards.start,
            group,
            limits,
        };
        for shard in shards {
            // Heard first, then read: nothing falls between.
            opened.ears.push(Some(backend.listen(shard).await?));
            opened.read.push((0, 0));
            let newest = backend.violations(shard, From::Newest, 1).await?;
            if let Some(newest) = newest.first() {
                opened.read[usize::from(shard - opened.first)] = newest.id;
            }
        }
        Ok(opened)
    }

    /// The next violation.
    ///
    /// # Errors
    /// Where the backend cannot be asked; call it again, nothing is lost by that.
    ///
    /// # Cancel safety
    /// Cancel safe, but for an alert that is claimed while the future is dropped.
    pub async fn next(&mut self) -> Result<Violation> {
        loop {
            while let Some(violation) = self.found.pop_front() {
                if self.is_for_us(&violation).await? {
                    return Ok(violation);
                }
            }
            if let Some(shard) = self.due.pop() {
                self.read(shard).await.inspect_err(|_| self.due.push(shard))?;
                continue;
            }
            self.hear().await;
        }
    }

    async fn is_for_us(&mut self, violation: &Violation) -> Result<bool> {
        if !self.limits.is_ours(violation.tenant.as_deref()) {
            return Ok(false);
        }
        let Some(group) = &self.group else { return Ok(true) };
        if !violation.is_first() {
            return Ok(false);
        }
        let (shard, ms, number) = violation.id;
        let claim = Name::new(&format!("{group}:{ms}-{number}"))?;
        let claimed = self.limits.inner.backend.claim(shard, &claim, &self.me, CLAIMED).await;
        if claimed.is_err() {
            self.found.push_front(violation.clone());
        }
        claimed
    }

    async fn read(&mut self, shard: u16) -> Result<()> {
        let place = usize::from(shard - self.first);
        let from = From::After(self.read[place]);
        let records = self.limits.inner.backend.violations(shard, from, PAGE).await?;
        if records.len() == PAGE {
            self.due.push(shard);
        }
        for record in &records {
            self.found.push_back(Violation::read(shard, record)?);
            self.read[place] = record.id;
        }
        Ok(())
    }

    /// Waits until a shard may have something new.
    async fn hear(&mut self) {
        let clock = self.limits.inner.backend.clock().clone();
        let first = self.first;
        let mut heard: FuturesUnordered<_> = self
            .ears
            .iter_mut()
            .enumerate()
            .filter_map(|(n, ear)| {
                let shard = first + u16::try_from(n).ok()?;
                let ear = ear.as_mut()?;
                Some(async move {
                    ear.next().await;
                    shard
                })
            })
            .collect();
        tokio::select! {
            Some(shard) = heard.next() => self.due.push(shard),
            () = clock.sleep(LOOK) => {
                drop(heard);
                self.due.extend(self.limits.shards());
            }
        }
    }
}
