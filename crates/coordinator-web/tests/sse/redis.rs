//! Streams over a server that is cut off, dies and comes again.

use crate::{
    page::{Page, SOON},
    service::background,
    stage::connect,
};
use coordinator::events::{Events, Published};
use coordinator_harness::{RedisServer, eventually};
use coordinator_web::events::Sse;
use std::time::Duration;

const SCOPE: &str = "case:7";

/// The number of an event, without the mark of who published it.
fn number(id: &str) -> &str {
    id.split('.').next().expect("the first part")
}

/// Publishes as soon as somebody takes it, and says the number: one that was taken before its
/// answer was lost is known by that alone.
async fn publish_soon(events: &Events, number: u32) -> String {
    let again = async {
        loop {
            let sent = events.publish(SCOPE, "triage_update", &number);
            match sent.idempotent(&number.to_string()).await {
                Ok(Published::New(at) | Published::Duplicate(at)) => {
                    return self::number(&at.to_string()).to_owned();
                }
                // The server is away.
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(SOON, again).await.expect("somebody publishes in time")
}

/// The ids and data of the next events, of which none is missing.
async fn follow(page: &mut Page, count: usize) -> Vec<(String, String)> {
    let mut came = Vec::with_capacity(count);
    while came.len() < count {
        let seen = page.next().await.expect("it goes on");
        assert_eq!(seen.kind, "triage_update", "{}", seen.data);
        came.push((seen.id, seen.data));
    }
    came
}

#[tokio::test]
async fn streams_go_on_over_restarts_and_killed_links_with_the_same_ids() {
    const ROUND: u32 = 50;
    let server = RedisServer::builder().with_aof("always").start().await.expect("a server");
    // Two processes that stream, and one that publishes.
    let [here, there, publisher] = connect(&server).await;
    let (here, there) = (Sse::new(here), Sse::new(there));
    let mut stays = Page::open(&here, &[SCOPE], "").await;
    let mut moves = Page::open(&there, &[SCOPE], "").await;
    assert!(stays.look() && moves.look());
    let first = moves.last_id().to_owned();
    let mut all = Vec::new();
    for round in 0..4 {
        let mut sent = Vec::new();
        for one in round * ROUND..(round + 1) * ROUND {
            sent.push((publish_soon(&publisher, one).await, one.to_string()));
            if one % ROUND == ROUND / 2 {
                if round % 2 == 0 {
                    server.restart().await.expect("it starts again");
                } else {
                    for kind in ["normal", "pubsub"] {
                        let kill = ["CLIENT", "KILL", "TYPE", kind];
                        let killed = server.command(&kill).await.expect("an answer");
                        assert!(killed.as_int().is_some_and(|killed| killed > 0), "{killed:?}");
                    }
                }
            }
        }
        let seen = follow(&mut stays, sent.len()).await;
        assert_eq!(follow(&mut moves, sent.len()).await, seen, "the same in another process");
        let numbers = seen.iter().map(|(id, data)| (number(id).to_owned(), data.clone()));
        assert_eq!(numbers.collect::<Vec<_>>(), sent);
        all.extend(seen);
        // From one process to the other, with the id that either gave it.
        let id = moves.last_id().to_owned();
        assert_eq!(id, stays.last_id());
        moves = Page::open(if round % 2 == 0 { &here } else { &there }, &[SCOPE], &id).await;
        assert_eq!(moves.status, 200);
    }
    for sse in [&here, &there] {
        let mut again = Page::open(sse, &[SCOPE], &first).await;
        assert_eq!(follow(&mut again, all.len()).await, all, "from before it all");
    }
}

#[tokio::test]
async fn while_the_server_is_gone_clients_keep_their_streams_and_newcomers_come_back() {
    let server = RedisServer::builder().with_aof("always").start().await.expect("a server");
    let [events] = connect(&server).await;
    let sse = Sse::new(events.clone()).with_terminal(["triage_completed"]);
    let mut page = Page::open(&sse, &[SCOPE], "").await;
    let sent = publish_soon(&events, 1).await;
    let (first, data) = follow(&mut page, 1).await.remove(0);
    assert_eq!((number(&first), &*data), (&*sent, "1"));

    server.kill().await;
    for id in ["", &first] {
        let mut late = Page::open(&sse, &[SCOPE], id).await;
        assert_eq!((late.status.as_u16(), late.next().await), (200, None), "no browser gives up");
        assert!(late.parser().retry_ms().is_some_and(|retry| retry >= 2000));
        assert_eq!(late.last_id(), "", "it keeps the place it has");
    }
    assert_eq!(sse.status().streams, 1, "who is here stays");
    assert!(page.look());
    assert_eq!(page.seen(), None);

    server.start_again().await.expect("a server");
    let next = background(async move { publish_soon(&events, 2).await });
    let seen = follow(&mut page, 1).await;
    let next = next.await.expect("no panic");
    assert_eq!((number(&seen[0].0), &*seen[0].1), (&*next, "2"));
    let mut late = None;
    eventually(SOON, "a stream begins where it was left", async || {
        let page = Page::open(&sse, &[SCOPE], &first).await;
        late = Some(page).filter(|_| sse.status().streams == 2);
        late.is_some()
    })
    .await;
    assert_eq!(follow(&mut late.expect("a stream"), 1).await, seen);
}
