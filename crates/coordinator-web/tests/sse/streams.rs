//! What an answer says, read in this process.

use crate::{
    page::{Page, request},
    stage::{Stage, on_every_backend},
};
use coordinator::{
    clock::ManualClock,
    events::{Events, Position},
};
use coordinator_harness::rng;
use coordinator_web::events::{Access, Sse};
use http::{Request, request::Parts};
use rand::RngExt as _;
use std::{sync::Arc, time::Duration};

const SCOPE: &str = "case:7";
const SECOND: Duration = Duration::from_secs(1);

on_every_backend! {
    the_first_bytes_are_these
    an_event_is_written_with_its_cursor_type_and_data
    a_page_that_is_cut_anywhere_sees_each_event_once
    the_header_counts_more_than_the_query
    what_was_trimmed_is_told_in_band_once
    an_id_that_cannot_be_read_is_told_and_the_stream_begins
    no_byte_of_a_query_reaches_the_page
    events_that_pass_by_move_the_place_at_most_once_a_second
    a_finished_scope_ends_the_stream_and_is_204_from_then_on
    several_scopes_come_on_one_stream_and_resume_each_at_its_place
    what_is_no_text_is_told_as_lost
    streams_end_when_they_are_drained_and_keep_their_place
    an_event_is_written_once_for_all_who_follow
    a_client_that_takes_nothing_is_gone_by_its_deadline
    a_stream_that_is_over_is_open_until_its_client_has_it_all
}

async fn publish(events: &Events, kind: &str, number: u64) -> String {
    let published = events.publish(SCOPE, kind, &number).await.expect("a publish");
    published.cursor().expect("it is published").to_string()
}

fn gap(scope: &str, lost: u64, at_least: bool, reason: &str) -> (String, String) {
    let json = format!(
        "{{\"scope\":\"{scope}\",\"lost\":{lost},\"at_least\":{at_least},\"reason\":\"{reason}\"}}"
    );
    ("gap".to_owned(), json)
}

fn told(kind: &str, data: &str) -> (String, String) {
    (kind.to_owned(), data.to_owned())
}

async fn the_first_bytes_are_these(stage: Stage) {
    let events = &stage.events;
    let at = publish(events, "triage_started", 1).await;
    let mut page = Page::open(&Sse::new(events.clone()), &[SCOPE], "").await;
    assert_eq!(page.status, 200);
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache, no-transform"),
        ("x-accel-buffering", "no"),
    ] {
        assert_eq!(page.headers[name], value);
    }
    assert!(page.look());
    let text = page.text();
    let retry = page.parser().retry_ms().expect("a time to come back");
    assert!((2000..=3000).contains(&retry), "{retry}");
    assert_eq!(text, format!(": open\nretry: {retry}\nid: {at}\n\n"));
    assert_eq!(page.last_id(), at, "who is cut off now resumes here");
}

async fn an_event_is_written_with_its_cursor_type_and_data(stage: Stage) {
    let events = &stage.events;
    let mut page = Page::open(&Sse::new(events.clone()), &[SCOPE], "").await;
    assert!(page.look());
    page.text();
    let at = publish(events, "triage_started", 1).await;
    assert_eq!(page.told().await, told("triage_started", "1"));
    assert_eq!(page.text(), format!("id: {at}\nevent: triage_started\ndata: 1\n\n"));
    let lines = b"{\"a\":\r\n [1,\n2]}";
    let _ = events.publish_raw(SCOPE, "lines", "application/json", lines).await.expect("published");
    assert_eq!(page.told().await, told("lines", "{\"a\":\n [1,\n2]}"));
}

async fn a_page_that_is_cut_anywhere_sees_each_event_once(stage: Stage) {
    let mut rng = rng();
    let events = &stage.events;
    let sse = Sse::new(events.clone());
    let mut page = Page::open(&sse, &[SCOPE], "").await;
    assert!(page.look());
    let mut seen = Vec::new();
    for number in 0..500 {
        publish(events, "triage_update", number).await;
        if rng.random_bool(0.5) {
            page.look();
        }
        if rng.random_bool(0.3) {
            while page.look() && page.parser().last_id().is_empty() {}
            let id = page.last_id().to_owned();
            while let Some(one) = page.seen() {
                seen.push(one.data);
            }
            page = Page::open(&sse, &[SCOPE], &id).await;
        }
    }
    while seen.len() < 500 {
        seen.push(page.told().await.1);
    }
    let all: Vec<_> = (0..500).map(|number: u64| number.to_string()).collect();
    assert_eq!(seen, all);
}

async fn the_header_counts_more_than_the_query(stage: Stage) {
    let events = &stage.events;
    let first = publish(events, "triage_update", 1).await;
    let second = publish(events, "triage_update", 2).await;
    publish(events, "triage_update", 3).await;
    let sse = Sse::new(events.clone());
    let uri = format!("/events?a=b&last_event_id={first}");
    let asked = Request::get(&uri).body(()).expect("a request").into_parts().0;
    assert_eq!(Page::ask(&sse, &[SCOPE], &asked).await.told().await.1, "2");
    for (header, data) in [(&*second, "3"), ("", "2")] {
        let asked = Request::get(&uri).header("last-event-id", header).body(());
        let asked = asked.expect("a request").into_parts().0;
        assert_eq!(Page::ask(&sse, &[SCOPE], &asked).await.told().await.1, data);
    }
}

async fn what_was_trimmed_is_told_in_band_once(stage: Stage) {
    let events = &stage.events;
    let sse = Sse::new(events.clone());
    let first = publish(events, "triage_update", 1).await;
    for number in 2..6 {
        publish(events, "triage_update", number).await;
    }
    let up_to = publish(events, "triage_update", 6).await;
    publish(events, "triage_update", 7).await;
    events.trim(SCOPE, up_to.parse().expect("a cursor")).await.expect("a trim");
    let mut page = Page::open(&sse, &[SCOPE], &first).await;
    let lost = page.next().await.expect("a gap");
    assert_eq!((lost.kind, lost.data), gap(SCOPE, 5, false, "trimmed"));
    assert_eq!(lost.id, first, "a control frame has no id of its own");
    // Cut right behind the gap: it is not told again.
    assert!(page.look());
    assert_eq!(page.told().await, told("triage_update", "7"));
    let after = page.text();
    let after: Vec<_> = after.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    let mut again = Page::open(&sse, &[SCOPE], after[1]).await;
    assert_eq!(again.told().await, told("triage_update", "7"), "{after:?}");
}

async fn an_id_that_cannot_be_read_is_told_and_the_stream_begins(stage: Stage) {
    let events = &stage.events;
    publish(events, "triage_update", 1).await;
    for bad in ["nonsense", "1-2-3", "0000000000000001_1-1_", &"1".repeat(9000)] {
        let sse = Sse::new(events.clone());
        let mut page = Page::open(&sse, &[SCOPE], bad).await;
        assert_eq!(page.status, 200);
        assert_eq!(page.told().await, gap(SCOPE, 0, true, "malformed"));
        publish(events, "triage_update", 2).await;
        assert_eq!(page.told().await, told("triage_update", "2"), "from now on");
        let mut page = Page::open(&sse.with_start(Position::Earliest), &[SCOPE], bad).await;
        assert_eq!(page.told().await, gap(SCOPE, 0, true, "malformed"));
        assert_eq!(page.told().await, told("triage_update", "1"), "from the beginning");
    }
}

async fn no_byte_of_a_query_reaches_the_page(stage: Stage) {
    let events = &stage.events;
    let first = publish(events, "triage_update", 1).await;
    let sse = Sse::new(events.clone());
    for hidden in ["%0Adata:%20x", "%0D%0Aevent:%20x", "%00", "%0A%0A", "%FF%FE", "%", "%4", "%zz"]
    {
        for id in [hidden.to_owned(), format!("{first}{hidden}"), format!("{hidden}{first}")] {
            let uri = format!("/events?last_event_id={id}");
            let asked = Request::get(&uri).body(()).expect("a request").into_parts().0;
            let mut page = Page::ask(&sse, &[SCOPE], &asked).await;
            assert_eq!(page.told().await, gap(SCOPE, 0, true, "malformed"), "{uri}");
            let text = page.text();
            assert!(!text.contains("x\n") && !text.contains(['\0', '\r', '\u{fffd}']), "{text:?}");
        }
    }
}

async fn events_that_pass_by_move_the_place_at_most_once_a_second(stage: Stage) {
    let clock = ManualClock::new();
    let events = &stage.events;
    let sse = Sse::new(events.clone()).with_types(["triage_*"]);
    let sse = sse.with_clock(Arc::new(clock.clone()));
    let mut page = Page::open(&sse, &[SCOPE], "").await;
    assert!(page.look());
    page.text();
    let mut all = Page::open(&Sse::new(events.clone()), &[SCOPE], "").await;
    publish(events, "other", 0).await;
    publish(events, "triage_update", 6).await;
    assert_eq!(page.told().await, told("triage_update", "6"));
    assert_eq!([all.told().await.1, all.told().await.1], ["0", "6"]);
    page.text();
    let mut last = String::new();
    for number in 7..12 {
        last = publish(events, "other", number).await;
        all.next().await;
        assert!(page.look());
        assert_eq!(page.text(), "", "none within the second");
    }
    clock.advance(SECOND);
    assert!(page.look());
    assert_eq!(page.text(), format!("id: {last}\n\n"));
    assert_eq!(page.last_id(), last);
    clock.advance(SECOND);
    assert!(page.look());
    assert_eq!(page.text(), "", "nothing new");
}

#[tokio::test]
async fn silence_is_broken_by_a_comment() {
    let clock = ManualClock::new();
    let events = Events::embedded();
    let sse = Sse::new(events.clone()).with_clock(Arc::new(clock.clone()));
    let mut page = Page::open(&sse, &[SCOPE], "").await;
    assert!(page.look());
    page.text();
    for _ in 0..3 {
        clock.advance(SECOND * 14);
        assert!(page.look());
        assert_eq!(page.text(), "");
        clock.advance(SECOND);
        assert!(page.look());
        assert_eq!(page.text(), ": \n\n");
    }
    clock.advance(SECOND * 14);
    publish(&events, "triage_update", 1).await;
    page.told().await;
    page.text();
    clock.advance(SECOND * 14);
    assert!(page.look());
    assert_eq!(page.text(), "", "an event breaks it too");
}

async fn a_finished_scope_ends_the_stream_and_is_204_from_then_on(stage: Stage) {
    let events = &stage.events;
    let sse = Sse::new(events.clone()).with_types(["none"]).with_terminal(["triage_completed"]);
    let mut page = Page::open(&sse, &[SCOPE], "").await;
    let before = publish(events, "triage_update", 1).await;
    for at in ["", &before] {
        assert_eq!(Page::open(&sse, &[SCOPE], at).await.status, 200, "it is not finished");
    }
    let end = publish(events, "triage_completed", 2).await;
    let seen = page.next().await.expect("the last event");
    assert_eq!((&*seen.kind, &*seen.id), ("triage_completed", &*end));
    assert_eq!(page.next().await, None);
    let id = page.last_id().to_owned();
    assert_eq!(id, format!("{end}.end"));
    let fresh = "";
    for at in [&*id, &end, fresh] {
        let mut page = Page::open(&sse, &[SCOPE], at).await;
        assert_eq!((page.status.as_u16(), page.next().await), (204, None), "{at}");
    }
    // Who has not had it gets it first.
    let mut page = Page::open(&sse, &[SCOPE], &before).await;
    assert_eq!(page.told().await.0, "triage_completed");
    assert_eq!(page.next().await, None);
    // Who has had it is not called back by what comes later, or by its end.
    publish(events, "afterthought", 3).await;
    assert_eq!(Page::open(&sse, &[SCOPE], &id).await.status, 204);
    let position = events.position(SCOPE).await.expect("a position");
    events.trim(SCOPE, position).await.expect("a trim");
    assert_eq!(Page::open(&sse, &[SCOPE], &id).await.status, 204);
    assert_eq!(sse.status().streams, 0);
}

#[tokio::test]
async fn too_many_streams_are_told_to_come_back() {
    let sse = Sse::new(Events::embedded()).with_max_streams(2).with_retry(SECOND);
    let one = Page::open(&sse, &[SCOPE], "").await;
    let _two = Page::open(&sse, &[SCOPE], "").await;
    let mut three = Page::open(&sse, &[SCOPE], "").await;
    assert_eq!((three.status.as_u16(), three.next().await), (200, None));
    let retry = three.parser().retry_ms().expect("a time to come back");
    assert!((1000..=5000).contains(&retry), "{retry}");
    assert_eq!(three.last_id(), "", "it keeps the place it has");
    assert_eq!((sse.status().streams, sse.status().overloaded), (2, 1));
    drop(one);
    assert!(Page::open(&sse, &[SCOPE], "").await.look());
}

#[tokio::test]
async fn who_may_not_is_refused_and_who_cannot_be_told_comes_back() {
    let allowed = async |parts: Parts, scope: String| match parts.headers.get("x-user") {
        Some(user) if scope.ends_with(user.to_str().unwrap_or("-")) => Access::Allowed,
        Some(_) => Access::Denied,
        None => Access::Unknown,
    };
    let sse = Sse::new(Events::embedded()).with_authorization(allowed);
    let asked = |user: &str| {
        let request = Request::get("/").header("x-user", user).body(());
        request.expect("a request").into_parts().0
    };
    assert!(Page::ask(&sse, &["of:ann"], &asked("ann")).await.look());
    for scopes in [&["of:bob"][..], &["of:ann", "of:bob"]] {
        let denied = Page::ask(&sse, scopes, &asked("ann")).await;
        assert_eq!(denied.status, 403);
        assert_eq!(denied.headers["content-type"], "application/problem+json");
    }
    let mut unknown = Page::ask(&sse, &["of:ann"], &request("")).await;
    assert_eq!((unknown.status.as_u16(), unknown.next().await), (200, None));
    assert!(unknown.parser().retry_ms().is_some());
    assert_eq!(sse.status().streams, 0);
}

#[tokio::test]
async fn scopes_that_cannot_be_are_refused_for_good() {
    let sse = Sse::new(Events::embedded());
    let many: Vec<String> = (0..17).map(|n| format!("s{n}")).collect();
    let many: Vec<&str> = many.iter().map(|scope| &**scope).collect();
    for scopes in [&[][..], &[""], &["ok", &"x".repeat(513)], &many] {
        assert_eq!(Page::open(&sse, scopes, "").await.status, 400);
    }
    assert!(Page::open(&sse, &many[..16], "").await.look());
    assert!(Page::open(&sse, &["a"; 40], "").await.look(), "the same one");
}

async fn several_scopes_come_on_one_stream_and_resume_each_at_its_place(stage: Stage) {
    let events = &stage.events;
    let sse = Sse::new(events.clone()).with_terminal(["done"]);
    let scopes = ["crew:1", "crew:\"2\""];
    let say = async |scope: &str, kind: &str, data: &str| {
        let _ = events.publish_raw(scope, kind, "application/json", data.as_bytes()).await;
    };
    let mut page = Page::open(&sse, &scopes, "").await;
    assert!(page.look());
    say(scopes[0], "step", "[1,\n2]").await;
    let wrapped = |scope: &str, data: &str| format!("{{\"scope\":{scope},\"data\":\n{data}\n}}");
    assert_eq!(page.told().await, ("step".to_owned(), wrapped("\"crew:1\"", "[1,\n2]")));
    say(scopes[1], "step", "{}").await;
    let second = page.next().await.expect("an event");
    assert_eq!(second.data, wrapped("\"crew:\\\"2\\\"\"", "{}"));
    let _ = events.publish_raw(scopes[0], "words", "text/plain", b"a \"b\"").await;
    let words = "{\"scope\":\"crew:1\",\"data\":\"a \\\"b\\\"\"}";
    assert_eq!(page.told().await, told("words", words));
    // From the second event on: what came after it in either scope, and nothing else.
    say(scopes[1], "done", "2").await;
    let mut again = Page::open(&sse, &scopes, &second.id).await;
    let mut came = [again.told().await.0, again.told().await.0];
    came.sort();
    assert_eq!(came, ["done", "words"]);
    // One is finished, and the stream goes on with the other.
    say(scopes[0], "step", "3").await;
    assert_eq!(again.told().await, ("step".to_owned(), wrapped("\"crew:1\"", "3")));
    say(scopes[0], "done", "4").await;
    assert_eq!(again.told().await.0, "done");
    assert_eq!(again.next().await, None);
    let id = again.last_id().to_owned();
    assert_eq!(Page::open(&sse, &scopes, &id).await.status, 204);
    let [first, second] = scopes;
    assert_eq!(Page::open(&sse, &[second, first], &id).await.status, 204, "in any order");
    let mut more = Page::open(&sse, &[first, "crew:3"], &id).await;
    assert_eq!(more.status, 200, "there is another");
    assert!(more.look());
}

async fn what_is_no_text_is_told_as_lost(stage: Stage) {
    let events = &stage.events;
    let sse = Sse::new(events.clone());
    for scopes in [&[SCOPE][..], &["other", SCOPE]] {
        let mut page = Page::open(&sse, scopes, "").await;
        let _ = events.publish_raw(SCOPE, "image", "image/png", b"\x89PNG\xff").await;
        assert_eq!(page.told().await, gap(SCOPE, 1, false, "unreadable"));
        // Cut right behind it: it is not told again.
        assert!(page.look());
        let behind = page.last_id().to_owned();
        publish(events, "triage_update", 1).await;
        assert_eq!(page.told().await.0, "triage_update");
        let mut again = Page::open(&sse, scopes, &behind).await;
        assert_eq!(again.told().await.0, "triage_update");
    }
}

async fn streams_end_when_they_are_drained_and_keep_their_place(stage: Stage) {
    let events = &stage.events;
    let sse = Sse::new(events.clone()).with_types(["triage_*"]);
    let mut page = Page::open(&sse, &[SCOPE], "").await;
    assert!(page.look());
    let mut all = Page::open(&Sse::new(events.clone()), &[SCOPE], "").await;
    let last = publish(events, "other", 1).await;
    all.next().await;
    page.look();
    sse.clone().drain();
    assert_eq!(page.next().await, None);
    assert_eq!(page.last_id(), last, "also of what passed by");
    let retry = page.parser().retry_ms().expect("a time to come back");
    assert!((2000..=10_000).contains(&retry), "{retry}");
    let mut late = Page::open(&sse, &[SCOPE], "").await;
    assert_eq!((late.status.as_u16(), late.next().await), (200, None));
    assert!(late.parser().retry_ms().is_some());
    assert_eq!(late.last_id(), "", "it keeps the place it has");
    let status = sse.status();
    assert_eq!((status.streams, status.draining, status.overloaded), (0, true, 0));
}

async fn an_event_is_written_once_for_all_who_follow(stage: Stage) {
    let events = &stage.events;
    let sse = Sse::new(events.clone());
    let mut pages = Vec::new();
    for n in 0..50 {
        let scopes = if n % 2 == 0 { &[SCOPE][..] } else { &[SCOPE, "other"] };
        pages.push(Page::open(&sse, scopes, "").await);
    }
    for number in 0..20 {
        publish(events, "triage_update", number).await;
    }
    for page in &mut pages {
        for _ in 0..20 {
            page.next().await.expect("an event");
        }
    }
    assert_eq!(sse.status().encoded, 20);
}

async fn a_client_that_takes_nothing_is_gone_by_its_deadline(stage: Stage) {
    let clock = ManualClock::new();
    let events = &stage.events;
    let sse = Sse::new(events.clone()).with_clock(Arc::new(clock.clone()));
    let mut page = Page::open(&sse, &[SCOPE], "").await;
    let opened = page.hold().expect("the first frame").expect("data");
    let mut all = Page::open(&Sse::new(events.clone()), &[SCOPE], "").await;
    for number in 0..100 {
        publish(events, "triage_update", number).await;
        all.next().await.expect("an event");
    }
    let mut held: Vec<_> =
        std::iter::from_fn(|| page.hold().map(|frame| frame.expect("data"))).collect();
    assert_eq!(held.len(), 7, "eight are under way, and no more");
    clock.advance(SECOND * 29);
    assert!(page.hold().is_none());
    drop(opened);
    held.push(page.hold().expect("there is room for one").expect("data"));
    clock.advance(SECOND * 29);
    assert!(page.hold().is_none(), "it moved 29 s ago");
    clock.advance(SECOND);
    assert!(page.hold().expect("the end").is_err());
    assert!(page.hold().is_none());
    assert_eq!((sse.status().streams, sse.status().stalled), (0, 1));
}

async fn a_stream_that_is_over_is_open_until_its_client_has_it_all(stage: Stage) {
    let clock = ManualClock::new();
    let events = &stage.events;
    let sse = Sse::new(events.clone()).with_clock(Arc::new(clock.clone()));
    let sse = sse.with_terminal(["done"]);
    for reads in [true, false] {
        let scope = format!("case:{reads}");
        let mut page = Page::open(&sse, &[&scope], "").await;
        let mut all = Page::open(&Sse::new(events.clone()), &[&scope], "").await;
        let _ = events.publish(&scope, "done", &1).await.expect("a publish");
        assert_eq!(all.told().await.0, "done");
        let held: Vec<_> = std::iter::from_fn(|| page.hold()).collect();
        assert_eq!(held.len(), 3, "the opening, the event, and that it is the last");
        clock.advance(SECOND * 29);
        assert!(page.hold().is_none());
        assert_eq!(sse.status().streams, 1, "nothing of it was written");
        if reads {
            drop(held);
            assert_eq!(page.next().await, None);
            assert_eq!((sse.status().streams, sse.status().stalled), (0, 0));
        } else {
            clock.advance(SECOND);
            assert!(page.hold().expect("the end").is_err());
            assert_eq!((sse.status().streams, sse.status().stalled), (0, 1));
        }
    }
}
