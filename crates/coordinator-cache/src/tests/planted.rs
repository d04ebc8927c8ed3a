//! A backend that fails in the ways that servers and links do. It decides nothing by itself.

use crate::backend::{Backend, Claimed, Feed, Key, Put, Scanned, Tag, Token, Version};
use bytes::Bytes;
use coordinator_core::{BoxFuture, Error, ErrorKind, Result, clock::Clock, key::Name};
use std::{
    future::ready,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

/// What goes wrong once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A claim is made, and nobody is told.
    ClaimUntold,
    /// A fill is lost, and nobody knows.
    FillLost,
    /// A release is not made.
    ReleaseLost,
}

pub(super) struct Planted {
    inner: Arc<dyn Backend>,
    /// No server answers.
    pub(super) away: AtomicBool,
    faults: Mutex<Vec<Fault>>,
    /// Keys that lie on a second node, behind the first one.
    second: Mutex<Vec<Key>>,
    /// How often one of them moves to the first while the first was looked through.
    pub(super) moves: AtomicU32,
    layout: AtomicU32,
}

impl std::fmt::Debug for Planted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Planted").finish_non_exhaustive()
    }
}

impl Planted {
    pub(super) fn new(inner: Arc<dyn Backend>) -> Arc<Self> {
        let (faults, second, zero) = (Mutex::default(), Mutex::default(), AtomicU32::default);
        let (away, moves, layout) = (AtomicBool::new(false), zero(), zero());
        Arc::new(Self { inner, away, faults, second, moves, layout })
    }

    pub(super) fn plant(&self, fault: Fault) {
        self.faults.lock().expect("no panic").push(fault);
    }

    pub(super) fn second(&self, keys: Vec<Key>) {
        *self.second.lock().expect("no panic") = keys;
    }

    /// A page of one of the two nodes; then a key moves, and the layout with it.
    async fn page(&self, ns: &Name, node: u16) -> Result<Scanned> {
        let mut page = self.inner.scan(ns, 0, 0).await?;
        assert_eq!(page.next, 0, "it is one page");
        let mut second = self.second.lock().expect("no panic");
        page.keys.retain(|key| second.contains(key) == (node == 1));
        if node == 0 && self.moves.load(Ordering::SeqCst) > 0 {
            self.moves.fetch_sub(1, Ordering::SeqCst);
            second.pop();
            self.layout.fetch_add(1, Ordering::SeqCst);
        }
        Ok(page)
    }

    /// Whether all that was planted went wrong.
    pub(super) fn is_done(&self) -> bool {
        self.faults.lock().expect("no panic").is_empty()
    }

    fn takes(&self, fault: Fault) -> bool {
        let mut faults = self.faults.lock().expect("no panic");
        let at = faults.iter().position(|planted| *planted == fault);
        at.map(|at| faults.remove(at)).is_some()
    }

    fn or_away<'a, T: Send + 'a>(
        &self,
        answer: BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>> {
        if self.away.load(Ordering::SeqCst) { failed(ErrorKind::Unavailable) } else { answer }
    }
}

fn failed<'a, T: Send + 'a>(kind: ErrorKind) -> BoxFuture<'a, Result<T>> {
    Box::pin(ready(Err(Error::new(kind, "cache.planted"))))
}

macro_rules! passed_on {
    ($($step:ident($($name:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(fn $step<'a>(&'a self, $($name: $type),*) -> BoxFuture<'a, Result<$answer>> {
            self.or_away(self.inner.$step($($name),*))
        })*
    };
}

macro_rules! asked {
    ($($step:ident($($name:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(fn $step(&self, $($name: $type),*) -> BoxFuture<'_, Result<$answer>> {
            self.or_away(self.inner.$step($($name),*))
        })*
    };
}

impl Backend for Planted {
    fn clock(&self) -> &Arc<dyn Clock> {
        self.inner.clock()
    }

    fn now_ms(&self) -> u64 {
        self.inner.now_ms()
    }

    fn nodes(&self) -> Vec<u16> {
        vec![0, 1]
    }

    fn layout(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(ready(Ok(u64::from(self.layout.load(Ordering::SeqCst)))))
    }

    fn scan<'a>(&'a self, ns: &'a Name, node: u16, _: u64) -> BoxFuture<'a, Result<Scanned>> {
        Box::pin(self.page(ns, node))
    }

    passed_on! {
        get(key: &'a Key) -> Option<Bytes>;
        fetch(keys: &'a [Key]) -> Vec<Option<Bytes>>;
        versions(tags: &'a [Tag]) -> Vec<Option<Version>>;
        capture(tags: &'a [Tag], fresh: Version, ttl_ms: u64) -> Vec<Version>;
        holder(key: &'a Key) -> Option<Token>;
        renew(key: &'a Key, token: Token, lease_ms: u64) -> bool;
        set(put: &'a Put) -> ();
        invalidate(keys: &'a [Key]) -> u64;
        expire(keys: &'a [Key]) -> u64;
        drop_if(key: &'a Key, value: &'a Bytes) -> bool;
        untag(tags: &'a [Tag]) -> u64;
    }

    asked! {
        learn() -> ();
        mark(node: u16, fresh: Version) -> Version;
        listen() -> Box<dyn Feed>;
        hear() -> Box<dyn Feed>;
        keep_hearing() -> bool;
    }

    fn claim<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        seen: Option<Version>,
        lease_ms: u64,
    ) -> BoxFuture<'a, Result<Claimed>> {
        let answer = self.or_away(self.inner.claim(key, token, seen, lease_ms));
        if !self.takes(Fault::ClaimUntold) {
            return answer;
        }
        Box::pin(async {
            answer.await?;
            Err(Error::new(ErrorKind::Indeterminate, "cache.planted"))
        })
    }

    fn release<'a>(&'a self, key: &'a Key, token: Token) -> BoxFuture<'a, Result<bool>> {
        if self.takes(Fault::ReleaseLost) {
            return failed(ErrorKind::Unavailable);
        }
        self.or_away(self.inner.release(key, token))
    }

    fn fill<'a>(&'a self, put: &'a Put, token: Token) -> BoxFuture<'a, Result<bool>> {
        if self.takes(Fault::FillLost) {
            return failed(ErrorKind::Indeterminate);
        }
        self.or_away(self.inner.fill(put, token))
    }

    fn set_many<'a>(&'a self, puts: &'a [Put]) -> BoxFuture<'a, Vec<Result<()>>> {
        self.inner.set_many(puts)
    }
}
