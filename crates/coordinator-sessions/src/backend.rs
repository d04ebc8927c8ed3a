//! The port: the atomic steps of sessions, which every backend implements.
//!
//! No retrying, no following of moves, no cache and no encryption happens below this line. Times
//! are ms of the backend's clock.

use crate::token::{Digest, Id, Wrapped};
use coordinator_core::{BoxFuture, Result, clock::Clock};
use std::{fmt, sync::Arc, time::Duration};

/// How many shards sessions are spread over, for ever: it is part of the key layout.
pub(crate) const SHARDS: u16 = 64;

/// How many fields a session may have.
pub(crate) const FIELDS_MAX: usize = 1000;

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) shard: u16,
    pub(crate) id: Id,
}

/// Whose a session is: encoded names, empty for none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) user: String,
    pub(crate) company: String,
    pub(crate) crew: String,
}

impl Names {
    /// Stored beside the names: a flipped bit must not make a session another user's.
    pub(crate) fn checksum(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for name in [&self.user, &self.company, &self.crew] {
            hasher.update(name.as_bytes());
            hasher.update(&[0]);
        }
        hasher.finalize()
    }
}

/// What a session has that its names and its secret do not say.
pub(crate) type Fields = Vec<(String, Vec<u8>)>;

/// Who has to go when a user has too many sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cap {
    pub(crate) most: u32,
    pub(crate) policy: Crowded,
}

/// See [`CapPolicy`](crate::CapPolicy).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crowded {
    Refuse,
    Oldest,
    LeastRecent,
}

/// A session to create.
#[derive(Debug, Clone)]
pub(crate) struct New {
    pub(crate) place: Place,
    pub(crate) digest: Digest,
    pub(crate) names: Names,
    pub(crate) idle_ms: i64,
    pub(crate) absolute_ms: i64,
    pub(crate) throttle_ms: i64,
    pub(crate) schema: u32,
    pub(crate) fields: Fields,
    pub(crate) cap: Option<Cap>,
    /// A session in the same shard that ends for this one, and does not count towards the cap.
    pub(crate) replaces: Option<Id>,
    pub(crate) origin: Origin,
    pub(crate) announced: bool,
}

/// Where a session to create comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    New,
    /// It moves here from another shard.
    Arrives(Before),
    Restored(Before, Existing),
}

/// What a restored session does to one that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    Stays,
    GivesWayToNewer,
    GivesWay,
}

/// What was, of a session that is not new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Before {
    /// [`NOW`](Self::NOW): it begins now, and `last` is now as well.
    pub(crate) created: i64,
    pub(crate) last: i64,
    pub(crate) version: u64,
    /// The epochs that it knew; `None`: as they are.
    pub(crate) of_user: Option<i64>,
    pub(crate) of_company: Option<i64>,
}

impl Before {
    pub(crate) const NOW: i64 = -1;
}

/// How a session stands that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) version: u64,
    pub(crate) expiry: i64,
    pub(crate) now: i64,
}

/// The answer to a creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Created {
    Made {
        written: Written,
        /// How many other sessions had to go.
        evicted: u64,
    },
    /// There is one with this id.
    Exists,
    /// There was one, and it is gone for good.
    Buried,
    /// All sessions of its user or company were revoked since.
    Stale,
    /// Its user has as many sessions as may be.
    Full { live: u64 },
    /// Its time is over.
    Late,
}

/// All that is known of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) version: u64,
    pub(crate) created: i64,
    pub(crate) last: i64,
    pub(crate) expiry: i64,
    /// The backend's time when this was read.
    pub(crate) now: i64,
    pub(crate) idle_ms: i64,
    pub(crate) absolute_ms: i64,
    pub(crate) of_user: i64,
    pub(crate) of_company: i64,
    pub(crate) schema: u32,
    pub(crate) checksum: u32,
    pub(crate) names: Names,
    pub(crate) digest: Digest,
    pub(crate) fields: Fields,
}

/// An answer about a session, which may be gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found<T> {
    Live(T),
    /// There is none, or the secret is not its.
    Absent,
    Expired,
    Revoked(String),
    Moved(Moved),
}

/// A session that lives, with the secret that replaced the one of whoever asked, if it was.
pub(crate) type Known = (Record, Option<Wrapped>);

/// Whither a session moved, or moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) shard: u16,
    /// Whether the secret before is honoured no more.
    pub(crate) late: bool,
    /// The secret there, for who has the one before.
    pub(crate) wrapped: Option<Wrapped>,
    /// Whether it has not arrived yet.
    pub(crate) here: bool,
}

/// A change of fields.
#[derive(Debug, Clone)]
pub(crate) struct Patch {
    /// Tells a second delivery.
    pub(crate) token: [u8; 8],
    /// The version that the session must have.
    pub(crate) version: Option<u64>,
    pub(crate) schema: Option<u32>,
    pub(crate) set: Fields,
    pub(crate) removed: Vec<String>,
    pub(crate) announced: bool,
}

/// The answer to a change of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patched {
    Done(Written),
    /// The session has another version.
    Conflict {
        version: u64,
    },
    TooMany {
        fields: u64,
    },
}

/// A secret to replace the one before.
#[derive(Debug, Clone)]
pub(crate) struct Next {
    pub(crate) digest: Digest,
    pub(crate) wrapped: Wrapped,
    pub(crate) grace_ms: i64,
    /// Other names.
    pub(crate) names: Option<Names>,
    pub(crate) cap: Option<Cap>,
}

/// The answer to a rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rotated {
    Done {
        written: Written,
        /// The secret that replaced the caller's: another's, if another was first. `None`: it was
        /// replaced more than once.
        wrapped: Option<Wrapped>,
    },
    Full {
        live: u64,
    },
}

/// A move to another shard.
#[derive(Debug, Clone)]
pub(crate) struct Departure {
    pub(crate) next: Next,
    pub(crate) shard: u16,
    /// The epoch of the user there, as it was before.
    pub(crate) of_user: i64,
    pub(crate) names: Names,
}

/// A session that moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moving {
    pub(crate) shard: u16,
    pub(crate) of_user: i64,
    pub(crate) grace_ms: i64,
    pub(crate) checksum: u32,
    pub(crate) names: Names,
    pub(crate) digest: Digest,
    pub(crate) wrapped: Wrapped,
    pub(crate) record: Record,
}

/// A set of sessions in a shard.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Index {
    All,
    User(String),
    Company(String),
    Crew(String),
}

impl Index {
    /// What it is called in its shard, on every backend.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::All => "x".to_owned(),
            Self::User(name) => format!("u:{name}"),
            Self::Company(name) => format!("co:{name}"),
            Self::Crew(name) => format!("crew:{name}"),
        }
    }

    /// Reads back what [`key`](Self::key) wrote.
    pub(crate) fn of_key(key: &str) -> Option<Self> {
        let (kind, name) = key.split_once(':')?;
        match kind {
            "u" => Some(Self::User(name.to_owned())),
            "co" => Some(Self::Company(name.to_owned())),
            "crew" => Some(Self::Crew(name.to_owned())),
            _ => None,
        }
    }
}

/// What may be revoked as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whole<'a> {
    User(&'a str),
    Company(&'a str),
}

impl Whole<'_> {
    /// What its epoch is called in its shard, on every backend.
    pub(crate) fn key(self) -> String {
        match self {
            Self::User(name) => format!("g:{name}"),
            Self::Company(name) => format!("gc:{name}"),
        }
    }

    pub(crate) fn index(self) -> Index {
        match self {
            Self::User(name) => Index::User(name.to_owned()),
            Self::Company(name) => Index::Company(name.to_owned()),
        }
    }
}

/// What to do with an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Raise<'a> {
    No,
    /// Above what it is.
    Above(&'a str),
    /// To this at least.
    To(i64, &'a str),
}

/// A page of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) sessions: Vec<(Id, Record)>,
    /// The expiries and ids of those that cannot be read.
    pub(crate) unreadable: Vec<(i64, String)>,
    /// Where to go on; `None`: that was all.
    pub(crate) next: Option<(i64, String)>,
}

/// How many sessions of indexes there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) living: u64,
    /// Those whose time is over, and that nobody has ended yet.
    pub(crate) overdue: u64,
    /// For how long the first of these is.
    pub(crate) late_ms: u64,
}

/// What was done of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Swept {
    pub(crate) ended: u64,
    pub(crate) left: u64,
    pub(crate) more: bool,
}

/// What a reaper found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reaped {
    pub(crate) ended: u64,
    pub(crate) more: bool,
    /// When the next may be due.
    pub(crate) next: Option<Duration>,
}

/// What a comparison of an index with its sessions found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) seen: u64,
    pub(crate) left: u64,
    pub(crate) orphans: u64,
    pub(crate) missing: u64,
    pub(crate) unreadable: u64,
    /// Those that belong into others.
    pub(crate) strays: u64,
    /// In which other indexes the sessions are.
    pub(crate) indexes: Vec<Index>,
}

/// Something that happened to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Happened {
    /// When, in ms of the backend's clock, and which it was in that ms.
    pub(crate) at: (u64, u64),
    pub(crate) event: String,
    pub(crate) id: String,
    pub(crate) names: Names,
    pub(crate) version: u64,
    pub(crate) reason: String,
}

/// Where to read what happened from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// Behind this entry.
    After((u64, u64)),
    /// The newest alone.
    Newest,
    /// Those not older.
    Ago(Duration),
}

/// Hears that something happened in a shard.
pub(crate) trait Alerts: Send + fmt::Debug {
    /// Completes when something may have happened; cancel safe.
    fn next(&mut self) -> BoxFuture<'_, ()>;
}

/// For how long epochs are kept: longer than any session lives.
pub(crate) const EPOCH_TTL: Duration = Duration::from_hours(24 * 800);

pub(crate) trait Backend: Send + Sync + fmt::Debug + 'static {
    /// Where the time of this process comes from.
    fn clock(&self) -> &Arc<dyn Clock>;

    /// Creates a session.
    fn create<'a>(&'a self, new: &'a New) -> BoxFuture<'a, Result<Created>>;

    /// Looks a session up for who holds this digest, or for anybody, and counts that as activity
    /// where there is a throttle. With the secret that replaced the caller's, if it was.
    fn load<'a>(
        &'a self,
        place: Place,
        digest: Option<&'a Digest>,
        throttle_ms: Option<i64>,
    ) -> BoxFuture<'a, Result<Found<Known>>>;

    /// Changes fields of a session.
    fn patch<'a>(
        &'a self,
        place: Place,
        digest: &'a Digest,
        throttle_ms: i64,
        patch: &'a Patch,
    ) -> BoxFuture<'a, Result<Found<Patched>>>;

    /// Gives a session other timeouts.
    fn extend<'a>(
        &'a self,
        place: Place,
        digest: &'a Digest,
        throttle_ms: i64,
        idle_ms: Option<i64>,
        absolute_ms: Option<i64>,
    ) -> BoxFuture<'a, Result<Found<Written>>>;

    /// Gives a session another secret, where it is.
    fn rotate<'a>(
        &'a self,
        place: Place,
        digest: &'a Digest,
        throttle_ms: i64,
        next: &'a Next,
    ) -> BoxFuture<'a, Result<Found<Rotated>>>;

    /// Begins a move to another shard, or tells of one that was begun: without a departure, that
    /// alone.
    fn depart<'a>(
        &'a self,
        place: Place,
        digest: Option<&'a Digest>,
        departure: Option<&'a Departure>,
    ) -> BoxFuture<'a, Result<Found<Moving>>>;

    /// Ends the move to the secret of this digest; whether there was one.
    fn settle<'a>(&'a self, place: Place, to: &'a Digest) -> BoxFuture<'a, Result<bool>>;

    /// Ends a session for good.
    fn invalidate<'a>(
        &'a self,
        place: Place,
        digest: Option<&'a Digest>,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<Found<()>>>;

    /// An epoch in a shard, raised or not.
    fn epoch<'a>(
        &'a self,
        shard: u16,
        whole: Whole<'a>,
        raise: Raise<'a>,
    ) -> BoxFuture<'a, Result<i64>>;

    /// Ends those of an index that were revoked as a whole: looks at so many members behind the
    /// first `skip`.
    fn sweep<'a>(
        &'a self,
        shard: u16,
        index: &'a Index,
        skip: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Swept>>;

    /// Ends those of a shard whose time is over, and says so once each.
    fn reap(&self, shard: u16, limit: usize) -> BoxFuture<'_, Result<Reaped>>;

    /// Lists the living sessions of an index by expiry, behind this expiry and id.
    fn list<'a>(
        &'a self,
        shard: u16,
        index: &'a Index,
        after: Option<&'a (i64, String)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Listed>>;

    /// Counts the sessions of an index in these shards.
    fn count<'a>(&'a self, shards: &'a [u16], index: &'a Index) -> BoxFuture<'a, Result<Count>>;

    /// Compares an index with its sessions, and mends it or not.
    fn verify<'a>(
        &'a self,
        shard: u16,
        index: &'a Index,
        skip: u64,
        limit: usize,
        mend: bool,
    ) -> BoxFuture<'a, Result<Verified>>;

    /// The indexes of users, companies and crews in a shard that no session need name; none where
    /// they expire by themselves.
    fn indexes(&self, _shard: u16) -> BoxFuture<'_, Result<Vec<Index>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Whether it is a file, which nobody looks after between two runs.
    fn in_file(&self) -> bool {
        false
    }

    /// What happened in a shard, the oldest first.
    fn happened(
        &self,
        shard: u16,
        from: From,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Happened>>>;

    /// Hears what happens in a shard; what happens from the return on is heard.
    fn listen(&self, shard: u16) -> BoxFuture<'_, Result<Box<dyn Alerts>>>;
}
