//! `conversation …` as shells call it.

use crate::support::{Done, Site, fed, keys};
use serde_json::{Value, json};

impl Site {
    async fn talk(&self, args: &[&str]) -> Done {
        self.run(&[&["--json", "conversation"], args].concat()).await
    }
}

fn texts(shown: &Value) -> Vec<&str> {
    let messages = shown["messages"].as_array().expect("messages").iter();
    messages.map(|message| message["text"].as_str().expect("a text")).collect()
}

#[tokio::test]
async fn twenty_shells_with_one_key_append_once() {
    let site = Site::start().await;
    let call = ["append", "t", "--role", "user", "It is broken.", "--key", "mail-7"];
    let all = futures::future::join_all((0..20).map(|_| site.talk(&call))).await;
    let answers: Vec<_> = all.into_iter().map(|done| done.exits(0).json()).collect();
    for answer in &answers {
        let expected = ["duplicate", "evicted", "left", "paused", "pending", "sequence", "tokens"];
        assert!(keys(answer).into_iter().eq(expected), "{answer}");
        assert_eq!(answer["sequence"], 1, "{answer}");
    }
    let first = answers.iter().filter(|answer| answer["duplicate"] == false);
    assert_eq!(first.count(), 1, "{answers:?}");
    let shown = site.talk(&["show", "t"]).await.exits(0).json();
    assert_eq!(texts(&shown), ["It is broken."]);
    // Without a key each is a message of its own.
    site.talk(&["append", "t", "--role", "user", "It is broken."]).await.exits(0);
    assert_eq!(texts(&site.talk(&["show", "t"]).await.json()).len(), 2);
}

#[tokio::test]
async fn a_conversation_is_told_by_its_keys() {
    let site = Site::start().await;
    let absent = site.talk(&["show", "t"]).await.exits(1).json();
    assert!(texts(&absent).is_empty() && absent["summary"].is_null(), "{absent}");
    site.talk(&["append", "t", "--role", "user", "Hello"]).await.exits(0);
    let answer = site.command(&["conversation", "append", "t", "--role", "assistant", "-"]);
    fed(answer, "Two\nlines\n").await.exits(0);
    let shown = site.talk(&["show", "t"]).await.exits(0).json();
    let expected = [
        "evicted",
        "found",
        "messages",
        "paused",
        "pending",
        "reason",
        "summary",
        "tokens",
        "tokens_saved",
        "ttl_ms",
    ];
    assert!(keys(&shown).into_iter().eq(expected), "{shown}");
    assert_eq!(texts(&shown), ["Hello", "Two\nlines"]);
    let first = &shown["messages"][0];
    assert!(keys(first).into_iter().eq(["role", "sequence", "text", "tokens"]), "{shown}");
    assert_eq!((&first["role"], &first["sequence"]), (&"user".into(), &1.into()));
    assert!(shown["tokens"].as_u64() > Some(0), "{shown}");
    let printed = site.run(&["conversation", "show", "t"]).await.exits(0);
    assert_eq!(printed.stdout, "1 user: Hello\n2 assistant: Two\\nlines\n");
}

#[tokio::test]
async fn what_leaves_the_window_is_told_and_counted() {
    let site = Site::start().await;
    let append = async |text: &str| {
        let call = ["append", "t", "--role", "user", text, "--window", "2"];
        site.talk(&call).await.exits(0).json()
    };
    for text in ["a", "b"] {
        assert_eq!(append(text).await["left"], json!([]));
    }
    let third = append("c").await;
    assert_eq!((&third["left"][0]["text"], &third["evicted"]), (&"a".into(), &1.into()));
    let shown = site.talk(&["show", "t"]).await.exits(0).json();
    assert_eq!((texts(&shown), &shown["evicted"]), (vec!["b", "c"], &1.into()));
}

#[tokio::test]
async fn a_pause_refuses_everybody_until_it_ends() {
    let site = Site::start().await;
    let append = ["append", "t", "--role", "user", "hi"];
    site.talk(&append).await.exits(0);
    let paused = site.talk(&["pause", "t", "--reason", "lunch"]).await.exits(0).json();
    assert_eq!(paused, json!({ "paused": true, "changed": true }));
    let again = site.talk(&["pause", "t"]).await.exits(0).json();
    assert_eq!(again, json!({ "paused": true, "changed": false }));
    let refused = site.talk(&append).await.exits(1).json();
    assert_eq!(refused["paused"], true, "{refused}");
    let words = site.run(&[&["conversation"], &append[..]].concat()).await.exits(1);
    words.complains("paused");
    let shown = site.talk(&["show", "t"]).await.exits(0).json();
    assert_eq!((&shown["paused"], texts(&shown).len()), (&true.into(), 1));
    for changed in [true, false] {
        let resumed = site.talk(&["resume", "t"]).await.exits(0).json();
        assert_eq!(resumed, json!({ "paused": false, "changed": changed }));
    }
    site.talk(&append).await.exits(0);
}

#[tokio::test]
async fn a_wrong_call_exits_2() {
    let site = Site::start().await;
    let calls: [&[&str]; 5] = [
        &["append", "t", "hi"],
        &["append", "", "--role", "user", "hi"],
        &["append", "t", "--role", "user", "hi", "--key", ""],
        &["append", "t", "--role", "user", "hi", "--window", "1001"],
        &["show"],
    ];
    for call in calls {
        let done = site.run(&[&["conversation"], call].concat()).await.exits(2).complains("");
        assert!(done.stdout.is_empty(), "{done:?}");
    }
}
