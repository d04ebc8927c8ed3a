//! A backend in process whose steps fail as they are told to, and are counted.

use crate::{
    backend::{
        Acked, Announced, Attempt, Backend, Crew, Defer, Deferred, Entry, Feed, From, Heard,
        Letter, Page, Posted, Standing, Stored, Take, Taken,
    },
    cursor::Id,
    embedded::Embedded,
};
use bytes::Bytes;
use coordinator_core::{BoxFuture, Error, ErrorKind, Result, clock::Clock, key::Name};
use std::{
    collections::{HashMap, VecDeque},
    future::ready,
    sync::{Arc, Mutex},
};
use tokio::sync::mpsc;

/// How a step fails.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// It is done, and its answer is lost.
    Lost,
    /// It is not done.
    Not(ErrorKind),
}

/// Says what followers hear.
pub(crate) type Tell = mpsc::UnboundedSender<Heard<Announced>>;

struct Heeded(mpsc::UnboundedReceiver<Heard<Announced>>);

impl Feed<Announced> for Heeded {
    fn next(&mut self) -> BoxFuture<'_, Heard<Announced>> {
        Box::pin(async {
            match self.0.recv().await {
                Some(heard) => heard,
                None => std::future::pending().await,
            }
        })
    }
}

#[derive(Debug)]
pub(crate) struct Faulty {
    pub(crate) inner: Arc<Embedded>,
    faults: Mutex<HashMap<&'static str, VecDeque<Fault>>>,
    calls: Mutex<HashMap<&'static str, usize>>,
    told: Mutex<Option<mpsc::UnboundedReceiver<Heard<Announced>>>>,
}

impl Faulty {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let inner = Arc::new(Embedded::new(clock));
        Arc::new(Self {
            inner,
            faults: Mutex::default(),
            calls: Mutex::default(),
            told: Mutex::default(),
        })
    }

    /// The next steps of this name fail so.
    pub(crate) fn fail(&self, step: &'static str, faults: &[Fault]) {
        self.faults.lock().unwrap().entry(step).or_default().extend(faults);
    }

    /// The next to follow a topic hears what is told here, and nothing else.
    pub(crate) fn tell(&self) -> Tell {
        let (tell, told) = mpsc::unbounded_channel();
        *self.told.lock().unwrap() = Some(told);
        tell
    }

    /// How often a step was asked for.
    pub(crate) fn calls(&self, step: &str) -> usize {
        self.calls.lock().unwrap().get(step).copied().unwrap_or(0)
    }

    fn step<'a, T: Send + 'a>(
        &'a self,
        name: &'static str,
        step: impl FnOnce(&'a Embedded) -> BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>> {
        *self.calls.lock().unwrap().entry(name).or_default() += 1;
        let fault = self.faults.lock().unwrap().get_mut(name).and_then(VecDeque::pop_front);
        let kind = match fault {
            None => return step(&self.inner),
            Some(Fault::Lost) => {
                // In process a step is done when it is asked for.
                drop(step(&self.inner));
                ErrorKind::Indeterminate
            }
            Some(Fault::Not(kind)) => kind,
        };
        Box::pin(ready(Err(Error::new(kind, name))))
    }
}

impl Backend for Faulty {
    fn clock(&self) -> &Arc<dyn Clock> {
        self.inner.clock()
    }

    fn generation(&self) -> u64 {
        self.inner.generation()
    }

    fn publish<'a>(&'a self, scope: &'a Name, entry: &'a Entry) -> BoxFuture<'a, Result<Posted>> {
        self.step("publish", |inner| inner.publish(scope, entry))
    }

    fn read<'a>(
        &'a self,
        scope: &'a Name,
        from: From,
        limit: usize,
    ) -> BoxFuture<'a, Result<Option<Page>>> {
        self.step("read", |inner| inner.read(scope, from, limit))
    }

    fn trim<'a>(&'a self, scope: &'a Name, first: Id) -> BoxFuture<'a, Result<u64>> {
        self.step("trim", |inner| inner.trim(scope, first))
    }

    fn listen<'a>(&'a self, scope: &'a Name) -> BoxFuture<'a, Result<Box<dyn Feed<Stored>>>> {
        self.step("listen", |inner| inner.listen(scope))
    }

    fn announce<'a>(&'a self, topic: &'a Name, what: Bytes) -> BoxFuture<'a, Result<u64>> {
        self.step("announce", |inner| inner.announce(topic, what))
    }

    fn announced<'a>(&'a self, topic: &'a Name) -> BoxFuture<'a, Result<u64>> {
        self.step("announced", |inner| inner.announced(topic))
    }

    fn follow<'a>(&'a self, topic: &'a Name) -> BoxFuture<'a, Result<Box<dyn Feed<Announced>>>> {
        self.step("follow", |inner| match self.told.lock().unwrap().take() {
            Some(told) => Box::pin(ready(Ok(Box::new(Heeded(told)) as Box<_>))),
            None => inner.follow(topic),
        })
    }

    fn take<'a>(&'a self, crew: &'a Crew, take: &'a Take) -> BoxFuture<'a, Result<Taken>> {
        self.step("take", |inner| inner.take(crew, take))
    }

    fn ack<'a>(&'a self, crew: &'a Crew, attempt: Attempt) -> BoxFuture<'a, Result<Acked>> {
        self.step("ack", |inner| inner.ack(crew, attempt))
    }

    fn defer<'a>(
        &'a self,
        crew: &'a Crew,
        attempt: Attempt,
        defer: &'a Defer,
    ) -> BoxFuture<'a, Result<Deferred>> {
        self.step("defer", |inner| inner.defer(crew, attempt, defer))
    }

    fn bury<'a>(
        &'a self,
        crew: &'a Crew,
        attempt: Attempt,
        reason: &'a str,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<bool>> {
        self.step("bury", |inner| inner.bury(crew, attempt, reason, ttl_ms))
    }

    fn revive<'a>(
        &'a self,
        crew: &'a Crew,
        id: Id,
        again: bool,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<bool>> {
        self.step("revive", |inner| inner.revive(crew, id, again, ttl_ms))
    }

    fn letters<'a>(
        &'a self,
        crew: &'a Crew,
        skip: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Letter>>> {
        self.step("letters", |inner| inner.letters(crew, skip, limit))
    }

    fn standing<'a>(&'a self, crew: &'a Crew) -> BoxFuture<'a, Result<Option<Standing>>> {
        self.step("standing", |inner| inner.standing(crew))
    }

    fn forget<'a>(&'a self, crew: &'a Crew) -> BoxFuture<'a, Result<bool>> {
        self.step("forget", |inner| inner.forget(crew))
    }
}
