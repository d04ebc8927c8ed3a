//! The sessions of this workspace, with their three indexes and events.

use super::{Request, Store};
use crate::sessions::people;
use anyhow::{Context as _, Result, bail};
use coordinator_core::{Config, redis::Connection};
use coordinator_sessions::{Patch, Sessions, Token, Updated};
use futures::future::BoxFuture;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(super) struct Ours {
    sessions: Sessions,
    next: AtomicUsize,
}

struct Begun {
    sessions: Sessions,
    token: Token,
}

impl Ours {
    pub(super) async fn open(url: &str) -> Result<Self> {
        let connection = Connection::connect(Config::from_url(url)?).await?;
        let sessions = Sessions::redis(&connection).with_reaping(None);
        Ok(Self { sessions, next: AtomicUsize::new(0) })
    }
}

fn token(id: &str) -> Result<Token> {
    Token::parse(id).context("a token")
}

impl Store for Ours {
    fn create(&self) -> BoxFuture<'_, Result<String>> {
        Box::pin(async move {
            let new = people::person(self.next.fetch_add(1, Ordering::Relaxed))?;
            let session = self.sessions.create(new).await?.session()?;
            Ok(session.token().context("a new session has one")?.reveal())
        })
    }

    fn load<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<usize>>> {
        Box::pin(async move {
            let found = self.sessions.load(&token(id)?).await?.live();
            Ok(found.map(|session| session.data().fields().count()))
        })
    }

    fn begin<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Box<dyn Request>>> {
        Box::pin(async move {
            let token = token(id)?;
            self.sessions.load(&token).await?.live().context("it lives")?;
            let begun: Box<dyn Request> =
                Box::new(Begun { sessions: self.sessions.clone(), token });
            Ok(begun)
        })
    }

    fn end<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.sessions.invalidate(&token(id)?, "logout").await?;
            Ok(())
        })
    }

    fn change<'a>(&'a self, id: &'a str, field: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let patched = self.sessions.patch(&token(id)?, Patch::new().set(field, &1)?).await?;
            patched.live().context("it lives")?;
            Ok(())
        })
    }
}

impl Request for Begun {
    fn finish(self: Box<Self>, field: &str) -> BoxFuture<'_, Result<Option<String>>> {
        Box::pin(async move {
            let patched = self.sessions.patch(&self.token, Patch::new().set(field, &1)?).await?;
            match patched.live() {
                Some(Updated::Done { .. }) => Ok(Some(self.token.reveal())),
                None => Ok(None),
                other => bail!("a patch came to {other:?}"),
            }
        })
    }
}
