//! `cache …` as shells call it.

use crate::support::{DEAD, Done, Site, binary, done, fed, keys};
use coordinator::{
    Coordinator,
    cache::{Cache, Entry},
};
use serde_json::{Value, json};
use std::time::Duration;

const GOT: [&str; 3] = ["found", "stale", "value"];
const COUNTED: [&str; 4] = ["bytes_in", "bytes_stored", "entries", "hit_rate"];

impl Site {
    async fn cache(&self, args: &[&str]) -> Done {
        self.run(&[&["--json", "cache"], args].concat()).await
    }

    async fn found(&self, key: &str) -> bool {
        let found = self.cache(&["get", "n", key]).await;
        let code = found.code;
        let answer = found.json();
        assert_eq!(answer["found"], code == 0, "{answer}");
        code == 0
    }

    /// An instance of a service beside the command.
    async fn service(&self) -> Coordinator {
        let config = coordinator::Config::from_url(&self.server.url()).expect("a URL");
        let config = config.with_prefix(&self.prefix).expect("a prefix");
        Coordinator::with_config(config).await.expect("a server")
    }
}

#[tokio::test]
async fn a_value_comes_back_until_it_is_deleted() {
    let site = Site::start().await;
    let absent = site.cache(&["get", "n", "k"]).await.exits(1).json();
    assert_eq!(absent, json!({ "found": false, "value": null, "stale": false }));
    let value = json!({ "steps": ["é", 1, null, { "2": -0.5 }] });
    let call = ["set", "n", "k", &value.to_string(), "--ttl", "90s"];
    let set = site.cache(&call).await.exits(0).json();
    assert_eq!(set, json!({ "stored": true, "ttl_ms": 90_000 }));
    let got = site.cache(&["get", "n", "k"]).await.exits(0).json();
    assert!(keys(&got).into_iter().eq(GOT), "{got}");
    assert_eq!(got, json!({ "found": true, "value": value, "stale": false }));
    // Without --json the value alone, for the next command of a pipe; and in by stdin.
    let printed = site.run(&["cache", "get", "n", "k"]).await.exits(0);
    assert_eq!(serde_json::from_str::<Value>(&printed.stdout).expect("JSON"), value);
    for stdin in [&["cache", "set", "n", "q"][..], &["cache", "set", "n", "q", "-"]] {
        fed(site.command(stdin), &printed.stdout).await.exits(0);
        assert_eq!(site.cache(&["get", "n", "q"]).await.json()["value"], value);
        let deleted = site.cache(&["delete", "n", "q"]).await.exits(0).json();
        assert_eq!(deleted, json!({ "deleted": true }));
    }
    let deleted = site.cache(&["delete", "n", "q"]).await.exits(1).json();
    assert_eq!(deleted, json!({ "deleted": false }));
    site.run(&["cache", "delete", "n", "q"]).await.exits(1).complains("no such value");
    site.run(&["cache", "get", "n", "q"]).await.exits(1).complains("no such value");
    // What is null is there.
    site.cache(&["set", "n", "null", "null"]).await.exits(0);
    assert!(site.found("null").await && !site.found("other").await);
}

#[tokio::test]
async fn a_tag_ends_what_has_it_and_a_pattern_what_matches() {
    let site = Site::start().await;
    for (key, tags) in [("a", &["t"][..]), ("b", &["u", "t"]), ("c", &["u"]), ("a*", &[])] {
        let tags = tags.iter().flat_map(|tag| ["--tag", tag]);
        let call: Vec<_> = ["set", "n", key, "1"].into_iter().chain(tags).collect();
        site.cache(&call).await.exits(0);
    }
    let call = ["invalidate-tag", "n", "t"];
    assert_eq!(site.cache(&call).await.exits(0).json(), json!({ "invalidated": 1 }));
    assert_eq!(site.cache(&call).await.exits(0).json(), json!({ "invalidated": 0 }));
    assert!(!site.found("a").await && !site.found("b").await && site.found("c").await);
    site.cache(&["set", "other", "a*", "1"]).await.exits(0);
    let call = ["invalidate", "n", "a\\*"];
    assert_eq!(site.cache(&call).await.exits(0).json(), json!({ "invalidated": 1 }));
    let told = site.run(&["cache", "invalidate", "n", "?"]).await.exits(0);
    assert_eq!(told.stdout.trim(), "invalidated=3", "those with a tag are still stored");
    assert!(!site.found("c").await);
    site.cache(&["get", "other", "a*"]).await.exits(0);
}

#[tokio::test]
async fn figures_are_those_of_the_namespace_whoever_stored() {
    let site = Site::start().await;
    let none = site.cache(&["stats", "n"]).await.exits(0).json();
    assert!(keys(&none).into_iter().eq(COUNTED), "{none}");
    assert_eq!((&none["entries"], &none["hit_rate"]), (&0.into(), &0.0.into()));
    let service = site.service().await;
    let cache: Cache<String> = service.caches().cache("n").with_schema(7).build().expect("a cache");
    for n in 0..600 {
        cache.set(&n.to_string(), &"x".repeat(5000)).await.expect("a server");
    }
    site.cache(&["set", "n", "k", "\"x\""]).await.exits(0);
    site.cache(&["set", "other", "k", "\"x\""]).await.exits(0);
    let some = site.cache(&["stats", "n"]).await.exits(0).json();
    let figures = (&some["entries"], &some["bytes_in"]);
    assert_eq!(figures, (&601.into(), &(600 * 5003 + 3).into()), "{some}");
    assert!(some["bytes_stored"].as_u64() > Some(601 * 44), "{some}");
    assert!(some["bytes_stored"].as_u64() < Some(601 * 200), "{some}");
    let table = site.run(&["cache", "stats", "n"]).await.exits(0);
    let mut lines = table.stdout.lines();
    assert!(lines.next().is_some_and(|line| line.starts_with("ENTRIES")), "{table:?}");
    assert!(lines.next().is_some_and(|line| line.starts_with("601 ")), "{table:?}");
    service.close().await;
}

#[tokio::test]
async fn a_look_changes_nothing_and_tells_what_is_stale() {
    let site = Site::start().await;
    let service = site.service().await;
    let of = service.caches();
    let cache = of.cache::<Value>("n").with_schema(7).with_stale(Duration::from_hours(1));
    let cache = cache.build().expect("a cache");
    cache.set("k", &json!({ "a": 1 })).await.expect("a server");
    let got = site.cache(&["get", "n", "k"]).await.exits(0).json();
    assert_eq!(got, json!({ "found": true, "value": { "a": 1 }, "stale": false }));
    cache.expire("k").await.expect("a server");
    let got = site.cache(&["get", "n", "k"]).await.exits(0).json();
    assert_eq!(got, json!({ "found": true, "value": { "a": 1 }, "stale": true }));
    site.run(&["cache", "get", "n", "k"]).await.exits(0).complains("stale");
    // What is no JSON is said to be there, and stays.
    let pairs = of.cache::<Vec<((u8, u8), u8)>>("n").build().expect("a cache");
    let maps = of.cache::<std::collections::BTreeMap<u8, u8>>("n").build().expect("a cache");
    pairs.set("pairs", &vec![((1, 2), 3)]).await.expect("a server");
    maps.set_with("m", &[(1, 2)].into(), Entry::new()).await.expect("a server");
    site.run(&["cache", "get", "n", "m"]).await.exits(3).complains("shape");
    assert!(maps.get("m").await.expect("a server").is_some());
    let got = site.cache(&["get", "n", "pairs"]).await.exits(0).json();
    assert_eq!(got["value"], json!([[[1, 2], 3]]));
    service.close().await;
}

#[tokio::test]
async fn a_service_hears_of_what_a_shell_does() {
    let site = Site::start().await;
    let service = site.service().await;
    let crews = service.caches().crew_config::<Value>();
    site.cache(&["set", "crew-config", "42", "[1]", "--tag", "crew:42"]).await.exits(0);
    assert_eq!(**crews.get("42").await.expect("a server").as_ref().expect("set"), json!([1]));
    let gone = async || crews.get("42").await.expect("a server").is_none();
    site.cache(&["invalidate-tag", "crew-config", "crew:42"]).await.exits(0);
    coordinator_harness::eventually(coordinator::cache::Caches::STALENESS, "it ends", gone).await;
    service.close().await;
}

#[tokio::test]
async fn without_a_server_nothing_is_kept_and_a_dead_one_is_told() {
    let memory = |args: &[&str]| done(binary(&[&["--json", "cache"], args].concat()));
    let absent = memory(&["get", "n", "k"]).await.exits(1).complains("nothing is kept").json();
    assert!(keys(&absent).into_iter().eq(GOT), "{absent}");
    let set = memory(&["set", "n", "k", "1"]).await.exits(0).complains("nothing is kept").json();
    assert_eq!(set["ttl_ms"], 300_000);
    memory(&["delete", "n", "k"]).await.exits(1);
    for call in [["invalidate-tag", "n", "t"], ["invalidate", "n", "*"]] {
        let ended = memory(&call).await.exits(0).complains("nothing is kept").json();
        assert_eq!(ended, json!({ "invalidated": 0 }));
    }
    let none = memory(&["stats", "n"]).await.exits(0).json();
    assert!(keys(&none).into_iter().eq(COUNTED), "{none}");
    // A fallback would answer for a cache of nobody.
    let url = format!("{DEAD}?fallback=memory");
    for verb in [&["get", "n", "k"][..], &["invalidate-tag", "n", "t"], &["stats", "n"]] {
        let call = [&["--url", &url, "--timeout", "500ms", "cache"], verb].concat();
        let done = done(binary(&call)).await.exits(3).complains("");
        assert!(done.stdout.is_empty(), "{done:?}");
    }
}

#[tokio::test]
async fn a_wrong_call_exits_2() {
    let site = Site::start().await;
    let long = "x".repeat(513);
    let calls: [&[&str]; 11] = [
        &["set", "n", "k", "{"],
        &["set", "n", "", "1"],
        &["set", "n", &long, "1"],
        &["set", "n", "k", "1", "--ttl", "0s"],
        &["set", "n", "k", "1", "--ttl", "2years"],
        &["set", "n", "k", "1", "--tag", ""],
        &["get", "", "k"],
        &["get", "n"],
        &["invalidate-tag", "n", &long],
        &["invalidate", "n", ""],
        &["stats", &long],
    ];
    for call in calls {
        let done = site.run(&[&["cache"], call].concat()).await.exits(2).complains("");
        assert!(done.stdout.is_empty(), "{done:?}");
    }
}
