//! `lock acquire`, `renew`, `release`, `list` and `show`.

use crate::support::{LONG, Site, done, keys};
use coordinator_harness::eventually;
use serde_json::{Value, json};

#[tokio::test]
async fn a_lock_is_held_over_several_commands() {
    let site = Site::start().await;
    let acquire = ["--json", "lock", "acquire", "n", "--ttl", "10m"];
    let got = site.run(&acquire).await.exits(0).json();
    let expected = ["acquired", "expires_in_ms", "fence", "token"];
    assert!(keys(&got).into_iter().eq(expected), "{got}");
    assert_eq!(got["acquired"], true);
    assert!(got["fence"].as_u64() > Some(0), "{got}");
    let left = got["expires_in_ms"].as_u64().expect("a number");
    assert!((1..=600_000).contains(&left), "{got}");

    let refused = site.run(&acquire).await.exits(1);
    assert!(refused.stderr.is_empty(), "{refused:?}");
    let refused = refused.json();
    assert!(keys(&refused).into_iter().eq(["acquired", "holder"]), "{refused}");
    assert_eq!(refused["acquired"], false);
    let holder = ["host", "id", "owner", "pid", "since_ms"];
    assert!(keys(&refused["holder"]).into_iter().eq(holder), "{refused}");

    let token = got["token"].as_str().expect("a token");
    let renew = ["--json", "lock", "renew", "n", "--ttl", "20m", "--token", token];
    assert_eq!(site.run(&renew).await.exits(0).json(), json!({ "renewed": true }));
    let shown = site.run(&["lock", "show", "n", "--json"]).await.exits(0).json();
    assert!(shown["ttl_ms"].as_u64() > Some(600_000), "{shown}");

    let release = ["--json", "lock", "release", "n", "--token", token];
    assert_eq!(site.run(&release).await.exits(0).json(), json!({ "released": true }));
    assert!(site.held().await.is_empty());
    let next = site.run(&acquire).await.exits(0).json();
    assert!(next["fence"].as_u64() > got["fence"].as_u64(), "{next}");
}

#[tokio::test]
async fn people_and_shells_read_lines() {
    let site = Site::start().await;
    let got = site.run(&["lock", "acquire", "n", "--ttl", "10m"]).await.exits(0);
    let lines: Vec<_> = got.stdout.lines().map(|line| line.split_once('=')).collect();
    let names: Vec<_> = lines.iter().flatten().map(|(name, _)| *name).collect();
    assert_eq!(names, ["token", "fence", "expires_in_ms"]);
    let (_, token) = lines[0].expect("a token");

    let refused = site.run(&["lock", "acquire", "n", "--ttl", "1s"]).await.exits(1);
    assert!(refused.stdout.is_empty(), "{refused:?}");
    refused.complains("held by");
    // The token need not stand in the process list.
    let mut renew = site.command(&["lock", "renew", "n", "--ttl", "10m"]);
    renew.env("COORDINATOR_TOKEN", token);
    assert_eq!(done(renew).await.exits(0).stdout, "renewed\n");
    let mut release = site.command(&["lock", "release", "n"]);
    release.env("COORDINATOR_TOKEN", token);
    assert_eq!(done(release).await.exits(0).stdout, "released\n");
    site.run(&["lock", "show", "n"]).await.exits(1).complains("not held");
}

#[tokio::test]
async fn a_stranger_renews_and_releases_nothing() {
    let site = Site::start().await;
    site.acquire("n").await;
    let other = "f".repeat(32);
    let renew = ["--json", "lock", "renew", "n", "--ttl", "1s", "--token", &other];
    let lost = site.run(&renew).await.exits(1).json();
    assert_eq!(lost, json!({ "renewed": false, "reason": "stolen" }));
    let release = ["--json", "lock", "release", "n", "--token", &other];
    assert_eq!(site.run(&release).await.exits(1).json(), json!({ "released": false }));
    assert_eq!(site.held().await.len(), 1);
}

#[tokio::test]
async fn force_takes_a_lock_away() {
    let site = Site::start().await;
    let token = site.acquire("n").await;
    let force = ["--json", "lock", "release", "n", "--force", "--reason", "r"];
    let mut command = site.command(&force);
    // A script that holds locks may have its token in the environment all along.
    command.env("COORDINATOR_TOKEN", &token);
    let answer = done(command).await.exits(0).json();
    assert!(keys(&answer).into_iter().eq(["holder", "released"]), "{answer}");
    assert_eq!(answer["released"], true);
    assert!(answer["holder"]["pid"].is_u64(), "{answer}");

    let again = site.run(&force).await.exits(1).json();
    assert_eq!(again, json!({ "released": false, "holder": null }));
    let renew = ["--json", "lock", "renew", "n", "--ttl", "1s", "--token", &token];
    let lost = site.run(&renew).await.exits(1).json();
    assert_eq!(lost, json!({ "renewed": false, "reason": "force-released" }));
    let release = ["lock", "release", "n", "--token", &token];
    site.run(&release).await.exits(1).complains("gone already");
}

#[tokio::test]
async fn a_lock_that_nobody_renews_ends() {
    let site = Site::start().await;
    let call = ["--json", "lock", "acquire", "n", "--ttl", "100ms"];
    let got = site.run(&call).await.exits(0).json();
    eventually(LONG, "it expires", async || site.held().await.is_empty()).await;
    let token = got["token"].as_str().expect("a token");
    let renew = ["--json", "lock", "renew", "n", "--ttl", "1s", "--token", token];
    let lost = site.run(&renew).await.exits(1).json();
    assert_eq!(lost, json!({ "renewed": false, "reason": "vanished" }));
    let release = ["--json", "lock", "release", "n", "--token", token];
    assert_eq!(site.run(&release).await.exits(1).json(), json!({ "released": false }));
}

#[tokio::test]
async fn a_waiter_gets_what_is_given_up_and_is_counted() {
    let site = Site::start().await;
    let token = site.acquire("n").await;
    let waiter = site.spawn(&["lock", "acquire", "n", "--ttl", "10m", "--wait", "60s"]);
    site.waited_for("n", 1).await;
    let shown = site.run(&["lock", "show", "n", "--json"]).await.exits(0).json();
    assert_eq!(shown["waiters"], 1, "{shown}");
    let waiting = shown["waiting"].as_array().expect("an array");
    let [one] = &waiting[..] else { panic!("{shown}") };
    let expected = ["host", "owner", "pid", "priority", "task", "waited_ms"];
    assert!(keys(one).into_iter().eq(expected), "{shown}");
    assert_eq!(one["pid"].as_u64(), waiter.id().map(u64::from));
    assert_eq!(one["waited_ms"], shown["longest_wait_ms"]);
    let listed = site.run(&["lock", "list", "--json"]).await.exits(0).json();
    assert_eq!(listed[0]["waiters"], 1, "{listed}");
    assert!(listed[0]["longest_wait_ms"].is_u64(), "{listed}");
    site.run(&["lock", "release", "n", "--token", &token]).await.exits(0);
    crate::support::finish(waiter).await.exits(0);
    let call = ["lock", "acquire", "n", "--ttl", "1s", "--wait", "50ms"];
    site.run(&call).await.exits(1).complains("held by");
}

#[tokio::test]
async fn who_looks_learns_no_token() {
    let site = Site::start().await;
    let names = ["b", "a\r\n\u{1b}[31m\0{}*é☃"];
    let mut tokens = Vec::new();
    // NUL cannot be said on a command line.
    let names = names.map(|name| name.replace('\0', ""));
    for name in &names {
        tokens.push(site.acquire(name).await);
    }
    let list = site.run(&["lock", "list", "--json"]).await.exits(0);
    let listed = list.json();
    let listed = listed.as_array().expect("an array");
    let found: Vec<_> = listed.iter().map(|lock| &lock["name"]).collect();
    assert_eq!(found, [&Value::from(&*names[1]), &Value::from(&*names[0])]);
    let expected = ["fence", "holder", "longest_wait_ms", "name", "ttl_ms", "waiters"];
    let holder = ["host", "id", "owner", "pid", "since_ms"];
    for lock in listed {
        assert!(keys(lock).into_iter().eq(expected), "{lock}");
        assert!(keys(&lock["holder"]).into_iter().eq(holder), "{lock}");
    }

    let table = site.run(&["lock", "list"]).await.exits(0);
    assert_eq!(table.stdout.lines().count(), 3, "{table:?}");
    assert!(table.stdout.contains("a\\r\\n\\u{1b}[31m{}*é☃"), "{table:?}");
    let show = site.run(&["-vvv", "lock", "show", "b"]).await.exits(0);
    let shown = site.run(&["lock", "show", "b", "--json"]).await.exits(0);
    let one = [&expected[..5], &["waiters", "waiting"]].concat();
    assert!(keys(&shown.json()).into_iter().eq(one), "{shown:?}");
    assert_eq!(shown.json()["waiting"], json!([]));
    assert_eq!(shown.json()["longest_wait_ms"], Value::Null);
    for token in &tokens {
        for seen in [&list, &table, &show, &shown] {
            assert!(!format!("{seen:?}").contains(token), "{seen:?}");
        }
    }
}

#[tokio::test]
async fn what_is_not_held_is_shown_as_such() {
    let site = Site::start().await;
    let shown = site.run(&["lock", "show", "n", "--json"]).await.exits(1);
    assert_eq!(shown.json(), json!({ "name": "n", "holder": null }));
    let list = site.run(&["lock", "list", "--json"]).await.exits(0);
    assert_eq!(list.json(), json!([]));
    site.run(&["lock", "list"]).await.exits(0);
}
