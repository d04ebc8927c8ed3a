//! A consumer of a group, and what is delivered to it.

use crate::{
    backend::{Attempt, Taken, Token},
    cursor::{Cursor, Id},
    envelope::RawEvent,
    gap::{Gap, GapReason, Lost, hole},
    group::Group,
    hub::{Hub, jittered},
    settle::{Lent, Settled},
    telemetry,
};
use coordinator_core::{Error, ErrorKind, Result, clock::Instant, key::Name};
use futures::{
    FutureExt as _,
    future::{Either, select},
};
use serde::de::DeserializeOwned;
use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt::Display,
    future::Future,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// How often a consumer asks for work that nobody told it of.
const LOOK: Duration = Duration::from_secs(5);
/// How soon work is asked for again where that failed: first, and at the most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// For how long a refusal may be that of a failover, for whoever runs.
const REFUSED: Duration = Duration::from_secs(30);

/// A consumer of a group, from [`Group::consumer`].
#[derive(Debug)]
pub struct Consumer {
    group: Arc<Group>,
    name: Name,
    /// Tells it from others of its name.
    seat: u64,
    hub: Arc<Hub>,
    head: watch::Receiver<u64>,
    /// Up to where the group has taken, as far as is known.
    at: Option<Id>,
    ready: VecDeque<Ready>,
    /// A take that no answer has come to.
    asking: Option<Token>,
    /// Since when the server refuses.
    refused: Option<Instant>,
    /// When something is due again, if anything is.
    due: Option<Duration>,
}

#[derive(Debug)]
enum Ready {
    Gap(Gap),
    Delivery(RawEvent, Lent),
}

/// What a consumer is given.
#[derive(Debug)]
#[non_exhaustive]
pub enum Work<T> {
    /// An event to work on.
    Delivery(Delivery<T>),
    /// Events were gone before the group came to them. It is told once, to whoever takes what
    /// comes after them.
    Gap(Gap),
}

/// An event that is this consumer's for the group's lease, or until it is settled. Dropping it
/// settles nothing: it is delivered again when the lease is over.
#[derive(Debug)]
#[must_use = "it is delivered again unless it is settled"]
pub struct Delivery<T> {
    /// Its data.
    pub data: T,
    raw: RawEvent,
    lent: Mutex<Lent>,
    group: Arc<Group>,
}

impl<T> Delivery<T> {
    /// The event as it came.
    pub fn raw(&self) -> &RawEvent {
        &self.raw
    }

    /// Which delivery of the event this is, from 1 on.
    pub fn attempt(&self) -> u32 {
        self.lent().number
    }

    fn lent(&self) -> Lent {
        *self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is done, for good.
    ///
    /// Where no answer comes it is asked again, after 20 ms at first and every second at the most,
    /// for as long as the lease lasts; each try takes no longer than a command may. So it returns
    /// by the end of the lease and one command timeout.
    ///
    /// # Errors
    /// As [`Events::publish`](crate::Events::publish); `Unavailable` and `Indeterminate` only once
    /// the lease is over.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is done.
    pub async fn ack(self) -> Result<Settled> {
        Ok(if self.group.ack(self.lent()).await? { Settled::Done } else { Settled::Gone })
    }

    /// It takes longer: the lease begins anew, so that nobody else is given it meanwhile.
    ///
    /// # Errors
    /// As [`Events::publish`](crate::Events::publish).
    ///
    /// # Cancel safety
    /// Cancel safe: at worst the lease began anew.
    pub async fn extend(&self) -> Result<Settled> {
        let until = self.group.backend().clock().now() + self.group.options.lease;
        if !self.group.extend(self.lent().attempt).await? {
            return Ok(Settled::Gone);
        }
        self.lent.lock().unwrap_or_else(PoisonError::into_inner).until = until;
        Ok(Settled::Done)
    }

    /// It failed, and is delivered again after the group's pause; or is a dead letter from now on
    /// if it was delivered as often as may be. Asked again as [`ack`](Self::ack).
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open; at worst it is delivered when the lease is over.
    pub async fn retry(self, why: &str) -> Result<Settled> {
        self.group.retry(self.lent(), None, why).await
    }

    /// The same after a pause of the caller's.
    ///
    /// # Errors
    /// As [`retry`](Self::retry).
    ///
    /// # Cancel safety
    /// As [`retry`](Self::retry).
    pub async fn retry_after(self, pause: Duration, why: &str) -> Result<Settled> {
        self.group.retry(self.lent(), Some(pause), why).await
    }

    /// It will never succeed: it is a dead letter from now on. Asked again as [`ack`](Self::ack).
    ///
    /// # Errors
    /// As [`retry`](Self::retry).
    ///
    /// # Cancel safety
    /// As [`retry`](Self::retry).
    pub async fn bury(self, why: &str) -> Result<Settled> {
        Ok(if self.group.bury(self.lent(), why).await? { Settled::Buried } else { Settled::Gone })
    }
}

impl Consumer {
    pub(crate) fn new(group: Group, name: Name, hub: Arc<Hub>) -> Self {
        let head = hub.head();
        let (group, ready) = (Arc::new(group), VecDeque::new());
        let seat = rand::random();
        Self {
            group,
            name,
            seat,
            hub,
            head,
            at: None,
            ready,
            asking: None,
            refused: None,
            due: None,
        }
    }

    /// The next event to work on, waiting for as long as it takes; outlasts outages. What cannot be
    /// decoded becomes a dead letter by itself.
    ///
    /// # Errors
    /// [`Rejected`](ErrorKind::Rejected) if the server refuses,
    /// [`Corrupt`](ErrorKind::Corrupt) if what is stored there cannot be: waiting
    /// does not help. The next call asks again.
    ///
    /// # Cancel safety
    /// Cancel safe: what was being asked for comes with the next call.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Work<T>> {
        let mut pause = AGAIN.0;
        loop {
            match self.ready.pop_front() {
                // It waited too long behind others, and is due again by now.
                Some(Ready::Delivery(_, lent)) if lent.until <= self.now() => {}
                Some(ready) => {
                    if let Some(work) = self.given(ready).await {
                        return Ok(work);
                    }
                }
                None => match self.take().await {
                    Ok(true) => {}
                    Ok(false) => {
                        pause = AGAIN.0;
                        self.wait().await;
                    }
                    Err(error) if !error.is_retryable() => return Err(error),
                    Err(error) => {
                        tracing::debug!(error = %error.chain(), "no work could be taken");
                        jittered(self.hub.backend.clock(), pause).await;
                        pause = (pause * 2).min(AGAIN.1);
                    }
                },
            }
        }
    }

    /// What there is to work on at this moment, up to a [batch](Group::with_batch) of it and
    /// without waiting for more; empty if there is nothing. What cannot be decoded becomes a dead
    /// letter by itself.
    ///
    /// # Errors
    /// As [`Events::position`](crate::Events::position).
    ///
    /// # Cancel safety
    /// Dropping the future settles nothing: what was being asked for comes with the next call.
    pub async fn at_once<T: DeserializeOwned>(&mut self) -> Result<Vec<Work<T>>> {
        // What waited here too long is due again by now, and perhaps another's.
        let now = self.now();
        self.ready.retain(|ready| !matches!(ready, Ready::Delivery(_, lent) if lent.until <= now));
        if self.ready.is_empty() {
            self.take().await?;
        }
        let mut work = Vec::with_capacity(self.ready.len());
        while let Some(ready) = self.ready.pop_front() {
            work.extend(self.given(ready).await);
        }
        Ok(work)
    }

    /// What a caller is given; none where that cannot be decoded, and is buried.
    async fn given<T: DeserializeOwned>(&self, ready: Ready) -> Option<Work<T>> {
        match ready {
            Ready::Gap(gap) => {
                telemetry::gap(&gap);
                Some(Work::Gap(gap))
            }
            Ready::Delivery(raw, lent) => match raw.decode() {
                Ok(data) => {
                    let (lent, group) = (Mutex::new(lent), self.group.clone());
                    Some(Work::Delivery(Delivery { data, raw, lent, group }))
                }
                Err(error) => {
                    self.unreadable(lent, &error).await;
                    None
                }
            },
        }
    }

    fn now(&self) -> Instant {
        self.hub.backend.clock().now()
    }

    async fn unreadable(&self, lent: Lent, error: &Error) {
        telemetry::unreadable();
        let why = format!("unreadable: {}", error.chain());
        // Once: nobody waits for what is delivered again anyway.
        let once = Lent { until: self.now(), ..lent };
        if let Err(error) = self.group.bury(once, &why).await {
            // It is delivered again, and buried then.
            tracing::debug!(error = %error.chain(), "an unreadable event could not be buried");
        }
    }

    /// Takes work; whether there was any.
    async fn take(&mut self) -> Result<bool> {
        // What was answered before, and not heard, says nothing of what came since.
        let repeated = self.asking.is_some();
        Ok(self.take_once().await? || repeated && self.take_once().await?)
    }

    async fn take_once(&mut self) -> Result<bool> {
        // What is published from here on wakes it again.
        self.head.mark_unchanged();
        let now = self.now();
        let token = *self.asking.get_or_insert_with(rand::random);
        let (whose, batch) = ((&self.name, self.seat), self.group.options.batch);
        let (begin, place) = self.begin(now);
        let taken = self.group.take(whose, token, batch, begin).await?;
        (self.asking, self.refused) = (None, None);
        let Taken { due_ms, left_ms, again, from, to, new, .. } = taken;
        let until = now + Duration::from_millis(left_ms);
        let awaited = until + self.group.options.lease;
        let lent = |id, number| {
            self.group.under_way.lend(id, awaited);
            Lent { attempt: Attempt { id, token }, number, until }
        };
        self.due = due_ms.map(Duration::from_millis);
        let known = from.or(place).or(self.group.begins_after());
        self.at = Some(to);
        for again in again {
            let raw = RawEvent::new(Cursor::new(again.id, again.nonce), &again.envelope);
            self.ready.push_back(Ready::Delivery(raw, lent(again.id, again.deliveries)));
        }
        let mut at = known.map(|id| Cursor { id, nonce: None });
        if let Some(from) = at
            && to < from.id
        {
            let to = Cursor { id: to, nonce: None };
            let (lost, reason) = (Lost::AtLeast(0), GapReason::RolledBack);
            self.ready.push_back(Ready::Gap(Gap { lost, reason, from, to }));
        }
        for stored in new {
            let here = Cursor::new(stored.id, stored.nonce);
            if let Some(at) = at
                && let Some(gap) = hole(at, &stored)
            {
                self.ready.push_back(Ready::Gap(gap));
            }
            at = Some(here);
            let raw = RawEvent::new(here, &stored.envelope);
            self.ready.push_back(Ready::Delivery(raw, lent(stored.id, 1)));
        }
        Ok(!self.ready.is_empty())
    }

    /// Where a group begins that a server knows nothing of any more: where this consumer knows it
    /// to be, and before what is under way. And the same as a place, if there is one.
    fn begin(&self, now: Instant) -> (Option<Id>, Option<Id>) {
        match self.group.under_way.first(now).filter(|first| self.at >= Some(*first)) {
            None => (self.at, self.at),
            Some(first @ Id { epoch, number }) => match number.checked_sub(1) {
                Some(number) => (Some(Id { number, ..first }), Some(Id { number, ..first })),
                None => (Some(Id { epoch: epoch.saturating_sub(1), number: u64::MAX }), None),
            },
        }
    }

    /// Until something is published, or due.
    async fn wait(&mut self) {
        let limit = self.due.map_or(LOOK, |due| due.min(LOOK)).max(Duration::from_millis(1));
        let alarm = self.hub.backend.clock().sleep(limit);
        let _ = select(pin!(self.head.changed()), alarm).await;
    }

    /// Works for as long as it is polled: hands each event to a handler, renews its lease while the
    /// handler works, and settles it by what the handler says. A handler that fails or panics has
    /// its event delivered again after the group's pause. Outlasts outages and failovers.
    ///
    /// # Errors
    /// It ends with nothing else: [`Corrupt`](ErrorKind::Corrupt) if what is stored there cannot
    /// be, [`Rejected`](ErrorKind::Rejected) if the server has refused for 30 s.
    ///
    /// # Cancel safety
    /// Dropping the future drops the handler; its event is delivered again after a lease.
    pub async fn run<T, F, E>(
        mut self,
        mut handler: impl FnMut(Delivered<T>) -> F,
    ) -> Result<Infallible>
    where
        T: DeserializeOwned,
        F: Future<Output = std::result::Result<(), E>>,
        E: Display,
    {
        loop {
            let delivery = match self.next::<T>().await {
                Ok(Work::Delivery(delivery)) => delivery,
                Ok(Work::Gap(gap)) => {
                    tracing::warn!(?gap, "events were gone before their group came to them");
                    continue;
                }
                Err(error) => {
                    self.endure(error).await?;
                    continue;
                }
            };
            let mut lent = delivery.lent();
            let Delivery { data, raw, group, .. } = delivery;
            let given = Delivered { data, raw, attempt: lent.number };
            let handled = AssertUnwindSafe(async { handler(given).await }).catch_unwind();
            let outcome = self.renewing(&group, &mut lent, handled).await;
            let settled = match outcome {
                Ok(Ok(())) => group.ack(lent).await.map(drop),
                Ok(Err(error)) => group.retry(lent, None, &error.to_string()).await.map(drop),
                Err(_) => group.retry(lent, None, "the handler panicked").await.map(drop),
            };
            if let Err(error) = settled {
                tracing::warn!(error = %error.chain(), "a delivery could not be settled");
            }
        }
    }

    /// Waits a while after a refusal, which may be a failover's: unless it has lasted.
    async fn endure(&mut self, error: Error) -> Result<()> {
        let now = self.now();
        if self.refused.is_none() {
            tracing::warn!(error = %error.chain(), "no work could be taken");
        }
        let since = *self.refused.get_or_insert(now);
        if error.kind() != ErrorKind::Rejected || now.saturating_since(since) >= REFUSED {
            return Err(error);
        }
        jittered(self.hub.backend.clock(), AGAIN.1).await;
        Ok(())
    }

    /// Renews the lease of what is worked on and of what waits behind it, three times a lease.
    /// The work goes on meanwhile, however long the server takes.
    async fn renewing<O>(
        &mut self,
        group: &Group,
        lent: &mut Lent,
        work: impl Future<Output = O>,
    ) -> O {
        let mut work = pin!(work);
        loop {
            let alarm = self.hub.backend.clock().sleep(group.options.lease / 3);
            match select(work, alarm).await {
                Either::Left((outcome, _)) => return outcome,
                Either::Right(((), rest)) => work = rest,
            }
            let until = self.now() + group.options.lease;
            let renewed = {
                let renewal = pin!(self.renew(group, lent.attempt));
                match select(work, renewal).await {
                    Either::Left((outcome, _)) => return outcome,
                    Either::Right((renewed, rest)) => {
                        work = rest;
                        renewed
                    }
                }
            };
            let waiting = self.ready.iter_mut().filter_map(|ready| match ready {
                Ready::Delivery(_, waiting) => Some(waiting),
                Ready::Gap(_) => None,
            });
            for lent in waiting.chain(std::iter::once(&mut *lent)) {
                if renewed.contains(&lent.attempt) {
                    lent.until = until;
                }
            }
        }
    }

    /// What was renewed, of what is worked on and what waits.
    async fn renew(&self, group: &Group, attempt: Attempt) -> Vec<Attempt> {
        let waiting = self.ready.iter().filter_map(|ready| match ready {
            Ready::Delivery(_, lent) => Some(lent.attempt),
            Ready::Gap(_) => None,
        });
        let all = std::iter::once(attempt).chain(waiting);
        let renewed = all.map(async |one| match group.extend(one).await {
            Ok(renewed) => renewed.then_some(one),
            Err(error) => {
                tracing::debug!(error = %error.chain(), "a delivery could not be renewed");
                None
            }
        });
        futures::future::join_all(renewed).await.into_iter().flatten().collect()
    }
}

/// An event as a handler of [`Consumer::run`] gets it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Delivered<T> {
    /// Its data.
    pub data: T,
    /// It, as it came.
    pub raw: RawEvent,
    /// Which delivery of it this is, from 1 on.
    pub attempt: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Events;
    use coordinator_core::clock::ManualClock;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn what_waits_behind_long_work_is_renewed_with_it() {
        let clock = ManualClock::new();
        let events = Events::embedded_with_clock(Arc::new(clock.clone()));
        for number in 0..2 {
            assert!(events.publish("s", "n", &number).await.is_ok());
        }
        let lease = Duration::from_secs(3);
        let group = events.group("s", "g").expect("a group").with_lease(lease);
        let one = group.consumer("one").await.expect("a consumer");
        let (seen, mut heard) = mpsc::unbounded_channel();
        let goes_on = AtomicBool::new(false);
        let handler = |given: Delivered<u32>| {
            let _ = seen.send((given.data, given.attempt));
            async {
                while !goes_on.load(Ordering::Relaxed) {
                    tokio::task::yield_now().await;
                }
                Ok::<(), Error>(())
            }
        };
        let watched = async {
            assert_eq!(heard.recv().await, Some((0, 1)));
            for _ in 0..9 {
                clock.advance(lease / 3);
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            }
            goes_on.store(true, Ordering::Relaxed);
            assert_eq!(heard.recv().await, Some((1, 1)));
        };
        let limit = Duration::from_secs(10);
        tokio::select! {
            ended = one.run(handler) => panic!("it ended: {ended:?}"),
            () = watched => {}
            () = tokio::time::sleep(limit) => panic!("it waits"),
        }
    }
}
