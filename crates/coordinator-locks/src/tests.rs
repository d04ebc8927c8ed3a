//! Port-level tests: every step delivered twice, on both backends.
