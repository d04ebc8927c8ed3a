//! What only the scripts can get wrong: keys of a wrong type, memory that is full, and that they
//! compile at all.

use super::{
    TTL, claim,
    contract::Stage,
    name,
    queue::{number, waiting_claim},
    renewal, surrender,
};
use crate::{
    backend::{Acquired, Awaited, Claim, Line, Renewed, SHARDS, Standing, Wait},
    redis::{Redis, SCRIPTS},
};
use coordinator_core::{Config, ErrorKind, clock::ManualClock, redis::Connection};
use coordinator_harness::{RedisServer, eventually, fresh_prefix};
use std::{sync::Arc, time::Duration};

async fn over(server: RedisServer) -> Stage {
    let clock = ManualClock::new();
    let config = Config::from_url(&server.url())
        .expect("a URL")
        .with_prefix(&fresh_prefix())
        .expect("a prefix")
        .with_clock(Arc::new(clock.clone()));
    let connection = Connection::connect(config).await.expect("a connection");
    let mut stage = Stage::new(Arc::new(Redis::new(&connection)), clock);
    stage.server = Some(server);
    stage
}

pub(super) async fn redis() -> Stage {
    over(RedisServer::builder().with_clock_shim().start().await.expect("a server")).await
}

/// A server without sharded channels, as before 7.0.
pub(super) async fn redis_with_classic_channels() -> Stage {
    let server = RedisServer::builder().with_clock_shim().without_sharded_channels();
    over(server.start().await.expect("a server")).await
}

/// Grants a lock and takes it away again; its fence.
async fn force(stage: &Stage, text: &str) -> u64 {
    let granted = stage.backend.acquire(&claim(text)).await.expect("an answer");
    let Acquired::Granted { fence } = granted else { panic!("{granted:?}") };
    let forced = stage.backend.force_release(&name(text), fence, TTL, "why").await;
    assert!(forced.expect("an answer"));
    fence
}

/// Asks for a lock that is held by another; the ticket.
async fn stand(stage: &Stage, claim: &Claim) -> u64 {
    match stage.backend.acquire(claim).await.expect("an answer") {
        Acquired::Held { ticket: Some(ticket), .. } => ticket,
        other => panic!("does not stand in the queue: {other:?}"),
    }
}

/// Every key of a kind in the database.
async fn keys(server: &RedisServer, kind: &str) -> Vec<String> {
    let keys = server.command(&["KEYS", &format!("*:{kind}*")]).await.expect("an answer");
    let keys = keys.as_array().expect("keys");
    keys.iter().map(|key| key.as_str().expect("text").to_owned()).collect()
}

#[tokio::test]
async fn every_script_compiles_and_is_named_after_its_step() {
    let server = RedisServer::start().await.expect("a server");
    for script in SCRIPTS {
        let hash = server.command(&["SCRIPT", "LOAD", script.source()]).await.expect("an answer");
        assert_eq!(hash.as_str(), Some(script.hash()), "{}", script.name());
        assert!(script.name().starts_with("locks."));
    }
}

#[tokio::test]
async fn every_key_is_in_its_shards_slot_and_expires() {
    let stage = redis().await;
    let server = stage.server.as_ref().expect("a server");
    let one = claim("a:{b}*");
    stage.backend.acquire(&one).await.expect("granted");
    stage.backend.release(&surrender(&one)).await.expect("released");
    // A second tombstone, of one that was dispossessed.
    force(&stage, "a:{b}*").await;
    stage.backend.acquire(&claim("a:{b}*")).await.expect("granted");
    let waits = waiting_claim("a:{b}*", 1);
    let since_us = stand(&stage, &waits).await;
    let wait = Awaited { token: waits.token, name: waits.name, since_us };
    // An owner of this name has its waits in the same shard.
    stage.backend.wait_for(&one.name, &wait, TTL).await.expect("an answer");
    let tag = format!("{{l{}}}", one.name.shard(SHARDS));
    let mut found = 0;
    // But for the last fence of the shard, which is one key for ever.
    let fences = keys(server, "fence").await;
    assert!(fences.len() == 1 && fences[0].ends_with(":fence"), "{fences:?}");
    for kind in ["lock:", "gone:", "queue:", "stand:", "beats", "waits:"] {
        for key in keys(server, kind).await {
            found += 1;
            assert!(key.contains(&tag), "{key} is outside {tag}");
            let ttl = server.command(&["PTTL", &key]).await.expect("an answer").as_int();
            assert!(ttl > Some(0), "{key} never expires");
        }
    }
    assert_eq!(found, 7);
    // The log is one for all, and has a shard of its own.
    let line = Line { id: "1".into(), age: Duration::ZERO, entry: vec![] };
    stage.backend.log(&[line]).await.expect("an answer");
    let log = keys(server, "log").await.remove(0);
    let ttl = server.command(&["PTTL", &log]).await.expect("an answer").as_int();
    assert!(ttl > Some(0), "{log} never expires");
}

#[tokio::test]
async fn a_key_of_a_wrong_type_is_corrupt_and_nothing_is_written() {
    for kind in ["lock", "fence", "held"] {
        let stage = redis().await;
        let server = stage.server.as_ref().expect("a server");
        // Learn the key's name, then put something else there.
        let one = claim("a");
        stage.backend.acquire(&one).await.expect("granted");
        let found = keys(server, kind).await;
        stage.backend.release(&surrender(&one)).await.expect("released");
        server.command(&["FLUSHALL"]).await.expect("an answer");
        server.command(&["LPUSH", &found[0], "x"]).await.expect("an answer").ok().expect("a list");
        let error = stage.backend.acquire(&claim("a")).await.expect_err(kind);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{kind}: {}", error.chain());
        // A fence may have risen, which harms nobody.
        let size = keys(server, "").await.len() - keys(server, "fence").await.len();
        assert_eq!(size, usize::from(kind != "fence"), "{kind}: something was written");
    }
}

#[tokio::test]
async fn one_damaged_lock_does_not_stop_the_renewal_of_others() {
    let stage = redis().await;
    let server = stage.server.as_ref().expect("a server");
    let shard = name("a").shard(SHARDS);
    let other = (0..u16::MAX).map(|n| format!("n{n}")).find(|n| name(n).shard(SHARDS) == shard);
    let (one, other) = (claim("a"), claim(&other.expect("endless")));
    stage.backend.acquire(&one).await.expect("granted");
    let key = keys(server, "lock:a").await.remove(0);
    stage.backend.acquire(&other).await.expect("granted");
    server.command(&["DEL", &key]).await.expect("an answer");
    server.command(&["LPUSH", &key, "x"]).await.expect("an answer");
    let leases = [renewal(&one, TTL), renewal(&other, TTL)];
    let statuses = stage.backend.renew(shard, &leases).await.expect("an answer");
    assert_eq!(statuses, [Renewed::HeldByAnother, Renewed::Prolonged]);
}

#[tokio::test]
async fn with_memory_full_locks_are_kept_and_given_up_but_not_taken() {
    let stage = redis().await;
    let server = stage.server.as_ref().expect("a server");
    let one = claim("a");
    stage.backend.acquire(&one).await.expect("granted");
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await.expect("an answer");
    let leases = [renewal(&one, TTL * 2)];
    let shard = one.name.shard(SHARDS);
    assert_eq!(stage.backend.renew(shard, &leases).await.expect("kept"), [Renewed::Prolonged]);
    let error = stage.backend.acquire(&claim("b")).await.expect_err("is full");
    assert_eq!(error.kind(), ErrorKind::Rejected, "{}", error.chain());
    let released = stage.backend.release(&surrender(&one)).await;
    assert!(released.expect("given up").was_held);
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await.expect("an answer");
    assert!(matches!(stage.backend.acquire(&claim("a")).await, Ok(Acquired::Granted { .. })));
}

#[tokio::test]
async fn with_memory_full_a_waiter_keeps_its_place_and_nobody_joins() {
    let stage = redis().await;
    let server = stage.server.as_ref().expect("a server");
    stage.backend.acquire(&claim("a")).await.expect("granted");
    let first = waiting_claim("a", 1);
    let ticket = stand(&stage, &first).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await.expect("an answer");
    assert_eq!(stand(&stage, &first).await, ticket);
    let wait = Wait { name: name("a"), token: first.token.clone() };
    let shard = name("a").shard(SHARDS);
    let standing = stage.backend.heartbeat(shard, number(&first), true, &[wait]).await;
    assert_eq!(standing.expect("an answer"), [Standing::Waits]);
    let error = stage.backend.acquire(&waiting_claim("a", 2)).await.expect_err("is full");
    assert_eq!(error.kind(), ErrorKind::Rejected, "{}", error.chain());
}

#[tokio::test]
async fn tickets_rise_though_the_clock_does_not() {
    let stage = redis().await;
    let server = stage.server.as_ref().expect("a server");
    stage.backend.acquire(&claim("a")).await.expect("granted");
    server.stop_clock().await.expect("it stops");
    let mut tickets = Vec::new();
    for number in 1..5 {
        tickets.push(stand(&stage, &waiting_claim("a", number)).await);
    }
    assert!(tickets.is_sorted_by(|one, next| one < next), "{tickets:?}");
}

#[tokio::test]
async fn nothing_is_left_of_whoever_left_the_queue() {
    let stage = redis().await;
    let server = stage.server.as_ref().expect("a server");
    stage.backend.acquire(&claim("a")).await.expect("granted");
    let (one, other) = (waiting_claim("a", 1), waiting_claim("a", 2));
    stand(&stage, &one).await;
    stand(&stage, &other).await;
    let records = keys(server, "stand").await.remove(0);
    stage.backend.release(&surrender(&one)).await.expect("an answer");
    let known = async |claim: &Claim| {
        let known = server.command(&["HEXISTS", &records, claim.token.expose()]).await;
        known.expect("an answer").as_int() == Some(1)
    };
    assert!(!known(&one).await && known(&other).await);
    stage.backend.release(&surrender(&other)).await.expect("an answer");
    for kind in ["stand", "queue"] {
        assert!(keys(server, kind).await.is_empty(), "{kind}");
    }
}

#[tokio::test]
async fn a_heartbeat_prolongs_all_that_a_place_consists_of() {
    let stage = redis().await;
    let server = stage.server.as_ref().expect("a server");
    let holder = Claim { ttl: TTL * 99, ..claim("a") };
    stage.backend.acquire(&holder).await.expect("granted");
    let first = waiting_claim("a", 1);
    stand(&stage, &first).await;
    stage.elapse(Duration::from_secs(50)).await;
    let wait = Wait { name: name("a"), token: first.token.clone() };
    let shard = name("a").shard(SHARDS);
    let standing = stage.backend.heartbeat(shard, number(&first), true, &[wait]).await;
    assert_eq!(standing.expect("an answer"), [Standing::Waits]);
    for kind in ["queue:", "stand:", "beats"] {
        let key = keys(server, kind).await.remove(0);
        let ttl = server.command(&["PTTL", &key]).await.expect("an answer").as_int();
        assert!(ttl > Some(50_000), "{key}: {ttl:?}");
    }
}

#[tokio::test]
async fn a_damaged_fence_is_corrupt() {
    let stage = redis().await;
    let server = stage.server.as_ref().expect("a server");
    let one = claim("a");
    stage.backend.acquire(&one).await.expect("granted");
    stage.backend.release(&surrender(&one)).await.expect("released");
    let key = keys(server, "fence").await.remove(0);
    server.command(&["SET", &key, "99999999999999999999"]).await.expect("an answer");
    let error = stage.backend.acquire(&claim("a")).await.expect_err("is damaged");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
}

#[tokio::test]
async fn the_index_does_not_grow_by_what_has_ended() {
    let stage = redis().await;
    let server = stage.server.as_ref().expect("a server");
    let shard = name("a").shard(SHARDS);
    let names = (0..u16::MAX).map(|n| format!("n{n}")).filter(|n| name(n).shard(SHARDS) == shard);
    for text in names.take(5) {
        stage.backend.acquire(&claim(&text)).await.expect("granted");
        stage.elapse(TTL).await;
    }
    let index = keys(server, "held").await.remove(0);
    // One grant in sixteen sweeps.
    eventually(Duration::from_secs(10), "it was swept", async || {
        let one = claim("a");
        stage.backend.acquire(&one).await.expect("granted");
        let size = server.command(&["ZCARD", &index]).await.expect("an answer");
        stage.backend.release(&surrender(&one)).await.expect("released");
        size.as_int() == Some(1)
    })
    .await;
}

#[tokio::test]
async fn few_grants_sweep_the_index() {
    let stage = redis().await;
    let server = stage.server.as_ref().expect("a server");
    for _ in 0..64 {
        let one = claim("a");
        stage.backend.acquire(&one).await.expect("granted");
        stage.backend.release(&surrender(&one)).await.expect("released");
    }
    // One in sixteen, whenever it happens to be.
    let sweeps = server.calls_of("zremrangebyscore").await;
    assert!(sweeps < 32, "{sweeps}");
}
