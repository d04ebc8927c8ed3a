//! One load for several keys: what it brings is told to all who wait for one of them, and stored
//! where their lease was had. Which keys are missing is found out elsewhere.

use crate::{
    backend::{Claimed, Key, Token, Version},
    cache::{Core, Draft, Look, ms},
    entry::Hit,
    error::LoadError,
    flight::Pilot,
    lease::Held,
    loader::Kept,
    watch::{CANARY, GOOD, Waiter},
};
use coordinator_core::ErrorKind;
use futures::{
    FutureExt as _,
    future::{Either, join_all, pending, select},
};
use std::{
    collections::HashMap, error::Error as StdError, future::Future, panic::AssertUnwindSafe,
    pin::pin,
};

/// A key that this load is to bring.
pub(crate) struct Own<T> {
    pub(crate) key: Key,
    pub(crate) seen: Option<Version>,
    pub(crate) pilot: Pilot<T>,
}

/// A key that is being loaded.
struct Waiting<T> {
    own: Own<T>,
    /// Under our lease.
    mine: bool,
    /// From before the lease was asked for.
    waiter: Waiter,
}

/// What asking for the lease of one of several keys brought.
enum Turn<T> {
    Mine,
    /// There is a value, or that there is none is known.
    Found(Option<Hit<T>>),
    /// Another's, or there is no server.
    Theirs,
    /// Perhaps ours.
    Unsure,
}

impl<T> Core<T>
where
    T: Send + Sync + 'static,
{
    /// Loads several keys at once, if there are any; the loader is taken if it is called.
    pub(crate) async fn load_many<F, L, E>(
        &self,
        ours: Vec<Own<T>>,
        loader: &mut Option<F>,
    ) -> Result<HashMap<String, Hit<T>>, LoadError>
    where
        F: FnOnce(Vec<String>) -> L + Send,
        L: Future<Output = Result<HashMap<String, T>, E>> + Send,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let mut hits = HashMap::new();
        if ours.is_empty() {
            return Ok(hits);
        }
        let backend = &self.shared.backend;
        let tags = self.tags(&[])?;
        self.shared.watch.begin().await;
        // A batch is not renewed: its lease lasts for as long as its loader may take.
        let (token, lease) = (Token::random(), self.options.lease.max(self.options.hard));
        // Before they are asked for: a claim whose answer is lost was perhaps made.
        let keys = ours.iter().map(|own| own.key.clone()).collect();
        let mut held = Held { backend: backend.clone(), token, lease, keys };
        let waiters: Vec<_> = ours.iter().map(|own| self.shared.watch.wait_for(&own.key)).collect();
        let turns = join_all(ours.iter().map(|own| self.turn(own, token, ms(lease)))).await;
        let (mut waiting, mut unsure) = (Vec::new(), Vec::new());
        for ((own, waiter), turn) in ours.into_iter().zip(waiters).zip(turns) {
            match turn {
                Turn::Found(hit) => {
                    let name = own.key.key.as_str().to_owned();
                    own.pilot.land(Ok(hit.clone()));
                    hits.extend(hit.map(|hit| (name, hit)));
                    continue;
                }
                Turn::Unsure => unsure.push(own.key.clone()),
                Turn::Mine | Turn::Theirs => {}
            }
            waiting.push(Waiting { own, mine: matches!(turn, Turn::Mine), waiter });
        }
        if waiting.is_empty() {
            held.keys = unsure;
        } else if let Some(loader) = loader.take() {
            let kept = Kept::of(&self.options);
            let tags = self.capture(tags, kept.ttl.saturating_add(kept.stale)).await.ok();
            let (began, loaded_ms) = (backend.clock().now(), backend.now_ms());
            let loaded = self.call(loader, &waiting, token, loaded_ms).await;
            let load = backend.clock().now().saturating_since(began);
            let values = loaded.as_ref().ok();
            let left = join_all(waiting.iter().filter(|one| one.mine).map(
                async |Waiting { own, .. }| {
                    let hit = values.and_then(|values| values.get(own.key.key.as_str()));
                    let draft = hit.zip(tags.clone()).map(|(hit, tags)| {
                        let (ttl, stale, value) = (kept.ttl, kept.stale, Some(&*hit.value));
                        Draft { value, ttl, stale, loaded_ms, load, tags }
                    });
                    (!self.settle(own, token, draft).await).then(|| own.key.clone())
                },
            ));
            unsure.extend(left.await.into_iter().flatten());
            held.keys = unsure;
            let all = waiting.into_iter().map(|one| one.own);
            hits.extend(tell(all, loaded)?);
        }
        Ok(hits)
    }

    async fn turn(&self, own: &Own<T>, token: Token, lease_ms: u64) -> Turn<T> {
        match self.shared.backend.claim(&own.key, token, own.seen, lease_ms).await {
            Ok(Claimed::Mine) => Turn::Mine,
            Ok(Claimed::Value(bytes)) => match self.judge(&own.key, bytes, None).await {
                // It was loaded since it was looked for.
                Ok(Look::Fresh(slot)) => Turn::Found(slot.fresh()),
                _ => Turn::Theirs,
            },
            Err(error) if error.kind() == ErrorKind::Indeterminate => Turn::Unsure,
            Ok(Claimed::Held { .. }) | Err(_) => Turn::Theirs,
        }
    }

    /// Calls the loader.
    async fn call<F, L, E>(
        &self,
        loader: F,
        waiting: &[Waiting<T>],
        token: Token,
        loaded_ms: u64,
    ) -> Result<HashMap<String, Hit<T>>, LoadError>
    where
        F: FnOnce(Vec<String>) -> L + Send,
        L: Future<Output = Result<HashMap<String, T>, E>> + Send,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.counts.load();
        let names: Vec<_> = waiting.iter().map(|one| one.own.key.key.as_str().into()).collect();
        let load = AssertUnwindSafe(async move { loader(names).await }).catch_unwind();
        let late = self.shared.backend.clock().sleep(self.options.hard);
        let keep = pin!(self.keep_many(waiting, token));
        let loaded = match select(pin!(load), select(late, keep)).await {
            Either::Left((Ok(Ok(loaded)), _)) => Ok(loaded),
            Either::Left((Ok(Err(error)), _)) => Err(LoadError::loader(error)),
            Either::Left((Err(_panic), _)) => Err(LoadError::Panicked),
            Either::Right(_) => Err(LoadError::TimedOut(self.options.hard)),
        };
        if loaded.is_err() {
            self.counts.failed();
        }
        let hit = |(name, value)| (name, Hit::loaded(value, loaded_ms));
        Ok(loaded?.into_iter().map(hit).collect())
    }

    /// Sees to it that nobody joins a load of what was ended since it began: looked at whenever a
    /// lease changes, and each second in any case. Where another instance has the lease, or nobody
    /// says who, nobody joins after [`GOOD`]. Never ends.
    async fn keep_many(&self, waiting: &[Waiting<T>], token: Token) {
        let looks = join_all(waiting.iter().map(async |Waiting { own, mine, waiter }| {
            if *mine {
                self.keep_one(own, token, waiter).await;
            } else {
                self.shared.backend.clock().sleep(GOOD).await;
                self.flights.detach(own.key.key.as_str());
            }
        }));
        looks.await;
        pending::<()>().await;
    }

    /// Until the lease of one of several keys is lost, or nobody could say so for [`GOOD`].
    async fn keep_one(&self, own: &Own<T>, token: Token, waiter: &Waiter) {
        let backend = &self.shared.backend;
        let mut sure = backend.clock().now();
        loop {
            let mut woken = pin!(waiter.woken());
            woken.as_mut().enable();
            let (asked, joined) = (backend.clock().now(), own.pilot.joined());
            match backend.holder(&own.key).await {
                Ok(holder) if holder == Some(token) => {
                    own.pilot.sure(joined);
                    sure = asked;
                }
                Ok(_) => return own.pilot.ended(),
                Err(_) if asked.saturating_since(sure) >= GOOD => {
                    return self.flights.detach(own.key.key.as_str());
                }
                Err(_) => {}
            }
            let _ = select(woken, backend.clock().sleep(CANARY)).await;
        }
    }

    /// Stores what was brought under a lease, or gives that up; whether it is surely gone.
    async fn settle(&self, own: &Own<T>, token: Token, draft: Option<Draft<'_, T>>) -> bool {
        let (backend, key) = (&self.shared.backend, &own.key);
        let put = match draft {
            Some(draft) => self.seal(key, draft).await.ok(),
            None => None,
        };
        let Some(put) = put else { return backend.release(key, token).await.is_ok() };
        let stored = backend.fill(&put, token).await;
        if let Ok(false) = stored {
            self.counts.refused();
            own.pilot.ended();
        }
        stored.is_ok()
    }
}

/// Tells whoever waits for one of these keys, and who asked for them.
fn tell<T>(
    ours: impl Iterator<Item = Own<T>>,
    loaded: Result<HashMap<String, Hit<T>>, LoadError>,
) -> Result<HashMap<String, Hit<T>>, LoadError> {
    let mut hits = HashMap::new();
    for own in ours {
        let name = own.key.key.as_str();
        match &loaded {
            Err(error) => own.pilot.land(Err(error.clone())),
            Ok(values) => match values.get(name) {
                Some(hit) => {
                    hits.insert(name.to_owned(), hit.clone());
                    own.pilot.land(Ok(Some(hit.clone())));
                }
                None => own.pilot.land_without(),
            },
        }
    }
    loaded.map(|_| hits)
}
