//! Backends with planted faults, each of which the contract must catch.

use crate::{
    documents::backend::{
        Backend, Condition, Listed, Past, Place, Slice, Stored, Token, Write, Wrote,
    },
    embedded::Embedded,
};
use coordinator_core::{BoxFuture, Result, clock::Clock, key::Name};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    ComparesNoVersion,
    WritesOverWhatIsThere,
    ForgetsWrites,
    ForgetsDeletes,
    BeginsVersionsAnew,
    AlwaysRenews,
    NeverRenews,
    KeepsNoHistory,
    KeepsAllHistory,
    KeepsHistoryOfWhatIsDeleted,
    WritesWhenExtending,
    ReadsWhatHasEnded,
    CountsWhatHasEnded,
    ListsWithoutCursor,
    ListsWithoutPrefix,
    MixesNames,
}

pub(super) const ALL: &[Fault] = &[
    Fault::ComparesNoVersion,
    Fault::WritesOverWhatIsThere,
    Fault::ForgetsWrites,
    Fault::ForgetsDeletes,
    Fault::BeginsVersionsAnew,
    Fault::AlwaysRenews,
    Fault::NeverRenews,
    Fault::KeepsNoHistory,
    Fault::KeepsAllHistory,
    Fault::KeepsHistoryOfWhatIsDeleted,
    Fault::WritesWhenExtending,
    Fault::ReadsWhatHasEnded,
    Fault::CountsWhatHasEnded,
    Fault::ListsWithoutCursor,
    Fault::ListsWithoutPrefix,
    Fault::MixesNames,
];

#[derive(Debug)]
pub(super) struct Broken {
    good: Embedded,
    fault: Fault,
    tokens: AtomicU64,
    written: Mutex<HashSet<String>>,
    read: Mutex<HashMap<String, Stored>>,
    past: Mutex<HashMap<String, Vec<Past>>>,
}

impl Broken {
    pub(super) fn new(good: Embedded, fault: Fault) -> Self {
        Self {
            good,
            fault,
            tokens: AtomicU64::new(0),
            written: Mutex::default(),
            read: Mutex::default(),
            past: Mutex::default(),
        }
    }

    fn fresh(&self) -> Token {
        let number = self.tokens.fetch_add(1, Ordering::Relaxed);
        Token { id: Name::new(&format!("fresh {number}")).expect("a name"), ttl_ms: 60_000 }
    }

    fn place(&self, place: &Place) -> Place {
        let mut place = place.clone();
        if self.fault == Fault::MixesNames {
            let decoded = place.namespace.as_str().replace("%3A", ":");
            place = Place::new(&Name::new(&decoded).expect("a name"), &place.name);
        }
        place
    }
}

impl Backend for Broken {
    fn clock(&self) -> &Arc<dyn Clock> {
        self.good.clock()
    }

    fn put<'a>(&'a self, place: &'a Place, write: &'a Write) -> BoxFuture<'a, Result<Wrote>> {
        let (place, mut write) = (self.place(place), write.clone());
        match (self.fault, write.condition) {
            (Fault::ComparesNoVersion, Condition::Version(_))
            | (Fault::WritesOverWhatIsThere, Condition::Absent) => {
                write.condition = Condition::Any;
            }
            (Fault::ForgetsWrites, _) => write.token = self.fresh(),
            (Fault::AlwaysRenews, _) => write.keep_ttl = false,
            (Fault::NeverRenews, _) => write.keep_ttl = true,
            (Fault::KeepsNoHistory, _) => write.history = 0,
            (Fault::KeepsAllHistory, _) => write.history = 1000,
            _ => {}
        }
        self.written.lock().expect("unpoisoned").insert(place.key());
        Box::pin(async move { self.good.put(&place, &write).await })
    }

    fn get<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<Option<Stored>>> {
        let place = self.place(place);
        Box::pin(async move {
            let found = self.good.get(&place).await?;
            if self.fault != Fault::ReadsWhatHasEnded {
                return Ok(found);
            }
            let mut read = self.read.lock().expect("unpoisoned");
            if let Some(found) = found {
                read.insert(place.key(), found);
            }
            Ok(read.get(&place.key()).cloned())
        })
    }

    fn history<'a>(&'a self, place: &'a Place, limit: u64) -> BoxFuture<'a, Result<Vec<Past>>> {
        Box::pin(async move {
            if let Some(past) = self.past.lock().expect("unpoisoned").get(&place.key()) {
                return Ok(past.clone());
            }
            self.good.history(place, limit).await
        })
    }

    fn extend<'a>(&'a self, place: &'a Place, ttl_ms: u64) -> BoxFuture<'a, Result<Option<u64>>> {
        Box::pin(async move {
            if self.fault != Fault::WritesWhenExtending {
                return self.good.extend(place, ttl_ms).await;
            }
            let Some(found) = self.good.get(place).await? else { return Ok(None) };
            let write = Write {
                condition: Condition::Any,
                ttl_ms: ttl_ms.max(found.left_ms.unwrap_or(0)),
                keep_ttl: false,
                history: found.former,
                data: found.data.into(),
                token: self.fresh(),
            };
            match self.good.put(place, &write).await? {
                Wrote::Stored { until_ms, .. } => Ok(Some(until_ms)),
                Wrote::Conflict(_) => Ok(None),
            }
        })
    }

    fn delete<'a>(&'a self, place: &'a Place, token: &'a Token) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            if self.fault == Fault::KeepsHistoryOfWhatIsDeleted {
                let past = self.good.history(place, 1000).await?;
                self.past.lock().expect("unpoisoned").entry(place.key()).or_insert(past);
            }
            if self.fault == Fault::BeginsVersionsAnew {
                let last = format!("d{}:last", place.shard);
                self.good.store.step(move |tx| tx.remove(&last)).await?;
            }
            let fresh = self.fresh();
            let forgets = self.fault == Fault::ForgetsDeletes;
            self.good.delete(place, if forgets { &fresh } else { token }).await
        })
    }

    fn list<'a>(&'a self, slice: &'a Slice) -> BoxFuture<'a, Result<Listed>> {
        let mut slice = slice.clone();
        match self.fault {
            Fault::ListsWithoutCursor => slice.after.clear(),
            Fault::ListsWithoutPrefix => slice.prefix.clear(),
            _ => {}
        }
        Box::pin(async move { self.good.list(&slice).await })
    }

    fn count<'a>(&'a self, namespace: &'a Name, shard: u16) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            if self.fault == Fault::CountsWhatHasEnded {
                return Ok(self.written.lock().expect("unpoisoned").len() as u64);
            }
            self.good.count(namespace, shard).await
        })
    }
}
