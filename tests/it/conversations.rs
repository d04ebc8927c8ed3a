//! Conversations: what they promise, on every backend, through the public API.

use crate::topology::Servers;
use coordinator_core::{ErrorKind, clock::ManualClock, redis::Connection};
use coordinator_sessions::{
    Conversation, Conversations, Message, Party, Store,
    conversations::{
        Append, Appended, Edited, Entry, FieldEdit, Identity, Section, Span, Stats, Summarised,
        TTL, WINDOW,
    },
};
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tempfile::TempDir;

/// Conversations on one backend, and a second client of the same ones.
struct Stage {
    talks: Conversations,
    /// What another process would be; embedded has none, so it is the same store.
    peer: Conversations,
    clock: ManualClock,
    servers: Option<Servers>,
    _folder: Option<TempDir>,
}

impl Stage {
    fn embedded() -> Self {
        let clock = ManualClock::new();
        Self::in_store(Store::memory(), clock, None)
    }

    fn file() -> Self {
        let clock = ManualClock::new();
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::file(folder.path().join("talks.redb")).expect("a store");
        Self::in_store(store, clock, Some(folder))
    }

    fn in_store(store: Store, clock: ManualClock, folder: Option<TempDir>) -> Self {
        let store = store.with_clock(Arc::new(clock.clone()));
        let talks = Conversations::embedded_in(&store);
        let peer = Conversations::embedded_in(&store);
        Self { talks, peer, clock, servers: None, _folder: folder }
    }

    async fn redis() -> Self {
        let servers = Servers::start().await;
        let clock = ManualClock::new();
        let config = servers.config().clone().with_clock(Arc::new(clock.clone()));
        let connect = || Connection::connect(config.clone());
        let talks = Conversations::redis(&connect().await.expect("a connection"));
        let peer = Conversations::redis(&connect().await.expect("a connection"));
        Self { talks, peer, clock, servers: Some(servers), _folder: None }
    }

    async fn elapse(&self, by: Duration) {
        if let Some(servers) = &self.servers {
            servers.advance(by).await;
        }
        self.clock.advance(by);
    }
}

macro_rules! on_every_backend {
    ($($case:ident)*) => {
        mod embedded {
            $(#[tokio::test] async fn $case() { super::$case(super::Stage::embedded()).await; })*
        }
        mod file {
            $(#[tokio::test] async fn $case() { super::$case(super::Stage::file()).await; })*
        }
        mod redis {
            $(#[tokio::test] async fn $case() { super::$case(super::Stage::redis().await).await; })*
        }
    };
}

on_every_backend! {
    a_conversation_goes_on_elsewhere
    what_left_is_handed_back_and_summarised
    a_lost_answer_loses_no_text
    a_call_is_never_without_its_answer
    a_budget_holds_and_tokens_are_saved
    a_window_is_never_longer_than_it_may_be
    two_summarisers_do_not_overwrite_each_other
    a_summary_has_four_hundred_characters
    fields_stand_beside_the_messages
    a_pause_refuses_and_ends
    a_conversation_lives_for_three_days_after_the_last_append
    parties_are_apart_and_a_user_has_several_channels
    all_are_listed_page_by_page
    a_deleted_conversation_is_gone
    bad_calls_are_misuse
}

fn party<'a>(channel: &'a str, user: &'a str) -> Party<'a> {
    Party { client: "web", channel, user }
}

fn users(texts: &[&str]) -> Vec<Message> {
    texts.iter().map(|text| Message::user(*text)).collect()
}

async fn append(talk: &Conversation, messages: &[Message]) -> Appended {
    talk.append(messages, None).await.expect("an answer").done().expect("not paused")
}

async fn window(talk: &Conversation) -> Vec<String> {
    let view = talk.show().await.expect("an answer").expect("it is there");
    view.messages().map(|message| message.text.clone()).collect()
}

async fn stats(talk: &Conversation) -> Stats {
    talk.stats().await.expect("an answer").expect("it is there")
}

async fn a_conversation_goes_on_elsewhere(x: Stage) {
    let here = x.talks.of(party("support", "u1")).expect("a conversation");
    let there = x.peer.of(party("support", "u1")).expect("a conversation");
    assert!(!there.exists().await.expect("an answer"));
    assert!(there.show().await.expect("an answer").is_none());
    let first = append(&here, &users(&["a", "b"])).await;
    assert_eq!((first.sequences, first.duplicate), (1..=2, false));
    let metadata = json!({"score": 0.5, "tags": ["x", null]});
    let rich = Message::assistant("ja 🦀").with_name("Ada").with_metadata(metadata);
    assert_eq!(append(&there, std::slice::from_ref(&rich)).await.sequences, 3..=3);
    let view = here.show().await.expect("an answer").expect("it is there");
    assert_eq!(view.window.iter().map(|said| said.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(view.window[2].message, rich);
    assert_eq!((view.stats.messages, view.stats.in_window, view.summary), (3, 3, None));
    let named = x.talks.open_named("default").expect("a conversation");
    append(&named, &users(&["n"])).await;
    let again = x.peer.open_named("default").expect("a conversation");
    assert_eq!(window(&again).await, ["n"]);
}

async fn what_left_is_handed_back_and_summarised(x: Stage) {
    let talk = x.talks.of(party("a", "u")).expect("a conversation");
    let many: Vec<_> = (1..=WINDOW + 2).map(|n| Message::user(format!("{n}"))).collect();
    let appended = append(&talk, &many).await;
    let left: Vec<_> = appended.evicted.iter().map(|said| &*said.message.text).collect();
    assert_eq!(left, ["1", "2"]);
    assert_eq!(appended.span, Span { after: 0, up_to: 2 });
    // Something is said while the model summarises.
    let meanwhile = append(&talk, &users(&["23"])).await;
    assert_eq!(meanwhile.evicted[0].message.text, "3");
    let stored = talk.set_summary("1 and 2", appended.span).await.expect("an answer");
    assert_eq!(stored, Summarised::Stored);
    let pending = talk.pending().await.expect("an answer").expect("it is there");
    assert_eq!(pending.summary.as_deref(), Some("1 and 2"));
    assert_eq!(pending.messages, meanwhile.evicted);
    let stored = talk.set_summary("1 to 3", pending.span).await.expect("an answer");
    assert_eq!(stored, Summarised::Stored);
    let view = talk.show().await.expect("an answer").expect("it is there");
    assert_eq!(view.summary.as_deref(), Some("1 to 3"));
    let Stats { messages, in_window, evicted, pending, covered, lost, .. } = view.stats;
    assert_eq!((messages, in_window, evicted, pending, covered, lost), (23, 20, 3, 0, 3, 0));
}

async fn a_lost_answer_loses_no_text(x: Stage) {
    let talks = x.talks.with_window(1);
    let talk = talks.of(party("a", "u")).expect("a conversation");
    let messages = users(&["a", "b", "c"]);
    let first = talk.append(&messages, Some("k{1}")).await.expect("an answer");
    let first = first.done().expect("not paused");
    let again = talk.append(&messages, Some("k{1}")).await.expect("an answer");
    let again = again.done().expect("not paused");
    assert!(again.duplicate && !first.duplicate);
    assert_eq!((again.sequences, &again.evicted), (1..=3, &first.evicted));
    assert_eq!(again.span, first.span);
    assert_eq!(window(&talk).await, ["c"]);
    talk.set_summary("a, b", again.span).await.map(drop).expect("an answer");
    let third = talk.append(&messages, Some("k{1}")).await.expect("an answer");
    assert!(third.done().expect("not paused").evicted.is_empty(), "it is covered");
}

async fn a_call_is_never_without_its_answer(x: Stage) {
    let talks = x.talks.with_window(4);
    let talk = talks.of(party("a", "u")).expect("a conversation");
    let turn = [
        Message::user("weather?"),
        Message::assistant("").with_call("c1", "look", json!({"at": "Graz"})).with_call(
            "c2",
            "look",
            json!({"at": "Linz"}),
        ),
        Message::tool("c1", "14"),
        Message::tool("c2", "15"),
    ];
    assert!(append(&talk, &turn).await.evicted.is_empty());
    assert_eq!(append(&talk, &[Message::assistant("mild")]).await.evicted.len(), 1);
    let left = append(&talk, &users(&["thanks"])).await.evicted;
    assert_eq!(left.iter().map(|said| said.sequence).collect::<Vec<_>>(), [2, 3, 4]);
    let late = append(&talk, &[Message::tool("c2", "late")]).await;
    assert_eq!(late.evicted[0].message.text, "late");
    assert_eq!(window(&talk).await, ["mild", "thanks"]);
}

async fn a_budget_holds_and_tokens_are_saved(x: Stage) {
    let words = |text: &str| u32::try_from(text.split_whitespace().count()).expect("few");
    let talks = x.talks.with_token_budget(20).with_estimator(words);
    let talk = talks.of(party("a", "u")).expect("a conversation");
    // Six words, and four for the message.
    let ten = Message::user("one two three four five six");
    assert!(append(&talk, &[ten.clone(), ten.clone()]).await.evicted.is_empty());
    let third = append(&talk, std::slice::from_ref(&ten)).await;
    assert_eq!((third.evicted.len(), third.stats.tokens_in_window), (1, 20));
    assert_eq!(third.evicted[0].tokens, 10);
    talk.set_summary("three short words", third.span).await.map(drop).expect("an answer");
    let stats = stats(&talk).await;
    assert_eq!((stats.tokens, stats.summary_tokens, stats.tokens_saved), (30, 3, 7));
    let big = Message::user("w ".repeat(17));
    let error = talk.append(&[big], None).await.expect_err("above the budget");
    assert_eq!(error.kind(), ErrorKind::Misuse, "{}", error.chain());
}

async fn a_window_is_never_longer_than_it_may_be(x: Stage) {
    let mut tasks = tokio::task::JoinSet::new();
    for appender in 0..50 {
        let talks = if appender % 2 == 0 { &x.talks } else { &x.peer };
        let talk = talks.clone().with_window(7).of(party("a", "u")).expect("a conversation");
        tasks.spawn(async move {
            let mut given = Vec::new();
            for n in 0..6 {
                let appended =
                    append(&talk, &users(&[format!("{appender}:{n}").as_str(); 2])).await;
                given.extend(appended.sequences);
                let view = talk.show().await.expect("an answer").expect("it is there");
                assert!(view.window.len() <= 7, "{}", view.window.len());
                assert!(view.window.is_sorted_by_key(|said| said.sequence));
            }
            assert!(given.is_sorted());
            given
        });
    }
    let mut all = BTreeSet::new();
    while let Some(given) = tasks.join_next().await {
        for sequence in given.expect("an appender") {
            assert!(all.insert(sequence), "{sequence} was given twice");
        }
    }
    assert_eq!((all.first(), all.last(), all.len()), (Some(&1), Some(&600), 600));
    let stats = stats(&x.talks.of(party("a", "u")).expect("a conversation")).await;
    assert_eq!(stats.in_window + stats.pending + stats.lost, 600);
    assert_eq!((stats.in_window, stats.pending), (7, 100));
}

async fn two_summarisers_do_not_overwrite_each_other(x: Stage) {
    let talks = x.talks.with_window(0);
    let talk = talks.of(party("a", "u")).expect("a conversation");
    let one = append(&talk, &users(&["a"])).await.span;
    let other = append(&talk, &users(&["b"])).await.span;
    let refused = talk.set_summary("b", other).await.expect("an answer");
    let pending = Span { after: 0, up_to: 2 };
    assert_eq!(refused, Summarised::Conflict { pending }, "a would be left out");
    assert_eq!(talk.set_summary("a", one).await.expect("an answer"), Summarised::Stored);
    assert_eq!(talk.set_summary("a", one).await.expect("an answer"), Summarised::Stored);
    let refused = talk.set_summary("x", one).await.expect("an answer");
    assert_eq!(refused, Summarised::Conflict { pending: other });
    assert_eq!(talk.set_summary("a, b", other).await.expect("an answer"), Summarised::Stored);
    // With 20 at once, one is stored.
    let span = append(&talk, &users(&["c"])).await.span;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let talk = talk.clone();
        tasks.spawn(async move { talk.set_summary(&format!("{n}"), span).await });
    }
    let stored = tasks.join_all().await.into_iter();
    let stored = stored.filter(|done| matches!(done, Ok(Summarised::Stored))).count();
    assert_eq!(stored, 1);
}

async fn a_summary_has_four_hundred_characters(x: Stage) {
    let talk = x.talks.of(party("a", "u")).expect("a conversation");
    let none = Span { after: 0, up_to: 0 };
    for character in ["a", "é", "你", "🦀", "e\u{301}"] {
        let long = character.repeat(450);
        talk.set_summary(&long, none).await.map(drop).expect("an answer");
        let view = talk.show().await.expect("an answer").expect("it is there");
        let summary = view.summary.expect("a summary");
        assert_eq!(summary.chars().count(), 400);
        assert!(long.starts_with(&summary));
    }
}

async fn fields_stand_beside_the_messages(x: Stage) {
    let talk = x.talks.of(party("a", "u")).expect("a conversation");
    let there = x.peer.of(party("a", "u")).expect("a conversation");
    assert_eq!(talk.get::<u32>(Section::Stats, "turns").await.expect("an answer"), None);
    let edit = FieldEdit::new()
        .set(Section::Context, "locale", "de-AT")
        .set(Section::Focus, "task {1}", &json!({"step": 2}))
        .set(Section::Stats, "turns", &7);
    assert_eq!(talk.edit(edit).await.expect("an answer"), Edited::Done);
    assert_eq!(there.set(Section::Context, "tone", "dry").await.expect("an answer"), Edited::Done);
    append(&talk, &users(&["a"])).await;
    let context = there.fields(Section::Context).await.expect("an answer");
    assert_eq!(context.names().collect::<Vec<_>>(), ["locale", "tone"]);
    assert_eq!(context.get::<String>("locale").expect("text").as_deref(), Some("de-AT"));
    let view = there.show().await.expect("an answer").expect("it is there");
    assert_eq!(
        view.fields(Section::Focus).get("task {1}").expect("a value"),
        Some(json!({"step": 2}))
    );
    let error = talk.get::<Vec<u32>>(Section::Stats, "turns").await.expect_err("it is no list");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
    let edit = FieldEdit::new().remove(Section::Stats, "turns");
    assert_eq!(talk.edit(edit).await.expect("an answer"), Edited::Done);
    assert!(there.fields(Section::Stats).await.expect("an answer").is_empty());
    // Twenty at once set fields of their own: all survive.
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let talk = if n % 2 == 0 { talk.clone() } else { there.clone() };
        tasks.spawn(async move { talk.set(Section::Stats, &format!("n{n}"), &n).await });
    }
    assert!(tasks.join_all().await.into_iter().all(|done| matches!(done, Ok(Edited::Done))));
    assert_eq!(there.fields(Section::Stats).await.expect("an answer").len(), 20);
}

async fn a_pause_refuses_and_ends(x: Stage) {
    let talk = x.talks.of(party("a", "u")).expect("a conversation");
    let there = x.peer.of(party("a", "u")).expect("a conversation");
    append(&talk, &users(&["a"])).await;
    assert!(there.pause(Some("a person takes over")).await.expect("an answer"));
    x.elapse(Duration::from_secs(5)).await;
    let Append::Paused(pause) = talk.append(&users(&["b"]), None).await.expect("an answer") else {
        panic!("it was appended")
    };
    assert_eq!(pause.reason.as_deref(), Some("a person takes over"));
    assert_eq!(pause.lasting, Duration::from_secs(5));
    let view = talk.show().await.expect("an answer").expect("it is there");
    assert_eq!((view.window.len(), view.pause), (1, Some(pause)));
    assert!(there.resume().await.expect("an answer"));
    assert!(!there.resume().await.expect("an answer"));
    append(&talk, &users(&["c"])).await;
    assert_eq!(window(&there).await, ["a", "c"]);
}

async fn a_conversation_lives_for_three_days_after_the_last_append(x: Stage) {
    let hour = Duration::from_hours(1);
    let talk = x.talks.of(party("a", "u")).expect("a conversation");
    append(&talk, &users(&["a"])).await;
    x.elapse(TTL - hour).await;
    append(&talk, &users(&["b"])).await;
    x.elapse(TTL - hour).await;
    assert_eq!(stats(&talk).await.expires_in, hour);
    assert_eq!(talk.extend(hour * 2).await.expect("an answer"), Some(hour * 2));
    x.elapse(hour + hour / 2).await;
    assert_eq!(window(&talk).await, ["a", "b"]);
    x.elapse(hour).await;
    assert!(!talk.exists().await.expect("an answer"));
    assert_eq!(x.talks.count().await.expect("an answer"), 0);
    assert_eq!(talk.extend(hour).await.expect("an answer"), None);
    assert_eq!(append(&talk, &users(&["c"])).await.sequences, 1..=1, "it begins anew");
    let short = x.talks.clone().with_ttl(Duration::from_secs(1));
    let short = short.open_named("short").expect("a conversation");
    append(&short, &users(&["x"])).await;
    x.elapse(Duration::from_secs(2)).await;
    assert!(!short.exists().await.expect("an answer"));
}

async fn parties_are_apart_and_a_user_has_several_channels(x: Stage) {
    let parts = ["a", "a:b", "b", ":", "%3A", "a%3Ab", "{a}", "*", "\n", "🔒"];
    let mut expected = Vec::new();
    for client in parts {
        for channel in ["x", "x:y"] {
            let of = Party { client, channel, user: "u:{1}" };
            let talk = x.talks.of(of).expect("a conversation");
            append(&talk, &users(&[&format!("{client}/{channel}")])).await;
            expected.push(Identity::from(of));
        }
    }
    let other = x.talks.of(party("x", "u")).expect("a conversation");
    append(&other, &users(&["other"])).await;
    let mut listed: Vec<_> = x.peer.list_of("u:{1}").await.expect("a list");
    assert!(listed.iter().all(|entry| entry.expires_in == TTL));
    for Entry { identity, .. } in &listed {
        let Identity::Party { client, channel, .. } = identity else { panic!("{identity:?}") };
        let talk = x.peer.open(identity).expect("a conversation");
        assert_eq!(window(&talk).await, [format!("{client}/{channel}")]);
    }
    listed.sort_by(|one, other| one.identity.cmp(&other.identity));
    expected.sort();
    assert!(listed.iter().map(|entry| &entry.identity).eq(&expected), "{listed:#?}");
    assert_eq!(x.peer.list_of("u").await.expect("a list").len(), 1);
    assert!(x.peer.list_of("nobody").await.expect("a list").is_empty());
}

async fn all_are_listed_page_by_page(x: Stage) {
    for n in 0..90 {
        let talk = if n % 3 == 0 {
            x.talks.open_named(&format!("n{n}")).expect("a conversation")
        } else {
            x.talks.of(party("a", &format!("u{n}"))).expect("a conversation")
        };
        append(&talk, &users(&["x"])).await;
    }
    assert_eq!(x.peer.count().await.expect("an answer"), 90);
    let (mut seen, mut from) = (Vec::new(), None);
    loop {
        let page = x.peer.list(from.as_ref(), 7).await.expect("a page");
        assert!(page.entries.len() <= 7);
        seen.extend(page.entries.into_iter().map(|entry| entry.identity));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    let all: BTreeSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), all.len()), (90, 90));
}

async fn a_deleted_conversation_is_gone(x: Stage) {
    let talk = x.talks.of(party("a", "u")).expect("a conversation");
    let keyed = talk.append(&users(&["a"]), Some("k")).await.expect("an answer");
    assert!(keyed.done().is_some());
    assert!(talk.delete().await.expect("an answer"));
    assert!(!talk.delete().await.expect("an answer"));
    assert!(!talk.exists().await.expect("an answer"));
    assert!(x.peer.list_of("u").await.expect("a list").is_empty());
    let again = talk.append(&users(&["a"]), Some("k")).await.expect("an answer");
    assert!(!again.done().expect("not paused").duplicate);
}

async fn bad_calls_are_misuse(x: Stage) {
    let talk = x.talks.of(party("a", "u")).expect("a conversation");
    let misuse = |error: coordinator_core::Error| assert_eq!(error.kind(), ErrorKind::Misuse);
    misuse(talk.append(&[], None).await.expect_err("nothing"));
    misuse(talk.append(&users(&["x"; 101]), None).await.expect_err("too many"));
    misuse(talk.append(&users(&["x"]), Some("")).await.expect_err("an empty key"));
    let long = "x".repeat(1024 * 1024);
    misuse(talk.append(&users(&[&long]), None).await.expect_err("too long"));
    let fits = "x".repeat(900 * 1024);
    misuse(talk.append(&users(&[fits.as_str(); 10]), None).await.expect_err("too long together"));
    misuse(talk.extend(Duration::ZERO).await.expect_err("no time"));
    misuse(talk.set(Section::Focus, "", &1).await.expect_err("no name"));
    misuse(talk.set(Section::Focus, "x", &long).await.expect_err("too long"));
    let many =
        (0..65).fold(FieldEdit::new(), |edit, n| edit.remove(Section::Focus, &n.to_string()));
    misuse(talk.edit(many).await.expect_err("too many"));
    misuse(x.talks.of(party("", "u")).expect_err("no channel"));
    misuse(x.talks.open_named("").expect_err("no name"));
    misuse(x.talks.list(None, 0).await.expect_err("a page of none"));
    for wrong in [
        x.talks.clone().with_window(1001),
        x.talks.clone().with_ttl(Duration::ZERO),
        x.talks.clone().with_ttl(Duration::MAX),
        x.talks.clone().with_token_budget(u64::MAX),
    ] {
        misuse(wrong.open_named("x").expect_err("out of range"));
    }
    assert!(!talk.exists().await.expect("an answer"), "something was sent");
}

#[tokio::test]
async fn a_file_keeps_a_conversation_across_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("talks.redb");
    for round in 1..=3 {
        let talks = Conversations::embedded_at(&path).expect("a store").with_window(2);
        let talk = talks.open_named("default").expect("a conversation");
        let appended = append(&talk, &users(&[&format!("{round}")])).await;
        assert_eq!(appended.sequences, round..=round);
        talk.set(Section::Stats, "rounds", &round).await.map(drop).expect("an answer");
    }
    let talks = Conversations::embedded_at(&path).expect("a store");
    let talk = talks.open_named("default").expect("a conversation");
    assert_eq!(window(&talk).await, ["2", "3"]);
    let pending = talk.pending().await.expect("an answer").expect("it is there");
    assert_eq!(pending.messages[0].message.text, "1");
    assert_eq!(talk.get(Section::Stats, "rounds").await.expect("an answer"), Some(3));
    assert_eq!(talks.list(None, 10).await.expect("a page").entries.len(), 1);
}
