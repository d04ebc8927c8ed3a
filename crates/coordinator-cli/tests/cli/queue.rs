//! Many `lock run` of one name: who is served when, and who is told of as waiting.

use crate::support::{Desk, Site, finish, send};
use coordinator_harness::Clock;
use rustix::process::Signal;
use std::collections::BTreeMap;
use tokio::process::Child;

/// A waiter that writes its number down when it is served, and stands in the queue on return.
async fn join(site: &Site, desk: &Desk, options: &[&str], number: usize, waiters: i64) -> Child {
    let script = format!("echo {number} >> served");
    let args = ["lock", "run", "job", "--wait", "60s"];
    let args = [&args[..], options, &["--", "sh", "-c", &script]].concat();
    let child = desk.spawn(site, &args);
    site.waited_for("job", waiters).await;
    child
}

#[tokio::test]
async fn ten_fair_runs_are_served_in_the_order_they_came() {
    let (site, desk) = (Site::start().await, Desk::new());
    let token = site.acquire("job").await;
    let mut children = Vec::new();
    for (number, waiters) in (0..10).zip(1..) {
        children.push(join(&site, &desk, &["--fair"], number, waiters).await);
    }
    site.release("job", &token).await;
    for child in children {
        finish(child).await.exits(0);
    }
    assert_eq!(desk.lines("served"), (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(site.held().await.is_empty());
}

#[tokio::test]
async fn a_higher_priority_overtakes() {
    let (site, desk) = (Site::start().await, Desk::new());
    let token = site.acquire("job").await;
    let children = [
        join(&site, &desk, &["--fair"], 0, 1).await,
        join(&site, &desk, &["--priority", "1"], 1, 2).await,
        join(&site, &desk, &["--priority", "100"], 2, 3).await,
        join(&site, &desk, &[], 3, 4).await,
    ];
    site.release("job", &token).await;
    for child in children {
        finish(child).await.exits(0);
    }
    assert_eq!(desk.lines("served"), ["2", "1", "0", "3"]);
}

#[tokio::test]
async fn a_priority_out_of_bounds_is_a_wrong_call() {
    let site = Site::start().await;
    for priority in ["--priority=101", "--priority=-1", "--priority=high"] {
        let call = ["lock", "run", "job", priority, "--", "true"];
        site.run(&call).await.exits(2).complains("--priority");
    }
    let call = ["lock", "acquire", "job", "--ttl", "1s", "--owner", ""];
    site.run(&call).await.exits(2);
}

/// What a command under the lock wrote down: seconds since the machine's start, and the wall clock.
struct Served {
    number: usize,
    at: f64,
    wall: i64,
}

fn read(line: &str) -> Served {
    let mut words = line.split(' ');
    let mut word = || words.next().expect("three words");
    Served {
        number: word().parse().expect("a number"),
        at: word().parse().expect("seconds"),
        wall: word().parse().expect("seconds"),
    }
}

fn uptime() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").expect("Linux");
    text.split(' ').next().and_then(|first| first.parse().ok()).expect("seconds")
}

#[tokio::test]
async fn of_fifty_processes_the_dead_cost_a_second_and_clocks_nothing() {
    const DEAD: [usize; 10] = [0, 1, 2, 17, 24, 25, 26, 27, 40, 41];
    const HOUR: i64 = 3600;
    let (site, desk) = (Site::start().await, Desk::new());
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let clocks = folders.each_ref().map(|folder| Clock::new(folder.path()).expect("a clock"));
    for (clock, hours) in clocks.iter().zip([-1, 1]) {
        clock.set_offset_us(hours * HOUR * 1_000_000).expect("a file");
    }
    // Every other one has the true time, the others an hour more or less.
    let hours = |number: usize| [0, -1, 0, 1][number % 4];

    let token = site.acquire("job").await;
    let mut children = BTreeMap::new();
    for (number, waiters) in (0..50).zip(1..) {
        let script = format!("read up _ < /proc/uptime; echo {number} $up $(date +%s) >> served");
        let args = ["lock", "run", "job", "--fair", "--wait", "2m", "--", "sh", "-c", &script];
        let mut command = desk.command(&site, &args);
        match hours(number) {
            0 => {}
            hours => {
                let clock = &clocks[usize::from(hours > 0)];
                command.envs(clock.env().expect("UTF-8"));
            }
        }
        children.insert(number, command.spawn().expect("the binary runs"));
        site.waited_for("job", waiters).await;
    }
    for number in DEAD {
        send(&children[&number], Signal::KILL);
    }
    let released = uptime();
    site.release("job", &token).await;
    for number in DEAD {
        let child = children.get_mut(&number).expect("a child");
        assert!(!child.wait().await.expect("an end").success());
        children.remove(&number);
    }
    for (_, child) in children {
        finish(child).await.exits(0);
    }

    let served: Vec<_> = desk.lines("served").iter().map(|line| read(line)).collect();
    let order: Vec<_> = served.iter().map(|served| served.number).collect();
    let living: Vec<_> = (0..50).filter(|number| !DEAD.contains(number)).collect();
    assert_eq!(order, living);

    // The clocks were off, or this proves nothing.
    let truth = served.iter().find(|served| hours(served.number) == 0).expect("one of them").wall;
    for Served { number, wall, .. } in &served {
        let off = wall - truth - hours(*number) * HOUR;
        assert!((-300..300).contains(&off), "{number}: {off} s");
    }

    // How long the lock took from one to the next, and those whose way led past the dead.
    let before = std::iter::once(released).chain(served.iter().map(|served| served.at));
    let gaps: Vec<_> = served
        .iter()
        .zip(before)
        .map(|(served, before)| (served.number, served.at - before))
        .collect();
    let past_dead = |number: usize| number > 0 && DEAD.contains(&(number - 1));
    let mut normal: Vec<_> =
        gaps.iter().filter(|(number, _)| !past_dead(*number)).map(|(_, gap)| *gap).collect();
    normal.sort_by(f64::total_cmp);
    let median = normal[normal.len() / 2];
    let slow: Vec<_> = gaps.iter().filter(|(number, _)| past_dead(*number)).collect();
    assert_eq!(slow.len(), 4, "{slow:?}");
    let extra: f64 = slow.iter().map(|(_, gap)| gap - median).sum();
    assert!(extra <= 1.0, "{extra} s beyond {median} s each: {slow:?}");
    eprintln!("past the dead {extra:.2} s beyond {median:.2} s each: {slow:?}");
    site.waited_for("job", 0).await;
    assert!(site.held().await.is_empty());
}

#[tokio::test]
async fn who_waits_is_told_of_in_words_and_as_a_graph() {
    let (site, desk) = (Site::start().await, Desk::new());
    let nobody = site.run(&["lock", "graph"]).await.exits(0).complains("nobody waits");
    assert!(nobody.stdout.is_empty(), "{nobody:?}");
    assert_eq!(site.run(&["lock", "graph", "--json"]).await.exits(0).stdout, "[]\n");
    let none = site.run(&["lock", "graph", "--dot"]).await.exits(0).stdout;
    assert_eq!(none, "digraph waits {\n}\n");

    let script = "until [ -e done ]; do sleep 0.01; done";
    let args = ["lock", "run", "a b", "--owner", "job-1", "--", "sh", "-c", script];
    let holder = desk.spawn(&site, &args);
    site.key().await;
    let owner = "a \"job\"\\\n2";
    let options = ["--wait", "60s", "--priority", "3", "--owner", owner];
    let args = [&["lock", "run", "a b"], &options[..], &["--", "true"]].concat();
    let waiter = desk.spawn(&site, &args);
    site.waited_for("a%20b", 1).await;
    let (holds, waits) = (holder.id().expect("it runs"), waiter.id().expect("it runs"));

    let text = site.run(&["lock", "graph"]).await.exits(0).stdout;
    let [line] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert!(line.starts_with("a \"job\"\\\\n2 ("), "{line}");
    assert!(line.contains(&format!(" pid {waits}) waits ")), "{line}");
    assert!(line.contains(" for a b, held by job-1 ("), "{line}");
    assert!(line.ends_with(&format!(" pid {holds})")), "{line}");

    let dot = site.run(&["lock", "graph", "--dot"]).await.exits(0).stdout;
    let edge = "  \"a \\\"job\\\"\\\\\\\\n2\" -> \"job-1\" [label=\"a b (";
    assert!(dot.starts_with("digraph waits {\n") && dot.ends_with("\n}\n"), "{dot}");
    assert!(dot.contains(edge), "{dot}");
    assert_eq!(dot.lines().count(), 3, "{dot}");
    site.run(&["lock", "graph", "--dot", "--json"]).await.exits(2).complains("--dot or --json");

    let json = site.run(&["lock", "graph", "--json"]).await.exits(0).json();
    assert_eq!(json[0]["lock"], "a b", "{json}");
    assert_eq!(json[0]["in_cycle"], false, "{json}");
    assert_eq!(json[0]["waiter"]["owner"], owner, "{json}");
    assert_eq!(json[0]["waiter"]["priority"], 3, "{json}");
    assert_eq!(json[0]["waiter"]["pid"], waits, "{json}");
    assert_eq!(json[0]["holder"]["owner"], "job-1", "{json}");
    assert_eq!(json[0]["holder"]["pid"], holds, "{json}");

    let shown = site.run(&["lock", "show", "a b"]).await.exits(0).stdout;
    let last = shown.lines().last().expect("lines");
    for part in [&waits.to_string(), "\\n2", " 3 "] {
        assert!(last.contains(part), "{shown}");
    }
    let listed = site.run(&["lock", "list"]).await.exits(0).stdout;
    assert!(listed.contains("LONGEST WAIT"), "{listed}");
    assert!(!listed.trim_end().ends_with('-'), "{listed}");
    desk.put("done");
    finish(holder).await.exits(0);
    finish(waiter).await.exits(0);
}
