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
use std::sync::Arc;

/// How far behind a place a page may begin that is to reach it.
const NEAR: u64 = PAGE as u64 / 2;

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
                // The first that whoever waited longest may share a page with.
                let at = places[0];
                let near = Id { number: at.number.saturating_sub(NEAR), ..at }..=at;
                let shared = places.iter().filter(|place| near.contains(place)).min();
                let from = shared.copied().unwrap_or(at);
                // What is in the ring by now was on the server before this page is read.
                let resume = ring_end();
                let page = backend.read(&scope, From::At(from), PAGE).await;
                let mut answers: Vec<_> = places
                    .iter()
                    .map(|place| of(&page, from, *place).map(|page| Ok((resume, page?))))
                    .collect();
                if answers[0].is_none() {
                    // Not there any more, or far behind what is: nobody else's page tells.
                    let page = backend.read(&scope, From::At(at), PAGE).await;
                    answers[0] = Some(page.map(|page| (resume, page)));
                }
                answers
            }
        };
        self.0.ask(at, round).await
    }
}

/// A page as it would have been read from a place on; none if that cannot be told.
fn of(page: &Result<Option<Page>>, from: Id, at: Id) -> Option<Result<Option<Page>>> {
    let page = match page {
        Ok(Some(page)) if from != at => page,
        other => return Some(copy(other)),
    };
    let first = page.events.iter().position(|event| event.id == at)?;
    Some(Ok(Some(Page { last: page.last, events: page.events[first..].to_vec() })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::faulty::{Fault, Faulty};
    use crate::{Events, Position, RawItem};
    use coordinator_core::{ErrorKind, clock::ManualClock};
    use futures::future::join_all;
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
