//! Circles of owners: none that is not there, and all that are.
