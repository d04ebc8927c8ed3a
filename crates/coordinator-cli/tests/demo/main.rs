//! The demonstration as its users run it: the real binary, real processes, a real server, and the
//! faults it is there to survive. Its parts are tested where they are.

mod run;

use coordinator_harness::{RedisServer, eventually};
use run::{Files, LONG, Run, coordinator, has_ended, json, output};
use rustix::process::Signal;
use serde_json::Value;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt as _, BufReader};

#[tokio::test]
async fn without_a_server_it_ends_ok() {
    let (code, text, said) = output(coordinator().args(["demo", "--seconds", "1"])).await;
    assert_eq!(code, Some(0), "{text}{said}");
    assert_eq!(text.lines().last(), Some("ok"), "{text}");
    assert!(!text.contains('✗'), "{text}");
    assert_eq!(said, "", "nothing is drawn where nobody looks");
}

#[tokio::test]
async fn its_document_has_the_keys_that_callers_rely_on() {
    let mut command = coordinator();
    command.args(["demo", "--seconds", "1", "--instances", "2", "--json"]);
    let (code, text, _) = output(&mut command).await;
    let document = json(&text);
    assert_eq!(code, Some(0), "{document}");
    assert_eq!(document["ok"], true, "{document}");
    assert_eq!(document["instances"], 2);
    assert_eq!(document["duplicates"], 0);
    assert_eq!(document["stale_writes_accepted"], 0);
    assert_eq!(document["over_admitted"], 0);
    assert!(document["limited"].is_u64(), "{document}");
    // At most as many as are generated, and the busiest surely came.
    for (key, most) in [("sessions", 48), ("documents", 24)] {
        let found = document[key].as_u64();
        assert!(found > Some(0) && found <= Some(most), "{document}");
    }
    assert_eq!((&document["sessions_lost"], &document["updates_lost"]), (&0.into(), &0.into()));
    assert_eq!(document["handled"], document["requests"]);
    assert!(document["requests"].as_u64().is_some_and(|it| it > 100), "{document}");
    assert!(document["seconds"].as_f64().is_some_and(|it| it >= 1.0), "{document}");
    for events in ["events_published", "events_delivered"] {
        assert_eq!(document[events], document["requests"], "{document}");
    }
    // Some were loaded, and some of those were asked for again.
    let (rate, requests) = (&document["cache_hit_rate"], &document["requests"]);
    let loads = requests.as_f64().expect("a number") * (1.0 - rate.as_f64().expect("a rate"));
    assert!(rate.as_f64() > Some(0.0) && loads >= 1.0, "{document}");
}

#[tokio::test]
async fn in_one_process_over_redis_every_line_is_handled_once() {
    let server = RedisServer::start().await.unwrap();
    let files = Files::new(500, 20);
    let mut command = coordinator();
    command
        .args(["demo", "--url", &server.url(), "--json", "--log"])
        .arg(files.log())
        .arg("--ledger")
        .arg(files.ledger());
    let (code, text, said) = output(&mut command).await;
    assert_eq!(code, Some(0), "{text}{said}");
    let document = json(&text);
    assert_eq!(document["handled"], 500);
    assert_eq!((&document["sessions"], &document["documents"]), (&20.into(), &500.into()));
    assert_eq!(document["cache_hit_rate"], 0.0, "each path comes once: {document}");
    files.check();
}

/// Runs 1000 requests for one path in this process alone, with more in hand at once than the limit
/// lets in, so that it is felt however slow the machine is.
async fn at_one_path(manners: &[&str]) -> (Option<i32>, Value) {
    let files = Files::with_paths(1000, 97, 1);
    let mut command = coordinator();
    command.args(["demo", "--json", "--instances", "32", "--log"]).arg(files.log()).args(manners);
    let (code, text, said) = output(&mut command).await;
    assert_eq!(said, "");
    (code, json(&text))
}

#[tokio::test]
async fn limits_that_are_felt_are_kept() {
    let (code, document) = at_one_path(&[]).await;
    assert_eq!(code, Some(0), "{document}");
    assert_eq!(document["handled"], 1000, "{document}");
    assert_eq!(document["over_admitted"], 0, "{document}");
    assert!(document["limited"].as_u64() > Some(0), "the limits were not felt: {document}");
    // 100 in every 250 ms.
    assert!(document["seconds"].as_f64() >= Some(2.25), "{document}");
}

#[tokio::test]
async fn planted_workers_that_take_more_than_is_allowed_are_found() {
    let (code, document) = at_one_path(&["--greedy"]).await;
    assert_eq!(code, Some(1), "{document}");
    assert_eq!(document["ok"], false, "{document}");
    assert_eq!(document["handled"], 1000, "{document}");
    assert!(document["over_admitted"].as_u64() > Some(0), "{document}");
}

#[tokio::test]
async fn planted_workers_that_count_without_compare_and_set_are_found() {
    let (code, document) = at_one_path(&["--hasty"]).await;
    assert_eq!(code, Some(1), "{document}");
    assert_eq!((&document["ok"], &document["handled"]), (&false.into(), &1000.into()));
    assert_eq!(document["sessions_lost"], 0, "{document}");
    assert!(document["updates_lost"].as_u64() > Some(0), "{document}");
}

#[tokio::test]
async fn planted_workers_that_do_not_tell_are_found() {
    let (code, document) = at_one_path(&["--forgetful"]).await;
    assert_eq!(code, Some(1), "{document}");
    assert_eq!((&document["ok"], &document["handled"]), (&false.into(), &1000.into()));
    assert_eq!(document["events_published"], 1000, "{document}");
    assert_eq!(document["events_delivered"], 1000 - 1000 / 7, "{document}");
}

#[tokio::test]
async fn two_killed_workers_lose_no_line_and_write_none_twice() {
    let server = RedisServer::start().await.unwrap();
    let files = Files::with_paths(2000, 97, 3);
    // Long work: a worker that is killed has something in hand, however busy the machine is.
    let run = Run::start(&server, &files, &["--work", "20ms"]).await;
    files.wait_for_all_workers().await;
    run.signal(0, Signal::KILL);
    files.wait_for(files.written() + 100).await;
    run.signal(2, Signal::KILL);
    assert!(files.written() < 2000, "the fault came too late to bite");
    let (code, document) = run.end().await;
    assert_eq!(code, Some(0), "{document}");
    assert_eq!(document["ok"], true, "{document}");
    assert_eq!(document["workers_lost"], 2, "{document}");
    assert_eq!(document["handled"], 2000, "{document}");
    assert!(document["reassigned"].as_u64() > Some(0), "{document}");
    assert_eq!(document["over_admitted"], 0, "{document}");
    assert_eq!(document["sessions_lost"], 0, "{document}");
    assert_eq!(document["updates_lost"], 0, "{document}");
    assert_eq!(document["events_published"], 2000, "{document}");
    assert_eq!(document["events_delivered"], 2000, "{document}");
    // Three paths: each process reads each of them from afar once, and few wait for the first load.
    assert!(document["cache_hit_rate"].as_f64() > Some(0.9), "{document}");
    files.check();
}

/// Stops a worker until the others have overtaken it at every client, and lets it run again.
async fn stopped_for_longer_than_its_lease(manners: &[&str]) -> Value {
    let server = RedisServer::start().await.expect("a server");
    let files = Files::new(800, 97);
    let run = Run::start(&server, &files, manners).await;
    files.wait_for_all_workers().await;
    run.signal(1, Signal::STOP);
    assert!(files.written() < 500, "the fault came too late to bite");
    // All but what it has in hand: the leases it held ran out, and others wrote.
    files.wait_for(800 - 8).await;
    run.signal(1, Signal::CONT);
    let (code, document) = run.end().await;
    assert_eq!(code, Some(0), "{document}");
    assert_eq!(document["ok"], true, "{document}");
    assert_eq!(document["stale_writes_accepted"], 0, "{document}");
    assert_eq!(document["workers_lost"], 0, "{document}");
    files.check();
    document
}

#[tokio::test]
async fn late_writes_of_a_worker_that_trusts_its_lost_lease_are_refused() {
    let document = stopped_for_longer_than_its_lease(&["--work", "20ms", "--careless"]).await;
    assert!(document["stale_writes_refused"].as_u64() > Some(0), "{document}");
}

#[tokio::test]
async fn a_worker_that_was_stopped_notices_and_goes_on() {
    stopped_for_longer_than_its_lease(&["--work", "20ms"]).await;
}

#[tokio::test]
async fn a_server_that_is_killed_and_restarted_does_not_end_it() {
    // What was kept survives, or sessions would rightly be missed.
    let server = RedisServer::builder().with_aof("always").start().await.unwrap();
    let files = Files::new(1000, 97);
    let run = Run::start(&server, &files, &["--work", "10ms"]).await;
    files.wait_for_all_workers().await;
    server.kill().await;
    assert!(files.written() < 1000, "the fault came too late to bite");
    server.start_again().await.unwrap();
    let (code, document) = run.end().await;
    assert_eq!(code, Some(0), "{document}");
    assert_eq!(document["workers_lost"], 0, "{document}");
    assert_eq!(document["events_delivered"], 1000, "{document}");
    files.check();
}

#[tokio::test]
async fn without_any_worker_it_fails_and_says_so() {
    let server = RedisServer::start().await.unwrap();
    let files = Files::new(2000, 97);
    let run = Run::start(&server, &files, &["--work", "5ms"]).await;
    files.wait_for_all_workers().await;
    for worker in 0..4 {
        run.signal(worker, Signal::KILL);
    }
    let (code, document) = run.end().await;
    assert_eq!(code, Some(1), "{document}");
    assert_eq!(document["ok"], false, "{document}");
    assert_eq!(document["workers_lost"], 4, "{document}");
    assert_eq!(document["duplicates"], 0, "{document}");
}

#[tokio::test]
async fn interrupted_it_tells_what_was_done() {
    let server = RedisServer::start().await.unwrap();
    let files = Files::new(2000, 97);
    let run = Run::start(&server, &files, &["--work", "5ms"]).await;
    files.wait_for_all_workers().await;
    run.signal_parent(Signal::INT);
    let pids = run.pids.clone();
    let (code, document) = run.end().await;
    assert_eq!(code, Some(1), "{document}");
    assert_eq!(document["ok"], false, "{document}");
    assert_eq!(document["workers_lost"], 0, "{document}");
    assert_eq!(document["handled"].as_u64(), Some(files.written() as u64));
    assert!(pids.into_iter().all(has_ended), "workers outlived the demo");
}

#[tokio::test]
async fn workers_end_when_their_parent_is_killed() {
    let server = RedisServer::start().await.unwrap();
    let files = Files::new(2000, 97);
    let mut run = Run::start(&server, &files, &["--work", "5ms"]).await;
    files.wait_for_all_workers().await;
    run.child.kill().await.unwrap();
    let pids = run.pids.clone();
    let ended = async || pids.iter().all(|pid| has_ended(*pid));
    eventually(LONG, "the workers have ended", ended).await;
}

#[tokio::test]
async fn wrong_calls_exit_2() {
    for (args, names) in [
        (&["--processes"][..], "--url"),
        (&["--processes", "--url", "embedded://"], "--url"),
        (&["--log", "/nowhere/at/all"], "/nowhere/at/all"),
        (&["--ledger", "/nowhere/at/all"], "/nowhere/at/all"),
        (&["--instances", "0"], "--instances"),
        (&["--worker", "x"], "--id"),
    ] {
        let (code, text, said) = output(coordinator().arg("demo").args(args)).await;
        assert_eq!(code, Some(2), "{args:?}: {said}");
        assert!(said.contains(names), "{args:?}: {said}");
        assert_eq!(text, "", "{args:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_exits_3() {
    let server = RedisServer::start().await.unwrap();
    server.kill().await;
    for more in [&["--processes"][..], &[]] {
        let mut command = coordinator();
        command.args(["demo", "--url", &server.url()]).args(more);
        let (code, _, said) = output(&mut command).await;
        assert_eq!(code, Some(3), "{said}");
        assert!(!said.is_empty());
    }
}

#[tokio::test]
async fn the_help_tells_of_what_users_need() {
    let (code, text, _) = output(coordinator().args(["demo", "--help"])).await;
    assert_eq!(code, Some(0));
    assert!(text.contains("--processes") && text.contains("Examples:"), "{text}");
    for hidden in ["--worker", "--careless", "--greedy", "--forgetful", "--work "] {
        assert!(!text.contains(hidden), "{hidden}: {text}");
    }
}

#[tokio::test]
async fn no_password_reaches_a_command_line() {
    let server = RedisServer::builder().config("requirepass", "hunter2").start().await.unwrap();
    let files = Files::new(2000, 97);
    let url = server.url().replace("redis://", "redis://:hunter2@");
    let mut child = coordinator()
        .args(["-v", "demo", "--processes", "--instances", "2", "--log"])
        .arg(files.log())
        .env("COORDINATOR_URL", url)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut seen = 0;
    while let Some(line) = lines.next_line().await.unwrap() {
        assert!(!line.contains("hunter2"), "{line}");
        if let Some((_, pid)) = line.split_once(": pid ") {
            let mut told = String::new();
            // For a moment a process that starts has no command line at all.
            eventually(LONG, "a command line", async || {
                let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).expect("it runs");
                told = String::from_utf8_lossy(&bytes).into_owned();
                !told.is_empty()
            })
            .await;
            assert!(told.contains("demo") && !told.contains("hunter2"), "{told}");
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}
