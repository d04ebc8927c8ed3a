//! The queue of one name in process, as `redis/queue.lua` says it: who waits, and whose turn it is.

use crate::{
    backend::{ALIVE, CLAIM, Claim, Client, HEAD_START, Queued, SILENT, Stand},
    token::Token,
};
use coordinator_core::clock::Instant;
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};
use tokio::sync::broadcast;

/// When each client of a shard was last heard of, and its channel.
#[derive(Debug, Default)]
pub(super) struct Clients {
    pub(super) beats: HashMap<Client, Instant>,
    pub(super) channels: HashMap<Client, broadcast::Sender<Token>>,
}

impl Clients {
    /// Tells a client that it is a token's turn; whether anybody listens.
    fn tell(&self, client: &Client, token: &Token) -> bool {
        self.channels.get(client).is_some_and(|channel| channel.send(token.clone()).is_ok())
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// By ticket, less the head start.
    order: BTreeMap<(u64, String), Record>,
    places: HashMap<String, u64>,
    turn: Option<(Instant, Token)>,
    last: u64,
}

/// What is known of a waiter.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) claim: Claim,
    pub(super) client: Client,
    ticket: u64,
    priority: u8,
    hears: bool,
}

/// Who asks, and so needs not be told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asks<'a> {
    Token(&'a Token),
    Client(&'a Client),
    Nobody,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn record(&self, token: &Token) -> Option<&Record> {
        let place = self.places.get(token.expose())?;
        self.order.get(&(*place, token.expose().to_owned()))
    }

    /// Stands in the queue, or keeps its place; the ticket.
    pub(super) fn enter(&mut self, claim: &Claim, stand: &Stand, unix_us: u64) -> u64 {
        if let Some(ticket) = self.record(&claim.token).map(|record| record.ticket) {
            self.set_hears(&claim.token, stand.hears);
            return ticket;
        }
        let ticket = stand.ticket.unwrap_or_else(|| unix_us.max(self.last + 1));
        self.last = self.last.max(ticket);
        let start = HEAD_START * u32::from(stand.priority);
        let place = ticket.saturating_sub(u64::try_from(start.as_micros()).unwrap_or(u64::MAX));
        let record = Record {
            claim: claim.clone(),
            client: stand.client.clone(),
            ticket,
            priority: stand.priority,
            hears: stand.hears,
        };
        self.places.insert(claim.token.expose().to_owned(), place);
        self.order.insert((place, claim.token.expose().to_owned()), record);
        ticket
    }

    /// Steps out; what was known of it.
    pub(super) fn leave(&mut self, token: &Token) -> Option<Record> {
        let place = self.places.remove(token.expose())?;
        self.order.remove(&(place, token.expose().to_owned()))
    }

    pub(super) fn set_hears(&mut self, token: &Token, hears: bool) {
        if let Some(place) = self.places.get(token.expose())
            && let Some(record) = self.order.get_mut(&(*place, token.expose().to_owned()))
        {
            record.hears = hears;
        }
    }

    /// Whose turn it is, and makes it so; `None` where nobody who lives waits.
    pub(super) fn turn(
        &mut self,
        clients: &mut Clients,
        asks: Asks<'_>,
        now: Instant,
    ) -> Option<Token> {
        let mut late = None;
        if let Some((since, token)) = self.turn.take()
            && self.places.contains_key(token.expose())
        {
            if now.saturating_since(since) < CLAIM {
                self.turn = Some((since, token.clone()));
                return Some(token);
            }
            // It did not come. Whoever has not been heard of since it was told is dead.
            clients.beats.retain(|_, beat| *beat >= since);
            late = Some(token);
        }
        let mut passed = None;
        let mut chosen = None;
        for record in self.order.values().cloned().collect::<Vec<_>>() {
            let token = &record.claim.token;
            let asked = match asks {
                Asks::Token(me) => me == token,
                Asks::Client(here) => *here == record.client,
                Asks::Nobody => false,
            };
            let silence = clients.beats.get(&record.client).map(|beat| now.saturating_since(*beat));
            let told = || !record.hears || clients.tell(&record.client, token);
            if asked || (alive(silence, ALIVE) && late.as_ref() != Some(token) && told()) {
                chosen = Some(token.clone());
                break;
            }
            if alive(silence, SILENT) {
                // It keeps its place; if nobody else lives it is given the turn all the same.
                passed.get_or_insert(record);
            } else {
                self.leave(token);
            }
        }
        if let (None, Some(record)) = (&chosen, passed) {
            clients.tell(&record.client, &record.claim.token);
            chosen = Some(record.claim.token);
        }
        self.turn = chosen.clone().map(|token| (now, token));
        chosen
    }

    /// Who stands here, the next first, without those whose client is gone.
    pub(super) fn waiters(
        &self,
        clients: Option<&Clients>,
        now: Instant,
        unix_us: u64,
        limit: usize,
    ) -> Vec<Queued> {
        let lives = |record: &&Record| {
            let beat = clients.and_then(|clients| clients.beats.get(&record.client));
            alive(beat.map(|beat| now.saturating_since(*beat)), ALIVE)
        };
        let queued = |record: &Record| Queued {
            waited: Duration::from_micros(unix_us.saturating_sub(record.ticket)),
            priority: record.priority,
            identity: record.claim.identity.clone(),
        };
        self.order.values().take(limit).filter(lives).map(queued).collect()
    }
}

fn alive(silence: Option<Duration>, limit: Duration) -> bool {
    silence.is_some_and(|silence| silence <= limit)
}
