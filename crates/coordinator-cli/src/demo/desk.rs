//! Where a worker asks the parent: in the same process, or over a unix socket.

use super::{
    parent::Parent,
    protocol::{Answer, Ask, Frame, encode},
    tasks::Tasks,
};
use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot, watch},
};

/// The parent has gone, or does not want to hear of us any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// A worker's way to the parent; clones share it.
#[derive(Debug, Clone)]
pub(crate) enum Desk {
    /// In this process.
    Here { parent: Arc<Parent>, worker: u32 },
    /// In another one.
    There(Arc<Link>),
}

impl Desk {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// If the parent has gone.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the parent heard.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Answer, Gone> {
        match self {
            Self::Here { parent, worker } => Ok(parent.answer(*worker, ask).await),
            Self::There(link) => link.ask(&ask).await,
        }
    }
}

/// A socket over which many ask at once.
#[derive(Debug)]
pub(crate) struct Link {
    outbox: mpsc::UnboundedSender<String>,
    waiting: Mutex<Waiting>,
    gone: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    asked: HashMap<u64, oneshot::Sender<Answer>>,
    closed: bool,
}

impl Link {
    /// Connects; the tasks that read and write live as long as the second part of the answer.
    pub(crate) async fn connect(path: &Path) -> io::Result<(Arc<Self>, Tasks<()>)> {
        let (reader, writer) = UnixStream::connect(path).await?.into_split();
        let (outbox, lines) = mpsc::unbounded_channel();
        let link =
            Arc::new(Self { outbox, waiting: Mutex::default(), gone: watch::Sender::new(false) });
        let mut tasks = Tasks::new();
        tasks.start(write_lines(writer, lines));
        let reading = link.clone();
        tasks.start(async move { reading.read(reader).await });
        Ok((link, tasks))
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask(&self, ask: &Ask) -> Result<Answer, Gone> {
        let (answer, answered) = oneshot::channel();
        let id = {
            let mut waiting = self.waiting();
            if waiting.closed {
                return Err(Gone);
            }
            waiting.next += 1;
            let id = waiting.next;
            waiting.asked.insert(id, answer);
            id
        };
        self.outbox.send(encode(id, ask)).map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }

    /// Completes when the parent has gone.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn gone(&self) {
        // The sender lives as long as self.
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }

    async fn read(&self, reader: OwnedReadHalf) {
        let mut lines = BufReader::new(reader).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let Ok(Frame { id, body }) = serde_json::from_str::<Frame<Answer>>(&line) else {
                break;
            };
            let asker = self.waiting().asked.remove(&id);
            if let Some(asker) = asker {
                // Whoever asked may have lost interest with its lock.
                let _ = asker.send(body);
            }
        }
        let mut waiting = self.waiting();
        waiting.closed = true;
        waiting.asked.clear();
        drop(waiting);
        self.gone.send_replace(true);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes lines, those that lie ready in one go, until nobody has any more or nobody reads them.
pub(crate) async fn write_lines(
    mut writer: OwnedWriteHalf,
    mut lines: mpsc::UnboundedReceiver<String>,
) {
    let mut ready = Vec::new();
    while lines.recv_many(&mut ready, 64).await > 0 {
        let text = ready.concat();
        ready.clear();
        if writer.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}
