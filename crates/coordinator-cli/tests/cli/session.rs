//! `session …` as operators and shells call it.

use crate::support::{DEAD, Done, SOON, Site, binary, done, fed, keys};
use serde_json::{Value, json};
use std::path::Path;
use tokio::time::timeout;

const KEYS: [&str; 10] = [
    "company",
    "created_at",
    "crew",
    "fields",
    "reason",
    "ref",
    "state",
    "ttl_ms",
    "user",
    "version",
];

impl Site {
    async fn session(&self, args: &[&str]) -> Done {
        self.run(&[&["--json", "session"], args].concat()).await
    }

    async fn create(&self, args: &[&str]) -> Value {
        self.session(&[&["create"], args].concat()).await.exits(0).json()
    }

    async fn state(&self, token: &str) -> Value {
        let shown = self.session(&["show", token]).await;
        let answer = shown.json();
        shown.exits(i32::from(answer["state"] != "live"));
        answer
    }
}

fn token(created: &Value) -> &str {
    created["token"].as_str().expect("a token")
}

#[tokio::test]
async fn a_token_is_told_once_and_never_again() {
    let site = Site::start().await;
    let args = ["--user", "ann", "--company", "acme", "--crew", "night", "--ttl", "48h"];
    let created = site.create(&args).await;
    let secret = token(&created);
    let all = [&KEYS[..], &["token"]].concat();
    assert!(all.iter().all(|key| keys(&created).contains(key)), "{created}");
    assert_eq!(keys(&created).len(), all.len());
    let shown = site.state(secret).await;
    assert!(keys(&shown).into_iter().eq(KEYS), "{shown}");
    for (key, value) in [("user", "ann"), ("company", "acme"), ("crew", "night"), ("state", "live")]
    {
        assert_eq!((&created[key], &shown[key]), (&value.into(), &value.into()));
    }
    assert_eq!(created["ref"], shown["ref"]);
    // Longer than the absolute timeout of all, which gives way.
    let left = shown["ttl_ms"].as_u64();
    assert!(left > Some(47 * 3_600_000) && left <= Some(48 * 3_600_000 + 60_000), "{shown}");
    // From stdin, with the line break of `echo`.
    let told = fed(site.command(&["session", "show", "-"]), &format!("{secret}\n")).await.exits(0);
    let (_, half) = secret.rsplit_once('.').expect("its parts");
    let listed = site.session(&["list", "--user", "ann"]).await.exits(0);
    assert_eq!(listed.json()["sessions"][0]["ref"], created["ref"]);
    for done in [&told, &listed] {
        assert!(!format!("{done:?}").contains(half), "{done:?}");
    }
    assert!(told.stdout.contains("COMPANY") && told.stderr.is_empty(), "{told:?}");
    // Lines that a shell can eval.
    let lines = site.run(&["session", "create", "--user", "bob"]).await.exits(0).stdout;
    let named: Vec<_> = lines.lines().filter_map(|line| line.split_once('=')).collect();
    assert_eq!(named.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["token", "ref", "ttl_ms"]);
    assert_eq!(site.state(named[0].1).await["user"], "bob");
}

#[tokio::test]
async fn what_was_ended_says_so_and_stays_ended() {
    let site = Site::start().await;
    let created = site.create(&["--user", "ann"]).await;
    let secret = token(&created);
    let call = ["revoke", secret, "--reason", "lost phone"];
    let revoked = site.session(&call).await.exits(0).json();
    let expected = json!({ "count": 1, "state": "revoked", "reason": "lost phone" });
    assert_eq!(revoked, expected);
    let shown = site.state(secret).await;
    assert!(keys(&shown).into_iter().eq(KEYS), "{shown}");
    assert_eq!((&shown["state"], &shown["reason"]), (&"revoked".into(), &"lost phone".into()));
    let again = site.session(&["revoke", secret]).await.exits(1).json();
    let expected = json!({ "count": 0, "state": "revoked", "reason": "lost phone" });
    assert_eq!(again, expected);
    site.run(&["session", "show", secret]).await.exits(1).complains("lost phone");
    // One that nobody was ever given, of the right form.
    let other = site.create(&["--user", "ann"]).await;
    let (before, after) = token(&other).split_at(token(&other).len() - 20);
    let guess =
        format!("{before}{}{}", if after.starts_with('A') { 'B' } else { 'A' }, &after[1..]);
    assert_eq!(site.state(&guess).await["state"], "absent");
    site.run(&["session", "revoke", &guess]).await.exits(1).complains("absent");
    assert_eq!(site.state(token(&other)).await["state"], "live");
    // One that nobody used.
    let brief = site.create(&["--user", "ann", "--ttl", "1ms"]).await;
    coordinator_harness::eventually(SOON, "it has expired", async || {
        site.session(&["show", token(&brief)]).await.json()["state"] == "expired"
    })
    .await;
}

#[tokio::test]
async fn a_company_is_ended_and_another_is_not() {
    let site = Site::start().await;
    let mut of_acme = Vec::new();
    for user in ["ann", "bob", "ann"] {
        of_acme.push(site.create(&["--user", user, "--company", "acme"]).await);
    }
    let kept = site.create(&["--user", "ann", "--company", "zoo"]).await;
    let count = async |args: &[&str]| {
        let answer = site.session(&[&["count"], args].concat()).await.exits(0).json();
        assert!(keys(&answer).into_iter().eq(["count"]), "{answer}");
        answer["count"].as_u64().expect("a number")
    };
    assert_eq!(count(&[]).await, 4);
    assert_eq!(count(&["--company", "acme"]).await, 3);
    assert_eq!(count(&["--user", "ann"]).await, 3);
    let ended = site.session(&["revoke", "--company", "acme", "--reason", "left"]).await;
    assert_eq!(ended.exits(0).json(), json!({ "count": 3 }));
    for created in &of_acme {
        assert_eq!(site.state(token(created)).await["reason"], "left");
    }
    assert_eq!(site.state(token(&kept)).await["state"], "live");
    assert_eq!(count(&[]).await, 1);
    let ended = site.session(&["revoke", "--user", "ann"]).await.exits(0).json();
    assert_eq!(ended, json!({ "count": 1 }));
    assert_eq!(count(&[]).await, 0);
    // Nobody is left, and that is no error.
    site.session(&["revoke", "--user", "ann"]).await.exits(0);
}

#[tokio::test]
async fn a_list_goes_on_where_it_ended() {
    let site = Site::start().await;
    let mut expected = std::collections::BTreeSet::new();
    for user in 0..7 {
        let created = site.create(&["--user", &user.to_string(), "--company", "acme"]).await;
        expected.insert(created["ref"].as_str().expect("a reference").to_owned());
    }
    let (mut found, mut cursor) = (std::collections::BTreeSet::new(), None);
    loop {
        let mut args = vec!["list", "--company", "acme", "--count", "3"];
        args.extend(cursor.as_deref().map_or(vec![], |cursor| vec!["--cursor", cursor]));
        let page = site.session(&args).await.exits(0).json();
        assert!(keys(&page).into_iter().eq(["next", "sessions"]), "{page}");
        let sessions = page["sessions"].as_array().expect("sessions");
        assert!(sessions.len() <= 3, "{page}");
        for session in sessions {
            assert!(keys(session).into_iter().eq(KEYS), "{page}");
            found.insert(session["ref"].as_str().expect("a reference").to_owned());
        }
        let Some(next) = page["next"].as_str() else { break };
        cursor = Some(next.to_owned());
    }
    assert_eq!(found, expected);
    let table = site.run(&["session", "list", "--count", "1"]).await.exits(0);
    table.complains("--cursor");
    site.session(&["list", "--cursor", "x"]).await.exits(2).complains("cursor");
}

#[tokio::test]
async fn orphans_are_found_and_mended() {
    let site = Site::start().await;
    let clean = site.session(&["verify"]).await.exits(0).json();
    assert!(
        keys(&clean).into_iter().eq([
            "missing",
            "orphans",
            "repaired",
            "sessions",
            "strays",
            "unreadable"
        ]),
        "{clean}"
    );
    site.create(&["--user", "ann", "--company", "acme"]).await;
    site.create(&["--user", "bob"]).await;
    // Somebody deletes the hash of one by hand.
    let pattern = format!("{}:*", site.prefix);
    let answer = site.server.command(&["KEYS", &pattern]).await.expect("KEYS is answered");
    let mut hashes = Vec::new();
    for key in answer.as_array().expect("keys") {
        let key = key.as_str().expect("a key");
        let kind = site.server.command(&["TYPE", key]).await.expect("TYPE is answered");
        if kind.as_str() == Some("hash") {
            hashes.push(key.to_owned());
        }
    }
    assert_eq!(hashes.len(), 2, "{hashes:?}");
    site.server.command(&["DEL", &hashes[0]]).await.expect("DEL is answered");
    let found = site.session(&["verify"]).await.exits(1).json();
    assert!(found["orphans"].as_u64() > Some(0), "{found}");
    let mended = site.session(&["verify", "--repair"]).await.exits(0).json();
    assert_eq!(mended["orphans"], found["orphans"], "{mended}");
    let clean = site.session(&["verify"]).await.exits(0).json();
    assert_eq!((&clean["orphans"], &clean["sessions"]), (&0.into(), &1.into()), "{clean}");
}

/// One run after another on a file, named one way or the other.
async fn in_a_file(file: &Path, by_variable: bool, args: &[&str]) -> Done {
    let mut command = binary(&[&["--json"], args].concat());
    if by_variable {
        command.env("USE_REDIS", "0").env("COORDINATOR_FILE", file);
    } else {
        command.env("COORDINATOR_URL", format!("embedded://{}", file.display()));
    }
    done(command).await
}

#[tokio::test]
async fn two_runs_on_a_file_see_what_the_other_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state.redb");
    let created = in_a_file(&file, false, &["session", "create", "--user", "ann"]).await;
    assert!(created.stderr.is_empty(), "{created:?}");
    let created = created.exits(0).json();
    let shown = in_a_file(&file, true, &["session", "show", token(&created)]).await.exits(0);
    assert!(shown.stderr.is_empty(), "{shown:?}");
    assert_eq!(shown.json()["ref"], created["ref"]);
    in_a_file(&file, true, &["session", "revoke", token(&created)]).await.exits(0);
    let shown = in_a_file(&file, false, &["session", "show", token(&created)]).await.exits(1);
    assert_eq!(shown.json()["state"], "revoked");
    let put = in_a_file(&file, false, &["doc", "put", "plans", "p", "[1]"]).await.exits(0).json();
    let got = in_a_file(&file, true, &["doc", "get", "plans", "p"]).await.exits(0).json();
    assert_eq!((&got["value"], &got["version"]), (&json!([1]), &put["version"]));
    for _ in 0..2 {
        let call = ["conversation", "append", "t", "--role", "user", "hi", "--key", "k"];
        in_a_file(&file, true, &call).await.exits(0);
    }
    let shown = in_a_file(&file, false, &["conversation", "show", "t"]).await.exits(0).json();
    assert_eq!(shown["messages"].as_array().map(Vec::len), Some(1), "{shown}");
}

#[tokio::test]
async fn memory_keeps_nothing_and_says_so() {
    let url = ["--url", "embedded://", "--json"];
    let call = [&url[..], &["session", "create", "--user", "ann"]].concat();
    let created = done(binary(&call)).await.exits(0).complains("nothing is kept").json();
    let call = [&url[..], &["session", "show", token(&created)]].concat();
    let shown = done(binary(&call)).await.exits(1).complains("nothing is kept").json();
    assert_eq!(shown["state"], "absent");
}

#[tokio::test]
async fn without_a_server_it_is_no_absent_session_but_an_outage() {
    let site = Site::start().await;
    let created = site.create(&["--user", "ann"]).await;
    let calls: [&[&str]; 8] = [
        &["session", "show", token(&created)],
        &["session", "create", "--user", "u"],
        &["session", "revoke", "--company", "c"],
        &["session", "list"],
        &["session", "verify"],
        &["doc", "get", "n", "d"],
        &["doc", "put", "n", "d", "1"],
        &["conversation", "append", "t", "--role", "user", "hi"],
    ];
    for call in calls {
        for url in [DEAD.to_owned(), format!("{DEAD}?fallback=memory")] {
            let run = done(binary(&[&["--url", &url], call].concat()));
            let ended = timeout(SOON, run).await.expect("it ends soon").exits(3);
            assert!(ended.stdout.is_empty() && ended.stderr.lines().count() == 1, "{ended:?}");
        }
    }
    // Who asked for a file gets it, and is told.
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("{DEAD}?fallback=file:{}", folder.path().join("state.redb").display());
    let run = |args: &[&str]| done(binary(&[&["--url", &url, "--json"], args].concat()));
    let created = run(&["session", "create", "--user", "ann"]).await.exits(0);
    let created = created.complains("no server was found").json();
    run(&["session", "show", token(&created)]).await.exits(0);
}

#[tokio::test]
async fn no_error_repeats_a_token() {
    let site = Site::start().await;
    let created = site.create(&["--user", "ann"]).await;
    let secret = token(&created);
    let (_, half) = secret.rsplit_once('.').expect("its parts");
    let broken = &secret[..secret.len() - 1];
    let calls: [&[&str]; 8] = [
        &["show", broken],
        &["revoke", broken],
        &["count", secret],
        &["show", secret, secret],
        &["list", "--token", secret],
        &["create", "--user", "u", secret],
        &["revoke", secret, "--user", "u"],
        &["revoke", secret, "--reason", "a\nb"],
    ];
    for call in calls {
        let done = site.run(&[&["-vvv", "session"], call].concat()).await.exits(2);
        assert!(!format!("{done:?}").contains(&half[..half.len() - 1]), "{done:?}");
    }
    for call in [["show", secret], ["revoke", secret]] {
        let done = site.run(&[&["-vvv", "session"][..], &call].concat()).await.exits(0);
        assert!(!format!("{done:?}").contains(half), "{done:?}");
    }
    assert_eq!(site.state(secret).await["state"], "revoked");
}

#[tokio::test]
async fn a_wrong_call_exits_2() {
    let site = Site::start().await;
    let calls: [&[&str]; 9] = [
        &["create"],
        &["create", "--user", ""],
        &["create", "--user", "u", "--ttl", "0s"],
        &["create", "--user", "u", "--ttl", "10y"],
        &["show"],
        &["revoke"],
        &["revoke", "--user", "u", "--company", "c"],
        &["list", "--user", "u", "--company", "c"],
        &["list", "--count", "0"],
    ];
    for call in calls {
        let done = site.run(&[&["session"], call].concat()).await.exits(2).complains("");
        assert!(done.stdout.is_empty(), "{done:?}");
    }
    assert_eq!(site.session(&["count"]).await.json()["count"], 0);
}

#[tokio::test]
async fn a_token_that_nobody_read_lives_no_longer() {
    let site = Site::start().await;
    let mut command = site.command(&["session", "create", "--user", "ann"]);
    let full = std::fs::File::options().write(true).open("/dev/full");
    command.stdout(std::process::Stdio::from(full.expect("/dev/full")));
    done(command).await.exits(3).complains("stdout");
    assert_eq!(site.session(&["count"]).await.exits(0).json()["count"], 0);
}

#[tokio::test]
async fn one_session_of_a_users_is_ended_by_what_the_list_calls_it() {
    let site = Site::start().await;
    let (phone, desk) =
        (site.create(&["--user", "ann"]).await, site.create(&["--user", "ann"]).await);
    let reference = phone["ref"].as_str().expect("a reference");
    let by = async |user: &str, reference: &str, exits: i32| {
        let args = ["revoke", "--user", user, "--ref", reference, "--reason", "lost"];
        site.session(&args).await.exits(exits).json()
    };
    let absent = json!({ "count": 0, "state": "absent", "reason": null });
    assert_eq!(by("bob", reference, 1).await, absent);
    assert_eq!(by("ann", "AAAAAAAAAAAA", 1).await, absent);
    let ended = json!({ "count": 1, "state": "revoked", "reason": "lost" });
    assert_eq!(by("ann", reference, 0).await, ended);
    assert_eq!(site.state(token(&phone)).await["reason"], "lost");
    assert_eq!(site.state(token(&desk)).await["state"], "live");
    assert_eq!(by("ann", reference, 1).await, absent);
    // Of whom, it must be said, and what it is.
    site.session(&["revoke", "--user", "ann", "--ref", "phone"]).await.exits(2);
    site.session(&["revoke", "--ref", reference]).await.exits(2);
    site.session(&["revoke", "--company", "acme", "--ref", reference]).await.exits(2);
}
