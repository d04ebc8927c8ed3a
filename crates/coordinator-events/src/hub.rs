//! One scope in this process: one subscription and one repair, whatever the number of readers.
//!
//! What is heard is taken only where it follows what was heard before. Whatever else happens (a
//! message too many or too few, a link that was lost, an overflow, silence) is one look at the
//! stream, which repairs it for all readers without a disconnect.

use crate::{
    asked::Asked,
    backend::{Backend, Feed, From, Heard, PAGE, Page, Stored},
    cursor::{Cursor, Id},
    gap::behind,
    pages::Pages,
    ring::{Accepted, Ring},
    tasks,
    telemetry::{self, Trouble},
};
use coordinator_core::{BoxFuture, Result, key::Name};
use futures::future::{Either, select};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// How often the stream is looked at where nothing is heard.
const LOOK: Duration = Duration::from_secs(2);
/// For how long a scope is followed that nobody reads.
const LINGER: Duration = Duration::from_secs(10);
/// How soon a look that failed is repeated: first, and at the most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How much of a scope is kept in this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

pub(crate) struct Hub {
    pub(crate) scope: Name,
    pub(crate) backend: Arc<dyn Backend>,
    room: Room,
    ring: Mutex<Ring>,
    /// The number of slots there ever were.
    head: watch::Sender<u64>,
    live: OnceLock<()>,
    begins: Asked<(), ()>,
    /// Of pages that readers ask for themselves.
    pub(crate) pages: Trouble,
    ends: Asked<(), (Cursor, u64)>,
    shared: Pages,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Hub {
    pub(crate) fn new(backend: Arc<dyn Backend>, scope: Name, room: Room) -> Self {
        let ring = Mutex::new(Ring::new(room.events, room.bytes, Cursor::START));
        Self {
            scope,
            backend,
            room,
            ring,
            head: watch::channel(0).0,
            live: OnceLock::new(),
            begins: Asked::default(),
            pages: Trouble::default(),
            ends: Asked::default(),
            shared: Pages::default(),
        }
    }

    pub(crate) fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// Returns when whatever is published from now on will come.
    pub(crate) async fn live(self: &Arc<Self>) -> Result<()> {
        if self.live.get().is_some() {
            return Ok(());
        }
        let hub = self.clone();
        self.begins.same(move || hub.clone().begin()).await
    }

    async fn begin(self: Arc<Self>) -> Result<()> {
        if self.live.get().is_some() {
            return Ok(());
        }
        // Heard first and read afterwards: nothing falls in between.
        let feed = self.backend.listen(&self.scope).await?;
        let at = end(&*self.backend, &self.scope).await?;
        *self.ring() = Ring::new(self.room.events, self.room.bytes, at);
        tasks::spawn(pump(self.clone(), feed));
        self.live.get_or_init(|| ());
        Ok(())
    }

    /// Where the scope ends now, and the slot from which on what comes later will be. Many who ask
    /// at once share a read.
    pub(crate) async fn now(self: &Arc<Self>) -> Result<(Cursor, u64)> {
        let hub = self.clone();
        let now = move || {
            let hub = hub.clone();
            async move {
                let slot = hub.ring().end();
                Ok((end(&*hub.backend, &hub.scope).await?, slot))
            }
        };
        self.ends.same(now).await
    }

    /// A page from an event on, itself included, for a reader that goes on at a slot after it.
    pub(crate) async fn page(self: &Arc<Self>, at: Id) -> Result<(u64, Option<Page>)> {
        let hub = self.clone();
        let end = move || hub.ring().end();
        self.shared.page(self.backend.clone(), self.scope.clone(), at, end).await
    }

    fn told(&self) {
        let end = self.ring().end();
        self.head.send_if_modified(|head| std::mem::replace(head, end) != end);
    }

    /// Whether what was heard fits.
    fn accept(&self, stored: Stored) -> bool {
        let accepted = self.ring().accept(stored);
        match accepted {
            Accepted::New => self.told(),
            Accepted::Known => {}
            Accepted::Unsure => return false,
        }
        true
    }

    /// Reads what is missing, if anything is.
    pub(crate) async fn repair(&self) -> Result<()> {
        telemetry::repairs();
        loop {
            let at = self.ring().at;
            let page = self.backend.read(&self.scope, From::At(at.id), PAGE).await?;
            let back = page.as_ref().is_some_and(|page| self.ring().went_back(page));
            if back && let Some(common) = self.common().await? {
                self.ring().roll_back(common);
                self.told();
                continue;
            }
            let more = page.as_ref().is_some_and(|page| page.is_cut(at.id));
            if self.ring().extend(page) {
                self.told();
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// The server went back: the last event that it and the ring both have, as far as is known
    /// here.
    async fn common(&self) -> Result<Option<Cursor>> {
        let Some(oldest) = self.ring().oldest() else { return Ok(None) };
        let (mut from, mut common) = (oldest.id, None);
        loop {
            let page = self.backend.read(&self.scope, From::At(from), PAGE).await?;
            let Some(Page { events, .. }) = page else { return Ok(common) };
            let Some(last) = self.ring().last_common(&events) else {
                // All that the ring has is of another past; readers may have had what is before.
                let other = events.first().filter(|first| first.id == oldest.id);
                return Ok(common.or(other.map(|other| Cursor { id: behind(other), nonce: None })));
            };
            common = Some(last);
            if events.last().is_none_or(|end| end.id != last.id) || last.id == from {
                return Ok(common);
            }
            from = last.id;
        }
    }
}

/// After the last event of a scope.
pub(crate) async fn end(backend: &dyn Backend, scope: &Name) -> Result<Cursor> {
    let page = backend.read(scope, From::Last, 1).await?;
    Ok(page.map_or(Cursor::START, |page| match page.events.last() {
        Some(last) if last.id == page.last => Cursor::new(last.id, last.nonce),
        _ => Cursor { id: page.last, nonce: None },
    }))
}

/// Gives a scope or topic up, unless somebody took it meanwhile, who waits for what its pump hears.
pub(crate) fn wanted<T>(what: Arc<T>) -> Option<Arc<T>> {
    let taken = Arc::downgrade(&what);
    drop(what);
    taken.upgrade()
}

/// Runs until nobody reads the scope any more.
async fn pump(mut hub: Arc<Hub>, mut feed: Box<dyn Feed<Stored>>) {
    let clock = hub.backend.clock().clone();
    let mut unread_since = None;
    let mut alarm = clock.sleep(LOOK);
    let mut pause = AGAIN.0;
    // Something may be missing, and could not be read yet.
    let mut doubt = false;
    let trouble = Trouble::default();
    loop {
        let (heard, idle) = match select(feed.next(), alarm).await {
            Either::Left((heard, rest)) => {
                alarm = rest;
                (heard, false)
            }
            Either::Right(_) => {
                alarm = clock.sleep(LOOK);
                // Silence may be deafness.
                (Heard::Lost, true)
            }
        };
        if Arc::strong_count(&hub) > 1 {
            unread_since = None;
        } else if idle {
            // Readers often come again at once, with the place that they had come to.
            let now = clock.now();
            if now.saturating_since(*unread_since.get_or_insert(now)) >= LINGER {
                let Some(wanted) = wanted(hub) else { return };
                hub = wanted;
                unread_since = None;
            }
        }
        let fits = match heard {
            // What may be missing comes first, and the look that finds it finds this.
            Heard::It(_) if doubt => true,
            Heard::It(stored) => hub.accept(stored),
            Heard::Lost => false,
            Heard::Noise => true,
        };
        if fits {
            continue;
        }
        match hub.repair().await {
            Ok(()) => {
                trouble.over();
                (doubt, pause) = (false, AGAIN.0);
            }
            Err(error) => {
                doubt |= !idle;
                trouble.met(&error, "a scope could not be read");
                alarm = jittered(&clock, pause);
                pause = (pause * 2).min(AGAIN.1);
            }
        }
    }
}

/// Sleeps for the half of a pause up to all of it.
pub(crate) fn jittered(
    clock: &Arc<dyn coordinator_core::clock::Clock>,
    pause: Duration,
) -> BoxFuture<'static, ()> {
    clock.sleep(pause_of(pause))
}

/// The half of a pause up to all of it.
pub(crate) fn pause_of(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + 0.5 * rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::Posted,
        embedded::Embedded,
        gap::GapReason,
        reader::{Read, Reader},
        ring::Slot,
        subscribe::{Position, SlowReader},
        tests::{entry, name},
    };
    use coordinator_core::clock::ManualClock;
    use tokio::sync::mpsc;

    /// A scope that nothing is heard of but what the test says.
    struct Scene {
        embedded: Arc<Embedded>,
        clock: ManualClock,
        hub: Arc<Hub>,
        epoch: u64,
    }

    impl Scene {
        fn new() -> Self {
            let clock = ManualClock::new();
            let embedded = Arc::new(Embedded::new(Arc::new(clock.clone())));
            let room = Room { events: 100, bytes: 1 << 20 };
            let hub = Arc::new(Hub::new(embedded.clone(), name("s"), room));
            Self { embedded, clock, hub, epoch: 0 }
        }

        /// Each number tells its event from others with its id.
        async fn publish(&mut self, numbers: std::ops::Range<u8>) -> crate::cursor::Id {
            let mut last = crate::cursor::Id::START;
            for number in numbers {
                let entry = crate::backend::Entry { epoch: self.epoch, ..entry(number) };
                match self.embedded.publish(&name("s"), &entry).await.expect("an answer") {
                    Posted::New(id) => last = id,
                    other => panic!("{other:?}"),
                }
            }
            self.epoch = last.epoch;
            last
        }

        /// As after a failover to a server that had not got everything, in the same epoch.
        fn set_back(&self, number: u64) {
            let last = crate::cursor::Id { epoch: self.epoch, number };
            self.embedded.set_back(&name("s"), last, false);
        }

        /// What the ring has from a slot on: gaps by where they go back to, events by their nonce.
        fn slots(&self, from: u64) -> Vec<Result<u8, u64>> {
            let ring = self.hub.ring();
            let slots = ring.from(from).map(|slot| match slot {
                Slot::Event(stored, _) => Ok(stored.nonce[0]),
                Slot::Gap(gap) => {
                    assert_eq!(gap.reason, GapReason::RolledBack);
                    Err(gap.to.id.number)
                }
            });
            slots.collect()
        }

        fn reader(&self, position: Position) -> Reader {
            let now = (Cursor::START, 0);
            Reader::new(self.hub.clone(), position, now, SlowReader::Spill)
        }
    }

    async fn event(reader: &mut Reader) -> Cursor {
        match reader.next().await {
            Some(Read::Event(raw)) => raw.cursor(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_a_server_that_went_back_has_instead_is_read() {
        // With more events in the same epoch, and in another.
        for anew in [false, true] {
            let mut scene = Scene::new();
            scene.publish(0..10).await;
            scene.hub.repair().await.expect("a look");
            scene.set_back(5);
            scene.publish(20..22).await;
            if anew {
                scene.epoch += 1;
                scene.publish(22..23).await;
            }
            scene.hub.repair().await.expect("a look");
            let mut expected = vec![Err(5), Ok(20), Ok(21)];
            expected.extend(anew.then_some(Ok(22)));
            assert_eq!(scene.slots(10), expected);
        }
    }

    #[tokio::test]
    async fn where_a_ring_has_nothing_to_compare_it_does_not_begin_from_the_start() {
        let mut scene = Scene::new();
        scene.publish(0..10).await;
        let at = end(&*scene.embedded, &name("s")).await.expect("an end");
        *scene.hub.ring() = Ring::new(100, 1 << 20, at);
        scene.set_back(5);
        scene.publish(20..26).await;
        scene.hub.repair().await.expect("a look");
        assert_eq!(scene.slots(0), [Err(8), Ok(23), Ok(24), Ok(25)]);
        // What it has is all of another past.
        let mut scene = Scene::new();
        scene.publish(0..4).await;
        let at = end(&*scene.embedded, &name("s")).await.expect("an end");
        *scene.hub.ring() = Ring::new(100, 1 << 20, at);
        scene.publish(4..10).await;
        scene.hub.repair().await.expect("a look");
        scene.set_back(2);
        scene.publish(20..28).await;
        scene.hub.repair().await.expect("a look");
        let expected = [Err(3), Ok(21), Ok(22), Ok(23), Ok(24), Ok(25), Ok(26), Ok(27)];
        assert_eq!(scene.slots(6), expected);
    }

    #[tokio::test]
    async fn a_reader_before_the_ring_sees_that_the_server_went_back() {
        let mut scene = Scene::new();
        scene.publish(0..10).await;
        let mut reader = scene.reader(Position::Earliest);
        for expected in 0..10 {
            assert_eq!(event(&mut reader).await.id.number, expected);
        }
        scene.set_back(5);
        scene.publish(20..25).await;
        // The ring heard nothing of what is gone.
        scene.hub.repair().await.expect("a look");
        match reader.next().await {
            Some(Read::Gap(gap)) => assert_eq!(gap.reason, GapReason::RolledBack),
            other => panic!("{other:?}"),
        }
        assert_eq!(event(&mut reader).await.nonce, Some([23; 8]));
        assert_eq!(event(&mut reader).await.nonce, Some([24; 8]));
    }

    #[tokio::test]
    async fn a_reader_that_has_what_came_instead_is_not_sent_back() {
        let mut scene = Scene::new();
        let last = scene.publish(0..10).await;
        scene.hub.repair().await.expect("a look");
        scene.set_back(5);
        scene.publish(20..24).await;
        let five = Cursor { id: crate::cursor::Id { number: 5, ..last }, nonce: None };
        let mut reader = scene.reader(Position::After(five));
        for expected in 20..24 {
            assert_eq!(event(&mut reader).await.nonce, Some([expected; 8]));
        }
        scene.hub.repair().await.expect("a look");
        scene.publish(24..25).await;
        scene.hub.repair().await.expect("a look");
        assert_eq!(event(&mut reader).await.nonce, Some([24; 8]));
    }

    #[test]
    fn a_scope_that_a_reader_just_took_is_not_given_up() {
        let Scene { hub, .. } = Scene::new();
        // Looked up after the last look at whether anybody reads it.
        let reader = Arc::downgrade(&hub).upgrade();
        let hub = wanted(hub).expect("it is read");
        drop(reader);
        let found = Arc::downgrade(&hub);
        assert!(wanted(hub).is_none());
        assert!(found.upgrade().is_none(), "whoever comes now begins anew");
    }

    struct Told(mpsc::Receiver<Heard<Stored>>);

    impl Feed<Stored> for Told {
        fn next(&mut self) -> BoxFuture<'_, Heard<Stored>> {
            Box::pin(async {
                match self.0.recv().await {
                    Some(heard) => heard,
                    None => std::future::pending().await,
                }
            })
        }
    }

    #[tokio::test]
    async fn while_something_may_be_missing_nothing_is_taken_that_comes_after_it() {
        let mut scene = Scene::new();
        scene.publish(0..10).await;
        scene.hub.repair().await.expect("a look");
        let (tell, told) = mpsc::channel(1);
        tasks::spawn(pump(scene.hub.clone(), Box::new(Told(told))));
        // The link was lost, and nobody can be asked yet.
        scene.embedded.away(true);
        tell.send(Heard::Lost).await.expect("it listens");
        scene.set_back(5);
        scene.publish(20..25).await;
        let page = scene.hub.backend.read(&scene.hub.scope, From::Last, 1);
        assert!(page.await.is_err(), "somebody can be asked");
        let id = crate::cursor::Id { epoch: scene.epoch, number: 10 };
        let envelope = bytes::Bytes::from_static(b"envelope");
        let before = crate::backend::Before::Dense;
        let stored = Stored { id, before, nonce: [24; 8], envelope };
        // Whoever takes the third has done with the first.
        for heard in [Heard::It(stored), Heard::Noise, Heard::Noise] {
            tell.send(heard).await.expect("it listens");
        }
        assert_eq!(scene.slots(10), []);
        scene.embedded.away(false);
        let mut head = scene.hub.head();
        scene.clock.advance(LOOK);
        head.changed().await.expect("it goes on");
        assert_eq!(scene.slots(10)[0], Err(5));
    }
}
