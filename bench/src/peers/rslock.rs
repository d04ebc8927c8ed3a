//! The crate rslock, used as its documentation says; within a client its manager is shared.

use super::Turns;
use anyhow::{Context as _, Result};
use futures::future::BoxFuture;
use rslock::{LockGuard, LockManager};
use std::time::Duration;

struct Rslock {
    manager: LockManager,
    key: String,
    guard: Option<LockGuard>,
}

impl Turns for Rslock {
    fn acquire(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let asked = self.manager.acquire(self.key.as_str(), Duration::from_secs(30));
            self.guard = Some(asked.await?);
            Ok(())
        })
    }

    fn release(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.guard.take().context("nothing is held")?.release().await;
            Ok(())
        })
    }
}

pub(super) fn open(url: &str, key: &str, contenders: usize, clients: usize) -> Vec<Box<dyn Turns>> {
    let managers: Vec<_> = (0..clients).map(|_| LockManager::new(vec![url])).collect();
    let contender = |index: usize| -> Box<dyn Turns> {
        let manager = managers[index % clients].clone();
        Box::new(Rslock { manager, key: key.to_owned(), guard: None })
    };
    (0..contenders).map(contender).collect()
}
