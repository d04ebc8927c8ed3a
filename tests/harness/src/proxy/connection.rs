//! One connection through the proxy: two directions, each a reader that decides and a writer that
//! carries out, with a queue between them.
//!
//! Deciding on arrival makes a delay a latency rather than a bottleneck; one writer per direction
//! keeps the order. Closing is passed on too, unless the connection has lost something: then not
//! even that gets through.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufWriter};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::Link;
use super::pairing::{Args, Meaning, Pairing};
use super::rule::{Action, Side};
use crate::frame;
use crate::util::{self, locked};

/// How long a server may take to close its end once the client has gone and all was delivered.
const GRACE: Duration = Duration::from_secs(1);

struct Connection {
    link: Arc<Link>,
    pairing: Mutex<Pairing>,
    /// Something was lost, so nothing may come through any more.
    lost: AtomicBool,
}

/// A frame on its way.
struct Item {
    bytes: Bytes,
    due: Instant,
    action: Action,
    /// Of a request that will be answered.
    args: Option<Args>,
}

/// How a direction ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its source has closed, and everything was delivered.
    Drained,
    /// A rule ended the connection.
    Cut,
    /// As `Cut`, with a reset.
    Reset,
}

/// Counts a client's open connection.
struct Open(Arc<Link>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Serves one connection to its end.
pub(super) async fn run(
    link: Arc<Link>,
    mut client: TcpStream,
    mut server: TcpStream,
    mut cuts: watch::Receiver<u64>,
) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    link.connections.fetch_add(1, Ordering::SeqCst);
    let open = Open(Arc::clone(&link));
    let connection = Connection { link, pairing: Mutex::default(), lost: AtomicBool::new(false) };
    let end = tokio::select! {
        end = connection.serve(&mut client, &mut server, open) => end,
        _ = cuts.changed() => End::Cut,
    };
    if end == End::Reset {
        client.set_zero_linger()?;
    }
    Ok(())
}

impl Connection {
    /// Moves frames both ways until nobody is left to move them for.
    async fn serve(&self, client: &mut TcpStream, server: &mut TcpStream, open: Open) -> End {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (request, requests) = unbounded_channel();
        let (reply, replies) = unbounded_channel();
        let mut there = std::pin::pin!(both(
            self.read_requests(from_client, request, open),
            self.write(Side::Request, to_server, requests),
        ));
        let mut back = std::pin::pin!(both(
            self.read_replies(from_server, reply),
            self.write(Side::Reply, to_client, replies),
        ));
        let (mut client_done, mut server_done) = (false, false);
        loop {
            let lost = self.lost.load(Ordering::SeqCst);
            let end = tokio::select! {
                end = &mut there, if !client_done => {
                    client_done = true;
                    end
                }
                end = &mut back, if !server_done => {
                    server_done = true;
                    end
                }
                () = sleep(GRACE), if client_done && !lost => return End::Drained,
            };
            let lost = self.lost.load(Ordering::SeqCst);
            if end != End::Drained || (client_done && server_done) || (server_done && !lost) {
                return end;
            }
        }
    }

    async fn read_requests(
        &self,
        mut from: ReadHalf<'_>,
        queue: UnboundedSender<Item>,
        open: Open,
    ) {
        let mut buf = BytesMut::new();
        let mut resp = true;
        loop {
            while resp {
                match frame::take_request(&mut buf) {
                    Ok(Some((bytes, args))) => {
                        self.link.count(&args);
                        let action = self.link.decide(Side::Request, &args);
                        self.queue(&queue, Side::Request, bytes, action, Some(args.into()));
                    }
                    Ok(None) => break,
                    Err(frame::NotResp) => resp = false,
                }
            }
            if !self.refill(&queue, Side::Request, &mut from, &mut buf, resp).await {
                drop(open);
                return;
            }
        }
    }

    async fn read_replies(&self, mut from: ReadHalf<'_>, queue: UnboundedSender<Item>) {
        let mut buf = BytesMut::new();
        let mut resp = true;
        loop {
            while resp {
                match frame::take(&mut buf) {
                    Ok(Some(bytes)) => {
                        if let Some(action) = self.judge(&bytes) {
                            self.queue(&queue, Side::Reply, bytes, action, None);
                        }
                    }
                    Ok(None) => break,
                    Err(frame::NotResp) => resp = false,
                }
            }
            if !self.refill(&queue, Side::Reply, &mut from, &mut buf, resp).await {
                return;
            }
        }
    }

    /// What becomes of a frame from the server; `None` discards it alone.
    fn judge(&self, frame: &Bytes) -> Option<Action> {
        let on = |flag: &AtomicBool| flag.load(Ordering::SeqCst);
        let meaning = locked(&self.pairing).frame(frame);
        match meaning {
            Meaning::Message if on(&self.link.drop_messages) => None,
            Meaning::Invalidation if on(&self.link.drop_invalidations) => None,
            Meaning::Reply(args) => Some(self.link.decide(Side::Reply, &args)),
            Meaning::Message | Meaning::Invalidation | Meaning::Other => Some(Action::Pass),
        }
    }

    /// Reads more, unless the source has closed. What is not RESP, and half a frame before the
    /// close, is passed on as it is.
    async fn refill(
        &self,
        queue: &UnboundedSender<Item>,
        side: Side,
        from: &mut ReadHalf<'_>,
        buf: &mut BytesMut,
        resp: bool,
    ) -> bool {
        if !resp && !buf.is_empty() {
            self.queue(queue, side, buf.split().freeze(), Action::Pass, None);
        }
        let more = matches!(from.read_buf(buf).await, Ok(n) if n > 0);
        if !more && !buf.is_empty() {
            self.queue(queue, side, buf.split().freeze(), Action::Pass, None);
        }
        more
    }

    fn queue(
        &self,
        queue: &UnboundedSender<Item>,
        side: Side,
        bytes: Bytes,
        action: Action,
        args: Option<Args>,
    ) {
        let mut due = util::now() + self.link.delay(side);
        if let Action::Delay(more) = &action {
            due += *more;
        }
        // The writer is gone only when the whole connection is about to end.
        let _ = queue.send(Item { bytes, due, action, args });
    }

    /// Carries out what was decided, in order.
    async fn write(
        &self,
        side: Side,
        to: WriteHalf<'_>,
        mut queue: UnboundedReceiver<Item>,
    ) -> End {
        let mut to = BufWriter::new(to);
        // Errors of writing mean that the receiver has gone. Its own reader notices, and until the
        // connection ends the frames fall on the floor.
        loop {
            let item = if let Ok(item) = queue.try_recv() {
                item
            } else {
                let _ = to.flush().await;
                let Some(item) = queue.recv().await else {
                    break;
                };
                item
            };
            if item.due > util::now() {
                let _ = to.flush().await;
                sleep_until(item.due).await;
            }
            if let Action::Hold(mut gone) = item.action.clone() {
                let _ = to.flush().await;
                // The sender lives as long as the proxy, whose end is ours.
                let _ = gone.wait_for(|gone| *gone).await;
            }
            if self.vanishes() {
                continue;
            }
            let mut bytes = item.bytes;
            let mut end = None;
            match item.action {
                Action::Pass | Action::Delay(_) | Action::Hold(_) => {}
                Action::Replace(other) => bytes = other,
                Action::Lose => {
                    self.lost.store(true, Ordering::SeqCst);
                    let _ = to.flush().await;
                    continue;
                }
                Action::Cut => (bytes, end) = (Bytes::new(), Some(End::Cut)),
                Action::Reset => (bytes, end) = (Bytes::new(), Some(End::Reset)),
                Action::Truncate(n) => {
                    bytes.truncate(n);
                    end = Some(End::Cut);
                }
            }
            if let (Some(args), Side::Request, None) = (item.args, side, end) {
                locked(&self.pairing).request(args);
            }
            let _ = to.write_all(&bytes).await;
            if let Some(end) = end {
                let _ = to.flush().await;
                return end;
            }
        }
        if !self.vanishes() {
            let _ = to.shutdown().await;
        }
        End::Drained
    }

    /// Whether nothing comes through any more.
    fn vanishes(&self) -> bool {
        if self.link.black_hole.load(Ordering::SeqCst) {
            self.lost.store(true, Ordering::SeqCst);
        }
        self.lost.load(Ordering::SeqCst)
    }
}

/// Reads and writes one direction until the writer has come to its end.
///
/// A cut does not wait for a reader that waits for more; a drained queue means that the reader has
/// ended.
async fn both(reading: impl Future<Output = ()>, writing: impl Future<Output = End>) -> End {
    let mut writing = std::pin::pin!(writing);
    tokio::select! {
        end = &mut writing => end,
        () = reading => writing.await,
    }
}
