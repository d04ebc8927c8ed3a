//! Rate limits that instances of a service share: exact sliding windows, GCRA, fixed windows and
//! slots, several at once, over Redis or Valkey or in process.
//!
//! ```
//! use coordinator_ratelimit::{Charge, Quota, RateLimiter};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let limits = RateLimiter::embedded(); // or RateLimiter::redis(&connection)
//! let minute = Duration::from_secs(60);
//!
//! // One limit.
//! let decision = limits.check("user:42", &Quota::sliding_window(100, minute)).await?;
//! assert!(decision.allowed && decision.remaining == 99);
//!
//! // Several at once: from all of them, or from none.
//! let acme = limits.tenant("acme")?;
//! let (user, company) =
//!     (Quota::sliding_window(10, minute), Quota::sliding_window(500, minute));
//! let charges = [Charge::new("user:42", &user), Charge::new("company", &company).with_cost(3)];
//! assert!(acme.check_all(&charges).await?.allowed);
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//! * A sliding window admits at most its limit in *every* window `(t − window, t]`, at every
//!   alignment, on the backend's clock; clients' clocks do not matter.
//! * A denial and a look take nothing from a limit and prolong nothing.
//! * `retry_after` is exact: denied a microsecond before it, admitted at it, if nobody else comes.
//! * Several limits are taken from together or not at all, in one round trip.
//! * A call with an id is charged at most once, however often it is sent; one without is sent once.
//! * A limit that changes keeps what was consumed.
//! * Where the backend is away the limit's own policy decides, within its budget, and
//!   [`Decision::source`] says so.
//! * A slot of a process that was killed is free after one lease.
//!
//! # Not guaranteed
//! * Exactness through a failover: what the new master had not been told of may be admitted again.
//! * Exactness while the server's clock runs ahead: after a step forward by d, what is older than
//!   the window less d is admitted again. A step back by more than a second moves all ages back to
//!   what they were at the last admission: what is denied is denied for at most one window more.
//! * A reset of a whole policy at one moment: other processes follow within a second.
//! * That a call without an answer was not charged.
//!
//! # Features
//! * `redis` (default): [`RateLimiter::redis`]. The embedded backend is always there.

mod backend;
mod decision;
mod embedded;
mod epochs;
mod fallback;
mod fast;
mod limiter;
mod outage;
mod quota;
mod ready;
#[cfg(feature = "redis")]
mod redis;
mod reserve;
mod rules;
mod slots;
mod tasks;
mod telemetry;
#[cfg(test)]
mod tests;
mod violations;

pub use decision::{Decision, Decisions, Source, Status};
pub use limiter::{Charge, Once, RateLimiter};
pub use outage::FailurePolicy;
pub use quota::{Precision, Quota};
#[cfg(feature = "redis")]
#[doc(hidden)]
pub use redis::SCRIPTS;
pub use reserve::{Reservation, Reserved};
pub use rules::{Request, RuledLimiter, Rules, Ruling, Scope};
pub use slots::{Entrance, Slot};
pub use telemetry::METRICS;
pub use violations::{Offender, Violation, ViolationKind, Violations};
