//! Ours: a scope, whose publishes have an idempotency key, and a live topic.

use super::{Channel, Listener};
use anyhow::{Context as _, Result};
use coordinator_core::{Config, redis::Connection};
use coordinator_events::{Events, Item, Live, LiveItem, LiveSubscription, Subscription};
use futures::future::BoxFuture;

struct Durable {
    events: Events,
    scope: String,
}

impl Channel for Durable {
    fn publish<'a>(&'a self, number: u64, text: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let publish = self.events.publish(&self.scope, "step", text);
            let published = publish.idempotent(&number.to_string()).await?;
            published.cursor().map(drop).context("it is published")
        })
    }

    fn listen(&self) -> BoxFuture<'_, Result<Box<dyn Listener>>> {
        Box::pin(async {
            let subscription = self.events.subscribe(&self.scope).open::<String>().await?;
            Ok(Box::new(Heard(subscription)) as Box<dyn Listener>)
        })
    }
}

struct Heard(Subscription<String>);

impl Listener for Heard {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<String>>> {
        Box::pin(async {
            Ok(match self.0.next().await.context("it goes on")? {
                Item::Event(event) => Some(event.data),
                _ => None,
            })
        })
    }
}

struct Topic(Live);

impl Channel for Topic {
    fn publish<'a>(&'a self, _: u64, text: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.0.publish("step", text).await?;
            Ok(())
        })
    }

    fn listen(&self) -> BoxFuture<'_, Result<Box<dyn Listener>>> {
        Box::pin(async { Ok(Box::new(Told(self.0.subscribe().await?)) as Box<dyn Listener>) })
    }
}

struct Told(LiveSubscription<String>);

impl Listener for Told {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<String>>> {
        Box::pin(async {
            Ok(match self.0.next().await {
                LiveItem::Event(event) => Some(event.data),
                _ => None,
            })
        })
    }
}

async fn events(url: &str) -> Result<Events> {
    Ok(Events::redis(&Connection::connect(Config::from_url(url)?).await?))
}

pub(super) async fn durable(url: &str, name: &str) -> Result<Box<dyn Channel>> {
    Ok(Box::new(Durable { events: events(url).await?, scope: name.to_owned() }))
}

pub(super) async fn live(url: &str, name: &str) -> Result<Box<dyn Channel>> {
    Ok(Box::new(Topic(events(url).await?.live(name)?)))
}
