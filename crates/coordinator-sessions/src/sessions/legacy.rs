//! Migration from sessions that another program keeps as texts under `<prefix>:<id>`.
//!
//! What such a session becomes is decided here; how its key is found is the adapter's affair.

use super::{
    Sessions,
    data::{Seal, check_field},
    in_ms,
    new::encoded,
    options::ABSOLUTE_MAX,
    packed,
};
use crate::{
    backend::{
        Before, Created, Departure, Existing, FIELDS_MAX, Found, Names, New, Next, Origin, SHARDS,
    },
    redis::legacy::{self, Keys},
    token::Token,
};
use coordinator_core::{
    Result,
    codec::{self, Codec},
    key::Name,
    redis::Connection,
};
use futures::stream::{StreamExt as _, iter};
use serde_json::Value;
use std::{collections::BTreeMap, fmt};

/// How many sessions are written at once.
const AT_ONCE: usize = 32;
/// How many keys are named that could not be read.
const NAMED: usize = 1000;

/// The epoch of what is older than any revocation.
const OLDEST: i64 = 0;

/// How another program keeps its sessions: each as a JSON object or a MessagePack map, a text
/// under `<prefix>:<id>` that expires.
///
/// Where names are is told by a field of the object, or by a path to it, as `passport.user`.
///
/// ```
/// use coordinator_sessions::LegacyLayout;
///
/// let layout = LegacyLayout::new("sess").with_user_field("passport.user");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegacyLayout {
    prefix: String,
    user: Option<String>,
    company: Option<String>,
    crew: Option<String>,
}

impl LegacyLayout {
    /// Sessions of nobody, under `<prefix>:<id>`.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: format!("{prefix}:"), user: None, company: None, crew: None }
    }

    /// Where it says whose a session is: a text or a whole number. A session without it is
    /// nobody's.
    pub fn with_user_field(mut self, field: &str) -> Self {
        self.user = Some(field.to_owned());
        self
    }

    /// Where it says of which company the user is.
    pub fn with_company_field(mut self, field: &str) -> Self {
        self.company = Some(field.to_owned());
        self
    }

    /// Where it says of which crew the user is.
    pub fn with_crew_field(mut self, field: &str) -> Self {
        self.crew = Some(field.to_owned());
        self
    }
}

/// What a migration came to, in sessions.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migrated {
    /// They live here now.
    pub migrated: u64,
    /// They were migrated before, whatever became of them since.
    pub skipped: u64,
    /// Their time was over.
    pub expired: u64,
    /// All sessions of their user or company were revoked here.
    pub revoked: u64,
    /// They could not be read.
    pub unreadable: u64,
    keys: Vec<String>,
}

impl Migrated {
    /// How many sessions were looked at.
    pub fn seen(&self) -> u64 {
        self.migrated + self.skipped + self.expired + self.revoked + self.unreadable
    }

    /// The keys of those that could not be read, the first 1000.
    ///
    /// Such a key holds the id of a session, which is all that its client needs to be let in by
    /// the other program: do not log it.
    pub fn unreadable_keys(&self) -> &[String] {
        &self.keys
    }

    fn add(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Migrated => &mut self.migrated,
            Outcome::Skipped => &mut self.skipped,
            Outcome::Expired => &mut self.expired,
            Outcome::Revoked => &mut self.revoked,
            Outcome::Unreadable(key) => {
                if self.keys.len() < NAMED {
                    self.keys.push(key);
                }
                &mut self.unreadable
            }
        } += 1;
    }
}

impl fmt::Debug for Migrated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Migrated")
            .field("migrated", &self.migrated)
            .field("skipped", &self.skipped)
            .field("expired", &self.expired)
            .field("revoked", &self.revoked)
            .field("unreadable", &self.unreadable)
            .finish_non_exhaustive()
    }
}

enum Outcome {
    Migrated,
    Skipped,
    Expired,
    Revoked,
    Unreadable(String),
}

/// Another program's session, as it was read.
struct Read {
    names: Names,
    /// Not encrypted yet.
    fields: BTreeMap<String, Vec<u8>>,
}

impl Sessions {
    /// Brings along the sessions that another program keeps on one server, each a text under
    /// `<prefix>:<id>`. They stay there as well.
    ///
    /// Clients need not log in again: what a client has is the id, and
    /// [`Token::of_legacy`] finds the session by it for as long as the session lives. Every field
    /// of the object becomes a field of the session. It begins now, with the timeouts of this
    /// client, but an idle timeout as long as it had to live there, if that is longer. A session
    /// of a user or company whose sessions were ever all revoked here counts as older than that,
    /// and is not brought along; where a user may have so many sessions, older ones make room.
    /// One of a user is nobody's for the moment in which it moves to the user's others.
    ///
    /// It can be run again, after an error or without: what was brought along is skipped then, and
    /// does not come back if it was ended here in between; for as long as it could have lived, and
    /// an hour. Nothing is told among the [events](Self::events).
    ///
    /// It looks through all keys of the server with SCAN, the one step that does so: not in a
    /// cluster.
    ///
    /// # Errors
    /// As [`load`](Self::load), of either side; [`Misuse`](coordinator_core::ErrorKind::Misuse) in
    /// a cluster, and for timeouts that cannot be. A value that cannot be read is counted, not an
    /// error.
    ///
    /// # Cancel safety
    /// Dropping the future leaves some sessions migrated: run it again.
    pub async fn migrate_legacy(
        &self,
        source: &Connection,
        layout: &LegacyLayout,
    ) -> Result<Migrated> {
        self.migrate_legacy_telling(source, layout, |_| {}).await
    }

    /// As [`migrate_legacy`](Self::migrate_legacy), and tells how far it is, again and again.
    ///
    /// # Errors
    /// As [`migrate_legacy`](Self::migrate_legacy).
    ///
    /// # Cancel safety
    /// As [`migrate_legacy`](Self::migrate_legacy).
    pub async fn migrate_legacy_telling(
        &self,
        source: &Connection,
        layout: &LegacyLayout,
        mut progress: impl FnMut(&Migrated),
    ) -> Result<Migrated> {
        super::NewSession::anonymous().timeouts(&self.options)?;
        let mut keys = Keys::new(source, &layout.prefix)?;
        let mut sum = Migrated::default();
        while let Some(page) = keys.next().await? {
            let mut written =
                iter(page).map(|found| self.bring_along(layout, found)).buffer_unordered(AT_ONCE);
            while let Some(outcome) = written.next().await {
                sum.add(outcome?);
            }
            progress(&sum);
        }
        Ok(sum)
    }

    async fn bring_along(&self, layout: &LegacyLayout, found: legacy::Found) -> Result<Outcome> {
        let life = match found.left_ms {
            None => 0,
            Some(left) if left > 0 => left.min(in_ms(ABSOLUTE_MAX)),
            Some(_) => return Ok(Outcome::Expired),
        };
        let read = found.value.as_deref().and_then(|value| layout.read(value));
        let id = found.key.strip_prefix(&layout.prefix);
        let (Some(Read { names, fields }), Some(id)) = (read, id) else {
            return Ok(Outcome::Unreadable(found.key));
        };
        let token = Token::of_legacy(id);
        let place = token.place();
        let shard = match &*names.user {
            "" => place.shard,
            user => Name::decode(user)?.shard(SHARDS),
        };
        let before = Before {
            created: Before::NOW,
            last: Before::NOW,
            version: 1,
            of_user: Some(OLDEST),
            of_company: Some(OLDEST),
        };
        let moves = shard != place.shard;
        let nobody = Names { user: String::new(), ..names.clone() };
        let seal = Seal::new(place.id, self.options.ring.clone());
        let fields =
            fields.iter().map(|(field, value)| Ok((field.clone(), seal.close(field, value)?)));
        let idle_ms = in_ms(self.options.idle).max(life);
        let new = New {
            place,
            digest: token.digest(),
            names: if moves { nobody } else { names.clone() },
            idle_ms,
            absolute_ms: in_ms(self.options.absolute).max(idle_ms),
            throttle_ms: self.options.throttle_ms(),
            schema: 0,
            fields: fields.collect::<Result<_>>()?,
            cap: self.room(),
            replaces: None,
            origin: Origin::Restored(before, Existing::Stays),
            announced: false,
        };
        match self.inner.backend.create(&new).await? {
            Created::Made { .. } if !moves => return Ok(Outcome::Migrated),
            // One that was made before may have been left on its way.
            Created::Made { .. } => {}
            Created::Exists if moves => {}
            Created::Exists | Created::Full { .. } | Created::Buried => {
                return Ok(Outcome::Skipped);
            }
            Created::Late => return Ok(Outcome::Expired),
            Created::Stale => return Ok(Outcome::Revoked),
        }
        // Who comes with the old id is told the new token for as long as the session can live.
        let next = token.next(shard)?;
        let (digest, wrapped, grace_ms) = (next.digest(), token.wrap(&next), new.absolute_ms);
        let next = Next { digest, wrapped, grace_ms, names: None, cap: None };
        let departure = Departure { next, shard, of_user: OLDEST, names };
        let departed = self.inner.backend.depart(place, Some(&new.digest), Some(&departure));
        // Else it was rotated, moved or ended meanwhile.
        let Found::Live(moving) = departed.await? else { return Ok(Outcome::Skipped) };
        let arrived = self.arrive(place, moving, false).await?;
        Ok(if arrived.is_live() { Outcome::Migrated } else { Outcome::Revoked })
    }
}

impl LegacyLayout {
    /// Reads a session of another program; `None` if it is none.
    fn read(&self, value: &[u8]) -> Option<Read> {
        let entries = if packed::is_map(value) {
            packed::split(value)?
        } else {
            let object: BTreeMap<String, Value> = serde_json::from_slice(value).ok()?;
            let packed = object
                .into_iter()
                .map(|(field, value)| Some((field, rmp_serde::to_vec_named(&value).ok()?)));
            packed.collect::<Option<_>>()?
        };
        let entries: BTreeMap<String, Vec<u8>> = entries.into_iter().collect();
        if entries.len() > FIELDS_MAX || entries.keys().any(|field| check_field(field).is_err()) {
            return None;
        }
        let name = |path: &Option<String>| name_at(&entries, path.as_deref());
        let names = Names {
            user: name(&self.user)?,
            company: name(&self.company)?,
            crew: name(&self.crew)?,
        };
        let fields = entries
            .into_iter()
            .map(|(field, packed)| Some((field, codec::wrap(Codec::MessagePack, &packed).ok()?)));
        Some(Read { names, fields: fields.collect::<Option<_>>()? })
    }
}

/// The name at a path, encoded, empty where there is none; `None`: what is there is no name.
fn name_at(entries: &BTreeMap<String, Vec<u8>>, path: Option<&str>) -> Option<String> {
    let Some(path) = path else { return Some(String::new()) };
    let (first, rest) = match path.split_once('.') {
        Some(parts) if !entries.contains_key(path) => parts,
        _ => (path, ""),
    };
    let Some(packed) = entries.get(first) else { return Some(String::new()) };
    let value: Value = rmp_serde::from_slice(packed).ok()?;
    let mut steps = rest.split('.').filter(|step| !step.is_empty());
    let found = match steps.try_fold(&value, |value, step| value.get(step)) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) if !number.is_f64() => number.to_string(),
        None | Some(Value::Null) => String::new(),
        Some(_) => return None,
    };
    encoded((!found.is_empty()).then_some(&found)).ok()
}
