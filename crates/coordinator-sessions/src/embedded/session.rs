//! One shard of sessions in the store: what is kept of a session, of its indexes and of its grave.

use super::Fields;
use crate::{
    backend::{Cap, Count, Crowded, From, Happened, Index, Moved, Names},
    store::Tx,
    token::{Digest, Id, Wrapped},
};
use coordinator_core::{ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// For how long it is told that a session has expired, rather than never been, in ms.
const REMEMBERED: i64 = 3_600_000;
/// How many events a shard keeps.
const EVENTS: usize = 4096;

/// As [`Names`], as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Called {
    pub(super) user: String,
    pub(super) company: String,
    crew: String,
}

impl core::convert::From<Names> for Called {
    fn from(names: Names) -> Self {
        Self { user: names.user, company: names.company, crew: names.crew }
    }
}

impl core::convert::From<Called> for Names {
    fn from(called: Called) -> Self {
        Self { user: called.user, company: called.company, crew: called.crew }
    }
}

/// A session as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    pub(super) created: i64,
    pub(super) last: i64,
    pub(super) version: u64,
    pub(super) expiry: i64,
    pub(super) idle: i64,
    pub(super) absolute: i64,
    pub(super) of_user: i64,
    pub(super) of_company: i64,
    pub(super) schema: u32,
    pub(super) checksum: u32,
    pub(super) names: Called,
    pub(super) digest: [u8; 32],
    /// Of the last write.
    pub(super) token: [u8; 8],
    /// The digest before, and until when it is honoured.
    pub(super) past: Option<([u8; 32], i64)>,
    /// The beginnings of older ones, and the same.
    pub(super) older: Vec<(Vec<u8>, i64)>,
    pub(super) moving: Option<Move>,
    /// Once its life was shortened: the longest absolute timeout that it ever had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) longest: Option<i64>,
    pub(super) fields: Fields,
}

impl Session {
    /// When it ends if it was active just now.
    pub(super) fn ends(&self, throttle: i64) -> i64 {
        (self.last + self.idle + throttle).min(self.created + self.absolute)
    }

    /// Counts as activity, which is written down once per throttle at most; whether it was.
    pub(super) fn touch(&mut self, now: i64, throttle: i64) -> bool {
        if now - self.last < throttle {
            return false;
        }
        self.last = now;
        self.expiry = self.ends(throttle);
        true
    }

    /// The longest absolute timeout that it ever had.
    pub(super) fn ever(&self) -> i64 {
        self.longest.unwrap_or(0).max(self.absolute)
    }

    pub(super) fn indexes(&self) -> Vec<Index> {
        let of = |name: &String, index: fn(String) -> Index| {
            (!name.is_empty()).then(|| index(name.clone()))
        };
        let mut all = vec![Index::All];
        all.extend(of(&self.names.user, Index::User));
        all.extend(of(&self.names.company, Index::Company));
        all.extend(of(&self.names.crew, Index::Crew));
        all
    }
}

/// Whither a session moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Move {
    pub(super) shard: u16,
    pub(super) of_user: i64,
    pub(super) grace: i64,
    pub(super) checksum: u32,
    pub(super) names: Called,
    pub(super) digest: [u8; 32],
    pub(super) wrapped: [u8; 32],
}

/// What is left of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Grave {
    Expired,
    Revoked(String),
    Moved { shard: u16, until: i64, digest: [u8; 32], version: u64 },
}

/// An epoch, and why it was raised.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Epoch {
    pub(super) number: i64,
    pub(super) reason: String,
}

/// An event as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    event: String,
    id: String,
    names: Called,
    version: u64,
    reason: String,
}

/// How a session stands for whoever asks.
#[derive(Debug)]
pub(super) enum Standing {
    /// With 1 if the digest is that of before the last rotation, 2 if of an older one.
    Live(Session, Option<u8>),
    Absent,
    Expired,
    Revoked(String),
    Moving(Session),
    Moved(Moved),
    /// The digest was replaced, and its grace is over.
    Replayed(Session),
}

/// What was read; `None`: it is broken.
pub(super) fn readable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        read => read.map(Some),
    }
}

/// One shard in a transaction.
pub(super) struct Shard<'t, 'a> {
    tx: &'t mut Tx<'a>,
    number: u16,
}

impl<'t, 'a> Shard<'t, 'a> {
    pub(super) fn new(tx: &'t mut Tx<'a>, number: u16) -> Self {
        Self { tx, number }
    }

    pub(super) fn now(&self) -> i64 {
        self.tx.now_ms()
    }

    fn key(&self, kind: &str, name: &str) -> String {
        format!("s{}:{kind}:{name}", self.number)
    }

    fn set(&self, index: &Index) -> String {
        format!("s{}:{}", self.number, index.key())
    }

    pub(super) fn session(&self, id: &Id) -> Result<Option<Session>> {
        self.tx.get(&self.key("s", &id.encode()))
    }

    /// A session for those who pass by: one that cannot be read must not be in the way of others.
    pub(super) fn passing(&self, id: &Id) -> Result<Option<Session>> {
        Ok(readable(self.session(id))?.flatten())
    }

    pub(super) fn keep(&mut self, id: &Id, session: &Session) -> Result<()> {
        // Until the reaper ends it: indexes do not end by themselves here, as on a server.
        let key = self.key("s", &id.encode());
        self.tx.put(&key, session, None)
    }

    pub(super) fn grave(&self, id: &Id) -> Result<Option<Grave>> {
        self.tx.get(&self.key("t", &id.encode()))
    }

    /// Removes a grave, for one that came back and was created then; the longest absolute timeout
    /// that it ever had.
    pub(super) fn exhume(&mut self, id: &Id, created: i64) -> Result<Option<i64>> {
        let key = self.key("t", &id.encode());
        let until = self.tx.until(&key)?;
        self.tx.remove(&key)?;
        Ok(until.map(|until| until - REMEMBERED - created).filter(|longest| *longest > 0))
    }

    pub(super) fn wrapped(&self, id: &Id) -> Result<Option<Wrapped>> {
        Ok(self.tx.get(&self.key("w", &id.encode()))?.map(Wrapped))
    }

    pub(super) fn keep_wrapped(&mut self, id: &Id, wrapped: Wrapped, grace: i64) -> Result<()> {
        let (key, until) = (self.key("w", &id.encode()), self.now() + grace.max(1));
        self.tx.put(&key, &wrapped.0, Some(until))
    }

    /// The epoch of a name, by the kind of its key.
    pub(super) fn epoch(&self, name: &str, kind: &str) -> Result<Epoch> {
        if name.is_empty() {
            Ok(Epoch::default())
        } else {
            self.epoch_at(&format!("{kind}:{name}"))
        }
    }

    pub(super) fn epoch_at(&self, key: &str) -> Result<Epoch> {
        Ok(self.tx.get(&format!("s{}:{key}", self.number))?.unwrap_or_default())
    }

    pub(super) fn keep_epoch(&mut self, key: &str, epoch: &Epoch, ttl: i64) -> Result<()> {
        let until = self.now() + ttl;
        self.tx.put(&format!("s{}:{key}", self.number), epoch, Some(until))
    }

    /// Why all of its user's or company's sessions were revoked since it was created, if so.
    pub(super) fn revoked(&self, session: &Session) -> Result<Option<String>> {
        let names = &session.names;
        let of = [(&names.user, "g", session.of_user), (&names.company, "gc", session.of_company)];
        for (name, kind, known) in of {
            let epoch = self.epoch(name, kind)?;
            if epoch.number > known {
                return Ok(Some(epoch.reason));
            }
        }
        Ok(None)
    }

    pub(super) fn rank(&mut self, index: &Index, id: &Id, expiry: i64) -> Result<()> {
        let set = self.set(index);
        self.tx.rank(&set, &id.encode(), expiry)
    }

    pub(super) fn index(&mut self, id: &Id, session: &Session) -> Result<()> {
        for index in session.indexes() {
            self.rank(&index, id, session.expiry)?;
        }
        Ok(())
    }

    pub(super) fn unindex(&mut self, id: &Id, session: &Session) -> Result<()> {
        for index in session.indexes() {
            self.drop_from(&index, &id.encode())?;
        }
        Ok(())
    }

    /// Whether a session that was met in this index is listed as it should be: everywhere, if it
    /// was met among all; elsewhere, whether it is among all.
    pub(super) fn is_indexed(&self, id: &Id, session: &Session, met: &Index) -> Result<bool> {
        if *met != Index::All {
            return Ok(self.tx.score(&self.set(&Index::All), &id.encode())?.is_some());
        }
        for index in session.indexes() {
            if self.tx.score(&self.set(&index), &id.encode())? != Some(session.expiry) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn drop_from(&mut self, index: &Index, member: &str) -> Result<bool> {
        let set = self.set(index);
        self.tx.unrank(&set, member)
    }

    /// Takes out what is listed and cannot be ended as a session is.
    pub(super) fn discard(&mut self, member: &str) -> Result<()> {
        self.tx.remove(&self.key("s", member))?;
        self.drop_from(&Index::All, member)?;
        Ok(())
    }

    /// The indexes that there are, but for that of all.
    pub(super) fn names(&self) -> Result<Vec<Index>> {
        let base = format!("s{}:", self.number);
        let sets = self.tx.sets(&base)?;
        Ok(sets.iter().filter_map(|set| Index::of_key(set.strip_prefix(&base)?)).collect())
    }

    /// Has the reaper look at a member.
    pub(super) fn due_now(&mut self, member: &str) -> Result<()> {
        let (set, now) = (self.set(&Index::All), self.now());
        if self.tx.score(&set, member)?.is_some() {
            self.tx.rank(&set, member, now)?;
        }
        Ok(())
    }

    pub(super) fn ranked(
        &self,
        index: &Index,
        after: (i64, &str),
        limit: usize,
    ) -> Result<Vec<(String, i64)>> {
        self.tx.ranked(&self.set(index), after, limit)
    }

    /// Members in order, behind the first `skip`.
    pub(super) fn members(&self, index: &Index, skip: u64, limit: usize) -> Result<Vec<String>> {
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let all = self.ranked(index, (i64::MIN, ""), skip.saturating_add(limit))?;
        Ok(all.into_iter().skip(skip).map(|(member, _)| member).collect())
    }

    pub(super) fn count(&mut self, index: &Index) -> Result<Count> {
        let (set, now) = (self.set(index), self.now());
        let living = self.tx.count_from(&set, now + 1)?;
        let overdue = self.tx.count_from(&set, i64::MIN)? - living;
        let first = self.tx.ranked(&set, (i64::MIN, ""), 1)?.pop();
        let late = first.map_or(0, |(_, expiry)| (now - expiry).max(0));
        Ok(Count { living, overdue, late_ms: u64::try_from(late).unwrap_or(0) })
    }

    /// Which of a user's sessions must go before there is room for one more, and how many live;
    /// those that are moving away are not counted, nor is the one that is replaced.
    pub(super) fn crowd(
        &self,
        user: &str,
        id: &Id,
        replaced: Option<&Id>,
        cap: Cap,
    ) -> Result<(Vec<(Id, Session)>, u64)> {
        let index = Index::User(user.to_owned());
        let members = self.ranked(&index, (self.now(), "~"), usize::MAX)?;
        let mut live = Vec::new();
        for other in members.iter().filter_map(|(member, _)| Id::decode(member)) {
            let Some(session) = self.passing(&other)? else { continue };
            let counts = session.moving.is_none() && self.revoked(&session)?.is_none();
            if other != *id && Some(&other) != replaced && counts {
                live.push((other, session));
            }
        }
        live.sort_by_key(|(id, session)| {
            let by =
                if cap.policy == Crowded::LeastRecent { session.last } else { session.created };
            (by, id.encode())
        });
        let count = live.len();
        let most = usize::try_from(cap.most).unwrap_or(usize::MAX);
        live.truncate((count + 1).saturating_sub(most));
        Ok((live, count.try_into().unwrap_or(u64::MAX)))
    }

    pub(super) fn announce(
        &mut self,
        id: &str,
        event: &str,
        session: Option<&Session>,
        reason: &str,
    ) -> Result<()> {
        let entry = Entry {
            event: event.to_owned(),
            id: id.to_owned(),
            names: session.map_or_else(|| Names::default().into(), |s| s.names.clone()),
            version: session.map_or(0, |session| session.version),
            reason: reason.to_owned(),
        };
        let log = self.key("ev", "");
        self.tx.append(&log, &entry, EVENTS)?;
        Ok(())
    }

    pub(super) fn happened(&self, from: From, limit: usize) -> Result<Vec<Happened>> {
        let log = self.key("ev", "");
        let signed = |(ms, number): (u64, u64)| (i64::try_from(ms).unwrap_or(i64::MAX), number);
        let after = match from {
            From::After(id) => signed(id),
            From::Newest => match self.tx.newest(&log)? {
                Some((ms, 0)) => (ms - 1, u64::MAX),
                Some((ms, number)) => (ms, number - 1),
                None => return Ok(Vec::new()),
            },
            From::Ago(ago) => {
                let ago = i64::try_from(ago.as_millis().max(1)).unwrap_or(i64::MAX);
                (self.now().saturating_sub(ago).max(0) - 1, u64::MAX)
            }
        };
        let entries = self.tx.entries::<Entry>(&log, after, limit)?;
        let told = entries.into_iter().map(|((ms, number), entry)| Happened {
            at: (u64::try_from(ms).unwrap_or(0), number),
            event: entry.event,
            id: entry.id,
            names: entry.names.into(),
            version: entry.version,
            reason: entry.reason,
        });
        Ok(told.collect())
    }

    /// Leaves a grave in a session's place, for as long as it could have lived, by whatever copy of
    /// it, so that nothing late revives it. No copy of one that expired lives longer than it did,
    /// unless its life was shortened.
    pub(super) fn entomb(&mut self, id: &Id, session: &Session, grave: &Grave) -> Result<()> {
        let text = id.encode();
        self.tx.remove(&self.key("s", &text))?;
        self.tx.remove(&self.key("w", &text))?;
        let now = self.now();
        let rest = match grave {
            Grave::Expired if session.longest.is_none() => REMEMBERED,
            _ => (session.created + session.ever() - now).max(0) + REMEMBERED,
        };
        let key = self.key("t", &text);
        self.tx.put(&key, grave, Some(now + rest))
    }

    /// Ends a session.
    pub(super) fn bury(
        &mut self,
        id: &Id,
        session: &Session,
        event: &str,
        reason: &str,
    ) -> Result<()> {
        let grave = match event {
            "expired" => Grave::Expired,
            _ => Grave::Revoked(reason.to_owned()),
        };
        self.entomb(id, session, &grave)?;
        self.unindex(id, session)?;
        self.announce(&id.encode(), event, Some(session), reason)
    }

    /// How a session stands for who holds this digest, or for who needs none.
    pub(super) fn standing(&self, id: &Id, digest: Option<&Digest>) -> Result<Standing> {
        let now = self.now();
        let Some(session) = self.session(id)? else {
            return Ok(match self.grave(id)? {
                None => Standing::Absent,
                Some(Grave::Expired) => Standing::Expired,
                Some(Grave::Revoked(reason)) => Standing::Revoked(reason),
                Some(Grave::Moved { digest: old, .. })
                    if digest.is_some_and(|digest| digest.0 != old) =>
                {
                    Standing::Absent
                }
                Some(Grave::Moved { shard, until, .. }) => Standing::Moved(Moved {
                    shard,
                    late: now >= until,
                    wrapped: self.wrapped(id)?,
                    here: false,
                }),
            });
        };
        let mut grace = None;
        if let Some(digest) = digest.filter(|digest| digest.0 != session.digest) {
            let past = session.past.filter(|(past, _)| *past == digest.0).map(|(_, until)| until);
            // The newest of those that begin alike is written last on a server; so here.
            let older = session.older.iter().rfind(|(older, _)| **older == digest.0[..8]);
            grace = past.map(|until| (1, until)).or(older.map(|(_, until)| (2, *until)));
            if grace.is_none() {
                return Ok(Standing::Absent);
            }
        }
        Ok(if let Some(reason) = self.revoked(&session)? {
            Standing::Revoked(reason)
        } else if now >= session.expiry {
            Standing::Expired
        } else if grace.is_some_and(|(_, until)| now >= until) {
            Standing::Replayed(session)
        } else if session.moving.is_some() {
            if grace.is_some() { Standing::Absent } else { Standing::Moving(session) }
        } else {
            Standing::Live(session, grace.map(|(which, _)| which))
        })
    }
}
