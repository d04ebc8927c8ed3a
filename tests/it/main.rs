//! One integration binary: every suite on every backend, through the public API alone.

mod agreement;
mod faults;
mod locks;
mod stage;
mod topology;
