//! The Redis store of actix-session, driven as its middleware drives it: what a request changed is
//! written with `update`, and the client gets the key that this answers.

use super::{Request, Store, TTL_SECONDS};
use crate::sessions::people;
use actix_session::storage::{RedisSessionStore, SessionKey, SessionStore as _};
use anyhow::{Context as _, Result};
use futures::future::BoxFuture;
use std::collections::HashMap;
use time::Duration;

const TTL: Duration = Duration::seconds(TTL_SECONDS);

pub(super) struct Actix(RedisSessionStore);

impl Actix {
    pub(super) async fn open(url: &str) -> Result<Self> {
        Ok(Self(RedisSessionStore::new(url).await?))
    }
}

fn key(id: &str) -> Result<SessionKey> {
    Ok(SessionKey::try_from(id.to_owned())?)
}

impl Store for Actix {
    fn create(&self) -> BoxFuture<'_, Result<String>> {
        Box::pin(async move {
            // It keeps values as JSON in JSON.
            let value = serde_json::to_string(&people::payload())?;
            let state = HashMap::from([(people::FIELD.to_owned(), value)]);
            Ok(self.0.save(state, &TTL).await?.as_ref().to_owned())
        })
    }

    fn load<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<usize>>> {
        Box::pin(async move { Ok(self.0.load(&key(id)?).await?.map(|state| state.len())) })
    }

    fn begin<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Box<dyn Request>>> {
        Box::pin(async move {
            let key = key(id)?;
            let state = self.0.load(&key).await?.context("it lives")?;
            let begun: Box<dyn Request> = Box::new(Begun { store: self.0.clone(), key, state });
            Ok(begun)
        })
    }

    fn end<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.0.delete(&key(id)?).await })
    }
}

struct Begun {
    store: RedisSessionStore,
    key: SessionKey,
    state: HashMap<String, String>,
}

impl Request for Begun {
    fn finish(mut self: Box<Self>, field: &str) -> BoxFuture<'_, Result<Option<String>>> {
        self.state.insert(field.to_owned(), "1".to_owned());
        Box::pin(async move {
            let Self { store, key, state } = *self;
            let key = store.update(key, state, &TTL).await?;
            Ok(Some(key.as_ref().to_owned()))
        })
    }
}
