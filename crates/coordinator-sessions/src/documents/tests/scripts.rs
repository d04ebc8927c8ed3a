//! What only the scripts can get wrong: keys of a wrong type, memory that is full, what was changed
//! by hand, what expires, and that they compile at all.

use super::{name, place, slice, stage::Stage, token, write};
use crate::documents::{
    backend::{Condition, Write},
    redis::SCRIPTS,
};
use coordinator_core::ErrorKind;
use coordinator_harness::RedisServer;

fn server(stage: &Stage) -> &RedisServer {
    stage.server.as_ref().expect("a server")
}

async fn command(stage: &Stage, args: &[&str]) -> coordinator_harness::Resp {
    let answer = server(stage).command(args).await.expect("an answer");
    answer.ok().expect("no error")
}

async fn keys(stage: &Stage, pattern: &str) -> Vec<String> {
    let keys = command(stage, &["KEYS", pattern]).await;
    let keys = keys.as_array().expect("keys").iter();
    let mut keys: Vec<_> = keys.map(|key| key.as_str().expect("text").to_owned()).collect();
    keys.sort();
    keys
}

/// Everything on the server, with its end.
async fn everything(stage: &Stage) -> Vec<String> {
    let mut all = Vec::new();
    for key in keys(stage, "*").await {
        let dump = command(stage, &["DUMP", &key]).await;
        let ttl = command(stage, &["PTTL", &key]).await;
        all.push(format!("{key} {dump:?} {ttl:?}"));
    }
    all
}

#[tokio::test]
async fn every_script_compiles_and_is_named_after_its_step() {
    let server = RedisServer::start().await.expect("a server");
    for script in SCRIPTS {
        let hash = server.command(&["SCRIPT", "LOAD", script.source()]).await.expect("an answer");
        assert_eq!(hash.as_str(), Some(script.hash()), "{}", script.name());
        assert!(script.name().starts_with("sessions.doc_"));
    }
}

/// Leaves something of every kind behind.
async fn fill(stage: &Stage) {
    let deep = |data| Write { history: 2, ..write(data, data) };
    for document in ["a", "b{x}*\n"] {
        stage.stored(&place(document), &deep("1")).await.expect("stored");
        stage.stored(&place(document), &deep("2")).await.expect("stored");
    }
    stage.stored(&place("c"), &deep("3")).await.expect("stored");
    stage.delete(&place("c"), &token("4")).await.expect("deleted");
    stage.extend(&place("a"), 90_000).await.expect("extended");
}

#[tokio::test]
async fn every_key_is_in_its_shards_slot_and_expires() {
    let mut stage = Stage::redis().await;
    fill(&stage).await;
    let found = keys(&stage, "*").await;
    for kind in ["doc:", "names:", "ends:", "past:", "last", "once:"] {
        let kind = format!("}}:{kind}");
        assert!(found.iter().any(|key| key.contains(&kind)), "no {kind} in {found:#?}");
    }
    for key in &found {
        assert!(key.contains(":1:{d"), "{key} is elsewhere");
        assert_eq!(key.matches(['{', '}', '*', '\n']).count(), 2, "{key:?}");
        let ttl = command(&stage, &["PTTL", key]).await.as_int();
        assert!(ttl > Some(0), "{key} never expires");
    }
    // A day later nothing is left but the versions.
    stage.elapse(24 * 60 * 60 * 1000).await;
    for key in found {
        let gone = command(&stage, &["EXISTS", &key]).await.as_int() == Some(0);
        assert!(gone != key.ends_with("}:last"), "{key}");
    }
}

#[tokio::test]
async fn a_key_of_a_wrong_type_is_an_error_and_nothing_is_written() {
    for kind in ["doc", "names", "ends", "past", "last", "once"] {
        let stage = Stage::redis().await;
        let a = place("a");
        stage.stored(&a, &Write { history: 1, ..write("1", "1") }).await.expect("stored");
        stage.stored(&a, &Write { history: 1, ..write("2", "2") }).await.expect("stored");
        let key = keys(&stage, &format!("*}}:{kind}*")).await.pop().expect("a key");
        command(&stage, &["DEL", &key]).await;
        command(&stage, &["XADD", &key, "1-1", "x", "y"]).await;
        let before = everything(&stage).await;

        let mut errors = Vec::new();
        let again = if kind == "once" { "2" } else { "3" };
        let next = Write { history: 1, ..write("3", again) };
        errors.push(("put", stage.backend.put(&a, &next).await.err()));
        if kind == "doc" || kind == "past" {
            errors.push(("get", stage.backend.get(&a).await.err()));
        }
        if kind == "past" {
            errors.push(("history", stage.backend.history(&a, 9).await.err()));
        }
        if kind != "last" && kind != "once" {
            errors.push(("extend", stage.backend.extend(&a, 90_000).await.err()));
            errors.push(("delete", stage.backend.delete(&a, &token("4")).await.err()));
        }
        if kind == "names" || kind == "ends" {
            errors.push(("list", stage.backend.list(&slice(&a)).await.err()));
        }
        if kind == "ends" {
            errors.push(("count", stage.backend.count(&a.namespace, a.shard).await.err()));
        }
        for (step, error) in errors {
            let error = error.unwrap_or_else(|| panic!("{step} takes a stream for {kind}"));
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{kind}: {}", error.chain());
        }
        assert_eq!(everything(&stage).await, before, "{kind}: something was written");
        if kind == "doc" {
            // One that cannot be read does not hide the others.
            let item = &stage.backend.list(&slice(&a)).await.expect("a list").items[0];
            assert_eq!((item.name.as_str(), item.version), ("a", 0));
        }
    }
}

#[tokio::test]
async fn what_was_changed_by_hand_is_told_and_not_overwritten() {
    let stage = Stage::redis().await;
    let a = place("a");
    for change in [
        &["HDEL", "head"][..],
        &["HDEL", "data"],
        &["HSET", "head", "short"],
        &["HSET", "head", "no digits no digits no digits no"],
    ] {
        stage.stored(&a, &write("1", &format!("{change:?}"))).await.expect("stored");
        let key = keys(&stage, "*}:doc:*").await.pop().expect("a key");
        let args: Vec<_> = [&change[..1], &[key.as_str()], &change[1..]].concat();
        command(&stage, &args).await;
        let before = everything(&stage).await;
        let error = stage.backend.get(&a).await.expect_err("it is no document");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
        if change[1] == "head" {
            for condition in [Condition::Any, Condition::Absent, Condition::Version(1)] {
                let next = Write { condition, ..write("2", "2") };
                let error = stage.backend.put(&a, &next).await.expect_err("it is no document");
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
            }
            let item = &stage.backend.list(&slice(&a)).await.expect("a list").items[0];
            assert_eq!((item.name.as_str(), item.version), ("a", 0), "{change:?}");
        }
        assert_eq!(everything(&stage).await, before, "something was written");
        let gone = stage.delete(&a, &token(&format!("delete {change:?}"))).await;
        assert!(gone.expect("an answer"), "the way out");
    }
    stage.stored(&a, &Write { history: 1, ..write("1", "one") }).await.expect("stored");
    stage.stored(&a, &Write { history: 1, ..write("2", "two") }).await.expect("stored");
    let key = keys(&stage, "*}:past:*").await.pop().expect("a key");
    command(&stage, &["LSET", &key, "0", "nothing"]).await;
    let error = stage.backend.history(&a, 9).await.expect_err("it is no value");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
}

#[tokio::test]
async fn the_index_heals() {
    let stage = Stage::redis().await;
    let a = place("a");
    stage.stored(&a, &write("1", "1")).await.expect("stored");
    let doc = keys(&stage, "*}:doc:*").await.pop().expect("a key");
    command(&stage, &["DEL", &doc]).await;
    assert_eq!(stage.list(&slice(&a)).await, Ok((vec![], false)));
    assert_eq!(stage.count(&a).await, Ok(0), "the listing took it out");
    assert_eq!(keys(&stage, "*}:names:*").await, Vec::<String>::new());
    // The other way round, a write and an extension put it in.
    for extend in [false, true] {
        let write = write("2", &format!("{extend}"));
        stage.stored(&a, &write).await.expect("stored");
        for index in keys(&stage, "*}:names:*").await.iter().chain(&keys(&stage, "*:ends:*").await)
        {
            command(&stage, &["DEL", index]).await;
        }
        if extend {
            // It lives for longer than that, and does not live shorter.
            let until = stage.extend(&a, 1000).await.expect("extended");
            assert_eq!(until, Some(stage.now_ms() + 60_000));
        } else {
            let again = super::write("3", "again");
            stage.stored(&a, &again).await.expect("stored");
        }
        assert_eq!(stage.list(&slice(&a)).await, Ok((vec!["a".to_owned()], false)));
        assert_eq!(stage.count(&a).await, Ok(1));
    }
    // Kept by hand: it is told, and the next write gives it an end.
    command(&stage, &["PERSIST", &doc]).await;
    let found = stage.get(&a).await.expect("an answer").expect("a document");
    assert_eq!(found.left_ms, None);
    stage.stored(&a, &write("4", "4")).await.expect("stored");
    let found = stage.get(&a).await.expect("an answer").expect("a document");
    assert_eq!(found.left_ms, Some(60_000));
}

#[tokio::test]
async fn names_that_have_ended_leave_the_index() {
    let mut stage = Stage::redis().await;
    let all = super::contract::neighbours(4);
    for round in ["a listing", "a write"] {
        for place in &all {
            let ttl_ms = if place == &all[0] { 60_000 } else { 100 };
            let write = Write { ttl_ms, ..write("x", round) };
            stage.stored(place, &write).await.expect("stored");
        }
        stage.elapse(101).await;
        if round == "a listing" {
            assert_eq!(stage.list(&slice(&all[0])).await.expect("a list").0.len(), 1);
        } else {
            stage.stored(&all[0], &write("y", "next")).await.expect("stored");
        }
        for index in ["*}:names:*", "*}:ends:*"] {
            let key = keys(&stage, index).await.pop().expect("a key");
            let left = command(&stage, &["ZCARD", &key]).await.as_int();
            assert_eq!(left, Some(1), "{round} leaves names in {key}");
        }
    }
}

#[tokio::test]
async fn with_memory_full_nothing_is_written_and_deleting_works() {
    let stage = Stage::redis().await;
    fill(&stage).await;
    let before = everything(&stage).await;
    command(&stage, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = [
        stage.backend.put(&place("a"), &write("3", "3")).await.err(),
        stage.backend.put(&place("new"), &write("3", "3")).await.err(),
        stage.backend.extend(&place("a"), 200_000).await.err(),
    ];
    for error in refused {
        let error = error.expect("memory is full");
        assert_eq!(error.kind(), ErrorKind::Rejected, "{}", error.chain());
    }
    assert_eq!(everything(&stage).await, before, "something was written");
    assert_eq!(stage.value(&place("a")).await, Ok(Some("2".to_owned())));
    assert_eq!(stage.list(&slice(&place("a"))).await.expect("a list").0, ["a"]);
    // Twice, as every step: it is remembered that it was deleted.
    assert_eq!(stage.delete(&place("a"), &token("5")).await, Ok(true));
    assert_eq!(stage.get(&place("a")).await, Ok(None));
}

#[tokio::test]
async fn a_document_takes_little_memory() {
    let stage = Stage::redis().await;
    let namespace = name("conversation_state");
    let data = "x".repeat(300);
    for number in 0..1000 {
        let place =
            crate::documents::backend::Place::new(&namespace, &name(&format!("{number:036}")));
        stage.stored(&place, &write(&data, "once")).await.expect("stored");
    }
    let mut bytes = 0;
    for key in keys(&stage, "*").await {
        // Marks go after a minute.
        if !key.contains("}:once:") {
            let usage = ["MEMORY", "USAGE", &key, "SAMPLES", "0"];
            bytes += command(&stage, &usage).await.as_int().expect("a number");
        }
    }
    assert!(bytes / 1000 < 900, "{} bytes for a value of 300", bytes / 1000);
}
