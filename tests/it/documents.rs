//! Documents: what they promise, on every backend, through the public API.

use crate::topology::Servers;
use coordinator_core::{ErrorKind, clock::ManualClock, redis::Connection};
use coordinator_sessions::{
    Documents, Focus, Namespace, Put, Store,
    documents::{DocumentEntry, Updated},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_hours(24);

/// Documents on one backend, and a second client of the same ones.
struct Stage {
    documents: Documents,
    /// What another process would be.
    peer: Documents,
    clock: ManualClock,
    servers: Option<Servers>,
    folder: Option<TempDir>,
}

impl Stage {
    fn embedded() -> Self {
        Self::over(&Store::memory(), None)
    }

    fn file() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::file(folder.path().join("state.redb")).expect("a file");
        Self::over(&store, Some(folder))
    }

    fn over(store: &Store, folder: Option<TempDir>) -> Self {
        let clock = ManualClock::new();
        clock.set_unix_time(Duration::from_hours(525_960));
        let store = store.clone().with_clock(Arc::new(clock.clone()));
        let open = || Documents::embedded_in(&store);
        Self { documents: open(), peer: open(), clock, servers: None, folder }
    }

    async fn redis() -> Self {
        let servers = Servers::start().await;
        let clock = ManualClock::new();
        let config = servers.config().clone().with_clock(Arc::new(clock.clone()));
        let connect = || Connection::connect(config.clone());
        let documents = Documents::redis(&connect().await.expect("a connection"));
        let peer = Documents::redis(&connect().await.expect("a connection"));
        Self { documents, peer, clock, servers: Some(servers), folder: None }
    }

    /// Lets time pass, for the server and for its clients.
    async fn elapse(&self, by: Duration) {
        if let Some(servers) = &self.servers {
            servers.advance(by).await;
        }
        self.clock.advance(by);
    }

    fn plans(&self) -> Namespace {
        self.documents.namespace("plans:{of}*crews").expect("a namespace")
    }

    fn peer_plans(&self) -> Namespace {
        self.peer.namespace("plans:{of}*crews").expect("a namespace")
    }
}

macro_rules! on_every_backend {
    ($($case:ident)*) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(super::Stage::embedded()).await;
            })*
        }
        mod file {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(super::Stage::file()).await;
            })*
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(super::Stage::redis().await).await;
            })*
        }
    };
}

on_every_backend! {
    what_one_process_writes_another_reads
    a_stale_writer_is_told_and_overwrites_nothing
    no_update_of_fifty_writers_is_lost
    an_update_of_nothing_is_told_and_revising_creates
    a_stale_version_from_before_a_delete_never_succeeds
    a_write_that_is_sent_again_writes_once
    documents_end_and_are_prolonged
    an_update_renews_or_keeps_the_end
    history_tells_what_was_before
    hostile_names_are_listed_once_each
    what_is_written_during_a_listing_hides_nothing
    stats_add_up
    either_encoding_is_read
    ready_made_namespaces_live_for_a_day
    a_focus_remembers_what_was_before
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Plan {
    goal: String,
    steps: Vec<u32>,
}

fn plan(goal: &str) -> Plan {
    Plan { goal: goal.to_owned(), steps: vec![1, 2] }
}

async fn what_one_process_writes_another_reads(x: Stage) {
    let (ours, theirs) = (x.plans(), x.peer_plans());
    assert_eq!(theirs.get::<Plan>("crew:7").await.expect("an answer"), None);
    let Put::Stored { version, updated_at, expires_at, .. } =
        ours.put("crew:7", &plan("fly")).await.expect("an answer")
    else {
        panic!("there is no condition")
    };
    x.elapse(SECOND * 5).await;
    let found = theirs.get::<Plan>("crew:7").await.expect("an answer").expect("it is there");
    assert_eq!((&found.value, found.version), (&plan("fly"), version));
    assert_eq!((found.updated_at, found.history), (updated_at, 0));
    assert!(expires_at - updated_at > DAY - SECOND && expires_at - updated_at <= DAY);
    let left = found.expires_in.expect("it ends");
    assert!(left > DAY - SECOND * 6 && left <= DAY - SECOND * 5, "{left:?}");
    let json = found.to_json().expect("JSON");
    assert_eq!((&json["goal"], &json["_metadata"]["version"]), (&json!("fly"), &json!(version)));
    let updated = json["_metadata"]["updated_at"].as_str().expect("a text");
    assert!(updated.starts_with("20") && updated.ends_with('Z'), "{updated}");
    assert!(ours.delete("crew:7").await.expect("an answer"));
    assert!(!theirs.delete("crew:7").await.expect("an answer"));
    assert_eq!(theirs.get::<Plan>("crew:7").await.expect("an answer"), None);
}

async fn a_stale_writer_is_told_and_overwrites_nothing(x: Stage) {
    let (ours, theirs) = (x.plans(), x.peer_plans());
    let first = ours.put("a", &1).if_absent().await.expect("an answer").stored();
    let first = first.expect("there was none");
    let again = theirs.put("a", &2).if_absent().await.expect("an answer");
    assert_eq!(again, Put::Conflict { current: Some(first) });
    let second = theirs.put("a", &3).if_version(first).await.expect("an answer").stored();
    let second = second.expect("nobody was faster");
    assert!(second > first);
    let stale = ours.put("a", &4).if_version(first).await.expect("an answer");
    assert_eq!(stale, Put::Conflict { current: Some(second) });
    assert_eq!(ours.get::<u32>("a").await.expect("an answer").map(|it| it.value), Some(3));
    let none = ours.put("b", &4).if_version(first).await.expect("an answer");
    assert_eq!(none, Put::Conflict { current: None });
    assert_eq!(ours.count().await.expect("an answer"), 1);
}

async fn no_update_of_fifty_writers_is_lost(x: Stage) {
    const WRITERS: u64 = 50;
    // Each write to a file is on the disk before it is answered.
    let updates = if x.folder.is_some() { 4 } else { 100 };
    let (ours, theirs) = (x.plans(), x.peer_plans());
    ours.put("counter", &(0_u64, vec![0_u64; 50])).await.expect("an answer").stored();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let plans = if writer % 2 == 0 { ours.clone() } else { theirs.clone() };
        writers.spawn(async move {
            for _ in 0..updates {
                let add = |value: &mut (u64, Vec<u64>)| {
                    value.0 += 1;
                    value.1[usize::try_from(writer).expect("few")] += 1;
                };
                let updated = plans.update("counter", add).await.expect("an answer");
                assert!(updated.is_stored(), "{updated:?}");
            }
        });
    }
    writers.join_all().await;
    let found = ours.get::<(u64, Vec<u64>)>("counter").await.expect("an answer");
    let (sum, each) = found.expect("it is there").value;
    assert_eq!((sum, each), (WRITERS * updates, vec![updates; 50]));
}

async fn an_update_of_nothing_is_told_and_revising_creates(x: Stage) {
    let plans = x.plans();
    let updated = plans.update("a", |_: &mut u32| panic!("there is none")).await;
    assert_eq!(updated.expect("an answer"), Updated::Absent);
    let limited = |value: Option<u32>| Some(value.unwrap_or(0) + 1).filter(|value| *value <= 2);
    for expected in [Some(1), Some(2), None] {
        let revised = plans.revise("a", limited).await.expect("an answer");
        assert_eq!(revised == Updated::GivenUp, expected.is_none());
        assert_eq!(revised.stored(), expected);
    }
    let found = x.peer_plans().get::<u32>("a").await.expect("an answer").expect("it is there");
    assert_eq!(found.value, 2);
    // What is damaged for this reader is an error, and stays as it is.
    let error = plans.revise("a", |_: Option<Plan>| panic!("it was not read")).await;
    assert_eq!(error.expect_err("a number is no plan").kind(), ErrorKind::Corrupt);
    let after = plans.get::<u32>("a").await.expect("an answer").expect("it is there");
    assert_eq!(after.version, found.version);
}

async fn a_stale_version_from_before_a_delete_never_succeeds(x: Stage) {
    let plans = x.plans();
    let mut seen = Vec::new();
    for number in 0..5 {
        let version = plans.put("a", &number).await.expect("an answer").stored();
        seen.push(version.expect("there is no condition"));
        assert!(plans.delete("a").await.expect("an answer"));
    }
    assert!(seen.is_sorted_by(|one, other| one < other), "{seen:?}");
    plans.put("a", &9).await.expect("an answer").stored().expect("a version");
    for version in seen {
        let stale = plans.put("a", &0).if_version(version).await.expect("an answer");
        assert!(!stale.is_stored());
    }
}

async fn a_write_that_is_sent_again_writes_once(x: Stage) {
    let (ours, theirs) = (x.plans(), x.peer_plans());
    let first = ours.put("a", &1).with_id("request-7").await.expect("an answer");
    theirs.put("a", &2).await.expect("an answer").stored().expect("no condition");
    x.elapse(SECOND * 500).await;
    assert_eq!(ours.put("a", &1).with_id("request-7").await.expect("an answer"), first);
    assert_eq!(ours.get::<u32>("a").await.expect("an answer").map(|it| it.value), Some(2));
    let other = ours.put("b", &1).with_id("request-7").await.expect("an answer");
    assert!(other.stored() > first.stored(), "another document's is another write");
    x.elapse(SECOND * 101).await;
    let late = ours.put("a", &1).with_id("request-7").await.expect("an answer");
    assert!(late.stored() > first.stored(), "it is forgotten after ten minutes");
}

async fn documents_end_and_are_prolonged(x: Stage) {
    let plans = x.plans().with_ttl(SECOND * 10);
    for name in ["a", "b", "c"] {
        assert!(plans.put(name, &1).await.expect("an answer").is_stored());
    }
    plans.put("c", &1).with_ttl(SECOND * 60).await.expect("an answer").stored();
    let until = plans.extend("b", SECOND * 30).await.expect("an answer");
    assert!(until.is_some());
    assert_eq!(plans.extend("b", SECOND).await.expect("an answer"), until, "it was shortened");
    assert_eq!(plans.extend("d", SECOND).await.expect("an answer"), None);
    for (after, left) in [(11, &["b", "c"][..]), (20, &["c"]), (30, &[])] {
        x.elapse(SECOND * after).await;
        assert_eq!(names(&x.peer_plans()).await, left.iter().map(|it| (*it).to_owned()).collect());
        assert_eq!(plans.count().await.expect("an answer"), left.len() as u64);
    }
    assert!(plans.put("a", &2).if_absent().await.expect("an answer").is_stored());
}

async fn an_update_renews_or_keeps_the_end(x: Stage) {
    let plans = x.plans().with_ttl(SECOND * 10);
    let keeping = plans.clone().with_renewal(false);
    for (name, namespace) in [("renewed", &plans), ("kept", &keeping)] {
        assert!(namespace.put(name, &1).await.expect("an answer").is_stored());
    }
    x.elapse(SECOND * 6).await;
    for (name, namespace) in [("renewed", &plans), ("kept", &keeping)] {
        let updated = namespace.update(name, |value: &mut u32| *value += 1).await;
        assert_eq!(updated.expect("an answer").stored(), Some(2));
    }
    x.elapse(SECOND * 6).await;
    assert!(plans.get::<u32>("renewed").await.expect("an answer").is_some());
    assert!(plans.get::<u32>("kept").await.expect("an answer").is_none());
}

async fn history_tells_what_was_before(x: Stage) {
    let plans = x.plans().with_history(3);
    let mut versions = Vec::new();
    for number in 1..=5 {
        let version = plans.put("a", &number).await.expect("an answer").stored();
        versions.push(version.expect("no condition"));
    }
    let theirs = x.peer_plans();
    let former = theirs.history::<u32>("a", 10).await.expect("an answer");
    assert_eq!(former.iter().map(|it| it.value).collect::<Vec<_>>(), [4, 3, 2]);
    let told: Vec<_> = former.iter().map(|it| it.version).collect();
    assert_eq!(told, [versions[3], versions[2], versions[1]]);
    assert_eq!(theirs.history::<u32>("a", 1).await.expect("an answer").len(), 1);
    assert_eq!(theirs.get::<u32>("a").await.expect("an answer").map(|it| it.history), Some(3));
    assert!(theirs.delete("a").await.expect("an answer"));
    assert_eq!(theirs.history::<u32>("a", 10).await.expect("an answer"), []);
}

async fn entries(plans: &Namespace, limit: usize) -> Vec<DocumentEntry> {
    let (mut all, mut next) = (Vec::new(), None::<String>);
    loop {
        let mut request = plans.list().with_limit(limit);
        if let Some(cursor) = next {
            request = request.after(cursor);
        }
        let page = request.await.expect("a page");
        all.extend(page.entries);
        next = page.next;
        if next.is_none() {
            return all;
        }
    }
}

async fn names(plans: &Namespace) -> BTreeSet<String> {
    entries(plans, 1000).await.into_iter().map(|entry| entry.name).collect()
}

async fn hostile_names_are_listed_once_each(x: Stage) {
    let plans = x.plans();
    let long = "x".repeat(512);
    let hostile = [
        "a", "a:b", "a%3Ab", "{a}", "}", "*", "[a]", "a\r\n", "\0", "é", "🔒", "%", " ", "message",
        "ASK 1 2", "\u{202e}", &long,
    ];
    for name in hostile {
        assert!(plans.put(name, name).await.expect("an answer").is_stored(), "{name:?}");
        let other = x.documents.namespace(name).expect("a namespace");
        assert!(other.put("a", "other").await.expect("an answer").is_stored(), "{name:?}");
    }
    let listed = entries(&x.peer_plans(), 3).await;
    assert_eq!(listed.len(), hostile.len(), "one is listed twice");
    let listed: BTreeSet<_> = listed.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(listed, hostile.into_iter().collect());
    for name in hostile {
        let found = plans.get::<String>(name).await.expect("an answer").expect("it is there");
        assert_eq!(found.value, name);
    }
    let prefixed = plans.list().with_prefix("a%").await.expect("a page").entries;
    assert_eq!(prefixed.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["a%3Ab"]);
}

async fn what_is_written_during_a_listing_hides_nothing(x: Stage) {
    const OLD: u32 = 40;
    let plans = x.plans();
    for number in 0..OLD {
        assert!(plans.put(&format!("{number}"), &1).await.expect("an answer").is_stored());
    }
    let (mut seen, mut next) = (Vec::new(), None::<String>);
    for round in 0.. {
        let mut request = plans.list().with_limit(5);
        if let Some(cursor) = next {
            request = request.after(cursor);
        }
        let page = request.await.expect("a page");
        seen.extend(page.entries.into_iter().map(|entry| entry.name));
        next = page.next;
        if next.is_none() {
            break;
        }
        // Each lives on, with other ends; some come, and some go.
        for number in 0..OLD {
            let ttl = DAY + SECOND * ((number * 7 + round * 13) % 100);
            let put = plans.put(&format!("{number}"), &2).with_ttl(ttl).await;
            assert!(put.expect("an answer").is_stored());
        }
        assert!(plans.put(&format!("new {round}"), &2).await.expect("an answer").is_stored());
        plans.delete(&format!("new {}", round / 2)).await.expect("an answer");
    }
    let old: Vec<_> = seen.iter().filter(|name| !name.starts_with("new")).collect();
    assert_eq!(old.len(), OLD as usize, "one is listed twice, or not");
    assert_eq!(old.into_iter().collect::<BTreeSet<_>>().len(), OLD as usize);
}

async fn stats_add_up(x: Stage) {
    let plans = x.plans();
    let stats = plans.stats().await.expect("an answer");
    assert_eq!((stats.documents, stats.bytes, stats.newest_update), (0, 0, None));
    for number in 0..30 {
        assert!(plans.put(&format!("{number}"), "1234567890").await.expect("stored").is_stored());
        x.elapse(SECOND).await;
    }
    plans.extend("7", DAY * 2).await.expect("an answer");
    let stats = x.peer_plans().stats().await.expect("an answer");
    // A byte for the codec, four of a checksum, one for the length of the text.
    assert_eq!((stats.documents, stats.bytes), (30, 30 * 16));
    // The nodes of a cluster have clocks of their own.
    let updates: Vec<_> = entries(&plans, 7).await.iter().map(|entry| entry.updated_at).collect();
    assert_eq!(stats.oldest_update, updates.iter().min().copied());
    assert_eq!(stats.newest_update, updates.iter().max().copied());
    assert_ne!(stats.oldest_update, stats.newest_update);
    assert!(stats.next_expiry.is_some());
}

async fn either_encoding_is_read(x: Stage) {
    let (packed, json) = (x.plans(), x.peer_plans().with_json());
    packed.put("a", &plan("fly")).await.expect("an answer").stored();
    json.put("b", &plan("fly")).await.expect("an answer").stored();
    for namespace in [&packed, &json] {
        for name in ["a", "b"] {
            let found = namespace.get::<Plan>(name).await.expect("an answer").expect("it is there");
            assert_eq!(found.value, plan("fly"));
            let found =
                namespace.get::<Value>(name).await.expect("an answer").expect("it is there");
            assert_eq!(found.value, json!({ "goal": "fly", "steps": [1, 2] }));
        }
    }
    let updated = json.update("a", |plan: &mut Plan| plan.steps.clear()).await.expect("an answer");
    assert!(updated.is_stored());
    let sizes: Vec<_> = entries(&packed, 9).await.iter().map(|entry| entry.bytes).collect();
    assert!(sizes.contains(&(5 + r#"{"goal":"fly","steps":[]}"#.len() as u64)), "{sizes:?}");
}

async fn ready_made_namespaces_live_for_a_day(x: Stage) {
    let (talk, run) = (x.documents.conversation_state(), x.documents.orchestration_state());
    for state in [&talk, &run] {
        for step in 0..8 {
            assert!(state.put("x", &json!({ "step": step })).await.expect("stored").is_stored());
        }
        assert_eq!(state.ttl(), DAY);
    }
    let known = async |state: &Namespace| {
        state.get::<Value>("x").await.expect("an answer").map(|it| it.history)
    };
    assert_eq!((known(&talk).await, known(&run).await), (Some(0), Some(5)));
    x.elapse(DAY - SECOND).await;
    assert_eq!(talk.list().await.expect("a page").entries.len(), 1, "it is active");
    x.elapse(SECOND * 2).await;
    assert_eq!((known(&talk).await, known(&run).await), (None, None));
    assert_eq!(talk.stats().await.expect("an answer").documents, 0);
}

async fn a_focus_remembers_what_was_before(x: Stage) {
    let (ours, theirs) = (x.documents.focus(), x.peer.focus());
    assert!(ours.current("u").await.expect("an answer").is_none());
    assert_eq!(ours.note("u", "k", 1).await.expect("an answer"), Updated::Absent);
    for number in 0..12 {
        let switched = ours.switch("u", &format!("invoice {number}")).await.expect("an answer");
        assert!(switched.is_stored());
        theirs.note("u", "number", number).await.expect("an answer").stored().expect("a focus");
        x.elapse(SECOND).await;
    }
    ours.switch("u", "invoice 11").await.expect("an answer").stored().expect("a focus");
    let focus: Focus = theirs.current("u").await.expect("an answer").expect("it is there").value;
    assert_eq!((focus.current.as_str(), &focus.context["number"]), ("invoice 11", &json!(11)));
    let before: Vec<_> = focus.previous.iter().map(|past| past.focus.as_str()).collect();
    assert_eq!(before.len(), 10);
    assert_eq!((before[0], before[9]), ("invoice 10", "invoice 1"));
    assert_eq!(focus.previous[0].context["number"], json!(10));
    assert_eq!(focus.previous[0].until_ms, focus.since_ms);
    assert_eq!(focus.since_ms - focus.previous[0].since_ms, 1000);
    assert_eq!(ours.namespace().count().await.expect("an answer"), 1);
    assert!(ours.clear("u").await.expect("an answer"));
}

#[tokio::test]
async fn a_file_keeps_documents_through_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.redb");
    let version = {
        let plans = Documents::embedded_at(&path).expect("a file").namespace("plans");
        let plans = plans.expect("a namespace").with_history(1);
        assert!(plans.put("a", &plan("fly")).await.expect("an answer").is_stored());
        plans.put("a", &plan("land")).await.expect("an answer").stored().expect("a version")
    };
    let documents = Documents::embedded_at(&path).expect("the same file");
    let plans = documents.namespace("plans").expect("a namespace");
    let found = plans.get::<Plan>("a").await.expect("an answer").expect("it is there");
    assert_eq!((found.value, found.version), (plan("land"), version));
    let former = plans.history::<Plan>("a", 9).await.expect("an answer");
    assert_eq!(former[0].value, plan("fly"));
    assert_eq!(names(&plans).await, BTreeSet::from(["a".to_owned()]));
    let next = plans.put("a", &plan("rest")).if_version(version).await.expect("an answer");
    assert!(next.stored() > Some(version));
}
