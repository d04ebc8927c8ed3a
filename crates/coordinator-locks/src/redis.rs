//! The adapter over Redis and Valkey: keys, and one static script per step.

use crate::{
    backend::{
        Acquired, Admitted, Backend, Claim, Released, Renewal, Renewed, SHARDS, Seen, Surrender,
        Wake, Wakeups, fence_ttl,
    },
    token::{Fence, Holder, Identity},
};
use coordinator_core::{
    BoxFuture, Error, Result,
    clock::Clock,
    health::Finding,
    key::{Name, Shard},
    redis::{Arg, Connection, Fields, Message, Script, Subscription},
};
use std::{sync::Arc, time::Duration};

static ACQUIRE: Script = Script::new("locks.acquire", include_str!("redis/acquire.lua"));
static RENEW: Script = Script::new("locks.renew", include_str!("redis/renew.lua"));
static RELEASE: Script = Script::new("locks.release", include_str!("redis/release.lua"));
static FORCE_RELEASE: Script =
    Script::new("locks.force_release", include_str!("redis/force_release.lua"));
static SHOW: Script = Script::new("locks.show", include_str!("redis/show.lua"));
static LIST: Script = Script::new("locks.list", include_str!("redis/list.lua"));
static ADMIT: Script = Script::new("locks.admit", include_str!("redis/admit.lua"));

/// Every script of this crate, for warming up and for tests.
#[doc(hidden)]
pub static SCRIPTS: &[&Script] =
    &[&ACQUIRE, &RENEW, &RELEASE, &FORCE_RELEASE, &SHOW, &LIST, &ADMIT];

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

fn fence(shard: &Shard, name: &Name) -> String {
    shard.key("fence", name.encoded())
}

fn tombstone(shard: &Shard, token: &crate::Token) -> String {
    shard.key("gone", token.expose())
}

fn channel(shard: &Shard, name: &Name) -> String {
    shard.key("wake", name.encoded())
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
                fence(shard, &claim.name),
                tombstone(shard, &claim.token),
                index(shard),
            ];
            let args = vec![
                claim.token.expose().into(),
                ms(claim.ttl),
                number(claim.min_fence),
                ms(fence_ttl(claim.ttl)),
                claim.name.encoded().into(),
                Arg::from_bytes(&claim.identity),
            ];
            let reply = self.connection.run_telling(&ACQUIRE, keys, args, &claim.sent).await?;
            let mut fields = reply.fields(ACQUIRE.name());
            Ok(match fields.int()? {
                1 => Acquired::Granted { fence: valid_fence(ACQUIRE.name(), fields.unsigned()?)? },
                2 => Acquired::Refused,
                _ => {
                    let ttl = ttl(&mut fields)?;
                    let (fence, since) = (fields.unsigned()?, fields.unsigned()?);
                    let since = Duration::from_micros(since);
                    let holder: Holder = Identity::decode(&fields.bytes()?).holder(fence, since);
                    Acquired::Held { holder, ttl }
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
            let mut keys = Vec::with_capacity(1 + 3 * leases.len());
            let mut args = Vec::with_capacity(1 + 3 * leases.len());
            keys.push(index(shard));
            let longest = leases.iter().map(|lease| lease.ttl).max().unwrap_or_default();
            args.push(ms(fence_ttl(longest)));
            for lease in leases {
                keys.push(lock(shard, &lease.name));
                keys.push(fence(shard, &lease.name));
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
            let keys = vec![lock(shard, &lease.name), tombstone(shard, &lease.token), index(shard)];
            let args = vec![
                lease.token.expose().into(),
                ms(lease.tombstone),
                lease.name.encoded().into(),
                channel(shard, &lease.name).into(),
            ];
            let reply = self.connection.run(&RELEASE, keys, args).await?;
            let mut fields = reply.fields(RELEASE.name());
            Ok(Released { was_held: fields.int()? == 1, woken: fields.unsigned()? })
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
            let keys = vec![lock(shard, name), index(shard)];
            let args = vec![
                ms(tombstone),
                name.encoded().into(),
                channel(shard, name).into(),
                reason.into(),
                number(fence),
            ];
            let reply = self.connection.run(&FORCE_RELEASE, keys, args).await?;
            Ok(reply.fields(FORCE_RELEASE.name()).int()? == 1)
        })
    }

    fn show<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Option<Seen>>> {
        Box::pin(async move {
            let shard = self.shard(name);
            let (keys, args) = (vec![lock(shard, name)], vec![channel(shard, name).into()]);
            let mut fields = self.connection.run(&SHOW, keys, args).await?.fields(SHOW.name());
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

    fn listen<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Box<dyn Wakeups>>> {
        Box::pin(async move {
            let channel = channel(self.shard(name), name);
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
                Message::Payload(fence) => std::str::from_utf8(&fence)
                    .ok()
                    .and_then(|fence| fence.parse().ok())
                    .map_or(Wake::Lost, Wake::Released),
                _ => Wake::Lost,
            }
        })
    }
}
