//! How many bytes are stored for what is JSON elsewhere.

use super::{
    stores::{CACHED, OURS, Peer, TIER},
    values::Crew,
};
use crate::{
    Plan,
    figures::Rounds,
    report::{Bound, Report, Table},
};
use anyhow::{Context as _, Result};
use coordinator_cache::{CacheBuilder, Caches, Compression};
use coordinator_core::{Config, redis::Connection};
use coordinator_harness::{RedisServer, Resp};

pub(crate) const TITLE: &str = "Bytes stored for a value";

/// In bytes of JSON, and how many values.
const SIZES: [(usize, u64); 3] = [(200, 500), (2048, 200), (65_536, 20)];
const SMALL: &str = "200 B, JSON over stored";

type Variant = (&'static str, fn(CacheBuilder<Crew>) -> CacheBuilder<Crew>);

const VARIANTS: [Variant; 3] = [
    ("ours, JSON", CacheBuilder::with_json),
    ("ours, zstd from 64 B on", |cache| {
        cache.with_compression(Compression::zstd().with_threshold(64))
    }),
    ("ours, not compressed", |cache| cache.with_compression(Compression::none())),
];

pub(crate) async fn run(plan: &Plan, server: &RedisServer, report: &mut Report) -> Result<()> {
    eprintln!("{TITLE}");
    let mut rows: Vec<(&'static str, Vec<Rounds>)> = vec![("JSON", Vec::new())];
    let caches = Caches::redis(&Connection::connect(Config::from_url(&plan.url)?).await?);
    let names = VARIANTS.map(|(name, _)| name).into_iter();
    rows.extend([OURS.name].into_iter().chain(names).map(|name| (name, Vec::new())));
    rows.extend([CACHED.name, TIER.name].map(|name| (name, Vec::new())));
    for (bytes, count) in SIZES {
        let crews = (0..count).map(|id| Crew::json(id, bytes)).collect::<Result<Vec<_>>>()?;
        let mut json = 0.0;
        for crew in &crews {
            json += f64::from(u32::try_from(serde_json::to_vec(crew)?.len())?);
        }
        let json = json / f64::from(u32::try_from(count)?);
        let mut stored = vec![json, of_peer(plan, server, OURS, &crews).await?];
        for (_, with) in VARIANTS {
            server.command(&["FLUSHALL"]).await?.ok()?;
            let cache = with(caches.cache("crews")).build()?;
            for crew in &crews {
                cache.set(&crew.id.to_string(), crew).await?;
            }
            stored.push(mean(server).await?);
        }
        for peer in [CACHED, TIER] {
            stored.push(of_peer(plan, server, peer, &crews).await?);
        }
        for ((_, figures), stored) in rows.iter_mut().zip(stored) {
            figures.extend([Rounds(vec![stored]), Rounds(vec![json / stored])]);
        }
    }
    let table = Table {
        title: TITLE,
        about: "Structs of names, ids, dates and words, that take 200 B, 2 KiB and 64 KiB of \
                JSON: the mean length of what is stored for one. Ours is MessagePack unless it \
                says so, with a head of 44 B, and zstd from 1 KiB on unless it says so; cached \
                and multi-tier-cache store MessagePack without the names of fields.",
        columns: vec![
            ("200 B", 0),
            (SMALL, 2),
            ("2 KiB", 0),
            ("2 KiB, JSON over stored", 2),
            ("64 KiB", 0),
            ("64 KiB, JSON over stored", 2),
        ],
        rows,
    };
    let small = table.figure(OURS.name, SMALL).cloned();
    report.goal("200 B of JSON over what ours stores", small, Bound::AtLeast(3.0));
    report.add(table);
    Ok(())
}

async fn of_peer(plan: &Plan, server: &RedisServer, peer: Peer, crews: &[Crew]) -> Result<f64> {
    server.command(&["FLUSHALL"]).await?.ok()?;
    let store = peer.open(&plan.url).await?;
    for crew in crews {
        store.set(&crew.id.to_string(), crew).await.context(peer.name)?;
    }
    mean(server).await
}

/// The mean length of all strings that are there.
async fn mean(server: &RedisServer) -> Result<f64> {
    let script = "local sum, keys = 0, redis.call('KEYS', '*') \
                  for _, key in ipairs(keys) do sum = sum + redis.call('STRLEN', key) end \
                  return {sum, #keys}";
    let answer = server.command(&["EVAL", script, "0"]).await?.ok()?;
    let answer = answer.as_array().context("two numbers")?;
    let number = |at: usize| answer.get(at).and_then(Resp::as_int).context("a number");
    Ok(f64::from(u32::try_from(number(0)?)?) / f64::from(u32::try_from(number(1)?)?))
}
