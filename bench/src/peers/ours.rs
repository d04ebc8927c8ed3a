//! The locks of this workspace.

use super::Turns;
use anyhow::{Context as _, Result};
use coordinator_core::{Config, redis::Connection};
use coordinator_locks::{Guard, Lock, Locks};
use futures::future::BoxFuture;
use std::time::Duration;

struct Ours {
    lock: Lock,
    guard: Option<Guard>,
}

impl Turns for Ours {
    fn acquire(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.guard = Some(self.lock.acquire().await?.acquired()?);
            Ok(())
        })
    }

    fn release(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.guard.take().context("nothing is held")?.release().await?;
            Ok(())
        })
    }
}

pub(super) async fn open(
    url: &str,
    key: &str,
    contenders: usize,
    clients: usize,
    variant: fn(Lock) -> Lock,
) -> Result<Vec<Box<dyn Turns>>> {
    let mut locks = Vec::new();
    for _ in 0..clients {
        let connection = Connection::connect(Config::from_url(url)?).await?;
        locks.push(Locks::redis(&connection));
    }
    let contender = |index: usize| -> Box<dyn Turns> {
        let lock = locks[index % clients].named(key).with_wait(Duration::from_mins(1));
        Box::new(Ours { lock: variant(lock), guard: None })
    };
    Ok((0..contenders).map(contender).collect())
}
