//! Port-level tests: both backends on a clock that the tests stop and step; every step delivered
//! twice; broken backends that must be caught; what only scripts can get wrong; properties.

mod broken;
mod contract;
mod properties;
#[cfg(feature = "redis")]
mod scripts;
mod stage;
mod twins;

use super::{
    backend::{Batch, Item, Link, Parts, Place, SHARDS},
    outcome::stored,
};
use coordinator_core::key::Name;
use std::time::Duration;

const HOUR: Duration = Duration::from_hours(1);
const ALL: Parts = Parts { window: true, pending: true, fields: true };

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// The conversation of `user` in a channel.
fn place(user: &str, channel: &str) -> Place {
    let id = Name::composed("of", &["web", channel, user]).expect("a name");
    let user = name(user);
    Place { shard: user.shard(SHARDS), id, user: Some(user) }
}

fn link(call: u8) -> Link {
    [call; 8]
}

/// A message of so many tokens.
fn item(text: &str, tokens: u32) -> Item {
    let body = stored(text).expect("bytes");
    Item { tokens, calls: Vec::new(), answers: None, body }
}

fn calls(text: &str, calls: &[u8]) -> Item {
    Item { calls: calls.iter().map(|call| link(*call)).collect(), ..item(text, 1) }
}

fn answers(text: &str, call: u8) -> Item {
    Item { answers: Some(link(call)), ..item(text, 1) }
}

fn batch(items: Vec<Item>) -> Batch {
    Batch { items, key: Vec::new(), window: 3, budget: None, ttl: HOUR }
}

fn said(texts: &[&str]) -> Batch {
    batch(texts.iter().map(|text| item(text, 1)).collect())
}
