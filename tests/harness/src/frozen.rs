//! A server whose clock stands still until a test moves it.

use std::ops::Deref;

use anyhow::{Context as _, Result};

use crate::{Builder, RedisServer};

/// A server whose clock stands still, and which forgets what has expired only when it is asked for
/// it: both as a test of exact times needs it.
#[derive(Debug)]
pub struct FrozenServer {
    server: RedisServer,
    /// What its clock says without an offset, in µs since the Unix epoch.
    zero_us: i64,
}

impl FrozenServer {
    /// Starts a server and stops its clock.
    ///
    /// # Errors
    /// If it does not start, or does not let its clock be stopped.
    ///
    /// # Cancel safety
    /// Not cancel safe: the server may be starting.
    pub async fn start(builder: Builder) -> Result<Self> {
        let server = builder.with_clock_shim().start().await?;
        server.stop_clock().await?;
        // Else the server forgets what has expired at a time of its choice, which counts where the
        // clock is set back.
        server.command(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).await?.ok()?;
        let answer = server.command(&["TIME"]).await?.ok()?;
        let parts = answer.as_array().context("TIME is two numbers")?;
        let mut parts = parts.iter().filter_map(crate::Resp::as_int);
        let (seconds, micros) = parts.next().zip(parts.next()).context("TIME is two numbers")?;
        Ok(Self { server, zero_us: seconds * 1_000_000 + micros })
    }

    /// Sets its clock, in µs since the Unix epoch.
    ///
    /// # Errors
    /// If the clock cannot be moved.
    ///
    /// # Cancel safety
    /// Not cancel safe: the clock may have been moved.
    pub async fn set_time_us(&self, us: i64) -> Result<()> {
        self.server.set_clock_offset_us(us - self.zero_us).await
    }
}

impl Deref for FrozenServer {
    type Target = RedisServer;

    fn deref(&self) -> &RedisServer {
        &self.server
    }
}
