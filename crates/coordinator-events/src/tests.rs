//! Port level: every step on both backends, and what the scripts alone can do wrong.

pub(crate) mod faulty;
#[cfg(feature = "redis")]
mod scripts;
mod stage;
mod steps;
mod topics;
#[cfg(feature = "redis")]
mod twins;
mod workers;

use crate::{
    backend::{Attempt, Crew, Entry, Take, Token},
    cursor::Id,
};
use bytes::Bytes;
use coordinator_core::key::Name;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// An event of this number, of whatever epoch.
pub(crate) fn entry(number: u8) -> Entry {
    let frame: Bytes = [[number; 8].as_slice(), b"envelope ", &[number]].concat().into();
    Entry {
        epoch: 0,
        check: false,
        generation: None,
        strict: false,
        frame,
        keep: 1000,
        ttl_ms: DAY_MS,
        prolongs: true,
        once: None,
        replicas: None,
    }
}

fn crew(scope: &str, group: &str) -> Crew {
    Crew { scope: name(scope), group: name(group) }
}

/// Of the consumer that has a name to itself.
fn seat(consumer: &str) -> u64 {
    consumer.bytes().fold(1, |seat, byte| seat * 256 + u64::from(byte))
}

/// One that was never asked for before.
fn take(consumer: &str, most: usize) -> Take {
    Take {
        token: rand::random(),
        consumer: consumer.to_owned(),
        seat: seat(consumer),
        most,
        lease_ms: 1000,
        deliveries: 2,
        begin: Some(Id::START),
        ttl_ms: 60_000,
    }
}

fn attempt(id: Id, token: Token) -> Attempt {
    Attempt { id, token }
}
