//! Events: what they promise, on every backend, through the public API.

use crate::topology::Servers;
use coordinator_core::{
    ErrorKind,
    clock::{Clock, ManualClock},
    redis::Connection,
};
use coordinator_events::{
    Cursor, Events, Gap, GapReason, Item, LiveItem, Lost, Position, Published, RawItem, Settled,
    SlowReader, Subscription, Work,
};
use coordinator_harness::eventually;
use futures::future::join_all;
use std::{sync::Arc, time::Duration};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
/// Longer than anything takes, where something that never comes would be waited for.
const LONG: Duration = MINUTE;

/// Events on one backend, and a second client of the same ones.
struct Stage {
    events: Events,
    /// What another process would be.
    peer: Events,
    clock: ManualClock,
    servers: Option<Servers>,
}

impl Stage {
    fn embedded() -> Self {
        let clock = ManualClock::new();
        let events = Events::embedded_with_clock(Arc::new(clock.clone()));
        Self { peer: events.clone(), events, clock, servers: None }
    }

    async fn redis() -> Self {
        let servers = Servers::start().await;
        let clock = ManualClock::new();
        let config = servers.config().clone().with_clock(Arc::new(clock.clone()));
        let connect = || Connection::connect(config.clone());
        let events = Events::redis(&connect().await.expect("a connection"));
        let peer = Events::redis(&connect().await.expect("a connection"));
        Self { events, peer, clock, servers: Some(servers) }
    }

    /// Lets time pass, for the server and for its clients.
    async fn elapse(&self, by: Duration) {
        if let Some(servers) = &self.servers {
            // A key lives to the end of its last millisecond.
            servers.advance(by + Duration::from_millis(2)).await;
        }
        self.clock.advance(by + Duration::from_millis(2));
    }
}

macro_rules! on_every_backend {
    ($($case:ident)*) => {
        mod embedded {
            $(#[tokio::test] async fn $case() { super::$case(super::Stage::embedded()).await; })*
        }
        mod redis {
            $(#[tokio::test] async fn $case() { super::$case(super::Stage::redis().await).await; })*
        }
    };
}

on_every_backend! {
    what_is_published_after_a_subscription_is_open_arrives_in_order
    a_subscription_begins_where_it_is_asked_to
    only_the_types_that_were_asked_for_come
    whoever_reads_the_position_first_misses_nothing
    what_was_trimmed_is_told_to_the_event
    a_scope_that_ended_is_told_as_one_that_began_anew
    a_slow_reader_loses_nothing_that_is_kept
    events_of_any_length_are_read_from_the_beginning
    a_slow_reader_that_wished_to_skip_is_told_how_many
    a_slow_reader_that_wished_to_leave_leaves
    no_payload_and_no_panic_ends_a_subscription
    an_event_says_who_published_it_when_and_in_which_trace
    crews_and_the_system_have_scopes_and_metrics_a_topic
    a_key_publishes_once
    events_that_are_too_old_go_and_are_counted
    a_publisher_may_be_fenced_to_an_epoch
    what_is_to_last_for_ever_is_published_and_worked_on
    what_cannot_be_is_refused_before_it_is_sent
    many_readers_share_what_one_subscription_hears
    a_dropped_read_loses_nothing
    live_topics_count_what_they_do_not_deliver
    each_event_of_a_group_goes_to_one_consumer
    a_delivery_comes_again_until_it_is_settled
    a_group_that_came_too_late_is_told
    a_group_that_begins_now_misses_nothing_from_then_on
    work_that_waited_too_long_behind_other_work_is_not_done_twice
    a_handler_that_fails_or_panics_has_its_event_again
    what_cannot_be_decoded_is_a_dead_letter
    what_there_is_at_once_is_taken_without_waiting_for_more
}

async fn open(events: &Events, position: Position) -> Subscription<u32> {
    events.subscribe("s").from(position).open().await.expect("it opens")
}

async fn publish(events: &Events, number: u32) -> Cursor {
    let published = events.publish("s", "n", &number).await.expect("published");
    published.cursor().expect("not fenced")
}

async fn item(subscription: &mut Subscription<u32>) -> Item<u32> {
    let next = tokio::time::timeout(LONG, subscription.next()).await;
    next.expect("an item in time").expect("it goes on")
}

async fn number(subscription: &mut Subscription<u32>) -> u32 {
    match item(subscription).await {
        Item::Event(event) => event.data,
        other => panic!("{other:?}"),
    }
}

async fn gap(subscription: &mut Subscription<u32>) -> Gap {
    match item(subscription).await {
        Item::Gap(gap) => gap,
        other => panic!("{other:?}"),
    }
}

async fn what_is_published_after_a_subscription_is_open_arrives_in_order(stage: Stage) {
    publish(&stage.peer, 0).await;
    let mut first = open(&stage.events, Position::Now).await;
    let mut second = open(&stage.peer, Position::Now).await;
    for number in 1..200 {
        publish(if number % 2 == 0 { &stage.events } else { &stage.peer }, number).await;
    }
    for expected in 1..200 {
        assert_eq!(number(&mut first).await, expected);
        assert_eq!(number(&mut second).await, expected);
    }
    // Many at once: in the order of their places.
    let all: Vec<u32> = (200..300).collect();
    let cursors = join_all(all.iter().map(|number| publish(&stage.events, *number))).await;
    let mut expected: Vec<_> = cursors.into_iter().zip(all).collect();
    expected.sort();
    for (cursor, expected) in expected {
        match item(&mut first).await {
            Item::Event(event) => assert_eq!((event.cursor(), event.data), (cursor, expected)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(first.cursor(), stage.events.position("s").await.expect("an answer"));
}

async fn a_subscription_begins_where_it_is_asked_to(stage: Stage) {
    let mut nothing = open(&stage.events, Position::Earliest).await;
    let mut cursors = Vec::new();
    for number in 0..600 {
        cursors.push(publish(&stage.peer, number).await);
    }
    for (position, first) in [
        (Position::Earliest, 0),
        (Position::After(Cursor::START), 0),
        (Position::After(cursors[0]), 1),
        (Position::After(cursors[299]), 300),
        // As text, and without what tells it from another.
        (Position::After(cursors[299].to_string().parse().expect("a cursor")), 300),
        (Position::After(bare(cursors[299])), 300),
        (Position::After(cursors[599]), 600),
        (Position::Now, 600),
    ] {
        let mut subscription = open(&stage.events, position).await;
        publish(&stage.peer, 600).await;
        let mut expected = first;
        loop {
            let read = number(&mut subscription).await;
            if expected == 600 {
                assert_eq!(read, 600, "{position:?}");
                break;
            }
            assert_eq!(read, expected, "{position:?}");
            expected += 1;
        }
    }
    assert_eq!(number(&mut nothing).await, 0);
}

/// Without the nonce.
fn bare(cursor: Cursor) -> Cursor {
    let text = cursor.to_string();
    text.split('.').next().expect("an id").parse().expect("a cursor")
}

async fn only_the_types_that_were_asked_for_come(stage: Stage) {
    let types = stage.events.subscribe("s").types(["task_*", "end"]);
    let mut tasks = types.open::<u32>().await.expect("it opens");
    let raw = stage.events.subscribe("s").types(["end"]).open_raw().await;
    let mut raw = raw.expect("it opens");
    let mut all = open(&stage.events, Position::Now).await;
    let mut cursors = Vec::new();
    for (index, kind) in ["task_a", "other", "task_b", "task", "end"].into_iter().enumerate() {
        let published = stage.peer.publish("s", kind, &index).await.expect("published");
        cursors.push(published.cursor().expect("not fenced"));
    }
    for expected in [0, 2, 4] {
        assert_eq!(number(&mut tasks).await, expected);
    }
    for expected in 0..5 {
        assert_eq!(number(&mut all).await, expected);
    }
    // Whoever passes on learns how far it is.
    for cursor in &cursors[..4] {
        match raw.next().await {
            Some(RawItem::Passed(passed)) => assert_eq!(passed, *cursor),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(raw.next().await, Some(RawItem::Event(event)) if event.kind() == "end"));
}

async fn whoever_reads_the_position_first_misses_nothing(stage: Stage) {
    assert_eq!(stage.events.position("s").await.expect("an answer"), Cursor::START);
    let position = stage.events.position("s").await.expect("an answer");
    publish(&stage.peer, 1).await;
    let mut subscription = open(&stage.events, Position::After(position)).await;
    publish(&stage.peer, 2).await;
    assert_eq!(number(&mut subscription).await, 1);
    assert_eq!(number(&mut subscription).await, 2);
    let position = stage.events.position("s").await.expect("an answer");
    publish(&stage.peer, 3).await;
    let mut subscription = open(&stage.peer, Position::After(position)).await;
    assert_eq!(number(&mut subscription).await, 3);
}

async fn what_was_trimmed_is_told_to_the_event(stage: Stage) {
    let mut cursors = Vec::new();
    for number in 0..20 {
        cursors.push(publish(&stage.events, number).await);
    }
    for trimmed in [0, 1, 7] {
        let after = cursors[3];
        stage.events.trim("s", cursors[3 + trimmed]).await.expect("an answer");
        let mut subscription = open(&stage.events, Position::After(after)).await;
        if trimmed > 0 {
            let gap = gap(&mut subscription).await;
            assert_eq!(gap.lost, Lost::Exactly(trimmed as u64));
            assert_eq!((gap.reason, gap.from), (GapReason::Trimmed, after));
            assert_eq!(subscription.cursor(), gap.to);
            // Whoever resumes there is told nothing twice.
            let mut resumed = open(&stage.peer, Position::After(gap.to)).await;
            assert_eq!(number(&mut resumed).await, 4 + u32::try_from(trimmed).expect("few"));
        }
        for expected in 4 + u32::try_from(trimmed).expect("few")..20 {
            assert_eq!(number(&mut subscription).await, expected);
        }
    }
    // All of them.
    stage.events.trim("s", cursors[19]).await.expect("an answer");
    let mut subscription = open(&stage.events, Position::After(cursors[10])).await;
    assert_eq!(gap(&mut subscription).await.lost, Lost::Exactly(9));
    publish(&stage.peer, 20).await;
    assert_eq!(number(&mut subscription).await, 20);
}

async fn events_that_are_too_old_go_and_are_counted(stage: Stage) {
    let events = stage.events.clone().with_max_age(MINUTE);
    let publish = async |number: u32| {
        events.publish("s", "n", &number).await.expect("an answer").cursor().expect("published")
    };
    // More than a page of them.
    let mut first = None;
    for number in 0..300 {
        first = Some(first.unwrap_or(publish(number).await));
    }
    stage.elapse(MINUTE / 2).await;
    publish(300).await;
    stage.elapse(MINUTE / 2).await;
    publish(301).await;
    let after = Position::After(first.expect("some"));
    eventually(SECOND * 20, "the old ones go", async || {
        let mut reader = open(&stage.peer, after).await;
        match reader.next().await.expect("it never ends") {
            Item::Gap(gap) => gap.reason == GapReason::Trimmed && gap.lost == Lost::Exactly(299),
            _ => false,
        }
    })
    .await;
    // What is younger stays.
    let mut reader = open(&stage.peer, Position::Earliest).await;
    assert_eq!([number(&mut reader).await, number(&mut reader).await], [300, 301]);
}

async fn a_scope_that_ended_is_told_as_one_that_began_anew(stage: Stage) {
    let after = publish(&stage.events, 0).await;
    let mut live = open(&stage.events, Position::Now).await;
    stage.elapse(Duration::from_hours(26)).await;
    let mut resumed = open(&stage.peer, Position::After(after)).await;
    let told = gap(&mut resumed).await;
    assert_eq!((told.reason, told.lost), (GapReason::Reset, Lost::AtLeast(0)));
    publish(&stage.peer, 1).await;
    assert_eq!(number(&mut resumed).await, 1);
    assert_eq!(gap(&mut live).await.reason, GapReason::Reset);
    assert_eq!(number(&mut live).await, 1);
    // Resumed after it began anew.
    let mut resumed = open(&stage.peer, Position::After(after)).await;
    assert_eq!(gap(&mut resumed).await.reason, GapReason::Reset);
    assert_eq!(number(&mut resumed).await, 1);
}

async fn a_slow_reader_loses_nothing_that_is_kept(stage: Stage) {
    let events = stage.events.clone().with_local_ring(16, 1 << 20);
    let mut slow = open(&events, Position::Now).await;
    let mut quick = open(&events, Position::Now).await;
    for number in 0..2000 {
        publish(&stage.peer, number).await;
    }
    for expected in 0..2000 {
        assert_eq!(number(&mut quick).await, expected);
    }
    for expected in 0..1000 {
        assert_eq!(number(&mut slow).await, expected);
    }
    // While it reads what it missed, more comes.
    for number in 2000..2100 {
        publish(&stage.peer, number).await;
    }
    for expected in 1000..2100 {
        assert_eq!(number(&mut slow).await, expected);
    }
    // Few bytes are as few events.
    let events = stage.peer.clone().with_local_ring(1000, 1);
    let mut slow = open(&events, Position::Now).await;
    for number in 0..100 {
        publish(&stage.events, number).await;
    }
    for expected in 0..100 {
        assert_eq!(number(&mut slow).await, expected);
    }
}

async fn events_of_any_length_are_read_from_the_beginning(stage: Stage) {
    let long = "x".repeat(300 * 1024);
    for number in 0..20 {
        let data = (number, if number % 3 == 0 { "" } else { &long });
        assert!(stage.peer.publish("s", "n", &data).await.is_ok());
    }
    let all = stage.events.subscribe("s").from(Position::Earliest);
    let mut all = all.open::<(u32, String)>().await.expect("it opens");
    for expected in 0..20 {
        match tokio::time::timeout(LONG, all.next()).await.expect("in time") {
            Some(Item::Event(event)) => assert_eq!(event.data.0, expected),
            other => panic!("{other:?}"),
        }
    }
}

/// A reader that has read nothing while so many events came, of which 16 are still here.
async fn slow(stage: &Stage, policy: SlowReader) -> Subscription<u32> {
    let events = stage.events.clone().with_local_ring(16, 1 << 20);
    publish(&stage.peer, 0).await;
    let slow = events.subscribe("s").slow_reader(policy);
    let slow = slow.open::<u32>().await.expect("it opens");
    let mut quick = open(&events, Position::Now).await;
    for expected in 0..100 {
        publish(&stage.peer, expected).await;
        assert_eq!(number(&mut quick).await, expected);
    }
    slow
}

async fn a_slow_reader_that_wished_to_skip_is_told_how_many(stage: Stage) {
    for (policy, lost) in [(SlowReader::DropOldest, 84), (SlowReader::Latest, 99)] {
        let mut slow = slow(&stage, policy).await;
        let gap = gap(&mut slow).await;
        assert_eq!((gap.reason, gap.lost), (GapReason::Lagged, Lost::Exactly(lost)));
        for expected in u32::try_from(lost).expect("few")..100 {
            assert_eq!(number(&mut slow).await, expected, "{policy:?}");
        }
        publish(&stage.peer, 100).await;
        assert_eq!(number(&mut slow).await, 100);
    }
}

async fn a_slow_reader_that_wished_to_leave_leaves(stage: Stage) {
    let mut slow = slow(&stage, SlowReader::Disconnect).await;
    assert!(slow.next().await.is_none());
    assert!(slow.next().await.is_none());
    let mut again = open(&stage.events, Position::After(slow.cursor())).await;
    assert_eq!(number(&mut again).await, 0);
}

async fn no_payload_and_no_panic_ends_a_subscription(stage: Stage) {
    let mut subscription = open(&stage.events, Position::Now).await;
    let handled = open(&stage.events, Position::Now).await;
    publish(&stage.peer, 1).await;
    let text = stage.peer.publish("s", "n", "no number").await.expect("published");
    let bytes = stage.peer.publish_raw("s", "n", "application/octet-stream", &[0, 10, 255]).await;
    let bytes = bytes.expect("published");
    publish(&stage.peer, 2).await;
    assert_eq!(number(&mut subscription).await, 1);
    for (published, content_type) in
        [(text, "application/json"), (bytes, "application/octet-stream")]
    {
        match item(&mut subscription).await {
            Item::Unreadable(what) => {
                assert_eq!(Some(what.raw.cursor()), published.cursor());
                assert_eq!(what.raw.content_type(), content_type);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(number(&mut subscription).await, 2);
    // A handler that panics, at once or after a while, has the next.
    let (seen, mut count) = tokio::sync::mpsc::unbounded_channel();
    let handler = |item: Item<u32>| {
        seen.send(()).expect("somebody counts");
        assert!(!matches!(&item, Item::Event(event) if event.data == 1), "at once");
        async move {
            tokio::task::yield_now().await;
            panic!("{item:?}");
        }
    };
    let counted = async {
        for _ in 0..4 {
            count.recv().await.expect("another one");
        }
    };
    tokio::select! {
        () = handled.for_each(handler) => panic!("it ended"),
        () = counted => {}
    }
}

async fn an_event_says_who_published_it_when_and_in_which_trace(stage: Stage) {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let events = stage.peer.clone().with_source("urn:triage");
    let mut subscription = open(&stage.events, Position::Now).await;
    let published = events.publish("s", "n", &7).schema_version(3).trace(trace).await;
    let Item::Event(event) = item(&mut subscription).await else { panic!("no event") };
    let raw = event.raw();
    assert_eq!(Some(event.cursor()), published.expect("published").cursor());
    assert_eq!((raw.source(), raw.kind(), raw.schema_version()), ("urn:triage", "n", 3));
    assert_eq!(raw.traceparent(), Some(trace));
    assert_eq!(raw.time().as_millis(), stage.clock.unix_time().as_millis());
    assert_eq!((raw.data().as_ref(), raw.content_type()), (b"7".as_slice(), "application/json"));
}

async fn crews_and_the_system_have_scopes_and_metrics_a_topic(stage: Stage) {
    let events = &stage.events;
    for (scope, plain) in [(Events::crew("42"), "crew:42"), (Events::SYSTEM.to_owned(), "system")] {
        let mut heard = stage.peer.subscribe(plain).types(["triage_*"]).open::<u32>().await;
        let heard = heard.as_mut().expect("it opens");
        for (kind, number) in [("other", 1), ("triage_started", 2)] {
            let published = events.publish(&scope, kind, &number).await.expect("published");
            assert!(published.cursor().is_some());
        }
        match heard.next().await {
            Some(Item::Event(event)) => assert_eq!(event.data, 2, "{plain}"),
            other => panic!("{other:?}"),
        }
    }
    let live = stage.peer.live("metrics:orchestrator").expect("a topic");
    let mut heard = live.subscribe::<u32>().await.expect("it listens");
    events.live(Events::METRICS).expect("a topic").publish("n", &3).await.expect("announced");
    match heard.next().await {
        coordinator_events::LiveItem::Event(event) => assert_eq!(event.data, 3),
        other => panic!("{other:?}"),
    }
}

async fn a_key_publishes_once(stage: Stage) {
    let once = async |events: &Events, key: &str| {
        events.publish("s", "n", &1).idempotent(key).await.expect("an answer")
    };
    let first = once(&stage.events, "k").await;
    let Published::New(cursor) = first else { panic!("{first:?}") };
    for events in [&stage.events, &stage.peer] {
        let again = once(events, "k").await;
        assert_eq!(again, Published::Duplicate(bare(cursor)));
    }
    let all = join_all((0..20).map(|_| once(&stage.peer, "l"))).await;
    assert_eq!(all.iter().filter(|one| matches!(one, Published::New(_))).count(), 1);
    stage.elapse(Events::IDEMPOTENCY).await;
    assert!(matches!(once(&stage.events, "k").await, Published::New(_)));
}

async fn a_publisher_may_be_fenced_to_an_epoch(stage: Stage) {
    let first = publish(&stage.events, 1).await;
    let fenced = async || stage.peer.publish("s", "n", &2).fenced(first).await.expect("an answer");
    assert!(matches!(fenced().await, Published::New(_)));
    stage.elapse(Duration::from_hours(26)).await;
    let anew = publish(&stage.events, 3).await;
    assert!(anew.epoch() > first.epoch());
    assert_eq!(fenced().await, Published::Fenced { epoch: anew.epoch() });
    assert_eq!(stage.events.position("s").await.expect("an answer"), anew);
}

async fn what_is_to_last_for_ever_is_published_and_worked_on(stage: Stage) {
    let ever = Duration::MAX;
    let events = stage.events.clone().with_retention(u64::MAX, ever).with_idempotency(ever);
    for expected in [true, false] {
        let published = events.publish("s", "n", &7).idempotent("k").await.expect("published");
        assert_eq!(matches!(published, Published::New(_)), expected);
    }
    let group = events.group("s", "g").expect("a group").with_ttl(ever).with_lease(ever);
    let mut one = group.consumer("one").await.expect("a consumer");
    let delivery = work(&mut one).await;
    assert_eq!(delivery.extend().await.expect("an answer"), Settled::Done);
    assert_eq!(delivery.retry_after(ever, "later").await.expect("an answer"), Settled::Done);
    let status = group.status().await.expect("an answer").expect("it is there");
    assert_eq!((status.pending, status.due), (1, 0));
}

async fn what_cannot_be_is_refused_before_it_is_sent(stage: Stage) {
    let events = stage.events.clone().with_max_payload(100);
    for (scope, kind) in [("", "n"), ("s", ""), ("s", "a\nb"), ("s", "a\rb"), ("s", "a\0b")] {
        let refused = events.publish(scope, kind, &1).await.expect_err("it is refused");
        assert_eq!(refused.kind(), ErrorKind::Misuse, "{scope:?} {kind:?}");
    }
    let long = "x".repeat(99);
    let refused = events.publish("s", "n", &long).await.expect_err("it is refused");
    assert_eq!(refused.kind(), ErrorKind::Misuse);
    let refused = events.publish("s", "n", &1).trace("a\r\nb").await;
    assert_eq!(refused.expect_err("it is refused").kind(), ErrorKind::Misuse);
    let refused = events.live("t").expect("a topic").publish("n", &long).await;
    assert_eq!(refused.expect_err("it is refused").kind(), ErrorKind::Misuse);
    assert_eq!(stage.events.position("s").await.expect("an answer"), Cursor::START);
    let types = stage.events.subscribe("s").types([""]);
    assert_eq!(types.open::<u32>().await.expect_err("no type").kind(), ErrorKind::Misuse);
    // Names of all kinds are names.
    for scope in ["crew:{42}", "a*b?c[d]", "line\r\nbreak\0", "🦀", &"x".repeat(512)] {
        let mut subscription = events.subscribe(scope).open::<u32>().await.expect("it opens");
        assert!(events.publish(scope, "t\u{e9}", &5).await.is_ok(), "{scope:?}");
        assert_eq!(number(&mut subscription).await, 5);
    }
}

async fn many_readers_share_what_one_subscription_hears(stage: Stage) {
    let mut readers = Vec::new();
    for _ in 0..200 {
        readers.push(open(&stage.events, Position::Now).await);
    }
    for number in 0..50 {
        publish(&stage.peer, number).await;
    }
    for reader in &mut readers {
        for expected in 0..50 {
            assert_eq!(number(reader).await, expected);
        }
    }
}

async fn a_dropped_read_loses_nothing(stage: Stage) {
    let mut subscription = open(&stage.events, Position::Earliest).await;
    let publisher = async {
        for number in 0..300 {
            publish(&stage.peer, number).await;
        }
    };
    let reader = async {
        let mut expected = 0;
        while expected < 300 {
            // Polled once, and dropped.
            let read = tokio::select! {
                biased;
                item = subscription.next() => item,
                () = tokio::task::yield_now() => continue,
            };
            match read {
                Some(Item::Event(event)) => assert_eq!(event.data, expected),
                other => panic!("{other:?}"),
            }
            expected += 1;
        }
    };
    let both = async { tokio::join!(publisher, reader) };
    tokio::time::timeout(LONG, both).await.expect("in time");
}

async fn live_topics_count_what_they_do_not_deliver(stage: Stage) {
    let topic = stage.peer.live(Events::METRICS).expect("a topic");
    topic.publish("unheard", &0).await.expect("announced");
    let live = stage.events.live(Events::METRICS).expect("a topic");
    let mut subscription = live.subscribe::<u32>().await.expect("it listens");
    for number in 1..100_u32 {
        topic.publish("n", &number).await.expect("announced");
    }
    for expected in 1..100 {
        match subscription.next().await {
            LiveItem::Event(event) => assert_eq!(event.data, expected),
            other => panic!("{other:?}"),
        }
    }
    topic.publish("n", "no number").await.expect("announced");
    assert!(matches!(subscription.next().await, LiveItem::Unreadable(_)));
    // More than wait for a slow listener.
    let announced: u64 = 20_000;
    for chunk in 0..200_u64 {
        let publishes = (0..100).map(|number| {
            let topic = &topic;
            async move { topic.publish("n", &(chunk * 100 + number)).await }
        });
        for published in join_all(publishes).await {
            published.expect("announced");
        }
    }
    let (mut heard, mut lost) = (0, 0);
    while heard + lost < announced {
        match tokio::time::timeout(LONG, subscription.next()).await.expect("in time") {
            LiveItem::Event(_) => heard += 1,
            LiveItem::Lost(Lost::Exactly(count)) => lost += count,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard + lost, announced);
    assert!(lost > 0, "nothing was lost: nothing was counted");
}

async fn work(consumer: &mut coordinator_events::Consumer) -> coordinator_events::Delivery<u32> {
    match tokio::time::timeout(LONG, consumer.next()).await.expect("work in time") {
        Ok(Work::Delivery(delivery)) => delivery,
        other => panic!("{other:?}"),
    }
}

async fn each_event_of_a_group_goes_to_one_consumer(stage: Stage) {
    for number in 0..100 {
        publish(&stage.peer, number).await;
    }
    let group = |events: &Events| events.group("s", "g").expect("a group").with_batch(2);
    let mut one = group(&stage.events).consumer("one").await.expect("a consumer");
    let mut two = group(&stage.peer).consumer("two").await.expect("a consumer");
    let mut seen = Vec::new();
    for _ in 0..50 {
        for consumer in [&mut one, &mut two] {
            let delivery = work(consumer).await;
            assert_eq!(delivery.attempt(), 1);
            seen.push(delivery.data);
            assert_eq!(delivery.ack().await.expect("an answer"), Settled::Done);
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
    let status = group(&stage.events).status().await.expect("an answer").expect("it is there");
    assert_eq!((status.pending, status.dead, status.lag), (0, 0, Some(0)));
    // Whoever waits is woken.
    let published = async {
        tokio::task::yield_now().await;
        publish(&stage.peer, 100).await;
    };
    let (delivery, ()) = tokio::join!(work(&mut one), published);
    assert_eq!(delivery.data, 100);
}

async fn a_delivery_comes_again_until_it_is_settled(stage: Stage) {
    publish(&stage.peer, 7).await;
    let group = stage.events.group("s", "g").expect("a group").with_lease(SECOND);
    let group = group.with_max_deliveries(3);
    let mut one = group.consumer("one").await.expect("a consumer");
    let first = work(&mut one).await;
    for _ in 0..3 {
        // As long as it is renewed, it is one's.
        stage.elapse(SECOND / 2).await;
        assert_eq!(first.extend().await.expect("an answer"), Settled::Done);
    }
    stage.elapse(SECOND).await;
    let mut two = group.consumer("two").await.expect("a consumer");
    let second = work(&mut two).await;
    assert_eq!((second.data, second.attempt()), (7, 2));
    let retried = second.retry_after(SECOND * 5, "not now").await.expect("an answer");
    assert_eq!(retried, Settled::Done);
    stage.elapse(SECOND * 5).await;
    let third = work(&mut two).await;
    assert_eq!(third.attempt(), 3);
    assert_eq!(third.retry("never").await.expect("an answer"), Settled::Buried);
    let letters = group.dead_letters(0).await.expect("an answer");
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].reason.as_str(), letters[0].consumer.as_str()), ("never", "two"));
    assert_eq!((letters[0].event.kind(), letters[0].deliveries), ("n", 3));
    let cursor = letters[0].event.cursor();
    assert!(group.requeue(cursor).await.expect("an answer"));
    let mut three = group.consumer("three").await.expect("a consumer");
    let again = work(&mut three).await;
    assert_eq!((again.data, again.attempt()), (7, 1));
    // Whoever had it in the life before cannot end this one.
    assert_eq!(first.ack().await.expect("an answer"), Settled::Gone);
    assert_eq!(again.bury("no").await.expect("an answer"), Settled::Buried);
    assert!(group.discard(cursor).await.expect("an answer"));
    assert!(group.dead_letters(0).await.expect("an answer").is_empty());
}

async fn a_group_that_came_too_late_is_told(stage: Stage) {
    let mut cursors = Vec::new();
    for number in 0..10 {
        cursors.push(publish(&stage.peer, number).await);
    }
    let group = stage.events.group("s", "g").expect("a group").with_batch(2);
    let mut one = group.consumer("one").await.expect("a consumer");
    for expected in 0..2 {
        let delivery = work(&mut one).await;
        assert_eq!(delivery.data, expected);
        assert_eq!(delivery.ack().await.expect("an answer"), Settled::Done);
    }
    stage.peer.trim("s", cursors[4]).await.expect("an answer");
    match one.next::<u32>().await {
        Ok(Work::Gap(gap)) => {
            assert_eq!((gap.lost, gap.reason), (Lost::Exactly(3), GapReason::Trimmed));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(work(&mut one).await.data, 5);
    // A group that is to begin there, too.
    let group = stage.events.group("s", "h").expect("a group").beginning_after(cursors[1]);
    match group.consumer("one").await.expect("a consumer").next::<u32>().await {
        Ok(Work::Gap(gap)) => {
            assert_eq!((gap.lost, gap.reason), (Lost::Exactly(3), GapReason::Trimmed));
        }
        other => panic!("{other:?}"),
    }
}

async fn a_group_that_begins_now_misses_nothing_from_then_on(stage: Stage) {
    publish(&stage.peer, 0).await;
    let group = stage.events.group("s", "g").expect("a group").beginning_now();
    let mut one = group.consumer("one").await.expect("a consumer");
    publish(&stage.peer, 1).await;
    assert_eq!(work(&mut one).await.data, 1);
}

async fn work_that_waited_too_long_behind_other_work_is_not_done_twice(stage: Stage) {
    for number in 0..3 {
        publish(&stage.peer, number).await;
    }
    let group = stage.events.group("s", "g").expect("a group").with_lease(SECOND);
    let mut one = group.consumer("one").await.expect("a consumer");
    assert_eq!(work(&mut one).await.data, 0);
    stage.elapse(SECOND).await;
    let mut two = group.consumer("two").await.expect("a consumer");
    for expected in 0..3 {
        let delivery = work(&mut two).await;
        assert_eq!((delivery.data, delivery.attempt()), (expected, 2));
        assert_eq!(delivery.ack().await.expect("an answer"), Settled::Done);
    }
    publish(&stage.peer, 3).await;
    assert_eq!(work(&mut one).await.data, 3);
}

async fn a_handler_that_fails_or_panics_has_its_event_again(stage: Stage) {
    publish(&stage.peer, 1).await;
    publish(&stage.peer, 2).await;
    let group = stage.events.group("s", "g").expect("a group");
    let group = group.with_max_deliveries(2).with_backoff(Duration::ZERO, Duration::ZERO);
    let consumer = group.consumer("one").await.expect("a consumer");
    let (seen, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let handler = |given: coordinator_events::Delivered<u32>| {
        let seen = seen.clone();
        async move {
            seen.send((given.data, given.attempt)).expect("somebody counts");
            match (given.data, given.attempt) {
                (1, _) => panic!("as it always does"),
                (_, 1) => Err("not yet"),
                _ => Ok(()),
            }
        }
    };
    let watched = async {
        let mut all = Vec::new();
        while all.len() < 4 {
            all.push(heard.recv().await.expect("another one"));
        }
        // The last has to be settled yet.
        loop {
            // What is due is looked for by the clock.
            stage.clock.advance(SECOND);
            let status = group.status().await.expect("an answer").expect("it is there");
            if (status.pending, status.dead) == (0, 1) {
                return all;
            }
        }
    };
    let all = tokio::select! {
        ended = consumer.run(handler) => panic!("it ended: {ended:?}"),
        all = watched => all,
    };
    let mut sorted = all;
    sorted.sort_unstable();
    assert_eq!(sorted, [(1, 1), (1, 2), (2, 1), (2, 2)]);
    let letters = group.dead_letters(0).await.expect("an answer");
    assert_eq!(letters[0].reason, "the handler panicked");
}

async fn what_cannot_be_decoded_is_a_dead_letter(stage: Stage) {
    assert!(stage.peer.publish("s", "n", "no number").await.is_ok());
    publish(&stage.peer, 1).await;
    let group = stage.events.group("s", "g").expect("a group");
    let mut one = group.consumer("one").await.expect("a consumer");
    assert_eq!(work(&mut one).await.data, 1);
    let letters = group.dead_letters(0).await.expect("an answer");
    assert_eq!(letters.len(), 1);
    assert!(letters[0].reason.starts_with("unreadable: "), "{}", letters[0].reason);
}

async fn what_there_is_at_once_is_taken_without_waiting_for_more(stage: Stage) {
    for number in 0..3 {
        publish(&stage.peer, number).await;
    }
    let group = stage.events.group("s", "g").expect("a group").with_batch(2);
    let mut one = group.consumer("one").await.expect("a consumer");
    for expected in [&[0, 1][..], &[2], &[]] {
        let mut seen = Vec::new();
        for work in one.at_once::<u32>().await.expect("an answer") {
            let Work::Delivery(delivery) = work else { panic!("{work:?}") };
            seen.push(delivery.data);
            assert_eq!(delivery.ack().await.expect("an answer"), Settled::Done);
        }
        assert_eq!(seen, expected);
    }
    // What cannot be decoded is nothing to work on, and waits for nobody.
    assert!(stage.peer.publish("s", "n", "no number").await.is_ok());
    assert!(one.at_once::<u32>().await.expect("an answer").is_empty());
    assert_eq!(group.dead_letters(0).await.expect("an answer").len(), 1);
}
