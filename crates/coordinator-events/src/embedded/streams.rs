//! Streams of events in process.

use super::{State, live, ms};
use crate::{
    backend::{Before, Entry, From, Page, Posted, Stored},
    cursor::Id,
};
use coordinator_core::key::Name;
use std::collections::VecDeque;

/// The events of a scope, and the last id there ever was.
#[derive(Debug, Default)]
pub(super) struct Stream {
    events: VecDeque<Stored>,
    pub(super) last: Id,
}

impl Stream {
    pub(super) fn page(&self, from: From, limit: usize) -> Page {
        let events = match from {
            From::First => self.events.iter().take(limit).cloned().collect(),
            From::At(id) => self.from(id).take(limit).cloned().collect(),
            From::Last => self.events.back().cloned().into_iter().collect(),
        };
        Page { last: self.last, events }
    }

    fn from(&self, id: Id) -> impl Iterator<Item = &Stored> {
        self.events.range(self.events.partition_point(|event| event.id < id)..)
    }

    /// Those after an id.
    pub(super) fn after(&self, id: Id) -> impl Iterator<Item = &Stored> {
        self.events.range(self.events.partition_point(|event| event.id <= id)..)
    }

    pub(super) fn trim(&mut self, first: Id) -> u64 {
        let gone = self.events.partition_point(|event| event.id < first);
        self.events.drain(..gone);
        gone as u64
    }

    fn push(&mut self, event: Stored, keep: u64) {
        self.last = event.id;
        self.events.push_back(event);
        while self.events.len() as u64 > keep {
            self.events.pop_front();
        }
    }

    #[cfg(test)]
    pub(super) fn set_back(&mut self, last: Id) {
        self.events.retain(|event| event.id <= last);
        self.last = last;
    }

    #[cfg(test)]
    pub(super) fn lose(&mut self, id: Id) {
        self.events.retain(|event| event.id != id);
    }
}

impl State {
    pub(super) fn last(&mut self, scope: &Name, now: i64) -> Id {
        let stream = live(&mut self.streams, &scope.as_str().to_owned(), now);
        stream.map_or(Id::START, |(stream, _)| stream.last)
    }

    pub(super) fn publish(&mut self, scope: &Name, entry: &Entry, now: i64) -> Posted {
        let name = scope.as_str().to_owned();
        let mark = entry.once.as_ref().map(|(key, _)| (name.clone(), key.as_str().to_owned()));
        if let Some(mark) = &mark
            && let Some((id, _)) = live(&mut self.once, mark, now)
        {
            return Posted::Before(*id);
        }
        let last = live(&mut self.streams, &name, now).map(|(stream, _)| stream.last);
        let reigns = live(&mut self.reigns, &name, now).is_some();
        let anew = last.is_none_or(|last| last.epoch < entry.epoch) || entry.check && !reigns;
        let epoch = last.map_or(0, |last| last.epoch);
        if entry.strict && (anew || epoch != entry.epoch) {
            return Posted::Fenced(epoch);
        }
        let last = if !entry.check && !entry.strict && entry.epoch > epoch {
            // As a server, which has overwritten it by then, and knows the last that is there.
            let stream = self.streams.get(&name);
            last.map(|_| stream.and_then(|(stream, _)| stream.events.back()).map(|event| event.id))
        } else {
            last.map(Some)
        };
        let (id, before) = match last {
            Some(Some(last)) if !anew => (last.next(), Before::Dense),
            last => {
                let now = u64::try_from(now).unwrap_or(0);
                let epoch = now.max(epoch + 1).max(entry.epoch + 1);
                (Id { epoch, number: 0 }, last.flatten().map_or(Before::Nothing, Before::Last))
            }
        };
        let mut nonce = [0; 8];
        nonce.copy_from_slice(&entry.frame[..8]);
        let stored = Stored { id, before, nonce, envelope: entry.frame.slice(8..) };
        let until = now + ms(entry.ttl_ms);
        let stream = self.streams.entry(name.clone()).or_default();
        stream.0.push(stored.clone(), entry.keep);
        if entry.prolongs || entry.check || id.epoch != entry.epoch {
            // Another publisher may have been promised more.
            stream.1 = stream.1.max(until);
        }
        if entry.check {
            let reign = self.reigns.entry(name).or_default();
            reign.1 = reign.1.max(until);
        }
        if let (Some(mark), Some((_, remembered_ms))) = (mark, &entry.once) {
            self.once.insert(mark, (id, now + ms(*remembered_ms)));
        }
        if let Some(listeners) = self.listeners.get(scope.as_str()) {
            // Without a listener nobody is told.
            let _ = listeners.send(stored);
        }
        Posted::New(id)
    }
}
