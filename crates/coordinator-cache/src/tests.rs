//! Port level: every step on both backends, and what bytes and scripts alone can do wrong.

macro_rules! on_every_backend {
    ($($case:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Stage::embedded().await).await;
            })*
        }
        #[cfg(feature = "redis")]
        mod redis {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Stage::redis().await).await;
            })*
        }
    };
}

mod bytes;
mod fair;
mod golden;
mod grace;
mod mends;
mod planted;
mod raw;
#[cfg(feature = "redis")]
mod scripts;
mod stage;
mod steps;
#[cfg(feature = "redis")]
mod twins;

use crate::{
    backend::{Key, Put, Token, Version},
    envelope::{self, Meta},
};
use ::bytes::Bytes;
use coordinator_core::{codec::Codec, key::Name};

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

pub(crate) fn key(text: &str) -> Key {
    Key::new(name("crew"), name(text))
}

pub(crate) fn token(number: u8) -> Token {
    Token([number; 16])
}

pub(crate) fn meta(version: u64) -> Meta {
    Meta {
        negative: false,
        codec: Codec::Raw,
        compressed: false,
        schema: 7,
        version: Version(version),
        soft_ms: 1_893_456_060_000,
        hard_ms: 1_893_459_660_000,
        loaded_ms: 1_893_456_000_000,
        load_us: 1500,
        raw_len: 5,
        dictionary: None,
        tags: Vec::new(),
    }
}

/// A value of this version.
pub(crate) fn value(version: u64) -> Bytes {
    envelope::seal(&meta(version), b"value").expect("sealed")
}

pub(crate) fn put(text: &str, version: u64) -> Put {
    Put { key: key(text), value: value(version), ttl_ms: 10_000 }
}
