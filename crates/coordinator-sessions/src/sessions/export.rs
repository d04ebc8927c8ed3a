//! Export: sessions as lines of text, to keep or to move.
//!
//! It reads, and knows nothing of where a line goes: [`restore`](super::restore) reads them back.

use super::{Filter, Session, Sessions};
use crate::{
    backend::{Index, Place, Record},
    token::Id,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use coordinator_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    fmt,
};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

/// How many sessions are read at once.
const PAGE: usize = 100;
/// The layout of the lines.
pub(super) const LAYOUT: u32 = 1;
/// What the lines are of.
pub(super) const PART: &str = "sessions";

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) coordinator: String,
    pub(super) layout: u32,
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Footer {
    pub(super) count: u64,
}

/// A session. Bytes are in base64url, times in ms since 1970.
#[derive(Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) id: String,
    pub(super) shard: u16,
    pub(super) digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) company: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) crew: Option<String>,
    pub(super) version: u64,
    pub(super) schema: u32,
    pub(super) created_ms: i64,
    pub(super) last_activity_ms: i64,
    /// For who reads it: it is reckoned anew from the others.
    pub(super) expires_ms: i64,
    pub(super) idle_ms: i64,
    pub(super) absolute_ms: i64,
    pub(super) user_epoch: i64,
    pub(super) company_epoch: i64,
    /// As they are stored.
    pub(super) fields: BTreeMap<String, String>,
}

impl Line {
    fn new(place: Place, record: Record, session: &Session) -> Self {
        let text = |name: Option<&str>| name.map(str::to_owned);
        let fields = record.fields.into_iter();
        Self {
            id: place.id.encode(),
            shard: place.shard,
            digest: URL_SAFE_NO_PAD.encode(record.digest.0),
            user: text(session.user()),
            company: text(session.company()),
            crew: text(session.crew()),
            version: record.version,
            schema: record.schema,
            created_ms: record.created,
            last_activity_ms: record.last,
            expires_ms: record.expiry,
            idle_ms: record.idle_ms,
            absolute_ms: record.absolute_ms,
            user_epoch: record.of_user,
            company_epoch: record.of_company,
            fields: fields.map(|(name, value)| (name, URL_SAFE_NO_PAD.encode(value))).collect(),
        }
    }
}

/// A JSON object with the CRC-32 of the line without it.
fn sealed<T: Serialize>(value: &T) -> Result<String> {
    let why = |error| Error::misuse("sessions.export", format!("a line cannot be made: {error}"));
    let mut line = serde_json::to_string(value).map_err(why)?;
    let crc = crc32fast::hash(line.as_bytes());
    line.pop();
    line.push_str(&format!(",\"crc\":\"{crc:08x}\"}}"));
    Ok(line)
}

/// The object in a line, if the line is what was written.
pub(super) fn unsealed(line: &[u8]) -> Option<Vec<u8>> {
    const TAIL: usize = ",\"crc\":\"00000000\"}".len();
    let (head, tail) = line.split_at_checked(line.len().checked_sub(TAIL)?)?;
    let object = [head, b"}"].concat();
    let crc = crc32fast::hash(&object);
    (tail == format!(",\"crc\":\"{crc:08x}\"}}").as_bytes()).then_some(object)
}

/// How far an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Body,
    Done,
}

/// Sessions as lines of JSON, one each, between a first line that says what they are and a last
/// one that counts them; see [`Sessions::export`].
pub struct Export {
    sessions: Sessions,
    index: Index,
    shards: VecDeque<u16>,
    after: Option<(i64, String)>,
    /// Those of the first shard that were told: one that is used meanwhile is listed again.
    told: HashSet<Id>,
    ready: VecDeque<String>,
    stage: Stage,
    count: u64,
    unreadable: u64,
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Export {
    /// The next line, without a line break; `None`: that was the last.
    ///
    /// # Errors
    /// As [`Sessions::load`]. After an error that passes, the next call goes on where this one
    /// failed.
    ///
    /// # Cancel safety
    /// Cancel safe: no line is lost.
    pub async fn next_line(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                self.count += 1;
                return Ok(Some(line));
            }
            match (self.stage, self.shards.front()) {
                (Stage::Head, _) => {
                    self.stage = Stage::Body;
                    let header = Header { coordinator: PART.to_owned(), layout: LAYOUT };
                    return sealed(&header).map(Some);
                }
                (Stage::Body, Some(&shard)) => self.read(shard).await?,
                (Stage::Body, None) => {
                    self.stage = Stage::Done;
                    if self.unreadable > 0 {
                        let unreadable = self.unreadable;
                        tracing::warn!(unreadable, "sessions that cannot be read are not exported");
                    }
                    return sealed(&Footer { count: self.count }).map(Some);
                }
                (Stage::Done, _) => return Ok(None),
            }
        }
    }

    /// How many sessions were told so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many were left out so far because they cannot be read: what is stored of them is not
    /// what was written. A warning tells it at the end.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Reads a page of the first shard.
    async fn read(&mut self, shard: u16) -> Result<()> {
        let backend = &self.sessions.inner.backend;
        let listed = backend.list(shard, &self.index, self.after.as_ref(), PAGE).await?;
        let (mut lines, mut unreadable) = (Vec::new(), listed.unreadable.len());
        for (id, record) in listed.sessions {
            if self.told.contains(&id) {
                continue;
            }
            let place = Place { shard, id };
            // It compares the checksum of the names, and reads them.
            let session = match Session::new(&self.sessions.options, place, record.clone(), None) {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    unreadable += 1;
                    continue;
                }
                session => session?,
            };
            lines.push((id, sealed(&Line::new(place, record, &session))?));
        }
        for (id, line) in lines {
            self.told.insert(id);
            self.ready.push_back(line);
        }
        self.unreadable += u64::try_from(unreadable).unwrap_or(u64::MAX);
        self.after = listed.next;
        if self.after.is_none() {
            self.told.clear();
            self.shards.pop_front();
        }
        Ok(())
    }
}

impl Sessions {
    /// Sessions as lines of JSON, to keep them elsewhere or to [`restore`](Self::restore) them.
    ///
    /// A line holds all that is stored of a session, with a checksum: the SHA-256 of its secret,
    /// its names, times, versions and fields, those that are encrypted as they are. Nobody is let
    /// in by what an export holds; who reads it reads the fields that are not encrypted.
    ///
    /// Sessions that have expired or were revoked are not in it. Each line is a session as it was
    /// at one moment, but not all lines are of the same moment: what is created, ended or moved
    /// to another user meanwhile may be in it or not. Left out is what goes with rotations that
    /// have just been: the tokens before are not honoured where it is restored. A session that is
    /// on its way to another shard is left out, too, and one that cannot be read
    /// ([`Export::unreadable`]).
    ///
    /// # Errors
    /// [`Misuse`](ErrorKind::Misuse) for a filter with a name that cannot be.
    pub fn export(&self, filter: &Filter) -> Result<Export> {
        let (index, shards) = filter.plan()?;
        Ok(Export {
            sessions: self.clone(),
            index,
            shards: shards.into(),
            after: None,
            told: HashSet::new(),
            ready: VecDeque::new(),
            stage: Stage::Head,
            count: 0,
            unreadable: 0,
        })
    }

    /// Writes an [`export`](Self::export), with a line break behind each line; how many sessions
    /// that were. Those that cannot be read are left out, and a warning says how many they are.
    ///
    /// # Errors
    /// As [`load`](Self::load), and [`Unavailable`](ErrorKind::Unavailable) if it cannot be
    /// written. What was written then has no last line, which [`restore`](Self::restore) notices.
    ///
    /// # Cancel safety
    /// Dropping the future leaves what was written so far, likewise.
    ///
    /// # Examples
    /// ```
    /// # use coordinator_sessions::{Filter, NewSession, RestoreMode, Sessions};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (old, new) = (Sessions::embedded(), Sessions::embedded());
    /// let session = old.create(NewSession::user("ann")).await?.session()?;
    ///
    /// let mut file = Vec::new(); // or a tokio::fs::File
    /// assert_eq!(old.export_to(&Filter::all(), &mut file).await?, 1);
    /// assert_eq!(new.restore(&file[..], RestoreMode::Skip).await?.restored, 1);
    /// assert!(new.load(session.token().expect("a token")).await?.is_live());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn export_to(
        &self,
        filter: &Filter,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Result<u64> {
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Unavailable, "sessions.export").with_source(error)
        };
        let mut export = self.export(filter)?;
        while let Some(mut line) = export.next_line().await? {
            line.push('\n');
            writer.write_all(line.as_bytes()).await.map_err(failed)?;
        }
        writer.flush().await.map_err(failed)?;
        Ok(export.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back_and_every_flipped_bit_and_every_cut_is_noticed() {
        let line = sealed(&Footer { count: 70 }).expect("a line");
        assert_eq!(line, "{\"count\":70,\"crc\":\"123c6fd8\"}", "fixed for ever");
        assert_eq!(unsealed(line.as_bytes()).expect("whole"), b"{\"count\":70}");
        for at in 0..line.len() {
            assert_eq!(unsealed(&line.as_bytes()[..at]), None, "cut at {at}");
            assert_eq!(unsealed(&line.as_bytes()[at + 1..]), None, "cut before {at}");
            for bit in 0..8 {
                let mut flipped = line.clone().into_bytes();
                flipped[at] ^= 1 << bit;
                assert_eq!(unsealed(&flipped), None, "bit {bit} of {at}");
            }
        }
    }
}
