//! A server that is killed and started again, with and without what it had written down.

use super::{PATIENCE, created, live, revoked, standing};
use crate::{stage::config, topology::builder};
use coordinator_core::redis::Connection;
use coordinator_harness::{RedisServer, eventually};
use coordinator_sessions::{Filter, Lookup, NewSession, Patch, Rotation, Sessions, Token};

async fn sessions(server: &RedisServer) -> Sessions {
    let connection = Connection::connect(config(&server.url())).await.expect("a connection");
    Sessions::redis(&connection).with_reaping(None)
}

async fn is_back(sessions: &Sessions) {
    eventually(PATIENCE, "it is back", async || sessions.count(&Filter::all()).await.is_ok()).await;
}

async fn killed_and_started(server: &RedisServer, sessions: &Sessions, token: &Token) {
    server.kill().await;
    // Nobody takes this for a session that is not there.
    let error = sessions.load(token).await.expect_err("nobody answers");
    assert!(error.is_retryable(), "{}", error.chain());
    server.start_again().await.expect("it starts");
    is_back(sessions).await;
}

#[tokio::test]
async fn what_a_server_wrote_down_holds_after_its_crash() {
    let server = builder().with_aof("always").start().await.expect("a server");
    let sessions = sessions(&server).await;
    let mut ended = Vec::new();
    for round in 0..3 {
        let token = created(&sessions, NewSession::user("ann")).await;
        let patch = Patch::new().set("round", &round).expect("a value");
        assert!(sessions.patch(&token, patch).await.expect("an answer").is_live());
        let rotated = sessions.rotate(&token, Rotation::new()).await.expect("an answer");
        let next = rotated.live().expect("it lives").token().expect("a token");
        let gone = created(&sessions, NewSession::user("ann")).await;
        sessions.invalidate(&gone, "logout").await.expect("an answer");
        ended.push((gone, "logout"));
        let whole = created(&sessions, NewSession::user("bob")).await;
        sessions.revoke_user("bob", "left").await.expect("an answer");
        ended.push((whole, "left"));
        killed_and_started(&server, &sessions, &next).await;
        let session = live(&sessions, &next).await;
        assert_eq!(session.get::<u64>("round").expect("a value"), Some(round));
        assert_eq!(live(&sessions, &token).await.token(), Some(&next));
        for (token, reason) in &ended {
            assert_eq!(standing(&sessions, token).await, revoked(reason));
        }
        sessions.invalidate(&next, "logout").await.expect("an answer");
        ended.push((next, "logout"));
    }
    let compared = sessions.verify().await.expect("it is compared");
    assert_eq!((compared.sessions, compared.orphans, compared.missing), (0, 0, 0));
}

#[tokio::test]
async fn a_server_that_forgot_all_is_used_again_at_once() {
    let server = builder().start().await.expect("a server");
    let sessions = sessions(&server).await;
    let mut events = sessions.events().await.expect("they are heard");
    let token = created(&sessions, NewSession::user("ann")).await;
    killed_and_started(&server, &sessions, &token).await;
    assert_eq!(standing(&sessions, &token).await, Lookup::Absent);
    let patch = Patch::new().set("a", &1).expect("a value");
    assert_eq!(sessions.patch(&token, patch).await.expect("an answer"), Lookup::Absent);
    assert_eq!(super::count(&sessions).await, 0, "nothing was revived");
    // It does not even know the scripts.
    let after = created(&sessions, NewSession::user("after")).await;
    live(&sessions, &after).await;
    let heard = async {
        loop {
            if events.next().await.user.as_deref() == Some("after") {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("whoever listens hears on");
}
