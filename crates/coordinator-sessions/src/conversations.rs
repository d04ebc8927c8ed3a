//! Conversations of agents and models: a window of the last messages, a summary of those before,
//! and a few named fields beside them.
//!
//! It stores what was said. It calls no model: who summarises is told what to summarise.

mod backend;
mod conversation;
mod embedded;
mod estimate;
mod fields;
mod message;
mod outcome;
#[cfg(feature = "redis")]
mod redis;
#[cfg(test)]
mod tests;
mod window;

pub use conversation::Conversation;
pub use estimate::{Bytes, Estimator};
pub use fields::{EDIT_MAX, FIELD_MAX_BYTES, FieldEdit, Fields, Section};
pub use message::{CALLS_MAX, MESSAGE_MAX_BYTES, Message, Role, ToolCall};
pub use outcome::{Append, Appended, Edited, Pause, Pending, Said, Span, Stats, Summarised, View};
#[cfg(feature = "redis")]
#[doc(hidden)]
pub use redis::SCRIPTS;

use crate::{embedded::Embedded, store::Store};
use backend::{Backend, Index, Place, SHARDS};
use coordinator_core::{Error, Result, clock::Clock, key::Name};
use futures::future::try_join_all;
use std::{fmt, path::Path, sync::Arc, time::Duration};

/// How many messages a window holds unless it is told otherwise.
pub const WINDOW: usize = 20;
/// How many it holds at most.
pub const WINDOW_MAX: usize = 1000;
/// How long a conversation lives after the last append unless it is told otherwise.
pub const TTL: Duration = Duration::from_hours(72);
/// How long it lives at most.
pub const TTL_MAX: Duration = Duration::from_hours(24 * 3660);
/// How many messages are appended at once at most.
pub const APPEND_MAX: usize = 100;
/// How many bytes they have together at most.
pub const APPEND_MAX_BYTES: usize = 8 * 1024 * 1024;
/// How many characters a summary has at most; what is longer is cut.
pub const SUMMARY_MAX_CHARS: usize = 400;

/// How many a page holds at most.
const PAGE_MAX: usize = 1000;

/// Conversations that instances share; clones share one backend.
///
/// ```
/// use coordinator_sessions::conversations::{Conversations, Message, Party};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let talks = Conversations::embedded().with_window(2); // or ::redis(&connection)
/// let talk = talks.of(Party { client: "web", channel: "support", user: "u1" })?;
///
/// let said = [Message::user("Hello"), Message::assistant("Hi!"), Message::user("Help")];
/// let appended = talk.append(&said, Some("request-7")).await?.done().expect("not paused");
/// assert_eq!(appended.evicted[0].message.text, "Hello");
///
/// // A model makes a summary of what left the window; here it is a short one.
/// talk.set_summary("They greeted.", appended.span).await?;
/// let view = talk.show().await?.expect("it is there");
/// assert_eq!(view.summary.as_deref(), Some("They greeted."));
/// assert_eq!(view.messages().map(|said| &*said.text).collect::<Vec<_>>(), ["Hi!", "Help"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Conversations {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    backend: Arc<dyn Backend>,
    window: usize,
    budget: Option<u64>,
    estimator: Arc<dyn Estimator>,
    ttl: Duration,
}

impl fmt::Debug for Conversations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { backend, window, budget, ttl, .. } = &*self.inner;
        f.debug_struct("Conversations")
            .field("backend", backend)
            .field("window", window)
            .field("token_budget", budget)
            .field("ttl", ttl)
            .finish_non_exhaustive()
    }
}

/// Who talks where: the client software, the channel in it, and the user. A user has a
/// conversation in each channel of each client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "callers write it out, and it is whole")]
pub struct Party<'a> {
    /// Such as `web` or `phone`.
    pub client: &'a str,
    /// Such as `support`.
    pub channel: &'a str,
    /// Whose conversation it is.
    pub user: &'a str,
}

/// Whose a conversation is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Identity {
    /// A user's, in a channel of a client.
    Party {
        /// The client.
        client: String,
        /// The channel.
        channel: String,
        /// The user.
        user: String,
    },
    /// One with a caller's own name.
    Named(String),
}

impl Identity {
    fn of(id: &Name) -> Result<Self> {
        let corrupt = || Error::corrupt("sessions.conversation_list", "an id that is none");
        let mut parts = id.as_str().split(':');
        let kind = parts.next();
        let mut next = || {
            let part = parts.next().ok_or_else(corrupt)?;
            Ok::<_, Error>(part.replace("%3A", ":").replace("%25", "%"))
        };
        match kind {
            Some("of") => Ok(Self::Party { client: next()?, channel: next()?, user: next()? }),
            Some("named") => Ok(Self::Named(next()?)),
            _ => Err(corrupt()),
        }
    }

    fn place(&self) -> Result<Place> {
        match self {
            Self::Party { client, channel, user } => {
                let id = Name::composed("of", &[client, channel, user])?;
                let user = Name::new(user)?;
                Ok(Place { shard: user.shard(SHARDS), id, user: Some(user) })
            }
            Self::Named(name) => {
                let id = Name::composed("named", &[name])?;
                Ok(Place { shard: Name::new(name)?.shard(SHARDS), id, user: None })
            }
        }
    }
}

impl From<Party<'_>> for Identity {
    fn from(party: Party<'_>) -> Self {
        let Party { client, channel, user } = party;
        Self::Party { client: client.into(), channel: channel.into(), user: user.into() }
    }
}

/// A conversation in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Whose it is; [`Conversations::open`] opens it.
    pub identity: Identity,
    /// When it ends if nobody appends.
    pub expires_in: Duration,
    cursor: Cursor,
}

/// Where a list goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    shard: u16,
    after: Option<(u64, Name)>,
}

/// A page of conversations.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Page {
    /// Those on it.
    pub entries: Vec<Entry>,
    /// Where the next one begins; none behind the last.
    pub next: Option<Cursor>,
}

impl Conversations {
    /// Over Redis or Valkey.
    #[cfg(feature = "redis")]
    pub fn redis(connection: &coordinator_core::redis::Connection) -> Self {
        Self::over(Arc::new(redis::Redis::new(connection)))
    }

    /// In this process alone, in memory.
    pub fn embedded() -> Self {
        Self::embedded_in(&Store::memory())
    }

    /// In this process, in a store that sessions and documents may share.
    pub fn embedded_in(store: &Store) -> Self {
        Self::over(Arc::new(Embedded { store: store.clone() }))
    }

    /// In this process, in a file that survives a restart.
    ///
    /// # Errors
    /// As [`Store::file`].
    pub fn embedded_at(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::embedded_in(&Store::file(path)?))
    }

    /// In memory on another clock, for tests: its wall clock decides what has expired.
    pub fn embedded_with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::embedded_in(&Store::memory().with_clock(clock))
    }

    fn over(backend: Arc<dyn Backend>) -> Self {
        let estimator = Arc::new(Bytes);
        let inner = Inner { backend, window: WINDOW, budget: None, estimator, ttl: TTL };
        Self { inner: Arc::new(inner) }
    }

    fn with(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.inner));
        self
    }

    /// How many messages a window holds, 20 unless set and 1,000 at most; 0 holds none, and all is
    /// handed back at once.
    ///
    /// It counts for what is appended from now on through this value and its handles.
    pub fn with_window(self, messages: usize) -> Self {
        self.with(|inner| inner.window = messages)
    }

    /// How many tokens a window holds; without it any number.
    pub fn with_token_budget(self, tokens: u64) -> Self {
        self.with(|inner| inner.budget = Some(tokens))
    }

    /// What says how many tokens a text has; [`Bytes`] unless set. It counts for what is appended
    /// from now on.
    pub fn with_estimator(self, estimator: impl Estimator + 'static) -> Self {
        self.with(|inner| inner.estimator = Arc::new(estimator))
    }

    /// How long a conversation lives after the last append; 72 h unless set.
    pub fn with_ttl(self, ttl: Duration) -> Self {
        self.with(|inner| inner.ttl = ttl)
    }

    /// The conversation of a user in a channel of a client; it begins with the first append.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) if a part is empty, if they are longer than
    /// about 500 bytes together, or if an option is out of range.
    pub fn of(&self, party: Party<'_>) -> Result<Conversation> {
        self.open(&party.into())
    }

    /// The conversation with a name of the caller's own, for agents and tools that bring their own
    /// ids; it begins with the first append.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn open_named(&self, name: &str) -> Result<Conversation> {
        self.open(&Identity::Named(name.to_owned()))
    }

    /// The conversation with an identity from a list.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn open(&self, identity: &Identity) -> Result<Conversation> {
        let Inner { window, budget, ttl, .. } = &*self.inner;
        let wrong = |why: String| Err(Error::misuse("sessions.conversation", why));
        if *window > WINDOW_MAX {
            return wrong(format!("a window holds {WINDOW_MAX} messages at most, not {window}"));
        }
        if budget.is_some_and(|budget| budget > u64::from(u32::MAX)) {
            return wrong(format!("a budget is {} tokens at most", u32::MAX));
        }
        conversation::check_ttl(*ttl)?;
        Ok(Conversation::new(self.inner.clone(), identity.clone(), identity.place()?))
    }

    /// The conversations of a user, in all channels and clients, those that end first first; at
    /// most 1,000.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) if the name is empty or too long, and what
    /// reading meets.
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    pub async fn list_of(&self, user: &str) -> Result<Vec<Entry>> {
        let user = Name::new(user)?;
        self.entries(Index::Of(&user), user.shard(SHARDS), None, PAGE_MAX).await
    }

    /// A page of all conversations, at most 1,000: shard by shard, and in each those that end
    /// first first. One that is appended to meanwhile may be seen twice; one that lives all the
    /// while is seen.
    ///
    /// # Errors
    /// [`Misuse`](coordinator_core::ErrorKind::Misuse) if the limit is 0, and what reading meets.
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    pub async fn list(&self, from: Option<&Cursor>, limit: usize) -> Result<Page> {
        if limit == 0 {
            return Err(Error::misuse("sessions.conversation_list", "a page of none"));
        }
        let limit = limit.min(PAGE_MAX);
        let mut entries = Vec::new();
        let mut shard = from.map_or(0, |from| from.shard);
        let mut after = from.and_then(|from| from.after.as_ref());
        while shard < SHARDS {
            let room = limit - entries.len();
            let found = self.entries(Index::All(shard), shard, after.take(), room).await?;
            entries.extend(found);
            if entries.len() == limit {
                let next = entries.last().map(|last| last.cursor.clone());
                return Ok(Page { entries, next });
            }
            shard += 1;
        }
        Ok(Page { entries, next: None })
    }

    /// How many conversations there are.
    ///
    /// # Errors
    /// What reading meets.
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    pub async fn count(&self) -> Result<u64> {
        let counts = (0..SHARDS).map(|shard| self.inner.backend.count(shard));
        Ok(try_join_all(counts).await?.iter().sum())
    }

    async fn entries(
        &self,
        index: Index<'_>,
        shard: u16,
        after: Option<&(u64, Name)>,
        limit: usize,
    ) -> Result<Vec<Entry>> {
        let after = after.map(|(ends, id)| (*ends, id));
        let found = self.inner.backend.list(index, after, limit).await?;
        let entries = found.into_iter().map(|listed| {
            Ok(Entry {
                identity: Identity::of(&listed.id)?,
                expires_in: Duration::from_millis(listed.ends_in_ms),
                cursor: Cursor { shard, after: Some((listed.ends_ms, listed.id)) },
            })
        });
        entries.collect()
    }
}
