//! Locks that instances of a service share, with fencing tokens, a watchdog and a loss signal,
//! over Redis or Valkey or in process.
//!
//! ```
//! use coordinator_locks::{FenceCheck, Locks};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let locks = Locks::embedded(); // or Locks::redis(&connection)
//!
//! let guard = locks.acquire("invoice:42").await?.acquired()?;
//! assert!(locks.try_acquire("invoice:42").await?.is_none());
//!
//! // The resource checks the fence: that is what makes it safe.
//! let register = locks.fence_register();
//! assert!(register.check("invoice:42", guard.fence(), guard.id()).await?.is_admitted());
//!
//! guard.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//! * Among the holders of a name at most one has a valid lease at a time, by its own clock, as
//!   long as the server neither fails over nor is flushed, evicts keys or has its clock moved.
//! * Each grant of a name has a higher [`Fence`] than every grant before it, also after a
//!   failover, a flush or an eviction; a resource that checks it ([`FenceCheck`]) is safe.
//! * A holder learns of a loss no later than its own deadline, by its own clock, without the
//!   server ([`Guard::lost`], [`Guard::run`]).
//! * A dead holder blocks others for at most its ttl plus a second.
//! * Renewing and releasing never touch a lock with another token, and may be repeated.
//! * An acquire without an answer, or dropped at any point, leaves no lock behind: it is given up
//!   in the background, or expires within its ttl.
//! * Held by another, lost, and unreachable are three different answers.
//! * Who waits stands in one queue of all processes and is served in its order; who does not wait
//!   is refused while somebody does. Dead waiters are passed over, in about a second together.
//! * Owners that wait for each other in a circle are told, and who is told did wait in it.
//!
//! # Not guaranteed
//! * With failover a lock is for *efficiency*: two may believe in it for a while. *Correctness*
//!   is the fence, checked at the resource.
//! * Order between the waiters of different processes, unless they ask for it
//!   ([`Lock::with_fair`]): else a process has one place in the queue for all who wait there.
//! * A queue that outlives its state: after a flush or a failover waiters find their places again
//!   by the tickets they were given, but whoever asks before them may be first.
//! * Fences rising if the server lost its state *and* its clock was set back *and* this process
//!   has not seen the name's shard before.
//! * That the clock runs while the machine is suspended: a holder that sleeps with its machine
//!   wakes up believing. The fence tells.
//!
//! # Features
//! * `redis` (default): [`Locks::redis`]. The embedded backend is always there.

mod acquire;
mod backend;
mod client;
mod deadlock;
mod embedded;
mod fence;
mod graph;
mod guard;
mod journal;
mod lease;
mod lock;
mod locks;
mod log;
mod outcome;
mod owner;
#[cfg(feature = "redis")]
mod redis;
mod tasks;
mod telemetry;
#[cfg(test)]
mod tests;
mod token;
mod turns;
mod waiting;
mod watchdog;
mod worker;

pub use fence::{Admission, FenceCheck, FenceRegister};
pub use graph::Edge;
pub use guard::{Detached, Guard, Release, Renew};
pub use lease::{Lease, LossReason};
pub use lock::Lock;
pub use locks::{Cursor, Locks};
pub use log::{LockEvent, LogEntry};
pub use outcome::{Blocked, Outcome, Refused, WithError};
pub use owner::Owner;
#[cfg(feature = "redis")]
#[doc(hidden)]
pub use redis::SCRIPTS;
pub use telemetry::METRICS;
pub use token::{Fence, HeldLock, Holder, Token, Waiter};
