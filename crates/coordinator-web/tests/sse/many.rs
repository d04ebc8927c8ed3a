//! Many clients at once, over real sockets: each event is written once, and comes soon.
//!
//! How soon is asked of the whole machine, so of the long run alone.

use crate::{
    page::SOON,
    service::{Service, background},
};
use coordinator::{
    clock::{Clock as _, Instant, SystemClock},
    events::Events,
};
use coordinator_harness::eventually;
use coordinator_web::events::Sse;
use std::{io::Write as _, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const EVERY: Duration = Duration::from_millis(100);

/// Reads so many events, and says how long after it was published each came, in µs.
async fn follow(addr: SocketAddr, events: usize) -> Vec<u64> {
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    stream.write_all(b"GET /case HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("a request");
    let (mut text, mut took) = (Vec::new(), Vec::with_capacity(events));
    while took.len() < events {
        let read = stream.read_buf(&mut text).await.expect("the stream");
        assert!(read > 0, "it goes on");
        let now = SystemClock.now().since_start();
        let end = text.windows(2).rposition(|two| two == b"\n\n").map_or(0, |at| at + 2);
        let whole = String::from_utf8(text.drain(..end).collect()).expect("UTF-8");
        let sent = whole.lines().filter_map(|line| line.strip_prefix("data: "));
        took.extend(sent.map(|sent| {
            let sent = Duration::from_micros(sent.parse().expect("a number"));
            u64::try_from(now.saturating_sub(sent).as_micros()).expect("soon")
        }));
    }
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_are_served_from_one_text_per_event() {
    let long = std::env::var_os("COORDINATOR_LONG").is_some();
    let (clients, count) = if long { (2000, 200_u32) } else { (100, 10) };
    let events = Events::embedded();
    let sse = Sse::new(events.clone());
    let service = Service::start(sse.clone()).await;
    let followers: Vec<_> =
        (0..clients).map(|_| background(follow(service.addr, count as usize))).collect();
    eventually(SOON, "all are there", async || sse.status().streams == clients).await;
    let begin = SystemClock.now();
    for number in 0..count {
        SystemClock.sleep_until(begin + EVERY * number).await;
        let now = SystemClock.now().saturating_since(Instant::from_start(Duration::ZERO));
        let now = u64::try_from(now.as_micros()).expect("soon");
        let _ = events.publish("case", "update", &now).await.expect("a publish");
    }
    let mut took = Vec::new();
    for follower in followers {
        took.extend(follower.await.expect("every event"));
    }
    assert_eq!(took.len(), clients * count as usize);
    assert_eq!(sse.status().encoded, u64::from(count), "once for all");
    took.sort_unstable();
    let at = |share: usize| Duration::from_micros(took[took.len() * share / 1000]);
    let (half, most) = (at(500), at(990));
    // Whether the line could be printed does not matter to the test.
    let _ = writeln!(
        std::io::stderr(),
        "{clients} clients, {count} events: p50 {half:?}, p99 {most:?}, last {:?}",
        at(999)
    );
    assert!(!long || most < Duration::from_millis(50), "p99 {most:?}");
}
