//! What can be had from the bare client: SET NX with a script that compares and deletes, and a
//! token in a list. The client is set up as coordinator-core does it, and has the same timeout.

use super::Turns;
use anyhow::{Context as _, Result};
use coordinator_core::Config;
use fred::{
    prelude::{Client as FredClient, ClientLike as _, KeysInterface as _, ListInterface as _},
    types::{
        Expiration, RespVersion, SetOptions,
        config::{
            Config as FredConfig, ConnectionConfig, PerformanceConfig, ReconnectPolicy, TcpConfig,
        },
        scripts::Script,
    },
};
use futures::future::BoxFuture;
use std::{sync::Arc, time::Duration};

pub(crate) use fred::clients::Client;

const RELEASE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then \
                       return redis.call('DEL', KEYS[1]) end return 0";

/// A connected client; commands that block for long must not have the timeout of others.
pub(crate) async fn client(url: &str, timeout: Duration) -> Result<Client> {
    with(
        url,
        PerformanceConfig { default_command_timeout: timeout, ..PerformanceConfig::default() },
    )
    .await
}

/// One whose receivers of messages have room for many.
pub(crate) async fn roomy(url: &str) -> Result<Client> {
    let performance = PerformanceConfig {
        default_command_timeout: Config::COMMAND_TIMEOUT,
        broadcast_channel_capacity: 65_536,
        ..PerformanceConfig::default()
    };
    with(url, performance).await
}

async fn with(url: &str, performance: PerformanceConfig) -> Result<Client> {
    let config =
        FredConfig { fail_fast: true, version: RespVersion::RESP3, ..FredConfig::from_url(url)? };
    let connection = ConnectionConfig {
        max_command_attempts: 1,
        tcp: TcpConfig { nodelay: Some(true), ..TcpConfig::default() },
        ..ConnectionConfig::default()
    };
    let policy = ReconnectPolicy::new_exponential(0, 50, 2_000, 2);
    let client = FredClient::new(config, Some(performance), Some(connection), Some(policy));
    client.init().await?;
    Ok(client)
}

/// A client that says farewell: dropped alone, it would leave its connection behind.
struct Quits(Client);

impl Drop for Quits {
    fn drop(&mut self) {
        farewell(&self.0);
    }
}

/// Ends its connection, for whoever drops a client.
pub(crate) fn farewell(client: &Client) {
    let client = client.clone();
    tokio::spawn(async move { client.quit().await });
}

struct Poll {
    client: Arc<Quits>,
    release: Script,
    key: String,
    token: String,
}

impl Turns for Poll {
    fn acquire(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.token = format!("{:032x}", rand::random::<u128>());
            loop {
                let (key, token) = (self.key.as_str(), self.token.as_str());
                let ttl = Some(Expiration::PX(30_000));
                let set = self.client.0.set(key, token, ttl, Some(SetOptions::NX), false);
                let set: Option<String> = set.await?;
                if set.is_some() {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    }

    fn release(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let (key, token) = (self.key.as_str(), self.token.as_str());
            let deleted: i64 = self.release.evalsha(&self.client.0, key, token).await?;
            (deleted == 1).then_some(()).context("it was not held")
        })
    }
}

pub(super) async fn poll(
    url: &str,
    key: &str,
    contenders: usize,
    clients: usize,
) -> Result<Vec<Box<dyn Turns>>> {
    let release = Script::from_lua(RELEASE);
    let mut open = Vec::new();
    for _ in 0..clients {
        open.push(Arc::new(Quits(client(url, Config::COMMAND_TIMEOUT).await?)));
    }
    release.load(&open[0].0).await?;
    let contender = |index: usize| -> Box<dyn Turns> {
        let client = open[index % clients].clone();
        let (release, key) = (release.clone(), key.to_owned());
        Box::new(Poll { client, release, key, token: String::new() })
    };
    Ok((0..contenders).map(contender).collect())
}

struct Baton {
    client: Quits,
    key: String,
}

impl Turns for Baton {
    fn acquire(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let _: (String, String) = self.client.0.blpop(self.key.as_str(), 60.0).await?;
            Ok(())
        })
    }

    fn release(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let _: i64 = self.client.0.lpush(self.key.as_str(), "baton").await?;
            Ok(())
        })
    }
}

pub(super) async fn baton(url: &str, key: &str, contenders: usize) -> Result<Vec<Box<dyn Turns>>> {
    let mut turns = Vec::<Box<dyn Turns>>::new();
    for index in 0..contenders {
        let client = Quits(client(url, Duration::ZERO).await?);
        if index == 0 {
            let _: i64 = client.0.lpush(key, "baton").await?;
        }
        turns.push(Box::new(Baton { client, key: key.to_owned() }));
    }
    Ok(turns)
}
