//! `lock run --owner`: runs within runs, and runs that wait for each other.

use crate::support::{Desk, LONG, Site, done, finish, runs, written};
use coordinator::{
    Config, Coordinator,
    clock::ManualClock,
    locks::{Locks, Owner},
};
use coordinator_harness::eventually;
use serde_json::json;
use std::sync::Arc;
use tokio::task::JoinSet;

const FENCES: &str = "echo $COORDINATOR_LOCK $COORDINATOR_FENCE >> fences";

#[tokio::test]
async fn of_two_that_wait_for_each_other_one_is_told() {
    let (site, desk) = (Site::start().await, Desk::new());
    let start = |owner: &str, first: &str, second: &str| {
        let script = format!(
            "echo x > {owner}; until [ -e go ]; do sleep 0.01; done; \
             exec \"$BIN\" lock run {second} --wait 60s --owner {owner} -- true"
        );
        let args = ["lock", "run", first, "--owner", owner, "--", "sh", "-c", &script];
        desk.spawn(&site, &args)
    };
    let (one, two) = (start("one", "a", "b"), start("two", "b", "a"));
    written(&desk.file("one")).await;
    written(&desk.file("two")).await;
    desk.put("go");
    let (one, two) = tokio::join!(finish(one), finish(two));
    let (told, went_on) = if one.code == 0 { (two, one) } else { (one, two) };
    went_on.exits(0);
    let told = told.exits(1).complains("deadlock: ");
    let waits = ["one waits for b, held by two", "two waits for a, held by one"];
    let [first, second] = waits;
    let either = [format!(": {first}; {second}\n"), format!(": {second}; {first}\n")];
    assert!(either.iter().any(|cycle| told.stderr.ends_with(cycle)), "{told:?}");
    assert!(site.held().await.is_empty());
}

#[tokio::test]
async fn a_deadlock_is_told_in_json() {
    let (site, desk) = (Site::start().await, Desk::new());
    let script = "until [ -e done ]; do sleep 0.01; done";
    let holder = desk.spawn(&site, &["lock", "run", "a", "--owner", "x", "--", "sh", "-c", script]);
    site.key().await;
    // Not within that run: it would wait for its own name.
    let args = ["lock", "acquire", "a", "--ttl", "1m", "--wait", "60s", "--owner", "x"];
    let told = site.run(&[&args[..], &["--json"]].concat()).await.exits(1).json();
    let cycle = json!([{ "owner": "x", "lock": "a", "holder": "x" }]);
    assert_eq!(told, json!({ "acquired": false, "holder": null, "cycle": cycle }));
    let told = site.run(&args).await.exits(1).complains("deadlock: x waits for a, held by x");
    assert!(told.stdout.is_empty(), "{told:?}");
    desk.put("done");
    finish(holder).await.exits(0);
}

#[tokio::test]
async fn a_run_within_a_run_of_its_owner_enters_again() {
    let (site, desk) = (Site::start().await, Desk::new());
    let run = |name: &str, inner: &str| {
        format!("{FENCES}; \"$BIN\" lock run {name} --owner x -- sh -c '{inner}'")
    };
    let chain = run("b", &format!("{FENCES}; \"$BIN\" lock run a --owner x -- sh -c \"$LAST\""));
    let mut command =
        desk.command(&site, &["lock", "run", "a", "--owner", "x", "--", "sh", "-c", &chain]);
    command.env("LAST", format!("{FENCES}; echo $COORDINATOR_OWNER >> fences; exit 7"));
    done(command).await.exits(7);
    let lines = desk.lines("fences");
    let [outer, between, inner, owner] = &lines[..] else { panic!("{lines:?}") };
    assert!(outer.starts_with("a ") && between.starts_with("b "), "{lines:?}");
    assert_eq!(outer, inner);
    assert_eq!(owner, "x");
    assert!(site.held().await.is_empty());
}

#[tokio::test]
async fn who_comes_in_another_name_or_without_one_does_not_enter() {
    let (site, desk) = (Site::start().await, Desk::new());
    for options in ["", "--owner y", "--owner x"] {
        // The third has the right name, and a fence that is not the holder's.
        let held = if options == "--owner x" { "a=1" } else { "$COORDINATOR_HELD" };
        let script =
            format!("COORDINATOR_HELD=\"{held}\" exec \"$BIN\" lock run a {options} -- echo ran");
        let args = ["lock", "run", "a", "--owner", "x", "--", "sh", "-c", &script];
        let refused = finish(desk.spawn(&site, &args)).await.exits(1).complains("held by");
        assert!(refused.stdout.is_empty(), "{refused:?}");
    }
    // What is in the environment still, and held no more, is acquired.
    let mut command = desk.command(&site, &["lock", "run", "a", "--owner", "x", "--", "true"]);
    command.env("COORDINATOR_HELD", "a=1").env("COORDINATOR_OWNER", "x");
    done(command).await.exits(0);
}

/// A run within a run whose command ends by nothing but KILL; its outer run's options.
async fn stubborn(site: &Site, desk: &Desk, options: &[&str]) -> (tokio::process::Child, String) {
    let inner = "trap \"\" TERM; echo $$ > pid; while :; do sleep 0.01; done";
    let script = format!("exec \"$BIN\" lock run a --owner x -- sh -c '{inner}'");
    let args = [&["lock", "run", "a", "--owner", "x"], options, &["--", "sh", "-c", &script]];
    let outer = desk.spawn(site, &args.concat());
    let pid = written(&desk.file("pid")).await;
    (outer, pid)
}

#[tokio::test]
async fn what_the_outer_run_loses_ends_the_inner_ones_command() {
    let (site, desk) = (Site::start().await, Desk::new());
    let (outer, pid) = stubborn(&site, &desk, &["--ttl", "1s"]).await;
    let force = ["lock", "release", "a", "--force", "--reason", "a test"];
    site.run(&force).await.exits(0);
    finish(outer).await.exits(4);
    eventually(LONG, "it is dead", async || !runs(&pid)).await;
}

#[tokio::test]
async fn when_the_outer_run_dies_the_inner_one_notices() {
    let (site, desk) = (Site::start().await, Desk::new());
    let (mut outer, pid) = stubborn(&site, &desk, &["--ttl", "1s"]).await;
    outer.start_kill().expect("it runs");
    outer.wait().await.expect("an end");
    eventually(LONG, "it is dead", async || !runs(&pid)).await;
}

fn owner(locks: &Locks, name: &str) -> Owner {
    locks.owner(name).expect("a name")
}

#[tokio::test]
async fn a_deadlock_is_marked_in_the_graph() {
    let site = Site::start().await;
    // Its clock stands still between the two looks that a deadlock takes.
    let config = Config::from_url(&site.server.url()).expect("a URL");
    let config = config.with_prefix(&site.prefix).expect("a prefix");
    let config = config.with_clock(Arc::new(ManualClock::new()));
    let coordinator = Coordinator::with_config(config).await.expect("a connection");
    let locks = coordinator.locks();
    let (one, two) = (owner(locks, "one"), owner(locks, "two"));
    let mut guards = Vec::new();
    for (owner, name) in [(&one, "a"), (&two, "b")] {
        let outcome = owner.acquire(name).await.expect("an answer");
        guards.push(outcome.acquired().expect("a free lock"));
    }
    let mut waiting = JoinSet::new();
    for (owner, name) in [(one, "b"), (two, "a")] {
        let lock = owner.named(name);
        waiting.spawn(async move { lock.acquire().await.map(drop) });
        site.waited_for(name, 1).await;
    }
    let text = site.run(&["lock", "graph"]).await.exits(0).stdout;
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.lines().all(|line| line.ends_with(") (deadlock)")), "{text}");
    let dot = site.run(&["lock", "graph", "--dot"]).await.exits(0).stdout;
    assert_eq!(dot.matches("color=red").count(), 2, "{dot}");
    assert!(dot.contains("\"two\" -> \"one\" [label=\"a ("), "{dot}");
}
