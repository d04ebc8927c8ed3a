//! The contenders, behind one face: take the lock of one key, give it up, again and again.

mod ours;
mod raw;
mod rslock;

pub(crate) use raw::{Client, client, farewell, roomy};

use anyhow::Result;
use coordinator_locks::Lock;
use futures::future::BoxFuture;

/// One who takes turns on one key.
pub(crate) trait Turns: Send {
    /// Waits until it is this one's turn.
    fn acquire(&mut self) -> BoxFuture<'_, Result<()>>;
    /// Ends the turn.
    fn release(&mut self) -> BoxFuture<'_, Result<()>>;
}

/// How a contender takes turns.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// SET NX PX until it is granted, asking every 10 ms; a script compares and deletes. Where
    /// nobody else asks, that is the least a lock can be.
    SetNx,
    /// One token in a list: BLPOP takes it, LPUSH gives it back. No lease, no owner, no recovery:
    /// a holder that dies takes it along. A floor for handing over, not a lock.
    Baton,
    Rslock,
    /// These locks, with what a variant adds.
    Ours(fn(Lock) -> Lock),
}

/// A contender.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    way: Way,
}

pub(crate) const BARE: Peer = Peer { name: "bare client", way: Way::SetNx };
pub(crate) const POLL: Peer = Peer { name: "SET NX, asked every 10 ms", way: Way::SetNx };
pub(crate) const BATON: Peer = Peer { name: "BLPOP baton", way: Way::Baton };
pub(crate) const RSLOCK: Peer = Peer { name: "rslock 0.10", way: Way::Rslock };
pub(crate) const OURS: Peer = Peer { name: "ours", way: Way::Ours(|lock| lock) };
/// The name of the variant that is fair between processes; goals are set for it where it runs.
pub(crate) const FAIR: &str = "ours, fair";

/// Every variant of these locks that is measured under contention: a line each.
pub(crate) const VARIANTS: &[Peer] =
    &[OURS, Peer { name: FAIR, way: Way::Ours(|lock| lock.with_fair(true)) }];

impl Peer {
    /// As many contenders for one key, spread over so many clients with a connection each. A
    /// baton blocks its connection, so each of its contenders has one.
    pub(crate) async fn open(
        self,
        url: &str,
        key: &str,
        contenders: usize,
        clients: usize,
    ) -> Result<Vec<Box<dyn Turns>>> {
        match self.way {
            Way::SetNx => raw::poll(url, key, contenders, clients).await,
            Way::Baton => raw::baton(url, key, contenders).await,
            Way::Rslock => Ok(rslock::open(url, key, contenders, clients)),
            Way::Ours(variant) => ours::open(url, key, contenders, clients, variant).await,
        }
    }

    /// The commands that its clients send. A server counts those inside scripts too, which are no
    /// round trips.
    pub(crate) fn commands(self) -> &'static [&'static str] {
        match self.way {
            Way::SetNx | Way::Rslock => &["set", "evalsha", "eval", "script|load"],
            Way::Baton => &["blpop", "lpush"],
            Way::Ours(_) => &[
                "evalsha",
                "eval",
                "ping",
                "ssubscribe",
                "sunsubscribe",
                "subscribe",
                "unsubscribe",
            ],
        }
    }
}
