//! A reader's way through a scope: by the ring where it can, by pages where it must.

use crate::{
    backend::{From, PAGE, Page},
    cursor::{Cursor, Id},
    envelope::RawEvent,
    gap::{Gap, GapReason, behind, follows, hole, join},
    hub::{Hub, jittered},
    ring::{Ring, Slot},
    subscribe::{Position, SlowReader},
};
use coordinator_core::{BoxFuture, Result};
use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};
use tokio::sync::watch;

/// How many events are taken out of the ring at once, and after how many bytes it is enough: what a
/// reader has taken stays in memory until it is read.
const BATCH: (usize, usize) = (64, 64 * 1024);
/// How soon a page that could not be read is asked for again: first, and at the most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// What a reader yields.
#[derive(Debug)]
pub(crate) enum Read {
    Event(RawEvent),
    Gap(Gap),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// From this slot of the ring on.
    Live(u64),
    /// From the server. Before anything was read from the earliest that is there.
    Paging {
        earliest: bool,
    },
    Over,
}

pub(crate) struct Reader {
    hub: Arc<Hub>,
    head: watch::Receiver<u64>,
    /// A page on its way, which outlasts whoever asked for it.
    asked: Option<BoxFuture<'static, Asked>>,
    /// After what is in `ready`.
    at: Cursor,
    mode: Mode,
    ready: VecDeque<Read>,
    policy: SlowReader,
}

/// A page, and the slot of the ring from which on it may lack events.
struct Asked {
    resume: u64,
    earliest: bool,
    page: Result<Option<Page>>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hub, at, mode, .. } = self;
        f.debug_struct("Reader")
            .field("scope", &hub.scope)
            .field("at", at)
            .field("mode", mode)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// On a scope that is live; `now` is where it ends, and the slot to go on from there.
    pub(crate) fn new(
        hub: Arc<Hub>,
        position: Position,
        now: (Cursor, u64),
        policy: SlowReader,
    ) -> Self {
        let head = hub.head();
        let (at, mode) = match position {
            Position::Now => (now.0, Mode::Live(now.1)),
            Position::Earliest => (Cursor::START, Mode::Paging { earliest: true }),
            // Whoever comes again soon finds here what was missed, and asks the server for nothing:
            // should it have gone back, that is told to all readers.
            Position::After(cursor) => match hub.ring().after(cursor) {
                Some(number) => (cursor, Mode::Live(number)),
                None => (cursor, Mode::Paging { earliest: false }),
            },
        };
        Self { hub, head, asked: None, at, mode, ready: VecDeque::new(), policy }
    }

    /// After what was taken so far, of which some may not have been yielded.
    pub(crate) fn at(&self) -> Cursor {
        self.at
    }

    /// The next event or gap; none after a disconnect. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Read> {
        let mut pause = AGAIN.0;
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            match self.mode {
                Mode::Over => return None,
                Mode::Live(number) => {
                    self.head.mark_unchanged();
                    if !self.live(number) {
                        // Only the hub has the sender, and this has the hub.
                        let _ = self.head.changed().await;
                    }
                }
                Mode::Paging { earliest } => {
                    let (hub, at) = (self.hub.clone(), self.at);
                    let asked = self.asked.get_or_insert_with(|| Box::pin(ask(hub, at, earliest)));
                    let Asked { resume, earliest, page } = asked.await;
                    self.asked = None;
                    match page {
                        Ok(page) => {
                            self.hub.pages.over();
                            self.page(page, earliest, resume);
                        }
                        Err(error) => {
                            self.hub.pages.met(&error, "a page of a scope could not be read");
                            jittered(self.hub.backend.clock(), pause).await;
                            pause = (pause * 2).min(AGAIN.1);
                        }
                    }
                }
            }
        }
    }

    fn tell(&mut self, gap: Gap) {
        self.at = gap.to;
        self.ready.push_back(Read::Gap(gap));
    }

    /// Takes what the ring has; whether there was anything to be done.
    fn live(&mut self, number: u64) -> bool {
        let hub = self.hub.clone();
        let ring = hub.ring();
        let mut number = number;
        if number < ring.start() {
            number = match self.policy {
                SlowReader::Spill => {
                    self.mode = Mode::Paging { earliest: false };
                    return true;
                }
                SlowReader::Disconnect => {
                    self.mode = Mode::Over;
                    return true;
                }
                SlowReader::DropOldest => self.skip_to(&ring, ring.start()),
                SlowReader::Latest => self.skip_to(&ring, ring.end().saturating_sub(1)),
            };
            self.mode = Mode::Live(number);
        }
        let (mut any, mut bytes) = (false, 0);
        for slot in ring.from(number).take(BATCH.0) {
            if bytes >= BATCH.1 {
                break;
            }
            any = true;
            number += 1;
            match slot {
                Slot::Event(stored, raw) if follows(self.at.id, stored) => {
                    self.at = raw.cursor();
                    bytes += stored.envelope.len();
                    self.ready.push_back(Read::Event(raw.clone()));
                }
                // Read from the server before it came here. Whether all of them are the same shows
                // with the last.
                Slot::Event(stored, raw)
                    if stored.id < self.at.id || raw.cursor().agrees(self.at) => {}
                Slot::Gap(gap) if gap.from.agrees(self.at) => self.tell(*gap),
                _ => {
                    self.mode = Mode::Paging { earliest: false };
                    return true;
                }
            }
            self.mode = Mode::Live(number);
        }
        any
    }

    /// Goes on at a slot without what is before it, and says so.
    fn skip_to(&mut self, ring: &Ring, number: u64) -> u64 {
        let first = ring.from(number).find_map(|slot| match slot {
            Slot::Event(stored, _) => Some(stored),
            Slot::Gap(_) => None,
        });
        if let Some(first) = first
            && let Some(gap) = hole(self.at, first)
        {
            self.tell(Gap { reason: GapReason::Lagged, ..gap });
        }
        number
    }

    fn page(&mut self, page: Option<Page>, earliest: bool, resume: u64) {
        let from = if earliest { Id::START } else { self.at.id };
        let full = page.as_ref().is_some_and(|page| page.is_cut(from));
        if earliest && let Some(page) = &page {
            // What is no longer there was not asked for.
            self.at = match page.events.first() {
                Some(first) => Cursor { id: behind(first), nonce: None },
                None => Cursor { id: page.last, nonce: None },
            };
        }
        let joined = join(&mut self.at, page);
        if let Some(gap) = joined.gap {
            self.tell(gap);
        }
        for stored in joined.events {
            if let Some(gap) = hole(self.at, &stored) {
                self.tell(gap);
            }
            self.at = Cursor::new(stored.id, stored.nonce);
            self.ready.push_back(Read::Event(RawEvent::new(self.at, &stored.envelope)));
        }
        self.mode = if full { Mode::Paging { earliest: false } } else { Mode::Live(resume) };
    }
}

async fn ask(hub: Arc<Hub>, at: Cursor, earliest: bool) -> Asked {
    if !earliest {
        let paged = hub.page(at.id).await;
        let (resume, page) = match paged {
            Ok((resume, page)) => (resume, Ok(page)),
            Err(error) => (0, Err(error)),
        };
        return Asked { resume, earliest, page };
    }
    // What is in the ring by now was on the server before this page is read.
    let resume = hub.ring().end();
    let page = hub.backend.read(&hub.scope, From::First, PAGE).await;
    Asked { resume, earliest, page }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::{Backend as _, Entry},
        embedded::Embedded,
        hub::Room,
        tests::{entry, faulty::Faulty, name},
        {Events, RawItem},
    };
    use coordinator_core::clock::ManualClock;

    #[tokio::test]
    async fn whoever_comes_again_with_a_place_that_is_here_asks_the_server_for_nothing() {
        let backend = Faulty::new(Arc::new(ManualClock::new()));
        let events = Events::over(backend.clone());
        let mut stays = events.subscribe("s").open_raw().await.expect("it opens");
        let mut cursors = Vec::new();
        for number in 0..5 {
            let published = events.publish("s", "n", &number).await.expect("published");
            cursors.extend(published.cursor());
            assert!(matches!(stays.next().await, Some(RawItem::Event(_))));
        }
        let before = backend.calls("read");
        for (number, cursor) in cursors.iter().enumerate() {
            let open = events.subscribe("s").from(Position::After(*cursor)).open_raw();
            let mut again = open.await.expect("it opens");
            for expected in &cursors[number + 1..] {
                match again.next().await {
                    Some(RawItem::Event(event)) => assert_eq!(event.cursor(), *expected),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(backend.calls("read"), before);
    }

    #[tokio::test]
    async fn a_reader_takes_no_more_than_it_is_about_to_read() {
        let embedded = Arc::new(Embedded::new(Arc::new(coordinator_core::clock::SystemClock)));
        for number in 0..32 {
            let frame = vec![number; 20 * 1024].into();
            let posted = embedded.publish(&name("s"), &Entry { frame, ..entry(0) }).await;
            posted.expect("an answer");
        }
        let room = Room { events: 100, bytes: 1 << 30 };
        let hub = Arc::new(Hub::new(embedded, name("s"), room));
        hub.repair().await.expect("a look");
        let now = (Cursor::START, 0);
        let mut reader = Reader::new(hub, Position::Now, now, SlowReader::Spill);
        for expected in 0..32 {
            match reader.next().await {
                Some(Read::Event(raw)) => assert_eq!(raw.cursor().number(), expected),
                other => panic!("{other:?}"),
            }
            assert!(reader.ready.len() < 4, "{}", reader.ready.len());
        }
    }
}
