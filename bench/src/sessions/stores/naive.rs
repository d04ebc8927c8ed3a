//! What is often written by hand: one JSON document per session, read with GET and written whole
//! with SET.

use super::{Request, Store, TTL_SECONDS};
use crate::{
    peers::{self, Client},
    sessions::people,
};
use anyhow::{Context as _, Result};
use coordinator_core::Config;
use fred::{interfaces::KeysInterface as _, types::Expiration};
use futures::future::BoxFuture;
use serde_json::{Map, Value};

pub(super) struct Naive(Client);

type State = Map<String, Value>;

impl Naive {
    pub(super) async fn open(url: &str) -> Result<Self> {
        Ok(Self(peers::client(url, Config::COMMAND_TIMEOUT).await?))
    }
}

async fn get(client: &Client, id: &str) -> Result<Option<State>> {
    let text: Option<String> = client.get(id).await?;
    Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
}

async fn set(client: &Client, id: &str, state: &State) -> Result<()> {
    let text = serde_json::to_string(state)?;
    let ttl = Some(Expiration::EX(TTL_SECONDS));
    Ok(client.set(id, text, ttl, None, false).await?)
}

impl Store for Naive {
    fn create(&self) -> BoxFuture<'_, Result<String>> {
        Box::pin(async move {
            let id = format!("session:{:032x}", rand::random::<u128>());
            let state = State::from_iter([(people::FIELD.to_owned(), people::payload().into())]);
            set(&self.0, &id, &state).await?;
            Ok(id)
        })
    }

    fn load<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<usize>>> {
        Box::pin(async move { Ok(get(&self.0, id).await?.map(|state| state.len())) })
    }

    fn begin<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Box<dyn Request>>> {
        Box::pin(async move {
            let state = get(&self.0, id).await?.context("it lives")?;
            let begun: Box<dyn Request> =
                Box::new(Begun { client: self.0.clone(), id: id.to_owned(), state });
            Ok(begun)
        })
    }

    fn end<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { Ok(self.0.del(id).await?) })
    }
}

struct Begun {
    client: Client,
    id: String,
    state: State,
}

impl Request for Begun {
    fn finish(mut self: Box<Self>, field: &str) -> BoxFuture<'_, Result<Option<String>>> {
        self.state.insert(field.to_owned(), 1.into());
        Box::pin(async move {
            set(&self.client, &self.id, &self.state).await?;
            Ok(Some(self.id))
        })
    }
}
