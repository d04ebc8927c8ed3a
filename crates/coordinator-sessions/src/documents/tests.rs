//! Port-level tests: the contract on each backend with every step delivered twice, backends that
//! are broken on purpose, both backends against each other, and what only scripts get wrong.

mod broken;
mod contract;
mod policy;
#[cfg(feature = "redis")]
mod scripts;
mod stage;
#[cfg(feature = "redis")]
mod twins;

use super::backend::{Condition, Place, Slice, Token, Write};
use coordinator_core::key::Name;

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn place(document: &str) -> Place {
    Place::new(&name("plans"), &name(document))
}

fn token(id: &str) -> Token {
    Token { id: name(id), ttl_ms: 60_000 }
}

/// A write of a text for a minute, on no condition.
fn write(data: &str, id: &str) -> Write {
    Write {
        condition: Condition::Any,
        ttl_ms: 60_000,
        keep_ttl: false,
        history: 0,
        data: data.as_bytes().into(),
        token: token(id),
    }
}

fn slice(of: &Place) -> Slice {
    Slice {
        shard: of.shard,
        namespace: of.namespace.clone(),
        after: String::new(),
        prefix: String::new(),
        limit: 100,
    }
}
