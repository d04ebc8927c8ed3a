//! Port-level tests.
