//! What only the scripts can get wrong: keys of a wrong type, memory that is full, damaged items,
//! what expires, and that they compile at all.

use super::{
    super::{
        backend::{Batch, Cover, Edit, Index, Place},
        redis::SCRIPTS,
    },
    ALL, HOUR, name, place, said,
    stage::Stage,
};
use coordinator_core::{Error, ErrorKind};
use coordinator_harness::{RedisServer, Resp};

async fn keys(server: &RedisServer, pattern: &str) -> Vec<String> {
    let keys = server.command(&["KEYS", pattern]).await.expect("an answer");
    let keys = keys.as_array().expect("keys");
    let mut keys: Vec<_> = keys.iter().map(|key| key.as_str().expect("text").to_owned()).collect();
    keys.sort_unstable();
    keys
}

/// Everything that is stored.
async fn dump(server: &RedisServer) -> Vec<String> {
    let mut dump = Vec::new();
    for key in keys(server, "*").await {
        let value = server.command(&["DUMP", &key]).await.expect("an answer");
        let ttl = server.command(&["PTTL", &key]).await.expect("an answer");
        dump.push(format!("{key} {value:?} {ttl:?}"));
    }
    dump
}

impl Stage {
    fn server(&self) -> &RedisServer {
        self.server.as_ref().expect("a server")
    }

    /// Every step that writes, once; their errors.
    async fn every_step(&self, at: &Place) -> Vec<(&'static str, Option<Error>)> {
        let backend = &self.backend;
        let cover = Cover { after: 0, up_to: 1, tokens: 1, text: b"s".to_vec(), ttl: HOUR };
        let edit = Edit {
            set: vec![("c:a".into(), b"1".to_vec())],
            remove: vec!["c:b".into()],
            ttl: HOUR,
        };
        let once = Batch { key: b"k2".to_vec(), ..said(&["e", "f"]) };
        vec![
            ("append", backend.append(at, &once).await.err()),
            ("summarise", backend.summarise(at, &cover).await.err()),
            ("edit", backend.edit(at, &edit).await.err()),
            ("pause", backend.pause(at, b"p", HOUR).await.err()),
            ("resume", backend.resume(at).await.err()),
            ("extend", backend.extend(at, HOUR).await.err()),
            ("show", backend.show(at, ALL).await.err()),
        ]
    }

    /// Leaves something of every kind behind.
    async fn everything(&self) -> Place {
        let at = place("u{b}*\n", "a");
        let once = Batch { key: b"k".to_vec(), ..said(&["a", "b", "c", "d", "e"]) };
        self.backend.append(&at, &once).await.expect("appended");
        for (step, error) in self.every_step(&at).await {
            assert!(error.is_none(), "{step}: {error:?}");
        }
        at
    }
}

#[tokio::test]
async fn every_script_compiles_and_is_named_after_its_step() {
    let server = RedisServer::start().await.expect("a server");
    for script in SCRIPTS {
        let hash = server.command(&["SCRIPT", "LOAD", script.source()]).await.expect("an answer");
        assert_eq!(hash.as_str(), Some(script.hash()), "{}", script.name());
        assert!(script.name().starts_with("sessions.conversation_"));
    }
}

#[tokio::test]
async fn every_key_is_in_its_shards_slot_and_expires() {
    let stage = Stage::redis().await;
    let at = stage.everything().await;
    let found = keys(stage.server(), "*").await;
    for kind in ["talk:", "said:", "gone:", "keys:", "all", "of:"] {
        let kind = format!("}}:{kind}");
        assert!(found.iter().any(|key| key.contains(&kind)), "no {kind} in {found:#?}");
    }
    for key in found {
        assert!(key.contains(&format!(":1:{{m{}}}:", at.shard)), "{key} is elsewhere");
        assert_eq!(key.matches(['{', '}', '*', '\n']).count(), 2, "{key:?}");
        let ttl = stage.server().command(&["PTTL", &key]).await.expect("an answer").as_int();
        assert_eq!(ttl, Some(3_600_000), "{key}");
    }
    // Each step alone makes no key that stays, either.
    for step in 0..4 {
        let stage = Stage::redis().await;
        let edit = Edit { set: vec![("c:a".into(), b"1".to_vec())], remove: Vec::new(), ttl: HOUR };
        let cover = Cover { after: 0, up_to: 0, tokens: 1, text: b"s".to_vec(), ttl: HOUR };
        match step {
            0 => drop(stage.backend.edit(&at, &edit).await.expect("edited")),
            1 => drop(stage.backend.summarise(&at, &cover).await.expect("summarised")),
            2 => drop(stage.backend.pause(&at, b"", HOUR).await.expect("paused")),
            _ => drop(stage.backend.append(&at, &said(&["a"])).await.expect("appended")),
        }
        let found = keys(stage.server(), "*").await;
        assert!(found.len() >= 3, "{step}: {found:?}");
        for key in found {
            let ttl = stage.server().command(&["PTTL", &key]).await.expect("an answer").as_int();
            assert_eq!(ttl, Some(3_600_000), "{step}: {key}");
        }
    }
}

#[tokio::test]
async fn a_key_of_a_wrong_type_is_corrupt_and_nothing_is_written() {
    for kind in ["talk:", "said:", "gone:", "keys:", "all", "of:"] {
        let stage = Stage::redis().await;
        let at = stage.everything().await;
        let server = stage.server();
        let key = keys(server, &format!("*}}:{kind}*")).await.remove(0);
        server.command(&["DEL", &key]).await.expect("an answer");
        server
            .command(&["SET", &key, "x", "PX", "99"])
            .await
            .expect("an answer")
            .ok()
            .expect("set");
        let before = dump(server).await;
        for (step, error) in stage.every_step(&at).await {
            // Reading and resuming touch neither keys of appends nor indexes.
            let spared =
                ["keys:", "all", "of:"].contains(&kind) && ["resume", "show"].contains(&step);
            let kind_of = error.map(|error| error.kind());
            assert_eq!(kind_of, (!spared).then_some(ErrorKind::Corrupt), "{kind} {step}");
        }
        assert_eq!(dump(server).await, before, "{kind}: something was written");
    }
    let stage = Stage::redis().await;
    let at = stage.everything().await;
    let key = keys(stage.server(), "*}:all").await.remove(0);
    stage.server().command(&["DEL", &key]).await.expect("an answer");
    stage.server().command(&["SET", &key, "x", "PX", "99"]).await.expect("an answer");
    let error = stage.backend.count(at.shard).await.expect_err("no index");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let error = stage.backend.list(Index::All(at.shard), None, 1).await.expect_err("no index");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let error = stage.backend.delete(&at).await.expect_err("no index");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_damaged_conversation_is_corrupt_nothing_is_written_and_it_can_be_deleted() {
    // What is damaged, the keys of it, and where the byte is that flips.
    for (part, byte) in
        [("head", 0), ("head", 4), ("head", 70), ("said:", 0), ("said:", 12), ("said:", 24)]
    {
        let stage = Stage::redis().await;
        let at = place("u", "a");
        stage.backend.append(&at, &said(&["a", "b", "c", "d"])).await.expect("appended");
        let server = stage.server();
        let flip = |stored: &Resp| {
            let Resp::Bulk(Some(stored)) = stored else { panic!("{stored:?}") };
            let mut stored = stored.clone();
            stored[byte] ^= 1;
            stored
        };
        if part == "head" {
            let key = keys(server, "*}:talk:*").await.remove(0);
            let stored = server.command(&["HGET", &key, "h"]).await.expect("an answer");
            let flipped = flip(&stored);
            let set = [b"HSET", key.as_bytes(), b"h", &flipped];
            server.command(&set).await.expect("an answer").ok().expect("set");
        } else {
            let key = keys(server, "*}:said:*").await.remove(0);
            let stored = server.command(&["LINDEX", &key, "0"]).await.expect("an answer");
            let flipped = flip(&stored);
            let set = [b"LSET", key.as_bytes(), b"0", &flipped];
            server.command(&set).await.expect("an answer").ok().expect("set");
        }
        let before = dump(server).await;
        let error = stage.backend.show(&at, ALL).await.expect_err("damaged");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{part} {byte}: {}", error.chain());
        let error = stage.backend.append(&at, &said(&["e"])).await.expect_err("damaged");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{part} {byte}: {}", error.chain());
        assert_eq!(dump(server).await, before, "{part} {byte}: something was written");
        assert!(stage.backend.delete(&at).await.expect("an answer"));
        stage.backend.append(&at, &said(&["e"])).await.expect("it begins anew");
    }
}

#[tokio::test]
async fn a_part_that_was_deleted_by_hand_is_noticed() {
    for part in ["talk:", "said:", "gone:", "head"] {
        let stage = Stage::redis().await;
        let at = place("u", "a");
        stage.backend.append(&at, &said(&["a", "b", "c", "d"])).await.expect("appended");
        let edit = Edit { set: vec![("c:a".into(), b"1".to_vec())], remove: Vec::new(), ttl: HOUR };
        stage.backend.edit(&at, &edit).await.expect("edited");
        let server = stage.server();
        if part == "head" {
            let key = keys(server, "*}:talk:*").await.remove(0);
            server.command(&["HDEL", &key, "h"]).await.expect("an answer");
        } else {
            let key = keys(server, &format!("*}}:{part}*")).await.remove(0);
            server.command(&["DEL", &key]).await.expect("an answer");
        }
        let before = dump(server).await;
        for (step, error) in stage.every_step(&at).await {
            let kind = error.map(|error| error.kind());
            assert_eq!(kind, Some(ErrorKind::Corrupt), "{part} {step}");
        }
        assert_eq!(dump(server).await, before, "{part}: something was written");
        assert!(stage.backend.delete(&at).await.expect("an answer"));
    }
}

#[tokio::test]
async fn with_memory_full_nothing_is_half_done() {
    let stage = Stage::redis().await;
    let at = place("u", "a");
    stage.backend.append(&at, &said(&["a", "b", "c", "d"])).await.expect("appended");
    stage.backend.pause(&at, b"p", HOUR).await.expect("paused");
    let server = stage.server();
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await.expect("an answer");
    let before = dump(server).await;
    let fresh = place("u", "b");
    for (step, error) in stage.every_step(&fresh).await {
        let kind = error.map(|error| error.kind());
        let writes = ["append", "edit", "pause"].contains(&step);
        assert_eq!(kind, writes.then_some(ErrorKind::Rejected), "{step}");
    }
    let error = stage.backend.resume(&at).await.expect_err("is full");
    assert_eq!(error.kind(), ErrorKind::Rejected);
    let error = stage.backend.extend(&at, HOUR * 2).await.expect_err("is full");
    assert_eq!(error.kind(), ErrorKind::Rejected);
    let cover = Cover { after: 0, up_to: 1, tokens: 1, text: b"s".to_vec(), ttl: HOUR };
    let error = stage.backend.summarise(&at, &cover).await.expect_err("is full");
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert_eq!(dump(server).await, before, "something was written");
    assert!(stage.backend.delete(&at).await.expect("deleting needs no room"));
}

#[tokio::test]
async fn indexes_forget_what_has_ended_and_live_as_long_as_the_last() {
    let mut stage = Stage::redis().await;
    let user = name("u");
    for n in 0..40 {
        stage.backend.append(&place("u", &format!("{n}")), &said(&["a"])).await.expect("appended");
    }
    let long = Batch { ttl: HOUR * 3, ..said(&["a"]) };
    stage.backend.append(&place("u", "long"), &long).await.expect("appended");
    stage.backend.append(&place("u", "0"), &said(&["a"])).await.expect("appended");
    let server = stage.server();
    for kind in ["all", "of:*"] {
        let key = keys(server, &format!("*}}:{kind}")).await.remove(0);
        let ttl = server.command(&["PTTL", &key]).await.expect("an answer").as_int();
        assert_eq!(ttl, Some(3 * 3_600_000), "{kind}");
    }
    stage.elapse(HOUR * 2).await;
    // Sixteen at a time.
    for left in [25, 9, 1] {
        stage.backend.append(&place("u", "long"), &long).await.expect("appended");
        let server = stage.server();
        for kind in ["all", "of:*"] {
            let key = keys(server, &format!("*}}:{kind}")).await.remove(0);
            let count = server.command(&["ZCARD", &key]).await.expect("an answer").as_int();
            assert_eq!(count, Some(left), "{kind}");
        }
    }
    let found = stage.backend.list(Index::Of(&user), None, 100).await.expect("a list");
    assert_eq!(found.len(), 1);
}
