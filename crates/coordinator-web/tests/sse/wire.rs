//! Streams over real sockets, to clients that come, go and do not read.

use crate::{
    page::{SOON, Socket},
    service::{Service, Sockets},
};
use coordinator::{
    clock::{Clock as _, SystemClock},
    events::Events,
};
use coordinator_harness::eventually;
use coordinator_web::events::Sse;
use std::{net::SocketAddr, time::Duration};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

/// A client that asks, and never reads.
async fn ask(addr: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(addr).await.expect("a connection");
    client.write_all(b"GET /case HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("a request");
    client
}

/// More than the kernel takes for a client, and far more than the ring holds, to a page that reads
/// all of it.
async fn publish_much(events: &Events, reads: &mut Socket) {
    let data = vec![b'x'; 512 * 1024];
    for _ in 0..32 {
        let sent = events.publish_raw("case", "update", "text/plain", &data).await;
        let _ = sent.expect("a publish");
        reads.next().await.expect("an event");
    }
}

#[tokio::test]
async fn a_page_that_is_cut_resumes_where_it_was() {
    let events = Events::embedded();
    let service = Service::start(Sse::new(events.clone())).await;
    let mut page = Socket::open(service.addr, "/case", "").await;
    assert!(page.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", page.head);
    for number in 0..200_u64 {
        let _ = events.publish("case", "update", &number).await.expect("a publish");
    }
    for number in 0..200_u64 {
        let seen = page.next().await.expect("an event");
        assert_eq!(seen.data, number.to_string());
        if number % 17 == 0 {
            let id = page.last_id().to_owned();
            page = Socket::open(service.addr, "/case", &id).await;
        }
    }
    eventually(SOON, "the others are gone", async || service.connections() == 1).await;
}

#[tokio::test]
async fn the_connection_of_a_client_that_never_reads_ends_by_its_deadline() {
    let deadline = Duration::from_millis(500);
    let events = Events::embedded();
    let sse = Sse::new(events.clone()).with_write_deadline(deadline);
    let service = Service::start(sse.clone()).await;
    let mut reads = Socket::open(service.addr, "/case", "").await;
    let never = ask(service.addr).await;
    eventually(SOON, "both are there", async || sse.status().streams == 2).await;
    publish_much(&events, &mut reads).await;
    eventually(SOON, "it is gone", async || service.connections() == 1).await;
    assert_eq!((sse.status().streams, sse.status().stalled), (1, 1));
    let _ = events.publish("case", "update", &1).await.expect("a publish");
    assert_eq!(reads.next().await.expect("the other goes on").data, "1");
    drop(never);
}

#[tokio::test]
async fn a_service_that_drains_its_streams_can_stop() {
    let sse = Sse::new(Events::embedded());
    let service = Service::start(sse.clone()).await;
    let mut page = Socket::open(service.addr, "/one,two", "").await;
    eventually(SOON, "it is there", async || sse.status().streams == 1).await;
    sse.drain();
    service.stop().await;
    assert_eq!(page.next().await, None);
    assert!(!page.last_id().is_empty());
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_behind() {
    let sse = Sse::new(Events::embedded());
    let service = Service::start(sse.clone()).await;
    let page = Socket::open(service.addr, "/case", "").await;
    eventually(SOON, "it is there", async || sse.status().streams == 1).await;
    drop(page);
    eventually(SOON, "it is gone", async || sse.status().streams == 0).await;
    assert_eq!(service.connections(), 0);
}

#[tokio::test]
async fn a_client_that_is_gone_without_a_word_is_found_by_the_kernel() {
    let (timeout, alive) = (Duration::from_secs(1), Duration::from_millis(200));
    let sse = Sse::new(Events::embedded()).with_keep_alive(alive);
    let sockets = Sockets { user_timeout: Some(timeout), ..Sockets::default() };
    let service = Service::start_on(sse.clone(), sockets).await;
    let mut here = Socket::open(service.addr, "/case", "").await;
    let gone = ask(service.addr).await;
    eventually(SOON, "both are there", async || sse.status().streams == 2).await;
    // From now on nothing reaches it, and nothing comes from it: no word, and no end.
    let nothing = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 };
    let filtered = socket2::SockRef::from(&gone).attach_filter(&[nothing]);
    filtered.expect("a filter");
    let before = SystemClock.now();
    eventually(SOON, "it is gone", async || service.connections() == 1).await;
    let took = SystemClock.now().saturating_since(before);
    assert!(took >= timeout / 2, "{took:?}: something else has ended it");
    eventually(SOON, "its stream too", async || sse.status().streams == 1).await;
    assert_eq!(sse.status().stalled, 0, "the deadline of what waits here had no part in it");
    sse.drain();
    assert_eq!(here.next().await, None, "who reads was here all the time");
    assert!(!here.last_id().is_empty());
}

#[tokio::test]
async fn where_a_server_copies_what_it_writes_the_kernel_ends_who_never_reads() {
    let timeout = Duration::from_secs(1);
    let events = Events::embedded();
    let sse = Sse::new(events.clone()).with_write_deadline(timeout);
    let sockets = Sockets { user_timeout: Some(timeout), is_flat: true };
    let service = Service::start_on(sse.clone(), sockets).await;
    let mut reads = Socket::open(service.addr, "/case", "").await;
    let never = ask(service.addr).await;
    eventually(SOON, "both are there", async || sse.status().streams == 2).await;
    publish_much(&events, &mut reads).await;
    eventually(SOON, "it is gone", async || service.connections() == 1).await;
    eventually(SOON, "its stream too", async || sse.status().streams == 1).await;
    let _ = events.publish("case", "update", &1).await.expect("a publish");
    assert_eq!(reads.next().await.expect("the other goes on").data, "1");
    drop(never);
}
