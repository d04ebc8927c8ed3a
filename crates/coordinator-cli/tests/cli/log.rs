//! `lock log`: what short-lived processes did is there when they have ended.

use crate::support::{LONG, Site, keys};
use coordinator::{Config, Coordinator, locks::Outcome};
use coordinator_harness::Resp;
use serde_json::Value;

impl Site {
    async fn log(&self, args: &[&str]) -> Vec<Value> {
        let call = [&["--json", "lock", "log"], args].concat();
        let done = self.run(&call).await.exits(0);
        let lines = done.stdout.lines().filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

/// Each event and its lock.
fn events(entries: &[Value]) -> Vec<String> {
    let words = |entry: &Value| [&entry["event"], &entry["lock"]].map(Value::to_string).join(" ");
    entries.iter().map(|entry| words(entry).replace('"', "")).collect()
}

#[tokio::test]
async fn a_run_and_a_hold_are_told_when_they_are_over() {
    let site = Site::start().await;
    assert!(site.log(&[]).await.is_empty());
    site.run(&["lock", "run", "a", "--", "true"]).await.exits(0);
    let told = site.log(&[]).await;
    assert_eq!(events(&told), ["acquired a", "released a"]);
    let expected = ["at_ms", "event", "fence", "held_ms", "holder", "id", "lock"];
    assert!(keys(&told[1]).into_iter().eq(expected), "{told:?}");
    assert!(keys(&told[1]["holder"]).into_iter().eq(["host", "pid"]), "{told:?}");
    assert!(told[0]["at_ms"].as_u64() > Some(1_600_000_000_000), "{told:?}");
    assert!(told[0]["at_ms"].as_u64() <= told[1]["at_ms"].as_u64(), "{told:?}");
    assert_eq!(told[0]["fence"], told[1]["fence"]);

    // A lock that one process takes, another waits for in vain, a third takes away.
    let token = site.acquire("b").await;
    let wait = ["lock", "run", "b", "--wait", "50ms", "--", "true"];
    site.run(&wait).await.exits(1);
    let force = ["lock", "release", "b", "--force", "--reason", "it hangs"];
    site.run(&force).await.exits(0);
    let told = site.log(&["--lock", "b"]).await;
    assert_eq!(events(&told), ["acquired b", "timed_out b", "forced b"]);
    assert!(told[1]["waited_ms"].as_u64() >= Some(50), "{told:?}");
    assert_eq!(told[2]["reason"], "it hangs");
    assert_eq!(told[2]["holder"]["pid"], told[0]["holder"]["pid"]);
    assert_eq!(events(&site.log(&["--limit", "1"]).await), ["forced b"]);
    assert_eq!(events(&site.log(&["--limit", "1", "--lock", "a"]).await), ["released a"]);
    assert!(site.log(&["--since", "0s"]).await.is_empty());
    // People read a table.
    let table = site.run(&["lock", "log"]).await.exits(0).stdout;
    assert_eq!(table.lines().count(), 6, "{table}");
    assert!(table.contains("forced") && table.contains("it hangs"), "{table}");

    let key = format!("{}:1:{{l0}}:log", site.prefix);
    let stored = site.server.command(&["XRANGE", &key, "-", "+"]).await;
    let stored = stored.and_then(Resp::ok).expect("a stream");
    assert!(stored.as_array().is_some_and(|entries| entries.len() == 5), "{stored:?}");
    assert!(!format!("{stored:?}").contains(&token), "a token is in the log");
}

#[tokio::test]
async fn a_deadlock_is_told() {
    let site = Site::start().await;
    let config = Config::from_url(&site.server.url()).expect("a URL");
    let config = config.with_prefix(&site.prefix).expect("a prefix");
    let coordinator = Coordinator::with_config(config).await.expect("a connection");
    let locks = coordinator.locks();
    let one = locks.owner("job").expect("an owner");
    let other = locks.owner("job").expect("an owner");
    let held = one.named("n").acquire().await.expect("an answer").acquired().expect("acquired");
    let refused = other.named("n").with_wait(LONG).acquire().await.expect("an answer");
    assert!(matches!(refused, Outcome::Deadlock { .. }), "{refused:?}");
    drop(held);
    coordinator.close().await;
    let told = site.log(&[]).await;
    assert_eq!(events(&told), ["acquired n", "deadlock n", "released n"]);
    assert_eq!(told[1]["cycle"][0], "job waits for n, held by job");
    assert_eq!(told[1]["holder"]["owner"], "job");
}
