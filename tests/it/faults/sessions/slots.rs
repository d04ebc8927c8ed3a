//! Logins in a cluster while the slot of one shard moves to another node.

use super::{PATIENCE, SECOND, count, created, figures, live, shard_of};
use crate::{stage::config, topology::cluster};
use coordinator_core::{Error, key::Name, redis::Connection};
use coordinator_harness::{Cluster, Resp, eventually};
use coordinator_sessions::{Lookup, NewSession, Patch, Rotated, Rotation, Sessions, Token};
use futures::future::join_all;
use std::time::Duration;

/// Asks again while the slot is neither here nor there.
async fn patiently<T>(mut ask: impl AsyncFnMut() -> Result<T, Error>, failures: &mut u64) -> T {
    loop {
        match ask().await {
            Ok(told) => return told,
            Err(error) => assert!(error.is_retryable(), "{}", error.chain()),
        }
        *failures += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A session that logs in, is changed and switches its user, again and again; how often.
async fn live_on(sessions: &Sessions, number: u64, over: &std::cell::Cell<bool>) -> (u64, u64) {
    let (mut logins, mut failures) = (0_u64, 0);
    let mut token = patiently(
        async || {
            let new = NewSession::anonymous().set("logins", &0)?;
            created_or_error(sessions, new).await
        },
        &mut failures,
    )
    .await;
    while !over.get() {
        let user = format!("user {}", (logins + number) % 9);
        let login = Rotation::new().user(&user);
        let rotated =
            patiently(async || sessions.rotate(&token, login.clone()).await, &mut failures).await;
        let Lookup::Live(Rotated::Done(next)) = rotated else { panic!("{number}: {rotated:?}") };
        logins += 1;
        let patch = Patch::new().set("logins", &logins).expect("a value");
        let patched =
            patiently(async || sessions.patch(&next, patch.clone()).await, &mut failures).await;
        assert!(patched.is_live(), "{number}: {patched:?}");
        let found = patiently(async || sessions.load(&next).await, &mut failures).await;
        let session = found.live().expect("it lives");
        assert_eq!(session.get::<u64>("logins").expect("a number"), Some(logins));
        assert_eq!(session.user(), Some(user.as_str()));
        assert_eq!(shard_of(&next), Name::new(&user).expect("a name").shard(64));
        token = next;
    }
    (logins, failures)
}

async fn created_or_error(sessions: &Sessions, new: NewSession) -> Result<Token, Error> {
    let session = sessions.create(new).await?.session()?;
    Ok(session.token().expect("a new session has one").clone())
}

/// How often the nodes have answered with such an error.
async fn errors(all: &Cluster, kinds: &[&str]) -> u64 {
    let mut sum = 0;
    for node in all.nodes() {
        let info = node.command(&["INFO", "errorstats"]).await.and_then(Resp::ok);
        let info = info.expect("an answer");
        for line in info.as_str().expect("text").lines() {
            for kind in kinds {
                let count = line.strip_prefix(&format!("errorstat_{kind}:count="));
                sum += count.map_or(0, |count| count.parse::<u64>().expect("a number"));
            }
        }
    }
    sum
}

/// Moves a shard's slot to another node, and lets callers meet it halfway.
async fn move_slot(all: &Cluster, key: &str) {
    let from = all.owner_of(key).await.expect("an owner");
    let mut masters = all.masters().iter().cycle().skip_while(|node| node.port() != from.port());
    let to = masters.nth(1).expect("another");
    let before = errors(all, &["ASK", "TRYAGAIN"]).await;
    let moving = all.begin_move(key, to).await.expect("a move");
    let slot = from.command(&["CLUSTER", "KEYSLOT", key]).await.expect("a slot");
    let slot = slot.as_int().expect("a number").to_string();
    let keys = from.command(&["CLUSTER", "GETKEYSINSLOT", &slot, "1000"]).await.expect("keys");
    let keys = keys.as_array().expect("keys").iter().filter_map(Resp::as_str);
    let half: Vec<_> = keys.step_by(2).map(str::to_owned).collect();
    if !half.is_empty() {
        moving.carry(&half).await.expect("they are carried");
    }
    eventually(PATIENCE, "calls meet a slot that is half here and half there", async || {
        errors(all, &["ASK", "TRYAGAIN"]).await >= before + 3
    })
    .await;
    moving.finish().await.expect("its end");
}

#[tokio::test]
async fn logins_go_on_while_slots_move() {
    let all = cluster(2, 0).await;
    let connection = Connection::connect(config(&all.url())).await.expect("a connection");
    let sessions = Sessions::redis(&connection).with_reaping(None);
    let over = std::cell::Cell::new(false);
    let moves = async {
        let keyspace = connection.keyspace();
        for number in 0..4 {
            let shard = Name::new(&format!("user {}", number % 9)).expect("a name").shard(64);
            move_slot(&all, &keyspace.shard("s", shard).key("x", "")).await;
        }
        tokio::time::sleep(SECOND / 2).await;
        over.set(true);
    };
    let living = join_all((0..8).map(|number| live_on(&sessions, number, &over)));
    let (lived, ()) = futures::join!(living, moves);
    let (logins, failures) = lived.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let halfway = errors(&all, &["ASK", "TRYAGAIN"]).await;
    figures(&format!("slots: {logins} logins, {failures} tried again, {halfway} met halfway"));
    assert_eq!(count(&sessions).await, 8, "each of them lives once");
    let compared = sessions.verify().await.expect("it is compared");
    assert_eq!((compared.sessions, compared.orphans, compared.missing), (8, 0, 0));
    assert!(logins > 50 && halfway >= 12, "INVALID: {logins} logins, {halfway} halfway");
    let one = created(&sessions, NewSession::user("after")).await;
    live(&sessions, &one).await;
}
