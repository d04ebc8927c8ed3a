//! What only the scripts can get wrong: keys of a wrong type, memory that is full, what a key
//! takes, what expires, and that they compile at all.

use super::{ask, call, name, place, stage::Stage};
use crate::{
    backend::{Ask, Call, Entry, How, Return, Standing},
    quota::{Precision, Quota},
    redis::SCRIPTS,
};
use coordinator_core::ErrorKind;
use coordinator_harness::RedisServer;
use std::time::Duration;

const MINUTE: Duration = Duration::from_mins(1);

async fn keys(server: &RedisServer, pattern: &str) -> Vec<String> {
    let keys = server.command(&["KEYS", pattern]).await.expect("an answer");
    let keys = keys.as_array().expect("keys");
    keys.iter().map(|key| key.as_str().expect("text").to_owned()).collect()
}

#[tokio::test]
async fn every_script_compiles_and_is_named_after_its_step() {
    let server = RedisServer::start().await.expect("a server");
    for script in SCRIPTS {
        let hash = server.command(&["SCRIPT", "LOAD", script.source()]).await.expect("an answer");
        assert_eq!(hash.as_str(), Some(script.hash()), "{}", script.name());
        assert!(script.name().starts_with("ratelimit."));
    }
}

/// Leaves something of every kind behind.
async fn everything(stage: &Stage) {
    let one = Quota::sliding_window(1, MINUTE).with_near_limit(0.5);
    let all = Call {
        once: Some((name("id{x}*"), MINUTE)),
        check_epochs: true,
        ..call(vec![
            ask("s:{b}*\n", &one, 1),
            ask("g", &Quota::gcra(1, MINUTE, 1), 1),
            ask("f", &Quota::fixed_window(1, MINUTE), 1),
        ])
    };
    let (_, standings) = stage.taken(&all).await.expect("taken");
    for _ in 0..3 {
        stage.taken(&call(all.asks.clone())).await.expect("denied");
    }
    for (ask, standing) in all.asks.iter().zip(&standings) {
        let back = Return {
            place: ask.place.clone(),
            terms: ask.terms,
            amount: 1,
            receipt: standing.receipt,
            once: None,
        };
        stage.backend.refund(&back).await.expect("given back");
    }
    stage.backend.reset_policy(&all.asks[0].place.series()).await.expect("reset");
    let slots = Quota::concurrency(1, MINUTE);
    let entry =
        Entry { place: place("c", &slots), terms: slots.terms, token: name("t"), unasked: Some(0) };
    stage.backend.enter(&entry).await.expect("entered");
    stage.backend.claim(0, &name("claim"), "me", MINUTE).await.expect("claimed");
}

#[tokio::test]
async fn every_key_is_in_its_shards_slot_and_expires() {
    let stage = Stage::redis().await;
    let server = stage.server.as_ref().expect("a server");
    everything(&stage).await;
    let found = keys(server, "*").await;
    for kind in [
        "use:",
        "denials:",
        "near:",
        "once:",
        "back:",
        "epoch:",
        "slots:",
        "claim:",
        "violations",
        "top",
        "latest",
    ] {
        let kind = format!("}}:{kind}");
        assert!(found.iter().any(|key| key.contains(&kind)), "no {kind} in {found:#?}");
    }
    for key in found {
        assert!(key.contains(":1:{r0}:"), "{key} is elsewhere");
        assert_eq!(key.matches(['{', '}', '*', '\n']).count(), 2, "{key:?}");
        let ttl = server.command(&["PTTL", &key]).await.expect("an answer").as_int();
        assert!(ttl > Some(0), "{key} never expires");
    }
}

#[tokio::test]
async fn a_key_of_a_wrong_type_is_corrupt_and_nothing_is_written() {
    for quota in [
        Quota::sliding_window(1, MINUTE),
        Quota::gcra(1, MINUTE, 1),
        Quota::fixed_window(1, MINUTE),
    ] {
        let stage = Stage::redis().await;
        let server = stage.server.as_ref().expect("a server");
        let (one, other) = (ask("a", &quota, 1), ask("b", &quota, 1));
        stage.taken(&call(vec![one.clone()])).await.expect("taken");
        let key = keys(server, "*").await.remove(0);
        server.command(&["DEL", &key]).await.expect("an answer");
        server.command(&["LPUSH", &key, "x"]).await.expect("an answer").ok().expect("a list");
        let error = stage.backend.take_all(&call(vec![other, one.clone()])).await;
        let error = error.expect_err("a list is no limit");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
        assert_eq!(keys(server, "*").await, [key], "something was written");
    }
}

#[tokio::test]
async fn with_memory_full_nothing_is_admitted_and_denials_are_answered() {
    let stage = Stage::redis().await;
    let server = stage.server.as_ref().expect("a server");
    let mut full = ask("a", &Quota::sliding_window(2, MINUTE), 2);
    stage.take(&full).await.expect("taken");
    full.cost = 1;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await.expect("an answer");
    let denied = stage.backend.take(&full).await.expect("an answer");
    assert_eq!(denied.taken, 0);
    assert!(keys(server, "*denials*").await.is_empty(), "there is no room for a count");
    for quota in [
        Quota::sliding_window(1, MINUTE),
        Quota::gcra(1, MINUTE, 1),
        Quota::fixed_window(1, MINUTE),
    ] {
        let error = stage.backend.take_all(&call(vec![ask("b", &quota, 1)])).await;
        assert_eq!(error.expect_err("is full").kind(), ErrorKind::Rejected);
    }
    // A log that is there takes no more either.
    full.terms.limit = 9;
    let error = stage.backend.take(&full).await.expect_err("is full");
    assert_eq!(error.kind(), ErrorKind::Rejected, "{}", error.chain());
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await.expect("an answer");
    assert_eq!(stage.backend.take(&full).await.expect("an answer").taken, 1);
}

#[tokio::test]
async fn a_key_stays_small_whatever_the_limit() {
    let mut stage = Stage::redis().await;
    for limit in [1_000_000, 100_000_000] {
        let quota = Quota::sliding_window(limit, MINUTE);
        // Five windows long, six entries for each granule, nearly full all the time.
        let one = ask(&format!("{limit}"), &quota, limit / 620);
        for _ in 0..3000 {
            stage.elapse(Duration::from_millis(100)).await;
            assert!(stage.take(&one).await.expect("an answer").taken > 0);
        }
        let server = stage.server.as_ref().expect("a server");
        let key = keys(server, &format!("*use*:{limit}")).await.remove(0);
        let bytes = server.command(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]).await;
        let bytes = bytes.expect("an answer").as_int().expect("a number");
        let entries = server.command(&["ZCARD", &key]).await.expect("an answer");
        assert!(bytes <= 2048, "limit {limit}: {bytes} bytes for {entries:?}");
    }
}

#[tokio::test]
async fn a_denial_never_touches_the_log() {
    let mut stage = Stage::redis().await;
    for precision in [Precision::Exact, Precision::Granules(10)] {
        let quota = Quota::sliding_window(20, MINUTE).with_precision(precision);
        let subject = format!("{precision:?}");
        let one = ask(&subject, &quota, 1);
        for _ in 0..20 {
            assert_eq!(stage.take(&one).await.expect("an answer").taken, 1);
            stage.elapse(Duration::from_secs(2)).await;
        }
        // Some have left the window by now, and still too much is asked for.
        stage.elapse(Duration::from_secs(21)).await;
        let many = Ask { cost: 20, ..one.clone() };
        let key = format!("*use*:{}", subject.replace('(', "%28").replace(')', "%29"));
        let key = {
            let server = stage.server.as_ref().expect("a server");
            keys(server, &key).await.remove(0)
        };
        let dump = async |stage: &Stage| {
            let server = stage.server.as_ref().expect("a server");
            let dump = server.command(&["DUMP", &key]).await.expect("an answer");
            let ends = server.command(&["PEXPIRETIME", &key]).await.expect("an answer");
            format!("{dump:?} {ends:?}")
        };
        let before = dump(&stage).await;
        for step in 0..10 {
            let standing: Standing = stage.take(&many).await.expect("an answer");
            assert_eq!(standing.taken, 0);
            let all = call(vec![Ask { how: How::IfItFits, ..many.clone() }]);
            stage.taken(&all).await.expect("an answer");
            stage.backend.peek(&all.asks).await.expect("an answer");
            // A little back, too.
            stage.set(stage.now() + if step % 3 == 0 { -300_000 } else { 400_000 }).await;
        }
        assert_eq!(dump(&stage).await, before);
    }
}

#[tokio::test]
async fn the_ranking_is_bounded_whoever_is_denied() {
    let stage = Stage::redis().await;
    let server = stage.server.as_ref().expect("a server");
    let denied = |subject: &str| ask(subject, &Quota::sliding_window(0, MINUTE), 1);
    stage.take(&denied("first")).await.expect("an answer");
    let fill = "for n = 1, ARGV[1] do redis.call('ZADD', KEYS[1], 1000 + n, 'x' .. n) end return 1";
    for (kind, most) in [("top", 1000), ("latest", 4000)] {
        let key = keys(server, &format!("*}}:{kind}")).await.remove(0);
        let filled = server.command(&["EVAL", fill, "1", &key, "5000"]).await.expect("an answer");
        assert_eq!(filled.as_int(), Some(1), "{filled:?}");
        stage.take(&denied(kind)).await.expect("an answer");
        let left = server.command(&["ZCARD", &key]).await.expect("an answer");
        assert_eq!(left.as_int(), Some(most), "{kind}");
        // Those with the least go.
        let newest = server.command(&["ZSCORE", &key, "x5000"]).await.expect("an answer");
        assert_eq!(newest.as_int(), Some(6000), "{kind}");
    }
}

#[tokio::test]
async fn an_alert_is_told_once_by_the_channels_that_the_server_has() {
    for classic in [false, true] {
        let stage =
            if classic { Stage::redis_with_classic_channels().await } else { Stage::redis().await };
        let server = stage.server.as_ref().expect("a server");
        let mut ear = stage.backend.listen(0).await.expect("heard");
        let denied = ask("a", &Quota::sliding_window(0, MINUTE), 1);
        stage.take(&denied).await.expect("an answer");
        tokio::time::timeout(Duration::from_secs(10), ear.next()).await.expect("it is told");
        let sharded = !classic && server.version() >= (7, 0, 0);
        let told = (server.calls_of("spublish").await, server.calls_of("publish").await);
        assert_eq!(told, if sharded { (1, 0) } else { (0, 1) }, "classic: {classic}");
    }
}

#[tokio::test]
async fn what_has_left_the_window_is_not_kept() {
    let mut stage = Stage::redis().await;
    let entries = async |stage: &Stage, subject: &str| {
        let server = stage.server.as_ref().expect("a server");
        let key = keys(server, &format!("*:use:*:{subject}")).await.remove(0);
        server.command(&["ZCARD", &key]).await.expect("an answer").as_int()
    };
    let quota = Quota::sliding_window(9, MINUTE);
    // Asked so rarely that all of it has left each time.
    let rare = ask("rare", &quota, 1);
    for _ in 0..5 {
        stage.take(&rare).await.expect("an answer");
        stage.take(&rare).await.expect("an answer");
        stage.elapse(MINUTE + Duration::from_secs(1)).await;
        stage.take(&rare).await.expect("an answer");
        // The head and the one that was just admitted.
        assert_eq!(entries(&stage, "rare").await, Some(2));
        stage.elapse(MINUTE + Duration::from_secs(1)).await;
    }
    // Nor does it stay behind a refund.
    let back = ask("back", &quota, 1);
    for _ in 0..3 {
        stage.take(&back).await.expect("an answer");
    }
    stage.elapse(MINUTE / 2).await;
    let newest = stage.take(&back).await.expect("an answer");
    // Each of the three has a µs of its own.
    stage.elapse(MINUTE / 2 + Duration::from_micros(3)).await;
    assert_eq!(entries(&stage, "back").await, Some(5));
    let back = Return {
        place: back.place,
        terms: back.terms,
        amount: 1,
        receipt: newest.receipt,
        once: None,
    };
    assert_eq!(stage.backend.refund(&back).await.expect("an answer"), 1);
    assert_eq!(entries(&stage, "back").await, Some(1));
}
