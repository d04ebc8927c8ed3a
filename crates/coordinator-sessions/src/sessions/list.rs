//! Lists and counts, by cursor: nothing is ever scanned.

use super::{Session, Sessions, from_ms, new::encoded};
use crate::{
    backend::{Index, Place, SHARDS},
    token::Id,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use coordinator_core::{Error, ErrorKind, Result, key::Name};
use futures::stream::{StreamExt as _, TryStreamExt as _, iter};
use std::time::Duration;

/// How many sessions a page has at most.
const PAGE_MAX: usize = 1000;
/// How many shards are asked at once.
const AT_ONCE: usize = 16;

/// Which sessions to list or count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(Which);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Which {
    All,
    User(String),
    Company(String),
    Crew(String),
}

impl Filter {
    /// All.
    pub fn all() -> Self {
        Self(Which::All)
    }

    /// Those of a user.
    pub fn user(user: &str) -> Self {
        Self(Which::User(user.to_owned()))
    }

    /// Those of a company.
    pub fn company(company: &str) -> Self {
        Self(Which::Company(company.to_owned()))
    }

    /// Those of a crew.
    pub fn crew(crew: &str) -> Self {
        Self(Which::Crew(crew.to_owned()))
    }

    /// The index, and the shards that it is in.
    pub(super) fn plan(&self) -> Result<(Index, Vec<u16>)> {
        let everywhere = || (0..SHARDS).collect();
        Ok(match &self.0 {
            Which::All => (Index::All, everywhere()),
            Which::User(user) => {
                (Index::User(encoded(Some(user))?), vec![Name::new(user)?.shard(SHARDS)])
            }
            Which::Company(company) => (Index::Company(encoded(Some(company))?), everywhere()),
            Which::Crew(crew) => (Index::Crew(encoded(Some(crew))?), everywhere()),
        })
    }
}

/// Where in a list to begin, and how much of it to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    after: Option<String>,
    limit: usize,
}

impl Page {
    /// The beginning, at most 1000 sessions.
    pub fn first(limit: usize) -> Self {
        Self { after: None, limit: limit.clamp(1, PAGE_MAX) }
    }

    /// What comes after [`SessionPage::next`].
    pub fn after(self, next: String) -> Self {
        Self { after: Some(next), ..self }
    }
}

/// A page of a list.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SessionPage {
    /// Sessions, without their tokens.
    pub sessions: Vec<Session>,
    /// How many there are besides that cannot be read: what is stored of them is not what was
    /// written.
    pub unreadable: u64,
    /// Where to go on; `None`: that was all. It is for [`Page::after`] alone.
    pub next: Option<String>,
}

/// Figures about all sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// How many live.
    pub live: u64,
    /// How many have expired and were not ended yet: none has long, while there is a reaper.
    pub overdue: u64,
    /// For how long the first of these is.
    pub overdue_for: Duration,
}

impl Sessions {
    /// Lists sessions, shard by shard, those that expire first before the others.
    ///
    /// A session that lives all the while is listed at least once: one that is used or rotated
    /// between two pages perhaps twice. One that cannot be read is counted, and in nobody's way.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`Misuse`](coordinator_core::ErrorKind::Misuse) for a page that no
    /// list gave out.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn list(&self, filter: &Filter, page: &Page) -> Result<SessionPage> {
        Ok(self.list_with_broken(filter, page).await?.0)
    }

    /// The same, and where those are that cannot be read.
    pub(super) async fn list_with_broken(
        &self,
        filter: &Filter,
        page: &Page,
    ) -> Result<(SessionPage, Vec<Place>)> {
        let (index, shards) = filter.plan()?;
        self.begin().await;
        let cursor = page.after.as_deref().map(Cursor::read).transpose()?;
        let (from, mut after) = cursor
            .map_or((shards[0], None), |cursor| (cursor.shard, Some((cursor.expiry, cursor.id))));
        let mut rest = shards.into_iter().filter(|shard| *shard >= from).peekable();
        let mut found = SessionPage { sessions: Vec::new(), unreadable: 0, next: None };
        let mut broken = Vec::new();
        // More and more at once: the first shard often fills a page, and many may be empty.
        let mut at_once = 1;
        while rest.peek().is_some() {
            let some: Vec<u16> = rest.by_ref().take(at_once).collect();
            at_once = (2 * at_once).min(AT_ONCE);
            let begin = after.take();
            let lists = some.into_iter().map(|shard| {
                let (begin, index) = (begin.as_ref().filter(|_| shard == from), &index);
                async move {
                    let listed = self.inner.backend.list(shard, index, begin, page.limit).await?;
                    Ok::<_, Error>((shard, listed))
                }
            });
            for (shard, listed) in futures::future::try_join_all(lists).await? {
                if found.next.is_some() {
                    break;
                }
                let room = page.limit - found.sessions.len();
                let cut = listed.sessions.len() > room;
                let mut last = None;
                for (id, record) in listed.sessions.into_iter().take(room) {
                    last = Some((record.expiry, id.encode()));
                    let place = Place { shard, id };
                    match Session::new(&self.options, place, record, None) {
                        Ok(session) => found.sessions.push(session),
                        Err(error) if error.kind() == ErrorKind::Corrupt => broken.push(place),
                        Err(error) => return Err(error),
                    }
                }
                // Those behind the cut are met again.
                let met =
                    |at: &&(i64, String)| !cut || last.as_ref().is_some_and(|last| *at <= last);
                let ids = listed.unreadable.iter().filter(met).filter_map(|(_, id)| Id::decode(id));
                broken.extend(ids.map(|id| Place { shard, id }));
                // Where it was cut, behind the last that is told; else where the shard stopped.
                let stop = if cut { last.or(Some((0, String::new()))) } else { listed.next };
                if let Some((expiry, id)) = stop {
                    found.next = Some(Cursor { shard, expiry, id }.write());
                } else if found.sessions.len() == page.limit && shard < SHARDS - 1 {
                    let id = String::new();
                    found.next = Some(Cursor { shard: shard + 1, expiry: 0, id }.write());
                }
            }
            if found.next.is_some() {
                break;
            }
        }
        found.unreadable = broken.len().try_into().unwrap_or(u64::MAX);
        Ok((found, broken))
    }

    /// How many sessions live; those that were revoked as a whole count until they are cleared
    /// up, which is before the revocation returns.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn count(&self, filter: &Filter) -> Result<u64> {
        let (index, shards) = filter.plan()?;
        self.begin().await;
        Ok(self.inner.backend.count(&shards, &index).await?.living)
    }

    /// Figures about all sessions.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn stats(&self) -> Result<Stats> {
        let shards: Vec<u16> = (0..SHARDS).collect();
        let count = self.inner.backend.count(&shards, &Index::All).await?;
        let overdue_for = from_ms(i64::try_from(count.late_ms).unwrap_or(i64::MAX));
        Ok(Stats { live: count.living, overdue: count.overdue, overdue_for })
    }

    /// Compares the indexes with the sessions: what is listed and not there, and what is there and
    /// not listed as it should be. It changes nothing; see [`repair`](Self::repair).
    ///
    /// On a server it looks at the indexes that some session names, and finds no others, which
    /// expire there by themselves; embedded it looks at all.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn verify(&self) -> Result<Verification> {
        self.compare(false).await
    }

    /// As [`verify`](Self::verify), and mends what it finds. Sessions that vanished are told of as
    /// expired by the next reaping.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    ///
    /// # Cancel safety
    /// Cancel safe: what is mended is mended.
    pub async fn repair(&self) -> Result<Verification> {
        self.compare(true).await
    }

    async fn compare(&self, mend: bool) -> Result<Verification> {
        iter(0..SHARDS)
            .map(|shard| self.compare_shard(shard, mend))
            .buffer_unordered(AT_ONCE)
            .try_fold(Verification::default(), |sum, one| {
                std::future::ready(Ok(Verification {
                    sessions: sum.sessions + one.sessions,
                    orphans: sum.orphans + one.orphans,
                    missing: sum.missing + one.missing,
                    unreadable: sum.unreadable + one.unreadable,
                    strays: sum.strays + one.strays,
                }))
            })
            .await
    }

    async fn compare_shard(&self, shard: u16, mend: bool) -> Result<Verification> {
        let mut open = self.inner.backend.indexes(shard).await?;
        open.push(Index::All);
        let mut known: std::collections::HashSet<_> = open.iter().cloned().collect();
        let mut sum = Verification::default();
        while let Some(index) = open.pop() {
            let mut skip = 0;
            loop {
                let one = self.inner.backend.verify(shard, &index, skip, 100, mend).await?;
                skip += one.left;
                sum.orphans += one.orphans;
                sum.missing += one.missing;
                sum.strays += one.strays;
                if index == Index::All {
                    sum.sessions += one.seen - one.orphans - one.unreadable;
                    sum.unreadable += one.unreadable;
                }
                for other in one.indexes {
                    if known.insert(other.clone()) {
                        open.push(other);
                    }
                }
                if one.seen < 100 {
                    break;
                }
            }
        }
        Ok(sum)
    }
}

/// What [`Sessions::verify`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// Sessions that were looked at.
    pub sessions: u64,
    /// Members of indexes whose session is not there: it vanished, by hand or by eviction.
    pub orphans: u64,
    /// Sessions that are not listed where or as they should be; one that is missing from the list
    /// of all counts wherever else it is found.
    pub missing: u64,
    /// Members of an index of a user, company or crew whose session is another's.
    pub strays: u64,
    /// Sessions of which what is stored is not what was written: nothing here can mend them.
    pub unreadable: u64,
}

/// Where a page ended.
struct Cursor {
    shard: u16,
    expiry: i64,
    id: String,
}

impl Cursor {
    fn write(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}:{}:{}", self.shard, self.expiry, self.id))
    }

    fn read(text: &str) -> Result<Self> {
        let read = || {
            let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
            let mut parts = text.splitn(3, ':');
            let shard = parts.next()?.parse().ok().filter(|shard| *shard < SHARDS)?;
            Some(Self { shard, expiry: parts.next()?.parse().ok()?, id: parts.next()?.to_owned() })
        };
        read().ok_or_else(|| Error::misuse("sessions.list", "no list gave out such a cursor"))
    }
}
