//! One connection of one role, kept up for as long as it is wanted.

use super::{
    classify,
    setup::{self, Role},
    tasks,
};
use crate::{Error, ErrorKind, Result, config::Config};
use fred::{
    clients::Client,
    interfaces::{ClientLike, EventInterface},
    types::{ConnectHandle, config::Server},
};
use rand::RngExt as _;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{
    broadcast::{self, error::TryRecvError},
    watch,
};

/// How often a caller looks whether the link is back.
pub(super) const LOOK: Duration = Duration::from_millis(10);
/// How soon a cluster that is down is asked again.
const CLUSTER_LOOK: Duration = Duration::from_millis(50);
/// The longest delay between two attempts to begin the client's task, without its jitter.
const LONGEST_DELAY: Duration = Duration::from_millis(450);

/// How many links this process ever had.
static LINKS: AtomicU64 = AtomicU64::new(1);

/// A connection of one role. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Link {
    client: Client,
    /// Whether the client's own task runs: when it has ended, the client still says Connected.
    alive: Arc<AtomicBool>,
    /// Dropped with the link, which ends the keeper.
    closing: watch::Sender<bool>,
    made: Mutex<Made>,
}

/// How often a link was made: known from when it is up again, before anything is sent over it.
#[derive(Debug)]
struct Made {
    /// Each link of this process has a range of its own.
    count: u64,
    told: broadcast::Receiver<Server>,
}

impl Link {
    /// A link that keeps connecting in the background until it is dropped.
    ///
    /// The client's own reconnection serves an established link; what it does not survive (a first
    /// attempt that fails, a task that ended) is begun anew by the keeper.
    pub(super) fn open(config: &Config, role: Role) -> Result<Self> {
        Ok(Self::keep(setup::client(config, role)?, None))
    }

    /// Connects once and fails if that fails, but waits for a cluster that is down for a moment;
    /// afterwards as [`open`](Self::open).
    pub(super) async fn connect(config: &Config, role: Role) -> Result<Self> {
        // Several hosts may be asked in turn; the sum stays bounded.
        let limit = config.connect_timeout() + config.connect_timeout() / 2;
        Self::connect_within(config, role, limit).await
    }

    /// [`connect`](Self::connect) with a limit of its own.
    pub(super) async fn connect_within(
        config: &Config,
        role: Role,
        limit: Duration,
    ) -> Result<Self> {
        let down = AtomicBool::new(false);
        let connected = async {
            loop {
                let client = setup::client(config, role)?;
                // The client's task outlives its handles: whoever stops waiting must still end it.
                let mut unfinished = Unfinished(Some(client.clone()));
                match client.init().await {
                    Ok(handle) => {
                        unfinished.0 = None;
                        return Ok(Self::keep(client, Some(handle)));
                    }
                    // So says a node that has not heard yet how a failover ended.
                    Err(error) if classify::is_cluster_down(&error) => {
                        down.store(true, Ordering::Relaxed);
                    }
                    Err(error) => return Err(classify::connect(&error)),
                }
                tokio::time::sleep(CLUSTER_LOOK).await;
            }
        };
        tokio::time::timeout(limit, connected).await.unwrap_or_else(|_| {
            let down = down.load(Ordering::Relaxed);
            let what = if down { "the cluster was not up" } else { "no answer" };
            let why = format!("{what} within {} ms", limit.as_millis());
            Err(Error::new(ErrorKind::Unavailable, "connect").with_source(why))
        })
    }

    fn keep(client: Client, handle: Option<ConnectHandle>) -> Self {
        let alive = Arc::new(AtomicBool::new(handle.is_some()));
        let (closing, closed) = watch::channel(false);
        let count = LINKS.fetch_add(1, Ordering::Relaxed) << 32;
        let made = Mutex::new(Made { count, told: client.reconnect_rx() });
        tasks::spawn(keeper(client.clone(), handle, alive.clone(), closed));
        Self { client, alive, closing, made }
    }

    /// Another number each time the link was made anew. The client tells of it before it says that
    /// the link is up.
    pub(super) fn generation(&self) -> u64 {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match made.told.try_recv() {
                Ok(_) | Err(TryRecvError::Lagged(_)) => made.count += 1,
                Err(TryRecvError::Empty) => return made.count,
                Err(TryRecvError::Closed) => {
                    made.count += 1;
                    made.told = self.client.reconnect_rx();
                    return made.count;
                }
            }
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn is_up(&self) -> bool {
        self.alive.load(Ordering::Acquire) && self.client.is_connected()
    }

    /// Waits until the link is up, at most `limit`.
    pub(super) async fn ready(&self, limit: Duration) -> bool {
        if self.is_up() {
            return true;
        }
        let up = async {
            while !self.is_up() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(limit, up).await.is_ok()
    }

    /// Ends the connection for good and waits for it.
    pub(super) async fn close(&self) {
        self.closing.send_replace(true);
        quit(self.client.clone()).await;
    }
}

/// A client whose first connection has not been made yet; dropping it gives that up.
struct Unfinished(Option<Client>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(client) = self.0.take()
            && tokio::runtime::Handle::try_current().is_ok()
        {
            tasks::spawn(quit(client));
        }
    }
}

async fn quit(client: Client) {
    // A dead peer never answers; two seconds are politeness enough.
    let _ = tokio::time::timeout(Duration::from_secs(2), client.quit()).await;
}

/// Begins the client's task anew whenever it ends, with backoff and jitter, until closed.
async fn keeper(
    client: Client,
    mut handle: Option<ConnectHandle>,
    alive: Arc<AtomicBool>,
    mut closed: watch::Receiver<bool>,
) {
    let mut delay = Duration::from_millis(50);
    loop {
        if let Some(running) = &mut handle {
            delay = Duration::from_millis(50);
            tokio::select! {
                ended = running => {
                    handle = None;
                    alive.store(false, Ordering::Release);
                    if !matches!(ended, Ok(Ok(()))) {
                        tracing::warn!("a connection's task ended, beginning it anew");
                    }
                }
                _ = closed.wait_for(|closed| *closed) => {}
            }
        }
        if *closed.borrow() || closed.has_changed().is_err() {
            break;
        }
        let jitter = rand::rng().random_range(0..50);
        tokio::select! {
            () = tokio::time::sleep(delay + Duration::from_millis(jitter)) => {}
            _ = closed.wait_for(|closed| *closed) => break,
        }
        match client.init().await {
            Ok(begun) => {
                alive.store(true, Ordering::Release);
                handle = Some(begun);
            }
            Err(error) => {
                tracing::debug!(error = %classify::connect(&error).chain(), "connecting failed");
                delay = (delay * 2).min(LONGEST_DELAY);
            }
        }
    }
    alive.store(false, Ordering::Release);
    quit(client).await;
    if let Some(handle) = handle {
        // A task in the middle of an attempt to connect hears of no end, and would go on for ever.
        handle.abort();
    }
}
