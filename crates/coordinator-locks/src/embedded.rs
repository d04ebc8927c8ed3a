//! The adapter in process: the executable specification of the scripts.
//!
//! One mutex, one small transition per step; expiry follows the clock's monotonic time line and
//! fences its wall clock, as on a server.

mod queue;

use crate::{
    backend::{
        ALIVE, Acquired, Admitted, Awaited, Backend, Claim, Client, LOG, Line, Logged, Queued,
        Released, Renewal, Renewed, SHARDS, Seen, Standing, Surrender, Wait, Wake, Wakeups,
    },
    token::{Fence, Identity, Token},
};
use coordinator_core::{
    BoxFuture, Result,
    clock::{Clock, Instant},
    health::Finding,
    key::Name,
};
use queue::{Asks, Clients, Queue};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::ready,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};
use tokio::sync::broadcast::{self, error::RecvError};

#[derive(Debug)]
pub(crate) struct Embedded {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    locks: HashMap<Name, Held>,
    /// The last fence of each shard.
    fences: HashMap<u16, u64>,
    /// By shard too, as on a server: a token means nothing under another shard's name.
    tombstones: HashMap<(u16, String), (Mark, Instant)>,
    registers: HashMap<Name, (u64, String, Instant)>,
    queues: HashMap<Name, Queue>,
    /// By shard.
    clients: HashMap<u16, Clients>,
    /// By owner: until when it waits, and for what.
    waits: HashMap<Name, Vec<(Instant, Awaited)>>,
    log: VecDeque<(String, Logged)>,
    /// How many entries may pile up before what has expired is swept out.
    sweep_at: usize,
}

#[derive(Debug, Clone)]
struct Held {
    token: Token,
    fence: u64,
    since: Duration,
    identity: Vec<u8>,
    until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mark {
    Released,
    Absent,
    Forced,
}

impl Embedded {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default() }
    }

    /// The state as it is now: whatever has expired counts as gone.
    fn now(&self) -> (MutexGuard<'_, State>, Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        state.sweep(now);
        (state, now)
    }

    fn acquire_now(&self, claim: &Claim) -> Acquired {
        let (mut state, now) = self.now();
        if state.tombstone(&claim.name, &claim.token, now).is_some() {
            return Acquired::Refused;
        }
        let held = state.held(&claim.name, now).map(|held| {
            if held.token == claim.token {
                held.until = held.until.max(now + claim.ttl);
            }
            held.clone()
        });
        if let Some(held) = &held
            && held.token == claim.token
        {
            return Acquired::Granted { fence: held.fence };
        }
        let waited = state.queues.get(&claim.name).is_some_and(|queue| queue.len() > 0);
        let mut ticket = None;
        if held.is_some() || waited {
            ticket = self.enter(&mut state, claim, now);
        }
        if let Some(held) = held {
            let holder = Some(Identity::decode(&held.identity).holder(held.fence, held.since));
            return Acquired::Held { holder, ttl: Some(held.until.saturating_since(now)), ticket };
        }
        if waited {
            let first = state.turn(&claim.name, Asks::Token(&claim.token), now);
            if first.is_some_and(|first| first != claim.token) {
                return Acquired::Held { holder: None, ttl: None, ticket };
            }
            state.leave(&claim.name, &claim.token);
        }
        Acquired::Granted { fence: state.grant(claim, claim.min_fence, now, &*self.clock) }
    }

    /// Stands in the queue, or keeps its place, if it waits; the ticket.
    fn enter(&self, state: &mut State, claim: &Claim, now: Instant) -> Option<u64> {
        let stand = claim.stand.as_ref()?;
        let queue = state.queues.entry(claim.name.clone()).or_default();
        let ticket = queue.enter(claim, stand, self.unix_us());
        let clients = state.clients.entry(claim.name.shard(SHARDS)).or_default();
        clients.beats.insert(stand.client.clone(), now);
        Some(ticket)
    }

    fn unix_us(&self) -> u64 {
        u64::try_from(self.clock.unix_time().as_micros()).unwrap_or(Fence::MAX)
    }

    fn renew_now(&self, leases: &[Renewal]) -> Vec<Renewed> {
        let (mut state, now) = self.now();
        let mut renew = |lease: &Renewal| {
            let another = match state.held(&lease.name, now) {
                Some(held) if held.token == lease.token => {
                    held.until = held.until.max(now + lease.ttl);
                    return Renewed::Prolonged;
                }
                other => other.is_some(),
            };
            match state.tombstone(&lease.name, &lease.token, now) {
                Some(Mark::Forced) => Renewed::ForceReleased,
                Some(Mark::Released) => Renewed::Released,
                _ if another => Renewed::HeldByAnother,
                _ => Renewed::Gone,
            }
        };
        leases.iter().map(&mut renew).collect()
    }

    fn release_now(&self, lease: &Surrender) -> Released {
        let (mut state, now) = self.now();
        let key = grave(&lease.name, &lease.token);
        let until = now + lease.tombstone;
        if let Some(held) = state.held(&lease.name, now)
            && held.token == lease.token
        {
            state.locks.remove(&lease.name);
            state.tombstones.insert(key, (Mark::Released, until));
            let successor = lease
                .successor
                .as_deref()
                .filter(|next| state.tombstone(&lease.name, &next.token, now).is_none());
            let mut ticket = None;
            if let Some(next) = successor {
                if state.queues.get(&lease.name).is_none_or(|queue| queue.len() == 0) {
                    let fence = state.grant(next, lease.min_fence, now, &*self.clock);
                    let next = Some((next.token.clone(), fence));
                    return Released { was_held: true, next, ticket };
                }
                ticket = self.enter(&mut state, next, now);
            }
            let first = state.turn(&lease.name, Asks::Client(&lease.client), now);
            let next = first.and_then(|first| {
                let record = state.queues.get(&lease.name)?.record(&first)?;
                let claim = record.claim.clone();
                if record.client != lease.client {
                    return None;
                }
                state.leave(&lease.name, &first);
                let fence = state.grant(&claim, lease.min_fence, now, &*self.clock);
                Some((first, fence))
            });
            return Released { was_held: true, next, ticket };
        }
        let free = state.held(&lease.name, now).is_none();
        if state.leave(&lease.name, &lease.token) && free {
            // It may have been its turn.
            state.turn(&lease.name, Asks::Nobody, now);
        }
        let mark = state.tombstone(&lease.name, &lease.token, now);
        if mark.is_none() {
            state.tombstones.insert(key, (Mark::Absent, until));
        }
        Released { was_held: mark == Some(Mark::Released), next: None, ticket: None }
    }

    fn heartbeat_now(
        &self,
        shard: u16,
        client: &Client,
        hears: bool,
        waits: &[Wait],
    ) -> Vec<Standing> {
        let (mut state, now) = self.now();
        let beats = &mut state.clients.entry(shard).or_default().beats;
        beats.retain(|_, beat| now.saturating_since(*beat) <= ALIVE);
        beats.insert(client.clone(), now);
        let stands = |wait: &Wait| {
            let first = match state.held(&wait.name, now) {
                Some(held) => Some(held.token.clone()),
                None => state.turn(&wait.name, Asks::Token(&wait.token), now),
            };
            if first.as_ref() == Some(&wait.token) {
                return Standing::Turn;
            }
            match state.queues.get_mut(&wait.name) {
                Some(queue) if queue.record(&wait.token).is_some() => {
                    queue.set_hears(&wait.token, hears);
                    Standing::Waits
                }
                _ => Standing::Unknown,
            }
        };
        waits.iter().map(stands).collect()
    }

    fn force_release_now(&self, name: &Name, fence: u64, tombstone: Duration) -> bool {
        let (mut state, now) = self.now();
        let Some(held) = state.held(name, now).filter(|held| held.fence == fence) else {
            return false;
        };
        let key = grave(name, &held.token);
        state.locks.remove(name);
        state.tombstones.insert(key, (Mark::Forced, now + tombstone));
        state.turn(name, Asks::Nobody, now);
        true
    }

    fn admit_now(&self, resource: &Name, fence: u64, owner: &str, keep: Duration) -> Admitted {
        let (mut state, now) = self.now();
        if let Some((seen, known, until)) = state.registers.get(resource)
            && *until > now
        {
            if fence < *seen {
                return Admitted::Older { seen: *seen };
            }
            if fence == *seen && known != owner {
                return Admitted::Twin { seen: *seen };
            }
        }
        state.registers.insert(resource.clone(), (fence, owner.to_owned(), now + keep));
        Admitted::Yes
    }
}

fn grave(name: &Name, token: &Token) -> (u16, String) {
    (name.shard(SHARDS), token.expose().to_owned())
}

impl State {
    fn held(&mut self, name: &Name, now: Instant) -> Option<&mut Held> {
        self.locks.get_mut(name).filter(|held| held.until > now)
    }

    fn tombstone(&self, name: &Name, token: &Token, now: Instant) -> Option<Mark> {
        let (mark, until) = self.tombstones.get(&grave(name, token))?;
        (*until > now).then_some(*mark)
    }

    /// Whose turn it is at a name that nobody holds.
    fn turn(&mut self, name: &Name, asks: Asks<'_>, now: Instant) -> Option<Token> {
        let clients = self.clients.entry(name.shard(SHARDS)).or_default();
        let queue = self.queues.get_mut(name)?;
        let first = queue.turn(clients, asks, now);
        if queue.len() == 0 {
            self.queues.remove(name);
        }
        first
    }

    /// What an owner waits for; what has expired is gone.
    fn waits_of(&mut self, owner: &Name, now: Instant) -> &mut Vec<(Instant, Awaited)> {
        let waits = self.waits.entry(owner.clone()).or_default();
        waits.retain(|(until, _)| *until > now);
        waits
    }

    /// Steps out of a queue; whether it stood there.
    fn leave(&mut self, name: &Name, token: &Token) -> bool {
        let Some(queue) = self.queues.get_mut(name) else { return false };
        let stood = queue.leave(token).is_some();
        if queue.len() == 0 {
            self.queues.remove(name);
        }
        stood
    }

    /// Grants a lock that nobody holds; its fence.
    fn grant(&mut self, claim: &Claim, least: u64, now: Instant, clock: &dyn Clock) -> u64 {
        let since = clock.unix_time();
        let micros = u64::try_from(since.as_micros()).unwrap_or(Fence::MAX);
        let last = self.fences.entry(claim.name.shard(SHARDS)).or_default();
        let fence = (*last + 1).max(micros).max(least);
        *last = fence;
        let held = Held {
            token: claim.token.clone(),
            fence,
            since,
            identity: claim.identity.clone(),
            until: now + claim.ttl,
        };
        self.locks.insert(claim.name.clone(), held);
        fence
    }

    fn seen(&self, name: &Name, now: Instant) -> Option<Seen> {
        let held = self.locks.get(name).filter(|held| held.until > now)?;
        let waiters = self.queues.get(name).map_or(0, Queue::len);
        Some(Seen {
            name: name.clone(),
            holder: Identity::decode(&held.identity).holder(held.fence, held.since),
            ttl: held.until.saturating_since(now),
            waiters: waiters as u64,
        })
    }

    /// Sweeps when the state has doubled since the last time, so that each step pays little.
    fn sweep(&mut self, now: Instant) {
        if self.size() < self.sweep_at.max(1024) {
            return;
        }
        self.locks.retain(|_, held| held.until > now);
        self.tombstones.retain(|_, (_, until)| *until > now);
        self.registers.retain(|_, (_, _, until)| *until > now);
        self.waits.retain(|_, waits| waits.iter().any(|(until, _)| *until > now));
        self.sweep_at = 2 * self.size();
    }

    fn size(&self) -> usize {
        self.locks.len() + self.tombstones.len() + self.registers.len() + self.waits.len()
    }
}

impl Backend for Embedded {
    fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    fn step_timeout(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<Acquired>> {
        claim.sent.store(true, Ordering::Release);
        Box::pin(ready(Ok(self.acquire_now(claim))))
    }

    fn renew<'a>(
        &'a self,
        _shard: u16,
        leases: &'a [Renewal],
    ) -> BoxFuture<'a, Result<Vec<Renewed>>> {
        Box::pin(ready(Ok(self.renew_now(leases))))
    }

    fn release<'a>(&'a self, lease: &'a Surrender) -> BoxFuture<'a, Result<Released>> {
        Box::pin(ready(Ok(self.release_now(lease))))
    }

    fn force_release<'a>(
        &'a self,
        name: &'a Name,
        fence: u64,
        tombstone: Duration,
        _reason: &'a str,
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(ready(Ok(self.force_release_now(name, fence, tombstone))))
    }

    fn show<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Option<Seen>>> {
        let (state, now) = self.now();
        Box::pin(ready(Ok(state.seen(name, now))))
    }

    fn list(&self, shard: u16, offset: u64, limit: u64) -> BoxFuture<'_, Result<(u64, Vec<Seen>)>> {
        let (state, now) = self.now();
        let mut held: Vec<_> = state
            .locks
            .iter()
            .filter(|(name, held)| held.until > now && name.shard(SHARDS) == shard)
            .map(|(name, held)| (held.until, name))
            .collect();
        held.sort();
        let page = held
            .into_iter()
            .skip(usize::try_from(offset).unwrap_or(usize::MAX))
            .take(usize::try_from(limit).unwrap_or(usize::MAX));
        let page: Vec<Seen> = page.filter_map(|(_, name)| state.seen(name, now)).collect();
        Box::pin(ready(Ok((page.len() as u64, page))))
    }

    fn admit<'a>(
        &'a self,
        resource: &'a Name,
        fence: u64,
        owner: &'a str,
        retention: Duration,
    ) -> BoxFuture<'a, Result<Admitted>> {
        Box::pin(ready(Ok(self.admit_now(resource, fence, owner, retention))))
    }

    fn heartbeat<'a>(
        &'a self,
        shard: u16,
        client: &'a Client,
        hears: bool,
        waits: &'a [Wait],
    ) -> BoxFuture<'a, Result<Vec<Standing>>> {
        Box::pin(ready(Ok(self.heartbeat_now(shard, client, hears, waits))))
    }

    fn waiters<'a>(&'a self, name: &'a Name, limit: u64) -> BoxFuture<'a, Result<Vec<Queued>>> {
        let (state, now) = self.now();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let clients = state.clients.get(&name.shard(SHARDS));
        let waiters = state
            .queues
            .get(name)
            .map_or_else(Vec::new, |queue| queue.waiters(clients, now, self.unix_us(), limit));
        Box::pin(ready(Ok(waiters)))
    }

    fn wait_for<'a>(
        &'a self,
        owner: &'a Name,
        wait: &'a Awaited,
        lease: Duration,
    ) -> BoxFuture<'a, Result<()>> {
        let (mut state, now) = self.now();
        let waits = state.waits_of(owner, now);
        waits.retain(|(_, known)| known.token != wait.token);
        waits.push((now + lease, wait.clone()));
        Box::pin(ready(Ok(())))
    }

    fn wait_no_more<'a>(&'a self, owner: &'a Name, token: &'a Token) -> BoxFuture<'a, Result<()>> {
        let (mut state, now) = self.now();
        let waits = state.waits_of(owner, now);
        waits.retain(|(_, wait)| wait.token != *token);
        if waits.is_empty() {
            state.waits.remove(owner);
        }
        Box::pin(ready(Ok(())))
    }

    fn waits_of<'a>(&'a self, owner: &'a Name) -> BoxFuture<'a, Result<Vec<Awaited>>> {
        let (mut state, now) = self.now();
        let waits = state.waits_of(owner, now).iter().map(|(_, wait)| wait.clone()).collect();
        Box::pin(ready(Ok(waits)))
    }

    fn log<'a>(&'a self, lines: &'a [Line]) -> BoxFuture<'a, Result<()>> {
        let now = self.clock.unix_time();
        let log = &mut self.now().0.log;
        for Line { id, age, entry } in lines {
            let at = now.saturating_sub(*age);
            log.push_back((id.clone(), Logged { at, entry: entry.clone() }));
        }
        log.drain(..log.len().saturating_sub(LOG));
        Box::pin(ready(Ok(())))
    }

    fn read_log(&self, since: Duration, limit: u64) -> BoxFuture<'_, Result<Vec<Logged>>> {
        let from = self.clock.unix_time().saturating_sub(since);
        let (state, _) = self.now();
        let mut seen = HashSet::new();
        let read = state.log.iter().rev();
        let read = read.filter(|(id, logged)| logged.at >= from && seen.insert(id));
        let read = read.take(usize::try_from(limit).unwrap_or(usize::MAX));
        let read = read.map(|(_, logged)| logged.clone()).collect();
        Box::pin(ready(Ok(read)))
    }

    fn listen<'a>(
        &'a self,
        shard: u16,
        client: &'a Client,
    ) -> BoxFuture<'a, Result<Box<dyn Wakeups>>> {
        let (mut state, _) = self.now();
        let channels = &mut state.clients.entry(shard).or_default().channels;
        channels.retain(|_, channel| channel.receiver_count() > 0);
        let channel = channels.entry(client.clone()).or_insert_with(|| broadcast::channel(256).0);
        let wakeups: Box<dyn Wakeups> = Box::new(Channel(channel.subscribe()));
        Box::pin(ready(Ok(wakeups)))
    }

    fn audit(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(ready(Ok(Vec::new())))
    }
}

#[derive(Debug)]
struct Channel(broadcast::Receiver<Token>);

impl Wakeups for Channel {
    fn next(&mut self) -> BoxFuture<'_, Wake> {
        Box::pin(async {
            match self.0.recv().await {
                Ok(token) => Wake::Turn(token),
                // A swept channel is made anew by the next listener; look and listen again.
                Err(RecvError::Lagged(_) | RecvError::Closed) => Wake::Lost,
            }
        })
    }
}
