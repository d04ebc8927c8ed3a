//! One integration binary: every suite on every backend.
