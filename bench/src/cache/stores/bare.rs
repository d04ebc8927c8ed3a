//! What can be had by hand: GET and SET, through fred and through this workspace's connection, of
//! MessagePack that is compressed from the same length on as ours is.

use super::{Face, Loader, TTL};
use crate::{
    cache::values::Crew,
    peers::{self, Client},
};
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use coordinator_core::{Config, redis::Connection};
use fred::{interfaces::KeysInterface as _, types::Expiration};
use std::cell::RefCell;
use zstd::bulk::{Compressor, Decompressor};

/// From which length on values are compressed.
const THRESHOLD: usize = 1024;
/// The longest value.
const MOST: usize = 1024 * 1024;
/// The first byte of what is stored.
const PLAIN: u8 = 1;
const ZSTD: u8 = 2;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

fn encoded(crew: &Crew) -> Result<Bytes> {
    let mut bytes = vec![PLAIN];
    bytes.extend(rmp_serde::to_vec_named(crew)?);
    if bytes.len() > THRESHOLD {
        let smaller = COMPRESSOR.with_borrow_mut(|kept| {
            let compressor = match kept {
                Some(compressor) => compressor,
                None => kept.insert(Compressor::new(zstd::DEFAULT_COMPRESSION_LEVEL)?),
            };
            compressor.compress(&bytes[1..])
        })?;
        bytes.truncate(1);
        bytes[0] = ZSTD;
        bytes.extend(smaller);
    }
    Ok(bytes.into())
}

/// The version of what is stored, all of it decoded.
pub(crate) fn decoded(bytes: &[u8]) -> Result<u64> {
    let crew: Crew = match bytes.split_first() {
        Some((&PLAIN, plain)) => rmp_serde::from_slice(plain)?,
        Some((&ZSTD, smaller)) => {
            let plain = DECOMPRESSOR.with_borrow_mut(|kept| {
                let decompressor = match kept {
                    Some(decompressor) => decompressor,
                    None => kept.insert(Decompressor::new()?),
                };
                let length = zstd::zstd_safe::get_frame_content_size(smaller).ok().flatten();
                let length = length.and_then(|length| usize::try_from(length).ok());
                decompressor.decompress(smaller, length.unwrap_or(MOST).min(MOST))
            })?;
            rmp_serde::from_slice(&plain)?
        }
        _ => bail!("neither plain nor compressed"),
    };
    Ok(std::hint::black_box(crew).version)
}

pub(super) struct Bare(Client);

impl Bare {
    pub(super) async fn open(url: &str) -> Result<Self> {
        Ok(Self(peers::client(url, Config::COMMAND_TIMEOUT).await?))
    }

    pub(super) fn client(&self) -> &Client {
        &self.0
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        peers::farewell(&self.0);
    }
}

impl Face for Bare {
    async fn get(&self, key: &str) -> Result<Option<u64>> {
        let bytes: Option<Bytes> = self.0.get(key).await?;
        bytes.map(|bytes| decoded(&bytes)).transpose()
    }

    async fn set(&self, key: &str, crew: &Crew) -> Result<()> {
        let ttl = Expiration::PX(i64::try_from(TTL.as_millis())?);
        Ok(self.0.set(key, encoded(crew)?, Some(ttl), None, false).await?)
    }

    async fn load(&self, key: &str, loader: Loader) -> Result<u64> {
        if let Some(found) = self.get(key).await? {
            return Ok(found);
        }
        let crew = loader().await;
        self.set(key, &crew).await?;
        Ok(crew.version)
    }

    async fn invalidate(&self, key: &str) -> Result<()> {
        Ok(self.0.del(key).await?)
    }
}

pub(super) struct Core(Connection);

impl Core {
    pub(super) async fn open(url: &str) -> Result<Self> {
        Ok(Self(Connection::connect(Config::from_url(url)?).await?))
    }
}

impl Face for Core {
    async fn get(&self, key: &str) -> Result<Option<u64>> {
        self.0.get(key).await?.map(|bytes| decoded(&bytes)).transpose()
    }

    async fn set(&self, key: &str, crew: &Crew) -> Result<()> {
        Ok(self.0.set(key, encoded(crew)?, TTL).await?)
    }

    async fn load(&self, key: &str, _: Loader) -> Result<u64> {
        self.get(key).await?.context("it is measured warm")
    }

    async fn invalidate(&self, key: &str) -> Result<()> {
        Ok(self.0.delete(key).await.map(drop)?)
    }
}
