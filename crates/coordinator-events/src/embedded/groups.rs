//! Groups of consumers in process.

use super::{State, live, ms};
use crate::{
    backend::{
        Acked, Again, Attempt, Crew, Defer, Deferred, Letter, Standing, Stored, Take, Taken, Token,
    },
    cursor::{Id, Nonce},
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What was taken, of which nobody has said yet that it is done.
#[derive(Debug, Clone)]
struct Work {
    deliveries: u32,
    token: Token,
    consumer: String,
    reason: String,
    due: i64,
    nonce: Nonce,
    envelope: Bytes,
}

/// Up to where a group has taken, its work, and its dead letters; both in the order of a server's
/// sorted set.
#[derive(Debug, Default)]
pub(super) struct Group {
    at: Id,
    due: BTreeSet<(i64, String)>,
    work: HashMap<Id, Work>,
    /// Each with the token of its last delivery.
    dead: BTreeMap<(i64, String), (Token, Letter)>,
}

impl Group {
    fn put(&mut self, id: Id, work: Work) {
        if let Some(old) = self.work.get(&id) {
            self.due.remove(&(old.due, id.to_string()));
        }
        self.due.insert((work.due, id.to_string()));
        self.work.insert(id, work);
    }

    fn remove(&mut self, id: Id) -> Option<Work> {
        let work = self.work.remove(&id)?;
        self.due.remove(&(work.due, id.to_string()));
        Some(work)
    }

    fn held(&self, attempt: Attempt) -> Option<&Work> {
        self.work.get(&attempt.id).filter(|work| work.token == attempt.token)
    }

    fn is_dead(&self, attempt: Attempt) -> bool {
        let of =
            |(token, letter): &(Token, Letter)| *token == attempt.token && letter.id == attempt.id;
        self.dead.values().any(of)
    }

    /// Ends the delivery that is under way.
    pub(super) fn end(&mut self, attempt: Attempt) -> Acked {
        let id = attempt.id;
        if self.held(attempt).is_some() {
            self.remove(id);
            return Acked::Done;
        }
        let dead = self.dead.values().any(|(_, letter)| letter.id == id);
        if dead || self.work.contains_key(&id) || self.at < id {
            return Acked::Gone;
        }
        Acked::Before
    }

    pub(super) fn bury(&mut self, attempt: Attempt, reason: Option<&str>, now: i64) -> bool {
        if self.held(attempt).is_none() {
            return self.is_dead(attempt);
        }
        let Some(work) = self.remove(attempt.id) else { return false };
        self.forget_letter(attempt.id);
        let letter = Letter {
            id: attempt.id,
            at_ms: u64::try_from(now).unwrap_or(0),
            deliveries: work.deliveries,
            consumer: work.consumer,
            reason: reason.map_or(work.reason, str::to_owned),
            nonce: work.nonce,
            envelope: work.envelope,
        };
        self.dead.insert((now, attempt.id.to_string()), (work.token, letter));
        true
    }

    pub(super) fn defer(&mut self, attempt: Attempt, defer: &Defer, now: i64) -> Deferred {
        let Some(mut work) = self.held(attempt).cloned() else {
            let buried = !defer.reason.is_empty() && self.is_dead(attempt);
            return if buried { Deferred::Buried } else { Deferred::Gone };
        };
        if !defer.reason.is_empty() {
            if work.deliveries >= defer.deliveries {
                self.bury(attempt, Some(&defer.reason), now);
                return Deferred::Buried;
            }
            work.reason.clone_from(&defer.reason);
        }
        work.due = now + ms(defer.in_ms);
        self.put(attempt.id, work);
        Deferred::Done
    }

    fn forget_letter(&mut self, id: Id) -> Option<Letter> {
        let key = self.dead.keys().find(|(_, text)| *text == id.to_string())?.clone();
        self.dead.remove(&key).map(|(_, letter)| letter)
    }

    pub(super) fn revive(&mut self, id: Id, again: bool, now: i64) -> bool {
        let Some(letter) = self.forget_letter(id) else { return false };
        if again {
            let Letter { consumer, reason, nonce, envelope, .. } = letter;
            // Counted anew. Nobody has it, however many had it in the life before.
            let (deliveries, token) = (0, Token::default());
            let work = Work { deliveries, token, consumer, reason, due: now, nonce, envelope };
            self.put(id, work);
        }
        true
    }

    pub(super) fn letters(&self, skip: usize, limit: usize) -> Vec<Letter> {
        self.dead.values().skip(skip).take(limit).map(|(_, letter)| letter.clone()).collect()
    }

    pub(super) fn standing(&self, last: Id, now: i64) -> Standing {
        let due = self.due.iter().take_while(|(due, _)| *due <= now).count();
        let (under_way, due, dead) = (self.work.len() as u64, due as u64, self.dead.len() as u64);
        Standing { under_way, due, dead, at: self.at, last }
    }

    fn due_ms(&self, now: i64) -> Option<u64> {
        self.due.first().map(|(due, _)| u64::try_from(due - now).unwrap_or(0))
    }

    fn take_due(&mut self, take: &Take, now: i64) -> (u64, Vec<Again>) {
        let due: Vec<Id> = self
            .due
            .iter()
            .take_while(|(due, _)| *due <= now)
            .take(take.most)
            .filter_map(|(_, id)| id.parse().ok())
            .collect();
        let (mut buried, mut again) = (0, Vec::new());
        for id in due {
            let Some(mut work) = self.work.get(&id).cloned() else { continue };
            if work.deliveries >= take.deliveries {
                self.bury(Attempt { id, token: work.token }, None, now);
                buried += 1;
                continue;
            }
            work.deliveries += 1;
            work.token = take.token;
            work.consumer.clone_from(&take.consumer);
            work.due = now + ms(take.lease_ms);
            again.push(Again {
                id,
                deliveries: work.deliveries,
                nonce: work.nonce,
                envelope: work.envelope.clone(),
            });
            self.put(id, work);
        }
        (buried, again)
    }
}

/// What a consumer was told last, and to which take.
pub(super) type Told = (Token, Taken);

impl State {
    /// The last answer, if it was this take's and nothing of it is anybody else's by now.
    fn again(&mut self, crew: &Crew, take: &Take, now: i64) -> Option<Taken> {
        let told = live(&mut self.told, &(crew.clone(), take.seat), now)?;
        let ((token, mut taken), due) = told.clone();
        let (group, _) = live(&mut self.groups, crew, now)?;
        if token != take.token || due <= now {
            return None;
        }
        for again in &mut taken.again {
            let work = group.held(Attempt { id: again.id, token })?;
            (again.nonce, again.envelope) = (work.nonce, work.envelope.clone());
        }
        for new in &mut taken.new {
            let work = group.held(Attempt { id: new.id, token })?;
            (new.nonce, new.envelope) = (work.nonce, work.envelope.clone());
        }
        let left_ms = u64::try_from(due - now).unwrap_or(0);
        Some(Taken { due_ms: group.due_ms(now), left_ms, ..taken })
    }

    pub(super) fn take(&mut self, crew: &Crew, take: &Take, now: i64) -> Taken {
        if let Some(told) = self.again(crew, take, now) {
            return told;
        }
        let last = self.last(&crew.scope, now);
        let there = live(&mut self.groups, crew, now).is_some();
        let (group, until) = self.groups.entry(crew.clone()).or_default();
        *until = now + ms(take.ttl_ms);
        let from = there.then_some(group.at);
        let (buried, again) = group.take_due(take, now);
        let begin = from.or(take.begin);
        let mut new: Vec<Stored> = Vec::new();
        match begin {
            None => group.at = last,
            Some(begin) if last < begin && last != Id::START => group.at = last,
            Some(begin) => {
                group.at = begin;
                let stream = self.streams.get(crew.scope.as_str());
                let after = stream.into_iter().flat_map(|(stream, _)| stream.after(begin));
                new.extend(after.take(take.most - again.len()).cloned());
            }
        }
        for event in &new {
            let work = Work {
                deliveries: 1,
                token: take.token,
                consumer: take.consumer.clone(),
                reason: String::new(),
                due: now + ms(take.lease_ms),
                nonce: event.nonce,
                envelope: event.envelope.clone(),
            };
            group.put(event.id, work);
            group.at = event.id;
        }
        let (due_ms, left_ms, to) = (group.due_ms(now), take.lease_ms, group.at);
        let taken = Taken { due_ms, left_ms, buried, again, from, to, new };
        if !taken.again.is_empty() || !taken.new.is_empty() || from != Some(to) {
            let told = ((take.token, taken.clone()), now + ms(take.lease_ms));
            self.told.insert((crew.clone(), take.seat), told);
        }
        taken
    }
}
