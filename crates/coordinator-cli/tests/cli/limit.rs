//! `limit check`, `peek`, `reset`, `violations` and `top` as shells call them.

use crate::support::{DEAD, Done, SOON, Site, binary, done, keys};
use serde_json::Value;
use tokio::time::timeout;

const KEYS: [&str; 7] =
    ["allowed", "limit", "limits", "remaining", "reset_after_ms", "retry_after_ms", "source"];

impl Site {
    async fn limit(&self, args: &[&str]) -> Done {
        self.run(&[&["--json", "limit"], args].concat()).await
    }
}

#[tokio::test]
async fn eight_shells_admit_no_more_than_one_would() {
    let site = Site::start().await;
    let script = "for n in $(seq 100); do \
        \"$BIN\" limit check shell --rule 50/60s >/dev/null && echo admitted; \
        code=$?; test $code -le 1 || echo failed $code; done; true";
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
    let mut said = String::new();
    for output in futures::future::join_all(shells).await {
        assert!(output.stderr.is_empty(), "{output:?}");
        said.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    // All in one window, or the count says nothing.
    let peek = site.limit(&["peek", "shell", "--rule", "50/60s"]).await.exits(1).json();
    assert_eq!(peek["limits"][0]["used"], 50, "{peek}");
    assert!(!said.contains("failed"), "{said}");
    assert_eq!(said.lines().count(), 50);

    let worst = site.limit(&["top"]).await.exits(0).json();
    assert_eq!(worst[0]["subject"], "shell", "{worst}");
    // 750 were denied; their number is recorded at powers of two.
    assert_eq!(worst[0]["count"], 512, "{worst}");
    let told = site.limit(&["violations"]).await.exits(0).json();
    assert_eq!((told[0]["count"].as_u64(), told.as_array().map(Vec::len)), (Some(512), Some(1)));
}

#[tokio::test]
async fn a_check_is_told_by_its_keys() {
    let site = Site::start().await;
    let call = ["check", "u", "--rule", "2/60s"];
    let first = site.limit(&call).await.exits(0).json();
    assert!(keys(&first).into_iter().eq(KEYS), "{first}");
    assert_eq!(first["allowed"], true);
    assert_eq!((first["limit"].as_u64(), first["remaining"].as_u64()), (Some(2), Some(1)));
    assert_eq!((&first["retry_after_ms"], &first["source"]), (&0.into(), &"redis".into()));
    assert_eq!(first["limits"][0]["subject"], "u");
    let reset = first["reset_after_ms"].as_u64();
    assert!(reset > Some(50_000) && reset <= Some(60_000), "{first}");
    site.limit(&call).await.exits(0);
    let denied = site.limit(&call).await.exits(1).json();
    assert!(keys(&denied).into_iter().eq(KEYS), "{denied}");
    assert_eq!((&denied["allowed"], &denied["remaining"]), (&false.into(), &0.into()));
    let retry = denied["retry_after_ms"].as_u64();
    assert!(retry > Some(0) && retry <= reset, "{denied}");
    // People read a table.
    let table = site.run(&[&["limit"], &call[..]].concat()).await.exits(1);
    assert!(table.stdout.contains("RETRY AFTER") && table.stdout.contains("no"), "{table:?}");
    assert!(table.stderr.is_empty(), "{table:?}");
    // Another algorithm counts by itself.
    for algorithm in ["gcra", "fixed"] {
        let call = [&call[..], &["--algorithm", algorithm, "--cost", "2"]].concat();
        site.limit(&call).await.exits(0);
        site.limit(&call).await.exits(1);
    }
}

#[tokio::test]
async fn a_call_with_an_id_counts_once() {
    let site = Site::start().await;
    let call = ["check", "u", "--rule", "2/60s", "--id", "mail-7"];
    for _ in 0..3 {
        let answer = site.limit(&call).await.exits(0).json();
        assert_eq!(answer["remaining"], 1, "{answer}");
    }
    site.limit(&["check", "u", "--rule", "2/60s", "--id", "mail-8"]).await.exits(0);
    site.limit(&["check", "u", "--rule", "2/60s", "--id", "mail-9"]).await.exits(1);
    // What was admitted stays admitted.
    site.limit(&call).await.exits(0);
    // Several limits at once too.
    let several =
        ["check", "v", "--rule", "2/60s", "--rule", "w=9/60s", "--all-of", "t", "--id", "i"];
    for _ in 0..2 {
        let answer = site.limit(&several).await.exits(0).json();
        assert_eq!(answer["remaining"], 1, "{answer}");
    }
}

#[tokio::test]
async fn several_rules_are_taken_from_together_or_not_at_all() {
    let site = Site::start().await;
    let rules = ["u", "--rule", "5/60s", "--rule", "company=2/60s", "--rule", "9/1h"];
    let asked = |verb| [&[verb], &rules[..], &["--all-of", "acme"]].concat();
    for remaining in [1, 0] {
        let answer = site.limit(&asked("check")).await.exits(0).json();
        assert_eq!(answer["remaining"], remaining, "{answer}");
        assert_eq!(answer["limits"].as_array().map(Vec::len), Some(3), "{answer}");
    }
    let denied = site.limit(&asked("check")).await.exits(1).json();
    assert_eq!((&denied["limit"], &denied["allowed"]), (&2.into(), &false.into()), "{denied}");
    assert!(denied["retry_after_ms"].as_u64() > Some(0), "{denied}");
    let of_each: Vec<_> = denied["limits"].as_array().expect("limits").iter().collect();
    assert_eq!(of_each[1]["subject"], "company");
    // The denial took nothing of those with room.
    let left = |limit: &Value| limit["remaining"].as_u64().expect("a number");
    assert_eq!(of_each.into_iter().map(left).collect::<Vec<_>>(), [3, 0, 7]);
    let peek = site.limit(&asked("peek")).await.exits(1).json();
    assert_eq!((&peek["limit"], &peek["limits"]), (&denied["limit"], &peek["limits"]));
    // The tenant's subject is another one than that without a tenant.
    site.limit(&["peek", "company", "--rule", "2/60s"]).await.exits(0);
    let told = site.limit(&["violations", "--all-of", "acme"]).await.exits(0).json();
    let first = &told[0];
    assert_eq!((&first["subject"], &first["tenant"]), (&"company".into(), &"acme".into()));
    let expected =
        ["count", "kind", "last_ms", "limit", "policy", "subject", "tenant", "window_ms"];
    assert!(keys(first).into_iter().eq(expected), "{told}");
    assert!(first["last_ms"].as_u64() > Some(1_600_000_000_000), "{told}");
    let worst = site.limit(&["top", "--all-of", "acme"]).await.exits(0).json();
    assert!(keys(&worst[0]).into_iter().eq(["count", "last_ms", "policy", "subject", "tenant"]));
    for other in [&["violations", "--all-of", "other"][..], &["violations", "--since", "0s"]] {
        assert_eq!(site.limit(other).await.exits(0).json(), serde_json::json!([]));
    }
    for verb in ["violations", "top"] {
        let table = site.run(&["limit", verb]).await.exits(0).stdout;
        assert!(table.contains("company") && table.contains("acme"), "{table}");
    }

    let reset = site.limit(&asked("reset")).await.exits(0).json();
    let used: Vec<_> = (0..3).map(|n| reset["limits"][n]["used"].as_u64()).collect();
    assert_eq!(used, [Some(2), Some(2), Some(2)], "{reset}");
    site.limit(&asked("peek")).await.exits(0);
    let table = site.run(&[&["limit"], &asked("reset")[..]].concat()).await.exits(0).stdout;
    assert!(table.contains("WAS USED"), "{table}");
}

#[tokio::test]
async fn what_can_never_be_is_told_from_what_is_no_call() {
    let site = Site::start().await;
    // More than the limit never fits, and a limit of nothing is one that admits nobody.
    let huge = u64::MAX.to_string();
    for call in [
        &["u", "--rule", "10/60s", "--cost", "11"][..],
        &["u", "--rule", "10/60s", "--cost", &huge],
        &["u", "--rule", "10/60s", "--cost", &huge, "--algorithm", "gcra"],
        &["u", "--rule", "0/60s"],
        &["u", "--rule", "0/60s", "--algorithm", "fixed"],
        &["u", "--rule", "1/30days", "--cost", "2"],
    ] {
        for verb in ["check", "peek"] {
            let answer = site.limit(&[&[verb], call].concat()).await.exits(1).json();
            assert_eq!(answer["retry_after_ms"], Value::Null, "{call:?}");
        }
    }
    // Nothing is always to be had, and takes nothing.
    let free = site.limit(&["check", "u", "--rule", "10/60s", "--cost", "0"]).await.exits(0).json();
    assert_eq!(free["remaining"], 10, "{free}");
    let long = "x".repeat(513);
    for call in [
        &["u"][..],
        &["u", "--rule", "x/60s"],
        &["u", "--rule", "10/0s"],
        &["u", "--rule", "10/60"],
        &["u", "--rule", "10"],
        &["u", "--rule", "-1/60s"],
        &["u", "--rule", "10/2years"],
        &["u", "--rule", "10/1ns"],
        &["u", "--rule", "18446744073709551615/1s"],
        &["u", "--rule", "0/1s", "--algorithm", "gcra"],
        &["u", "--rule", "10/1s", "--algorithm", "leaky"],
        &["u", "--rule", "10/1s", "--cost", "-1"],
        &["u", "--rule", "10/1s", "--rule", "20/1h"],
        &["u", "--rule", "v=10/1s", "--all-of", "t"],
        &["u", "--rule", "10/1s", "--rule", "=20/1h", "--all-of", "t"],
        &["u", "--rule", "10/1s", "--all-of", ""],
        &["u", "--rule", "10/1s", "--id", ""],
        &["u", "--rule", "10/1s", "--rule", "u=20/1s", "--all-of", "t"],
        &["", "--rule", "10/1s"],
        &[&long, "--rule", "10/1s"],
    ] {
        let done = site.limit(&[&["check"], call].concat()).await.exits(2).complains("");
        assert!(done.stdout.is_empty(), "{done:?}");
    }
}

#[tokio::test]
async fn any_text_is_a_subject() {
    let site = Site::start().await;
    for subject in ["a:b{c}*?[d]", "ü☃", "a b\tc\nd", "/v1/search?q=1&r=2", "\u{202e}x", "'\"\\"]
    {
        for allowed in [0, 1] {
            let call = ["check", subject, "--rule", "1/60s"];
            let answer = site.limit(&call).await.exits(allowed).json();
            assert_eq!(answer["limits"][0]["subject"], subject);
        }
        let rule = format!("{subject}=1/60s");
        let call = ["check", "me", "--rule", "9/60s", "--rule", &rule, "--all-of", subject];
        assert_eq!(site.limit(&call).await.exits(0).json()["limits"][1]["subject"], subject);
    }
    let table = site.run(&["limit", "top"]).await.exits(0).stdout;
    assert!(!table.contains(['\t', '\u{202e}']), "{table}");
}

#[tokio::test]
async fn without_a_server_a_check_says_that_it_is_alone() {
    for verb in ["check", "peek"] {
        let call = ["--json", "limit", verb, "u", "--rule", "1/60s"];
        for url in
            [&[][..], &["--url", "embedded://"], &["--url", "redis://127.0.0.1:1?fallback=memory"]]
        {
            let done = done(binary(&[url, &call].concat())).await.exits(0);
            let answer = done.json();
            assert_eq!(answer["source"], "embedded", "{answer}");
            done.complains("nothing is shared");
        }
    }
    let calls: [&[&str]; 3] =
        [&["limit", "reset", "u", "--rule", "1/60s"], &["limit", "violations"], &["limit", "top"]];
    for call in calls {
        done(binary(call)).await.exits(2).complains("limited nobody");
        let fallback = ["--url", "redis://127.0.0.1:1?fallback=memory"];
        done(binary(&[&fallback, call].concat())).await.exits(3).complains("");
    }
}

#[tokio::test]
async fn an_absent_server_is_no_quota() {
    let calls: [&[&str]; 5] = [
        &["limit", "check", "u", "--rule", "1/60s"],
        &["limit", "peek", "u", "--rule", "1/60s"],
        &["limit", "reset", "u", "--rule", "1/60s"],
        &["limit", "violations"],
        &["limit", "top"],
    ];
    for call in calls {
        let call = [&["--url", DEAD], call].concat();
        let done = timeout(SOON, done(binary(&call))).await.expect("it is told soon");
        let done = done.exits(3).complains("");
        assert!(done.stdout.is_empty(), "{done:?}");
    }
}
