//! A minimal Redis connection, by which tests ask a server for the truth.
//!
//! One request at a time, no reconnection, no pooling: it shares no code and no fault with the
//! client under test. RESP3 replies are folded into RESP2's shapes.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::frame;

/// How long a server may take to answer before it counts as silent.
const PATIENCE: Duration = Duration::from_secs(10);

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "RESP2 has these five and will have no more")]
pub enum Resp {
    /// `+OK`; RESP3 doubles and big numbers too.
    Simple(String),
    /// `-ERR …`, without the dash.
    Error(String),
    /// `:1`; RESP3 booleans as 0 and 1.
    Int(i64),
    /// `$…`, `None` for null.
    Bulk(Option<Vec<u8>>),
    /// `*…`, null as empty; RESP3 sets, pushes, and maps as keys and values by turns.
    Array(Vec<Resp>),
}

impl Resp {
    /// The number, of an integer or of a text that is one.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(n) => Some(*n),
            _ => self.as_str()?.parse().ok(),
        }
    }

    /// The text of a simple string, an error or a bulk string in UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Simple(text) | Self::Error(text) => Some(text),
            Self::Bulk(Some(bytes)) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The elements of an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Resp]> {
        match self {
            Self::Array(all) => Some(all),
            _ => None,
        }
    }

    /// Whether it is `+OK`.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Simple(text) if text == "OK")
    }

    /// Whether it is null.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Bulk(None))
    }

    /// Turns an error reply into an `Err`.
    ///
    /// # Errors
    /// The server's text.
    pub fn ok(self) -> Result<Self> {
        match self {
            Self::Error(text) => bail!("the server answered: {text}"),
            other => Ok(other),
        }
    }

    /// Decodes one complete frame and says how long it was.
    pub(crate) fn decode(frame: &[u8]) -> Option<(Self, usize)> {
        let end = frame.windows(2).position(|pair| pair == b"\r\n")?;
        let line = frame.get(1..end)?;
        let text = || String::from_utf8_lossy(line).into_owned();
        let after = end + 2;
        let many = |n: i64| {
            let (mut at, mut all) = (after, Vec::new());
            for _ in 0..n {
                let (value, length) = Self::decode(frame.get(at..)?)?;
                at += length;
                all.push(value);
            }
            Some((all, at))
        };
        let number = || frame::number(line).ok();
        Some(match *frame.first()? {
            b'-' => (Self::Error(text()), after),
            b':' => (Self::Int(number()?), after),
            b'#' => (Self::Int(i64::from(line == b"t")), after),
            b'_' => (Self::Bulk(None), after),
            kind @ (b'$' | b'=' | b'!') => match usize::try_from(number()?) {
                Err(_) => (Self::Bulk(None), after),
                Ok(n) => {
                    let body = frame.get(after..after + n)?.to_vec();
                    let value = match kind {
                        b'!' => Self::Error(String::from_utf8_lossy(&body).into_owned()),
                        b'=' => Self::Bulk(Some(body.get(4..)?.to_vec())),
                        _ => Self::Bulk(Some(body)),
                    };
                    (value, after + n + 2)
                }
            },
            b'*' | b'~' | b'>' => {
                let (all, at) = many(number()?)?;
                (Self::Array(all), at)
            }
            b'%' => {
                let (all, at) = many(2 * number()?)?;
                (Self::Array(all), at)
            }
            b'|' => {
                let (_, at) = many(2 * number()?)?;
                let (value, length) = Self::decode(frame.get(at..)?)?;
                (value, at + length)
            }
            _ => (Self::Simple(text()), after),
        })
    }
}

/// What a connection runs over.
trait Stream: AsyncRead + AsyncWrite + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Send + Sync> Stream for T {}

/// One connection to a server.
pub struct Connection {
    stream: Pin<Box<dyn Stream>>,
    buf: BytesMut,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("buffered", &self.buf.len()).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects over TCP.
    ///
    /// # Errors
    /// If nobody listens there.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn tcp(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: Box::pin(stream), buf: BytesMut::new() })
    }

    /// Connects over a unix socket.
    ///
    /// # Errors
    /// If nobody listens there.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path).await?;
        Ok(Self { stream: Box::pin(stream), buf: BytesMut::new() })
    }

    /// Sends a request without waiting for its reply.
    ///
    /// # Errors
    /// If the connection is closed.
    ///
    /// # Cancel safety
    /// Not cancel safe: half a request may have been sent.
    pub async fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<()> {
        let mut request = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args.iter().map(AsRef::as_ref) {
            request.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            request.extend_from_slice(arg);
            request.extend_from_slice(b"\r\n");
        }
        self.stream.write_all(&request).await?;
        self.stream.flush().await
    }

    /// Reads the next frame, be it a reply or a push; waits for ever.
    ///
    /// # Errors
    /// If the connection is closed or the bytes are not RESP.
    ///
    /// # Cancel safety
    /// Cancel safe: what was read stays in the buffer.
    pub async fn read(&mut self) -> Result<Resp> {
        loop {
            match frame::take(&mut self.buf) {
                Ok(Some(frame)) => {
                    return Resp::decode(&frame).map(|(value, _)| value).context("not RESP");
                }
                Ok(None) => {}
                Err(frame::NotResp) => bail!("not RESP: {}", self.buf.escape_ascii()),
            }
            if self.stream.read_buf(&mut self.buf).await? == 0 {
                bail!("the connection was closed");
            }
        }
    }

    /// Sends a request and reads one frame. An error reply is an `Ok`.
    ///
    /// # Errors
    /// If the connection is closed, or there is no answer within 10 s.
    ///
    /// # Cancel safety
    /// Not cancel safe: the reply would be taken for the next request's.
    pub async fn command<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Resp> {
        let answer = async {
            self.send(args).await?;
            self.read().await
        };
        tokio::time::timeout(PATIENCE, answer).await.context("no answer from the server")?
    }
}
