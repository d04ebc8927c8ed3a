//! Restoring what was exported. It never makes live what was ended where it is restored to.

use super::{
    Filter, Sessions,
    data::check_field,
    export::{Export, Footer, Header, LAYOUT, Line, PART, unsealed},
    in_ms,
    new::encoded,
    options::ABSOLUTE_MAX,
    shard_of,
};
use crate::{
    backend::{Before, Created, Existing, FIELDS_MAX, From, Names, New, Origin, Place, SHARDS},
    token::{Digest, Id},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use coordinator_core::{Error, ErrorKind, Result};
use futures::stream::{FuturesUnordered, StreamExt as _};
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

/// How many sessions are written at once.
const AT_ONCE: usize = 32;
/// The longest line in bytes.
const LINE_MAX: u64 = 256 * 1024 * 1024;
/// How many events are read at once.
const PAGE: usize = 1000;
/// For how long a shard keeps its events at most.
const EVENTS_KEPT: Duration = Duration::from_hours(24 * 7);
/// What a server can reckon with exactly.
const NUMBER_MAX: i64 = 1 << 53;

/// What becomes of a session that is there already. One that was ended stays so in every mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestoreMode {
    /// It stays as it is.
    Skip,
    /// It gives way to one with a higher version, or with the same version and a later activity.
    NewerWins,
    /// It gives way, whatever was changed since; the token of the export is again the one that
    /// counts, also where it was rotated since.
    Overwrite,
}

/// What restoring came to, in sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// They live, as they were.
    pub restored: u64,
    /// They were there already, and stayed as they were.
    pub skipped: u64,
    /// They were ended or had expired here, or have moved on, and stay so.
    pub ended: u64,
    /// Their time was over.
    pub expired: u64,
    /// All sessions of their user or company were revoked since, here.
    pub revoked: u64,
}

impl Restored {
    /// How many sessions were looked at.
    pub fn seen(&self) -> u64 {
        self.restored + self.skipped + self.ended + self.expired + self.revoked
    }

    fn add(&mut self, created: Created) {
        *match created {
            Created::Made { .. } => &mut self.restored,
            // There is no cap to be full.
            Created::Exists | Created::Full { .. } => &mut self.skipped,
            Created::Buried => &mut self.ended,
            Created::Late => &mut self.expired,
            Created::Stale => &mut self.revoked,
        } += 1;
    }
}

impl Sessions {
    /// Restores sessions from an [`export`](Self::export), under their ids and with their tokens:
    /// clients notice nothing.
    ///
    /// No session that was ended here comes back, nor one of a user or company whose sessions were
    /// all revoked here since. Its timeouts go on from when it was last used, whatever the options
    /// of this client; the cap of a user is not asked, and encrypted values need the ring that
    /// they were written with. Nothing is told among the [events](Self::events).
    ///
    /// It can be run again, after an error or without: in the first two modes, sessions that were
    /// restored are skipped then.
    ///
    /// # Errors
    /// As [`load`](Self::load). [`Corrupt`](ErrorKind::Corrupt) for a line that is not what was
    /// written, or where the last line is missing: the error says which line, nothing of that line
    /// is written, and what stood before it is restored. [`Unavailable`](ErrorKind::Unavailable)
    /// also if the lines cannot be read.
    ///
    /// # Cancel safety
    /// Dropping the future leaves some sessions restored: run it again.
    pub async fn restore(
        &self,
        reader: impl AsyncBufRead + Unpin,
        mode: RestoreMode,
    ) -> Result<Restored> {
        self.restore_telling(reader, mode, |_| {}).await
    }

    /// As [`restore`](Self::restore), and tells how far it is, again and again.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    ///
    /// # Cancel safety
    /// As [`restore`](Self::restore).
    pub async fn restore_telling(
        &self,
        reader: impl AsyncBufRead + Unpin,
        mode: RestoreMode,
        progress: impl FnMut(&Restored),
    ) -> Result<Restored> {
        self.restore_lines(Source::Reader(reader), mode, progress).await
    }

    /// Copies all sessions from elsewhere: from memory or a file, or from another server. They
    /// stay there as well.
    ///
    /// As an [`export`](Self::export) there that is restored here in
    /// [`RestoreMode::NewerWins`]: run again, it brings along what was created and changed since,
    /// and what was changed here alone stays. What was ended there since is ended here, too, as
    /// far as its [events](Self::history) tell.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    ///
    /// # Cancel safety
    /// As [`restore`](Self::restore).
    pub async fn migrate_from(&self, other: &Self) -> Result<Restored> {
        self.migrate_from_telling(other, RestoreMode::NewerWins, |_| {}).await
    }

    /// As [`migrate_from`](Self::migrate_from) in another mode, and tells how far it is, again and
    /// again.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    ///
    /// # Cancel safety
    /// As [`restore`](Self::restore).
    pub async fn migrate_from_telling(
        &self,
        other: &Self,
        mode: RestoreMode,
        progress: impl FnMut(&Restored),
    ) -> Result<Restored> {
        let lines = Box::new(other.export(&Filter::all())?);
        let lines = Source::<tokio::io::Empty>::Export(lines);
        let restored = self.restore_lines(lines, mode, progress).await?;
        self.end_as_there(other).await?;
        Ok(restored)
    }

    /// Ends what an earlier migration copied and was ended there since.
    async fn end_as_there(&self, other: &Self) -> Result<()> {
        for shard in 0..SHARDS {
            let mut from = From::Ago(EVENTS_KEPT);
            loop {
                let page = other.inner.backend.happened(shard, from, PAGE).await?;
                let Some(last) = page.last() else { break };
                from = From::After(last.at);
                for ended in page.iter().filter(|one| one.event == "invalidated") {
                    let Some(id) = Id::decode(&ended.id) else { continue };
                    let place = Place { shard, id };
                    self.inner.backend.invalidate(place, None, &ended.reason).await?;
                }
            }
        }
        self.inner.local.forget_all();
        Ok(())
    }

    async fn restore_lines<R: AsyncBufRead + Unpin>(
        &self,
        source: Source<R>,
        mode: RestoreMode,
        mut progress: impl FnMut(&Restored),
    ) -> Result<Restored> {
        let existing = match mode {
            RestoreMode::Skip => Existing::Stays,
            RestoreMode::NewerWins => Existing::GivesWayToNewer,
            RestoreMode::Overwrite => Existing::GivesWay,
        };
        let throttle = self.options.throttle_ms();
        let mut lines = Lines { source, number: 0, count: 0, ended: false };
        let mut sum = Restored::default();
        let mut failed = None;
        let mut writing = FuturesUnordered::new();
        let mut reading = true;
        while reading || !writing.is_empty() {
            if reading && writing.len() < AT_ONCE {
                match lines.next(throttle, existing).await {
                    Ok(Some(new)) => writing.push(self.bring_back(lines.number, new)),
                    Ok(None) => reading = false,
                    Err(error) => failed = Some(error),
                }
            } else {
                match writing.next().await {
                    Some(Ok(created)) => sum.add(created),
                    // What was met first is told.
                    Some(Err(error)) => failed = failed.or(Some(error)),
                    None => {}
                }
                progress(&sum);
            }
            // What is on its way is waited for.
            reading &= failed.is_none();
        }
        self.inner.local.forget_all();
        failed.map_or(Ok(sum), Err)
    }

    async fn bring_back(&self, number: u64, new: New) -> Result<Created> {
        self.inner.backend.create(&new).await.map_err(|error| {
            Error::new(error.kind(), "sessions.restore")
                .with_source(format!("line {number}: {}", error.chain()))
        })
    }
}

fn refused(number: u64, why: &str) -> Error {
    Error::corrupt("sessions.restore", format!("line {number}: {why}"))
}

/// Where lines come from.
enum Source<R> {
    Reader(R),
    Export(Box<Export>),
}

impl<R: AsyncBufRead + Unpin> Source<R> {
    /// The next line, without its line break.
    async fn line(&mut self) -> Result<Option<Vec<u8>>> {
        let reader = match self {
            Self::Reader(reader) => reader,
            Self::Export(export) => return Ok(export.next_line().await?.map(String::into_bytes)),
        };
        let mut line = Vec::new();
        let read = reader.take(LINE_MAX).read_until(b'\n', &mut line).await;
        read.map_err(|error| {
            Error::new(ErrorKind::Unavailable, "sessions.restore").with_source(error)
        })?;
        if line.last() == Some(&b'\n') {
            line.pop();
            return Ok(Some(line));
        }
        Ok((!line.is_empty()).then_some(line))
    }
}

/// The sessions of a source, line by line.
struct Lines<R> {
    source: Source<R>,
    /// Of the line that was read last.
    number: u64,
    count: u64,
    ended: bool,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// The next session.
    async fn next(&mut self, throttle_ms: i64, existing: Existing) -> Result<Option<New>> {
        loop {
            let Some(line) = self.source.line().await? else {
                let why = "the last line is missing: the rest was cut off";
                let next = self.number + 1;
                return if self.ended { Ok(None) } else { Err(refused(next, why)) };
            };
            self.number += 1;
            let read = self
                .read(&line)
                .and_then(|line| line.map(|line| line.read(throttle_ms, existing)).transpose());
            if let Some(new) = read.map_err(|why| refused(self.number, why))? {
                self.count += 1;
                return Ok(Some(new));
            }
        }
    }

    /// A session, if that is what the line holds.
    fn read(&mut self, line: &[u8]) -> Result<Option<Line>, &'static str> {
        if self.ended {
            return Err("something stands behind the last line");
        }
        let object = unsealed(line).ok_or("it is not what was written")?;
        let shape = |_| "it has another shape";
        if self.number == 1 {
            let header: Header = serde_json::from_slice(&object).map_err(shape)?;
            return match (&*header.coordinator, header.layout) {
                (PART, LAYOUT) => Ok(None),
                (PART, _) => Err("it is of a layout that this version does not know"),
                _ => Err("it is no export of sessions"),
            };
        }
        if object.starts_with(b"{\"count\":") {
            let footer: Footer = serde_json::from_slice(&object).map_err(shape)?;
            self.ended = true;
            return if footer.count == self.count {
                Ok(None)
            } else {
                Err("lines before it are missing")
            };
        }
        serde_json::from_slice(&object).map(Some).map_err(shape)
    }
}

impl Line {
    /// The session to create, if it can be one.
    fn read(self, throttle_ms: i64, existing: Existing) -> Result<New, &'static str> {
        let id = Id::decode(&self.id).filter(|id| id.encode() == self.id);
        let place = Place { shard: self.shard, id: id.ok_or("an id that cannot be")? };
        let digest: Option<[u8; 32]> =
            URL_SAFE_NO_PAD.decode(&self.digest).ok().and_then(|digest| digest.try_into().ok());
        let name =
            |name: &Option<String>| encoded(name.as_deref()).map_err(|_| "a name that cannot be");
        let names = Names {
            user: name(&self.user)?,
            company: name(&self.company)?,
            crew: name(&self.crew)?,
        };
        if place.shard >= SHARDS || !names.user.is_empty() && shard_of(&names.user) != place.shard {
            return Err("a shard that cannot be");
        }
        let life = 1..=in_ms(ABSOLUTE_MAX);
        let version = i64::try_from(self.version).unwrap_or(i64::MAX);
        let numbers =
            [self.created_ms, self.last_activity_ms, self.user_epoch, self.company_epoch, version];
        if !life.contains(&self.idle_ms)
            || !life.contains(&self.absolute_ms)
            || numbers.iter().any(|number| !(0..=NUMBER_MAX).contains(number))
        {
            return Err("a number that cannot be");
        }
        if self.fields.len() > FIELDS_MAX {
            return Err("more fields than there may be");
        }
        let fields = self.fields.into_iter().map(|(field, value)| {
            check_field(&field).map_err(|_| "a field that cannot be")?;
            let value = URL_SAFE_NO_PAD.decode(value).map_err(|_| "a value that cannot be")?;
            Ok::<_, &'static str>((field, value))
        });
        let before = Before {
            created: self.created_ms,
            last: self.last_activity_ms,
            version: self.version,
            of_user: Some(self.user_epoch),
            of_company: Some(self.company_epoch),
        };
        Ok(New {
            place,
            digest: Digest(digest.ok_or("a digest that cannot be")?),
            names,
            idle_ms: self.idle_ms,
            absolute_ms: self.absolute_ms,
            throttle_ms,
            schema: self.schema,
            fields: fields.collect::<Result<_, _>>()?,
            cap: None,
            replaces: None,
            origin: Origin::Restored(before, existing),
            announced: false,
        })
    }
}
