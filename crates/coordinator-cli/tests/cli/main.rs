//! The real binary against real servers: exit codes, JSON keys, and what is left behind.

mod cache;
mod conversation;
mod copies;
mod document;
mod events;
mod health;
mod hold;
mod limit;
mod log;
mod owners;
mod queue;
mod replay;
mod run;
mod session;
mod support;
mod usage;
