//! What redis-rs offers: PUBLISH, and a manager of connections that subscribes anew.

use super::{Channel, Listener};
use anyhow::{Context as _, Result};
use futures::future::BoxFuture;
use redis::{
    AsyncCommands as _, Client, PushInfo, PushKind,
    aio::{ConnectionManager, ConnectionManagerConfig},
    from_redis_value_ref,
};
use tokio::sync::mpsc;

struct Plain {
    client: Client,
    manager: ConnectionManager,
    name: String,
}

impl Channel for Plain {
    fn publish<'a>(&'a self, _: u64, text: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let _: i64 = self.manager.clone().publish(&self.name, text).await?;
            Ok(())
        })
    }

    fn listen(&self) -> BoxFuture<'_, Result<Box<dyn Listener>>> {
        Box::pin(async {
            let (sender, pushes) = mpsc::unbounded_channel();
            let config = ConnectionManagerConfig::new()
                .set_push_sender(sender)
                .set_automatic_resubscription();
            let client = self.client.clone();
            let mut manager = ConnectionManager::new_with_config(client, config).await?;
            manager.subscribe(&self.name).await?;
            Ok(Box::new(Heard { _manager: manager, pushes }) as Box<dyn Listener>)
        })
    }
}

struct Heard {
    /// It ends with its last handle.
    _manager: ConnectionManager,
    pushes: mpsc::UnboundedReceiver<PushInfo>,
}

impl Listener for Heard {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<String>>> {
        Box::pin(async {
            let push = self.pushes.recv().await.context("it goes on")?;
            Ok(match (push.kind, push.data.get(1)) {
                (PushKind::Message, Some(text)) => Some(from_redis_value_ref(text)?),
                _ => None,
            })
        })
    }
}

pub(super) async fn open(url: &str, name: &str) -> Result<Box<dyn Channel>> {
    let client = Client::open(format!("{url}?protocol=resp3"))?;
    let manager = ConnectionManager::new(client.clone()).await?;
    Ok(Box::new(Plain { client, manager, name: name.to_owned() }))
}
