//! `events …` as shells call it: what is published comes once and in order, through a restart too.

use crate::support::{DEAD, Done, LONG, SOON, Site, binary, done, fed, finish, keys};
use coordinator_harness::{RedisServer, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout},
};

const EVENT: [&str; 6] = ["data", "id", "scope", "source", "time", "type"];

impl Site {
    async fn events(&self, args: &[&str]) -> Done {
        self.run(&[&["--json", "events"], args].concat()).await
    }

    /// Publishes `data` in the scope `s`; its id.
    async fn publish(&self, kind: &str, data: &str) -> String {
        let published = self.events(&["publish", "s", kind, data]).await.exits(0).json();
        published["id"].as_str().expect("an id").to_owned()
    }

    async fn position(&self) -> String {
        let at = self.events(&["position", "s"]).await.exits(0).json();
        at["id"].as_str().expect("an id").to_owned()
    }

    fn tail(&self, args: &[&str]) -> Tail {
        let mut child = self.spawn(&[&["events", "tail", "s"], args].concat());
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Tail { child, lines }
    }

    /// Waits until somebody listens.
    async fn is_followed(&self) {
        eventually(LONG, "somebody listens", async || {
            self.server.channels().await.is_ok_and(|channels| !channels.is_empty())
        })
        .await;
    }
}

/// A running `events tail`.
struct Tail {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Tail {
    async fn line(&mut self) -> Option<Value> {
        let line = tokio::time::timeout(LONG, self.lines.next_line()).await.expect("a line");
        line.expect("a pipe").map(|line| serde_json::from_str(&line).expect("JSON"))
    }
}

fn lines(done: &Done) -> Vec<Value> {
    done.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test]
async fn what_is_published_is_told_with_what_is_known_of_it() {
    let site = Site::start().await;
    assert_eq!(site.position().await, "0-0");
    let data = r#"{"b": 123456789012345678901234567890, "a": [1.50, "é\n"]}"#;
    let call = ["publish", "s", "made", data, "--key", "k"];
    let first = site.events(&call).await.exits(0).json();
    assert!(keys(&first).into_iter().eq(["duplicate", "id"]), "{first}");
    assert_eq!(first["duplicate"], false);
    let second = site.events(&call).await.exits(0).json();
    assert_eq!(second["duplicate"], true);
    let id = first["id"].as_str().expect("an id");
    assert!(id.starts_with(second["id"].as_str().expect("an id")), "{first} {second}");
    assert_eq!(site.position().await, id);
    // By stdin, over several lines; without --json the id alone.
    let piped = fed(site.command(&["events", "publish", "s", "piped"]), "[1,\n 2]\n").await;
    let piped = piped.exits(0).stdout;
    let tail = site.events(&["tail", "s", "--from", "earliest", "--count", "2"]).await.exits(0);
    let told = lines(&tail);
    for event in &told {
        assert!(keys(event).into_iter().eq(EVENT), "{event}");
    }
    assert_eq!((&told[0]["id"], &told[0]["type"]), (&first["id"], &"made".into()));
    assert_eq!((&told[0]["scope"], &told[0]["source"]), (&"s".into(), &"coordinator".into()));
    assert!(told[0]["time"].as_str().is_some_and(|at| at.ends_with('Z')), "{told:?}");
    assert!(tail.stdout.contains(data), "numbers keep their digits: {tail:?}");
    assert_eq!((&told[1]["id"], &told[1]["data"]), (&piped.trim().into(), &json!([1, 2])));
}

#[tokio::test]
async fn a_tail_tells_what_was_asked_for() {
    let site = Site::start().await;
    let mut ids = Vec::new();
    for number in 0..6 {
        let kind = if number % 2 == 0 { "task_even" } else { "odd" };
        ids.push(site.publish(kind, &number.to_string()).await);
    }
    let data = async |args: &[&str]| {
        let tail = site.events(&[&["tail", "s"], args].concat()).await.exits(0);
        lines(&tail).iter().map(|event| event["data"].as_u64()).collect::<Vec<_>>()
    };
    let after = ["--from", &*ids[2], "--count", "2"];
    assert_eq!(data(&after).await, [Some(3), Some(4)]);
    let even = ["--from", "earliest", "--types", "task_*", "--count", "2"];
    assert_eq!(data(&even).await, [Some(0), Some(2)]);
    let both = ["--from", "earliest", "--types", "task_*", "--types", "o?d", "--count", "3"];
    assert_eq!(data(&both).await, [Some(0), Some(1), Some(2)]);
    // What was there before is not told to whoever asks for what is new.
    let mut now = site.tail(&["--count", "1"]);
    site.is_followed().await;
    // It may have begun to listen, and not yet have asked where the scope ends.
    let later = loop {
        site.publish("later", "6").await;
        let line = tokio::time::timeout(Duration::from_millis(200), now.lines.next_line()).await;
        if let Ok(line) = line {
            break line.expect("a pipe").expect("a line");
        }
    };
    let later: Value = serde_json::from_str(&later).expect("JSON");
    assert_eq!((&later["type"], &later["data"]), (&"later".into(), &6.into()));
    finish(now.child).await.exits(0);
}

#[tokio::test]
async fn what_was_missed_is_counted_on_a_line_of_its_own() {
    let site = Site::start().await;
    let first = site.publish("n", "0").await;
    for number in ["1", "2", "3", "4"] {
        site.publish("n", number).await;
    }
    let stream = site.server.command(&["KEYS", "*:ev:s"]).await.expect("KEYS is answered");
    let stream = stream.as_array().expect("keys")[0].as_str().expect("a key").to_owned();
    let trimmed = site.server.command(&["XTRIM", &stream, "MAXLEN", "2"]).await;
    assert_eq!(trimmed.expect("XTRIM is answered").as_int(), Some(3));
    let tail = site.events(&["tail", "s", "--from", &first, "--count", "1"]).await.exits(0);
    let told = lines(&tail);
    let gap = json!({ "gap": { "lost": 2, "at_least": false, "reason": "trimmed" } });
    assert_eq!(told[0], gap);
    assert_eq!(told[1]["data"], 3);
}

#[tokio::test]
async fn a_tail_misses_nothing_of_a_server_that_is_killed_and_started_again() {
    let site = Site::of(RedisServer::builder().with_aof("always")).await;
    let mut tail = site.tail(&["--from", &site.position().await]);
    let mut expected = Vec::new();
    let mut refused = 0;
    for number in 0..30_u64 {
        let (data, key) = (number.to_string(), format!("event-{number}"));
        let call = ["publish", "s", "n", &data, "--key", &key];
        if number % 10 == 5 {
            site.server.kill().await;
            refused += u32::from(site.events(&call).await.code == 3);
            site.server.start_again().await.expect("it starts again");
        }
        // Whoever was given no answer may say it again, with the key.
        eventually(LONG, "it is published", async || site.events(&call).await.code == 0).await;
        expected.push(number);
    }
    assert_eq!(refused, 3, "the server was not away");
    for number in expected {
        let event = tail.line().await.expect("it goes on");
        assert_eq!(event["data"], number, "{event}");
    }
    site.publish("last", "null").await;
    let last = tail.line().await.expect("it goes on");
    assert_eq!(last["type"], "last", "something came twice: {last}");
    crate::support::send(&tail.child, Signal::INT);
    assert_eq!(tail.line().await, None);
    finish(tail.child).await.exits(0);
}

#[tokio::test]
async fn a_tail_ends_when_it_is_told_to_and_when_nobody_reads_it() {
    let site = Site::start().await;
    for signal in [Signal::INT, Signal::TERM] {
        let tail = site.tail(&[]);
        site.is_followed().await;
        crate::support::send(&tail.child, signal);
        let done = finish(tail.child).await.exits(0);
        assert!(done.stderr.is_empty(), "{done:?}");
        eventually(LONG, "nobody listens", async || {
            site.server.channels().await.is_ok_and(|channels| channels.is_empty())
        })
        .await;
    }
    site.publish("n", "0").await;
    let mut command = site.command(&["events", "tail", "s", "--from", "earliest"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    command.stdout(Stdio::from(writer));
    done(command).await.exits(0);
}

#[tokio::test]
async fn a_group_is_a_work_queue_for_shells() {
    let site = Site::start().await;
    let take =
        async |args: &[&str]| site.events(&[&["group", "take", "s", "g"], args].concat()).await;
    let status = async || site.events(&["group", "status", "s", "g"]).await;
    assert_eq!(status().await.exits(1).json(), json!({ "found": false }));
    take(&["--ack"]).await.exits(1);
    for number in ["0", "1", "2"] {
        site.publish("n", number).await;
    }
    let two = lines(&take(&["--ack", "--count", "2"]).await.exits(0));
    assert_eq!((&two[0]["data"], &two[1]["data"]), (&0.into(), &1.into()));
    let expected = ["attempt", "data", "id", "scope", "source", "time", "type"];
    assert!(keys(&two[0]).into_iter().eq(expected), "{two:?}");
    // What is not done comes again, at most five times.
    for attempt in 1..=5 {
        let taken = |done: &Done| done.code == 0;
        let mut last = None;
        eventually(LONG, "it comes again", async || {
            let done = take(&["--lease", "1ms", "--consumer", "me"]).await;
            let it = taken(&done);
            last = Some(done);
            it
        })
        .await;
        let it = last.expect("a run").json();
        assert_eq!((&it["data"], &it["attempt"]), (&2.into(), &attempt.into()));
    }
    let dead = async || site.events(&["group", "dead", "s", "g"]).await.exits(0).json();
    eventually(LONG, "it is dead", async || {
        take(&["--ack"]).await.exits(1);
        !dead().await["dead"].as_array().expect("letters").is_empty()
    })
    .await;
    let page = dead().await;
    assert!(keys(&page).into_iter().eq(["dead", "next"]), "{page}");
    let letter = &page["dead"][0];
    let of_letters = ["at", "consumer", "deliveries", "reason"];
    assert!(of_letters.iter().all(|key| letter.get(key).is_some()), "{letter}");
    assert_eq!((&letter["deliveries"], &letter["consumer"]), (&5.into(), &"me".into()));
    let id = letter["id"].as_str().expect("an id");
    let state = status().await.exits(0).json();
    let of_states = ["dead", "due", "found", "lag", "last", "pending", "position"];
    assert!(keys(&state).into_iter().eq(of_states), "{state}");
    assert_eq!(
        (&state["dead"], &state["pending"], &state["lag"]),
        (&1.into(), &0.into(), &0.into())
    );
    let requeue = ["group", "requeue", "s", "g", id];
    assert_eq!(site.events(&requeue).await.exits(0).json(), json!({ "requeued": true }));
    assert_eq!(site.events(&requeue).await.exits(1).json(), json!({ "requeued": false }));
    assert_eq!(take(&["--ack"]).await.exits(0).json()["attempt"], 1);
    site.events(&["group", "discard", "s", "g", id]).await.exits(1);
    site.events(&["group", "delete", "s", "g"]).await.exits(0);
    site.events(&["group", "delete", "s", "g"]).await.exits(1);
}

#[tokio::test]
async fn wrong_calls_exit_2_and_no_server_3() {
    let site = Site::start().await;
    let calls: [&[&str]; 10] = [
        &["publish", "s", "n", "{"],
        &["publish", "s", "n", &"[".repeat(1000)],
        &["publish", "", "n", "1"],
        &["publish", "s", "a\nb", "1"],
        &["publish", "s", "n", "1", "--key", ""],
        &["tail", "s", "--from", "yesterday"],
        &["tail", "s", "--count", "0"],
        &["tail", "s", "--types", ""],
        &["group", "take", "s", "g", "--count", "257"],
        &["group", "requeue", "s", "g", "x"],
    ];
    for call in calls {
        let done = site.events(call).await.exits(2).complains("");
        assert!(done.stdout.is_empty(), "{done:?}");
    }
    let good: [&[&str]; 4] = [
        &["publish", "s", "n", "1"],
        &["tail", "s", "--count", "1"],
        &["position", "s"],
        &["group", "take", "s", "g"],
    ];
    for call in good {
        let call = [&["events"], call].concat();
        // Nobody would hear it.
        for url in ["embedded://", "embedded:///tmp/never.redb"] {
            done(binary(&[&["--url", url], &call[..]].concat())).await.exits(2).complains("--url");
        }
        let dead = done(binary(&[&["--url", DEAD], &call[..]].concat()));
        let dead = tokio::time::timeout(SOON, dead).await.expect("it says so soon");
        dead.exits(3).complains("");
    }
}
