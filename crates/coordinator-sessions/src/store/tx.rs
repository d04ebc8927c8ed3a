//! One transaction: values that expire, sets ordered by score, capped logs.
//!
//! A key is text. What has expired at the time of the transaction is not there, as on a server:
//! a value with the end `until` is there in that ms, and no more in the next.

use super::failed;
use coordinator_core::{Error, Result};
use redb::{ReadableTable as _, Table, TableDefinition, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};

/// Values by key: when they end, in ms, and what they are, in MessagePack.
const VALUES: TableDefinition<'static, &str, (Option<i64>, &[u8])> = TableDefinition::new("values");
/// The keys that end, by when.
const ENDS: TableDefinition<'static, (i64, &str), ()> = TableDefinition::new("ends");
/// Scores by set and member.
const SCORES: TableDefinition<'static, (&str, &str), i64> = TableDefinition::new("scores");
/// The same, in order.
const RANKS: TableDefinition<'static, (&str, i64, &str), ()> = TableDefinition::new("ranks");
/// How many members a set has.
const SIZES: TableDefinition<'static, &str, u64> = TableDefinition::new("sizes");
/// Entries of logs, by log, ms and number in the ms.
const LOGS: TableDefinition<'static, (&str, i64, u64), &[u8]> = TableDefinition::new("logs");
/// What is known of the file itself.
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");

/// How many values that have ended a transaction with changes removes besides.
const SWEPT: usize = 16;

/// A transaction; see [`Store::step`](super::Store::step).
pub(crate) struct Tx<'a> {
    now_us: i64,
    changed: bool,
    values: Table<'a, &'static str, (Option<i64>, &'static [u8])>,
    ends: Table<'a, (i64, &'static str), ()>,
    scores: Table<'a, (&'static str, &'static str), i64>,
    ranks: Table<'a, (&'static str, i64, &'static str), ()>,
    sizes: Table<'a, &'static str, u64>,
    logs: Table<'a, (&'static str, i64, u64), &'static [u8]>,
    meta: Table<'a, &'static str, u64>,
}

fn fault(error: impl std::fmt::Display) -> Error {
    failed(&error)
}

impl<'a> Tx<'a> {
    pub(super) fn new(write: &'a WriteTransaction, now_us: i64) -> Result<Self> {
        Ok(Self {
            now_us,
            changed: false,
            values: write.open_table(VALUES).map_err(fault)?,
            ends: write.open_table(ENDS).map_err(fault)?,
            scores: write.open_table(SCORES).map_err(fault)?,
            ranks: write.open_table(RANKS).map_err(fault)?,
            sizes: write.open_table(SIZES).map_err(fault)?,
            logs: write.open_table(LOGS).map_err(fault)?,
            meta: write.open_table(META).map_err(fault)?,
        })
    }

    /// Whether there is anything to keep; what has ended goes along with that.
    pub(super) fn end(mut self) -> Result<bool> {
        if self.changed {
            let now = self.now_ms();
            let due = self.ends.range::<(i64, &str)>(..(now, "")).map_err(fault)?.take(SWEPT);
            let keys = due.map(|entry| Ok(entry.map_err(fault)?.0.value().1.to_owned()));
            for key in keys.collect::<Result<Vec<String>>>()? {
                self.remove(&key)?;
            }
        }
        Ok(self.changed)
    }

    pub(super) fn layout(&self) -> Result<Option<u64>> {
        Ok(self.meta.get("layout").map_err(fault)?.map(|layout| layout.value()))
    }

    pub(super) fn set_layout(&mut self, layout: u64) -> Result<()> {
        self.changed = true;
        self.meta.insert("layout", layout).map_err(fault)?;
        Ok(())
    }

    /// The time of this transaction, in µs since 1970.
    pub(crate) fn now_us(&self) -> i64 {
        self.now_us
    }

    /// The same in whole ms.
    pub(crate) fn now_ms(&self) -> i64 {
        self.now_us.div_euclid(1000)
    }

    /// A value, unless it has ended.
    pub(crate) fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let Some(entry) = self.values.get(key).map_err(fault)? else { return Ok(None) };
        let (until, stored) = entry.value();
        if until.is_some_and(|until| until < self.now_ms()) {
            return Ok(None);
        }
        let value = rmp_serde::from_slice(stored);
        let why = |error| Error::corrupt("store", format!("a value cannot be read: {error}"));
        value.map(Some).map_err(why)
    }

    /// When a value ends, in ms; `None` if it is not there or never ends.
    pub(crate) fn until(&self, key: &str) -> Result<Option<i64>> {
        let entry = self.values.get(key).map_err(fault)?;
        let until = entry.and_then(|entry| entry.value().0);
        Ok(until.filter(|until| *until >= self.now_ms()))
    }

    /// Writes a value in place of any other, until a time in ms.
    pub(crate) fn put<T: Serialize>(
        &mut self,
        key: &str,
        value: &T,
        until: Option<i64>,
    ) -> Result<()> {
        let why = |error| Error::misuse("store", format!("a value cannot be written: {error}"));
        let stored = rmp_serde::to_vec_named(value).map_err(why)?;
        self.changed = true;
        let before = self.values.insert(key, (until, stored.as_slice())).map_err(fault)?;
        let before = before.and_then(|entry| entry.value().0);
        if before != until {
            if let Some(before) = before {
                self.ends.remove((before, key)).map_err(fault)?;
            }
            if let Some(until) = until {
                self.ends.insert((until, key), ()).map_err(fault)?;
            }
        }
        Ok(())
    }

    /// Removes a value; whether it was there, and had not ended.
    pub(crate) fn remove(&mut self, key: &str) -> Result<bool> {
        let before = self.values.remove(key).map_err(fault)?.map(|entry| entry.value().0);
        let Some(until) = before else { return Ok(false) };
        self.changed = true;
        if let Some(until) = until {
            self.ends.remove((until, key)).map_err(fault)?;
        }
        Ok(until.is_none_or(|until| until >= self.now_ms()))
    }

    /// Puts a member into a set, or gives it another score.
    pub(crate) fn rank(&mut self, set: &str, member: &str, score: i64) -> Result<()> {
        let before = self.scores.insert((set, member), score).map_err(fault)?;
        let before = before.map(|before| before.value());
        if before == Some(score) {
            return Ok(());
        }
        self.changed = true;
        match before {
            Some(before) => {
                self.ranks.remove((set, before, member)).map_err(fault)?;
            }
            None => self.resize(set, 1)?,
        }
        self.ranks.insert((set, score, member), ()).map_err(fault)?;
        Ok(())
    }

    /// Takes a member out of a set; whether it was in it.
    pub(crate) fn unrank(&mut self, set: &str, member: &str) -> Result<bool> {
        let before = self.scores.remove((set, member)).map_err(fault)?;
        let Some(before) = before.map(|before| before.value()) else { return Ok(false) };
        self.changed = true;
        self.ranks.remove((set, before, member)).map_err(fault)?;
        self.resize(set, -1)?;
        Ok(true)
    }

    fn resize(&mut self, set: &str, by: i64) -> Result<()> {
        let before = self.sizes.get(set).map_err(fault)?.map_or(0, |size| size.value());
        let after = before.saturating_add_signed(by);
        if after == 0 {
            self.sizes.remove(set).map_err(fault)?;
        } else {
            self.sizes.insert(set, after).map_err(fault)?;
        }
        Ok(())
    }

    /// The score of a member.
    pub(crate) fn score(&self, set: &str, member: &str) -> Result<Option<i64>> {
        Ok(self.scores.get((set, member)).map_err(fault)?.map(|score| score.value()))
    }

    /// Members behind this score and member, in order of score and then of their bytes, with their
    /// scores.
    pub(crate) fn ranked(
        &self,
        set: &str,
        after: (i64, &str),
        limit: usize,
    ) -> Result<Vec<(String, i64)>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = (set, after.0, after.1);
        let range = self.ranks.range::<(&str, i64, &str)>((Excluded(from), Unbounded));
        let mut found = Vec::new();
        for entry in range.map_err(fault)?.take(limit) {
            let entry = entry.map_err(fault)?;
            let (of, score, member) = entry.0.value();
            if of != set {
                break;
            }
            found.push((member.to_owned(), score));
        }
        Ok(found)
    }

    /// The sets whose names begin so.
    pub(crate) fn sets(&self, prefix: &str) -> Result<Vec<String>> {
        let mut sets = Vec::new();
        for entry in self.sizes.range::<&str>(prefix..).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            let set = entry.0.value();
            if !set.starts_with(prefix) {
                break;
            }
            sets.push(set.to_owned());
        }
        Ok(sets)
    }

    /// How many members have at least this score.
    pub(crate) fn count_from(&self, set: &str, score: i64) -> Result<u64> {
        let all = self.sizes.get(set).map_err(fault)?.map_or(0, |size| size.value());
        let range = self.ranks.range::<(&str, i64, &str)>((set, i64::MIN, "")..(set, score, ""));
        // Those below are few: what has ended and was not removed yet.
        let below = range.map_err(fault)?.count();
        Ok(all.saturating_sub(below.try_into().unwrap_or(u64::MAX)))
    }

    /// Appends to a log, which keeps the newest; the id is the ms and the number in that ms.
    pub(crate) fn append<T: Serialize>(
        &mut self,
        log: &str,
        entry: &T,
        keep: usize,
    ) -> Result<(i64, u64)> {
        let why = |error| Error::misuse("store", format!("an entry cannot be written: {error}"));
        let stored = rmp_serde::to_vec_named(entry).map_err(why)?;
        let last = self.newest(log)?;
        let id = match last {
            Some((ms, number)) if ms >= self.now_ms() => (ms, number + 1),
            _ => (self.now_ms(), 0),
        };
        self.changed = true;
        self.logs.insert((log, id.0, id.1), stored.as_slice()).map_err(fault)?;
        let size = format!("log:{log}");
        self.resize(&size, 1)?;
        let count = self.sizes.get(size.as_str()).map_err(fault)?.map_or(0, |size| size.value());
        if count > keep.try_into().unwrap_or(u64::MAX) {
            let first = self.entries::<serde::de::IgnoredAny>(log, (i64::MIN, 0), 1)?;
            if let Some(((ms, number), _)) = first.first() {
                self.logs.remove((log, *ms, *number)).map_err(fault)?;
                self.resize(&size, -1)?;
            }
        }
        Ok(id)
    }

    /// The id of the newest entry of a log.
    pub(crate) fn newest(&self, log: &str) -> Result<Option<(i64, u64)>> {
        let all = (log, i64::MIN, 0)..=(log, i64::MAX, u64::MAX);
        let mut range = self.logs.range::<(&str, i64, u64)>(all).map_err(fault)?;
        let Some(last) = range.next_back() else { return Ok(None) };
        let (_, ms, number) = last.map_err(fault)?.0.value();
        Ok(Some((ms, number)))
    }

    /// Entries of a log behind this one, the oldest first.
    pub(crate) fn entries<T: DeserializeOwned>(
        &self,
        log: &str,
        after: (i64, u64),
        limit: usize,
    ) -> Result<Vec<((i64, u64), T)>> {
        use std::ops::Bound::{Excluded, Included};
        let (from, to) = ((log, after.0, after.1), (log, i64::MAX, u64::MAX));
        let range = self.logs.range::<(&str, i64, u64)>((Excluded(from), Included(to)));
        let mut found = Vec::new();
        for entry in range.map_err(fault)?.take(limit) {
            let (id, stored) = entry.map_err(fault)?;
            let (_, ms, number) = id.value();
            let why = |error| Error::corrupt("store", format!("an entry cannot be read: {error}"));
            found.push(((ms, number), rmp_serde::from_slice(stored.value()).map_err(why)?));
        }
        Ok(found)
    }
}
