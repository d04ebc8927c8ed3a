//! Streams over real sockets, behind axum's own server.

use crate::page::{SOON, Socket};
use axum::{
    Router,
    extract::{Path, State},
    routing::get,
    serve::Listener,
};
use coordinator::events::Events;
use coordinator_harness::eventually;
use coordinator_web::events::{Sse, SseBody};
use http::{Response, request::Parts};
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

/// A service that streams scopes, and knows its connections.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<io::Result<()>>,
}

async fn follow(
    State(sse): State<Sse>,
    Path(scopes): Path<String>,
    parts: Parts,
) -> Response<SseBody> {
    sse.answer(&parts, scopes.split(',')).await
}

pub(crate) fn background<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    #[expect(clippy::disallowed_methods, reason = "tests own their tasks")]
    tokio::spawn(work)
}

impl Service {
    pub(crate) async fn start(sse: Sse) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Counted { listener, connections: connections.clone() };
        let app: Router = Router::new().route("/{scopes}", get(follow)).with_state(sse);
        let (stop, stopped) = oneshot::channel::<()>();
        let served = axum::serve(counted, app).with_graceful_shutdown(async {
            let _ = stopped.await;
        });
        let served = background(served.into_future());
        Self { addr, connections, stop: Some(stop), served }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Takes no more connections, and ends when those that there are do.
    async fn stop(mut self) {
        drop(self.stop.take());
        let served = tokio::time::timeout(SOON, &mut self.served).await;
        served.expect("the service ends").expect("no panic").expect("no error");
    }
}

struct Counted {
    listener: TcpListener,
    connections: Arc<AtomicUsize>,
}

/// A connection that is counted until the server lets go of it.
struct Connection {
    stream: TcpStream,
    connections: Arc<AtomicUsize>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Listener for Counted {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, addr) = Listener::accept(&mut self.listener).await;
        self.connections.fetch_add(1, Ordering::Relaxed);
        (Connection { stream, connections: self.connections.clone() }, addr)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
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
    let mut never = TcpStream::connect(service.addr).await.expect("a connection");
    never.write_all(b"GET /case HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("a request");
    eventually(SOON, "both are there", async || sse.status().streams == 2).await;
    // More than the kernel takes for a client, and far more than the ring holds.
    let data = vec![b'x'; 512 * 1024];
    for _ in 0..32 {
        let sent = events.publish_raw("case", "update", "text/plain", &data).await;
        let _ = sent.expect("a publish");
        reads.next().await.expect("an event");
    }
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
