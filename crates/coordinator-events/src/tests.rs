//! Port level: every step on both backends.
