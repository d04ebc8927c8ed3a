//! A page that follows a stream: in this process, or over a socket of its own.

use crate::parser::{Parser, Seen};
use coordinator_web::events::{Sse, SseBody};
use futures::FutureExt as _;
use http::{HeaderMap, Request, StatusCode, request::Parts};
use http_body_util::BodyExt as _;
use std::{collections::VecDeque, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Within this whatever is to come has come.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A request with the id that a client comes with, if any.
pub(crate) fn request(id: &str) -> Parts {
    let mut request = Request::get("/events");
    if !id.is_empty() {
        request = request.header("last-event-id", id);
    }
    request.body(()).expect("a request").into_parts().0
}

/// A page that reads the body of an answer.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: SseBody,
    parser: Parser,
    seen: VecDeque<Seen>,
    text: String,
}

impl Page {
    pub(crate) async fn open(sse: &Sse, scopes: &[&str], id: &str) -> Self {
        Self::ask(sse, scopes, &request(id)).await
    }

    pub(crate) async fn ask(sse: &Sse, scopes: &[&str], parts: &Parts) -> Self {
        let (head, body) = sse.answer(parts, scopes.iter().copied()).await.into_parts();
        Self {
            status: head.status,
            headers: head.headers,
            body,
            parser: Parser::default(),
            seen: VecDeque::new(),
            text: String::new(),
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.seen.extend(self.parser.push(bytes));
        self.text.push_str(&String::from_utf8_lossy(bytes));
    }

    /// The next event; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Seen> {
        // For all of it: signs of life come for ever.
        tokio::time::timeout(SOON, self.read()).await.expect("an event, or the end")
    }

    async fn read(&mut self) -> Option<Seen> {
        while self.seen.is_empty() {
            let bytes = self.body.frame().await?.expect("no stall").into_data().expect("data");
            self.push(&bytes);
        }
        self.seen.pop_front()
    }

    /// An event that has come already.
    pub(crate) fn seen(&mut self) -> Option<Seen> {
        self.seen.pop_front()
    }

    /// The type and data of the next event.
    pub(crate) async fn told(&mut self) -> (String, String) {
        let seen = self.next().await.expect("an event");
        (seen.kind, seen.data)
    }

    /// Takes what is there without waiting for anything; whether the stream goes on.
    pub(crate) fn look(&mut self) -> bool {
        while let Some(frame) = self.body.frame().now_or_never() {
            let Some(frame) = frame else { return false };
            self.push(&frame.expect("no stall").into_data().expect("data"));
        }
        true
    }

    /// Takes one frame, and keeps it under way.
    pub(crate) fn hold(
        &mut self,
    ) -> Option<Result<bytes::Bytes, coordinator_web::events::Stalled>> {
        let frame = self.body.frame().now_or_never()??;
        Some(frame.map(|frame| frame.into_data().expect("data")))
    }

    /// What came since it was asked for last.
    pub(crate) fn text(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    pub(crate) fn last_id(&self) -> &str {
        self.parser.last_id()
    }

    pub(crate) fn parser(&self) -> &Parser {
        &self.parser
    }
}

/// A browser's side of a socket.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    rest: Vec<u8>,
    pub(crate) head: String,
    parser: Parser,
    seen: VecDeque<Seen>,
}

impl Socket {
    /// Asks, and reads the head of the answer.
    pub(crate) async fn open(addr: SocketAddr, path: &str, id: &str) -> Self {
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        let id = if id.is_empty() { String::new() } else { format!("Last-Event-ID: {id}\r\n") };
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{id}\r\n");
        stream.write_all(request.as_bytes()).await.expect("a request");
        let mut socket = Self {
            stream,
            rest: Vec::new(),
            head: String::new(),
            parser: Parser::default(),
            seen: VecDeque::new(),
        };
        let end = loop {
            if let Some(at) = socket.rest.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            let read = tokio::time::timeout(SOON, socket.read()).await;
            assert!(read.expect("something, or the end"), "the head of an answer");
        };
        socket.head = String::from_utf8(socket.rest.drain(..end).collect()).expect("ASCII");
        socket
    }

    /// Whether anything came.
    async fn read(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.rest).await, Ok(1..))
    }

    /// The next chunk of the body; none at its end, or the connection's.
    async fn chunk(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.rest.windows(2).position(|two| two == b"\r\n") {
                let size = std::str::from_utf8(&self.rest[..at]).expect("ASCII");
                let size = usize::from_str_radix(size, 16).expect("a size");
                if self.rest.len() >= at + 2 + size + 2 {
                    let chunk = self.rest[at + 2..at + 2 + size].to_vec();
                    self.rest.drain(..at + 2 + size + 2);
                    return (size > 0).then_some(chunk);
                }
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// The next event; none at the end of the body or the connection.
    pub(crate) async fn next(&mut self) -> Option<Seen> {
        let next = async {
            while self.seen.is_empty() {
                let chunk = self.chunk().await?;
                self.seen.extend(self.parser.push(&chunk));
            }
            self.seen.pop_front()
        };
        tokio::time::timeout(SOON, next).await.expect("an event, or the end")
    }

    pub(crate) fn last_id(&self) -> &str {
        self.parser.last_id()
    }
}
