//! What happens to sessions: read back, or heard.

use super::Sessions;
use crate::{
    backend::{Alerts, Backend, From, Happened, Names, SHARDS},
    token::{Id, Reference},
};
use coordinator_core::{Result, key::Name};
use futures::{
    FutureExt as _,
    stream::{FuturesUnordered, StreamExt as _},
};
use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

/// How many events are read at once.
const PAGE: usize = 1000;
/// How often a subscription looks without having heard anything.
const LOOK: Duration = Duration::from_secs(5);

/// What happened to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SessionEventKind {
    /// It was created.
    Created,
    /// Its fields were changed; told only where
    /// [`with_update_events`](Sessions::with_update_events) asks for it.
    Updated,
    /// It has another token, and perhaps another user.
    Rotated,
    /// It was ended, for the reason of the event.
    Invalidated,
    /// Its time was over. The reason `vanished` tells of one that was deleted by hand or evicted.
    Expired,
    /// Something that a later version tells of.
    Unknown,
}

impl SessionEventKind {
    /// `created`, `updated`, `rotated`, `invalidated`, `expired` or `unknown`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Rotated => "rotated",
            Self::Invalidated => "invalidated",
            Self::Expired => "expired",
            Self::Unknown => "unknown",
        }
    }

    fn read(text: &str) -> Self {
        let all = [Self::Created, Self::Updated, Self::Rotated, Self::Invalidated, Self::Expired];
        all.into_iter().find(|kind| kind.as_str() == text).unwrap_or(Self::Unknown)
    }
}

/// Something that happened to a session. Each is written once, in the step in which it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionEvent {
    /// What happened.
    pub kind: SessionEventKind,
    /// When, as time since the Unix epoch on the backend's clock.
    pub at: Duration,
    /// Which session it was.
    pub session: Reference,
    /// Whose it was.
    pub user: Option<String>,
    /// Of which company.
    pub company: Option<String>,
    /// Of which crew.
    pub crew: Option<String>,
    /// Which version it had.
    pub version: u64,
    /// Why, if somebody said.
    pub reason: Option<String>,
}

impl SessionEvent {
    fn read(key: &[u8], happened: Happened) -> Option<Self> {
        let Names { user, company, crew } = happened.names;
        let decoded = |name: String| Name::decode(&name).ok().map(|name| name.as_str().to_owned());
        Some(Self {
            kind: SessionEventKind::read(&happened.event),
            at: Duration::from_millis(happened.at.0),
            session: Reference::new(key, &Id::decode(&happened.id)?),
            user: decoded(user),
            company: decoded(company),
            crew: decoded(crew),
            version: happened.version,
            reason: Some(happened.reason).filter(|reason| !reason.is_empty()),
        })
    }
}

impl Sessions {
    /// What happened to sessions not longer ago than `ago`, the oldest first. A shard keeps its
    /// last 4096 events, for seven days after the last of them.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn history(&self, ago: Duration) -> Result<Vec<SessionEvent>> {
        let mut events = Vec::new();
        for shard in 0..SHARDS {
            let mut from = From::Ago(ago);
            loop {
                let page = self.inner.backend.happened(shard, from, PAGE).await?;
                let Some(last) = page.last().map(|last| last.at) else { break };
                from = From::After(last);
                let all = page.len() < PAGE;
                let key = &self.options.reference_key;
                events.extend(page.into_iter().filter_map(|one| SessionEvent::read(key, one)));
                if all {
                    break;
                }
            }
        }
        events.sort_by_key(|event| event.at);
        Ok(events)
    }

    /// Hears what happens to sessions from now on, each event once, in the order of each shard.
    /// Every subscriber hears all of it.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn events(&self) -> Result<SessionEvents> {
        let shards = FuturesUnordered::new();
        let backend = &self.inner.backend;
        let opened = (0..SHARDS).map(|number| async move {
            // Heard first and read afterwards: nothing falls in between.
            let alerts = backend.listen(number).await?;
            let newest = backend.happened(number, From::Newest, 1).await?;
            let from = newest.last().map_or((0, 0), |newest| newest.at);
            Ok::<_, coordinator_core::Error>(Shard { number, alerts, from, more: false })
        });
        for shard in futures::future::try_join_all(opened).await? {
            shards.push(shard.heard(backend.clone()).boxed());
        }
        Ok(SessionEvents {
            backend: backend.clone(),
            key: self.options.reference_key.clone(),
            shards,
            ready: VecDeque::new(),
        })
    }
}

/// A shard that is listened to.
struct Shard {
    number: u16,
    alerts: Box<dyn Alerts>,
    from: (u64, u64),
    /// Whether it is known that there is more.
    more: bool,
}

impl Shard {
    /// Waits until there may be something new, and reads it.
    async fn heard(mut self, backend: Arc<dyn Backend>) -> (Self, Vec<Happened>) {
        if !self.more {
            let look = backend.clock().sleep(LOOK);
            futures::future::select(self.alerts.next(), look).await;
        }
        let page = match backend.happened(self.number, From::After(self.from), PAGE).await {
            Ok(page) => page,
            Err(error) => {
                // It is read when there is something new, or after a while.
                tracing::debug!(error = %error.chain(), "events of sessions could not be read");
                Vec::new()
            }
        };
        self.from = page.last().map_or(self.from, |last| last.at);
        self.more = page.len() == PAGE;
        (self, page)
    }
}

type Hearing = futures::future::BoxFuture<'static, (Shard, Vec<Happened>)>;

/// What happens to sessions, as it happens; see [`Sessions::events`].
pub struct SessionEvents {
    backend: Arc<dyn Backend>,
    key: Arc<[u8]>,
    shards: FuturesUnordered<Hearing>,
    ready: VecDeque<SessionEvent>,
}

impl fmt::Debug for SessionEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionEvents").field("ready", &self.ready.len()).finish_non_exhaustive()
    }
}

impl SessionEvents {
    /// The next event. It never ends: a backend that is away is waited for.
    ///
    /// # Cancel safety
    /// Cancel safe: no event is lost.
    pub async fn next(&mut self) -> SessionEvent {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            let Some((shard, page)) = self.shards.next().await else {
                return std::future::pending().await;
            };
            let told = page.into_iter().filter_map(|one| SessionEvent::read(&self.key, one));
            self.ready.extend(told);
            self.shards.push(shard.heard(self.backend.clone()).boxed());
        }
    }
}
