//! Groups of consumers through faults of links and servers: work is lost to nobody.

use super::{SOON, Scene, connect, publish, scene};
use crate::{
    faults::{SECOND, background},
    topology::{cluster, config},
};
use coordinator_core::{ErrorKind, redis::Connection};
use coordinator_events::{Ack, Delivered, Events, Group, Published, Settled, Work};
use coordinator_harness::{Cluster, Proxy, RedisServer, Rule, eventually};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};
use tokio::task::JoinHandle;

pub(super) fn hash(step: &str) -> &'static str {
    let mut scripts = coordinator_events::SCRIPTS.iter();
    scripts.find(|script| script.name() == step).expect("a script").hash()
}

#[tokio::test]
async fn work_whose_take_and_ack_had_no_answer_is_no_dead_letter() {
    let Scene { proxy, events, truth, server: _server } = scene().await;
    publish(&truth, "s", 7).await;
    let group = |events: &Events| events.group("s", "g").expect("a group").with_max_deliveries(1);
    let mut one = group(&events).consumer("one").await.expect("a consumer");
    for step in ["events.take", "events.ack"] {
        proxy.rule(Rule::script(hash(step)).nth(1).on_reply().drop_frame());
    }
    let work = tokio::time::timeout(SOON, one.next::<u32>()).await.expect("in time");
    let Ok(Work::Delivery(delivery)) = work else { panic!("{work:?}") };
    assert_eq!((delivery.data, delivery.attempt()), (7, 1));
    let settled = tokio::time::timeout(SOON, delivery.ack()).await.expect("in time");
    assert_eq!(settled.expect("an answer"), Settled::Done);
    let status = group(&truth).status().await.expect("an answer").expect("it is there");
    assert_eq!((status.pending, status.dead), (0, 0));
}

#[tokio::test]
async fn a_consumer_that_may_not_take_is_told() {
    let builder = RedisServer::builder().config("user", "idle on >pw ~* &* +@all");
    let server = builder.start().await.expect("a server");
    let credentials = coordinator_core::config::Credentials::fixed(Some("idle"), "pw");
    let config = config(&server.url()).with_credentials(credentials);
    let connection = Connection::connect(config).await.expect("a connection");
    let events = Events::redis(&connection);
    let mut one = events.group("s", "g").expect("a group").consumer("one").await.expect("it reads");
    server.command(&["ACL", "SETUSER", "idle", "-zcard"]).await.expect("an answer");
    let refused = tokio::time::timeout(SOON, one.next::<u32>()).await.expect("in time");
    assert_eq!(refused.expect_err("it is forbidden").kind(), ErrorKind::Rejected);
}

#[tokio::test]
async fn work_goes_on_while_its_renewal_has_no_answer() {
    let server = crate::topology::builder().start().await.expect("a server");
    let proxy = Proxy::start(server.addr()).await.expect("a proxy");
    let connection = Connection::connect(config(&proxy.url()).with_command_timeout(SOON * 2));
    let events = Events::redis(&connection.await.expect("a connection"));
    publish(&events, "s", 0).await;
    let group = events.group("s", "g").expect("a group").with_lease(SECOND);
    let one = group.consumer("one").await.expect("a consumer");
    let held = proxy.rule(Rule::script(hash("events.defer")).on_request().hold());
    let (done, mut all_done) = tokio::sync::mpsc::unbounded_channel();
    let handler = |_: coordinator_events::Delivered<u32>| async {
        eventually(SOON, "it is renewed", async || held.hits() > 0).await;
        done.send(()).expect("somebody waits");
        Ok::<(), String>(())
    };
    tokio::select! {
        ended = one.run(handler) => panic!("it ended: {ended:?}"),
        heard = tokio::time::timeout(SOON, all_done.recv()) => assert_eq!(heard, Ok(Some(()))),
    }
}

/// Publishes as soon as a replica has it, too.
async fn publish_for_good(events: &Events, scope: &str, number: u32) {
    let key = format!("{scope}:{number}");
    let ack = Ack::Replicas { count: 1, within: SECOND };
    let again = async {
        loop {
            let published = events.publish(scope, "n", &number).idempotent(&key).ack(ack).await;
            match published {
                Ok(Published::New(_) | Published::Duplicate(_)) => return,
                Ok(other) => panic!("{other:?}"),
                Err(error) => assert!(error.is_retryable(), "{}", error.chain()),
            }
            tokio::time::sleep(SECOND / 100).await;
        }
    };
    tokio::time::timeout(SOON, again).await.expect("somebody publishes in time");
}

type Seen = Arc<Mutex<BTreeSet<u32>>>;

/// Consumers that work for as long as they are let, and what they have worked on.
fn workers(events: &Events, count: usize) -> (Seen, Vec<JoinHandle<()>>) {
    let seen = Seen::default();
    let workers = (0..count).map(|number| {
        let (seen, events) = (seen.clone(), events.clone());
        background(async move {
            let group = events.group("a", "g").expect("a group").with_lease(SECOND);
            let one = group.with_max_deliveries(1000).consumer(&format!("w{number}")).await;
            let handler = |given: Delivered<u32>| {
                let seen = seen.clone();
                async move {
                    seen.lock().expect("no panic").insert(given.data);
                    Ok::<(), String>(())
                }
            };
            let ended = one.expect("a consumer").run(handler).await;
            panic!("it ended: {ended:?}");
        })
    });
    (seen.clone(), workers.collect())
}

async fn all_done(seen: &Seen, workers: Vec<JoinHandle<()>>, group: &Group, count: u32) {
    eventually(SOON, "all is done", async || {
        let done = seen.lock().expect("no panic").iter().copied().eq(0..count);
        // What was done on a server that is gone is done again, and nothing waits.
        let status = group.status().await.ok().flatten();
        done && status.is_some_and(|status| status.pending == 0)
    })
    .await;
    let status = group.status().await.expect("an answer").expect("it is there");
    assert_eq!(status.dead, 0);
    for worker in workers {
        assert!(!worker.is_finished());
        worker.abort();
    }
}

/// The master that has a key of the scope `a`, and one of these keys.
async fn owner(all: &Cluster) -> (&RedisServer, String) {
    for node in all.masters() {
        let there = node.command(&["KEYS", "*:ev:a"]).await.expect("an answer");
        if let Some(key) = there.as_array().expect("keys").first() {
            return (node, key.as_str().expect("a key").to_owned());
        }
    }
    panic!("nobody has it")
}

#[tokio::test]
async fn work_outlasts_the_master_that_it_was_taken_from() {
    let all = cluster(3, 1).await;
    let events = Events::redis(&connect(&all.url()).await);
    publish_for_good(&events, "a", 0).await;
    let (seen, workers) = workers(&events, 3);
    let (master, _) = owner(&all).await;
    for number in 1..300 {
        if number == 100 {
            master.kill().await;
        }
        if number < 100 {
            publish_for_good(&events, "a", number).await;
        } else {
            super::servers::publish_soon(&events, "a", number).await;
        }
    }
    all_done(&seen, workers, &events.group("a", "g").expect("a group"), 300).await;
}

#[tokio::test]
async fn work_goes_with_a_slot_that_moves() {
    let all = cluster(3, 0).await;
    let connection = connect(&all.url()).await;
    let events = Events::redis(&connection);
    publish(&events, "a", 0).await;
    let (seen, workers) = workers(&events, 3);
    let publisher = {
        let events = events.clone();
        background(async move {
            for number in 1..300 {
                super::servers::publish_soon(&events, "a", number).await;
                tokio::time::sleep(SECOND / 200).await;
            }
        })
    };
    let (_, key) = owner(&all).await;
    for _ in 0..2 {
        super::servers::move_slot_of(&all, &key).await;
    }
    publisher.await.expect("no panic");
    all_done(&seen, workers, &events.group("a", "g").expect("a group"), 300).await;
}

/// A replica that was cut off before the work was taken knows nothing of it: what it is asked to
/// end is not done there, and is delivered again.
#[tokio::test]
async fn a_stale_replica_that_rules_does_not_call_done_what_it_never_lent() {
    let master = crate::topology::builder().start().await.expect("a server");
    let replica = crate::topology::builder().start().await.expect("a server");
    let proxy = Proxy::start(master.addr()).await.expect("a proxy");
    let ours = Connection::connect(config(&proxy.url()).with_command_timeout(SECOND)).await;
    let ours = ours.expect("a connection");
    let events = Events::redis(&ours);
    publish(&events, "a", 7).await;
    let port = master.port().to_string();
    let follow = ["REPLICAOF", "127.0.0.1", &port];
    replica.command(&follow).await.expect("an answer").ok().expect("it follows");
    eventually(SOON, "it has the event", async || {
        let keys = replica.command(&["KEYS", "*:ev:a"]).await.expect("an answer");
        keys.as_array().is_some_and(|keys| !keys.is_empty())
    })
    .await;
    replica.command(&["REPLICAOF", "NO", "ONE"]).await.expect("an answer").ok().expect("alone");
    let group = events.group("a", "g").expect("a group").with_lease(SOON);
    let mut one = group.consumer("one").await.expect("a consumer");
    let Ok(Work::Delivery(first)) = one.next::<u32>().await else { panic!("no work") };
    // The ack is done, and nobody hears of it; then the replica is where the master was.
    let lost = proxy.rule(Rule::script(hash("events.ack")).nth(1).on_reply().drop_frame());
    let ack = background(first.ack());
    lost.wait_hit().await;
    proxy.set_upstream(replica.addr());
    proxy.cut_all();
    let settled = tokio::time::timeout(SOON, ack).await.expect("in time").expect("no panic");
    assert_eq!(settled.expect("an answer"), Settled::Gone);
    let again = tokio::time::timeout(SOON, one.next::<u32>()).await.expect("in time");
    let Ok(Work::Delivery(again)) = again else { panic!("{again:?}") };
    assert_eq!((again.data, again.attempt()), (7, 1));
    assert_eq!(again.ack().await.expect("an answer"), Settled::Done);
}
