//! The adapter in process: the executable specification of the scripts.
//!
//! One mutex, one small transition per step, on the clock's wall clock in whole ms, as keys of a
//! server expire.

mod groups;
mod streams;

use crate::{
    backend::{
        Acked, Announced, Attempt, Backend, COUNTED_MS, Crew, Defer, Deferred, Entry, Feed, From,
        Heard, Letter, Page, Posted, Standing, Stored, Take, Taken,
    },
    cursor::Id,
};
use bytes::Bytes;
use coordinator_core::{BoxFuture, Result, clock::Clock, key::Name};
use groups::{Group, Told};
use std::{
    collections::HashMap,
    fmt,
    future::ready,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use streams::Stream;
use tokio::sync::broadcast::{self, error::RecvError};

/// How many messages of one channel wait for a slow listener before it is told of a loss.
const PER_CHANNEL: usize = 256;
/// After how many writes what has expired is looked for.
const SWEEP: u64 = 1024;

pub(crate) struct Embedded {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// As a server that nobody can read.
    #[cfg(test)]
    away: std::sync::atomic::AtomicBool,
}

/// A value, and until which ms it lasts.
type Expiring<T> = (T, i64);

#[derive(Default)]
struct State {
    streams: HashMap<String, Expiring<Stream>>,
    /// Scopes whose server is known.
    reigns: HashMap<String, Expiring<()>>,
    /// What idempotency keys were used for.
    once: HashMap<(String, String), Expiring<Id>>,
    topics: HashMap<String, Expiring<u64>>,
    groups: HashMap<Crew, Expiring<Group>>,
    /// By group and consumer.
    told: HashMap<(Crew, u64), Expiring<Told>>,
    listeners: HashMap<String, broadcast::Sender<Stored>>,
    followers: HashMap<String, broadcast::Sender<Announced>>,
    writes: u64,
}

/// What is there and has not expired: a key of a server lasts its last ms.
fn live<'a, K: std::hash::Hash + Eq, V>(
    all: &'a mut HashMap<K, Expiring<V>>,
    key: &K,
    now: i64,
) -> Option<&'a mut Expiring<V>> {
    if all.get(key).is_some_and(|(_, until)| *until < now) {
        all.remove(key);
    }
    all.get_mut(key)
}

fn ms(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX / 4)
}

impl State {
    fn sweep(&mut self, now: i64) {
        self.writes += 1;
        if self.writes.is_multiple_of(SWEEP) {
            self.streams.retain(|_, (_, until)| *until >= now);
            self.reigns.retain(|_, ((), until)| *until >= now);
            self.once.retain(|_, (_, until)| *until >= now);
            self.topics.retain(|_, (_, until)| *until >= now);
            self.told.retain(|_, (_, until)| *until >= now);
            self.groups.retain(|_, (_, until)| *until >= now);
            self.listeners.retain(|_, sender| sender.receiver_count() > 0);
            self.followers.retain(|_, sender| sender.receiver_count() > 0);
        }
    }
}

impl Embedded {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: Mutex::default(),
            #[cfg(test)]
            away: false.into(),
        }
    }

    /// The state, and the time in ms.
    fn now(&self) -> (MutexGuard<'_, State>, i64) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = i64::try_from(self.clock.unix_time().as_millis()).unwrap_or(i64::MAX);
        (state, now)
    }

    /// Runs a step.
    fn step<'a, T: Send + 'a>(
        &self,
        step: impl FnOnce(&mut State, i64) -> T,
    ) -> BoxFuture<'a, Result<T>> {
        let (mut state, now) = self.now();
        state.sweep(now);
        Box::pin(ready(Ok(step(&mut state, now))))
    }

    fn of_group<'a, T: Send + Default + 'a>(
        &self,
        crew: &Crew,
        step: impl FnOnce(&mut Expiring<Group>, i64) -> T,
    ) -> BoxFuture<'a, Result<T>> {
        self.step(|state, now| {
            live(&mut state.groups, crew, now).map(|group| step(group, now)).unwrap_or_default()
        })
    }

    #[cfg(test)]
    pub(crate) fn away(&self, away: bool) {
        self.away.store(away, std::sync::atomic::Ordering::Relaxed);
    }

    /// A stream is deleted by hand.
    #[cfg(test)]
    pub(crate) fn delete(&self, scope: &Name) -> bool {
        self.now().0.streams.remove(scope.as_str()).is_some()
    }

    /// A stream is as it was after this event, as after a failover to a stale replica.
    #[cfg(test)]
    pub(crate) fn set_back(&self, scope: &Name, last: Id, reign: bool) {
        let (mut state, _) = self.now();
        if reign {
            state.reigns.remove(scope.as_str());
        }
        if let Some((stream, _)) = state.streams.get_mut(scope.as_str()) {
            stream.set_back(last);
        }
    }

    /// An event is deleted by hand.
    #[cfg(test)]
    pub(crate) fn lose(&self, scope: &Name, id: Id) {
        if let Some((stream, _)) = self.now().0.streams.get_mut(scope.as_str()) {
            stream.lose(id);
        }
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

impl<T: Clone + Send + 'static> Feed<T> for broadcast::Receiver<T> {
    fn next(&mut self) -> BoxFuture<'_, Heard<T>> {
        Box::pin(async {
            match self.recv().await {
                Ok(it) => Heard::It(it),
                Err(RecvError::Lagged(_)) => Heard::Lost,
                // The last owner is gone: there is nothing more to say, ever.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        })
    }
}

fn subscribed<T: Clone>(
    channels: &mut HashMap<String, broadcast::Sender<T>>,
    name: &Name,
) -> broadcast::Receiver<T> {
    let channel = channels.entry(name.as_str().to_owned());
    channel.or_insert_with(|| broadcast::channel(PER_CHANNEL).0).subscribe()
}

impl Backend for Embedded {
    fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    fn generation(&self) -> u64 {
        1
    }

    fn publish<'a>(&'a self, scope: &'a Name, entry: &'a Entry) -> BoxFuture<'a, Result<Posted>> {
        self.step(|state, now| state.publish(scope, entry, now))
    }

    fn read<'a>(
        &'a self,
        scope: &'a Name,
        from: From,
        limit: usize,
    ) -> BoxFuture<'a, Result<Option<Page>>> {
        #[cfg(test)]
        if self.away.load(std::sync::atomic::Ordering::Relaxed) {
            let error = coordinator_core::ErrorKind::Unavailable;
            return Box::pin(ready(Err(coordinator_core::Error::new(error, "events.read"))));
        }
        self.step(|state, now| {
            let stream = live(&mut state.streams, &scope.as_str().to_owned(), now);
            stream.map(|(stream, _)| stream.page(from, limit))
        })
    }

    fn trim<'a>(&'a self, scope: &'a Name, first: Id) -> BoxFuture<'a, Result<u64>> {
        self.step(|state, now| {
            let stream = live(&mut state.streams, &scope.as_str().to_owned(), now);
            stream.map_or(0, |(stream, _)| stream.trim(first))
        })
    }

    fn listen<'a>(&'a self, scope: &'a Name) -> BoxFuture<'a, Result<Box<dyn Feed<Stored>>>> {
        self.step(|state, _| Box::new(subscribed(&mut state.listeners, scope)) as Box<_>)
    }

    fn announce<'a>(&'a self, topic: &'a Name, what: Bytes) -> BoxFuture<'a, Result<u64>> {
        self.step(|state, now| {
            let name = topic.as_str().to_owned();
            let number = live(&mut state.topics, &name, now).map_or(0, |(count, _)| *count) + 1;
            state.topics.insert(name, (number, now + ms(COUNTED_MS)));
            if let Some(followers) = state.followers.get(topic.as_str()) {
                // Without a follower it has no use.
                let _ = followers.send((number, what));
            }
            number
        })
    }

    fn announced<'a>(&'a self, topic: &'a Name) -> BoxFuture<'a, Result<u64>> {
        self.step(|state, now| {
            live(&mut state.topics, &topic.as_str().to_owned(), now).map_or(0, |(count, _)| *count)
        })
    }

    fn follow<'a>(&'a self, topic: &'a Name) -> BoxFuture<'a, Result<Box<dyn Feed<Announced>>>> {
        self.step(|state, _| Box::new(subscribed(&mut state.followers, topic)) as Box<_>)
    }

    fn take<'a>(&'a self, crew: &'a Crew, take: &'a Take) -> BoxFuture<'a, Result<Taken>> {
        self.step(|state, now| state.take(crew, take, now))
    }

    fn ack<'a>(&'a self, crew: &'a Crew, attempt: Attempt) -> BoxFuture<'a, Result<Acked>> {
        self.step(|state, now| {
            live(&mut state.groups, crew, now).map_or(Acked::Gone, |(group, _)| group.end(attempt))
        })
    }

    fn defer<'a>(
        &'a self,
        crew: &'a Crew,
        attempt: Attempt,
        defer: &'a Defer,
    ) -> BoxFuture<'a, Result<Deferred>> {
        self.step(|state, now| {
            let Some((group, until)) = live(&mut state.groups, crew, now) else {
                return Deferred::Gone;
            };
            let deferred = group.defer(attempt, defer, now);
            if deferred != Deferred::Gone {
                *until = now + ms(defer.ttl_ms);
            }
            deferred
        })
    }

    fn bury<'a>(
        &'a self,
        crew: &'a Crew,
        attempt: Attempt,
        reason: &'a str,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<bool>> {
        self.of_group(crew, |(group, until), now| {
            let buried = group.bury(attempt, Some(reason), now);
            if buried {
                *until = now + ms(ttl_ms);
            }
            buried
        })
    }

    fn revive<'a>(
        &'a self,
        crew: &'a Crew,
        id: Id,
        again: bool,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<bool>> {
        self.of_group(crew, |(group, until), now| {
            let revived = group.revive(id, again, now);
            if revived {
                *until = now + ms(ttl_ms);
            }
            revived
        })
    }

    fn letters<'a>(
        &'a self,
        crew: &'a Crew,
        skip: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Letter>>> {
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        self.of_group(crew, |(group, _), _| group.letters(skip, limit))
    }

    fn standing<'a>(&'a self, crew: &'a Crew) -> BoxFuture<'a, Result<Option<Standing>>> {
        self.step(|state, now| {
            let last = state.last(&crew.scope, now);
            live(&mut state.groups, crew, now).map(|(group, _)| group.standing(last, now))
        })
    }

    fn forget<'a>(&'a self, crew: &'a Crew) -> BoxFuture<'a, Result<bool>> {
        self.step(|state, now| {
            let there = live(&mut state.groups, crew, now).is_some();
            state.groups.remove(crew);
            there
        })
    }
}
