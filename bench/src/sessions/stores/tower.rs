//! tower-sessions-redis-store, driven as the middleware of tower-sessions drives it.

use super::{Request, Store, TTL_SECONDS};
use crate::{
    peers::{self, Client},
    sessions::people,
};
use anyhow::{Context as _, Result};
use coordinator_core::Config;
use futures::future::BoxFuture;
use std::sync::Arc;
use time::Duration;
use tower_sessions_core::{Expiry, Session, SessionStore as _, session::Id};
use tower_sessions_redis_store::RedisStore;

pub(super) struct Tower(Arc<RedisStore<Client>>);

impl Tower {
    pub(super) async fn open(url: &str) -> Result<Self> {
        let client = peers::client(url, Config::COMMAND_TIMEOUT).await?;
        Ok(Self(Arc::new(RedisStore::new(client))))
    }

    fn session(&self, id: Option<Id>) -> Session {
        let expiry = Expiry::OnInactivity(Duration::seconds(TTL_SECONDS));
        Session::new(id, self.0.clone(), Some(expiry))
    }
}

impl Store for Tower {
    fn create(&self) -> BoxFuture<'_, Result<String>> {
        Box::pin(async move {
            let session = self.session(None);
            session.insert(people::FIELD, people::payload()).await?;
            session.save().await?;
            Ok(session.id().context("a saved session has one")?.to_string())
        })
    }

    fn load<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<usize>>> {
        Box::pin(
            async move { Ok(self.0.load(&id.parse()?).await?.map(|record| record.data.len())) },
        )
    }

    fn begin<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Box<dyn Request>>> {
        Box::pin(async move {
            let session = self.session(Some(id.parse()?));
            session.load().await?;
            let begun: Box<dyn Request> = Box::new(Begun(session));
            Ok(begun)
        })
    }

    fn end<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { Ok(self.0.delete(&id.parse()?).await?) })
    }
}

struct Begun(Session);

impl Request for Begun {
    fn finish(self: Box<Self>, field: &str) -> BoxFuture<'_, Result<Option<String>>> {
        let field = field.to_owned();
        Box::pin(async move {
            self.0.insert(&field, 1).await?;
            self.0.save().await?;
            Ok(self.0.id().map(|id| id.to_string()))
        })
    }
}
