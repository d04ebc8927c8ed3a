//! What clients cost that do not read, or too slowly. Alone in its process, of which it asks the
//! memory.

use axum::{Router, extract::State, routing::get, serve::ListenerExt as _};
use coordinator::{Config, Coordinator, events::Events};
use coordinator_harness::{RedisServer, eventually, fresh_prefix};
use coordinator_web::events::{Sse, SseBody};
use futures::future::join_all;
use http::{Response, request::Parts};
use std::{io::Write as _, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};

const SOON: Duration = Duration::from_mins(1);
const CLIENTS: usize = 200;
/// The bytes of an event.
const EVENT: usize = 256 * 1024;
/// More than the ring of a scope holds, by far.
const ROUND: usize = 64;
/// What a client may cost that is as far as all others are: what is under way to it, of events that
/// it shares with them.
const WITH_OTHERS: usize = 2 * EVENT;
/// What it may cost by itself: a page of the server, of two events if they are long, in a buffer
/// of up to twice that, and the texts of the event that it is at and of the one before.
const BY_ITSELF: usize = 6 * EVENT;

async fn serve(sse: Sse) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    // What the kernel holds is not asked about, and shall not be much.
    let listener = listener.tap_io(|tcp| {
        let set = socket2::SockRef::from(&*tcp).set_send_buffer_size(16 * 1024);
        set.expect("a buffer");
    });
    let follow = async |State(sse): State<Sse>, parts: Parts| -> Response<SseBody> {
        sse.answer(&parts, ["case"]).await
    };
    let app: Router = Router::new().route("/", get(follow)).with_state(sse);
    #[expect(clippy::disallowed_methods, reason = "tests own their tasks")]
    drop(tokio::spawn(async move { axum::serve(listener, app).await.expect("a service") }));
    addr
}

async fn connect(addr: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a buffer");
    let mut client = socket.connect(addr).await.expect("a connection");
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("a request");
    client
}

async fn publish(events: &Events) {
    let data = vec![b'x'; EVENT];
    for _ in 0..ROUND {
        let sent = events.publish_raw("case", "update", "text/plain", &data).await;
        let _ = sent.expect("a publish");
    }
}

/// What this process has in memory, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let kib = line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number");
    kib * 1024
}

async fn two(server: &RedisServer) -> [Events; 2] {
    let config = Config::from_url(&server.url()).expect("a URL");
    let config = config.with_prefix(&fresh_prefix()).expect("a prefix");
    let one = Coordinator::with_config(config.clone()).await.expect("a connection");
    let two = Coordinator::with_config(config).await.expect("a connection");
    [one, two].map(|one| one.events().clone())
}

#[tokio::test]
async fn clients_that_do_not_read_cost_the_same_whatever_is_published() {
    let server = RedisServer::start().await.expect("a server");
    let [events, publisher] = two(&server).await;
    let sse = Sse::new(events).with_write_deadline(SOON * 10);
    let addr = serve(sse.clone()).await;
    let before = resident();
    let mut clients = join_all((0..CLIENTS).map(|_| connect(addr))).await;
    eventually(SOON, "all are there", async || sse.status().streams == CLIENTS).await;
    let each = || resident().saturating_sub(before) / CLIENTS;
    let (mut still, mut slow) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        publish(&publisher).await;
        still.push(each());
    }
    let mut buffer = vec![0; 64 * 1024];
    for _ in 0..3 {
        // Each reads a little, and far too little: it is behind what this process remembers, so
        // what it is to read next is read for it alone.
        for client in &mut clients {
            for _ in 0..8 {
                client.read_exact(&mut buffer).await.expect("the stream");
            }
        }
        slow.push(each());
    }
    assert_eq!((sse.status().streams, sse.status().stalled), (CLIENTS, 0));
    // Whether the line could be printed does not matter to the test.
    let kib = |all: &[usize]| all.iter().map(|bytes| bytes / 1024).collect::<Vec<_>>();
    let figures = format!("KiB for each of {CLIENTS}: {:?}, then {:?}", kib(&still), kib(&slow));
    let _ = writeln!(std::io::stderr(), "{figures}");
    assert!(still.iter().all(|each| *each < WITH_OTHERS), "{figures}");
    assert!(slow.iter().all(|each| *each < BY_ITSELF), "{figures}");
}
