//! Servers that die, are replaced, or lose what they acknowledged; slots that move.

use super::{SOON, connect, item, number, open, publish};
use crate::{
    faults::{SECOND, background},
    topology::{builder, cluster, config, sentinel},
};
use coordinator_core::ErrorKind;
use coordinator_core::redis::Connection;
use coordinator_events::{Ack, Events, GapReason, Item, Position, Published, Subscription};
use coordinator_harness::{Cluster, eventually};

/// Publishes as soon as somebody takes it.
pub(super) async fn publish_soon(events: &Events, scope: &str, number: u32) {
    let key = format!("{scope}:{number}");
    let again = async {
        loop {
            let published = events.publish(scope, "n", &number).idempotent(&key).await;
            if matches!(published, Ok(Published::New(_) | Published::Duplicate(_))) {
                return;
            }
            tokio::time::sleep(SECOND / 100).await;
        }
    };
    tokio::time::timeout(SOON, again).await.expect("somebody publishes in time");
}

/// Events up to this number, and whether a gap of this reason was told on the way.
async fn up_to(subscription: &mut Subscription<u32>, last: u32, reason: GapReason) -> bool {
    let mut told = false;
    loop {
        match item(subscription).await {
            Item::Event(event) if event.data == last => return told,
            Item::Event(_) => {}
            Item::Gap(gap) => told |= gap.reason == reason,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_is_killed_and_started_again_loses_no_reader() {
    let server = builder().with_aof("always").start().await.expect("a server");
    let connection = connect(&server.url()).await;
    let events = Events::redis(&connection);
    let mut subscription = open(&events, "s", Position::Now).await;
    for round in 0..3 {
        for expected in 0..100 {
            publish_soon(&events, "s", round * 100 + expected).await;
        }
        server.restart().await.expect("it starts");
        // What was published before, and what is now: in another epoch, without a gap.
        publish_soon(&events, "s", round * 100 + 1000).await;
        for expected in 0..100 {
            assert_eq!(number(&mut subscription).await, round * 100 + expected);
        }
        assert_eq!(number(&mut subscription).await, round * 100 + 1000);
    }
}

#[tokio::test]
async fn a_stale_replica_that_is_promoted_is_told_and_stale_publishers_are_fenced() {
    let master = builder().start().await.expect("a server");
    let replica = builder().start().await.expect("a server");
    let follow = ["REPLICAOF", "127.0.0.1", &master.port().to_string()];
    replica.command(&follow).await.expect("an answer").ok().expect("it follows");
    let proxy = coordinator_harness::Proxy::start(master.addr()).await.expect("a proxy");
    let connection = connect(&proxy.url()).await;
    let prefix = connection.keyspace().prefix().to_owned();
    let events = Events::redis(&connection);
    let mut reader = open(&events, "s", Position::Now).await;
    let first = publish(&events, "s", 0).await;
    publish(&events, "s", 1).await;
    eventually(SOON, "the replica has both", async || {
        let keys = replica.command(&["KEYS", "*:ev:s"]).await.expect("an answer");
        let Some(key) = keys.as_array().and_then(|keys| keys.first()).and_then(|key| key.as_str())
        else {
            return false;
        };
        let length = replica.command(&["XLEN", key]).await.expect("an answer");
        length.as_int() == Some(2)
    })
    .await;
    // From here on it hears nothing more, and is promoted as it is.
    replica.command(&["REPLICAOF", "NO", "ONE"]).await.expect("an answer").ok().expect("it leads");
    let lost = publish(&events, "s", 2).await;
    for expected in 0..3 {
        assert_eq!(number(&mut reader).await, expected);
    }
    proxy.set_upstream(replica.addr());
    proxy.cut_all();
    // Somebody else publishes there first.
    let theirs = config(&replica.url()).with_prefix(&prefix).expect("a prefix");
    let theirs = Events::redis(&Connection::connect(theirs).await.expect("a connection"));
    publish_soon(&theirs, "s", 3).await;
    let position = theirs.position("s").await.expect("an answer");
    assert!(position.epoch() > first.epoch(), "another server, another epoch");
    assert!(up_to(&mut reader, 3, GapReason::RolledBack).await, "nobody told of what was lost");
    // Whoever resumes after what was lost, too; whoever comes from before it has lost nothing.
    let mut resumed = open(&theirs, "s", Position::After(lost)).await;
    assert!(up_to(&mut resumed, 3, GapReason::RolledBack).await);
    let mut earlier = open(&theirs, "s", Position::After(first)).await;
    assert_eq!(number(&mut earlier).await, 1);
    assert_eq!(number(&mut earlier).await, 3);
    // Who knows the old epoch alone is fenced, if it asks to be.
    let mut fenced = None;
    eventually(SOON, "the stale publisher is answered", async || {
        fenced = events.publish("s", "n", &9).fenced(lost).await.ok();
        fenced.is_some()
    })
    .await;
    assert_eq!(fenced, Some(Published::Fenced { epoch: position.epoch() }));
    publish_soon(&events, "s", 4).await;
    assert_eq!(number(&mut earlier).await, 4);
}

/// As a stale replica is promoted: one server is there in place of another, with less.
#[tokio::test]
async fn whoever_waited_for_a_server_looks_whose_reign_it_is_when_it_comes() {
    let (old, new) = (builder().start().await, builder().start().await);
    let (old, new) = (old.expect("a server"), new.expect("a server"));
    let proxy = coordinator_harness::Proxy::start(old.addr()).await.expect("a proxy");
    let connection = connect(&proxy.url()).await;
    let events = Events::redis(&connection);
    let follow = ["REPLICAOF", "127.0.0.1", &old.port().to_string()];
    for round in 0..5 {
        let scope = format!("s{round}");
        let first = publish(&events, &scope, 0).await;
        new.command(&follow).await.expect("an answer").ok().expect("it follows");
        eventually(SOON, "it has the scope", async || {
            let keys = new.command(&["KEYS", &format!("*:ev:{scope}")]).await.expect("an answer");
            keys.as_array().is_some_and(|keys| !keys.is_empty())
        })
        .await;
        new.command(&["REPLICAOF", "NO", "ONE"]).await.expect("an answer").ok().expect("it leads");
        publish(&events, &scope, 1).await;
        proxy.refuse(true);
        eventually(SOON, "the link is lost", async || {
            connection.state() == coordinator_core::health::State::Disconnected
        })
        .await;
        let back = async {
            proxy.set_upstream(new.addr());
            proxy.refuse(false);
        };
        let soon = async {
            loop {
                match events.publish(&scope, "n", &2).await {
                    Ok(published) => return published.cursor().expect("not fenced"),
                    Err(error) => assert!(error.is_retryable(), "{}", error.chain()),
                }
            }
        };
        let (waited, ()) = tokio::join!(soon, back);
        assert!(waited.epoch() > first.epoch(), "{waited} is in the past of another server");
        proxy.set_upstream(old.addr());
        proxy.cut_all();
        publish_soon(&events, &scope, 3).await;
    }
}

#[tokio::test]
async fn where_nobody_may_ask_whose_reign_it_is_other_events_with_the_same_ids_are_told() {
    // As after a failover without the fence: the same epoch goes on with other events.
    let server = builder().start().await.expect("a server");
    let connection = connect(&server.url()).await;
    let events = Events::redis(&connection);
    let mut reader = open(&events, "s", Position::Now).await;
    let mut cursors = Vec::new();
    for number in 0..6 {
        cursors.push(publish(&events, "s", number).await);
    }
    for expected in 0..6 {
        assert_eq!(number(&mut reader).await, expected);
    }
    let keys = server.command(&["KEYS", "*:ev:s"]).await.expect("an answer");
    let key = keys.as_array().expect("keys")[0].as_str().expect("a key").to_owned();
    let epoch = cursors[0].epoch();
    // The last three are gone, and three others have their ids.
    let entries = server.command(&["XRANGE", &key, "-", "+"]).await.expect("an answer");
    let entries = entries.as_array().expect("events").to_vec();
    server.command(&["DEL", &key]).await.expect("an answer");
    for (number, entry) in entries.iter().enumerate().take(6) {
        let fields = entry.as_array().expect("an event")[1].as_array().expect("fields").to_vec();
        let mut parts: Vec<Vec<u8>> = vec![
            b"XADD".to_vec(),
            key.clone().into_bytes(),
            format!("{epoch}-{number}").into_bytes(),
        ];
        for field in fields {
            let coordinator_harness::Resp::Bulk(Some(mut bytes)) = field else { panic!("a field") };
            // Another nonce is another event.
            if number >= 3 && bytes.len() > 20 {
                bytes[0] ^= 0xff;
            }
            parts.push(bytes);
        }
        server.command(&parts).await.expect("an answer").ok().expect("it is added");
    }
    // A failover cuts links.
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.expect("an answer");
    publish_soon(&events, "s", 6).await;
    // It goes back to where both agree, and has the others.
    let Item::Gap(gap) = item(&mut reader).await else { panic!("nobody told of it") };
    assert_eq!((gap.reason, gap.from, gap.to), (GapReason::RolledBack, cursors[5], cursors[2]));
    for expected in 3..=6 {
        assert_eq!(number(&mut reader).await, expected);
    }
    let mut resumed = open(&events, "s", Position::After(cursors[4])).await;
    let Item::Gap(gap) = item(&mut resumed).await else { panic!("nobody told of it") };
    assert_eq!(gap.reason, GapReason::RolledBack);
}

#[tokio::test]
async fn a_master_that_is_replaced_loses_no_reader() {
    let all = sentinel(1, 3).await;
    let connection = connect(&all.url()).await;
    let events = Events::redis(&connection);
    let mut reader = open(&events, "s", Position::Now).await;
    for number in 0..50 {
        publish_soon(&events, "s", number).await;
    }
    all.failover().await.expect("a failover");
    for number in 50..100 {
        publish_soon(&events, "s", number).await;
    }
    // What the old master alone had is told as gone; nothing is silent.
    let mut last = None;
    loop {
        match item(&mut reader).await {
            Item::Event(event) => {
                assert!(last.is_none_or(|last| event.data == last + 1), "{last:?} {}", event.data);
                last = Some(event.data);
                if event.data == 99 {
                    break;
                }
            }
            Item::Gap(_) => last = None,
            other => panic!("{other:?}"),
        }
    }
}

/// Moves the slot of a key, with all that is in it, to another master.
pub(super) async fn move_slot_of(all: &Cluster, key: &str) {
    let owner = all.owner_of(key).await.expect("an owner");
    let to = all.masters().iter().find(|node| node.port() != owner.port()).expect("another");
    let moving = all.begin_move(key, to).await.expect("it begins");
    let in_slot = owner.command(&["KEYS", "*"]).await.expect("an answer");
    let tag = key.split(['{', '}']).nth(1).expect("a tag");
    let in_slot: Vec<String> = in_slot
        .as_array()
        .expect("keys")
        .iter()
        .filter_map(|key| key.as_str().map(str::to_owned))
        .filter(|key| key.contains(&format!("{{{tag}}}")))
        .collect();
    moving.carry(&in_slot).await.expect("they move");
    moving.finish().await.expect("it ends");
}

#[tokio::test]
async fn a_slot_that_moves_loses_no_reader() {
    let all = cluster(3, 0).await;
    let connection = connect(&all.url()).await;
    let events = Events::redis(&connection);
    let mut readers = Vec::new();
    for scope in ["a", "b", "c", "d"] {
        readers.push((scope, open(&events, scope, Position::Now).await));
        publish(&events, scope, 0).await;
    }
    let publisher = {
        let events = events.clone();
        background(async move {
            for number in 1..400 {
                for scope in ["a", "b", "c", "d"] {
                    publish_soon(&events, scope, number).await;
                }
                tokio::time::sleep(SECOND / 200).await;
            }
        })
    };
    let mut keys = Vec::new();
    for node in all.masters() {
        let there = node.command(&["KEYS", "*:ev:a"]).await.expect("an answer");
        for key in there.as_array().expect("keys") {
            keys.push(key.as_str().expect("a key").to_owned());
        }
    }
    let key = &keys[0];
    for _ in 0..2 {
        move_slot_of(&all, key).await;
    }
    publisher.await.expect("no panic");
    for (scope, mut reader) in readers {
        for expected in 0..400 {
            assert_eq!(number(&mut reader).await, expected, "{scope}");
        }
    }
}

#[tokio::test]
async fn a_publish_waits_for_as_many_replicas_as_it_was_told_to() {
    let master = builder().start().await.expect("a server");
    let events = Events::redis(&connect(&master.url()).await);
    let acked = async |count, ms| {
        let ack = Ack::Replicas { count, within: SECOND * ms / 1000 };
        events.publish("s", "n", &count).ack(ack).await
    };
    // It is published, but nobody else has it.
    let error = acked(1, 100).await.expect_err("there is no replica");
    assert_eq!(error.kind(), ErrorKind::Indeterminate);
    assert_eq!(events.position("s").await.expect("an answer").number(), 0);
    let replica = builder().start().await.expect("a server");
    let follow = ["REPLICAOF", "127.0.0.1", &master.port().to_string()];
    replica.command(&follow).await.expect("an answer").ok().expect("it follows");
    eventually(SOON, "it follows", async || {
        let info = replica.command(&["INFO", "replication"]).await.expect("an answer");
        info.as_str().is_some_and(|info| info.contains("master_link_status:up"))
    })
    .await;
    assert!(matches!(acked(1, 5000).await, Ok(Published::New(_))));
    let keys = replica.command(&["KEYS", "*:ev:s"]).await.expect("an answer");
    let key = keys.as_array().expect("keys")[0].as_str().expect("a key").to_owned();
    let there = replica.command(&["XLEN", &key]).await.expect("an answer");
    assert_eq!(there.as_int(), Some(2));
    assert!(acked(2, 100).await.is_err());
}

#[tokio::test]
async fn an_event_that_a_server_never_had_is_acknowledged_by_none_of_its_replicas() {
    let server = builder().start().await.expect("a server");
    let events = Events::redis(&connect(&server.url()).await);
    let ack = Ack::Replicas { count: 0, within: SECOND };
    let first = events.publish("s", "n", &0).idempotent("k").ack(ack).await;
    assert!(matches!(first, Ok(Published::New(_))), "{first:?}");
    // As on a master that took over: what says that it was published came across, it did not.
    let keys = server.command(&["KEYS", "*:ev:s"]).await.expect("an answer");
    let key = keys.as_array().expect("keys")[0].as_str().expect("a key").to_owned();
    server.command(&["DEL", &key]).await.expect("an answer");
    let again = events.publish("s", "n", &0).idempotent("k").ack(ack).await;
    assert_eq!(again.expect_err("nobody has it").kind(), ErrorKind::Indeterminate);
    // One that went as old ones go was there.
    let old = events.publish("s", "n", &1).idempotent("old").ack(ack).await.expect("published");
    publish(&events, "s", 2).await;
    events.trim("s", old.cursor().expect("it is published")).await.expect("an answer");
    let again = events.publish("s", "n", &1).idempotent("old").ack(ack).await;
    assert!(matches!(again, Ok(Published::Duplicate(_))), "{again:?}");
}

#[tokio::test]
async fn a_fence_looks_whose_reign_it_is_each_time() {
    let server = builder().start().await.expect("a server");
    let events = Events::redis(&connect(&server.url()).await);
    let at = publish(&events, "s", 0).await;
    let fenced = async || events.publish("s", "n", &1).fenced(at).await.expect("an answer");
    assert!(matches!(fenced().await, Published::New(_)));
    // As on a node to which a cluster sends it on, over links that are as they were.
    let keys = server.command(&["KEYS", "*:reign:s"]).await.expect("an answer");
    let key = keys.as_array().expect("keys")[0].as_str().expect("a key").to_owned();
    server.command(&["SET", &key, "another", "KEEPTTL"]).await.expect("an answer");
    assert_eq!(fenced().await, Published::Fenced { epoch: at.epoch() });
    // Whoever asks for no fence and saw no sign of another server goes on.
    publish(&events, "s", 2).await;
}
