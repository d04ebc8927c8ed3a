//! A server that answers, and says no: loading, read-only, out of memory, unable to save.

use super::{SECOND, Scene, now, scene, take};
use coordinator_core::ErrorKind;
use coordinator_harness::{RedisServer, eventually};
use coordinator_locks::{LossReason, Outcome, Release, Renew};
use std::time::Duration;

async fn set(server: &RedisServer, key: &str, value: &str) {
    let answer = server.command(&["CONFIG", "SET", key, value]).await.expect("an answer");
    answer.ok().expect("a setting");
}

#[tokio::test]
async fn a_loading_server_is_waited_for_and_keeps_its_locks() {
    let Scene { server, locks, truth, proxy: _proxy } = scene().await;
    let guard = take(&locks, "held").await;
    let fill = "local x = string.rep('x', 25000)
        for i = 1, 400 do redis.call('SET', KEYS[1] .. i, x) end return 1";
    server.command(&["EVAL", fill, "1", "filler:"]).await.expect("an answer").ok().expect("keys");
    // Two seconds of loading, and a look at the clients every 2 MB or more often.
    set(&server, "rdbcompression", "no").await;
    set(&server, "key-load-delay", "5000").await;
    if server.version() >= (7, 0, 0) {
        set(&server, "loading-process-events-interval-bytes", "1024").await;
    }
    let reload = ["DEBUG", "RELOAD"];
    let loading = async {
        server.command(&reload).await.expect("an answer").ok().expect("a reload");
        set(&server, "key-load-delay", "0").await;
    };
    let asking = async {
        let mut refusals = 0;
        eventually(SECOND * 10, "it loads", async || {
            let before = now();
            let error = locks.named("b").with_wait(Duration::ZERO).acquire().await.err();
            assert!(before.elapsed() < SECOND, "{:?}", before.elapsed());
            refusals += usize::from(error.is_some_and(|error| error.is_retryable()));
            refusals > 3
        })
        .await;
        // Within the wait the server is back.
        locks.acquire("c").await.expect("an answer").acquired().expect("a free lock")
    };
    let ((), waited) = futures::join!(loading, asking);
    assert!(guard.is_valid());
    assert!(truth.try_acquire("held").await.expect("an answer").is_none());
    for guard in [guard, waited] {
        assert_eq!(guard.renew().await.expect("an answer"), Renew::Renewed);
        assert_eq!(guard.release().await.expect("an answer"), Release::Released);
    }
}

#[tokio::test]
async fn a_read_only_server_rejects_and_is_used_again_when_it_is_a_master_again() {
    let Scene { server, locks, truth: _truth, proxy: _proxy } = scene().await;
    let lock = locks.named("held").with_ttl(SECOND * 2);
    let guard = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    // Of a master that is not there: nothing replaces its data.
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).await.expect("an answer");
    let error = locks.acquire("b").await.expect_err("is read-only");
    assert_eq!(error.kind(), ErrorKind::Rejected, "{}", error.chain());
    // Nobody renews it: its holder hears of that by its own clock.
    let told = tokio::time::timeout(SECOND * 3, guard.lost()).await.expect("is told");
    assert_eq!(told, LossReason::Unreachable);
    server.command(&["REPLICAOF", "NO", "ONE"]).await.expect("an answer");
    let mut next = None;
    eventually(SECOND * 10, "it grants locks again", async || {
        next = locks.try_acquire("held").await.ok().flatten();
        next.is_some()
    })
    .await;
    assert!(next.expect("was taken").fence() > guard.fence());
}

#[tokio::test]
async fn with_memory_full_locks_are_kept_and_given_up_and_none_granted() {
    let Scene { server, locks, truth: _truth, proxy: _proxy } = scene().await;
    let lock = locks.named("held").with_ttl(SECOND * 3);
    let guard = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    let given_up = take(&locks, "given up").await;
    set(&server, "maxmemory", "1").await;
    let before = now();
    let error = locks.named("b").with_wait(SECOND * 5).acquire().await.expect_err("is full");
    assert_eq!(error.kind(), ErrorKind::Rejected, "{}", error.chain());
    assert!(before.elapsed() < SECOND, "waiting does not help: {:?}", before.elapsed());
    let first = guard.deadline();
    eventually(SECOND * 3, "the watchdog goes on", async || guard.deadline() > first).await;
    assert_eq!(guard.renew().await.expect("an answer"), Renew::Renewed);
    assert_eq!(given_up.release().await.expect("an answer"), Release::Released);
    assert_eq!(guard.release().await.expect("an answer"), Release::Released);
    set(&server, "maxmemory", "0").await;
    assert!(take(&locks, "b").await.is_valid());
}

#[tokio::test]
async fn a_server_that_cannot_save_rejects_and_its_holders_are_told_by_their_clock() {
    let Scene { server, locks, truth, proxy: _proxy } = scene().await;
    let lock = locks.named("held").with_ttl(SECOND * 2);
    let guard = lock.acquire().await.expect("an answer").acquired().expect("a free lock");
    // A folder where the file should be.
    let file = server.dir().join("dump.rdb");
    std::fs::create_dir(&file).expect("a folder");
    set(&server, "save", "900 1").await;
    server.command(&["BGSAVE"]).await.expect("an answer");
    let mut kind = None;
    let mut number = 0;
    eventually(SECOND * 10, "saving failed", async || {
        // Each time another: what was granted before cannot be given up any more.
        number += 1;
        let lock = locks.named(&format!("n{number}")).with_wait(Duration::ZERO);
        kind = lock.acquire().await.err().map(|error| error.kind());
        kind.is_some()
    })
    .await;
    assert_eq!(kind, Some(ErrorKind::Rejected));
    let told = tokio::time::timeout(SECOND * 3, guard.lost()).await.expect("is told");
    assert_eq!(told, LossReason::Unreachable);
    // Whoever waits longer than the trouble lasts is told of it at once all the same.
    assert!(locks.named("c").with_wait(SECOND * 5).acquire().await.is_err());
    std::fs::remove_dir(&file).expect("an empty folder");
    set(&server, "save", "").await;
    let next = locks.acquire("held").await.expect("an answer");
    assert!(matches!(next, Outcome::Acquired(next) if next.fence() > guard.fence()));
    assert!(truth.list().await.is_ok());
}
