//! `doc …` as shells call it.

use crate::support::{Done, Site, binary, done, fed, keys};
use serde_json::{Value, json};

const GOT: [&str; 5] = ["found", "ttl_ms", "updated_at", "value", "version"];

impl Site {
    async fn doc(&self, args: &[&str]) -> Done {
        self.run(&[&["--json", "doc"], args].concat()).await
    }
}

fn version(answer: &Value) -> String {
    answer["version"].as_u64().expect("a version").to_string()
}

#[tokio::test]
async fn a_document_comes_back_with_what_is_known_of_it() {
    let site = Site::start().await;
    let absent = site.doc(&["get", "plans", "p"]).await.exits(1).json();
    assert!(keys(&absent).into_iter().eq(GOT), "{absent}");
    let value = json!({ "steps": ["é", 1, null, { "2": -0.5 }] });
    let call = ["put", "plans", "p", &value.to_string(), "--ttl", "90s"];
    let put = site.doc(&call).await.exits(0).json();
    assert!(keys(&put).into_iter().eq(["stored", "ttl_ms", "updated_at", "version"]), "{put}");
    assert_eq!((&put["stored"], &put["ttl_ms"]), (&true.into(), &90_000.into()));
    let got = site.doc(&["get", "plans", "p"]).await.exits(0).json();
    assert!(keys(&got).into_iter().eq(GOT), "{got}");
    assert_eq!(got["value"], value);
    assert_eq!((&got["version"], &got["updated_at"]), (&put["version"], &put["updated_at"]));
    assert!(got["ttl_ms"].as_u64() > Some(30_000) && got["ttl_ms"].as_u64() <= Some(90_000));
    assert!(got["updated_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{got}");
    // Without --json the value alone, for the next command of a pipe; and in by stdin.
    let printed = site.run(&["doc", "get", "plans", "p"]).await.exits(0);
    assert_eq!(serde_json::from_str::<Value>(&printed.stdout).expect("JSON"), value);
    for stdin in [&["doc", "put", "plans", "q"][..], &["doc", "put", "plans", "q", "-"]] {
        fed(site.command(stdin), &printed.stdout).await.exits(0);
        assert_eq!(site.doc(&["get", "plans", "q"]).await.json()["value"], value);
        site.doc(&["delete", "plans", "q"]).await.exits(0);
    }
    let deleted = site.doc(&["delete", "plans", "q"]).await.exits(1).json();
    assert_eq!(deleted, json!({ "deleted": false }));
}

#[tokio::test]
async fn what_another_wrote_in_between_is_not_overwritten() {
    let site = Site::start().await;
    let first = site.doc(&["put", "n", "d", "1", "--if-version", "0"]).await.exits(0).json();
    let refused = site.doc(&["put", "n", "d", "2", "--if-version", "0"]).await.exits(1).json();
    assert_eq!(refused, json!({ "stored": false, "version": first["version"] }));
    let call = ["put", "n", "d", "2", "--if-version", &version(&first)];
    let second = site.doc(&call).await.exits(0).json();
    let refused = site.doc(&call).await.exits(1).json();
    assert_eq!(refused["version"], second["version"]);
    site.run(&[&["doc"], &call[..]].concat()).await.exits(1).complains("nothing was written");
    site.doc(&["delete", "n", "d"]).await.exits(0);
    let refused = site.doc(&call).await.exits(1).json();
    assert_eq!(refused, json!({ "stored": false, "version": null }));
    let third = site.doc(&["put", "n", "d", "3"]).await.exits(0).json();
    assert!(third["version"].as_u64() > second["version"].as_u64());
}

#[tokio::test]
async fn eight_shells_count_by_compare_and_set_and_lose_nothing() {
    let site = Site::start().await;
    site.doc(&["put", "n", "count", "0"]).await.exits(0);
    let script = "n=0; while test $n -lt 10; do \
        read -r value version <<END\n$(\"$BIN\" --json doc get n count | \
            sed 's/.*\"value\":\\([0-9]*\\),\"version\":\\([0-9]*\\).*/\\1 \\2/')\nEND\n\
        \"$BIN\" doc put n count $((value + 1)) --if-version $version >/dev/null 2>&1; \
        code=$?; test $code -eq 0 && n=$((n + 1)); \
        test $code -le 1 || { echo failed $code; exit 1; }; done";
    let shells = (0..8).map(|_| {
        let mut command = tokio::process::Command::new("sh");
        command
            .args(["-c", script])
            .env("BIN", env!("CARGO_BIN_EXE_coordinator"))
            .env("COORDINATOR_URL", site.server.url())
            .env("COORDINATOR_PREFIX", &site.prefix)
            .kill_on_drop(true);
        async move { command.output().await.expect("a shell") }
    });
    for output in futures::future::join_all(shells).await {
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
    assert_eq!(site.doc(&["get", "n", "count"]).await.exits(0).json()["value"], 80);
}

#[tokio::test]
async fn a_list_goes_on_where_it_ended() {
    let site = Site::start().await;
    for name in ["a:1", "a:2", "a:3", "a:4", "a:5", "b:1"] {
        site.doc(&["put", "n", name, "{}"]).await.exits(0);
    }
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let mut args = vec!["list", "n", "a:", "--count", "2"];
        args.extend(cursor.as_deref().map_or(vec![], |cursor| vec!["--cursor", cursor]));
        let page = site.doc(&args).await.exits(0).json();
        assert!(keys(&page).into_iter().eq(["documents", "next"]), "{page}");
        for entry in page["documents"].as_array().expect("documents") {
            let expected = ["bytes", "name", "ttl_ms", "updated_at", "version"];
            assert!(keys(entry).into_iter().eq(expected), "{page}");
            found.push(entry["name"].as_str().expect("a name").to_owned());
        }
        let Some(next) = page["next"].as_str() else { break };
        cursor = Some(next.to_owned());
    }
    found.sort();
    assert_eq!(found, ["a:1", "a:2", "a:3", "a:4", "a:5"]);
    let table = site.run(&["doc", "list", "n"]).await.exits(0);
    assert_eq!(table.stdout.lines().count(), 7, "{table:?}");
}

#[tokio::test]
async fn a_write_by_hand_leaves_the_history_of_a_run() {
    let site = Site::start().await;
    for step in ["1", "2", "3"] {
        site.doc(&["put", "orchestration_state", "run", step]).await.exits(0);
    }
    let history = async || {
        let keys = site.server.command(&["KEYS", "*"]).await.expect("KEYS is answered");
        let mut longest = 0;
        for key in keys.as_array().expect("keys") {
            let key = key.as_str().expect("a key");
            let length = site.server.command(&["LLEN", key]).await.ok();
            longest = longest.max(length.and_then(|length| length.as_int()).unwrap_or(0));
        }
        longest
    };
    assert_eq!(history().await, 2);
    site.doc(&["put", "orchestration_state", "run", "4", "--history", "0"]).await.exits(0);
    assert_eq!(history().await, 0);
}

#[tokio::test]
async fn a_wrong_call_exits_2_and_variables_say_how_long() {
    let site = Site::start().await;
    let long = "x".repeat(513);
    let calls: [&[&str]; 7] = [
        &["put", "n", "d", "{"],
        &["put", "n", "", "1"],
        &["put", "n", &long, "1"],
        &["put", "n", "d", "1", "--ttl", "0s"],
        &["put", "n", "d", "1", "--if-version", "-1"],
        &["get", "n"],
        &["list", "n", "--cursor", "x"],
    ];
    for call in calls {
        let done = site.run(&[&["doc"], call].concat()).await.exits(2).complains("");
        assert!(done.stdout.is_empty(), "{done:?}");
    }
    let mut command = site.command(&["--json", "doc", "put", "n", "d", "1"]);
    command.env("REDIS_TTL_SECONDS", "60");
    assert_eq!(done(command).await.exits(0).json()["ttl_ms"], 60_000);
    let mut command = site.command(&["--json", "session", "create", "--user", "u"]);
    command.env("SESSION_TTL", "60");
    let left = done(command).await.exits(0).json()["ttl_ms"].as_u64();
    assert!(left >= Some(60_000) && left < Some(70_000), "{left:?}");
    let memory = done(binary(&["doc", "list", "n"])).await.exits(0);
    memory.complains("nothing is kept");
}
