//! A fault proxy between one client and one server: RESP-aware, so that it can lose *the second
//! EVALSHA* or *the reply to it*, and not merely some bytes.
//!
//! Frames in one direction of one connection never change their order. What is not RESP (TLS) is
//! passed on as it is: no rule sees it, the controls of the whole link still hold. It does not
//! speak the cluster bus and does not rewrite the addresses in redirections.

mod connection;
mod pairing;
mod rule;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::util::locked;
use rule::{Action, RuleState, Side};
pub use rule::{Rule, RuleHandle};

/// A running proxy. Dropping it closes its port and all its connections.
///
/// It runs on the runtime that started it, so a test must not block that runtime's only thread.
#[derive(Debug)]
pub struct Proxy {
    link: Arc<Link>,
    port: u16,
    /// Aborted, and with it all connections, when this is dropped.
    _acceptor: JoinSet<()>,
}

/// What all connections of one proxy share.
#[derive(Debug)]
struct Link {
    upstream: Mutex<SocketAddr>,
    rules: Mutex<Vec<Arc<RuleState>>>,
    commands: Mutex<HashMap<String, usize>>,
    delay_us: [AtomicU64; 2],
    refuse: AtomicBool,
    black_hole: AtomicBool,
    drop_messages: AtomicBool,
    drop_invalidations: AtomicBool,
    connections: AtomicUsize,
    /// Counts the times that all connections were cut.
    cuts: watch::Sender<u64>,
}

impl Proxy {
    /// Starts a proxy on a free loopback port. The server need not be there yet.
    ///
    /// # Errors
    /// If no port can be bound.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn start(upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("bind a proxy")?;
        let port = listener.local_addr()?.port();
        let link = Arc::new(Link {
            upstream: Mutex::new(upstream),
            rules: Mutex::default(),
            commands: Mutex::default(),
            delay_us: Default::default(),
            refuse: AtomicBool::default(),
            black_hole: AtomicBool::default(),
            drop_messages: AtomicBool::default(),
            drop_invalidations: AtomicBool::default(),
            connections: AtomicUsize::default(),
            cuts: watch::Sender::new(0),
        });
        let mut acceptor = JoinSet::new();
        acceptor.spawn(accept(listener, Arc::clone(&link)));
        Ok(Self { link, port, _acceptor: acceptor })
    }

    /// The port that clients connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Loopback and [`port`](Self::port).
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// `redis://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }

    /// Sends new connections elsewhere, as a moved virtual address does; existing ones stay.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        *locked(&self.link.upstream) = upstream;
    }

    /// Adds a rule. Of several that fire on one frame, the one added first acts; each counts its
    /// own matches for `nth` and `times` all the same. Rules without an action are never in the
    /// way of others.
    pub fn rule(&self, rule: Rule) -> RuleHandle {
        let state = Arc::new(RuleState::new(rule));
        locked(&self.link.rules).push(Arc::clone(&state));
        RuleHandle::new(state)
    }

    /// Delays every request by `d`; zero heals. It is latency: pipelined requests share it.
    pub fn delay_requests(&self, d: Duration) {
        self.link.delay_us[0].store(micros(d), Ordering::SeqCst);
    }

    /// Delays every reply and push by `d`; zero heals.
    pub fn delay_replies(&self, d: Duration) {
        self.link.delay_us[1].store(micros(d), Ordering::SeqCst);
    }

    /// Closes all present connections on both sides. New ones are welcome.
    pub fn cut_all(&self) {
        self.link.cuts.send_modify(|n| *n += 1);
    }

    /// While on, existing connections are cut and new ones closed as soon as they are accepted.
    pub fn refuse(&self, on: bool) {
        self.link.refuse.store(on, Ordering::SeqCst);
        if on {
            self.cut_all();
        }
    }

    /// While on, whole frames vanish in both directions and connections stay open, also when one
    /// side closes its end.
    ///
    /// A connection that has lost anything stays silent after the heal, as if a router had
    /// forgotten it: TCP never hands over what comes after a gap. One that was idle goes on. New
    /// connections are accepted and silent. To stall a link without losing anything, hold
    /// everything: `Rule::any().hold()`.
    pub fn black_hole(&self, on: bool) {
        self.link.black_hole.store(on, Ordering::SeqCst);
    }

    /// While on, published messages (`message`, `pmessage`, `smessage`) are discarded on their way
    /// to the client, and nothing else is touched.
    pub fn drop_messages(&self, on: bool) {
        self.link.drop_messages.store(on, Ordering::SeqCst);
    }

    /// While on, invalidations of client-side caching are discarded, and nothing else is touched.
    pub fn drop_invalidations(&self, on: bool) {
        self.link.drop_invalidations.store(on, Ordering::SeqCst);
    }

    /// How many connections clients hold open at present.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.link.connections.load(Ordering::SeqCst)
    }

    /// How many requests with this name clients have sent, whatever became of them. Case does not
    /// matter.
    #[must_use]
    pub fn commands_seen(&self, name: &str) -> usize {
        let commands = locked(&self.link.commands);
        commands.get(&name.to_uppercase()).copied().unwrap_or(0)
    }
}

impl Link {
    fn count(&self, args: &[Bytes]) {
        if let Some(name) = args.first() {
            let name = String::from_utf8_lossy(name).to_uppercase();
            *locked(&self.commands).entry(name).or_default() += 1;
        }
    }

    /// What becomes of a frame of the request `args`.
    fn decide(&self, side: Side, args: &[Bytes]) -> Action {
        let rules = locked(&self.rules);
        let mut decided = None;
        // Every rule is asked, so that each counts what it matches.
        for rule in rules.iter() {
            let fires = rule.fires(side, args);
            if fires && (rule.only_counts() || decided.is_none()) {
                let action = rule.act();
                if !rule.only_counts() {
                    decided = Some(action);
                }
            }
        }
        decided.unwrap_or(Action::Pass)
    }

    fn delay(&self, side: Side) -> Duration {
        let us = match side {
            Side::Request => &self.delay_us[0],
            Side::Reply => &self.delay_us[1],
        };
        Duration::from_micros(us.load(Ordering::SeqCst))
    }
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

async fn accept(listener: TcpListener, link: Arc<Link>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                if link.refuse.load(Ordering::SeqCst) {
                    continue;
                }
                // Subscribed before anything else, so that no cut is missed.
                let cuts = link.cuts.subscribe();
                open.spawn(serve(Arc::clone(&link), client, cuts));
            }
            Some(_) = open.join_next() => {}
        }
    }
}

async fn serve(link: Arc<Link>, client: TcpStream, cuts: watch::Receiver<u64>) {
    let upstream = *locked(&link.upstream);
    // A server that refuses or an early end of the client is the fault under test, not an error.
    if let Ok(server) = TcpStream::connect(upstream).await {
        let _ = connection::run(link, client, server, cuts).await;
    }
}
