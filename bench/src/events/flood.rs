//! One connection that publishes as fast as the server takes it: the call of the library, as it
//! was recorded, again and again, many on their way at once.

use crate::wire;
use anyhow::{Context as _, Result, ensure};
use coordinator_events::Events;
use coordinator_harness::RedisServer;
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// How many calls are written at once, and how many of them may be on their way.
const BATCH: usize = 64;
const AHEAD: usize = 4 * BATCH;
/// A server that answers nothing for so long has refused.
const PATIENCE: Duration = Duration::from_secs(10);

/// A publish as the library sends it once the scope's epoch is known.
pub(crate) async fn recorded(
    server: &RedisServer,
    events: &Events,
    scope: &str,
) -> Result<Vec<Vec<u8>>> {
    let data = super::data();
    for _ in 0..2 {
        let _ = events.publish(scope, "step", &data).await?;
    }
    let work = async { Ok(events.publish(scope, "step", &data).await?) };
    let (_, mut calls) = wire::sent_by(server, work).await?;
    calls.pop().context("a publish runs a script")
}

/// The stream of a recorded publish, which is its channel too.
pub(crate) fn stream(call: &[Vec<u8>]) -> Result<String> {
    Ok(String::from_utf8(call.get(3).context("a key")?.clone())?)
}

/// The flooding connection.
pub(crate) struct Flood {
    socket: TcpStream,
    batch: Vec<u8>,
    /// So many are not answered yet.
    open: usize,
    pub(crate) published: usize,
}

impl Flood {
    pub(crate) async fn new(addr: std::net::SocketAddr, call: &[Vec<u8>]) -> Result<Self> {
        let mut one = format!("*{}\r\n", call.len()).into_bytes();
        for part in call {
            one.extend(format!("${}\r\n", part.len()).into_bytes());
            one.extend(part);
            one.extend(b"\r\n");
        }
        let socket = TcpStream::connect(addr).await?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, batch: one.repeat(BATCH), open: 0, published: 0 })
    }

    /// Publishes for so long.
    pub(crate) async fn run_for(&mut self, time: Duration) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            self.more().await?;
        }
        self.settle(0).await
    }

    async fn more(&mut self) -> Result<()> {
        self.socket.write_all(&self.batch).await?;
        self.open += BATCH;
        self.published += BATCH;
        self.settle(AHEAD).await
    }

    /// Waits until at most so many are not answered. Each answer is an id, and has one
    /// dollar.
    async fn settle(&mut self, most: usize) -> Result<()> {
        let mut buffer = vec![0; 16 * 1024];
        while self.open > most {
            let read = tokio::time::timeout(PATIENCE, self.socket.read(&mut buffer));
            let read = read.await.context("publishes are refused")??;
            ensure!(read > 0, "the server is gone");
            for byte in &buffer[..read] {
                self.open -= usize::from(*byte == b'$');
            }
        }
        Ok(())
    }
}
