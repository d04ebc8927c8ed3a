//! Listing documents: pages over all shards, and what they add up to.

use super::{
    backend::{Item, Listed, SHARDS, Slice},
    namespace::Namespace,
};
use coordinator_core::{BoxFuture, Error, Result, key::Name};
use futures::future::try_join_all;
use std::{collections::VecDeque, future::IntoFuture, time::Duration};

const STEP: &str = "documents.list";
/// How many documents a page has unless told otherwise.
const LIMIT: usize = 100;
/// How many it may have.
const LIMIT_MAX: usize = 1000;
/// How many shards are asked at the same time, at the most.
const AT_ONCE: u16 = 16;

/// A document in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DocumentEntry {
    /// Its name.
    pub name: String,
    /// Its version; 0 if what is there cannot be read.
    pub version: u64,
    /// When it was written, as time since the Unix epoch on the backend's clock.
    pub updated_at: Duration,
    /// For how long it lives on; `None` if somebody told the server by hand to keep it.
    pub expires_in: Option<Duration>,
    /// How long its value is as it is stored, in bytes.
    pub bytes: u64,
}

/// Some documents of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DocumentPage {
    /// The documents; fewer than asked for only on the last page.
    pub entries: Vec<DocumentEntry>,
    /// Where the next page begins; `None` behind the last.
    pub next: Option<String>,
}

/// What the documents of a namespace add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DocumentStats {
    /// How many there are.
    pub documents: u64,
    /// How long their values are together as they are stored, without their history.
    pub bytes: u64,
    /// When the one was written that nobody has written for longest, as time since the Unix epoch.
    pub oldest_update: Option<Duration>,
    /// When the last one was.
    pub newest_update: Option<Duration>,
    /// When the next one ends.
    pub next_expiry: Option<Duration>,
}

/// What to list, from [`Namespace::list`]; awaiting it reads a page.
///
/// The order is fixed, though not that of the names as a whole: a document that lives throughout a
/// listing is listed exactly once, whatever is written meanwhile. What comes or goes in between
/// is listed or not.
///
/// # Errors
/// [`Misuse`](coordinator_core::ErrorKind::Misuse) for a limit of 0 or above 1,000, a prefix that
/// is longer than a name, and a cursor that is none; otherwise as [`Namespace::get`].
///
/// # Cancel safety
/// Cancel safe.
#[derive(Debug, Clone)]
#[must_use = "nothing is read until it is awaited"]
pub struct ListRequest<'a> {
    namespace: &'a Namespace,
    prefix: String,
    after: Option<String>,
    limit: usize,
}

impl<'a> ListRequest<'a> {
    pub(super) fn new(namespace: &'a Namespace) -> Self {
        Self { namespace, prefix: String::new(), after: None, limit: LIMIT }
    }

    /// Only documents whose names begin like this.
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How many documents a page has, 100 unless set, at most 1,000.
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Goes on where a page ended: its [`next`](DocumentPage::next).
    pub fn after(mut self, cursor: impl Into<String>) -> Self {
        self.after = Some(cursor.into());
        self
    }

    async fn read(self) -> Result<DocumentPage> {
        if self.limit == 0 || self.limit > LIMIT_MAX {
            let why = format!("a page has 1 to {LIMIT_MAX} documents, not {}", self.limit);
            return Err(Error::misuse(STEP, why));
        }
        let prefix = match self.prefix.as_str() {
            "" => String::new(),
            prefix => Name::new(prefix)?.encoded().to_owned(),
        };
        let mut cursor = match &self.after {
            None => Some(Cursor { shard: 0, after: String::new() }),
            Some(text) => Some(Cursor::read(text)?),
        };
        let mut entries = Vec::new();
        let mut at_once = 1;
        while entries.len() < self.limit
            && let Some(from) = cursor
        {
            let missing = self.limit - entries.len();
            let (items, next) = window(self.namespace, &prefix, from, missing, at_once).await?;
            entries.extend(items);
            cursor = next;
            // A page is often full after one shard; where it is not, there is little in each.
            at_once = (at_once * 2).min(AT_ONCE);
        }
        let entries = entries.into_iter().map(|item| {
            Ok(DocumentEntry {
                name: Name::decode(&item.name)?.as_str().to_owned(),
                version: item.version,
                updated_at: Duration::from_micros(item.updated_us),
                expires_in: item.left_ms.map(Duration::from_millis),
                bytes: item.bytes,
            })
        });
        let next = cursor.map(|cursor| format!("{}.{}", cursor.shard, cursor.after));
        Ok(DocumentPage { entries: entries.collect::<Result<_>>()?, next })
    }
}

impl<'a> IntoFuture for ListRequest<'a> {
    type Output = Result<DocumentPage>;
    type IntoFuture = BoxFuture<'a, Result<DocumentPage>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.read())
    }
}

/// Where a listing goes on: in which shard, and behind which encoded name of it.
struct Cursor {
    shard: u16,
    after: String,
}

impl Cursor {
    fn read(text: &str) -> Result<Self> {
        let parts = text.split_once('.').and_then(|(shard, after)| {
            let shard = shard.parse().ok().filter(|shard| *shard < SHARDS)?;
            let known = after.is_empty() || Name::decode(after).is_ok();
            known.then(|| Self { shard, after: after.to_owned() })
        });
        parts.ok_or_else(|| Error::misuse(STEP, "this is no cursor of a page"))
    }

    fn behind(shard: u16) -> Option<Self> {
        (shard + 1 < SHARDS).then(|| Self { shard: shard + 1, after: String::new() })
    }
}

/// Reads some shards at once and takes from them in order until there is enough.
async fn window(
    namespace: &Namespace,
    prefix: &str,
    from: Cursor,
    missing: usize,
    at_once: u16,
) -> Result<(Vec<Item>, Option<Cursor>)> {
    let end = (from.shard + at_once).min(SHARDS);
    let slices: Vec<_> = (from.shard..end)
        .map(|shard| Slice {
            shard,
            namespace: namespace.name.clone(),
            after: if shard == from.shard { from.after.clone() } else { String::new() },
            prefix: prefix.to_owned(),
            limit: missing,
        })
        .collect();
    let read = slices.iter().map(|slice| namespace.inner.backend.list(slice));
    let mut read: VecDeque<Listed> = try_join_all(read).await?.into();
    let mut taken: Vec<Item> = Vec::new();
    for slice in slices {
        let Some(Listed { mut items, more }) = read.pop_front() else { break };
        let (shard, missing) = (slice.shard, missing - taken.len());
        let more = more || items.len() > missing;
        items.truncate(missing);
        let last = items.last().map_or(slice.after, |item| item.name.clone());
        taken.extend(items);
        if more {
            // Also with room left: what was looked at and had ended is out of the index now.
            return Ok((taken, Some(Cursor { shard, after: last })));
        }
    }
    Ok((taken, Cursor::behind(end - 1)))
}

pub(super) async fn stats(namespace: &Namespace) -> Result<DocumentStats> {
    let mut stats = DocumentStats::default();
    let mut cursor = Some(Cursor { shard: 0, after: String::new() });
    let now = namespace.clock().unix_time();
    let mut at_once = 1;
    while let Some(from) = cursor {
        let (items, next) = window(namespace, "", from, LIMIT_MAX, at_once).await?;
        for item in items {
            stats.documents += 1;
            stats.bytes += item.bytes;
            let ends = item.left_ms.map(|left| now + Duration::from_millis(left));
            stats.next_expiry = stats.next_expiry.into_iter().chain(ends).min();
            if item.version > 0 {
                let updated = Some(Duration::from_micros(item.updated_us));
                stats.oldest_update = stats.oldest_update.into_iter().chain(updated).min();
                stats.newest_update = stats.newest_update.max(updated);
            }
        }
        cursor = next;
        at_once = (at_once * 2).min(AT_ONCE);
    }
    Ok(stats)
}
