//! What every backend promises of the log, and what a client tells in it.

use super::{
    contract::{Case, Stage, Verdict, cases, ensure},
    embedded,
};
use crate::{
    LockEvent, Locks, LogEntry, Outcome,
    backend::{LOG, Line, Logged},
};
use std::time::Duration;

cases! {
    entries_bear_the_time_at_which_they_happened
    entries_delivered_twice_are_told_once
    the_newest_entries_are_kept
}

const SECOND: Duration = Duration::from_secs(1);

fn line(id: usize, age: Duration) -> Line {
    Line { id: format!("id{id}"), age, entry: vec![1, 0, 0xff] }
}

impl Stage {
    async fn logs(&self, lines: &[Line]) -> Verdict {
        self.backend.log(lines).await.map_err(|error| error.chain())
    }

    async fn reads(&self, since: Duration, limit: u64) -> Result<Vec<Logged>, String> {
        self.backend.read_log(since, limit).await.map_err(|error| error.chain())
    }
}

async fn entries_bear_the_time_at_which_they_happened(stage: Stage) -> Verdict {
    ensure!(stage.reads(SECOND, 10).await?.is_empty(), "a log that nobody wrote");
    stage.logs(&[line(1, SECOND * 60), line(2, SECOND * 20)]).await?;
    stage.elapse(SECOND * 30).await;
    stage.logs(&[line(3, Duration::ZERO)]).await?;
    let all = stage.reads(SECOND * 1000, 10).await?;
    ensure!(all.len() == 3, "not three: {all:?}");
    ensure!(all.iter().all(|read| read.entry == [1, 0, 0xff]), "another entry");
    let between = |one: usize, other: usize| all[one].at.saturating_sub(all[other].at);
    let about = |span: Duration, of: u32| span.abs_diff(SECOND * of) < SECOND * 9;
    ensure!(about(between(0, 1), 50), "a wrong age: {:?}", between(0, 1));
    ensure!(about(between(1, 2), 40), "a wrong age: {:?}", between(1, 2));
    ensure!(stage.reads(SECOND * 70, 10).await? == all[..2], "another age was told");
    ensure!(stage.reads(SECOND * 1000, 2).await? == all[..2], "more than asked for");
    ensure!(stage.reads(SECOND * 20, 10).await? == all[..1], "another age was told");
    Ok(())
}

async fn entries_delivered_twice_are_told_once(stage: Stage) -> Verdict {
    let (one, other) = (line(1, SECOND), line(2, SECOND * 2));
    stage.logs(&[one.clone(), other.clone()]).await?;
    stage.logs(&[one, other]).await?;
    stage.logs(&[line(3, SECOND)]).await?;
    let count = stage.reads(SECOND * 1000, 10).await?.len();
    ensure!(count == 3, "{count} were told");
    // What was told already takes no room.
    ensure!(stage.reads(SECOND * 1000, 3).await?.len() == 3, "a copy took an entry's place");
    Ok(())
}

async fn the_newest_entries_are_kept(stage: Stage) -> Verdict {
    for batch in 0..12 {
        let lines: Vec<_> = (0..1000).map(|n| line(batch * 1000 + n, Duration::ZERO)).collect();
        stage.logs(&lines).await?;
    }
    stage.logs(&[Line { entry: vec![2], ..line(0, Duration::ZERO) }]).await?;
    let kept = stage.reads(SECOND * 1000, 20_000).await?;
    ensure!((LOG - 1..LOG + 200).contains(&kept.len()), "{} are kept", kept.len());
    ensure!(kept[0].entry == [2], "the newest is not the first");
    Ok(())
}

async fn told(locks: &Locks) -> Vec<LogEntry> {
    locks.log(SECOND * 1000, 10_000).await.expect("the log")
}

fn words(entries: &[LogEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.event.name()).collect()
}

/// What one client does is told, by whom, in order, to another.
async fn is_told(stage: Stage) {
    let locks = Locks::over(stage.backend.clone());
    let peer = locks.peer();
    let guard = locks.named("a").with_task("t").acquire().await.expect("an answer");
    let guard = guard.acquired().expect("acquired");
    stage.elapse(SECOND).await;
    let fence = guard.fence();
    guard.release().await.expect("released");
    // Somebody dropped it, somebody was dispossessed, and somebody handed it on.
    drop(locks.acquire("b").await.expect("an answer"));
    let victim = locks.named("c").with_ttl(SECOND * 1000).acquire().await.expect("an answer");
    let Outcome::Acquired(victim) = victim else { panic!("{victim:?}") };
    stage.elapse(SECOND).await;
    peer.force_release("c", "why").await.expect("an answer").expect("it was held");
    stage.elapse(SECOND).await;
    assert!(victim.renew().await.is_ok());
    drop(victim);
    let detached = locks.acquire("d").await.expect("an answer").acquired().expect("acquired");
    let detached = detached.detach();
    stage.elapse(SECOND).await;
    peer.release("d", &detached.token).await.expect("released");
    assert!(locks.close(SECOND * 10).await);
    assert!(peer.close(SECOND * 10).await);

    let read = told(&Locks::over(stage.backend.clone())).await;
    let of = |lock: &str| -> Vec<LogEntry> {
        read.iter().filter(|entry| entry.lock == lock).cloned().collect()
    };
    assert!(read.is_sorted_by_key(|entry| entry.at));
    let a = of("a");
    assert_eq!(words(&a), ["acquired", "released"]);
    assert_eq!(a[0].event, LockEvent::Acquired { waited: None });
    let LockEvent::Released { held: Some(held) } = a[1].event else { panic!("{:?}", a[1]) };
    assert!(held >= SECOND, "{held:?}");
    assert_eq!((a[0].fence, a[0].task.as_deref()), (Some(fence), Some("t")));
    assert_eq!((&a[0].id, a[0].pid), (&a[1].id, std::process::id()));
    assert_eq!(words(&of("b")), ["acquired", "released"]);
    let mut c = of("c");
    assert_eq!(words(&c), ["acquired", "forced", "lost"]);
    // The victim is named.
    assert_eq!((&c[1].id, c[1].fence), (&c[0].id, c[0].fence));
    let LockEvent::Lost { reason, .. } = c.remove(2).event else { panic!("{c:?}") };
    assert_eq!(reason, crate::LossReason::ForceReleased);
    let LockEvent::Forced { reason, .. } = c.remove(1).event else { panic!("{c:?}") };
    assert_eq!(reason, "why");
    assert_eq!(words(&of("d")), ["acquired", "released"]);
    assert_eq!(of("d")[1].event, LockEvent::Released { held: None });
}

#[tokio::test]
async fn embedded_tells_what_happened() {
    is_told(embedded()).await;
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn redis_tells_what_happened() {
    is_told(super::scripts::redis().await).await;
}

#[tokio::test]
async fn what_exceeds_the_rate_is_counted() {
    let stage = embedded();
    let locks = Locks::over(stage.backend.clone());
    for _ in 0..700 {
        let guard = locks.acquire("a").await.expect("an answer").acquired().expect("acquired");
        guard.release().await.expect("released");
    }
    let read = told(&locks).await;
    let skipped: u64 = read
        .iter()
        .map(|entry| match entry.event {
            LockEvent::Skipped { count } => count,
            _ => 0,
        })
        .sum();
    assert_eq!(skipped, 400, "{} entries", read.len());
    assert_eq!(read.iter().filter(|entry| entry.lock == "a").count(), 1000);
    // The next second has room again.
    stage.elapse(SECOND).await;
    drop(locks.acquire("b").await.expect("an answer"));
    assert!(words(&told(&locks).await).ends_with(&["acquired", "released"]));
}

#[tokio::test]
async fn a_log_that_is_switched_off_says_nothing() {
    let locks = Locks::embedded().with_log(false);
    drop(locks.acquire("a").await.expect("an answer"));
    assert!(told(&locks).await.is_empty());
    assert!(told(&locks.peer()).await.is_empty());
}

#[cfg(feature = "redis")]
mod faults {
    use super::*;
    use coordinator_core::{Config, redis::Connection};
    use coordinator_harness::{RedisServer, eventually, fresh_prefix};

    const LONG: Duration = Duration::from_mins(1);

    async fn start() -> (RedisServer, Locks) {
        let server = RedisServer::start().await.expect("a server");
        let config = Config::from_url(&server.url()).expect("a URL");
        let config = config.with_prefix(&fresh_prefix()).expect("a prefix");
        let connection = Connection::connect(config).await.expect("a connection");
        (server, Locks::redis(&connection))
    }

    #[tokio::test]
    async fn what_happens_while_the_server_is_away_is_told_once_it_is_back() {
        let (server, locks) = start().await;
        let guard = locks.acquire("a").await.expect("an answer").acquired().expect("acquired");
        assert_eq!(words(&told(&locks).await), ["acquired"]);
        server.kill().await;
        drop(guard);
        // Nobody waits for the log for longer than for one attempt.
        locks.inner.journal.flush().await;
        server.start_again().await.expect("a restart");
        let peer = locks.peer();
        eventually(LONG, "it is told", async || {
            let read = peer.log(SECOND * 1000, 10).await;
            read.is_ok_and(|read| words(&read).contains(&"released"))
        })
        .await;
        let released = told(&peer).await.iter().filter(|e| e.event.name() == "released").count();
        assert_eq!(released, 1);
    }

    #[tokio::test]
    async fn what_full_memory_refuses_is_counted_and_harms_nobody() {
        let (server, locks) = start().await;
        let mut guards = Vec::new();
        for name in ["a", "c"] {
            let outcome = locks.acquire(name).await.expect("an answer");
            guards.push(outcome.acquired().expect("acquired"));
        }
        assert_eq!(words(&told(&locks).await), ["acquired", "acquired"]);
        server.command(&["CONFIG", "SET", "maxmemory", "1"]).await.expect("an answer");
        for guard in guards {
            guard.release().await.expect("released");
            locks.inner.journal.flush().await;
        }
        server.command(&["CONFIG", "SET", "maxmemory", "0"]).await.expect("an answer");
        drop(locks.acquire("b").await.expect("an answer"));
        eventually(LONG, "it is told", async || words(&told(&locks).await).contains(&"released"))
            .await;
        let mut read = told(&locks).await;
        read.retain(|entry| entry.lock.is_empty());
        assert_eq!(read.len(), 1, "{read:?}");
        assert_eq!(read[0].event, LockEvent::Skipped { count: 2 });
    }
}
