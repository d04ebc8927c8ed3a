//! The adapter over Redis and Valkey: keys, and one static script per step.

use crate::{
    backend::{
        Acquired, Admitted, Awaited, Backend, Claim, Client, HEAD_START, LOG, Line, Logged, Queued,
        Released, Renewal, Renewed, SHARDS, Seen, Stand, Standing, Surrender, Wait, Wake, Wakeups,
    },
    token::{Fence, Identity, Token},
};
use coordinator_core::{
    BoxFuture, Error, Result,
    clock::Clock,
    health::Finding,
    key::{Name, Shard},
    redis::{Arg, Connection, Fields, Message, Script, Subscription},
};
use std::{sync::Arc, time::Duration};

/// A script that the queue's own code stands before.
macro_rules! queueing {
    ($file:literal) => {
        concat!(include_str!("redis/queue.lua"), include_str!($file))
    };
}

static ACQUIRE: Script = Script::new("locks.acquire", queueing!("redis/acquire.lua"));
static RENEW: Script = Script::new("locks.renew", include_str!("redis/renew.lua"));
static RELEASE: Script = Script::new("locks.release", queueing!("redis/release.lua"));
static FORCE_RELEASE: Script =
    Script::new("locks.force_release", queueing!("redis/force_release.lua"));
static HEARTBEAT: Script = Script::new("locks.heartbeat", queueing!("redis/heartbeat.lua"));
static WAITERS: Script = Script::new("locks.waiters", queueing!("redis/waiters.lua"));
static SHOW: Script = Script::new("locks.show", include_str!("redis/show.lua"));
static LIST: Script = Script::new("locks.list", include_str!("redis/list.lua"));
static ADMIT: Script = Script::new("locks.admit", include_str!("redis/admit.lua"));

static WAIT_FOR: Script = Script::new("locks.wait_for", include_str!("redis/wait_for.lua"));
static WAIT_NO_MORE: Script =
    Script::new("locks.wait_no_more", include_str!("redis/wait_no_more.lua"));
static WAITS_OF: Script = Script::new("locks.waits_of", include_str!("redis/waits_of.lua"));
static APPEND: Script = Script::new("locks.log", include_str!("redis/log.lua"));
static READ_LOG: Script = Script::new("locks.read_log", include_str!("redis/read_log.lua"));

/// For how long the log is kept after its newest entry.
const LOG_TTL: Duration = Duration::from_hours(168);

/// Every script of this crate, for warming up and for tests.
#[doc(hidden)]
pub static SCRIPTS: &[&Script] = &[
    &ACQUIRE,
    &RENEW,
    &RELEASE,
    &FORCE_RELEASE,
    &HEARTBEAT,
    &WAITERS,
    &WAIT_FOR,
    &WAIT_NO_MORE,
    &WAITS_OF,
    &APPEND,
    &READ_LOG,
    &SHOW,
    &LIST,
    &ADMIT,
];

#[derive(Debug)]
pub(crate) struct Redis {
    connection: Connection,
    /// The shards' key bases, built once.
    shards: Vec<Shard>,
}

impl Redis {
    pub(crate) fn new(connection: &Connection) -> Self {
        let keyspace = connection.keyspace();
        Self {
            shards: (0..SHARDS).map(|shard| keyspace.shard("l", shard)).collect(),
            connection: connection.clone(),
        }
    }

    fn shard(&self, name: &Name) -> &Shard {
        &self.shards[usize::from(name.shard(SHARDS))]
    }
}

fn lock(shard: &Shard, name: &Name) -> String {
    shard.key("lock", name.encoded())
}

fn index(shard: &Shard) -> String {
    shard.key("held", "")
}

fn tombstone(shard: &Shard, token: &crate::Token) -> String {
    shard.key("gone", token.expose())
}

fn queue(shard: &Shard, name: &Name) -> String {
    shard.key("queue", name.encoded())
}

fn stand(shard: &Shard, name: &Name) -> String {
    shard.key("stand", name.encoded())
}

fn beats(shard: &Shard) -> String {
    shard.key("beats", "")
}

/// The registry of who waits is spread by the owners' names.
fn waits(shard: &Shard, owner: &Name) -> String {
    shard.key("waits", owner.encoded())
}

/// The log of operations, which is one for all shards.
fn log(shard: &Shard) -> String {
    shard.key("log", "")
}

fn channel(shard: &Shard, client: &Client) -> String {
    shard.key("wake", &client.0)
}

/// Whole milliseconds, at least one; a year is far below what a script counts exactly.
fn ms(duration: Duration) -> Arg {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1).into()
}

fn number(value: u64) -> Arg {
    i64::try_from(value).unwrap_or(i64::MAX).into()
}

/// A time to live as PTTL tells it: negative where there is none.
fn ttl(fields: &mut Fields) -> Result<Option<Duration>> {
    Ok(u64::try_from(fields.int()?).ok().map(Duration::from_millis))
}

/// How a claim stands in the queue, as `acquire.lua` reads it.
fn place(stand: &Stand) -> String {
    let start = HEAD_START * u32::from(stand.priority);
    let (client, flags, ticket) = (&stand.client.0, flags(stand), stand.ticket.unwrap_or(0));
    format!("{client}{flags}{ticket:016}{:016}", start.as_micros())
}

/// A claim that a release brings along, as `release.lua` reads it.
fn brought(claim: &Claim) -> Arg {
    let Some(stand) = &claim.stand else { return Arg::from("") };
    let ttl = claim.ttl.as_millis().max(1);
    let mut bytes = format!("{}{}{ttl:016}", claim.token.expose(), flags(stand)).into_bytes();
    bytes.extend_from_slice(&claim.identity);
    Arg::from_bytes(&bytes)
}

/// Whether a client hears, and the priority of its waiter.
fn flags(stand: &Stand) -> String {
    format!("{}{:03}", u8::from(stand.hears), stand.priority)
}

/// A place in the queue, if it is one.
fn ticket(fields: &mut Fields) -> Result<Option<u64>> {
    Ok(Some(fields.unsigned()?).filter(|ticket| *ticket > 0))
}

fn token(step: &'static str, text: &str) -> Result<Token> {
    Token::parse(text).map_err(|_| Error::corrupt(step, "a token in the queue is damaged"))
}

fn valid_fence(step: &'static str, fence: u64) -> Result<u64> {
    if fence > Fence::MAX {
        return Err(Error::corrupt(step, "a fence is beyond 2^53: the stored one is damaged"));
    }
    Ok(fence)
}

fn seen(name: Name, fields: &mut Fields) -> Result<Seen> {
    let ttl = ttl(fields)?.unwrap_or_default();
    let (fence, since) = (fields.unsigned()?, Duration::from_micros(fields.unsigned()?));
    let waiters = fields.unsigned()?;
    let holder = Identity::decode(&fields.bytes()?).holder(fence, since);
    Ok(Seen { name, holder, ttl, waiters })
}

impl Backend for Redis {
    fn clock(&self) -> &Arc<dyn Clock> {
        self.connection.clock()
    }

    fn step_timeout(&self) -> Duration {
        self.connection.config().command_timeout()
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<Acquired>> {
        Box::pin(async move {
            let shard = self.shard(&claim.name);
            let keys = vec![
                lock(shard, &claim.name),
                shard.key("fence", ""),
                tombstone(shard, &claim.token),
                index(shard),
                queue(shard, &claim.name),
            ];
            let mut args = vec![
                claim.token.expose().into(),
                ms(claim.ttl),
                number(claim.min_fence),
                claim.name.encoded().into(),
                Arg::from_bytes(&claim.identity),
            ];
            args.push(claim.stand.as_ref().map_or_else(String::new, place).into());
            let reply = self.connection.run_telling(&ACQUIRE, keys, args, &claim.sent).await?;
            let mut fields = reply.fields(ACQUIRE.name());
            Ok(match fields.int()? {
                1 => Acquired::Granted { fence: valid_fence(ACQUIRE.name(), fields.unsigned()?)? },
                2 => Acquired::Refused,
                3 => Acquired::Held { holder: None, ttl: None, ticket: ticket(&mut fields)? },
                _ => {
                    let (ticket, ttl) = (ticket(&mut fields)?, ttl(&mut fields)?);
                    let (fence, since) = (fields.unsigned()?, fields.unsigned()?);
                    let since = Duration::from_micros(since);
                    let holder = Identity::decode(&fields.bytes()?).holder(fence, since);
                    Acquired::Held { holder: Some(holder), ttl, ticket }
                }
            })
        })
    }

    fn renew<'a>(
        &'a self,
        shard: u16,
        leases: &'a [Renewal],
    ) -> BoxFuture<'a, Result<Vec<Renewed>>> {
        Box::pin(async move {
            let shard = &self.shards[usize::from(shard)];
            let mut keys = Vec::with_capacity(1 + 2 * leases.len());
            let mut args = Vec::with_capacity(3 * leases.len());
            keys.push(index(shard));
            for lease in leases {
                keys.push(lock(shard, &lease.name));
                keys.push(tombstone(shard, &lease.token));
                args.push(lease.token.expose().into());
                args.push(ms(lease.ttl));
                args.push(lease.name.encoded().into());
            }
            let reply = self.connection.run(&RENEW, keys, args).await?;
            let mut fields = reply.fields(RENEW.name());
            if fields.unsigned()? != leases.len() as u64 {
                return Err(Error::corrupt(RENEW.name(), "another number of leases was answered"));
            }
            leases
                .iter()
                .map(|_| {
                    Ok(match fields.int()? {
                        1 => Renewed::Prolonged,
                        2 => Renewed::HeldByAnother,
                        3 => Renewed::ForceReleased,
                        4 => Renewed::Released,
                        _ => Renewed::Gone,
                    })
                })
                .collect()
        })
    }

    fn release<'a>(&'a self, lease: &'a Surrender) -> BoxFuture<'a, Result<Released>> {
        Box::pin(async move {
            let shard = self.shard(&lease.name);
            let keys = vec![
                lock(shard, &lease.name),
                tombstone(shard, &lease.token),
                index(shard),
                queue(shard, &lease.name),
            ];
            let mut args = vec![
                lease.token.expose().into(),
                ms(lease.tombstone),
                lease.name.encoded().into(),
                (&*lease.client.0).into(),
                number(lease.min_fence),
            ];
            args.push(lease.successor.as_deref().map_or_else(|| Arg::from(""), brought));
            let reply = self.connection.run(&RELEASE, keys, args).await?;
            let mut fields = reply.fields(RELEASE.name());
            let was_held = fields.int()? == 1;
            let fence = fields.unsigned()?;
            let ticket = ticket(&mut fields)?;
            let next = match fence {
                0 => None,
                fence => {
                    let fence = valid_fence(RELEASE.name(), fence)?;
                    Some((token(RELEASE.name(), &fields.text()?)?, fence))
                }
            };
            Ok(Released { was_held, next, ticket })
        })
    }

    fn force_release<'a>(
        &'a self,
        name: &'a Name,
        fence: u64,
        tombstone: Duration,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let shard = self.shard(name);
            let keys = vec![
                lock(shard, name),
                index(shard),
                queue(shard, name),
                stand(shard, name),
                beats(shard),
            ];
            let args = vec![ms(tombstone), name.encoded().into(), reason.into(), number(fence)];
            let reply = self.connection.run(&FORCE_RELEASE, keys, args).await?;
            Ok(reply.fields(FORCE_RELEASE.name()).int()? == 1)
        })
    }

    fn show<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Option<Seen>>> {
        Box::pin(async move {
            let shard = self.shard(name);
            let keys = vec![lock(shard, name), queue(shard, name)];
            let mut fields =
                self.connection.run(&SHOW, keys, Vec::new()).await?.fields(SHOW.name());
            match fields.int()? {
                1 => Ok(Some(seen(name.clone(), &mut fields)?)),
                _ => Ok(None),
            }
        })
    }

    fn list(&self, shard: u16, offset: u64, limit: u64) -> BoxFuture<'_, Result<(u64, Vec<Seen>)>> {
        Box::pin(async move {
            let keys = vec![index(&self.shards[usize::from(shard)])];
            let args = vec![number(offset), number(limit)];
            let mut fields = self.connection.run(&LIST, keys, args).await?.fields(LIST.name());
            let looked_at = fields.unsigned()?;
            let mut held = Vec::new();
            while !fields.is_empty() {
                let mut fields = fields.array()?;
                let name = Name::decode(&fields.text()?)?;
                held.push(seen(name, &mut fields)?);
            }
            Ok((looked_at, held))
        })
    }

    fn admit<'a>(
        &'a self,
        resource: &'a Name,
        fence: u64,
        owner: &'a str,
        retention: Duration,
    ) -> BoxFuture<'a, Result<Admitted>> {
        Box::pin(async move {
            let keys = vec![self.shard(resource).key("seen", resource.encoded())];
            let args = vec![number(fence), owner.into(), ms(retention)];
            let mut fields = self.connection.run(&ADMIT, keys, args).await?.fields(ADMIT.name());
            Ok(match fields.int()? {
                1 => Admitted::Yes,
                2 => Admitted::Twin { seen: fields.unsigned()? },
                _ => Admitted::Older { seen: fields.unsigned()? },
            })
        })
    }

    fn heartbeat<'a>(
        &'a self,
        shard: u16,
        client: &'a Client,
        hears: bool,
        waits: &'a [Wait],
    ) -> BoxFuture<'a, Result<Vec<Standing>>> {
        Box::pin(async move {
            let shard = &self.shards[usize::from(shard)];
            let mut keys = vec![beats(shard)];
            let mut args = vec![(&*client.0).into(), i64::from(hears).into()];
            for wait in waits {
                keys.push(lock(shard, &wait.name));
                keys.push(queue(shard, &wait.name));
                keys.push(stand(shard, &wait.name));
                args.push(wait.token.expose().into());
            }
            let reply = self.connection.run(&HEARTBEAT, keys, args).await?;
            let mut fields = reply.fields(HEARTBEAT.name());
            if fields.unsigned()? != waits.len() as u64 {
                let why = "another number of waiters was answered";
                return Err(Error::corrupt(HEARTBEAT.name(), why));
            }
            waits
                .iter()
                .map(|_| {
                    Ok(match fields.int()? {
                        1 => Standing::Waits,
                        2 => Standing::Turn,
                        _ => Standing::Unknown,
                    })
                })
                .collect()
        })
    }

    fn waiters<'a>(&'a self, name: &'a Name, limit: u64) -> BoxFuture<'a, Result<Vec<Queued>>> {
        Box::pin(async move {
            let shard = self.shard(name);
            let keys = vec![queue(shard, name), stand(shard, name), beats(shard)];
            let reply = self.connection.run(&WAITERS, keys, vec![number(limit)]).await?;
            let mut fields = reply.fields(WAITERS.name());
            let count = fields.unsigned()?;
            (0..count)
                .map(|_| {
                    let mut fields = fields.array()?;
                    let waited = Duration::from_micros(fields.unsigned()?);
                    let priority = u8::try_from(fields.unsigned()?).unwrap_or(u8::MAX);
                    Ok(Queued { waited, priority, identity: fields.bytes()?.to_vec() })
                })
                .collect()
        })
    }

    fn wait_for<'a>(
        &'a self,
        owner: &'a Name,
        wait: &'a Awaited,
        lease: Duration,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let keys = vec![waits(self.shard(owner), owner)];
            let (token, member) = (wait.token.expose().into(), wait.name.encoded().into());
            let args = vec![token, ms(lease), number(wait.since_us), member];
            self.connection.run(&WAIT_FOR, keys, args).await?;
            Ok(())
        })
    }

    fn wait_no_more<'a>(&'a self, owner: &'a Name, token: &'a Token) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let keys = vec![waits(self.shard(owner), owner)];
            self.connection.run(&WAIT_NO_MORE, keys, vec![token.expose().into()]).await?;
            Ok(())
        })
    }

    fn waits_of<'a>(&'a self, owner: &'a Name) -> BoxFuture<'a, Result<Vec<Awaited>>> {
        Box::pin(async move {
            let keys = vec![waits(self.shard(owner), owner)];
            let reply = self.connection.run(&WAITS_OF, keys, Vec::new()).await?;
            let mut fields = reply.fields(WAITS_OF.name());
            let count = fields.unsigned()?;
            (0..count)
                .map(|_| {
                    let mut fields = fields.array()?;
                    let token = token(WAITS_OF.name(), &fields.text()?)?;
                    let since_us = fields.unsigned()?;
                    Ok(Awaited { token, name: Name::decode(&fields.text()?)?, since_us })
                })
                .collect()
        })
    }

    fn log<'a>(&'a self, lines: &'a [Line]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut args = vec![ms(LOG_TTL), number(LOG as u64)];
            for line in lines {
                args.push((&*line.id).into());
                args.push(i64::try_from(line.age.as_micros()).unwrap_or(i64::MAX).into());
                args.push(Arg::from_bytes(&line.entry));
            }
            self.connection.run(&APPEND, vec![log(&self.shards[0])], args).await?;
            Ok(())
        })
    }

    fn read_log(&self, since: Duration, limit: u64) -> BoxFuture<'_, Result<Vec<Logged>>> {
        Box::pin(async move {
            let since = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
            let args = vec![since.into(), number(limit)];
            let keys = vec![log(&self.shards[0])];
            let reply = self.connection.run(&READ_LOG, keys, args).await?;
            let mut fields = reply.fields(READ_LOG.name());
            let count = fields.unsigned()?;
            (0..count)
                .map(|_| {
                    let mut fields = fields.array()?;
                    let at = Duration::from_micros(fields.unsigned()?);
                    Ok(Logged { at, entry: fields.bytes()?.to_vec() })
                })
                .collect()
        })
    }

    fn listen<'a>(
        &'a self,
        shard: u16,
        client: &'a Client,
    ) -> BoxFuture<'a, Result<Box<dyn Wakeups>>> {
        Box::pin(async move {
            let channel = channel(&self.shards[usize::from(shard)], client);
            let wakeups: Box<dyn Wakeups> =
                Box::new(Channel(self.connection.subscribe(&channel).await?));
            Ok(wakeups)
        })
    }

    fn audit(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(async move { Ok(self.connection.health().await.findings) })
    }
}

#[derive(Debug)]
struct Channel(Subscription);

impl Wakeups for Channel {
    fn next(&mut self) -> BoxFuture<'_, Wake> {
        Box::pin(async {
            match self.0.next().await {
                Message::Payload(token) => std::str::from_utf8(&token)
                    .ok()
                    .and_then(|token| Token::parse(token).ok())
                    .map_or(Wake::Lost, Wake::Turn),
                _ => Wake::Lost,
            }
        })
    }
}
