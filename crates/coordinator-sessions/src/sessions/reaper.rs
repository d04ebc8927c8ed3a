//! The reaper: ends sessions whose time is over, and has that told once each.

use super::{Inner, Sessions};
use crate::{backend::SHARDS, tasks};
use coordinator_core::Result;
use futures::stream::{StreamExt as _, iter};
use rand::RngExt as _;
use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

/// How many sessions a step ends.
const BATCH: usize = 100;
/// How many shards are asked at once.
const AT_ONCE: usize = 16;

impl Sessions {
    /// Ends all sessions whose time is over; how many that were. Any number of processes may do so
    /// at once: each session is ended, and told of, once.
    ///
    /// Clients do so by themselves ([`with_reaping`](Self::with_reaping)).
    ///
    /// # Errors
    /// As [`load`](Self::load), of a shard that could not be reaped; the others were.
    ///
    /// # Cancel safety
    /// Cancel safe: what is ended is ended.
    pub async fn reap(&self) -> Result<u64> {
        reap(&self.inner).await
    }

    /// Begins to do so in the background, once, until the last clone is dropped. A file is reaped
    /// at once: nobody did since the last run, and this one may be over before the first period is.
    pub(super) async fn begin(&self) {
        let Some(period) = self.options.reaps_every else { return };
        let reaping = &self.inner.reaping;
        if !reaping.load(Ordering::Relaxed) && !reaping.swap(true, Ordering::Relaxed) {
            tasks::spawn(reap_for_ever(Arc::downgrade(&self.inner), period));
            if self.inner.backend.in_file() {
                for shard in 0..SHARDS {
                    if let Err(error) = self.inner.backend.reap(shard, BATCH).await {
                        tracing::debug!(error = %error.chain(), "sessions could not be reaped");
                    }
                }
            }
        }
    }
}

async fn reap_for_ever(inner: Weak<Inner>, period: Duration) {
    // The first time soon, and not at the same time as all others that were started just now.
    let mut wait = period.mul_f64(rand::rng().random());
    loop {
        let Some(alarm) = inner.upgrade().map(|inner| inner.backend.clock().sleep(wait)) else {
            return;
        };
        alarm.await;
        wait = period;
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = reap(&inner).await {
            // The next round does what this one could not.
            tracing::debug!(error = %error.chain(), "sessions could not be reaped");
        }
    }
}

async fn reap(inner: &Inner) -> Result<u64> {
    let shards: Vec<_> = iter(0..SHARDS)
        .map(|shard| async move {
            let mut sum = 0;
            loop {
                let reaped = inner.backend.reap(shard, BATCH).await?;
                sum += reaped.ended;
                if !reaped.more {
                    return Ok(sum);
                }
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    // One that fails, as where its node is down, is no reason to leave out the others.
    shards.into_iter().sum()
}
