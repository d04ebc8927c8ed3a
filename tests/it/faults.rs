//! Faults of the server and of the link, with the outcome that locks promise.
