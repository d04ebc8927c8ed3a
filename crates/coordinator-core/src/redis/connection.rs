//! The connection: its links by role, its state, and the bound on what is in flight.

use super::{
    breaker::Breaker,
    latency::Recent,
    link::{LOOK, Link},
    monitor,
    setup::Role,
    subscriber::Subscriber,
    tally::{self, Tally},
    tasks,
};
use crate::{
    Error, ErrorKind, Result,
    clock::{Clock, SystemClock},
    config::{Config, Endpoint},
    health::{BreakerState, Latencies, State},
    key::Keyspace,
    telemetry,
};
use arc_swap::ArcSwap;
use fred::interfaces::ClientLike;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit, watch};

/// A connection to Redis or Valkey; clones share it.
///
/// Commands, messages, invalidations and blocking reads travel on links of their own, opened when
/// first needed. A lost link is sought again for as long as it takes, with exponential backoff
/// from 50 ms to half a second and jitter. While nobody answers for long, calls fail at once; see
/// [`BreakerPolicy`](crate::config::BreakerPolicy).
/// Dropping the last clone closes it; [`close`](Self::close) does so and waits.
#[derive(Clone)]
pub struct Connection {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) config: Config,
    /// Replaced where a new link answers and the old one does not.
    commands: ArcSwap<Link>,
    pub(super) messages: OnceCell<Subscriber>,
    pub(super) blocking: super::blocking::Pool,
    permits: Semaphore,
    pub(super) state: watch::Sender<State>,
    pub(super) tally: Tally,
    pub(super) recent: Recent,
    pub(super) breaker: Breaker,
    closed: AtomicBool,
    rejoining: Arc<AtomicBool>,
}

impl Inner {
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The link for commands.
    pub(super) fn link(&self) -> Arc<Link> {
        self.commands.load_full()
    }

    /// Puts a new link for commands in the old one's place, which ends when its last command has.
    pub(super) async fn replace_link(&self, link: Link) {
        self.commands.store(Arc::new(link));
        if self.is_closed() {
            self.link().close().await;
        }
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.config.endpoint(), Endpoint::Cluster(_))
    }

    /// A command on this link was answered by nobody, or there was no link to send it.
    pub(super) fn note_silence(&self, link: &Link) {
        // What an old link lost says nothing of the new one.
        let current = std::ptr::eq(&raw const **self.commands.load(), link);
        // A node that is gone takes the others of its cluster along only if all are.
        if current && (!self.is_cluster() || !link.is_up()) {
            self.breaker.failed(SystemClock.now(), rand::random());
        }
    }
}

impl Connection {
    /// Connects, and fails if the first attempt fails; waits while a cluster says that it is down,
    /// as it does for a moment in a failover.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) if nobody answers within 1.5 × the connect timeout,
    /// or a cluster is down for as long,
    /// [`Rejected`](ErrorKind::Rejected) if the server refuses the credentials or either side the
    /// other's certificate, [`Misuse`](ErrorKind::Misuse) for a wrong configuration.
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped attempt leaves nothing behind.
    pub async fn connect(config: Config) -> Result<Self> {
        let commands = Link::connect(&config, Role::Commands).await?;
        Ok(Self::with_link(config, commands, State::Connected))
    }

    /// Begins to connect in the background and returns at once: until a server is found, calls
    /// fail with [`Unavailable`](ErrorKind::Unavailable).
    ///
    /// # Errors
    /// [`Misuse`](ErrorKind::Misuse) for a wrong configuration.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(config: Config) -> Result<Self> {
        let commands = Link::open(&config, Role::Commands)?;
        Ok(Self::with_link(config, commands, State::Disconnected))
    }

    fn with_link(config: Config, commands: Link, state: State) -> Self {
        telemetry::describe(telemetry::METRICS);
        let inner = Arc::new(Inner {
            permits: Semaphore::new(config.max_in_flight().min(Semaphore::MAX_PERMITS)),
            blocking: super::blocking::Pool::new(config.max_connections() - 3),
            breaker: Breaker::new(config.breaker().copied()),
            config,
            commands: ArcSwap::from_pointee(commands),
            messages: OnceCell::new(),
            state: watch::channel(state).0,
            tally: Tally::new(&tally::CONNECTIONS, monitor::place(state)),
            recent: Recent::new(SystemClock.now()),
            closed: AtomicBool::new(false),
            rejoining: Arc::default(),
        });
        tasks::spawn(monitor::watch(Arc::downgrade(&inner)));
        Self { inner }
    }

    /// What it was configured with.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Whether one script may reach keys of several shards: not in a cluster, where each is in a
    /// slot of its own.
    pub fn is_one_keyspace(&self) -> bool {
        !self.inner.is_cluster()
    }

    /// Changes whenever the link for commands was made anew, to one node or another: from then on
    /// the server may be another one, with another past. After [`ready`](Self::ready) it is that of
    /// the link that is there.
    pub fn generation(&self) -> u64 {
        self.inner.link().generation()
    }

    /// The keys of this application.
    pub fn keyspace(&self) -> &Keyspace {
        self.inner.config.keyspace()
    }

    /// Where the time comes from.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        self.inner.config.clock()
    }

    /// The state now.
    pub fn state(&self) -> State {
        *self.inner.state.borrow()
    }

    /// The state, and every change of it.
    pub fn watch_state(&self) -> watch::Receiver<State> {
        self.inner.state.subscribe()
    }

    /// Whether calls are sent at present.
    pub fn breaker(&self) -> BreakerState {
        self.inner.breaker.state()
    }

    /// How long commands took in the last minute, from sending to the answer.
    pub fn latencies(&self) -> Latencies {
        self.inner.recent.percentiles(SystemClock.now())
    }

    /// Closes every link and waits for that, at most about two seconds each; later calls are
    /// [`Misuse`](ErrorKind::Misuse).
    ///
    /// # Cancel safety
    /// Cancel safe: what is not closed yet closes when the last clone is dropped.
    pub async fn close(&self) {
        self.inner.closed.store(true, Ordering::Release);
        if let Some(messages) = self.inner.messages.get() {
            messages.close().await;
        }
        self.inner.blocking.close().await;
        self.inner.link().close().await;
        self.inner.state.send_replace(State::Disconnected);
        self.inner.tally.gone();
        self.inner.breaker.gone();
    }

    pub(super) fn check_open(&self, step: &'static str) -> Result<()> {
        if self.inner.is_closed() {
            return Err(Error::misuse(step, "the connection is closed"));
        }
        Ok(())
    }

    /// How long a call waits for a link before it gives up unsent.
    pub(super) fn patience(&self) -> Duration {
        self.inner.config.command_timeout() / 2
    }

    /// Waits until there is a link for commands, at most half the command timeout; not at all
    /// while the breaker is open.
    ///
    /// Whoever needs to know whether a step was perhaps sent calls this first: until it returns
    /// nothing was. [`run_telling`](Self::run_telling) knows it to the moment.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) without a link or with an open breaker,
    /// [`Misuse`](ErrorKind::Misuse) after [`close`](Self::close).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ready(&self, step: &'static str) -> Result<()> {
        self.link(step).await.map(drop)
    }

    async fn link(&self, step: &'static str) -> Result<Arc<Link>> {
        self.check_open(step)?;
        let inner = &*self.inner;
        let link = inner.link();
        if inner.breaker.allows() && link.is_up() {
            return Ok(link);
        }
        let up = async {
            // Another link may take its place meanwhile.
            while inner.breaker.allows() {
                let link = inner.link();
                if link.is_up() {
                    return Some(link);
                }
                tokio::time::sleep(LOOK).await;
            }
            None
        };
        let unavailable =
            |why: &'static str| Error::new(ErrorKind::Unavailable, step).with_source(why);
        match tokio::time::timeout(self.patience(), up).await {
            Ok(Some(link)) => Ok(link),
            Ok(None) => Err(unavailable("nobody has answered for a while: the breaker is open")),
            Err(_) => {
                inner.note_silence(&link);
                Err(unavailable("there is no connection to the server"))
            }
        }
    }

    /// Leave to send one command: there is a link, and room in flight.
    pub(super) async fn leave(&self, step: &'static str) -> Result<Leave<'_>> {
        let link = self.link(step).await?;
        if let Ok(room) = self.inner.permits.try_acquire() {
            return Ok(Leave { link, _room: room });
        }
        match tokio::time::timeout(self.patience(), self.inner.permits.acquire()).await {
            Ok(Ok(room)) => Ok(Leave { link: self.link_now(step)?, _room: room }),
            _ => Err(Error::new(ErrorKind::Unavailable, step)
                .with_source("too many commands wait for their answers")),
        }
    }

    /// The link after waiting for room: the breaker may have opened meanwhile.
    fn link_now(&self, step: &'static str) -> Result<Arc<Link>> {
        self.check_open(step)?;
        if self.inner.breaker.allows() {
            return Ok(self.inner.link());
        }
        Err(Error::new(ErrorKind::Unavailable, step)
            .with_source("nobody has answered for a while: the breaker is open"))
    }

    /// A demoted master answers READONLY on a connection that looks well; inside scripts the
    /// client does not see it, so it is told to look for the master again.
    pub(super) fn seek_master(&self) {
        if self.inner.rejoin() {
            tracing::warn!("the server became a replica, looking for the master");
        }
    }
}

impl Inner {
    /// Has the client make its link anew, unless it is about to; whether it was told to.
    pub(super) fn rejoin(&self) -> bool {
        if self.rejoining.swap(true, Ordering::AcqRel) {
            return false;
        }
        let (client, rejoining) = (self.link().client().clone(), self.rejoining.clone());
        tasks::spawn(async move {
            let limit = Duration::from_secs(5);
            let _ = tokio::time::timeout(limit, client.force_reconnection()).await;
            rejoining.store(false, Ordering::Release);
        });
        true
    }
}

/// Leave to send one command over this link.
pub(super) struct Leave<'a> {
    pub(super) link: Arc<Link>,
    _room: SemaphorePermit<'a>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("config", &self.inner.config)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
