//! Violations: who was denied, and who is near; read, listened to, or claimed by one of several.

use crate::{
    backend::{Alerts, Backend, Event, From, Record, SHARDS},
    limiter::RateLimiter,
};
use coordinator_core::{Error, Result, clock::Instant, key::Name};
use futures::{
    FutureExt as _,
    stream::{FuturesUnordered, StreamExt as _},
};
use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

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
                Event::Unknown => {
                    let why = "a record of something unknown";
                    return Err(Error::corrupt("ratelimit.violations", why));
                }
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
    /// 10,000 of each of 64 shards are kept, for a week. Records that cannot be read, such as those
    /// of a later version, are skipped with a warning.
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
                let read = records.iter().map(|record| Violation::read(shard, record));
                all.extend(readable(shard, read));
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
            let found = self.inner.backend.top(shard, wanted).await?;
            let read = found.iter().map(|offender| {
                let Named { tenant, policy, subject } = Named::read(&offender.name)?;
                let last = Duration::from_millis(offender.last_ms);
                Ok(Offender { tenant, subject, policy, denials: offender.denials, last })
            });
            top.extend(readable(shard, read));
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
pub struct Violations {
    limits: RateLimiter,
    group: Option<String>,
    me: String,
    shards: Vec<Watched>,
    /// Which shards have something to read or to tell, each once; the next one first.
    due: VecDeque<u16>,
    first: u16,
    /// When it looks at every shard, heard or not.
    next_look: Instant,
}

/// A shard as a subscription sees it.
struct Watched {
    ear: Box<dyn Alerts>,
    /// Up to which record it was read.
    read: (u64, u64),
    /// Whether there may be more.
    unread: bool,
    /// What was read and is not told yet.
    found: VecDeque<Violation>,
}

impl Violations {
    async fn open(limits: RateLimiter, group: Option<String>) -> Result<Self> {
        let backend: Arc<dyn Backend> = limits.inner.backend.clone();
        let range = limits.shards();
        let mut shards = Vec::with_capacity(range.len());
        for shard in range.clone() {
            // Heard first, then read: nothing falls between.
            let ear = backend.listen(shard).await?;
            let newest = backend.violations(shard, From::Newest, 1).await?;
            let read = newest.first().map_or((0, 0), |newest| newest.id);
            shards.push(Watched { ear, read, unread: false, found: VecDeque::new() });
        }
        Ok(Self {
            me: format!("{:016x}", rand::random::<u64>()),
            shards,
            due: VecDeque::new(),
            first: range.start,
            next_look: backend.clock().now() + LOOK,
            group,
            limits,
        })
    }

    /// The next violation. Those of one subject come in their order; records that cannot be read,
    /// such as those of a later version, are skipped with a warning.
    ///
    /// # Errors
    /// Where the backend cannot be asked, of one shard perhaps; call it again: nothing is lost by
    /// that, and the other shards have their turn.
    ///
    /// # Cancel safety
    /// Cancel safe: an alert that is being claimed is claimed again.
    pub async fn next(&mut self) -> Result<Violation> {
        loop {
            self.look();
            let Some(shard) = self.due.pop_front() else {
                self.hear().await;
                continue;
            };
            // Before anything is awaited: a shard that fails or hangs holds up no other.
            self.due.push_back(shard);
            if self.watched(shard).found.is_empty() {
                self.read(shard).await?;
            } else if let Some(violation) = self.tell(shard).await? {
                return Ok(violation);
            }
        }
    }

    fn watched(&mut self, shard: u16) -> &mut Watched {
        &mut self.shards[usize::from(shard - self.first)]
    }

    /// A shard may have something new.
    fn mark(&mut self, shard: u16) {
        self.watched(shard).unread = true;
        if !self.due.contains(&shard) {
            self.due.push_back(shard);
        }
    }

    /// A shard that was read and told is no longer due.
    fn settle(&mut self, shard: u16) {
        let watched = self.watched(shard);
        if !watched.unread && watched.found.is_empty() {
            self.due.retain(|due| *due != shard);
        }
    }

    /// Looks at every shard when it is time, however often it is called and whoever is busy.
    fn look(&mut self) {
        let now = self.limits.inner.backend.clock().now();
        if now >= self.next_look {
            self.next_look = now + LOOK;
            self.limits.shards().for_each(|shard| self.mark(shard));
        }
    }

    /// The oldest violation that was found in a shard, if it is for us.
    async fn tell(&mut self, shard: u16) -> Result<Option<Violation>> {
        let Some(violation) = self.watched(shard).found.front().cloned() else { return Ok(None) };
        let mut ours = true;
        if let Some(group) = &self.group {
            let (_, ms, number) = violation.id;
            let claim = Name::new(&format!("{group}:{ms}-{number}"))?;
            self.listen();
            ours = self.limits.inner.backend.claim(shard, &claim, &self.me, CLAIMED).await?;
        }
        // Not before the answer: a claim is ours however often it is sent.
        self.watched(shard).found.pop_front();
        self.settle(shard);
        Ok(ours.then_some(violation))
    }

    async fn read(&mut self, shard: u16) -> Result<()> {
        self.listen();
        let from = From::After(self.watched(shard).read);
        let records = self.limits.inner.backend.violations(shard, from, PAGE).await?;
        let found = readable(shard, records.iter().map(|record| Violation::read(shard, record)));
        let alerts = self.group.is_some();
        let limits = self.limits.clone();
        let for_us = |violation: &Violation| {
            (!alerts || violation.is_first()) && limits.is_ours(violation.tenant.as_deref())
        };
        let watched = self.watched(shard);
        watched.unread = records.len() == PAGE;
        watched.read = records.last().map_or(watched.read, |last| last.id);
        watched.found.extend(found.into_iter().filter(for_us));
        self.settle(shard);
        Ok(())
    }

    /// Marks the shards that called meanwhile, and waits for none.
    fn listen(&mut self) {
        for shard in self.limits.shards() {
            if self.watched(shard).ear.next().now_or_never().is_some() {
                self.mark(shard);
            }
        }
    }

    /// Waits until a shard may have something new, or it is time to look.
    async fn hear(&mut self) {
        let alarm = self.limits.inner.backend.clock().sleep_until(self.next_look);
        let mut heard: FuturesUnordered<_> = (self.first..)
            .zip(&mut self.shards)
            .map(|(shard, watched)| async move {
                watched.ear.next().await;
                shard
            })
            .collect();
        let called = tokio::select! {
            called = heard.next() => called,
            () = alarm => None,
        };
        drop(heard);
        if let Some(shard) = called {
            self.mark(shard);
        }
    }
}

impl fmt::Debug for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found: usize = self.shards.iter().map(|watched| watched.found.len()).sum();
        f.debug_struct("Violations")
            .field("group", &self.group)
            .field("due", &self.due.len())
            .field("found", &found)
            .finish_non_exhaustive()
    }
}

/// Those that can be read. The others would silence a shard for as long as they are kept.
fn readable<T>(shard: u16, read: impl Iterator<Item = Result<T>>) -> Vec<T> {
    let (mut readable, mut skipped) = (Vec::new(), 0);
    let mut first = None;
    for one in read {
        match one {
            Ok(one) => readable.push(one),
            Err(error) => {
                skipped += 1;
                first.get_or_insert(error);
            }
        }
    }
    if let Some(error) = first {
        tracing::warn!(shard, skipped, error = %error.chain(), "records cannot be read");
    }
    readable
}
