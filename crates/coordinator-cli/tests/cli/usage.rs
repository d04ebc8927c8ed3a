//! What can be said, what is refused, and whose word counts.

use crate::support::{DEAD, LONG, Site, binary, done};
use coordinator_harness::eventually;
use std::process::Stdio;

/// Options, and variables with their values.
type Setting<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn a_process_local_lock_is_refused() {
    let calls: [&[&str]; 6] = [
        &["lock", "list"],
        &["lock", "show", "n"],
        &["lock", "run", "n", "--", "true"],
        &["lock", "acquire", "n", "--ttl", "1s"],
        &["lock", "renew", "n", "--ttl", "1s", "--token", TOKEN],
        &["lock", "release", "n", "--token", TOKEN],
    ];
    for call in calls {
        done(binary(call)).await.exits(2).complains("protects nobody");
        for (name, value) in [("COORDINATOR_URL", "embedded://"), ("USE_REDIS", "0")] {
            let mut command = binary(call);
            command.env("REDIS_URL", DEAD).env(name, value);
            done(command).await.exits(2).complains("protects nobody");
        }
    }
}

#[tokio::test]
async fn a_wrong_call_is_one_line_and_two() {
    let long = "x".repeat(64 * 1024);
    let calls: [&[&str]; 16] = [
        &["lock", "acquire", "n"],
        &["lock", "acquire", "n", "--ttl", "0s"],
        &["lock", "acquire", "n", "--ttl", "10"],
        &["lock", "acquire", "n", "--ttl", "1s", "--wait", "-1s"],
        &["lock", "acquire", "n", "--ttl", "2years"],
        &["lock", "acquire", "n", "--ttl", "1s", "--wait", "2years"],
        &["lock", "acquire", "", "--ttl", "1s"],
        &["lock", "show", &long],
        &["lock", "run", "n"],
        &["lock", "run", "n", "true"],
        &["lock", "renew", "n", "--ttl", "1s"],
        &["lock", "release", "n"],
        &["lock", "release", "n", "--force"],
        &["lock", "release", "n", "--force", "--reason", ""],
        &["lock", "release", "n", "--reason", "r", "--token", TOKEN],
        &["--timeout", "0s", "lock", "list"],
    ];
    let site = Site::start().await;
    for call in calls {
        let done = site.run(call).await.exits(2).complains("");
        assert!(done.stdout.is_empty(), "{done:?}");
    }
    for bad in ["x-s3cret", "0123456789ABCDEF0123456789ABCDEF-s3cret"] {
        let call = ["lock", "release", "n", "--token", bad];
        let done = site.run(&call).await.exits(2).complains("hex digits");
        assert!(!done.stderr.contains("s3cret"), "{done:?}");
    }
    for url in ["http://u:s3cret@h", "redis://u:s3cret@h?colour=red", "s3cret"] {
        let done = done(binary(&["--url", url, "lock", "list"])).await.exits(2);
        assert!(!done.complains("").stderr.contains("s3cret"));
    }
    assert!(site.held().await.is_empty());
}

#[tokio::test]
async fn an_option_wins_over_variables_and_the_first_variable_over_the_next() {
    let site = Site::start().await;
    let (url, addr) = (site.server.url(), site.server.addr());
    let (host, port) = (addr.ip().to_string(), addr.port().to_string());
    let both = [("COORDINATOR_URL", &*url), ("REDIS_URL", DEAD)];
    let settings: [Setting<'_>; 6] = [
        (&["--url", &url], &[("COORDINATOR_URL", DEAD), ("USE_REDIS", "0")]),
        (&[], &both),
        (&[], &[("COORDINATOR_URL", ""), ("REDIS_URL", &url)]),
        (&[], &[("REDIS_URL", &url), ("REDIS_HOST", "127.0.0.1"), ("REDIS_PORT", "1")]),
        (&[], &[("REDIS_HOST", &host), ("REDIS_PORT", &port)]),
        (&["--timeout", "1s"], &[("REDIS_URL", &url)]),
    ];
    for (options, variables) in settings {
        // Global options are understood on both sides of the verb.
        for call in [[&["lock", "list"], options].concat(), [options, &["lock", "list"]].concat()] {
            let mut command = binary(&call);
            command.envs(variables.iter().copied());
            done(command).await.exits(0);
        }
    }
    let mut dead = binary(&["--url", DEAD, "lock", "list"]);
    dead.envs(both);
    done(dead).await.exits(3);
}

#[tokio::test]
async fn the_prefix_separates() {
    let site = Site::start().await;
    site.acquire("n").await;
    site.run(&["lock", "show", "n"]).await.exits(0);
    let other = format!("{}-other", site.prefix);
    let call = ["lock", "show", "n", "--prefix", &other];
    site.run(&call).await.exits(1);
    let mut command = binary(&["--url", &site.server.url(), "lock", "show", "n"]);
    command.env("REDIS_KEY_PREFIX", &site.prefix);
    done(command).await.exits(0);
}

#[tokio::test]
async fn every_verb_explains_itself_with_an_example() {
    let verbs: [&[&str]; 49] = [
        &[],
        &["cache", "get"],
        &["cache", "set"],
        &["cache", "delete"],
        &["cache", "invalidate-tag"],
        &["cache", "invalidate"],
        &["cache", "stats"],
        &["demo"],
        &["health"],
        &["limit", "check"],
        &["limit", "peek"],
        &["limit", "reset"],
        &["limit", "violations"],
        &["limit", "top"],
        &["limit", "replay"],
        &["lock", "run"],
        &["lock", "acquire"],
        &["lock", "renew"],
        &["lock", "release"],
        &["lock", "list"],
        &["lock", "show"],
        &["lock", "graph"],
        &["session", "create"],
        &["session", "show"],
        &["session", "list"],
        &["session", "revoke"],
        &["session", "count"],
        &["session", "verify"],
        &["session", "export"],
        &["session", "restore"],
        &["session", "migrate"],
        &["doc", "put"],
        &["doc", "get"],
        &["doc", "list"],
        &["doc", "delete"],
        &["conversation", "append"],
        &["conversation", "show"],
        &["conversation", "pause"],
        &["conversation", "resume"],
        &["events", "publish"],
        &["events", "tail"],
        &["events", "position"],
        &["events", "group", "status"],
        &["events", "group", "take"],
        &["events", "group", "dead"],
        &["events", "group", "requeue"],
        &["events", "group", "discard"],
        &["events", "group", "delete"],
        &["completions"],
    ];
    for verb in verbs {
        let done = done(binary(&[verb, &["--help"]].concat())).await.exits(0);
        assert!(done.stdout.contains("Example"), "{done:?}");
        assert!(done.stdout.contains("--url"), "{done:?}");
    }
    let version = done(binary(&["--version"])).await.exits(0);
    assert_eq!(version.stdout.trim(), concat!("coordinator ", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        let script = done(binary(&["completions", shell])).await.exits(0);
        for word in ["acquire", "violations", "ip+path", "requeue", "invalidate-tag"] {
            assert!(script.stdout.contains(word), "{shell}: {word}");
        }
    }
    done(binary(&["completions", "cobol"])).await.exits(2).complains("cobol");
}

#[tokio::test]
async fn a_reader_that_has_gone_is_no_crash() {
    let site = Site::start().await;
    for call in [&["health"][..], &["lock", "list", "--json"], &["completions", "bash"]] {
        let mut command = site.command(call);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        command.stdout(Stdio::from(writer));
        let done = done(command).await.exits(0);
        assert!(done.stderr.is_empty(), "{done:?}");
    }
}

#[tokio::test]
async fn a_token_that_nobody_read_holds_nothing() {
    let site = Site::start().await;
    let mut command = site.command(&["lock", "acquire", "n", "--ttl", "10m"]);
    let full = std::fs::File::options().write(true).open("/dev/full");
    command.stdout(Stdio::from(full.expect("/dev/full")));
    done(command).await.exits(3).complains("stdout");
    eventually(LONG, "no lock is left", async || site.held().await.is_empty()).await;
}
