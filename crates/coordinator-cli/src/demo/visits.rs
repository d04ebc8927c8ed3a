//! What clients and paths went through, as the parent saw it: what their sessions and documents
//! are compared with at the end. It asks neither.
//!
//! The parent stands for the clients, too: it keeps the cookie of each.

use coordinator::sessions::Token;
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, fmt};

/// What a client comes back with. Who has it has its session.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Cookie(String);

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cookie(…)")
    }
}

impl Cookie {
    pub(crate) fn new(token: &Token) -> Self {
        Self(token.reveal())
    }

    pub(crate) fn token(&self) -> Option<Token> {
        Token::parse(&self.0)
    }
}

/// How often requests were begun and how many were handled. One that a worker gave up on the way,
/// or died over, was begun again by another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) begun: u64,
    pub(crate) handled: u64,
}

impl Count {
    /// Whether a counter that each begun request raises at most once, and each handled one did,
    /// may have this value.
    pub(crate) fn explains(self, counter: u64) -> bool {
        (self.handled..=self.begun).contains(&counter)
    }
}

/// A client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Visitor {
    pub(crate) cookie: Option<Cookie>,
    pub(crate) count: Count,
}

/// All clients and all paths.
#[derive(Debug, Clone, Default)]
pub(crate) struct Visits {
    clients: HashMap<String, Visitor>,
    paths: HashMap<String, Count>,
    /// How often a client that had a cookie was given another: its session was gone.
    renewed: u64,
}

impl Visits {
    /// A worker begins a request; what the client comes with.
    pub(crate) fn begin(&mut self, client: &str, path: &str) -> Option<Cookie> {
        self.paths.entry(path.to_owned()).or_default().begun += 1;
        let visitor = self.clients.entry(client.to_owned()).or_default();
        visitor.count.begun += 1;
        visitor.cookie.clone()
    }

    /// A request was handled, and its client perhaps given a cookie.
    pub(crate) fn end(&mut self, client: &str, path: &str, cookie: Option<Cookie>) {
        self.paths.entry(path.to_owned()).or_default().handled += 1;
        let visitor = self.clients.entry(client.to_owned()).or_default();
        visitor.count.handled += 1;
        if let Some(cookie) = cookie {
            self.renewed += u64::from(visitor.cookie.is_some());
            visitor.cookie = Some(cookie);
        }
    }

    /// Clients of whom a request was handled.
    pub(crate) fn clients(&self) -> impl Iterator<Item = (&str, &Visitor)> {
        let all = self.clients.iter().filter(|(_, visitor)| visitor.count.handled > 0);
        all.map(|(client, visitor)| (client.as_str(), visitor))
    }

    /// Paths of which a request was handled.
    pub(crate) fn paths(&self) -> impl Iterator<Item = (&str, Count)> {
        let all = self.paths.iter().filter(|(_, count)| count.handled > 0);
        all.map(|(path, count)| (path.as_str(), *count))
    }

    /// How many sessions were found gone on the way.
    pub(crate) fn renewed(&self) -> u64 {
        self.renewed
    }

    #[cfg(test)]
    pub(crate) fn cookie_of(&mut self, client: &str) -> &mut Option<Cookie> {
        &mut self.clients.entry(client.to_owned()).or_default().cookie
    }

    /// How many requests were begun in vain: each may have left a session of nobody.
    pub(crate) fn in_vain(&self) -> u64 {
        self.clients.values().map(|visitor| visitor.count.begun - visitor.count.handled).sum()
    }
}
