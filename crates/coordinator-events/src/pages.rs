//! Pages of a scope that readers ask for themselves: those who ask at once for places near each
//! other share one, as after an outage all who were cut off do.
//!
//! How a reader goes on after a page is not here.

use crate::{
    asked::{Asked, copy},
    backend::{Backend, From, PAGE, Page},
    cursor::Id,
};
use coordinator_core::{Result, key::Name};
use futures::future::join_all;
use std::sync::Arc;

/// How far behind a place a page may begin that is to reach it.
const NEAR: u64 = PAGE as u64 / 2;
/// How many pages are read at once.
const AT_ONCE: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Pages(Asked<Id, Paged>);

/// A page, and what was looked at before it was read.
type Paged = (u64, Option<Page>);

impl Pages {
    /// A page from a place on, itself included, and where the ring ended before it was read. Cancel
    /// safe.
    pub(crate) async fn page(
        &self,
        backend: Arc<dyn Backend>,
        scope: Name,
        at: Id,
        ring_end: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Result<Paged> {
        let ring_end = Arc::new(ring_end);
        let round = move |places: Vec<Id>| {
            let (backend, scope, ring_end) = (backend.clone(), scope.clone(), ring_end.clone());
            async move {
                // What is in the ring by now was on the server before these pages are read.
                let resume = ring_end();
                let read = |from| backend.read(&scope, From::At(from), PAGE);
                let begins = begins(&places);
                let pages = join_all(begins.iter().map(|from| read(*from))).await;
                let answers = places.iter().zip(0..).map(async |(at, number)| {
                    // What is read first is behind it, or nobody asked for any that is.
                    let nearest = begins.partition_point(|from| from <= at).checked_sub(1)?;
                    let from = begins[nearest];
                    match of(&pages[nearest], from, *at) {
                        None if number == 0 => Some(read(*at).await),
                        answer if from.epoch == at.epoch => answer,
                        _ => None,
                    }
                });
                let answers = join_all(answers).await.into_iter();
                answers.map(|page| page.map(|page| Ok((resume, page?)))).collect()
            }
        };
        self.0.ask(at, round).await
    }
}

/// Where pages begin that reach these places, that of the first and of as many others as are read
/// at once, in order.
fn begins(places: &[Id]) -> Vec<Id> {
    let mut sorted = places.to_vec();
    sorted.sort_unstable();
    let mut begins: Vec<Id> = Vec::new();
    for place in sorted {
        let near = |from: &Id| from.epoch == place.epoch && place.number - from.number <= NEAR;
        if !begins.last().is_some_and(near) {
            begins.push(place);
        }
    }
    let first = begins.partition_point(|from| *from <= places[0]).saturating_sub(1);
    // Around the one that reaches whoever waited longest.
    let from = first.saturating_sub(AT_ONCE / 2).min(begins.len().saturating_sub(AT_ONCE));
    begins.into_iter().skip(from).take(AT_ONCE).collect()
}

/// A page as it would have been read from a place on, or its beginning; none if the page does not
/// tell what comes after the place.
fn of(page: &Result<Option<Page>>, from: Id, at: Id) -> Option<Result<Option<Page>>> {
    let page = match page {
        Ok(Some(page)) if from != at => page,
        other => return Some(copy(other)),
    };
    let first = page.events.partition_point(|event| event.id < at);
    let events = page.events[first..].to_vec();
    let more = page.is_cut(Id::START);
    let goes_on = events.last().is_some_and(|end| end.id > at);
    (goes_on || !more).then_some(Ok(Some(Page { last: page.last, events })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::faulty::{Fault, Faulty};
    use crate::{Events, Position, RawItem};
    use coordinator_core::{ErrorKind, clock::ManualClock};
    use std::sync::Arc;

    async fn scene(events: u32) -> (Arc<Faulty>, Events, Vec<crate::Cursor>) {
        let backend = Faulty::new(Arc::new(ManualClock::new()));
        let all = Events::over(backend.clone());
        let mut cursors = Vec::new();
        for number in 0..events {
            let published = all.publish("s", "n", &number).await.expect("published");
            cursors.extend(published.cursor());
        }
        (backend.clone(), Events::over(backend), cursors)
    }

    /// What a reader of each place sees of the first events after it.
    async fn read(events: &Events, places: &[crate::Cursor]) -> Vec<u64> {
        let read = places.iter().map(async |place| {
            let open = events.subscribe("s").from(Position::After(*place)).open_raw();
            let mut reader = open.await.expect("it opens");
            match reader.next().await {
                Some(RawItem::Event(event)) => event.cursor().number(),
                other => panic!("{other:?}"),
            }
        });
        join_all(read).await
    }

    #[tokio::test]
    async fn readers_that_come_again_at_once_share_pages() {
        let (backend, events, cursors) = scene(200).await;
        let before = backend.calls("read");
        let places: Vec<_> = (0..150).map(|number| cursors[100 + number * 7 % 99]).collect();
        let seen = read(&events, &places).await;
        assert!(seen.iter().copied().eq(places.iter().map(|place| place.number() + 1)));
        let asked = backend.calls("read") - before;
        assert!(asked <= 10, "{asked} pages");
    }

    #[tokio::test]
    async fn wherever_readers_come_again_each_reads_to_the_end() {
        let (backend, events, cursors) = scene(2000).await;
        let before = backend.calls("read");
        let places = [0, 1, 64, 127, 128, 129, 254, 255, 256, 257, 1000, 1128, 1998, 1999];
        let read = places.iter().map(async |place| {
            let open = events.subscribe("s").from(Position::After(cursors[*place])).open_raw();
            let mut reader = open.await.expect("it opens");
            for expected in &cursors[place + 1..] {
                match reader.next().await {
                    Some(RawItem::Event(event)) => assert_eq!(event.cursor(), *expected),
                    other => panic!("{other:?}"),
                }
            }
        });
        let limit = std::time::Duration::from_secs(30);
        tokio::time::timeout(limit, join_all(read)).await.expect("nobody sleeps");
        // Nor does whoever is far away wait for the others.
        let asked = backend.calls("read") - before;
        assert!((8..70).contains(&asked), "{asked} pages");
    }

    #[test]
    fn a_page_tells_of_a_place_what_comes_after_it_or_that_nothing_does() {
        let id = |number| Id { epoch: 7, number };
        let event = |number| crate::backend::Stored {
            id: id(number),
            before: crate::backend::Before::Dense,
            nonce: [0; 8],
            envelope: bytes::Bytes::new(),
        };
        for (last, at, expected) in [
            (9, 1, Some(vec![1, 2, 4])),
            (9, 2, Some(vec![2, 4])),
            (9, 3, Some(vec![4])),
            // Cut right after it: whoever has it would wait for what is there.
            (9, 4, None),
            (9, 5, None),
            (4, 4, Some(vec![4])),
            (4, 5, Some(vec![])),
        ] {
            let page = Page { last: id(last), events: [1, 2, 4].map(event).into() };
            let told = of(&Ok(Some(page)), id(1), id(at)).map(|page| {
                let page = page.expect("an answer").expect("a page");
                page.events.iter().map(|event| event.id.number).collect::<Vec<_>>()
            });
            assert_eq!(told, expected, "{at} of {last}");
        }
        assert!(matches!(of(&Ok(None), id(1), id(2)), Some(Ok(None))));
    }

    #[test]
    fn pages_begin_where_they_reach_whoever_waited_longest() {
        let id = |number| Id { epoch: 7, number };
        let all: Vec<_> = (0..100).map(|number| id(number * 200)).collect();
        for first in [0, 1, 50, 98, 99] {
            let mut places = vec![all[first]];
            places.extend(&all);
            let begins = begins(&places);
            assert_eq!(begins.len(), AT_ONCE);
            assert!(begins.is_sorted() && begins.contains(&all[first]), "{first}");
        }
        let near = [id(300), id(10), id(138), id(139), Id { epoch: 8, number: 0 }];
        assert_eq!(begins(&near), [id(10), id(139), id(300), Id { epoch: 8, number: 0 }]);
    }

    #[tokio::test]
    async fn whoever_is_far_behind_or_trimmed_takes_nobody_along() {
        let (_, events, cursors) = scene(2000).await;
        let places: Vec<_> = (0..40).map(|number| cursors[number * 49]).collect();
        let seen = read(&events, &places).await;
        assert!(seen.iter().copied().eq(places.iter().map(|place| place.number() + 1)));
        events.trim("s", cursors[999]).await.expect("a trim");
        let open = |place| events.subscribe("s").from(Position::After(place)).open_raw();
        let read = [900, 950, 1005].map(async |number| {
            let mut reader = open(cursors[number]).await.expect("it opens");
            (number, reader.next().await)
        });
        for (number, item) in join_all(read).await {
            match item {
                Some(RawItem::Gap(gap)) => assert_eq!(gap.lost.count(), 999 - number as u64),
                Some(RawItem::Event(event)) => {
                    assert_eq!((number, event.cursor().number()), (1005, 1006));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn whoever_waited_for_a_page_shares_its_failure_and_nobody_after() {
        let (backend, _, cursors) = scene(20).await;
        let (pages, scope) = (Pages::default(), crate::tests::name("s"));
        backend.fail("read", &[Fault::Not(ErrorKind::Unavailable)]);
        let read = |place: &crate::Cursor| {
            let backend: Arc<dyn Backend> = backend.clone();
            pages.page(backend, scope.clone(), place.id, || 7)
        };
        assert!(join_all(cursors.iter().map(read)).await.iter().all(Result::is_err));
        for (paged, place) in join_all(cursors.iter().map(read)).await.into_iter().zip(&cursors) {
            let (resume, page) = paged.expect("an answer");
            let page = page.expect("a page");
            assert_eq!((resume, page.events[0].id), (7, place.id));
            assert_eq!(page.events.len() as u64, 20 - place.number());
        }
        assert_eq!(backend.calls("read"), 2);
    }
}
