//! `lock run`: the command's end, the lock's loss, signals, and what is left behind.

use crate::support::{Desk, LONG, Site, finish, runs, send, written};
use coordinator_harness::eventually;
use rustix::process::Signal;
use tokio::process::Child;

impl Desk {
    /// `lock run n [options] -- sh -c script`, in the folder.
    fn run(&self, site: &Site, options: &[&str], script: &str) -> Child {
        self.spawn(site, &[&["lock", "run", "n"], options, &["--", "sh", "-c", script]].concat())
    }
}

#[tokio::test]
async fn the_commands_own_end_is_ours() {
    let site = Site::start().await;
    let shell = |script| site.run_shell(script);
    for code in [0, 1, 2, 3, 4, 7, 255] {
        let done = shell(format!("exit {code}")).await.exits(code);
        assert!(done.stderr.is_empty(), "{done:?}");
    }
    for signal in [9, 15] {
        shell(format!("kill -{signal} $$")).await.exits(128 + signal);
    }
    let absent = ["lock", "run", "n", "--", "/no/such/command"];
    site.run(&absent).await.exits(127).complains("/no/such/command");
    let barred = ["lock", "run", "n", "--", "/etc/passwd"];
    site.run(&barred).await.exits(126).complains("/etc/passwd");
    assert!(site.held().await.is_empty());
}

#[tokio::test]
async fn the_command_is_told_its_fence() {
    let site = Site::start().await;
    let script = "echo $COORDINATOR_LOCK $COORDINATOR_FENCE".to_owned();
    let mut last = 0;
    for _ in 0..3 {
        let said = site.run_shell(script.clone()).await.exits(0).stdout;
        let (name, fence) = said.trim().split_once(' ').expect("two words");
        let fence: u64 = fence.parse().expect("a number");
        assert_eq!(name, "n");
        assert!(fence > last, "{fence} after {last}");
        last = fence;
    }
}

#[tokio::test]
async fn who_finds_it_held_is_told_by_whom() {
    let site = Site::start().await;
    site.acquire("n").await;
    for options in [&[][..], &["--wait", "0s"], &["--wait", "50ms"]] {
        let args = [&["lock", "run", "n"], options, &["--", "echo", "ran"]].concat();
        let done = site.run(&args).await.exits(1).complains("held by");
        assert!(done.stdout.is_empty(), "{done:?}");
    }
}

#[tokio::test]
async fn twenty_at_once_take_turns() {
    let (site, desk) = (Site::start().await, Desk::new());
    let script = "v=$(cat f); sleep 0.02; echo $((v+1)) > f";
    std::fs::write(desk.file("f"), "0\n").expect("a file");
    let started: Vec<_> = (0..20).map(|_| desk.run(&site, &["--wait", "60s"], script)).collect();
    for child in started {
        finish(child).await.exits(0);
    }
    assert_eq!(written(&desk.file("f")).await, "20");
    assert!(site.held().await.is_empty());
}

#[tokio::test]
async fn a_command_outlives_many_ttls() {
    let (site, desk) = (Site::start().await, Desk::new());
    let script = "echo x > ready; until [ -e done ]; do sleep 0.01; done";
    let child = desk.run(&site, &["--ttl", "1s"], script);
    written(&desk.file("ready")).await;
    let renewals = async || site.server.calls_of("evalsha").await;
    let before = renewals().await;
    eventually(LONG, "it is renewed", async || renewals().await >= before + 10).await;
    std::fs::write(desk.file("done"), "").expect("a file");
    finish(child).await.exits(0);
    assert!(site.held().await.is_empty());
}

#[tokio::test]
async fn on_loss_the_command_may_tidy_up() {
    let (site, desk) = (Site::start().await, Desk::new());
    let script = "exec 2> /dev/null; trap 'echo x > tidied; exit 0' TERM; echo x > ready; \
                  while :; do sleep 0.01; done";
    let child = desk.run(&site, &["--ttl", "1s"], script);
    written(&desk.file("ready")).await;
    let key = site.key().await;
    let deleted = site.server.command(&["DEL", &key]).await;
    assert_eq!(deleted.expect("DEL is answered").as_int(), Some(1));
    finish(child).await.exits(4).complains("lost");
    written(&desk.file("tidied")).await;
    assert!(site.held().await.is_empty());
}

#[tokio::test]
async fn on_loss_whoever_ignores_term_is_killed_with_its_children() {
    let (site, desk) = (Site::start().await, Desk::new());
    let script = "trap '' TERM; (trap '' TERM; while :; do sleep 0.01; done) & \
                  echo $! > grandchild; echo $$ > child; wait";
    let child = desk.run(&site, &["--ttl", "1s"], script);
    let pids = [desk.file("child"), desk.file("grandchild")];
    let pids = [written(&pids[0]).await, written(&pids[1]).await];
    let force = ["lock", "release", "n", "--force", "--reason", "a test"];
    site.run(&force).await.exits(0);
    finish(child).await.exits(4).complains("by force");
    for pid in &pids {
        eventually(LONG, "it is dead", async || !runs(pid)).await;
    }
    assert!(site.held().await.is_empty());
}

#[tokio::test]
async fn a_server_that_dies_loses_the_lock() {
    let (site, desk) = (Site::start().await, Desk::new());
    let child = desk.run(&site, &["--ttl", "1s"], "echo x > ready; exec sleep 600");
    written(&desk.file("ready")).await;
    site.server.kill().await;
    let done = finish(child).await.exits(4);
    assert!(done.stderr.contains("was lost"), "{done:?}");
}

#[tokio::test]
async fn a_command_that_hangs_holds_it_no_longer_than_said() {
    let (site, desk) = (Site::start().await, Desk::new());
    let options = ["--ttl", "1s", "--max-hold", "1s"];
    let child = desk.run(&site, &options, "exec sleep 600");
    finish(child).await.exits(4).complains("lost");
    assert!(site.held().await.is_empty());
}

#[tokio::test]
async fn a_loss_that_nobody_noticed_in_time_is_a_loss() {
    let (site, desk) = (Site::start().await, Desk::new());
    let script = "echo x > ready; until [ -e done ]; do sleep 0.01; done";
    let child = desk.run(&site, &["--ttl", "10m"], script);
    written(&desk.file("ready")).await;
    let force = ["lock", "release", "n", "--force", "--reason", "a test"];
    site.run(&force).await.exits(0);
    let token = site.acquire("n").await;
    std::fs::write(desk.file("done"), "").expect("a file");
    finish(child).await.exits(4).complains("lost");
    // And its late release did not touch the successor's.
    site.run(&["lock", "release", "n", "--token", &token]).await.exits(0);
}

#[tokio::test]
async fn a_release_that_fails_is_told_and_the_code_is_the_commands() {
    let (site, desk) = (Site::start().await, Desk::new());
    let script = "echo x > ready; until [ -e done ]; do sleep 0.01; done; exit 7";
    let child = desk.run(&site, &["--ttl", "10m", "--timeout", "200ms"], script);
    written(&desk.file("ready")).await;
    site.server.pause().expect("it can be stopped");
    std::fs::write(desk.file("done"), "").expect("a file");
    finish(child).await.exits(7).complains("could not be released");
}

#[tokio::test]
async fn signals_reach_the_command_and_leave_no_lock() {
    for (signal, word, code) in
        [(Signal::INT, "INT", 130), (Signal::TERM, "TERM", 143), (Signal::HUP, "HUP", 129)]
    {
        let (site, desk) = (Site::start().await, Desk::new());
        let child = desk.run(&site, &[], "echo x > ready; exec sleep 600");
        written(&desk.file("ready")).await;
        send(&child, signal);
        finish(child).await.exits(code);
        assert!(site.held().await.is_empty());

        let desk = Desk::new();
        let script = format!(
            "exec 2> /dev/null; trap 'echo x > heard; exit 5' {word}; \
             echo x > ready; while :; do sleep 0.01; done"
        );
        let child = desk.run(&site, &[], &script);
        written(&desk.file("ready")).await;
        send(&child, signal);
        finish(child).await.exits(5);
        written(&desk.file("heard")).await;
        assert!(site.held().await.is_empty());
    }
}

#[tokio::test]
async fn who_is_interrupted_while_waiting_leaves_nothing() {
    let site = Site::start().await;
    let token = site.acquire("n").await;
    let waiting = [
        site.spawn(&["lock", "run", "n", "--wait", "10m", "--", "true"]),
        site.spawn(&["lock", "acquire", "n", "--ttl", "10m", "--wait", "10m"]),
    ];
    site.waited_for("n", 2).await;
    for child in waiting {
        send(&child, Signal::INT);
        let done = finish(child).await.exits(130);
        assert!(done.stdout.is_empty(), "{done:?}");
    }
    site.run(&["lock", "release", "n", "--token", &token]).await.exits(0);
    assert!(site.held().await.is_empty());
}

#[tokio::test]
async fn what_our_caller_ignores_stays_ignored() {
    let (site, desk) = (Site::start().await, Desk::new());
    let binary = env!("CARGO_BIN_EXE_coordinator");
    let inner = "echo x > ready; until [ -e done ]; do sleep 0.01; done";
    let mut command = tokio::process::Command::new("sh");
    command
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh", binary])
        .args(["--url", &site.server.url(), "--prefix", &site.prefix])
        .args(["lock", "run", "n", "--", "sh", "-c", inner])
        .current_dir(desk.folder.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let child = command.spawn().expect("a shell");
    written(&desk.file("ready")).await;
    send(&child, Signal::HUP);
    // Had it been heard, the command would have been ended by it: 129.
    std::fs::write(desk.file("done"), "").expect("a file");
    finish(child).await.exits(0);
}

impl Site {
    async fn run_shell(&self, script: String) -> crate::support::Done {
        let args = ["lock", "run", "n", "--", "sh", "-c", &script];
        self.run(&args).await
    }
}
