//! Two hundred logins at once, and five sessions at most at every moment.

use super::{background, created, figures, standing};
use crate::{stage::config, topology::server};
use coordinator_core::{key::Name, redis::Connection};
use coordinator_harness::RedisServer;
use coordinator_sessions::{
    CapPolicy, Created, Filter, Lookup, NewSession, Rotated, Rotation, Sessions, Token,
};
use futures::future::join_all;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const LOGINS: usize = 200;
const MOST: u32 = 5;
/// How many look on.
const WATCHERS: usize = 4;

/// What somebody saw who looked on all the while.
#[derive(Debug, Default)]
struct Seen {
    looks: usize,
    most: i64,
}

/// Looks how many sessions a user has, again and again.
async fn watch(server: &RedisServer, key: String, over: &AtomicBool) -> Seen {
    let mut connection = server.connect().await.expect("a connection");
    let mut seen = Seen::default();
    while !over.load(Ordering::Acquire) {
        let many = connection.command(&["ZCARD", &key]).await.expect("an answer");
        seen.most = seen.most.max(many.as_int().expect("a number"));
        seen.looks += 1;
    }
    seen
}

/// A login: of somebody new, or with a session that was anonymous before.
async fn login(sessions: Sessions, moves: bool, pause: Duration) -> Option<Token> {
    // One by one is when somebody can look in between.
    tokio::time::sleep(pause).await;
    if moves {
        let token = created(&sessions, NewSession::anonymous()).await;
        let rotated = sessions.rotate(&token, Rotation::new().user("ann")).await;
        return match rotated.expect("an answer") {
            Lookup::Live(Rotated::Full { live }) => {
                assert!(live >= u64::from(MOST));
                None
            }
            Lookup::Live(rotated) => Some(rotated.token().expect("a token")),
            // Somebody else's login was later, and it had to go at once.
            Lookup::Revoked { reason } if reason == "cap" => None,
            gone => panic!("{gone:?}"),
        };
    }
    match sessions.create(NewSession::user("ann")).await.expect("an answer") {
        Created::Session(session) => session.token().cloned(),
        Created::Full { live } => {
            assert_eq!(live, u64::from(MOST));
            None
        }
        other => panic!("{other:?}"),
    }
}

async fn storm(policy: CapPolicy, moves: bool) {
    let server = server().await;
    let config = config(&server.url());
    let mut clients = Vec::new();
    let mut key = String::new();
    for _ in 0..4 {
        let connection = Connection::connect(config.clone()).await.expect("a connection");
        let shard = Name::new("ann").expect("a name").shard(64);
        key = connection.keyspace().shard("s", shard).key("u:ann", "");
        clients.push(Sessions::redis(&connection).with_reaping(None).with_cap(MOST, policy));
    }
    let over = Arc::new(AtomicBool::new(false));
    let (stop, truth) = (over.clone(), clients[0].clone());
    let logins = background(async move {
        let all = (0..LOGINS).map(|number| {
            let sessions = clients[number % clients.len()].clone();
            let pause = Duration::from_micros((number * 7919 % 150_000) as u64);
            background(login(sessions, moves && number % 2 == 0, pause))
        });
        let made = join_all(all.collect::<Vec<_>>()).await;
        stop.store(true, Ordering::Release);
        made.into_iter().filter_map(|made| made.expect("no panic")).collect::<Vec<_>>()
    });
    let watching = (0..WATCHERS).map(|_| watch(&server, key.clone(), &over));
    let all = join_all(watching).await;
    let seen = Seen {
        looks: all.iter().map(|seen| seen.looks).sum(),
        most: all.iter().map(|seen| seen.most).max().expect("some"),
    };
    let made = logins.await.expect("no panic");
    figures(&format!("{policy:?}, moves {moves}: {seen:?}, {} let in", made.len()));
    assert!(seen.most <= i64::from(MOST), "{policy:?}: {seen:?}");
    assert!(seen.most > 1 && seen.looks > 10, "INVALID: {seen:?}");
    assert_eq!(truth.count(&Filter::user("ann")).await.expect("a count"), u64::from(MOST));
    let mut alive = 0;
    for token in &made {
        match standing(&truth, token).await {
            Lookup::Live(()) => alive += 1,
            gone => assert_eq!(gone, super::revoked("cap")),
        }
    }
    assert_eq!(alive, MOST, "those that live are those that somebody has the token of");
    if policy == CapPolicy::Reject && !moves {
        assert_eq!(made.len(), 5);
    } else if !moves {
        assert_eq!(made.len(), LOGINS);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_logins_leave_five_sessions_at_every_moment() {
    for policy in [CapPolicy::Reject, CapPolicy::EvictOldest, CapPolicy::EvictLeastRecent] {
        for moves in [false, true] {
            storm(policy, moves).await;
        }
    }
}
