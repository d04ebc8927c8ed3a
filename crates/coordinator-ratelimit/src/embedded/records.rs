//! Violations and offenders in process.

use super::unsigned;
use crate::backend::{From, Offender, Record};
use std::collections::{HashMap, VecDeque};

/// How many records a shard keeps, and how many offenders.
const VIOLATIONS: usize = 10_000;
const OFFENDERS: usize = 1000;
/// For how long, in ms.
const DAY: u64 = 86_400_000;

#[derive(Debug, Default)]
pub(super) struct Records(HashMap<u16, Shard>);

#[derive(Debug, Default)]
struct Shard {
    records: VecDeque<Record>,
    last: (u64, u64),
    top: HashMap<String, Offender>,
    top_until: u64,
}

impl Records {
    pub(super) fn add(&mut self, shard: u16, mut record: Record, weight: u64, t: i64) {
        let shard = self.0.entry(shard).or_default();
        let ms = unsigned(t) / 1000;
        shard.last = if ms > shard.last.0 { (ms, 0) } else { (shard.last.0, shard.last.1 + 1) };
        record.id = shard.last;
        if weight > 0 {
            if ms > shard.top_until {
                shard.top.clear();
                shard.top_until = ms + DAY;
            }
            let name = record.name.clone();
            let offender =
                shard.top.entry(name.clone()).or_insert(Offender { name, denials: 0, last_ms: 0 });
            offender.denials += weight;
            offender.last_ms = ms;
            if shard.top.len() > OFFENDERS {
                let least = shard.top.values().min_by_key(|known| (known.denials, &known.name));
                if let Some(least) = least.map(|least| least.name.clone()) {
                    shard.top.remove(&least);
                }
            }
        }
        shard.records.push_back(record);
        if shard.records.len() > VIOLATIONS {
            shard.records.pop_front();
        }
    }

    pub(super) fn read(&self, shard: u16, from: From, limit: usize, t: i64) -> Vec<Record> {
        let Some(shard) = self.0.get(&shard) else { return Vec::new() };
        if from == From::Newest {
            return shard.records.back().cloned().into_iter().collect();
        }
        let wanted = |record: &&Record| match from {
            From::Newest => false,
            From::After(id) => record.id > id,
            From::Ago(ago) => {
                let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
                record.id.0 >= (unsigned(t) / 1000).saturating_sub(ago)
            }
        };
        shard.records.iter().filter(wanted).take(limit).cloned().collect()
    }

    pub(super) fn top(&self, shard: u16, limit: usize, t: i64) -> Vec<Offender> {
        let alive = |shard: &&Shard| unsigned(t) / 1000 <= shard.top_until;
        let Some(shard) = self.0.get(&shard).filter(alive) else { return Vec::new() };
        let mut top: Vec<_> = shard.top.values().cloned().collect();
        top.sort_by(|a, b| (b.denials, &b.name).cmp(&(a.denials, &a.name)));
        top.truncate(limit);
        top
    }
}
