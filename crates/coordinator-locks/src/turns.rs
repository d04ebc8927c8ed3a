//! The places of this client in the queues of the backend: it says that it lives for all its
//! waiters together, hears whose turn it is, and tells them.

use crate::{
    backend::{
        Backend, Client, HEARTBEAT, Released, SHARDS, Standing, Surrender, Wait, Wake, Wakeups,
    },
    tasks,
    token::Token,
};
use coordinator_core::{
    BoxFuture, Result,
    clock::{Instant, until},
    key::Name,
};
use rand::RngExt as _;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// How often a client looks that no subscription can be had for.
const POLL: Duration = Duration::from_millis(100);
/// For how long after its last waiter a client goes on listening: more often come soon.
const LINGER: Duration = Duration::from_secs(2);
/// How many waiters one heartbeat asks for.
const BATCH: usize = 200;

/// The waiters of one client, by shard.
#[derive(Debug)]
pub(crate) struct Turns {
    client: Client,
    shards: Vec<Arc<Shard>>,
    /// Dropped with this, which ends what attends to the shards.
    open: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Shard {
    waiting: Mutex<Waiting>,
    /// Whether turns are heard as they come.
    hears: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    places: HashMap<String, Arc<Place>>,
    names: HashMap<Name, Asked>,
    /// Whether a task attends to them.
    attended: bool,
}

/// How many wait for a name, and when it was last asked how it stands.
#[derive(Debug)]
struct Asked {
    waiters: usize,
    last: Instant,
}

#[derive(Debug)]
struct Place {
    name: Name,
    token: Token,
    /// Whether the queue knows it, as far as we know.
    stands: AtomicBool,
    /// What a release brought.
    news: Mutex<Option<Told>>,
    told: Notify,
}

/// What a waiter is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It may be its turn: ask.
    Look,
    /// It was granted the lock, by a request sent then.
    Granted { fence: u64, sent: Instant },
    /// It stands in the queue, since a request sent then.
    Stands { ticket: u64, sent: Instant },
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self {
            client: Client::random(),
            shards: (0..SHARDS).map(|_| Arc::default()).collect(),
            open: watch::channel(()).0,
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    fn shard(&self, name: &Name) -> &Arc<Shard> {
        &self.shards[usize::from(name.shard(SHARDS))]
    }

    /// Whether the turns at a name are heard as they come.
    pub(crate) fn hears(&self, name: &Name) -> bool {
        self.shard(name).hears.load(Ordering::Acquire)
    }

    /// Makes a waiter known, before it asks: from then on it is told.
    pub(crate) fn enter(&self, name: &Name, token: &Token) -> Waiter {
        let place = Arc::new(Place {
            name: name.clone(),
            token: token.clone(),
            stands: AtomicBool::new(false),
            news: Mutex::default(),
            told: Notify::new(),
        });
        let shard = self.shard(name).clone();
        unpoisoned(&shard.waiting).places.insert(token.expose().to_owned(), place.clone());
        Waiter { shard, place }
    }

    /// A waiter stands in the queue since it asked at `asked`, where it said whether we hear: from
    /// here on it is looked after.
    pub(crate) fn stands(
        &self,
        waiter: &Waiter,
        asked: Instant,
        hears: bool,
        backend: &Arc<dyn Backend>,
    ) {
        let place = &waiter.place;
        if !hears && waiter.shard.hears.load(Ordering::Acquire) {
            // We hear since then, which the queue does not know: nobody would tell us.
            place.told.notify_one();
        }
        let mut waiting = unpoisoned(&waiter.shard.waiting);
        let new = !place.stands.swap(true, Ordering::AcqRel);
        let at = waiting.names.entry(place.name.clone());
        let at = at.or_insert(Asked { waiters: 0, last: asked });
        at.waiters += usize::from(new);
        at.last = at.last.max(asked);
        if !std::mem::replace(&mut waiting.attended, true) {
            let attendant = Attendant {
                backend: backend.clone(),
                client: self.client.clone(),
                number: place.name.shard(SHARDS),
                shard: waiter.shard.clone(),
                wakeups: None,
                deaf_until: None,
            };
            tasks::spawn(attendant.run(self.open.subscribe()));
        }
    }

    /// A release by this client, sent then, may have granted the lock to one of its waiters, and
    /// put one that it brought along into the queue. One that is gone gives it up by itself.
    pub(crate) fn passed_on(&self, lease: &Surrender, released: &Released, sent: Instant) {
        let waiting = unpoisoned(&self.shard(&lease.name).waiting);
        let tell = |token: &Token, told: Told| {
            if let Some(place) = waiting.places.get(token.expose()) {
                let mut news = unpoisoned(&place.news);
                // A grant is the last word, however late the others come.
                if !matches!(*news, Some(Told::Granted { .. })) {
                    *news = Some(told);
                }
                drop(news);
                place.told.notify_one();
            }
        };
        if let (Some(next), Some(ticket)) = (&lease.successor, released.ticket) {
            tell(&next.token, Told::Stands { ticket, sent });
        }
        if let Some((token, fence)) = &released.next {
            tell(token, Told::Granted { fence: *fence, sent });
        }
    }
}

/// A waiter that is known here; dropping it makes it unknown, but does not step out of the queue.
#[derive(Debug)]
pub(crate) struct Waiter {
    shard: Arc<Shard>,
    place: Arc<Place>,
}

impl Waiter {
    /// Waits to be told; cancel safe.
    pub(crate) async fn told(&self) -> Told {
        self.place.told.notified().await;
        unpoisoned(&self.place.news).take().unwrap_or(Told::Look)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = unpoisoned(&self.shard.waiting);
        waiting.places.remove(self.place.token.expose());
        if self.place.stands.load(Ordering::Acquire)
            && let Some(asked) = waiting.names.get_mut(&self.place.name)
        {
            asked.waiters -= 1;
            if asked.waiters == 0 {
                waiting.names.remove(&self.place.name);
            }
        }
    }
}

impl Shard {
    /// When the name that was not asked after for the longest time was last asked after.
    fn oldest(&self) -> Option<Instant> {
        unpoisoned(&self.waiting).names.values().map(|asked| asked.last).min()
    }

    /// Everybody who stands in a queue; all their names count as asked after now.
    fn standing(&self, now: Instant) -> Vec<Arc<Place>> {
        let mut waiting = unpoisoned(&self.waiting);
        waiting.names.values_mut().for_each(|asked| asked.last = asked.last.max(now));
        let stands = |place: &&Arc<Place>| place.stands.load(Ordering::Acquire);
        waiting.places.values().filter(stands).cloned().collect()
    }

    fn tell(&self, token: &Token) {
        // One that is unknown has its lock, or has given its place up and is about to say so.
        if let Some(place) = unpoisoned(&self.waiting).places.get(token.expose()) {
            place.told.notify_one();
        }
    }

    /// Ends attending unless somebody waits.
    fn part(&self) -> bool {
        let mut waiting = unpoisoned(&self.waiting);
        waiting.attended = !waiting.names.is_empty();
        if !waiting.attended {
            self.hears.store(false, Ordering::Release);
        }
        !waiting.attended
    }
}

/// Attends to the waiters of one shard, as long as there are any and a little longer.
struct Attendant {
    backend: Arc<dyn Backend>,
    client: Client,
    number: u16,
    shard: Arc<Shard>,
    wakeups: Option<Box<dyn Wakeups>>,
    /// Subscribing failed: until then look more often, and do not try again.
    deaf_until: Option<Instant>,
}

impl Attendant {
    async fn run(mut self, mut open: watch::Receiver<()>) {
        let clock = self.backend.clock().clone();
        let mut idle_since = clock.now();
        let mut looking: Option<BoxFuture<'static, ()>> = None;
        let mut listening: Option<BoxFuture<'static, Result<Box<dyn Wakeups>>>> = None;
        loop {
            let deaf = self.deaf_until.is_some_and(|until| until > clock.now());
            if self.wakeups.is_none() && listening.is_none() && !deaf {
                let (backend, client) = (self.backend.clone(), self.client.clone());
                let number = self.number;
                listening = Some(Box::pin(async move { backend.listen(number, &client).await }));
            }
            let every = if self.wakeups.is_some() { HEARTBEAT } else { POLL };
            let every = every.mul_f64(rand::rng().random_range(0.8..1.0));
            let next = self.shard.oldest().unwrap_or_else(|| clock.now()) + every;
            let heard = async {
                match &mut self.wakeups {
                    Some(wakeups) => wakeups.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The locks were dropped, and with them whoever waited.
                _ = open.changed() => return,
                wake = heard => match wake {
                    Wake::Turn(token) => self.shard.tell(&token),
                    Wake::Lost => looking = Some(self.look(clock.now())),
                },
                () = some(&mut looking) => looking = None,
                listens = some(&mut listening) => {
                    listening = None;
                    self.listens(listens, clock.now());
                    // It may have been somebody's turn before anybody listened.
                    looking = Some(self.look(clock.now()));
                }
                // While a look is under way there is nothing to do when the time comes.
                () = clock.sleep_until(next), if looking.is_none() => {
                    let now = clock.now();
                    match self.shard.oldest() {
                        Some(oldest) if oldest + every <= now => {
                            looking = Some(self.look(now));
                        }
                        None if now.saturating_since(idle_since) >= LINGER
                            && self.shard.part() => return,
                        _ => {}
                    }
                    if self.shard.oldest().is_some() {
                        idle_since = now;
                    }
                }
            }
        }
    }

    fn listens(&mut self, listens: Result<Box<dyn Wakeups>>, now: Instant) {
        match listens {
            Ok(wakeups) => {
                self.wakeups = Some(wakeups);
                self.shard.hears.store(true, Ordering::Release);
            }
            Err(error) => {
                tracing::warn!(error = %error.chain(), "waiting for locks without wake-ups");
                // Trouble of the moment is soon worth another try; a refusal is not.
                let pause = if error.is_retryable() { 1 } else { 60 };
                self.deaf_until = Some(now + Duration::from_secs(pause));
            }
        }
    }

    /// Says for all waiters that they live, and tells those whose turn it is.
    fn look(&self, now: Instant) -> BoxFuture<'static, ()> {
        let (backend, client) = (self.backend.clone(), self.client.clone());
        let (number, hears) = (self.number, self.wakeups.is_some());
        let standing = self.shard.standing(now);
        Box::pin(async move {
            for places in standing.chunks(BATCH) {
                let wait = |place: &Arc<Place>| Wait {
                    name: place.name.clone(),
                    token: place.token.clone(),
                };
                let waits: Vec<_> = places.iter().map(wait).collect();
                let limit = backend.clock().now() + backend.step_timeout() * 2;
                let asked = backend.heartbeat(number, &client, hears, &waits);
                // One that is not answered is followed by another.
                if let Some(answer) = until(&**backend.clock(), limit, asked).await {
                    notify(places, answer);
                }
            }
        })
    }
}

/// Completes with what is under way, if anything is.
async fn some<T>(under_way: &mut Option<BoxFuture<'static, T>>) -> T {
    match under_way {
        Some(under_way) => under_way.await,
        None => std::future::pending().await,
    }
}

fn notify(places: &[Arc<Place>], answer: Result<Vec<Standing>>) {
    match answer {
        Ok(standings) => {
            for (place, standing) in places.iter().zip(standings) {
                if standing != Standing::Waits {
                    place.told.notify_one();
                }
            }
        }
        Err(error) => tracing::debug!(error = %error.chain(), "a heartbeat failed"),
    }
}
