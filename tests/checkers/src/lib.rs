//! Pure checkers: they take what was observed and say what was broken.
//!
//! They read no clock, do no I/O and know nothing of Redis, so a verdict depends on the history
//! alone and a failing history can be kept as a test. They do not produce load and do not record:
//! that is the work of the chaos runner and the integration tests.
//!
//! | module | question |
//! |---|---|
//! | [`fenced_register`] | did a stale holder get through, or two holders share one fence? |
//! | [`lease_overlap`] | did two owners believe in one lease at the same time? |
//! | [`exactly_once`] | was anything lost, doubled or invented? |
//! | [`rate_window`] | did any window admit more than its limit? what should a limiter have answered? |
//! | [`linearizability`] | is there any legal order at all that explains the answers? |
//!
//! Every checker is tested against planted bugs it must find: a checker that cannot fail is a
//! defect.

pub mod exactly_once;
pub mod fenced_register;
pub mod lease_overlap;
pub mod linearizability;
pub mod lock_model;
pub mod rate_window;
