//! A service of streams behind axum's own server, over real sockets.

use crate::page::SOON;
use axum::{
    Router,
    extract::{Path, State},
    routing::get,
    serve::Listener,
};
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
    io::{AsyncRead, AsyncWrite, ReadBuf},
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

/// What a service does with its connections.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sockets {
    /// As the book says.
    pub(crate) user_timeout: Option<Duration>,
    /// As with what cannot write several buffers at once.
    pub(crate) is_flat: bool,
}

impl Service {
    pub(crate) async fn start(sse: Sse) -> Self {
        Self::start_on(sse, Sockets::default()).await
    }

    pub(crate) async fn start_on(sse: Sse, sockets: Sockets) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Counted { listener, sockets, connections: connections.clone() };
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
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        let served = tokio::time::timeout(SOON, &mut self.served).await;
        served.expect("the service ends").expect("no panic").expect("no error");
    }
}

struct Counted {
    listener: TcpListener,
    sockets: Sockets,
    connections: Arc<AtomicUsize>,
}

/// A connection that is counted until the server lets go of it.
struct Connection {
    stream: TcpStream,
    is_flat: bool,
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
        let Sockets { user_timeout, is_flat } = self.sockets;
        let set = socket2::SockRef::from(&stream).set_tcp_user_timeout(user_timeout);
        set.expect("the kernel knows of it");
        (Connection { stream, is_flat, connections: self.connections.clone() }, addr)
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
        !self.is_flat && self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
