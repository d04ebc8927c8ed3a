//! What the scripts do on servers of all kinds, and with what others left there.

use super::{
    key, name, put,
    stage::{Stage, run},
    token, value,
};
use crate::{
    backend::{Backend as _, Claimed, Put, Version},
    envelope::{HEAD, MAGIC, SOFT_AT, VERSION_AT},
    redis::SCRIPTS,
};
use coordinator_core::ErrorKind;
use coordinator_harness::RedisServer;

#[tokio::test]
async fn every_script_compiles() {
    let server = RedisServer::start().await.expect("a server");
    for script in SCRIPTS {
        let hash = server.command(&["SCRIPT", "LOAD", script.source()]).await.expect("an answer");
        assert_eq!(hash.as_str(), Some(script.hash()), "{}", script.name());
    }
}

#[test]
fn scripts_know_the_same_offsets() {
    let said = format!(
        "local MAGIC, HEAD, VERSION_AT, SOFT_AT = '\\{MAGIC}', {HEAD}, {VERSION_AT}, {SOFT_AT}\n"
    );
    assert!(include_str!("../redis/value.lua").contains(&said), "{said}");
}

/// Puts a list there.
async fn list(server: &RedisServer, key: &str) {
    run(server, &["DEL", key]).await;
    run(server, &["LPUSH", key, "x"]).await;
}

async fn is_there(server: &RedisServer, key: &str) -> bool {
    server.command(&["EXISTS", key]).await.expect("an answer").as_int() == Some(1)
}

#[tokio::test]
async fn what_is_of_another_type_is_a_miss_and_in_nobodys_way() {
    let stage = Stage::redis().await;
    let (redis, server) = stage.redis.as_ref().expect("redis");
    let (a, tags) = ([key("a")], [name("y"), name("x")]);
    let (value_key, lease) = (redis.value(&a[0]), redis.lease(&a[0]));
    list(server, &value_key).await;
    assert_eq!(redis.fetch(&a).await.expect("an answer"), [None]);
    assert_eq!(redis.expire(&a).await.expect("an answer"), 0);
    assert_eq!(redis.get(&a[0]).await.expect("an answer"), None);
    assert!(!is_there(server, &value_key).await, "what cannot be read is dropped");
    for key in [&value_key, &lease] {
        list(server, key).await;
    }
    assert_eq!(redis.holder(&a[0]).await.expect("an answer"), None);
    assert!(!redis.renew(&a[0], token(1), 1000).await.expect("an answer"));
    assert!(!redis.release(&a[0], token(1)).await.expect("an answer"));
    assert!(!redis.fill(&put("a", 1), token(1)).await.expect("an answer"));
    let claimed = redis.claim(&a[0], token(1), None, 1000).await.expect("an answer");
    assert_eq!(claimed, Claimed::Mine);
    assert!(redis.fill(&put("a", 1), token(1)).await.expect("an answer"));
    assert_eq!(redis.get(&a[0]).await.expect("an answer"), Some(value(1)));
    for key in [&value_key, &lease] {
        list(server, key).await;
    }
    redis.set(&put("a", 2)).await.expect("it is set");
    assert_eq!(redis.fetch(&a).await.expect("an answer"), [Some(value(2))]);
    assert!(!is_there(server, &lease).await);
    list(server, &value_key).await;
    assert!(redis.set_many(&[put("a", 3)]).await.remove(0).is_ok());
    list(server, &value_key).await;
    assert_eq!(redis.invalidate(&a).await.expect("an answer"), 1);
    // Versions as well.
    let mark = redis.marker(0);
    for key in [&redis.tag(&tags[1]), &mark] {
        list(server, key).await;
    }
    assert_eq!(redis.versions(&tags).await.expect("an answer"), [None, None]);
    let captured = redis.capture(&tags, Version(1), 1000).await.expect("an answer");
    assert_eq!(captured, [Version(1), Version(1)]);
    assert_eq!(redis.versions(&tags).await.expect("an answer"), [Some(Version(1)); 2]);
    assert_eq!(redis.mark(0, Version(2)).await.expect("an answer"), Version(2));
}

#[tokio::test]
async fn a_cache_gets_over_what_another_program_left_at_its_keys() {
    let stage = Stage::redis().await;
    let (redis, server) = stage.redis.as_ref().expect("redis");
    let cache = stage.caches().cache::<String>("crew").build().expect("a cache");
    for key in [redis.value(&key("a")), redis.lease(&key("a"))] {
        list(server, &key).await;
    }
    assert!(cache.get_many(&["a"]).await.expect("an answer")[0].is_none());
    let load = |_| async { Ok::<_, String>("x".to_owned()) };
    assert_eq!(cache.get_or_load("a", load).await.expect("it is loaded").as_str(), "x");
    assert_eq!(cache.get("a").await.expect("an answer").expect("a value").as_str(), "x");
}

#[tokio::test]
async fn a_version_of_another_shape_is_replaced_and_a_lease_without_an_end_is_none() {
    let stage = Stage::redis().await;
    let (redis, server) = stage.redis.as_ref().expect("redis");
    let tags = [name("x")];
    run(server, &["SET", &redis.tag(&tags[0]), "short"]).await;
    assert_eq!(redis.versions(&tags).await.expect("an answer"), [None]);
    let captured = redis.capture(&tags, Version(3), 1000).await.expect("an answer");
    assert_eq!(captured, [Version(3)]);
    run(server, &["PERSIST", &redis.tag(&tags[0])]).await;
    redis.capture(&tags, Version(4), 1000).await.expect("an answer");
    let left = server.command(&["PTTL", &redis.tag(&tags[0])]).await.expect("an answer");
    assert_eq!(left.as_int(), Some(2000));
    run(server, &["SET", &redis.lease(&key("a")), "for ever"]).await;
    let claimed = redis.claim(&key("a"), token(1), None, 1000).await.expect("an answer");
    assert_eq!(claimed, Claimed::Mine);
}

#[tokio::test]
async fn with_memory_full_values_are_read_and_deleted_and_none_is_written() {
    let stage = Stage::redis().await;
    let (redis, server) = stage.redis.as_ref().expect("redis");
    let (a, b) = ([key("a")], [key("b")]);
    redis.set(&put("a", 1)).await.expect("it is set");
    redis.claim(&a[0], token(1), Some(Version(1)), 1000).await.expect("an answer");
    redis.capture(&[name("x")], Version(1), 1000).await.expect("an answer");
    run(server, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let full = |kind: ErrorKind| assert_eq!(kind, ErrorKind::Rejected);
    full(redis.set(&put("a", 2)).await.expect_err("full").kind());
    full(redis.set_many(&[put("a", 2)]).await.remove(0).expect_err("full").kind());
    full(redis.fill(&put("a", 2), token(1)).await.expect_err("full").kind());
    full(redis.claim(&b[0], token(1), None, 1000).await.expect_err("full").kind());
    full(redis.expire(&a).await.expect_err("full").kind());
    full(redis.capture(&[name("y")], Version(1), 1000).await.expect_err("full").kind());
    assert_eq!(redis.get(&a[0]).await.expect("an answer"), Some(value(1)));
    assert_eq!(redis.fetch(&a).await.expect("an answer"), [Some(value(1))]);
    let captured = redis.capture(&[name("x")], Version(2), 1500).await.expect("an answer");
    assert_eq!(captured, [Version(1)]);
    // The lease is what it was.
    assert!(redis.renew(&a[0], token(1), 1000).await.expect("an answer"));
    assert_eq!(redis.invalidate(&a).await.expect("an answer"), 1);
    assert!(!redis.renew(&a[0], token(1), 1000).await.expect("an answer"));
    assert_eq!(redis.untag(&[name("x")]).await.expect("an answer"), 1);
    run(server, &["CONFIG", "SET", "maxmemory", "0"]).await;
}

#[tokio::test]
async fn nobody_is_told_where_nobody_hears() {
    let stage = Stage::redis().await;
    let (redis, server) = stage.redis.as_ref().expect("redis");
    let published = async || server.calls_of("spublish").await + server.calls_of("publish").await;
    let change = async || {
        redis.set(&put("a", 1)).await.expect("it is set");
        redis.invalidate(&[key("a")]).await.expect("an answer");
        // What changes nothing is not told either.
        redis.invalidate(&[key("a")]).await.expect("an answer");
    };
    change().await;
    assert_eq!(published().await, 0);
    let _feed = redis.hear().await.expect("it hears");
    change().await;
    assert_eq!(published().await, 2);
}

#[tokio::test]
async fn before_there_were_sharded_channels_all_are_told() {
    let builder = RedisServer::builder().without_sharded_channels();
    let stage = Stage::redis_of(builder).await;
    let mut feed = stage.backend.hear().await.expect("it hears");
    stage.backend.set(&put("a", 1)).await.expect("it is set");
    let told = tokio::time::timeout(std::time::Duration::from_secs(20), feed.next()).await;
    assert_eq!(told.expect("it is told"), crate::backend::Changed::Value(key("a")));
}

#[tokio::test]
async fn in_a_cluster_every_step_finds_its_slots() {
    use crate::redis::Redis;
    use coordinator_core::{Config, redis::Connection};
    use std::collections::HashSet;
    let cluster = coordinator_harness::Cluster::start(3, 0).await.expect("a cluster");
    let config = Config::from_url(&cluster.url()).expect("a URL");
    let config = config.with_command_timeout(std::time::Duration::from_secs(30));
    let redis = Redis::new(&Connection::connect(config).await.expect("a connection"));
    let puts: Vec<Put> = (0..300).map(|n| put(&n.to_string(), n)).collect();
    let keys: Vec<_> = puts.iter().map(|put| put.key.clone()).collect();
    let mut heard = redis.hear().await.expect("it hears");
    assert!(redis.keep_hearing().await.expect("an answer"));
    assert!(redis.set_many(&puts).await.iter().all(Result::is_ok));
    let mut missing: HashSet<_> = keys.iter().cloned().collect();
    let all = async {
        while !missing.is_empty() {
            if let crate::backend::Changed::Value(key) = heard.next().await {
                missing.remove(&key);
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), all).await.expect("all are told");
    let read = redis.fetch(&keys).await.expect("an answer");
    assert!(read.iter().zip(&puts).all(|(read, put)| read.as_ref() == Some(&put.value)));
    let tags: Vec<_> = (0..100).map(|n| name(&format!("tag {n}"))).collect();
    let captured = redis.capture(&tags, Version(5), 1000).await.expect("an answer");
    assert_eq!(captured, [Version(5); 100]);
    assert_eq!(redis.versions(&tags).await.expect("an answer"), [Some(Version(5)); 100]);
    let mut found = HashSet::new();
    for node in redis.nodes() {
        redis.mark(node, Version(1)).await.expect("an answer");
        let mut cursor = 0;
        loop {
            let page = redis.scan(&name("crew"), node, cursor).await.expect("an answer");
            found.extend(page.keys);
            cursor = page.next;
            if cursor == 0 {
                break;
            }
        }
    }
    assert_eq!(found, keys.iter().cloned().collect());
    assert_eq!(redis.expire(&keys).await.expect("an answer"), 300);
    assert_eq!(redis.invalidate(&keys).await.expect("an answer"), 300);
    assert_eq!(redis.untag(&tags).await.expect("an answer"), 100);
}
