//! The adapter over Redis and Valkey: keys, and one static script per step.

use crate::backend::{
    Alerts, Ask, Backend, Call, Entered, Entry, Event, From, Kind, Offender, Place, Record, Return,
    SHARDS, Seen, Series, Standing, Taken, Terms,
};
use coordinator_core::{
    BoxFuture, Result,
    clock::Clock,
    key::{Name, Shard},
    redis::{Arg, Connection, Fields, Message, Script, Subscription},
};
use std::{sync::Arc, time::Duration};

/// What stands before the scripts that know limits of every kind.
macro_rules! limits {
    ($($file:literal),+) => {
        concat!(
            include_str!("redis/log.lua"),
            include_str!("redis/gcra.lua"),
            include_str!("redis/fixed.lua"),
            $(include_str!($file)),+
        )
    };
}

static TAKE: Script = Script::new(
    "ratelimit.take",
    concat!(
        include_str!("redis/log.lua"),
        include_str!("redis/denied.lua"),
        include_str!("redis/take.lua")
    ),
);
static TAKE_ALL: Script = Script::new(
    "ratelimit.take_all",
    limits!("redis/before.lua", "redis/denied.lua", "redis/approached.lua", "redis/take_all.lua"),
);
static PEEK: Script = Script::new("ratelimit.peek", limits!("redis/peek.lua"));
static REFUND: Script =
    Script::new("ratelimit.refund", limits!("redis/give_back.lua", "redis/refund.lua"));
static RESET: Script = Script::new("ratelimit.reset", limits!("redis/reset.lua"));
static EPOCH: Script = Script::new("ratelimit.epoch", include_str!("redis/epoch.lua"));
static RESET_POLICY: Script =
    Script::new("ratelimit.reset_policy", include_str!("redis/reset_policy.lua"));
static ENTER: Script = Script::new(
    "ratelimit.enter",
    concat!(include_str!("redis/denied.lua"), include_str!("redis/enter.lua")),
);
static STAY: Script = Script::new("ratelimit.stay", include_str!("redis/stay.lua"));
static LEAVE: Script = Script::new("ratelimit.leave", include_str!("redis/leave.lua"));
static VIOLATIONS: Script =
    Script::new("ratelimit.violations", include_str!("redis/violations.lua"));
static TOP: Script = Script::new("ratelimit.top", include_str!("redis/top.lua"));
static CLAIM: Script = Script::new("ratelimit.claim", include_str!("redis/claim.lua"));

/// Every script of this crate, for warming up and for tests.
#[doc(hidden)]
pub static SCRIPTS: &[&Script] = &[
    &TAKE,
    &TAKE_ALL,
    &PEEK,
    &REFUND,
    &RESET,
    &EPOCH,
    &RESET_POLICY,
    &ENTER,
    &STAY,
    &LEAVE,
    &VIOLATIONS,
    &TOP,
    &CLAIM,
];

/// For how long an epoch is remembered: longer than the state of any limit lives.
const EPOCH_TTL: Duration = Duration::from_hours(24 * 1000);

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
            shards: (0..SHARDS).map(|shard| keyspace.shard("r", shard)).collect(),
            connection: connection.clone(),
        }
    }

    fn shard(&self, shard: u16) -> &Shard {
        &self.shards[usize::from(shard)]
    }

    fn key(&self, kind: &str, place: &Place) -> String {
        self.shard(place.shard).key(kind, &place.name())
    }

    fn epoch_key(&self, series: &Series) -> String {
        self.shard(series.shard).key("epoch", &series.name())
    }

    /// The limits' states and counts of denials.
    fn states(&self, asks: &[Ask]) -> Vec<String> {
        let mut keys = Vec::with_capacity(3 * asks.len() + 1);
        for ask in asks {
            let (shard, name) = (self.shard(ask.place.shard), ask.place.name());
            keys.push(shard.key("use", &name));
            keys.push(shard.key("denials", &name));
        }
        keys
    }

    async fn fields(
        &self,
        script: &'static Script,
        keys: Vec<String>,
        args: Vec<Arg>,
    ) -> Result<Fields> {
        Ok(self.connection.run(script, keys, args).await?.fields(script.name()))
    }
}

fn number(value: u64) -> Arg {
    i64::try_from(value).unwrap_or(i64::MAX).into()
}

fn ms(duration: Duration) -> Arg {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1).into()
}

fn unasked(denials: Option<u64>) -> Arg {
    denials.map_or_else(|| Arg::from(-1), number)
}

/// A time in µs, or none where it is negative.
fn retry(fields: &mut Fields) -> Result<Option<u64>> {
    Ok(u64::try_from(fields.int()?).ok())
}

fn standing(fields: &mut Fields, with_receipt: bool) -> Result<Standing> {
    Ok(Standing {
        taken: fields.unsigned()?,
        used: fields.unsigned()?,
        retry_us: retry(fields)?,
        reset_us: fields.unsigned()?,
        receipt: if with_receipt {
            [fields.unsigned()?, fields.unsigned()?, fields.unsigned()?]
        } else {
            [0; 3]
        },
    })
}

/// A record; one that a later version wrote is told too, since whoever reads goes on behind it.
fn record(fields: &mut Fields) -> Result<Record> {
    let id = (fields.unsigned()?, fields.unsigned()?);
    Ok(known(id, fields).unwrap_or_else(|_| Record {
        id,
        event: Event::Unknown,
        name: String::new(),
        count: 0,
        limit: 0,
        used: 0,
        cost: 0,
        span_us: 0,
        first: false,
    }))
}

fn known(id: (u64, u64), fields: &mut Fields) -> Result<Record> {
    let event = match fields.text()?.as_str() {
        "denied" => Event::Denied,
        "shadow" => Event::Shadow,
        "near" => Event::Near,
        _ => Event::Unknown,
    };
    Ok(Record {
        id,
        event,
        name: fields.text()?,
        count: fields.unsigned()?,
        limit: fields.unsigned()?,
        used: fields.unsigned()?,
        cost: fields.unsigned()?,
        span_us: fields.unsigned()?,
        first: fields.unsigned()? == 1,
    })
}

impl Backend for Redis {
    fn clock(&self) -> &Arc<dyn Clock> {
        self.connection.clock()
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn take<'a>(&'a self, ask: &'a Ask) -> BoxFuture<'a, Result<Standing>> {
        Box::pin(async move {
            let args = vec![
                number(ask.terms.limit),
                number(ask.terms.span_us),
                number(ask.terms.step),
                number(ask.cost),
                unasked(ask.unasked),
            ];
            let keys = self.states(std::slice::from_ref(ask));
            let mut fields = self.fields(&TAKE, keys, args).await?;
            let taken = fields.unsigned()? == 1;
            standing(&mut fields, taken)
        })
    }

    fn take_all<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Taken>> {
        Box::pin(async move {
            let mut keys = self.states(&call.asks);
            let once = call.once();
            let remembered = once.as_ref().map_or(Arg::from(0), |(.., ttl)| ms(*ttl));
            if let Some((shard, name, _)) = &once {
                keys.push(self.shard(*shard).key("once", name));
            }
            let mut args = vec![Arg::from(call.asks.len().try_into().unwrap_or(0)), remembered];
            for ask in &call.asks {
                args.push(Arg::from(ask.terms.kind.letter()));
                args.push(number(ask.terms.limit));
                args.push(number(ask.terms.span_us));
                args.push(number(ask.terms.step));
                args.push(number(ask.cost));
                args.push(ask.how.number().into());
                args.push(number(ask.near));
                args.push(unasked(ask.unasked));
            }
            if call.check_epochs {
                for ask in &call.asks {
                    keys.push(self.epoch_key(&ask.place.series()));
                    args.push(number(ask.place.epoch));
                }
            }
            let mut fields = self.fields(&TAKE_ALL, keys, args).await?;
            let status = fields.unsigned()?;
            if status == 2 {
                let epochs = call.asks.iter().map(|_| fields.unsigned());
                return Ok(Taken::Epochs(epochs.collect::<Result<_>>()?));
            }
            let standings = call.asks.iter().map(|_| standing(&mut fields, true));
            Ok(Taken::Decided { taken: status == 1, standings: standings.collect::<Result<_>>()? })
        })
    }

    fn peek<'a>(&'a self, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Seen>>> {
        Box::pin(async move {
            let mut keys = Vec::with_capacity(2 * asks.len());
            let mut args = Vec::with_capacity(5 * asks.len());
            for ask in asks {
                keys.push(self.key(state_kind(&ask.terms), &ask.place));
                keys.push(self.key("denials", &ask.place));
                args.push(Arg::from(ask.terms.kind.letter()));
                args.push(number(ask.terms.limit));
                args.push(number(ask.terms.span_us));
                args.push(number(ask.terms.step));
                args.push(number(ask.cost));
            }
            let mut fields = self.fields(&PEEK, keys, args).await?;
            fields.unsigned()?;
            let seen = asks.iter().map(|_| {
                Ok(Seen {
                    denials: fields.unsigned()?,
                    used: fields.unsigned()?,
                    retry_us: retry(&mut fields)?,
                    reset_us: fields.unsigned()?,
                })
            });
            seen.collect()
        })
    }

    fn refund<'a>(&'a self, back: &'a Return) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let shard = self.shard(back.place.shard);
            let mut keys = vec![self.key("use", &back.place), shard.key("back", &back.mark())];
            keys.extend(back.once.as_ref().map(|once| shard.key("once", once)));
            let mut args = vec![
                Arg::from(back.terms.kind.letter()),
                number(back.terms.span_us),
                number(back.terms.step),
                number(back.amount),
            ];
            args.extend(back.receipt.iter().map(|part| number(*part)));
            self.fields(&REFUND, keys, args).await?.unsigned()
        })
    }

    fn reset<'a>(&'a self, place: &'a Place, terms: &'a Terms) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let keys =
                vec![self.key("use", place), self.key("denials", place), self.key("near", place)];
            let letter = Arg::from(terms.kind.letter());
            let args = vec![letter, number(terms.span_us), number(terms.step)];
            self.fields(&RESET, keys, args).await?.unsigned()
        })
    }

    fn epoch<'a>(&'a self, series: &'a Series) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let keys = vec![self.epoch_key(series)];
            self.fields(&EPOCH, keys, Vec::new()).await?.unsigned()
        })
    }

    fn reset_policy<'a>(&'a self, series: &'a Series) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let keys = vec![self.epoch_key(series)];
            self.fields(&RESET_POLICY, keys, vec![ms(EPOCH_TTL)]).await?.unsigned()
        })
    }

    fn enter<'a>(&'a self, entry: &'a Entry) -> BoxFuture<'a, Result<Entered>> {
        Box::pin(async move {
            let keys = vec![self.key("slots", &entry.place), self.key("denials", &entry.place)];
            let args = vec![
                Arg::from(entry.token.encoded()),
                number(entry.terms.limit),
                number(entry.terms.span_us),
                unasked(entry.unasked),
            ];
            let mut fields = self.fields(&ENTER, keys, args).await?;
            let (taken, used) = (fields.unsigned()?, fields.unsigned()?);
            if taken == 1 {
                return Ok(Entered::Slot { used });
            }
            Ok(Entered::Full { used, retry_us: retry(&mut fields)? })
        })
    }

    fn stay<'a>(
        &'a self,
        place: &'a Place,
        terms: &'a Terms,
        token: &'a Name,
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let keys = vec![self.key("slots", place)];
            let args = vec![Arg::from(token.encoded()), number(terms.span_us)];
            Ok(self.fields(&STAY, keys, args).await?.unsigned()? == 1)
        })
    }

    fn leave<'a>(&'a self, place: &'a Place, token: &'a Name) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let keys = vec![self.key("slots", place)];
            let args = vec![Arg::from(token.encoded())];
            Ok(self.fields(&LEAVE, keys, args).await?.unsigned()? == 1)
        })
    }

    fn violations(
        &self,
        shard: u16,
        from: From,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>>> {
        Box::pin(async move {
            let keys = vec![self.shard(shard).key("violations", "")];
            let (after, ago) = match from {
                From::After((ms, sequence)) => (format!("{ms}-{sequence}"), Arg::from(0)),
                From::Newest => ("$".to_owned(), Arg::from(0)),
                From::Ago(ago) => (String::new(), ms(ago)),
            };
            let limit = number(limit.try_into().unwrap_or(u64::MAX));
            let args = vec![Arg::from(after), ago, limit];
            let mut fields = self.fields(&VIOLATIONS, keys, args).await?;
            let count = fields.unsigned()?;
            (0..count).map(|_| record(&mut fields.array()?)).collect()
        })
    }

    fn top(&self, shard: u16, limit: usize) -> BoxFuture<'_, Result<Vec<Offender>>> {
        Box::pin(async move {
            let shard = self.shard(shard);
            let keys = vec![shard.key("top", ""), shard.key("latest", "")];
            let args = vec![number(limit.try_into().unwrap_or(u64::MAX))];
            let mut fields = self.fields(&TOP, keys, args).await?;
            let offenders = (0..fields.unsigned()?).map(|_| {
                let mut fields = fields.array()?;
                let (denials, last_ms) = (fields.unsigned()?, fields.unsigned()?);
                Ok(Offender { name: fields.text()?, denials, last_ms })
            });
            offenders.collect()
        })
    }

    fn claim<'a>(
        &'a self,
        shard: u16,
        claim: &'a Name,
        claimant: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let keys = vec![self.shard(shard).key("claim", claim.encoded())];
            let args = vec![Arg::from(claimant), ms(ttl)];
            Ok(self.fields(&CLAIM, keys, args).await?.unsigned()? == 1)
        })
    }

    fn listen(&self, shard: u16) -> BoxFuture<'_, Result<Box<dyn Alerts>>> {
        Box::pin(async move {
            let channel = self.shard(shard).key("alerts", "");
            let alerts: Box<dyn Alerts> =
                Box::new(Channel(self.connection.subscribe(&channel).await?));
            Ok(alerts)
        })
    }
}

/// Where the state of a limit is.
fn state_kind(terms: &Terms) -> &'static str {
    match terms.kind {
        Kind::Slots => "slots",
        _ => "use",
    }
}

#[derive(Debug)]
struct Channel(Subscription);

impl Alerts for Channel {
    fn next(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            // What was lost may have been a record.
            drop::<Message>(self.0.next().await);
        })
    }
}
