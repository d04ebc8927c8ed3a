//! What the client library offers: PUBLISH, and its client that subscribes anew.

use super::{Channel, Listener};
use crate::peers;
use anyhow::{Result, bail};
use coordinator_core::Config;
use fred::{
    clients::SubscriberClient,
    interfaces::{ClientLike as _, EventInterface as _, PubsubInterface as _},
    types::{
        Message, RespVersion,
        config::{Config as FredConfig, PerformanceConfig, ReconnectPolicy},
    },
};
use futures::future::BoxFuture;
use tokio::sync::broadcast::{self, error::RecvError};

struct Bare {
    client: peers::Client,
    url: String,
    name: String,
}

impl Channel for Bare {
    fn publish<'a>(&'a self, _: u64, text: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let _: i64 = self.client.publish(self.name.as_str(), text).await?;
            Ok(())
        })
    }

    fn listen(&self) -> BoxFuture<'_, Result<Box<dyn Listener>>> {
        Box::pin(async {
            let config =
                FredConfig { version: RespVersion::RESP3, ..FredConfig::from_url(&self.url)? };
            let performance = PerformanceConfig {
                broadcast_channel_capacity: 65_536,
                ..PerformanceConfig::default()
            };
            let policy = ReconnectPolicy::new_exponential(0, 50, 2_000, 2);
            let client = SubscriberClient::new(config, Some(performance), None, Some(policy));
            client.init().await?;
            let messages = client.message_rx();
            client.manage_subscriptions();
            client.subscribe(self.name.as_str()).await?;
            Ok(Box::new(Heard { client, messages }) as Box<dyn Listener>)
        })
    }
}

struct Heard {
    client: SubscriberClient,
    messages: broadcast::Receiver<Message>,
}

impl Listener for Heard {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<String>>> {
        Box::pin(async {
            match self.messages.recv().await {
                Ok(message) => Ok(message.value.as_string()),
                Err(RecvError::Lagged(_)) => Ok(None),
                Err(RecvError::Closed) => bail!("the subscriber is closed"),
            }
        })
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        let client = self.client.clone();
        tokio::spawn(async move { client.quit().await });
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let client = self.client.clone();
        tokio::spawn(async move { client.quit().await });
    }
}

pub(super) async fn open(url: &str, name: &str) -> Result<Box<dyn Channel>> {
    let client = peers::client(url, Config::COMMAND_TIMEOUT).await?;
    Ok(Box::new(Bare { client, url: url.to_owned(), name: name.to_owned() }))
}
